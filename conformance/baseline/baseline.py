"""Baselines: the outcome of a real selector in every cell of the grid, in a small text file.

docs/baselines.md describes the format. A file holds no time, no path and nothing of the machine:
recording the same selector again gives the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shlex
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from pytest_rocm_attn.conformance.promise.grid import design, diagram
from pytest_rocm_attn.conformance.promise.grid.outcomes import Table, in_order
from pytest_rocm_attn.errors import BaselineError, nearest
from pytest_rocm_attn.outcome import from_wire, to_wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.conformance.promise.grid.space import Grid
    from pytest_rocm_attn.outcome import Outcome

FORMAT = "pytest-rocm-attn baseline"
SCHEMA = 1
_MOST_BYTES = 10_000_000  # a real one has some kilobytes: what is larger is not a baseline


@dataclass(frozen=True)
class Baseline:
    """A recording.

    Attributes:
        id: what it is called on the command line: the file's name without its suffix.
        selector: what was asked, ``module:object``.
        distribution: where that came from, such as "vllm"; None if it is not a distribution.
        version: of the distribution.
        tool: the version of this package that recorded it.
        grid: the name of the grid.
        grid_digest: what tells that grid from every other.
        sources: what was recorded, by name: "sha256:..." of a wheel or of a file.
        tables: family -> the outcome of each cell.
    """

    id: str
    selector: str
    distribution: str | None
    version: str | None
    tool: str
    grid: str
    grid_digest: str
    sources: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)

    def require(self, grid: Grid) -> None:
        """Make sure that the recording is over this grid.

        Raises:
            BaselineError: it is over another one.
        """
        if self.grid_digest != grid.digest:
            raise BaselineError(
                f"baseline {self.id} was recorded over grid {self.grid} ({self.grid_digest}), and this"
                f" version of pytest-rocm-attn has {grid.name} ({grid.digest}); record it again:"
                f" python -m pytest_rocm_attn record {shlex.quote(self.selector)} --output FILE"
            )

    def __str__(self) -> str:
        return " ".join(part for part in (self.distribution, self.version) if part) or self.id


@dataclass(frozen=True)
class Shipped:
    """A shipped recording over the standard grid, read when it is first looked at.

    Attributes:
        id: its name, one of shipped().
    """

    id: str

    @functools.cached_property
    def tables(self) -> Mapping[str, Table]:
        """Family -> the outcome of each cell.

        Raises:
            BaselineError: as load(), or it is over another grid.
        """
        found = load(self.id)
        found.require(design.standard())
        return found.tables


def shipped() -> tuple[str, ...]:
    """Return the ids of the baselines that this distribution carries, oldest release first."""
    names = (path.name for path in files("pytest_rocm_attn.conformance.baselines").iterdir())
    ids = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    return tuple(sorted(ids, key=_version_key))


def _version_key(baseline_id: str) -> list[tuple[int, str]]:
    parts = baseline_id.replace("-", ".").split(".")
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def load(id_or_path: str, grid: Grid | None = None) -> Baseline:
    """Read a baseline.

    Args:
        id_or_path: a shipped id, else the path of a .json file.
        grid: the grid that tables are wanted of; when None, the one that the file names.

    Raises:
        BaselineError: there is no such baseline, or the file is not one, is damaged, was changed,
            or is of a newer version; one line with the remedy.
    """
    if id_or_path in shipped():
        path = Path(str(files("pytest_rocm_attn.conformance.baselines"))) / f"{id_or_path}.json"
    else:
        path = Path(id_or_path)
        if path.suffix != ".json" and not path.exists():
            raise BaselineError(
                f"no baseline {id_or_path!r}.{nearest(id_or_path, shipped())} Shipped:"
                f" {', '.join(shipped())}; or give the path of a .json file that"
                " `rocm-attn record` wrote"
            )
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        _fail(id_or_path, f"cannot be read ({error.strerror})", "check the path")
    return read(content, id_or_path, path.name.removesuffix(".json"), grid)


# --- writing --------------------------------------------------------------------------------------


def render(baseline: Baseline, grid: Grid) -> bytes:
    """Return the file of a baseline whose tables are over this grid."""
    used = {table.outcomes[code] for table in baseline.tables.values() for code in set(table.codes)}
    outcomes = in_order(used)
    numbers = {outcome: number for number, outcome in enumerate(outcomes)}
    families = {}
    for family in grid.families:
        table = baseline.tables[family.name]
        # Codes that no cell has may stand for anything.
        new = [numbers.get(outcome, 0) for outcome in table.outcomes]
        families[family.name] = diagram.encode([new[code] for code in table.codes], family.sizes)
    content: dict[str, Any] = {
        "format": FORMAT,
        "schema": SCHEMA,
        "digest": "",
        "tool": baseline.tool,
        "grid": {"name": grid.name, "digest": grid.digest},
        "selector": {
            "name": baseline.selector,
            "distribution": baseline.distribution,
            "version": baseline.version,
        },
        "sources": dict(sorted(baseline.sources.items())),
        "outcomes": [to_wire(outcome) for outcome in outcomes],
        "families": families,
    }
    content["digest"] = _digest(content)
    return (json.dumps(content, indent=1, ensure_ascii=True) + "\n").encode()


def _digest(content: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != "digest"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


# --- reading --------------------------------------------------------------------------------------


class _GridName(msgspec.Struct):
    name: str
    digest: str


class _Selector(msgspec.Struct):
    name: str
    distribution: str | None
    version: str | None


class _File(msgspec.Struct):
    digest: str
    tool: str
    grid: _GridName
    selector: _Selector
    sources: dict[str, str]
    outcomes: list[list[str | int | float | None]]
    families: dict[str, list[list[str]]]


def _fail(name: str, wrong: str, remedy: str) -> NoReturn:
    raise BaselineError(f"baseline {name}: {wrong}; {remedy}".replace("\n", " ")) from None


def read(content: bytes, name: str, baseline_id: str, grid: Grid | None = None) -> Baseline:
    """Return the baseline that a file holds.

    If it was recorded over another grid, or over one that this version does not have, it has no
    tables, and require() says so.

    Args:
        content: the file.
        name: what the user called it, for messages.
        baseline_id: what it is called from now on.
        grid: the grid that tables are wanted of; when None, the one that the file names.

    Raises:
        BaselineError: as load().
    """
    again = "restore the file, or record it again with `rocm-attn record`"
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        if FORMAT.encode() in content[:200]:
            _fail(name, "is truncated or damaged", again)
        _fail(
            name, "is not a baseline", "give a file that `rocm-attn record` wrote, or a shipped id"
        )
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        _fail(
            name, "is not a baseline", "give a file that `rocm-attn record` wrote, or a shipped id"
        )
    schema = found.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        _fail(
            name,
            f"has schema {schema}, and this version reads schema {SCHEMA}",
            "upgrade pytest-rocm-attn",
        )
    if schema != SCHEMA or found.get("digest") != _digest(found):
        _fail(name, "was changed after it was recorded (its digest does not match)", again)
    try:
        file = msgspec.convert(found, _File)
        outcomes = [from_wire(outcome) for outcome in file.outcomes]
        grids = design.known() if grid is None else (grid,)
        over = next((one for one in grids if one.digest == file.grid.digest), None)
        tables = _tables(file, outcomes, over) if over is not None else {}
    except (msgspec.ValidationError, ValueError, TypeError, KeyError) as error:
        _fail(name, f"does not hold what a recording holds ({error})", again)
    return Baseline(
        id=baseline_id,
        selector=file.selector.name,
        distribution=file.selector.distribution,
        version=file.selector.version,
        tool=file.tool,
        grid=file.grid.name,
        grid_digest=file.grid.digest,
        sources=file.sources,
        tables=tables,
    )


def _tables(file: _File, outcomes: list[Outcome], grid: Grid) -> dict[str, Table]:
    if file.families.keys() != {family.name for family in grid.families}:
        raise ValueError("other families than its grid's")
    return {
        family.name: Table(
            diagram.decode(file.families[family.name], family.sizes, len(outcomes)), outcomes
        )
        for family in grid.families
    }
