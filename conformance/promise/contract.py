"""Contracts: what a selector must answer, as rows that people write by hand in TOML.

A contract is a folder of TOML files (shipped ones lie in ``contracts/<id>/``), or a single file.
docs/contracts.md describes the format for people who write one.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from pytest_rocm_attn.conformance.promise import capability_table, history
from pytest_rocm_attn.conformance.promise.history import Defect
from pytest_rocm_attn.conformance.promise.mentions import is_blank
from pytest_rocm_attn.conformance.promise.naming import ASKED, GDN_PREFILL, Asked, Named
from pytest_rocm_attn.conformance.promise.reasons import Reason
from pytest_rocm_attn.conformance.promise.release import FIRST, LAST, Release
from pytest_rocm_attn.conformance.promise.toml_file import Place, convert, entries, read_toml
from pytest_rocm_attn.conformance.promise.toml_request import request_from
from pytest_rocm_attn.conformance.promise.upstream import ORIGINAL
from pytest_rocm_attn.errors import (
    ContractError,
    FlagError,
    UnknownBackendError,
    UnknownGpuError,
    nearest,
)
from pytest_rocm_attn.flags import EXPLICIT, VARIABLES
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.registry import EVERY_NAME, check_name
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_rocm_attn.conformance.promise.grid.rules import Rule
    from pytest_rocm_attn.conformance.promise.upstream import Upstream

# "observed": what only the code of a release says; "advice": valid, but upstream has something better.
Level: TypeAlias = Literal["required", "advisory", "observed", "advice"]
# What a row's source is: document, pull request, upstream test, recipe; a comment in the code that
# states an intent, the code alone. Only the first four can require something.
Grade: TypeAlias = Literal["D", "P", "T", "R", "K", "W"]
REQUIRING: tuple[Grade, ...] = ("D", "P", "T", "R")
GRID_FILE = (
    "grid.toml"  # in a contract's folder: rules about the grid, read by promise/grid/rules.py
)


@dataclass(frozen=True, slots=True)
class ExpectBackend:
    """The selector must answer with this backend, by its registry name."""

    backend: str

    def __str__(self) -> str:
        return self.backend


@dataclass(frozen=True, slots=True)
class ExpectRefusal:
    """The selector must refuse, for these reasons, with a message that mentions these words.

    Attributes:
        mentions: the words (mentions.py): what only a word can say, such as a backend's name.
        reasons: the reasons, whatever their words.
    """

    mentions: tuple[str, ...]
    reasons: tuple[Reason, ...] = ()

    def __str__(self) -> str:
        why = f" for {' and '.join(self.reasons)}" if self.reasons else ""
        said = f" that mentions {', '.join(map(repr, self.mentions))}" if self.mentions else ""
        return f"a refusal{why}{said}"


@dataclass(frozen=True, slots=True)
class ExpectNever:
    """The selector must refuse, or answer with another backend than these."""

    backends: tuple[str, ...]

    def __str__(self) -> str:
        return f"anything but {' or '.join(self.backends)}"


@dataclass(frozen=True, slots=True)
class ExpectServed:
    """The selector must answer with a backend, whichever it is."""

    def __str__(self) -> str:
        return "a backend"


Expect: TypeAlias = ExpectBackend | ExpectRefusal | ExpectNever | ExpectServed


@dataclass(frozen=True, slots=True)
class Row:
    """One promise of a contract.

    Args:
        id: kebab-case, unique in the contract, reads like a sentence.
        source: the clause it was written from.
        level: "required", or "advisory" for what goes beyond the contract's text; in a contract by
            age "observed" or "advice" too.
        env: the environment variables that are set, as text; all other variables are unset.
        gpus: the targets that the promise holds on, all with the same state of aiter.
        request: what the attention layer needs.
        expect: the backend, or a refusal.
        file: the file that holds the row.
        note: why, where the source alone does not say it.
        named: what the user names; None in a contract that names backends by its variable.
        since: the first release that promises it.
        until: the first one that no longer does.
        by: what ended it: a pull request or a document.
        why: what that changed, in a few words.
        by_family: it is promised on every GPU, or on a family of them, of which `gpus` are some.
    """

    id: str
    source: str
    level: Level
    env: Mapping[str, str]
    gpus: tuple[Gpu, ...]
    request: Request
    expect: Expect
    file: str
    note: str = ""
    named: Named | None = None
    since: Release = FIRST
    until: Release = LAST
    by: str = ""
    why: str = ""
    by_family: bool = False

    def holds_in(self, upstream: Release) -> bool:
        """Say whether a release promises it."""
        return self.since <= upstream < self.until

    def cells(self) -> tuple[Cell, ...]:
        """Return the row on each of its GPUs."""
        return tuple(Cell(self, gpu) for gpu in self.gpus)


@dataclass(frozen=True, slots=True)
class Cell:
    """One row on one GPU: the unit that is run and judged."""

    row: Row
    gpu: Gpu

    @property
    def id(self) -> str:
        """The row's id and, in brackets, the target: "triton-is-the-default[gfx942]"."""
        return f"{self.row.id}[{self.gpu.gfx}]"


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
    defects: tuple[Defect, ...] = ()
    by_age: bool = False
    upstream: Upstream | None = None
    ended: tuple[Row, ...] = ()
    grids: tuple[tuple[Release, Path], ...] = ()
    relatives: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def cells(self, gpus: Sequence[str] = ()) -> tuple[Cell, ...]:
        """Return the rows on each of these targets, or on all that have rows.

        A target without rows of its own has those that are promised by family on a relative of it.
        """
        cells = [cell for row in self.rows for cell in row.cells()]
        own = {cell.gpu.gfx for cell in cells}
        lent = {
            gfx: self.relatives[gfx] for gfx in gpus if gfx in self.relatives and gfx not in own
        }
        cells += [
            Cell(cell.row, replace(cell.gpu, gfx=gfx))
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


def _shows(row: Row, defects: tuple[Defect, ...]) -> bool:
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
        return _load_folder(_shipped_folder() / id_or_path)
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


# --- the schema -----------------------------------------------------------------------------------


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    title: str
    source: str
    by_age: bool = False
    includes: dict[str, str] = {}
    gpus: dict[str, list[str]] = {}
    grid: dict[str, str] = {}
    relatives: dict[str, list[str]] = {}
    backends: list[str] = []
    variables: list[str] = []


class _Platform(msgspec.Struct, forbid_unknown_fields=True):
    gfx: str | list[str]
    aiter: bool | Literal["impostor", "broken"] = True


class _Expect(msgspec.Struct, forbid_unknown_fields=True):
    backend: str | None = None
    rejects: bool | None = None
    mentions: list[str] | None = None
    reasons: list[str] | None = None
    named: bool | None = None
    never: list[str] | None = None
    served: bool | None = None


class _Case(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    source: str
    level: Level
    platform: _Platform
    expect: _Expect
    env: dict[str, object] = {}
    undeclared: list[str] = []
    request: dict[str, object] = {}
    note: str = ""
    grade: Grade | None = None
    named: str | list[str] | None = None
    per_kind: dict[str, str] = {}
    asks: Asked = "layer"
    model: str = ""
    target: str = ""
    since: str = ""
    until: str = ""
    by: str = ""


_HEAD_FIELDS = {
    "id": "the contract's name, such as 'pr-26980'",
    "title": "one line of text",
    "source": "the document that the rows were written from",
    "by_age": "true if rows hold from release to release",
    "includes": "a table of contract = 'release that its rows hold from'",
    "gpus": "a table of name = [targets]",
    "relatives": "a table of target = [targets that its promises by family hold on too]",
    "grid": "a table of contract = 'first release that its rules about the grid no longer hold in'",
    "backends": "a list of what another server than vLLM calls its backends",
    "variables": "a list of variables that another server than vLLM reads",
}
_CASE_FIELDS = {
    "id": "a sentence in kebab-case, such as 'triton-is-the-default'",
    "source": "the clause that the row was written from, as text",
    "level": "'required' or 'advisory'; in a contract by age 'observed' or 'advice' too",
    "grade": "what the source is: 'D'ocument, 'P'ull request, 'T'est, 'R'ecipe, 'K' or 'W'",
    "named": "what the user names, as text, or a list: a row for each",
    "per_kind": "a table of kind = 'NAME'",
    "model": "a model's package or module below vLLM's, such as 'models/deepseek_v4/amd'",
    "target": "the backend that is named for the model whose draft is asked about",
    "asks": f"one of {', '.join(ASKED)}",
    "since": "the first release that promises it, such as '0.19.0'",
    "until": "the first release that no longer does, such as '0.33.0'",
    "by": "the pull request or document that ended it",
    "env": "a table of variable = 'text'",
    "undeclared": "a list of variables in env that nothing is known to read",
    "platform": "a table such as { gfx = 'gfx942', aiter = true }",
    "platform.gfx": "a gfx target, or a list of them",
    "platform.aiter": "true, false, 'impostor' or 'broken'",
    "request": "a table of request fields",
    "expect": "{ backend = 'NAME' } or { rejects = true, reasons = ['head-size'] }",
    "expect.named": "true: what is named",
    "expect.never": "a list of backends that must not be the answer",
    "expect.served": "true: any backend",
    "expect.backend": "a backend's name as text",
    "expect.rejects": "true",
    "expect.mentions": "a list of words that a useful refusal holds",
    "expect.reasons": f"a list of {', '.join(Reason)}",
    "note": "text",
}
_AITER = {True: Aiter.PRESENT, False: Aiter.ABSENT}
_ENTRIES = ("case", "capability")
_HISTORY = ("ended", "defect")  # in a contract by age too
_ORIGINAL_ID = "pr-26980"
_KINDS_OF_EXPECT = ("backend", "rejects", "named", "never", "served")
_GRADES = {
    "D": "document",
    "P": "pull request",
    "T": "upstream's test",
    "R": "recipe",
    "K": "a comment in the code",
    "W": "the code alone",
}
_OF_AGE = ("grade", "named", "per_kind", "asks", "model", "target", "since", "until", "by")


# --- files ----------------------------------------------------------------------------------------


def _load_folder(folder: Path) -> Contract:
    head_place = Place(ContractError, folder / "contract.toml")
    head = convert(read_toml(head_place)[1], _Head, _HEAD_FIELDS, head_place)
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
    place.check_keys(table, (*_ENTRIES, *_HISTORY, *_HEAD_FIELDS), "")
    given = {key: value for key, value in table.items() if key not in (*_ENTRIES, *_HISTORY)}
    unnamed = {"id": path.stem, "title": path.stem, "source": path.name}
    head = convert(unnamed | given, _Head, _HEAD_FIELDS, place)
    found = _Entries(head, place)
    found.add(table, place)
    return found.contract()


class _Entries:
    """What a contract holds, as its files are read."""

    def __init__(self, head: _Head, place: Place) -> None:
        if not head.by_age and (head.includes or head.gpus):
            field = "includes" if head.includes else "gpus"
            place.fail(field, "belongs to a contract by age", "write by_age = true, or remove it")
        self._head = head
        self._place = place
        self._rows: list[Row] = []
        self._capabilities: list[capability_table.Promise] = []
        self._defects: list[Defect] = []
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
            table, "case", _Case, _CASE_FIELDS, place, word="row", taken=taken
        ):
            rows = _aged(case, head, here) if head.by_age else [_timeless(case, head, here)]
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
                    f"{row.id!r} is taken, in the same releases, by a row in {other.file}",
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


# --- one row --------------------------------------------------------------------------------------


def _timeless(case: _Case, head: _Head, place: Place) -> Row:
    """Return the row of an entry in a contract without ages."""
    for field in _OF_AGE:
        if getattr(case, field) not in (None, "", {}, "layer"):
            place.fail(field, "belongs to a contract by age", "remove it, or write by_age = true")
    if case.level not in ("required", "advisory"):
        place.fail("level", f"{case.level!r} belongs to a contract by age", "make it 'advisory'")
    return _row(case, head, place)


def _aged(case: _Case, head: _Head, place: Place) -> list[Row]:
    """Return the rows of an entry in a contract by age: one for each of the values that it lists."""
    if case.grade is None:
        place.fail("grade", "missing", f"add it: {_CASE_FIELDS['grade']}")
    if case.level == "required" and case.grade not in REQUIRING:
        place.fail(
            "level",
            f"is 'required' with a source of grade {case.grade}",
            f"find one of grade {', '.join(REQUIRING)}, or make it 'observed' or 'advisory'",
        )
    since = history.release_of(case.since, "since", FIRST, place)
    until = history.release_of(case.until, "until", LAST, place)
    if until <= since:
        place.fail("until", f"{case.until} is not after {case.since}", "correct one of them")
    if (case.asks == "model") != bool(case.model):
        place.fail("model", "belongs to asks = 'model'", f"add both: {_CASE_FIELDS['model']}")
    if case.target and case.asks != "draft":
        place.fail("target", "belongs to asks = 'draft'", "remove it, or ask for a draft")
    if (until < LAST) != bool(case.by):
        place.fail("by", "belongs to until", f"add both, or neither: {_CASE_FIELDS['by']}")
    choices = [
        *((("named", ""), one) for one in [case.named]),
        *((("env", name), value) for name, value in case.env.items()),
        *((("request", name), value) for name, value in case.request.items()),
    ]
    gfx = case.platform.gfx
    names = [gfx] if isinstance(gfx, str) else gfx
    targets = [target for name in names for target in head.gpus.get(name, [name])]
    rows = []
    for values in itertools.product(*(v if isinstance(v, list) else [v] for _, v in choices)):
        listed = [
            value
            for value, (_, given) in zip(values, choices, strict=True)
            if isinstance(given, list)
        ]
        one = dict(zip((key for key, _ in choices), values, strict=True))
        name = one.pop(("named", ""))
        expect = case.expect
        if expect.mentions is not None:
            said = [word.replace("{named}", name or "") for word in expect.mentions]
            expect = msgspec.structs.replace(expect, mentions=said)
        special = msgspec.structs.replace(
            case,
            id="-".join([case.id, *(_kebab(str(value)) for value in listed)]),
            named=name,
            env={key: value for (kind, key), value in one.items() if kind == "env"},
            request={key: value for (kind, key), value in one.items() if kind == "request"},
            platform=msgspec.structs.replace(case.platform, gfx=targets),
            expect=expect,
        )
        row = _row(special, head, place)
        named = Named(
            name, tuple(sorted(case.per_kind.items())), case.asks, case.model, case.target
        )
        rows.append(
            replace(
                row,
                named=named,
                since=since,
                until=until,
                by=case.by,
                by_family=all(name in head.gpus for name in names),
            )
        )
    return rows


def _kebab(text: str) -> str:
    return "-".join(re.findall("[a-z0-9]+", text.lower())) or "nothing"


def _row(case: _Case, head: _Head, place: Place) -> Row:
    named = case.named if isinstance(case.named, str) else None
    more = GDN_PREFILL if case.asks == "gdn-prefill" else ()
    expect = _expect(case.expect, named, [*head.backends, *more], place)
    return Row(
        id=case.id,
        source=case.source if case.grade is None else f"{case.source} ({_GRADES[case.grade]})",
        level=case.level,
        env=_env(case, expect, head.variables, place),
        gpus=_gpus(case.platform, place),
        request=request_from(case.request, place),
        expect=expect,
        file=str(place.file),
        note=case.note,
    )


def _gpus(platform: _Platform, place: Place) -> tuple[Gpu, ...]:
    names = [platform.gfx] if isinstance(platform.gfx, str) else platform.gfx
    if not names:
        place.fail("platform.gfx", "names no target", "list at least one")
    aiter = _AITER[platform.aiter] if isinstance(platform.aiter, bool) else Aiter(platform.aiter)
    try:
        gpus = tuple(Gpu(gfx, aiter) for gfx in names)
    except UnknownGpuError as error:
        place.fail("platform.gfx", str(error), "use one of these")
    for index, gpu in enumerate(gpus):
        if gpu in gpus[:index]:
            place.fail("platform.gfx", f"lists {gpu.gfx!r} twice", "remove one of them")
    return gpus


def _env(case: _Case, expect: Expect, variables: list[str], place: Place) -> dict[str, str]:
    for name in case.undeclared:
        if name in VARIABLES:
            place.fail("undeclared", f"{name} is a declared variable", "remove it from this list")
        if name not in case.env:
            place.fail("undeclared", f"{name} is not set in env", "set it there, or remove it here")
    env: dict[str, str] = {}
    for name, text in case.env.items():
        field = f"env.{name}"
        if not isinstance(text, str):
            place.fail(field, f"{text!r} is not text", f"put it in quotes: {name} = {str(text)!r}")
        if name in case.undeclared or name in variables:
            pass
        elif name not in VARIABLES:
            place.fail(
                field,
                f"no variable of that name is declared.{nearest(name, (*variables, *VARIABLES))}",
                f"correct it, or list it if that is meant: undeclared = [{name!r}]",
            )
        elif isinstance(expect, ExpectBackend):
            # A row about a value that cannot be parsed is a row about a refusal.
            try:
                VARIABLES[name].parse(text)
            except FlagError as error:
                place.fail(field, str(error), "correct the value, or expect a refusal")
        env[name] = text
    return env


def _expect(expect: _Expect, named: str | None, names: list[str], place: Place) -> Expect:
    given = [name for name in _KINDS_OF_EXPECT if getattr(expect, name) is not None]
    if len(given) != 1:
        count = "neither" if not given else "both"
        what = "of backend and rejects" if len(given) in (0, 2) else f"of {', '.join(given)}"
        place.fail("expect", f"{count} {what}", f"write {_CASE_FIELDS['expect']}")
    for field in ("mentions", "reasons"):
        if getattr(expect, field) is not None and given != ["rejects"]:
            place.fail(f"expect.{field}", "belongs to a refusal", "remove it, or the backend")
    if expect.backend is not None:
        return ExpectBackend(_backend(expect.backend, "expect.backend", names, place))
    if expect.never is not None:
        if not expect.never:
            place.fail("expect.never", "names no backend", "list at least one")
        return ExpectNever(
            tuple(_backend(name, "expect.never", names, place) for name in expect.never)
        )
    if given != ["rejects"] and not getattr(expect, given[0]):
        place.fail(f"expect.{given[0]}", "is false", "write true, or another expectation")
    if expect.served:
        return ExpectServed()
    if expect.named:
        if not named:
            place.fail(
                "expect.named", "nothing is named", "name a backend, or expect another thing"
            )
        return ExpectBackend(_backend(named.upper(), "named", names, place))
    if not expect.rejects:
        place.fail("expect.rejects", "is false", "write true, or name the backend instead")
    reasons = [_reason(text, place) for text in expect.reasons or ()]
    mentions = expect.mentions or []
    if (not mentions and not reasons) or any(map(is_blank, mentions)):
        place.fail(
            "expect.mentions",
            "holds an empty word" if mentions else "names no words",
            "list the words that a useful message holds, such as the backend and its limit, or"
            " its reasons",
        )
    return ExpectRefusal(tuple(mentions), tuple(reasons))


def _reason(text: str, place: Place) -> Reason:
    try:
        return Reason(text)
    except ValueError:
        known = tuple(map(str, Reason))
        wrong = f"{text!r} is not a reason.{nearest(text, known)}"
        place.fail("expect.reasons", wrong, f"use {', '.join(known)}")


def _backend(name: str, field: str, names: list[str], place: Place) -> str:
    try:
        return check_name(name, names or EVERY_NAME)
    except UnknownBackendError as error:
        place.fail(field, str(error), "use one of these")
