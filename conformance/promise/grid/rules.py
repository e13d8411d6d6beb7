"""What a contract fixes about the cells of the grid: rules over regions, written by hand.

``grid.toml`` in a contract's folder holds them. A rule says which cells it is about, by meaning and
not by spelling, and what a selector may answer there; the first rule that a cell meets decides it.
A cell that meets none is one that the contract is silent about. docs/grid.md describes the format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour
from pytest_rocm_attn.conformance.promise.grid.space import AITER, ALSO, GFX, REQUEST
from pytest_rocm_attn.conformance.promise.toml_file import Place, entries, read_toml
from pytest_rocm_attn.conformance.promise.toml_request import region_from
from pytest_rocm_attn.errors import ContractError, FlagError, UnknownGpuError, nearest
from pytest_rocm_attn.flags import EXPLICIT, VARIABLES, Flags, Kind
from pytest_rocm_attn.gpu import Aiter, known_gpus, target_of
from pytest_rocm_attn.registry import CLASS_PATHS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from pytest_rocm_attn.conformance.promise.grid.space import Axis, Slice


class Expect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a rule lets a selector answer.

    Args:
        backend: this one, by name.
        named: the one that the cell names.
        rejects: a refusal; with named, either of the two.
        never: anything but these backends, and except what is not an answer (a crash, a hang ...).
    """

    backend: str | None = None
    named: bool = False
    rejects: bool = False
    never: tuple[str, ...] = ()

    def allows(self, answer: Behaviour, name: str | None) -> bool:
        """Whether an answer is allowed in a cell that names this backend, or none."""
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
        named: the backends that are named; empty if none is; None if that does not matter.
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


class _Rule(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    source: str
    level: Literal["required", "advisory"]
    expect: Expect
    named: list[str] | None = None
    flags: dict[str, bool] = {}
    gpu: list[str] | None = None
    aiter: list[str] | None = None
    request: str | dict[str, object] = {}
    where: dict[str, object] = {}


_SWITCHES = (Kind.BOOL, Kind.EXACT, Kind.TRI, Kind.INT_BOOL)
_FIELDS = {
    "id": "a sentence in kebab-case",
    "source": "the clause that the rule was written from",
    "level": "'required' or 'advisory'",
    "expect": "{ backend = 'NAME' }, { named = true }, { rejects = true } or { never = ['NAME'] }",
    "expect.backend": "a backend's name",
    "expect.named": "true",
    "expect.rejects": "true",
    "expect.never": "a list of backends",
    "named": "a list of backends; [] if none is named",
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
    if not isinstance(shared, dict) or not all(isinstance(each, dict) for each in shared.values()):
        place.fail("request", "is not a table of tables", "write [request.NAME] above fields")
    for name, fields in shared.items():
        region_from(fields, place, f"request.{name}")
    found = entries(table, "rule", _Rule, _FIELDS, place, word="rule", taken={})
    return tuple(_rule(entry, shared, here) for entry, here in found)


def _rule(entry: _Rule, shared: Mapping[str, Any], place: Place) -> Rule:
    for name in entry.flags:
        place.check_keys({name: None}, VARIABLES, "flags")
        if VARIABLES[name].kind not in _SWITCHES:
            place.fail(f"flags.{name}", "is not a switch", "remove it, or name backends in `named`")
    gpus = None if entry.gpu is None else [_target(name) for name in entry.gpu]
    for field, values, known in (
        ("named", entry.named, CLASS_PATHS),
        ("gpu", gpus, known_gpus()),
        ("aiter", entry.aiter, [state.value for state in Aiter]),
    ):
        if values is not None:
            _check_names(field, values, known, place)
            if not values and field != "named":
                place.fail(field, "is empty", "leave it out for all")
    _check_expect(entry, place)
    given = entry.request
    if isinstance(given, str):
        if given not in shared:
            remedy = f"write one, or use {', '.join(shared)}" if shared else "write one"
            place.fail("request", f"there is no table [request.{given}]", remedy)
        given = shared[given]
    return Rule(
        entry.id,
        entry.source,
        entry.level,
        entry.expect,
        None if entry.named is None else tuple(entry.named),
        entry.flags,
        tuple(gpus or ()),
        tuple(entry.aiter or ()),
        region_from(given, place) | region_from(entry.where, place, "where"),
    )


def _target(name: str) -> str:
    """Return the target that a product's name means; any other name as it is."""
    try:
        return target_of(name)
    except UnknownGpuError:
        return name


def _check_names(field: str, values: Sequence[str], known: Iterable[str], place: Place) -> None:
    for number, value in enumerate(values):
        if value not in known:
            near = nearest(value, known)
            place.fail(field, f"{value!r} is unknown.{near}", f"use one of {', '.join(known)}")
        if value in values[:number]:
            place.fail(field, f"lists {value!r} twice", "remove one of them")


def _check_expect(entry: _Rule, place: Place) -> None:
    """Refuse what allows nothing, and keys that contradict each other."""
    expect = entry.expect
    given = {
        name: value
        for name in ("backend", "named", "rejects", "never")
        if (value := getattr(expect, name))
    }
    remedy = f"write {_FIELDS['expect']}"
    if not given:
        place.fail("expect", "allows nothing", remedy)
    if len(given) > 1 and set(given) != {"named", "rejects"}:
        place.fail("expect", f"says {' and '.join(given)} at once", remedy)
    _check_names("expect.backend", [expect.backend] if expect.backend else [], CLASS_PATHS, place)
    _check_names("expect.never", expect.never, CLASS_PATHS, place)
    if expect.named and entry.named == []:
        place.fail("expect.named", "cannot hold where `named` is []", "name the backends, or none")


def check_each_decides(rules: Sequence[Rule], slices: Iterable[Slice], file: Path) -> None:
    """Refuse rules that decide no cell of these slices: they promise nothing.

    Raises:
        ContractError: one line that names the first such rule.
    """
    idle = dict.fromkeys(range(1, len(rules) + 1))
    for part in slices:
        for number in set(applied(rules, part)) if idle else ():
            idle.pop(number, None)
    for number in idle:
        Place(ContractError, file, f"rule {rules[number - 1].id!r}").fail(
            "",
            "decides no cell of the grid",
            "widen what it is about, move it above the rule that decides its cells, or remove it",
        )


def applied(rules: Sequence[Rule], to: Slice) -> Sequence[int]:
    """Return, for each cell of a slice, 1 + the index of the rule that decides it, or 0 if none does.

    No rule decides a cell whose environment cannot be parsed.
    """
    low, high = 0, 0
    for index in reversed(range(len(rules))):
        mask = _mask(rules[index], to)
        if mask is not None:
            mine = int.from_bytes(mask, "little")
            low, high = (
                before & ~mine | int.from_bytes(bytes([byte]) * to.cells, "little") & mine
                for before, byte in zip((low, high), divmod(index + 1, 256)[::-1], strict=True)
            )
    decided = low.to_bytes(to.cells, "little")
    if not high:
        return decided
    more = high.to_bytes(to.cells, "little")
    return [256 * one + other for one, other in zip(more, decided, strict=True)]


def _mask(rule: Rule, to: Slice) -> bytes | None:
    """Return 255 for each cell of the slice that the rule is about, else 0; None for no cell."""
    if rule.gpus and to.gfx not in rule.gpus:
        return None
    carried = {name for axis in to.axes for name in axis.facets}
    if rule.named and EXPLICIT not in carried:
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
    if axis.name == EXPLICIT and rule.named is not None:
        return value in rule.named if rule.named else value is None
    mine: Callable[[str], bool] = set(axis.facets).__contains__
    return all(flags[name] == meant for name, meant in rule.flags.items() if mine(name))
