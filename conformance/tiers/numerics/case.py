"""Cases, tables that people write by hand in TOML: what a backend must compute right; and results.

``cases/*.toml`` holds the shipped ones. docs/numerics.md describes the format.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import MISSING, asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args, get_type_hints

import msgspec

from pytest_rocm_attn.conformance.promise.got import CRASH, WRONG, Got
from pytest_rocm_attn.conformance.promise.toml_file import Place, entries, read_toml, value_of
from pytest_rocm_attn.conformance.promise.toml_request import FIELDS as REQUEST_FIELDS
from pytest_rocm_attn.conformance.promise.toml_request import request_from
from pytest_rocm_attn.errors import CaseError
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Kind: TypeAlias = Literal["attention", "mla-decode", "mla-prefill"]
Layout: TypeAlias = Literal["dense", "strided", "heads-first"]
Fp8: TypeAlias = Literal["e4m3fn", "e4m3fnuz"]
Needs: TypeAlias = Literal["", "gpu"]
Special: TypeAlias = Literal["", "nan", "plus-inf", "minus-inf"]
SpecialIn: TypeAlias = Literal["query", "key", "value", "sinks", "k_scale", "v_scale"]
Cache: TypeAlias = Literal["server", "small"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Case:
    """One problem that a backend must solve.

    Args:
        id: kebab-case, unique, reads like a sentence.
        why: what it is meant to catch.
        kind: which computation, and so which method of the backend.
        request: the layer: heads, head size, dtype, cache dtype, block size, features.
        lengths: (new tokens, all tokens) of each request; for MLA prefill, (queries, keys).
        level: "required", or "advisory" for what only some backends promise.
        causal: bottom-right aligned; False: every token sees the whole request.
        layout: of the tensors: "dense"; "strided", views of wider, poisoned buffers, as a fused
            projection and a cache with a layers dimension make them; "heads-first", a cache in
            which a head's slots are adjacent.
        fp8: how an fp8 cache is stored.
        score: standard deviation of the scaled scores.
        sharp: the scaled score of one key in three of eight rows, far above the row's others; 0: of none.
        batch_invariant: each request is computed alone too, and must come out the same to the bit,
            by backends that claim it.
        needs: "gpu" for what would take minutes in Triton's interpreter.
        special: a number that is not finite, put where `special_in` and `special_at` say. Level
            "required" then binds backends that claim IEEE semantics, and is advisory for others.
        special_in: the tensor that holds it.
        special_at: (request, position) of the keys or values that hold it. Of a query: the last new
            token of each request named. A sink and a scale need no place.
        cache: how large the cache of a launch family is: "server", what a server has on the target;
            "small", the blocks of the requests and no more. Numerics cases build what they need.
    """

    id: str
    why: str
    kind: Kind
    request: Request
    lengths: tuple[tuple[int, int], ...]
    level: Literal["required", "advisory"] = "required"
    causal: bool = True
    layout: Layout = "dense"
    fp8: Fp8 = "e4m3fn"
    score: Annotated[float, msgspec.Meta(gt=0)] = 3.0
    sharp: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    batch_invariant: bool = False
    needs: Needs = ""
    special: Special = ""
    special_in: SpecialIn = "key"
    special_at: tuple[tuple[int, int], ...] = ()
    cache: Cache = "server"

    @property
    def tokens(self) -> int:
        """The number of new tokens of all requests."""
        return sum(new for new, _ in self.lengths)

    @property
    def words(self) -> str:
        """The case in words: layer and batch."""
        features = self.request.non_default() | {"dtype": self.request.dtype}
        layer = ", ".join(f"{name}={value!r}" for name, value in features.items())
        more = [f"{self.layout} layout"]
        if self.request.kv_cache_dtype.startswith("fp8"):
            more.append(f"cache in {self.fp8}")
        if self.special:
            where = ", ".join(f"request {i} at {position}" for i, position in self.special_at)
            more.append(f"{self.special} in {self.special_in}{where and f' ({where})'}")
        if self.cache == "small":
            more.append("small cache")
        lengths = ", ".join(f"{new} of {total}" for new, total in self.lengths)
        causal = "causal" if self.causal else "not causal"
        return f"{layer}; {causal}, {', '.join(more)}; new of all tokens: {lengths}"

    def to_json(self) -> dict[str, Any]:
        """Return the case as plain data."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Case:
        """Return what ``to_json`` was called on."""
        pairs: dict[str, Any] = {
            name: tuple((first, second) for first, second in data[name])
            for name in ("lengths", "special_at")
            if name in data or name == "lengths"  # what an earlier version wrote has no special_at
        }
        return Case(**data | pairs | {"request": Request(**data["request"])})


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a case on a backend, as plain data that crosses a process boundary.

    Attributes:
        kind: "right", "wrong", "declined" or "crashed".
        words: what was found, in one line.
        ratio: the largest error over its bound; infinite for what is NaN or was not written.
        seconds: how long the backend took.
        traceback: of a crash.
        answer: what a deviation pins of a crash that is a hang or a death; "" for any other.
        error: the class of the exception that a crash raised, or how the process ended; else "".
        launches: the kernels that were launched, as their records' as_json(); the launch tier's.
    """

    kind: str
    words: str
    ratio: float = 0.0
    seconds: float = 0.0
    traceback: str = ""
    launches: tuple[dict[str, Any], ...] = ()
    answer: str = ""
    error: str = ""

    @property
    def got(self) -> Got:
        """The result as a deviation pins it."""
        return Got(self.answer or (CRASH if self.kind == "crashed" else WRONG), self.words)


def _schema(*left_out: str) -> type[Any]:
    """Return the shape of an entry: the fields of a case, the request as a table, and `vary`."""
    kinds = get_type_hints(Case, include_extras=True)
    own: list[Any] = [("request", dict[str, Any], {}), ("vary", dict[str, list[Any]], {})]
    for field in fields(Case):
        if field.name not in ("request", *left_out):
            default = msgspec.NODEFAULT if field.default is MISSING else field.default
            own.append((field.name, kinds[field.name], default))
    return msgspec.defstruct("_Row", own, forbid_unknown_fields=True, kw_only=True)


_FAMILY = _schema()  # a shape family of the launch tier
_CASE = _schema("cache")  # a numerics case has the cache that it needs
_TYPES = {field.name: field.type for field in msgspec.structs.fields(_CASE)}


_REMEDIES = {
    "id": "a unique kebab-case sentence in quotes",
    "why": "what the case is meant to catch, in quotes",
    "kind": f"one of {', '.join(KINDS)}",
    "lengths": "pairs [new tokens, all tokens], one per request",
    "request": "a table of fields of a request",
    "level": "required or advisory",
    "causal": "true or false",
    "layout": f"one of {', '.join(get_args(Layout))}",
    "fp8": f"one of {', '.join(get_args(Fp8))}",
    "score": "a positive number",
    "sharp": "a positive number, or 0",
    "batch_invariant": "true or false",
    "needs": '"gpu", or left out',
    "special": f"one of {', '.join(filter(None, get_args(Special)))}",
    "special_in": f"one of {', '.join(get_args(SpecialIn))}",
    "special_at": "pairs [request, position]",
    "cache": f"one of {', '.join(get_args(Cache))}",
    "vary": "a table: field of the request, or of the case -> a list of its values",
}


@functools.cache
def shipped() -> tuple[Case, ...]:
    """Return the cases that this distribution carries."""
    folder = Path(str(files("pytest_rocm_attn.conformance.tiers.numerics"))) / "cases"
    return tuple(case for file in sorted(folder.glob("*.toml")) for case in load(file))


def load(file: Path, *, families: bool = False) -> tuple[Case, ...]:
    """Read a file of cases.

    Args:
        file: TOML.
        families: it holds shape families of the launch tier, which say how large their cache is.

    Raises:
        CaseError: the file cannot be read, or holds a mistake; one line with file, case, field and
            remedy.
    """
    place = Place(CaseError, file)
    _, table = read_toml(place)
    place.check_keys(table, ["case"], "")
    schema = _FAMILY if families else _CASE
    found = entries(table, "case", schema, _REMEDIES, place, word="case", taken={})
    cases: dict[str, Case] = {}
    for row, here in found:
        for case in _expanded(row, here):
            if case.id in cases:
                here.fail("id", f"{case.id!r} is there already", "choose another")
            cases[case.id] = case
    if not cases:
        place.fail("case", "there is no [[case]] in this file", "add one")
    return tuple(cases.values())


def _expanded(row: Any, place: Place) -> Iterator[Case]:
    if not row.lengths:
        place.fail("lengths", "lists no request", f"it must be {_REMEDIES['lengths']}")
    for new, total in row.lengths:
        fits = 0 <= new <= total or (row.kind == "mla-prefill" and not row.causal and new >= 0)
        if not fits or total < 0 or (row.kind == "mla-decode" and new != 1):
            wanted = "one new token" if row.kind == "mla-decode" else "no more new than all"
            place.fail("lengths", f"[{new}, {total}]", f"it must be {wanted}, none negative")
    own = ("causal", "layout", "fp8", "score", "special", "special_in")
    _check_varied(row, own, place)
    for values in itertools.product(*row.vary.values()):
        chosen = dict(zip(row.vary, values, strict=True))
        varied = {name: chosen.pop(name) for name in own if name in chosen}
        words = ((name.replace("_", "-"), value) for name, value in (varied | chosen).items())
        suffix = "".join(f"-{_word(name, value, row.id)}" for name, value in words)
        asked = {"use_mla": row.kind != "attention"} | row.request | chosen
        request = request_from(asked, place)
        given = {name: getattr(row, name) for name in row.__struct_fields__ if name != "vary"}
        case = Case(**given | varied | {"id": row.id + suffix, "request": request})
        if problem := _special_problem(case):
            place.fail("special", problem, "see docs/numerics.md, Cases")
        yield case


def _special_problem(case: Case) -> str:
    """Return what is wrong with where a case puts its special number, if anything."""
    if not case.special:
        return "special_at without special" if case.special_at else ""
    where, fp8 = case.special_in, case.request.kv_cache_dtype.startswith("fp8")
    if case.special not in get_args(Special) or where not in get_args(SpecialIn):
        return f"{case.special!r} in {where!r}"
    if where.endswith("scale") and not fp8:
        return f"{where} needs an fp8 cache"
    if where == "sinks" and not case.request.has_sink:
        return "sinks needs has_sink"
    if where in ("key", "value") and fp8 and case.special != "nan":
        return f"fp8 has no infinity for the {where}"
    if where in ("query", "key", "value"):
        if not case.special_at:
            return "special_at is missing"
        for request, position in case.special_at:
            inside = 0 <= request < len(case.lengths) and 0 <= position < case.lengths[request][1]
            if not inside or not case.lengths[request][0]:
                return f"special_at [{request}, {position}] is outside the requests with new tokens"
    return ""


def _check_varied(row: Any, own: Sequence[str], place: Place) -> None:
    """Refuse fields that cannot be varied, and values of another type than the field's."""
    place.check_keys(row.vary, (*own, *REQUEST_FIELDS), "vary")
    for name, values in row.vary.items():
        if not values:
            place.fail(f"vary.{name}", "lists no value", "list some, or leave it out")
        if name in own:
            for value in values:
                value_of(
                    value, _TYPES[name], f"vary.{name}", {f"vary.{name}": _REMEDIES[name]}, place
                )


def _word(name: str, value: object, base: str) -> str:
    """Return a varied value as a part of an id; numbers say of what, unless the id does."""
    if isinstance(value, bool):
        return name if value else f"not-{name}"
    text = str(value).replace("_", "-")
    said = isinstance(value, str) or name in base or base in name
    return text if said else f"{name}-{text}"
