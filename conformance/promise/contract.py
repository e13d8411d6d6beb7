"""Contracts: what a selector must answer, as rows that people write by hand in TOML.

A contract is a folder of TOML files (shipped ones lie in ``contracts/<id>/``), or a single file.
docs/contracts.md describes the format for people who write one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from pytest_rocm_attn.conformance.promise import capability_table
from pytest_rocm_attn.conformance.promise.mentions import is_blank
from pytest_rocm_attn.conformance.promise.toml_file import Place, convert, entries, read_toml
from pytest_rocm_attn.conformance.promise.toml_request import request_from
from pytest_rocm_attn.errors import (
    ContractError,
    FlagError,
    UnknownBackendError,
    UnknownGpuError,
    nearest,
)
from pytest_rocm_attn.flags import VARIABLES
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.registry import EVERY_NAME, check_name
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.conformance.promise.grid.rules import Rule

Level: TypeAlias = Literal["required", "advisory"]
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
    """The selector must refuse, with a message that mentions each of these words (mentions.py)."""

    mentions: tuple[str, ...]

    def __str__(self) -> str:
        return f"a refusal that mentions {', '.join(map(repr, self.mentions))}"


@dataclass(frozen=True, slots=True)
class Row:
    """One promise of a contract.

    Args:
        id: kebab-case, unique in the contract, reads like a sentence.
        source: the clause it was written from.
        level: "required", or "advisory" for what goes beyond the contract's text.
        env: the environment variables that are set, as text; all other variables are unset.
        gpus: the targets that the promise holds on, all with the same state of aiter.
        request: what the attention layer needs.
        expect: the backend, or a refusal.
        file: the file that holds the row.
        note: why, where the source alone does not say it.
    """

    id: str
    source: str
    level: Level
    env: Mapping[str, str]
    gpus: tuple[Gpu, ...]
    request: Request
    expect: ExpectBackend | ExpectRefusal
    file: str
    note: str = ""

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

    Beside its rows it may say, in ``[[capability]]`` entries, what each backend can do.

    Args:
        id: its name.
        title: one line.
        source: the document.
        rows: the rows.
        capabilities: what each backend can do.
        folder: where its files lie; None for a contract of one file. Rules about the grid lie there.
    """

    id: str
    title: str
    source: str
    rows: tuple[Row, ...]
    capabilities: tuple[capability_table.Promise, ...] = ()
    folder: Path | None = None


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

    if the_contract.folder is None:
        return ()
    file = the_contract.folder / GRID_FILE
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


class _Platform(msgspec.Struct, forbid_unknown_fields=True):
    gfx: str | list[str]
    aiter: bool | Literal["impostor", "broken"] = True


class _Expect(msgspec.Struct, forbid_unknown_fields=True):
    backend: str | None = None
    rejects: bool | None = None
    mentions: list[str] | None = None


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


_HEAD_FIELDS = {
    "id": "the contract's name, such as 'pr-26980'",
    "title": "one line of text",
    "source": "the document that the rows were written from",
}
_CASE_FIELDS = {
    "id": "a sentence in kebab-case, such as 'triton-is-the-default'",
    "source": "the clause that the row was written from, as text",
    "level": "'required' or 'advisory'",
    "env": "a table of variable = 'text'",
    "undeclared": "a list of variables in env that nothing is known to read",
    "platform": "a table such as { gfx = 'gfx942', aiter = true }",
    "platform.gfx": "a gfx target, or a list of them",
    "platform.aiter": "true, false, 'impostor' or 'broken'",
    "request": "a table of request fields",
    "expect": "{ backend = 'NAME' } or { rejects = true, mentions = ['word'] }",
    "expect.backend": "a backend's name as text",
    "expect.rejects": "true",
    "expect.mentions": "a list of words that a useful refusal holds",
    "note": "text",
}
_AITER = {True: Aiter.PRESENT, False: Aiter.ABSENT}
_ENTRIES = ("case", "capability")


# --- files ----------------------------------------------------------------------------------------


def _load_folder(folder: Path) -> Contract:
    head_place = Place(ContractError, folder / "contract.toml")
    head = convert(read_toml(head_place)[1], _Head, _HEAD_FIELDS, head_place)
    found = _Entries()
    for path in sorted(folder.glob("*.toml")):
        if path.name not in (head_place.file.name, GRID_FILE):
            place = Place(ContractError, path)
            table = read_toml(place)[1]
            place.check_keys(table, _ENTRIES, "")
            found.add(table, place)
    return replace(found.contract(head, head_place), folder=folder)


def _load_file(path: Path) -> Contract:
    place = Place(ContractError, path)
    table = read_toml(place)[1]
    place.check_keys(table, (*_ENTRIES, *_HEAD_FIELDS), "")
    given = {key: value for key, value in table.items() if key not in _ENTRIES}
    unnamed = {"id": path.stem, "title": path.stem, "source": path.name}
    head = convert(unnamed | given, _Head, _HEAD_FIELDS, place)
    found = _Entries()
    found.add(table, place)
    return found.contract(head, place)


class _Entries:
    """The rows and capabilities of a contract, as its files are read."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._capabilities: list[capability_table.Promise] = []
        self._taken: dict[str, dict[str, Path]] = {key: {} for key in _ENTRIES}

    def add(self, table: Mapping[str, Any], place: Place) -> None:
        rows = entries(
            table, "case", _Case, _CASE_FIELDS, place, word="row", taken=self._taken["case"]
        )
        self._rows += [_row(case, here) for case, here in rows]
        self._capabilities += capability_table.read(table, place, self._taken["capability"])

    def contract(self, head: _Head, place: Place) -> Contract:
        if not self._rows:
            place.fail("case", "the contract holds no rows", "write at least one [[case]]")
        return Contract(
            head.id, head.title, head.source, tuple(self._rows), tuple(self._capabilities)
        )


# --- one row --------------------------------------------------------------------------------------


def _row(case: _Case, place: Place) -> Row:
    expect = _expect(case.expect, place)
    return Row(
        id=case.id,
        source=case.source,
        level=case.level,
        env=_env(case, expect, place),
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


def _env(case: _Case, expect: ExpectBackend | ExpectRefusal, place: Place) -> dict[str, str]:
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
        if name in case.undeclared:
            pass
        elif name not in VARIABLES:
            place.fail(
                field,
                f"no variable of that name is declared.{nearest(name, VARIABLES)}",
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


def _expect(expect: _Expect, place: Place) -> ExpectBackend | ExpectRefusal:
    if (expect.backend is None) == (expect.rejects is None):
        count = "neither" if expect.backend is None else "both"
        place.fail("expect", f"{count} of backend and rejects", f"write {_CASE_FIELDS['expect']}")
    if expect.backend is not None:
        if expect.mentions is not None:
            place.fail("expect.mentions", "belongs to a refusal", "remove it, or the backend")
        try:
            return ExpectBackend(check_name(expect.backend, EVERY_NAME))
        except UnknownBackendError as error:
            place.fail("expect.backend", str(error), "use one of these")
    if not expect.rejects:
        place.fail("expect.rejects", "is false", "write true, or name the backend instead")
    mentions = expect.mentions or []
    if not mentions or any(map(is_blank, mentions)):
        place.fail(
            "expect.mentions",
            "holds an empty word" if mentions else "names no words",
            "list the words that a useful message holds, such as the backend and its limit",
        )
    return ExpectRefusal(tuple(mentions))
