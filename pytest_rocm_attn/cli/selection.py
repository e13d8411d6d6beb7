"""The commands about a selection: ``explain`` and ``how-to-get``."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.citations import SITE, linked
from pytest_rocm_attn.cli.printing import OK, REFUSED, print_json, print_lines
from pytest_rocm_attn.columns import aligned
from pytest_rocm_attn.errors import FlagError, SelectionError, UnknownGpuError
from pytest_rocm_attn.flags import VARIABLES, Flags, doubts, variable
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

_REQUEST_FIELDS = tuple(Request.__dataclass_fields__)

_OPENS = f"docs/PAGE.md#ROW is {SITE}PAGE/#ROW"


def explain(arguments: argparse.Namespace) -> int:
    """Print which backend the reference selects, and every step that leads there."""
    from pytest_rocm_attn import backends

    environ = _environment(arguments)
    flags, gpu = Flags(environ), _machine(arguments)
    request, note = _request(arguments, flags)
    doubtful = doubts(environ)
    answer: dict[str, Any]
    try:
        selection = backends.select(request, flags, gpu)
    except SelectionError as error:
        code, trace = REFUSED, error.trace
        answer = {"backend": error.backend, "class_path": None, "refused": str(error)}
        title = f"refused: {error}"
    else:
        code, trace = OK, selection.trace
        answer = {"backend": selection.backend, "class_path": selection.class_path, "refused": None}
        title = f"{selection.backend}  ({selection.class_path})"
    steps = [
        {"rule": s.rule, "answer": s.answer, "reason": s.reason, "source": linked(s.source)}
        for s in trace
    ]
    if arguments.json:
        asked = {"environment": environ, "gpu": _gpu_json(gpu), "request": request.non_default()}
        noted = {"note": note or None, "doubts": doubtful}
        print_json(answer | noted | asked | {"trace": steps})
        return code
    table = aligned([(s.rule, s.answer, f"{s.reason}  [{s.source}]") for s in trace])
    notes = [*([note] if note else []), *(f"note: {doubt}" for doubt in doubtful)]
    print_lines([title, *notes, _question(environ, gpu, request), "", *table, "", _OPENS])
    return code


def how_to_get(arguments: argparse.Namespace) -> int:
    """Print the smallest sets of variables that lead to a backend, or why none does."""
    from pytest_rocm_attn import backends

    gpu = _machine(arguments)
    request, _ = _request(arguments, Flags())
    ways: tuple[dict[str, str], ...] = ()
    refused = None
    try:
        ways = backends.how_to_get(arguments.backend, request, gpu)
    except SelectionError as error:
        refused = str(error)
    code = REFUSED if refused else OK
    if arguments.json:
        asked = {"gpu": _gpu_json(gpu), "request": request.non_default()}
        answer = {"backend": arguments.backend, "ways": ways, "refused": refused}
        print_json(answer | asked)
    elif refused:
        print_lines(
            [f"no variables lead to {arguments.backend}: {refused}", _question({}, gpu, request)]
        )
    else:
        lines = [_assignments(way) or "(set nothing)" for way in ways]
        print_lines([*lines, _question({}, gpu, request)])
    return code


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the declared variables that the user gave.

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
    if not (request.use_mla and flags["VLLM_MLA_DISABLE"]):
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
