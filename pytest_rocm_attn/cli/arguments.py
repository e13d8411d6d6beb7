"""What may stand on the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from pytest_rocm_attn.gpu import Aiter, known_gpus
from pytest_rocm_attn.request import ATTN_TYPES, DTYPES, KV_CACHE_DTYPES

USAGE = 2  # the exit code of a question that was wrong


def parse(words: list[str]) -> argparse.Namespace:
    """Read the words after the program's name; `command` is the name of what is wanted.

    Raises:
        SystemExit: they are wrong, which was said on one line, or help was wanted and printed.
    """
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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line, where argparse would print the usage first.
        print(f"{self.prog}: {message}; see `{self.prog} --help`", file=sys.stderr)
        raise SystemExit(USAGE)


def _parser() -> argparse.ArgumentParser:
    from pytest_rocm_attn import __version__

    parser = _Parser(prog="rocm-attn", description="ROCm attention-backend selection, explained.")
    parser.add_argument("--version", action="version", version=f"rocm-attn {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    explain = commands.add_parser(
        "explain",
        help="print which backend is selected, and every step that leads there",
        description="Print which backend a release selects, and every step that leads there; with"
        " --selector, which one an installed selector selects, together with the release's reasons.",
    )
    explain.add_argument(
        "-e",
        "--env",
        action="append",
        default=[],
        metavar="NAME=value",
        help="an environment variable; NAME alone: as this shell has it; may be given several times",
    )
    explain.add_argument(
        "flags", nargs="*", metavar="NAME=value", help="environment variables, without -e"
    )
    explain.add_argument(
        "--environment",
        action="store_true",
        help="start from the variables of this shell; NAME=value changes them",
    )
    explain.add_argument(
        "--attention-backend", metavar="NAME", help="the server's option: names a backend, or auto"
    )
    explain.add_argument(
        "--use-prefill-decode-attention",
        action="store_true",
        help="the server's --attention-config.use_prefill_decode_attention (vLLM 0.15 to 0.18)",
    )
    explain.add_argument(
        "--selector",
        metavar="SELECTOR",
        help="also ask this one, in a process of its own on a mocked GPU: module:object or"
        " file.py:object, such as vllm.platforms.rocm:RocmPlatform",
    )
    _add_machine_and_request(explain)

    inverse = commands.add_parser(
        "how-to-get",
        help="print the smallest sets of variables that lead to a backend",
        description="Print the smallest sets of variables that lead to a backend, or why none does.",
    )
    inverse.add_argument("backend", metavar="BACKEND", help="such as ROCM_AITER_FA")
    _add_machine_and_request(inverse)

    doctor = commands.add_parser(
        "doctor",
        help="say what this machine has",
        description="Report what on this machine affects ROCm attention.",
    )
    doctor.add_argument(
        "--import-aiter",
        action="store_true",
        help="also try the import of AMD's aiter, in a process of its own (it may compile)",
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")

    kernels = commands.add_parser(
        "compare-kernels",
        help="compile backends' kernels for a GPU and print their loop figures next to each other",
        description="Compile the kernels of backends for a GPU, without one, and print what their main"
        " loops take: instructions per score and key, registers, and an estimate of clocks.",
    )
    kernels.add_argument(
        "subjects",
        nargs="+",
        metavar="[NAME=]BACKEND[@TREE]",
        help="TRITON_ATTN, TRITON_MLA, ROCM_ATTN, VLLM, VLLM-MLA, VLLM-ROCM, AITER, module:object or"
        " file.py:object; TREE: the folder of a release's source, such as vllm-0.33.0",
    )
    kernels.add_argument("--gpu", required=True, metavar="GPU", help="such as gfx942 or MI300X")
    kernels.add_argument(
        "--family",
        nargs="+",
        default=["prefill-head-size-128", "decode-head-size-128"],
        metavar="FAMILY",
        help="shape families of the launch tier (default: prefill and decode of head size 128)",
    )

    report = commands.add_parser(
        "report",
        help="turn a JSON report into others: .html, .md",
        description="Turn the report of --rocm-attn-report=FILE.json into others, by suffix.",
    )
    report.add_argument("source", metavar="FILE.json", type=Path)
    report.add_argument("targets", metavar="OUT", nargs="+", help="FILE.html, FILE.md")

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
        "--sample",
        action="store_true",
        help="ask the cells of a compare alone: recordings of these are compared with each other",
    )
    record.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=30.0,
        help="of one answer; default: 30",
    )
    record.add_argument(
        "--source",
        metavar="FILE",
        type=Path,
        action="append",
        help="what the checksum is taken of, such as the wheel; default: the selector's file",
    )

    diff = commands.add_parser(
        "diff",
        help="print what changed from one baseline to another",
        description="Print what changed from one baseline to another, in the order of who meets it.",
    )
    diff.add_argument(
        "before", metavar="A", help="a shipped baseline such as vllm-0.18.1, or a file"
    )
    diff.add_argument("after", metavar="B")
    _add_shown(diff)

    compare = commands.add_parser(
        "compare",
        help="print what a change of a fork's sources changes in selection",
        description="Ask the selectors of two checkouts, or revisions of this one, the same cells under"
        " mocked GPUs, and print what differs, by cause. Ends with 0 if nothing does, 1 if something"
        " does, 2 if they cannot be compared.",
    )
    compare.add_argument("base", metavar="BASE", help="a folder, or a revision such as origin/main")
    compare.add_argument(
        "head", metavar="HEAD", nargs="?", default=".", help="default: this folder"
    )
    compare.add_argument(
        "--selector",
        metavar="SELECTOR",
        help="module:object or file.py:object in both; default: the platform of vLLM that is found",
    )
    compare.add_argument(
        "--whole",
        action="store_true",
        help="ask the whole grid, as record does, not a sample of it",
    )
    compare.add_argument("--timeout", metavar="SECONDS", type=_seconds, default=30.0)
    _add_shown(compare)

    atlas = commands.add_parser(
        "atlas",
        help="write one HTML page that answers what explain answers, for every release",
        description="Write one HTML page that needs no server: choose release, GPU, variables and layer, and"
        " see the backend, the reasons, what leads to others, and which releases answer differently.",
    )
    atlas.add_argument("target", metavar="OUT.html")

    init = commands.add_parser(
        "init",
        help="set a fork's checkout up: settings of pytest, deviations, a workflow",
        description="Find the selector of a checkout and the release that it is based on, write what is"
        " missing (pytest's setting, an empty deviations file, a workflow and what it installs), run the"
        " matrix once and say what it found. What exists is left as it is.",
    )
    init.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, default=Path())
    init.add_argument(
        "--selector",
        metavar="SELECTOR",
        help="module:object or file.py:object; default: it is found",
    )
    init.add_argument(
        "--dry-run", action="store_true", help="write and run nothing; say what would be"
    )
    init.add_argument("--no-run", action="store_true", help="write, and do not run the matrix")

    predicates = commands.add_parser(
        "predicates",
        help="print which predicates of a fork answer differently from GPU to GPU, or from release to release",
        description="Ask the predicates of a fork's platform, of AITER's operations and of the backends with"
        " plain values, under mocked GPUs, and print those that do not answer alike everywhere.",
    )
    predicates.add_argument("selector", metavar="SELECTOR", help="module:object or file.py:object")
    predicates.add_argument(
        "--gpu", metavar="GPU", nargs="+", default=["gfx942", "gfx950", "gfx1100", "gfx1201"]
    )
    predicates.add_argument(
        "-e",
        "--env",
        dest="environ",
        metavar="NAME=value",
        type=_variable,
        action="append",
        default=[],
    )
    predicates.add_argument("--output", metavar="FILE.json", type=Path, help="write all answers")
    predicates.add_argument(
        "--against",
        metavar="FILE.json",
        type=Path,
        help="print what changed since that was written",
    )
    predicates.add_argument("--timeout", metavar="SECONDS", type=_seconds, default=180.0)

    export = commands.add_parser(
        "export",
        help="write a contract and the descriptions of servers as JSON, for suites in other languages",
        description="Write the rows, capabilities and known defects of a contract, and the descriptions of"
        " servers, as JSON (docs/export.md).",
    )
    export.add_argument(
        "contract",
        nargs="?",
        default="vllm",
        metavar="CONTRACT",
        help="a shipped contract's name, or a file or folder; default: vllm",
    )
    export.add_argument(
        "--release",
        metavar="R",
        help="of vLLM: only what it promises; default: rows of all releases",
    )
    export.add_argument("--servers", metavar="FILE.toml", help="further descriptions of servers")
    export.add_argument("--output", metavar="FILE.json", type=Path, help="default: standard output")

    commands.add_parser(
        "matrix",
        help="run the conformance matrix: python -m pytest --rocm-attn-conformance, with what follows",
        description="Run python -m pytest --rocm-attn-conformance with every further argument.",
    )
    return parser


def _add_shown(parser: argparse.ArgumentParser) -> None:
    """Add how differences are printed."""
    parser.add_argument("--format", choices=("text", "markdown", "json"), default="text")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=_limit,
        default=10,
        help="causes to print; default: 10, 0: all",
    )
    parser.add_argument(
        "--full", action="store_true", help="print all causes, with the exact conditions of each"
    )


def _add_machine_and_request(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--release",
        metavar="R",
        help="of vLLM, such as 0.12, whose rules are asked, or pr-26980 for that contract; default:"
        " the newest known, or the installed one with --selector",
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--gpu",
        metavar="GPU",
        help=f"{', '.join(known_gpus())}, or a product such as MI300X; default: this machine's",
    )
    machine.add_argument(
        "--aiter",
        choices=[state.value for state in Aiter],
        help="the state of AMD's aiter; default: present, or what this machine has without --gpu",
    )
    _add_request(parser)


def request_options() -> dict[str, tuple[str, bool, str]]:
    """Return, by field of a request, the option that sets it, whether it takes a value, its help."""
    return {
        action.dest: (action.option_strings[0], action.nargs != 0, action.help or "")
        for action in _add_request(argparse.ArgumentParser())
    }


def _add_request(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    request = parser.add_argument_group("request", "what the attention layer needs")
    added: list[argparse.Action] = []

    def add(option: str, **meaning: Any) -> None:
        # Only what is given appears among the arguments: the defaults are Request's.
        added.append(request.add_argument(option, default=argparse.SUPPRESS, **meaning))

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
    add(
        "--mm-prefix",
        dest="use_mm_prefix",
        action="store_true",
        help="bidirectional attention over a multimodal prefix",
    )
    for option, words in (
        ("--kv-connector", "a KV connector moves the cache between servers"),
        ("--dcp", "decode context parallelism"),
        ("--pcp", "prefill context parallelism"),
        ("--batch-invariant", "results must not depend on the batch"),
        ("--non-causal", "a decoder layer attends to later tokens too"),
        ("--rswa", "a sliding window that restarts (R-SWA)"),
        ("--per-head-quant-scales", "the quantised cache has a scale for each head"),
        ("--adaptive-verification", "speculative drafts are trimmed on the device"),
    ):
        field = f"use_{option[2:].replace('-', '_')}"
        add(option, dest=field, action="store_true", help=words)
    add(
        "--encoder-decoder-model",
        action="store_true",
        help="the layer is part of an encoder-decoder model",
    )
    add("--run-kv-cache-dtype", metavar="D", help="the server's, if the layer's own differs")
    return added


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=value")
    return name, value


def _seconds(text: str) -> float:
    from pytest_rocm_attn.options import seconds

    try:
        return seconds(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds") from None


def _limit(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def _block_size(text: str) -> int | None:
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor none") from None
