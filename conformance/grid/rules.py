"""What a contract fixes about the cells of the grid: rules over regions, written by hand.

``grid.toml`` in a contract's folder holds them. A rule says which cells it is about, by meaning and
not by spelling, and what a selector may answer there; the first rule that a cell meets decides it.
A cell that meets none is one that the contract is silent about. docs/grid.md describes the format.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pytest_rocm_attn.conformance.grid.design import CHOICE
from pytest_rocm_attn.conformance.grid.outcomes import Behaviour
from pytest_rocm_attn.conformance.grid.space import AITER, ALSO, GFX, REQUEST
from pytest_rocm_attn.conformance.toml_file import Place, convert, read_toml
from pytest_rocm_attn.errors import ContractError, FlagError
from pytest_rocm_attn.flags import VARIABLES, Flags
from pytest_rocm_attn.gpu import Aiter, known_gpus
from pytest_rocm_attn.registry import CLASS_PATHS
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pytest_rocm_attn.conformance.grid.space import Axis, Slice


@dataclass(frozen=True, slots=True)
class Expect:
    """What a rule lets a selector answer.

    Args:
        backend: this one, by name.
        named: the one that the cell names.
        rejects: a refusal; with named, either of the two.
        never: anything but these backends, and but what is no answer (a crash, a hang ...).
    """

    backend: str | None = None
    named: bool = False
    rejects: bool = False
    never: tuple[str, ...] = ()

    def allows(self, answer: Behaviour, name: str | None) -> bool:
        """Whether an answer will do in a cell that names this backend, or none."""
        if answer.kind == "Rejected":
            return self.rejects or bool(self.never)
        if answer.kind != "Selected":
            return False
        if self.never:
            return answer.name not in self.never
        return answer.name == self.backend or (self.named and answer.name == name)

    def __str__(self) -> str:
        if self.never:
            return f"anything but {' or '.join(self.never)}"
        words = [self.backend] if self.backend else []
        words += ["the explicit one"] if self.named else []
        words += ["a refusal"] if self.rejects else []
        return " or ".join(words)


@dataclass(frozen=True, slots=True)
class Rule:
    """One promise about a region of the grid.

    Args:
        id: kebab-case, reads like a sentence.
        source: the clause it was written from.
        level: "required" or "advisory".
        expect: what may be answered.
        named: the backends that are named; empty where none is; None where that does not matter.
        flags: variable -> what it means.
        gpus: the targets; empty for all.
        states: the states of aiter; empty for all.
        request: field -> the values it may have.
    """

    id: str
    source: str
    level: Literal["required", "advisory"]
    expect: Expect
    named: tuple[str, ...] | None
    flags: Mapping[str, Any]
    gpus: tuple[str, ...]
    states: tuple[str, ...]
    request: Mapping[str, tuple[Any, ...]]


class _Expect(msgspec.Struct, forbid_unknown_fields=True):
    backend: str | None = None
    named: bool = False
    rejects: bool = False
    never: list[str] = []


class _Rule(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    source: str
    level: Literal["required", "advisory"]
    expect: _Expect
    named: list[str] | None = None
    flags: dict[str, bool] = {}
    gpu: list[str] = []
    aiter: list[str] = []
    request: str | dict[str, object] = {}
    where: dict[str, object] = {}


_FIELDS = {
    "id": "a sentence in kebab-case",
    "source": "the clause that the rule was written from",
    "level": "'required' or 'advisory'",
    "expect": "{ backend = 'NAME' }, { named = true }, { rejects = true } or { never = ['NAME'] }",
    "expect.backend": "a backend's name",
    "expect.named": "true",
    "expect.rejects": "true",
    "expect.never": "a list of backends",
    "named": "a list of backends; [] where none is named",
    "flags": "a table of variable = true or false",
    "gpu": "a list of gfx targets",
    "aiter": "a list of states: present, absent, broken, impostor",
    "request": "the name of a [request.NAME] table, or such a table",
    "where": "a table of further request fields",
}


def load(path: Path) -> tuple[Rule, ...]:
    """Read a contract's rules about the grid; none where the file does not exist.

    Raises:
        ContractError: the file holds a mistake. One line that names file, rule, field and remedy.
    """
    if not path.exists():
        return ()
    place = Place(ContractError, path)
    table = read_toml(place)[1]
    place.check_keys(table, ("rule", "request"), "")
    shared = table.get("request", {})
    rules: dict[str, Rule] = {}
    for number, entry in enumerate(table.get("rule", []), start=1):
        here = place.within(f"rule {entry.get('id', number)!r}")
        rule = _rule(convert(entry, _Rule, _FIELDS, here), shared, here)
        if rule.id in rules:
            here.fail("id", "is taken by another rule", "give one of them another id")
        rules[rule.id] = rule
    return tuple(rules.values())


def _rule(entry: _Rule, shared: Mapping[str, Any], place: Place) -> Rule:
    for name in entry.flags:
        place.check_keys({name: None}, VARIABLES, "flags")
    for field, values, known in (
        ("named", entry.named or (), CLASS_PATHS),
        ("expect.backend", [entry.expect.backend] if entry.expect.backend else (), CLASS_PATHS),
        ("expect.never", entry.expect.never, CLASS_PATHS),
        ("gpu", entry.gpu, known_gpus()),
        ("aiter", entry.aiter, [state.value for state in Aiter]),
    ):
        for value in values:
            if value not in known:
                place.fail(field, f"{value!r} is unknown", f"use one of {', '.join(known)}")
    given = entry.request
    if isinstance(given, str):
        if given not in shared:
            place.fail(
                "request", f"no table [request.{given}]", f"write one, or use {', '.join(shared)}"
            )
        given = shared[given]
    expect = Expect(
        entry.expect.backend, entry.expect.named, entry.expect.rejects, tuple(entry.expect.never)
    )
    if expect == Expect():
        place.fail("expect", "allows nothing", f"write {_FIELDS['expect']}")
    return Rule(
        entry.id,
        entry.source,
        entry.level,
        expect,
        None if entry.named is None else tuple(entry.named),
        entry.flags,
        tuple(entry.gpu),
        tuple(entry.aiter),
        _request({**given, **entry.where}, place),
    )


_REQUEST_FIELDS = tuple(field.name for field in fields(Request))


def _request(table: Mapping[str, object], place: Place) -> dict[str, tuple[Any, ...]]:
    place.check_keys(table, _REQUEST_FIELDS, "request")
    return {
        name: tuple(
            None if each == "unset" else each
            for each in (value if isinstance(value, list) else [value])
        )
        for name, value in table.items()
    }


def applied(rules: Sequence[Rule], to: Slice) -> bytes:
    """Return for each cell of a slice 1 + the index of the rule that decides it, or 0.

    A cell whose environment cannot be parsed is decided by none.
    """
    decided = bytes(to.cells)
    for index in reversed(range(len(rules))):
        mask = _mask(rules[index], to)
        if mask is not None:
            mine = int.from_bytes(mask, "little")
            before = int.from_bytes(decided, "little")
            one = int.from_bytes(bytes([index + 1]) * to.cells, "little")
            decided = ((before & ~mine) | (one & mine)).to_bytes(to.cells, "little")
    return decided


def _mask(rule: Rule, to: Slice) -> bytes | None:
    """Return 255 for each cell of the slice that the rule is about, else 0; None for no cell."""
    if rule.gpus and to.gfx not in rule.gpus:
        return None
    carried = {name for axis in to.axes for name in axis.facets}
    if rule.named and CHOICE not in carried:
        return None
    for name, meant in rule.flags.items():
        if name not in carried and VARIABLES[name].default != meant:
            return None
    mask = b"\xff"
    for axis in reversed(to.axes):
        allowed = [_admits(rule, axis, value) for value in axis.values]
        nothing = bytes(len(mask))
        mask = b"".join(mask if each else nothing for each in allowed)
    return mask


def _admits(rule: Rule, axis: Axis, value: Any) -> bool:
    if axis.name == GFX:
        return not rule.gpus or value in rule.gpus
    if axis.name == AITER:
        return not rule.states or value in rule.states
    if axis.name == REQUEST:
        return all(getattr(value, name) in allowed for name, allowed in rule.request.items())
    texts = dict(value) if axis.name == ALSO else {} if value is None else {axis.name: value}
    try:
        flags = Flags(texts)
    except FlagError:
        return False
    if axis.name == CHOICE and rule.named is not None:
        return value in rule.named if rule.named else value is None
    mine: Callable[[str], bool] = set(axis.facets).__contains__
    return all(flags[name] == meant for name, meant in rule.flags.items() if mine(name))
