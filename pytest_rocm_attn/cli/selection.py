"""The commands about a selection: ``explain`` and ``how-to-get``."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.citations import SITE, linked
from pytest_rocm_attn.cli.printing import OK, REFUSED, print_json, print_lines
from pytest_rocm_attn.columns import aligned
from pytest_rocm_attn.errors import (
    FlagError,
    SelectionError,
    UnknownGpuError,
    UnknownReleaseError,
)
from pytest_rocm_attn.flags import (
    ATTENTION_BACKEND,
    EXPLICIT,
    OPTIONS,
    PREFILL_DECODE,
    USE_PREFILL_DECODE,
    VARIABLES,
    Flags,
    doubts,
    variable,
)
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from pytest_rocm_attn.backends import Policy
    from pytest_rocm_attn.outcome import Outcome

_MLA_DISABLE = "VLLM_MLA_DISABLE"
_REQUEST_FIELDS = tuple(Request.__dataclass_fields__)

_OPENS = f"docs/PAGE.md#ROW is {SITE}PAGE/#ROW"


def explain(arguments: argparse.Namespace) -> int:
    """Print which backend a release selects, every step that leads there, and what a fork selects."""
    from pytest_rocm_attn import backends

    policy, chosen = _policy(arguments)
    environ = _environment(arguments)
    flags, gpu = Flags(_read(environ, policy)), _machine(arguments)
    request, note = _request(arguments, flags)
    doubtful = [*filter(None, [gpu.note]), *doubts(environ), *_without_effect(environ, policy)]
    answer: dict[str, Any]
    try:
        selection = backends.select(request, flags, gpu, policy)
    except SelectionError as error:
        code, trace = REFUSED, error.trace
        answer = {"backend": error.backend, "class_path": None, "refused": str(error)}
        title = f"refused: {error}"
    else:
        code, trace = OK, selection.trace
        answer = {"backend": selection.backend, "class_path": selection.class_path, "refused": None}
        title = f"{selection.backend}  ({selection.class_path})"
    asked = _asked(arguments.selector, environ, gpu, request) if arguments.selector else None
    steps = [
        {"rule": s.rule, "answer": s.answer, "reason": s.reason, "source": linked(s.source)}
        for s in trace
    ]
    if asked is not None:
        code = OK if _name(asked) else REFUSED
    if arguments.json:
        rules = {"release": policy.name, "selector": asked and _selector_json(arguments, asked)}
        given = {"environment": environ, "gpu": _gpu_json(gpu), "request": request.non_default()}
        noted = {"note": note or None, "doubts": doubtful}
        print_json(answer | rules | noted | given | {"trace": steps})
        return code
    table = aligned([(s.rule, s.answer, f"{s.reason}  [{s.source}]") for s in trace])
    notes = [*([note] if note else []), *(f"note: {doubt}" for doubt in doubtful)]
    rules_of = f"by the rules of {policy.name} ({chosen})"
    if asked is not None:
        alike = _same(asked, answer["backend"] if answer["refused"] is None else None)
        verdict = "the same" if alike else "not the same"
        title = f"{arguments.selector}: {asked}\n{policy.name}: {title}\n{verdict}"
    opens = ["", _OPENS] if any("docs/" in step.source for step in trace) else []
    asking = f"{_question(environ, gpu, request)}, {rules_of}"
    print_lines([title, *notes, asking, "", *table, *opens])
    return code


def _asked(selector: str, environ: Mapping[str, str], gpu: Gpu, request: Request) -> Outcome:
    """Return what an installed selector does, asked in a process of its own on a mocked GPU.

    Raises:
        SelectorError: it cannot be imported, or is not a selector.
    """
    from pytest_rocm_attn.conformance.baseline.recording_command import subject_of
    from pytest_rocm_attn.conformance.isolation import Pool, Question
    from pytest_rocm_attn.conformance.promise.naming import Named

    variables = {name: text for name, text in environ.items() if name not in OPTIONS}
    if USE_PREFILL_DECODE in environ:
        # The adapters take this option by the variable that it took the place of, and a name with it.
        variables[PREFILL_DECODE] = environ[USE_PREFILL_DECODE]
        if ATTENTION_BACKEND in environ:
            variables[EXPLICIT] = environ[ATTENTION_BACKEND]
        question = Question.of(gpu, variables, request)
    else:
        named = Named(environ.get(ATTENTION_BACKEND))
        question = Question.of(gpu, variables, request, "named", named.to_text())
    pool = Pool(subject_of(selector, _TIMEOUT), lanes=1)
    try:
        pool.probe([question])
        (future,) = pool.submit([question])
        return future.result().outcome
    finally:
        pool.close()


_TIMEOUT = 120.0  # seconds for one answer: it includes the import of whatever the selector needs


def _name(outcome: Outcome) -> str:
    """Return the backend that a selector selected, or ""."""
    from pytest_rocm_attn.outcome import Selected

    return outcome.backend if isinstance(outcome, Selected) else ""


def _same(outcome: Outcome, backend: str | None) -> bool:
    """Whether a selector does what the rules say: that backend, or a refusal for None."""
    from pytest_rocm_attn.outcome import Rejected

    return isinstance(outcome, Rejected) if backend is None else _name(outcome) == backend


def _selector_json(arguments: argparse.Namespace, outcome: Outcome) -> dict[str, Any]:
    return {
        "name": arguments.selector,
        "outcome": type(outcome).__name__.lower(),
        "backend": _name(outcome) or None,
        "text": str(outcome),
    }


def _policy(arguments: argparse.Namespace) -> tuple[Policy, str]:
    """Return the rules to ask, and in words why these.

    Raises:
        UnknownReleaseError: no policy is of the release that was given.
    """
    from pytest_rocm_attn.backends.releases import NEWEST, policy_of

    if arguments.release is not None:
        return policy_of(arguments.release), "--release"
    if selector := getattr(arguments, "selector", None):
        from importlib.metadata import PackageNotFoundError, version

        try:
            installed = version(selector.partition(".")[0])
            return policy_of(installed), "the installed version"
        except (PackageNotFoundError, UnknownReleaseError):
            return policy_of(NEWEST), "the newest known; --release gives another"
    return policy_of(NEWEST), "the newest known; --release gives another"


def _read(environ: Mapping[str, str], policy: Policy) -> dict[str, str]:
    """Return what the release reads at all: a variable that is gone cannot be wrong."""
    return {name: text for name, text in environ.items() if name not in policy.ignored}


def _without_effect(environ: Mapping[str, str], policy: Policy) -> list[str]:
    """Return a sentence for each variable that is set and does not affect the selection."""
    found = []
    for name in environ:
        if why := policy.ignored.get(name):
            found.append(f"{policy.name} does not read {name}: {why}")
        elif name not in policy.reads and name != _MLA_DISABLE:
            found.append(f"{name} does not change what {policy.name} selects")
    return found


def how_to_get(arguments: argparse.Namespace) -> int:
    """Print the smallest sets of variables and options that lead to a backend, or why none does."""
    from pytest_rocm_attn import backends

    gpu = _machine(arguments)
    policy, chosen = _policy(arguments)
    request, _ = _request(arguments, Flags())
    ways: tuple[dict[str, str], ...] = ()
    refused = None
    try:
        ways = backends.how_to_get(arguments.backend, request, gpu, policy)
    except SelectionError as error:
        refused = str(error)
    code = REFUSED if refused else OK
    question = f"{_question({}, gpu, request)}, by the rules of {policy.name} ({chosen})"
    if arguments.json:
        asked = {"gpu": _gpu_json(gpu), "request": request.non_default()}
        answer = {"backend": arguments.backend, "ways": ways, "refused": refused}
        print_json(answer | {"release": policy.name} | asked)
    elif refused:
        print_lines([f"no variables lead to {arguments.backend}: {refused}", question])
    else:
        lines = [_assignments(way) or "(set nothing)" for way in ways]
        print_lines([*lines, question])
    return code


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the declared variables, and options of the server, that the user gave.

    Raises:
        FlagError: a word that is not NAME=value, a name that is not declared, or two values of one.
    """
    environ = {}
    if arguments.environment:
        environ = {name: text for name, text in os.environ.items() if name in VARIABLES}
    given: dict[str, str] = {}
    for word in (*map(_from_shell, arguments.env), *arguments.flags):
        name, equals, text = word.partition("=")
        if not equals:
            raise FlagError(f"{word!r} is not of the form NAME=value")
        if given.setdefault(variable(name).name, text) != text:
            raise FlagError(f"{name} is given twice, as {given[name]!r} and {text!r}")
    if arguments.attention_backend is not None:
        given[ATTENTION_BACKEND] = arguments.attention_backend
    if arguments.use_prefill_decode_attention:
        given[USE_PREFILL_DECODE] = "true"
    return environ | given


def _from_shell(word: str) -> str:
    """Return ``NAME=value`` of -e; NAME alone stands for its value in this shell, as in docker."""
    if "=" in word:
        return word
    if word not in os.environ:
        raise FlagError(f"-e {word}: it is not set in this shell; write {word}=value")
    return f"{word}={os.environ[word]}"


def _machine(arguments: argparse.Namespace) -> Gpu:
    if arguments.gpu is not None:
        return Gpu(arguments.gpu, Aiter(arguments.aiter or Aiter.PRESENT))
    from pytest_rocm_attn.aiter_probe import probe
    from pytest_rocm_attn.hardware import detect

    detection = detect()
    if not detection.gpus:
        raise UnknownGpuError(
            "give --gpu, such as --gpu gfx942: this machine has no AMD GPU that can be used;"
            " `rocm-attn doctor` says why"
        )
    return Gpu(detection.gpus[0].gfx, Aiter(arguments.aiter or probe().state))


def _request(arguments: argparse.Namespace, flags: Flags) -> tuple[Request, str]:
    """Return the request, and a note when a variable changed its kind."""
    fields = {name: value for name, value in vars(arguments).items() if name in _REQUEST_FIELDS}
    request = Request(**fields)
    if not (request.use_mla and flags[_MLA_DISABLE]):
        return request, ""
    # Not latent any more: a DeepSeek head is 128 elements without rotation and 64 with, and every
    # query head has KV of its own (docs/reference/backends.md#mla).
    ordinary = {"head_size": 192, "num_heads": request.num_heads, "num_kv_heads": request.num_heads}
    request = Request(**ordinary | fields | {"use_mla": False})
    return request, "VLLM_MLA_DISABLE is on: the MLA model runs as ordinary attention"


def _question(environ: Mapping[str, str], gpu: Gpu, request: Request) -> str:
    needs = ", ".join(f"{name} {value}" for name, value in request.non_default().items())
    flags = f"{_assignments(environ)}, " if environ else ""
    return f"for {flags}{gpu.gfx}, aiter {gpu.aiter}, {needs or 'an ordinary request'}"


def _assignments(environ: Mapping[str, str]) -> str:
    return " ".join(f"{name}={shlex.quote(text)}" for name, text in environ.items())


def _gpu_json(gpu: Gpu) -> dict[str, str]:
    return {"gfx": gpu.gfx, "aiter": gpu.aiter.value}
