"""Contracts: what a selector must answer, as rows that people write by hand in TOML.

A contract is a folder of TOML files (shipped ones lie in ``contracts/<id>/``), or a single file.
docs/contracts.md describes the format for people who write one.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.promise import capability_table, contract_file, history
from pytest_rocm_attn.conformance.promise.history import KnownDefect
from pytest_rocm_attn.conformance.promise.naming import Named
from pytest_rocm_attn.conformance.promise.release import FIRST, LAST, Release
from pytest_rocm_attn.conformance.promise.rows import Row, RowOnGpu
from pytest_rocm_attn.conformance.promise.toml_file import Place, convert, entries, read_toml
from pytest_rocm_attn.conformance.promise.upstream import ORIGINAL
from pytest_rocm_attn.errors import ContractError, nearest
from pytest_rocm_attn.flags import EXPLICIT
from pytest_rocm_attn.registry import EVERY_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_rocm_attn.conformance.promise.grid.rules import Rule
    from pytest_rocm_attn.conformance.promise.upstream import Upstream

# In a contract's folder: rules about the grid, read by promise/grid/rules.py.
GRID_FILE = "grid.toml"


@dataclass(frozen=True, slots=True)
class Contract:
    """A named set of rows and the document they were written from.

    Besides its rows it may say, in ``[[capability]]`` entries, what each backend can do.

    Args:
        id: its name.
        title: one line.
        source: the document.
        rows: the rows.
        capabilities: what each backend can do.
        folder: where its files lie; None for a contract of one file. Rules about the grid lie there.
        defects: known defects of releases, in a contract by age.
        by_age: its rows hold from release to release, and a run judges by those of one.
        upstream: that release, once at() has chosen it.
        ended: the rows of earlier releases that it has changed on purpose.
        grids: until which release the rules about the grid are those of another folder.
        relatives: target -> one that has rows, whose promises by family hold on it too.
    """

    id: str
    title: str
    source: str
    rows: tuple[Row, ...]
    capabilities: tuple[capability_table.Promise, ...] = ()
    folder: Path | None = None
    defects: tuple[KnownDefect, ...] = ()
    by_age: bool = False
    upstream: Upstream | None = None
    ended: tuple[Row, ...] = ()
    grids: tuple[tuple[Release, Path], ...] = ()
    relatives: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def cells(self, gpus: Sequence[str] = ()) -> tuple[RowOnGpu, ...]:
        """Return the rows on each of these targets, or on all that have rows.

        A target without rows of its own has those that are promised by family on a relative of it.
        """
        cells = [cell for row in self.rows for cell in row.cells()]
        own = {cell.gpu.gfx for cell in cells}
        lent = {
            gfx: self.relatives[gfx] for gfx in gpus if gfx in self.relatives and gfx not in own
        }
        cells += [
            RowOnGpu(cell.row, replace(cell.gpu, gfx=gfx))
            for gfx, relative in lent.items()
            for cell in cells
            if cell.row.by_family and cell.gpu.gfx == relative
        ]
        return tuple(cell for cell in cells if not gpus or cell.gpu.gfx in gpus)

    def at(self, upstream: Upstream) -> Contract:
        """Return what one release promises, its known defects, and what it changed on purpose."""
        meant = upstream.release
        defects = tuple(one for one in self.defects if one.since <= meant < one.until)
        rows = tuple(row for row in self.rows if row.holds_in(meant))
        if not upstream.inherited:  # what only shows a defect of that release is not for others
            rows = tuple(row for row in rows if row.level == "required" or not _shows(row, defects))
        return replace(
            self,
            rows=rows,
            defects=defects if upstream.inherited else (),
            upstream=upstream,
            ended=tuple(row for row in self.rows if row.until <= meant),
        )

    @property
    def grid_folder(self) -> Path | None:
        """The folder of the rules about the grid: that of the contract that fixes them for this release."""
        meant = self.upstream.release if self.upstream else LAST
        return next((folder for until, folder in self.grids if meant < until), self.folder)

    @property
    def is_original(self) -> bool:
        """Whether the text of PR #26980 is what counts, alone or as the release that merged it."""
        if self.by_age:
            return self.upstream is not None and self.upstream.release == ORIGINAL
        return self.id == _ORIGINAL_ID


def _shows(row: Row, defects: tuple[KnownDefect, ...]) -> bool:
    return any(defect.is_about(row.id, gpu.gfx) for defect in defects for gpu in row.gpus)


def shipped() -> tuple[str, ...]:
    """Return the ids of the contracts that this distribution carries."""
    return tuple(sorted(file.parent.name for file in _shipped_folder().glob("*/contract.toml")))


def load(id_or_path: str) -> Contract:
    """Read a contract.

    Args:
        id_or_path: a shipped id, else the path of a .toml file or of a folder of them.

    Raises:
        ContractError: there is no such contract, or its files hold a mistake. One line that names
            file, row, field, what is wrong and the remedy.
    """
    if id_or_path in shipped():
        return _load_shipped(_shipped_folder() / id_or_path)
    path = Path(id_or_path)
    if path.is_dir():
        return _load_folder(path)
    if path.suffix != ".toml" and not path.exists():
        raise ContractError(
            f"no contract {id_or_path!r}.{nearest(id_or_path, shipped())} Shipped:"
            f" {', '.join(shipped())}; or give the path of a .toml file or of a folder of them"
        )
    return _load_file(path)


def rules_of(the_contract: Contract) -> tuple[Rule, ...]:
    """Return what a contract fixes about the grid.

    Raises:
        ContractError: its file holds a mistake.
    """
    from pytest_rocm_attn.conformance.promise.grid import (  # with the tables of the grid
        design,
        rules,
    )

    folder = the_contract.grid_folder
    if folder is None:
        return ()
    file = folder / GRID_FILE
    found = rules.load(file)
    rules.check_each_decides(found, design.standard().slices, file)
    return found


def _shipped_folder() -> Path:
    return Path(str(files("pytest_rocm_attn.conformance.promise.contracts")))


_ENTRIES = ("case", "capability")
_HISTORY = ("ended", "defect")  # in a contract by age too
_ORIGINAL_ID = "pr-26980"


# --- files ----------------------------------------------------------------------------------------


@functools.cache
def _load_shipped(folder: Path) -> Contract:
    """Read a contract whose files do not change while a process runs: others include it several times."""
    return _load_folder(folder)


def _load_folder(folder: Path) -> Contract:
    head_place = Place(ContractError, folder / "contract.toml")
    head = convert(
        read_toml(head_place)[1], contract_file.Head, contract_file.HEAD_FIELDS, head_place
    )
    found = _Entries(head, head_place)
    keys = (*_ENTRIES, *_HISTORY) if head.by_age else _ENTRIES
    for path in sorted(folder.glob("*.toml")):
        if path.name not in (head_place.file.name, GRID_FILE):
            place = Place(ContractError, path)
            table = read_toml(place)[1]
            place.check_keys(table, keys, "")
            found.add(table, place)
    return replace(found.contract(), folder=folder)


def _load_file(path: Path) -> Contract:
    place = Place(ContractError, path)
    table = read_toml(place)[1]
    place.check_keys(table, (*_ENTRIES, *_HISTORY, *contract_file.HEAD_FIELDS), "")
    given = {key: value for key, value in table.items() if key not in (*_ENTRIES, *_HISTORY)}
    unnamed = {"id": path.stem, "title": path.stem, "source": path.name}
    head = convert(unnamed | given, contract_file.Head, contract_file.HEAD_FIELDS, place)
    found = _Entries(head, place)
    found.add(table, place)
    return found.contract()


class _Entries:
    """What a contract holds, as its files are read."""

    def __init__(self, head: contract_file.Head, place: Place) -> None:
        if not head.by_age and (head.includes or head.gpus):
            field = "includes" if head.includes else "gpus"
            place.fail(field, "belongs to a contract by age", "write by_age = true, or remove it")
        self._head = head
        self._place = place
        self._rows: list[Row] = []
        self._capabilities: list[capability_table.Promise] = []
        self._defects: list[KnownDefect] = []
        self._taken: dict[str, dict[str, Path]] = {key: {} for key in (*_ENTRIES, *_HISTORY)}
        self._grids = tuple(
            (history.release_of(until, f"grid.{name}", LAST, place), folder)
            for name, until in head.grid.items()
            if (folder := load(name).folder) is not None
        )
        for name in head.includes:
            self._capabilities += load(name).capabilities
        self._included = [
            replace(
                _by_name(row), since=history.release_of(since, f"includes.{name}", FIRST, place)
            )
            for name, since in head.includes.items()
            for row in load(name).rows
        ]

    def add(self, table: Mapping[str, Any], place: Place) -> None:
        head = self._head
        taken = None if head.by_age else self._taken["case"]
        for case, here in entries(
            table,
            "case",
            contract_file.Entry,
            contract_file.ENTRY_FIELDS,
            place,
            word="row",
            taken=taken,
        ):
            rows = contract_file.rows(case, head, here)
            for row in rows:
                self._check_age(row, here)
            self._rows += rows
        self._capabilities += capability_table.read(table, place, self._taken["capability"])
        self._included = history.ended(self._included, table, place)
        self._defects += history.defects(table, place, self._taken["defect"])

    def _check_age(self, row: Row, place: Place) -> None:
        """Refuse two rows of one id that hold in the same release."""
        for other in (*self._rows, *self._included):
            if other.id == row.id and other.since < row.until and row.since < other.until:
                place.fail(
                    "id",
                    f"{row.id!r} is taken by a row in {other.file} for some of the same releases",
                    "give one of them another id, or other releases",
                )

    def contract(self) -> Contract:
        head, rows = self._head, [*self._included, *self._rows]
        if not rows:
            self._place.fail("case", "the contract holds no rows", "write at least one [[case]]")
        return Contract(
            head.id,
            head.title,
            head.source,
            tuple(rows),
            tuple(self._capabilities),
            defects=tuple(self._defects),
            by_age=head.by_age,
            grids=self._grids,
            relatives={gfx: one for one, others in head.relatives.items() for gfx in others},
        )


def _by_name(row: Row) -> Row:
    """Return a row that names a backend by the variable as one that says what is named."""
    name = row.env.get(EXPLICIT)
    if name not in EVERY_NAME:
        return replace(row, named=Named())
    rest = {variable: text for variable, text in row.env.items() if variable != EXPLICIT}
    return replace(row, env=rest, named=Named(name))
