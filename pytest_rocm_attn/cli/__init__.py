"""The ``rocm-attn`` command.

Exit codes: 0 the answer is positive, 1 it is a refusal (or the doctor found something to repair),
2 the question was wrong; ``matrix`` ends with pytest's own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rocm_attn.cli.arguments import USAGE, parse
from pytest_rocm_attn.cli.atlas import write_atlas
from pytest_rocm_attn.cli.printing import OK, REFUSED, print_json, print_lines
from pytest_rocm_attn.cli.selection import explain, how_to_get
from pytest_rocm_attn.columns import aligned
from pytest_rocm_attn.errors import RocmAttnError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        argv: the words after the program's name; sys.argv's when None.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["matrix"] and not {"-h", "--help"} & set(words[1:2]):
        return _matrix(words[1:])
    try:
        arguments = parse(words)
        return _COMMANDS[arguments.command](arguments)
    except RocmAttnError as error:
        print(f"rocm-attn: {error}", file=sys.stderr)
        return USAGE


def _doctor(arguments: argparse.Namespace) -> int:
    from pytest_rocm_attn.doctor import examine

    findings = examine(os.environ, import_aiter=arguments.import_aiter)
    if arguments.json:
        fields = [{"subject": f.subject, "text": f.text, "trouble": f.trouble} for f in findings]
        print_json({"findings": fields})
    else:
        print_lines(aligned([(f.subject, "!" if f.trouble else "", f.text) for f in findings]))
    return REFUSED if any(finding.trouble for finding in findings) else OK


def _report(arguments: argparse.Namespace) -> int:
    from pytest_rocm_attn.conformance.report import json_file, output

    for target in arguments.targets:
        output.check(Path(target), target)
    output.write(map(Path, arguments.targets), json_file.load(arguments.source))
    return OK


def _record(arguments: argparse.Namespace) -> int:
    from pytest_rocm_attn.conformance.baseline import recording_command

    recording_command.run(arguments)
    return OK


def _diff(arguments: argparse.Namespace) -> int:
    from pytest_rocm_attn.conformance.baseline import changelog
    from pytest_rocm_attn.conformance.baseline.baseline import load
    from pytest_rocm_attn.conformance.promise.grid.design import known, standard

    before, after = load(arguments.before), load(arguments.after)
    grids = {grid.digest: grid for grid in known()}
    grid = grids.get(before.grid_digest, standard())
    found = changelog.Changelog.between(before, after, grid)
    text = changelog.render(found, arguments.format, arguments.limit, full=arguments.full)
    print_lines([text.rstrip("\n")])
    return OK


def _init(arguments: argparse.Namespace) -> int:
    from pytest_rocm_attn.conformance.run import init_command

    good = init_command.run(arguments, lambda line: print(line, flush=True))
    return OK if good else REFUSED


def _compare(arguments: argparse.Namespace) -> int:
    from pytest_rocm_attn.conformance.baseline import compare_command

    lines, differs = compare_command.run(arguments)
    print_lines(lines)
    return REFUSED if differs else OK


def _matrix(arguments: list[str]) -> int:
    import pytest

    return int(pytest.main(["--rocm-attn-conformance", *arguments]))


def _predicates(arguments: argparse.Namespace) -> int:
    from pytest_rocm_attn.conformance.run import predicates_command

    print_lines(predicates_command.run(arguments))
    return OK


def _export(arguments: argparse.Namespace) -> int:
    from pytest_rocm_attn.conformance.run import export_command

    print_lines([export_command.run(arguments)])
    return OK


def _compare_kernels(arguments: argparse.Namespace) -> int:
    from pytest_rocm_attn.conformance.tiers.launch import compare_command

    print_lines(compare_command.run(arguments))
    return OK


_COMMANDS = {
    "explain": explain,
    "how-to-get": how_to_get,
    "doctor": _doctor,
    "report": _report,
    "record": _record,
    "diff": _diff,
    "compare": _compare,
    "init": _init,
    "compare-kernels": _compare_kernels,
    "predicates": _predicates,
    "export": _export,
    "atlas": write_atlas,
}
