"""The ``rocm-attn`` command.

Exit codes: 0 the answer is positive, 1 it is a refusal (or the doctor found something to mend),
2 the question was wrong; ``matrix`` ends with pytest's own.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_rocm_attn.errors import FlagError, RocmAttnError, SelectionError, UnknownGpuError
from pytest_rocm_attn.flags import VARIABLES, Flags, variable
from pytest_rocm_attn.gpu import Aiter, Gpu, known_gpus
from pytest_rocm_attn.request import ATTN_TYPES, DTYPES, KV_CACHE_DTYPES, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

OK, REFUSED, USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        argv: the words after the program's name; sys.argv's when None.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["matrix"] and not {"-h", "--help"} & set(words[1:2]):
        return _matrix(words[1:])
    try:
        arguments = _parse(words)
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except RocmAttnError as error:
        print(f"rocm-attn: {error}", file=sys.stderr)
        return USAGE


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line, where argparse would print the usage first.
        print(f"{self.prog}: {message}; see `{self.prog} --help`", file=sys.stderr)
        raise SystemExit(USAGE)


def _parser() -> argparse.ArgumentParser:
    from pytest_rocm_attn import __version__

    parser = _Parser(prog="rocm-attn", description="ROCm attention-backend selection, explained.")
    parser.add_argument("--version", action="version", version=f"rocm-attn {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    explain = commands.add_parser(
        "explain",
        help="print which backend is selected, and every step that leads there",
        description="Print which backend the reference selects, and every step that leads there.",
    )
    explain.add_argument("flags", nargs="*", metavar="NAME=value", help="environment variables")
    explain.add_argument(
        "--environment",
        action="store_true",
        help="start from the variables of this shell; NAME=value changes them",
    )
    _add_machine_and_request(explain)
    explain.set_defaults(command=_explain)

    inverse = commands.add_parser(
        "how-to-get",
        help="print the smallest sets of variables that lead to a backend",
        description="Print the smallest sets of variables that lead to a backend, or why none does.",
    )
    inverse.add_argument("backend", metavar="BACKEND", help="such as ROCM_AITER_FA")
    _add_machine_and_request(inverse)
    inverse.set_defaults(command=_how_to_get)

    doctor = commands.add_parser(
        "doctor",
        help="say what this machine has",
        description="Say what this machine has that bears on ROCm attention.",
    )
    doctor.add_argument(
        "--import-aiter",
        action="store_true",
        help="also try the import of AMD's aiter, in a process of its own (it may compile)",
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(command=_doctor)

    report = commands.add_parser(
        "report",
        help="turn a JSON report into others: .html, .md",
        description="Turn the report of --rocm-attn-report=FILE.json into others, by suffix.",
    )
    report.add_argument("source", metavar="FILE.json", type=Path)
    report.add_argument("targets", metavar="OUT", nargs="+", help="FILE.html, FILE.md")
    report.set_defaults(command=_report)

    record = commands.add_parser(
        "record",
        help="record a selector's answers over the whole grid, as a baseline",
        description="Ask a selector every cell of the grid, under mocked GPUs, and write a baseline"
        " that runs and other baselines are compared with.",
    )
    record.add_argument("selector", metavar="SELECTOR", help="module:object or file.py:object")
    record.add_argument("--output", metavar="FILE.json", type=Path, required=True)
    record.add_argument("--force", action="store_true", help="replace FILE.json")
    record.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=30.0, help="of one answer; default: 30"
    )
    record.add_argument(
        "--source",
        metavar="FILE",
        type=Path,
        action="append",
        help="what the checksum is taken of, such as the wheel; default: the selector's file",
    )
    record.set_defaults(command=_record)

    diff = commands.add_parser(
        "diff",
        help="print what changed from one baseline to another",
        description="Print what changed from one baseline to another, the most important first.",
    )
    diff.add_argument(
        "before", metavar="A", help="a shipped baseline such as vllm-0.18.1, or a file"
    )
    diff.add_argument("after", metavar="B")
    diff.add_argument("--format", choices=("text", "markdown", "json"), default="text")
    diff.add_argument(
        "--limit", metavar="N", type=int, default=20, help="entries to print; default: 20, 0: all"
    )
    diff.set_defaults(command=_diff)

    commands.add_parser(
        "matrix",
        help="run the conformance matrix: pytest --rocm-attn-conformance, with what follows",
        description="Run pytest --rocm-attn-conformance with every further argument.",
    )
    return parser


def _add_machine_and_request(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--gpu", metavar="GFX", help=f"{', '.join(known_gpus())}; default: this one"
    )
    machine.add_argument(
        "--aiter",
        choices=[state.value for state in Aiter],
        help="the state of AMD's aiter; default: present, or what this machine has without --gpu",
    )
    request = parser.add_argument_group("request", "what the attention layer needs")
    # Only what is given appears among the arguments: the defaults are Request's.
    add = functools.partial(request.add_argument, default=argparse.SUPPRESS)
    add("--mla", dest="use_mla", action="store_true", help="the model is an MLA model")
    add("--sparse", dest="use_sparse", action="store_true", help="the layer is sparse (indexed)")
    add("--block-size", type=_block_size, metavar="N", help="tokens per KV-cache block, or none")
    add("--head-size", type=int, metavar="N", help="elements per head")
    add("--dtype", metavar="D", help=", ".join(DTYPES))
    add("--kv-cache-dtype", metavar="D", help=", ".join(KV_CACHE_DTYPES))
    add("--attn-type", metavar="T", help=", ".join(ATTN_TYPES))
    add("--num-heads", type=int, metavar="N", help="query heads per rank")
    add("--num-kv-heads", type=int, metavar="N", help="KV heads per rank")
    add("--sliding-window", type=int, metavar="N", help="window in tokens")
    add("--logits-soft-cap", type=float, metavar="X", help="soft cap on the scores")
    add("--sinks", dest="has_sink", action="store_true", help="the layer has attention sinks")
    add("--alibi", action="store_true", help="the layer has ALiBi slopes")
    add("--mm-prefix", dest="use_mm_prefix", action="store_true", help="bidirectional prefix")


_REQUEST_FIELDS = tuple(Request.__dataclass_fields__)


def _block_size(text: str) -> int | None:
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor none") from None


def _parse(words: list[str]) -> argparse.Namespace:
    parser = _parser()
    arguments, rest = parser.parse_known_args(words)
    # argparse takes positionals in one run; NAME=value may also stand after or between options.
    more = [word for word in rest if "=" in word and not word.startswith("-")]
    unknown = [word for word in rest if word not in more]
    if unknown or (more and not hasattr(arguments, "flags")):
        parser.error(f"unrecognized arguments: {' '.join(unknown or more)}")
    if more:
        arguments.flags += more
    return arguments


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the declared variables that the user gave.

    Raises:
        FlagError: a word that is no NAME=value, or a name that is not declared.
    """
    environ = {}
    if arguments.environment:
        environ = {name: text for name, text in os.environ.items() if name in VARIABLES}
    for word in arguments.flags:
        name, equals, text = word.partition("=")
        if not equals:
            raise FlagError(f"{word!r} is not of the form NAME=value")
        environ[variable(name).name] = text
    return environ


def _machine(arguments: argparse.Namespace) -> Gpu:
    if arguments.gpu is not None:
        return Gpu(arguments.gpu, Aiter(arguments.aiter or Aiter.PRESENT))
    from pytest_rocm_attn.aiter_probe import probe
    from pytest_rocm_attn.hardware import detect

    detection = detect()
    if not detection.gpus:
        raise UnknownGpuError(
            f"give --gpu, such as --gpu gfx942: this machine has no AMD GPU ({detection.reason})"
        )
    return Gpu(detection.gpus[0].gfx, Aiter(arguments.aiter or probe().state))


def _request(arguments: argparse.Namespace, flags: Flags) -> tuple[Request, str]:
    """Return the request, and a note when a variable changed its kind."""
    fields = {name: value for name, value in vars(arguments).items() if name in _REQUEST_FIELDS}
    request = Request(**fields)
    if not (request.use_mla and flags["VLLM_MLA_DISABLE"]):
        return request, ""
    # Not latent any more: a DeepSeek head is 128 elements without rotation and 64 with, and every
    # query head has KV of its own (facts/backends.md 4.1).
    ordinary = {"head_size": 192, "num_heads": request.num_heads, "num_kv_heads": request.num_heads}
    request = Request(**ordinary | fields | {"use_mla": False})
    return request, "VLLM_MLA_DISABLE is on: the MLA model runs as ordinary attention"


def _explain(arguments: argparse.Namespace) -> int:
    from pytest_rocm_attn.backends import select

    environ = _environment(arguments)
    flags, gpu = Flags(environ), _machine(arguments)
    request, note = _request(arguments, flags)
    answer: dict[str, Any]
    try:
        selection = select(request, flags, gpu)
    except SelectionError as error:
        code, trace = REFUSED, error.trace
        answer = {"backend": error.backend, "class_path": None, "refused": str(error)}
        title = f"refused: {error}"
    else:
        code, trace = OK, selection.trace
        answer = {"backend": selection.backend, "class_path": selection.class_path, "refused": None}
        title = f"{selection.backend}  ({selection.class_path})"
    steps = [
        {"rule": s.rule, "answer": s.answer, "reason": s.reason, "source": s.source} for s in trace
    ]
    if arguments.json:
        asked = {"environment": environ, "gpu": _gpu_json(gpu), "request": request.non_default()}
        _print_json(answer | {"note": note or None} | asked | {"trace": steps})
        return code
    table = _aligned([(s.rule, s.answer, f"{s.reason}  [{s.source}]") for s in trace])
    _print([title, *([note] if note else []), _question(environ, gpu, request), "", *table])
    return code


def _how_to_get(arguments: argparse.Namespace) -> int:
    from pytest_rocm_attn.backends import how_to_get

    gpu = _machine(arguments)
    request, _ = _request(arguments, Flags())
    ways: tuple[dict[str, str], ...] = ()
    refused = None
    try:
        ways = how_to_get(arguments.backend, request, gpu)
    except SelectionError as error:
        refused = str(error)
    code = REFUSED if refused else OK
    if arguments.json:
        asked = {"gpu": _gpu_json(gpu), "request": request.non_default()}
        answer = {"backend": arguments.backend, "ways": ways, "refused": refused}
        _print_json(answer | asked)
    elif refused:
        _print(
            [f"no variables lead to {arguments.backend}: {refused}", _question({}, gpu, request)]
        )
    else:
        lines = [_assignments(way) or "(set nothing)" for way in ways]
        _print([*lines, _question({}, gpu, request)])
    return code


def _doctor(arguments: argparse.Namespace) -> int:
    from pytest_rocm_attn.doctor import examine

    findings = examine(os.environ, import_aiter=arguments.import_aiter)
    if arguments.json:
        fields = [{"subject": f.subject, "text": f.text, "trouble": f.trouble} for f in findings]
        _print_json({"findings": fields})
    else:
        _print(_aligned([(f.subject, "!" if f.trouble else "", f.text) for f in findings]))
    return REFUSED if any(finding.trouble for finding in findings) else OK


def _report(arguments: argparse.Namespace) -> int:
    from pytest_rocm_attn.conformance.report import output, saved

    for target in arguments.targets:
        output.check(Path(target), target)
    output.write(map(Path, arguments.targets), saved.load(arguments.source))
    return OK


def _record(arguments: argparse.Namespace) -> int:
    from pytest_rocm_attn.conformance import recording_command

    recording_command.run(arguments)
    return OK


def _diff(arguments: argparse.Namespace) -> int:
    from pytest_rocm_attn.conformance import changelog
    from pytest_rocm_attn.conformance.baseline import load
    from pytest_rocm_attn.conformance.grid.design import standard

    before, after = load(arguments.before), load(arguments.after)
    found = changelog.Changelog.between(before, after, standard())
    _print([changelog.render(found, arguments.format, max(0, arguments.limit)).rstrip("\n")])
    return OK


def _matrix(arguments: list[str]) -> int:
    import pytest

    return int(pytest.main(["--rocm-attn-conformance", *arguments]))


def _question(environ: Mapping[str, str], gpu: Gpu, request: Request) -> str:
    needs = ", ".join(f"{name} {value}" for name, value in request.non_default().items())
    flags = f"{_assignments(environ)}, " if environ else ""
    return f"for {flags}{gpu.gfx}, aiter {gpu.aiter}, {needs or 'an ordinary request'}"


def _assignments(environ: Mapping[str, str]) -> str:
    import shlex

    return " ".join(f"{name}={shlex.quote(text)}" for name, text in environ.items())


def _gpu_json(gpu: Gpu) -> dict[str, str]:
    return {"gfx": gpu.gfx, "aiter": gpu.aiter.value}


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _print_json(value: dict[str, Any]) -> None:
    _print([json.dumps({"schema": 1} | value, indent=2)])


def _print(lines: Iterable[str]) -> None:
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:
        # The reader (head, less) has seen enough. The interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
