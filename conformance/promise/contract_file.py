"""The schema of a contract's files, and their [[case]] entries as rows."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import msgspec

from pytest_rocm_attn.conformance.promise import history
from pytest_rocm_attn.conformance.promise.mentions import is_blank
from pytest_rocm_attn.conformance.promise.naming import ASKED, GDN_PREFILL, Asked, Named
from pytest_rocm_attn.conformance.promise.reasons import Reason
from pytest_rocm_attn.conformance.promise.release import FIRST, LAST
from pytest_rocm_attn.conformance.promise.rows import (
    REQUIRING,
    Expect,
    ExpectBackend,
    ExpectNever,
    ExpectRefusal,
    ExpectServed,
    Grade,
    Level,
    Row,
)
from pytest_rocm_attn.conformance.promise.toml_request import request_from
from pytest_rocm_attn.errors import FlagError, UnknownBackendError, UnknownGpuError, nearest
from pytest_rocm_attn.flags import VARIABLES
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.registry import EVERY_NAME, check_name

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.promise.toml_file import Place


class Head(msgspec.Struct, forbid_unknown_fields=True):
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


class _Targets(msgspec.Struct, forbid_unknown_fields=True):
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


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    source: str
    level: Level
    platform: _Targets
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


HEAD_FIELDS = {
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
ENTRY_FIELDS = {
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


def rows(case: Entry, head: Head, place: Place) -> list[Row]:
    """Return the rows of an entry: in a contract by age one for each of the values that it lists."""
    return _aged(case, head, place) if head.by_age else [_timeless(case, head, place)]


def _timeless(case: Entry, head: Head, place: Place) -> Row:
    """Return the row of an entry in a contract without ages."""
    for field in _OF_AGE:
        if getattr(case, field) not in (None, "", {}, "layer"):
            place.fail(field, "belongs to a contract by age", "remove it, or write by_age = true")
    if case.level not in ("required", "advisory"):
        place.fail("level", f"{case.level!r} belongs to a contract by age", "make it 'advisory'")
    return _row(case, head, place)


def _aged(case: Entry, head: Head, place: Place) -> list[Row]:
    """Return the rows of an entry in a contract by age: one for each of the values that it lists."""
    if case.grade is None:
        place.fail("grade", "missing", f"add it: {ENTRY_FIELDS['grade']}")
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
        place.fail("model", "belongs to asks = 'model'", f"add both: {ENTRY_FIELDS['model']}")
    if case.target and case.asks != "draft":
        place.fail("target", "belongs to asks = 'draft'", "remove it, or ask for a draft")
    if (until < LAST) != bool(case.by):
        place.fail("by", "belongs to until", f"add both, or neither: {ENTRY_FIELDS['by']}")
    choices = [
        *((("named", ""), one) for one in [case.named]),
        *((("env", name), value) for name, value in case.env.items()),
        *((("request", name), value) for name, value in case.request.items()),
    ]
    gfx = case.platform.gfx
    names = [gfx] if isinstance(gfx, str) else gfx
    targets = [target for name in names for target in head.gpus.get(name, [name])]
    found = []
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
        found.append(
            replace(
                row,
                named=named,
                since=since,
                until=until,
                by=case.by,
                by_family=all(name in head.gpus for name in names),
            )
        )
    return found


def _kebab(text: str) -> str:
    return "-".join(re.findall("[a-z0-9]+", text.lower())) or "nothing"


def _row(case: Entry, head: Head, place: Place) -> Row:
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


def _gpus(platform: _Targets, place: Place) -> tuple[Gpu, ...]:
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


def _env(case: Entry, expect: Expect, variables: list[str], place: Place) -> dict[str, str]:
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
                f"correct it, or list it if it is intended: undeclared = [{name!r}]",
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
        place.fail("expect", f"{count} {what}", f"write {ENTRY_FIELDS['expect']}")
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
