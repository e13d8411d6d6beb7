"""The mutation run, and that it can tell a test that sees from one that does not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).with_name("mutate.py")


def mutate(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *words], capture_output=True, text=True, check=False
    )


def test_every_rule_limit_and_parse_rule_has_mutants() -> None:
    done = mutate("--list")
    assert (done.returncode, done.stderr) == (0, "")
    names = done.stdout.splitlines()
    assert len(names) == len(set(names))
    for change in (
        "selector select: named is None -> named is not None",
        "policy ORDINARY: AITER -> (nothing)",
        "policy flag: lambda request, flags, gpu: flags[name] -> lambda",
        "capabilities BLOCK_SIZE_AT_LEAST_16: request.block_size >= 16 -> request.block_size > 16",
        "capabilities HEAD_SIZES: 96 -> (nothing)",
        "flags Variable.parse: text.lower() in ('true', '1') -> text.lower() not in",
        "inverse how_to_get: return ways -> return None",
    ):
        assert any(name.startswith(change) for name in names), change
    assert not [name for name in names if re.match(r"\w+ [\w.]+: '?docs/", name)]  # no source is


@pytest.mark.slow
def test_a_change_that_matters_is_noticed() -> None:
    done = mutate("policy BLOCK_SIZE_IS_1: request.block_size == 1")
    assert done.returncode == 0, done.stdout
    assert "mutants: 1 noticed, 0 equivalent, 0 survived" in done.stdout


@pytest.mark.slow
def test_no_mutant_of_the_reference_survives() -> None:
    done = mutate()
    assert done.returncode == 0, done.stdout + done.stderr
