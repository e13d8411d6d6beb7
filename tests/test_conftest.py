"""What a run of all tests leaves out: it says so, and `make` has a run of its own for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Item:
    """What the hooks look at of a test."""

    path: Path


@pytest.fixture
def conftest(request: pytest.FixtureRequest) -> Any:
    """tests/conftest.py, which no test can import."""
    return request.config.pluginmanager.getplugin(str(ROOT / "tests" / "conftest.py"))


@pytest.fixture
def leave_out(conftest: Any) -> Any:
    """A function: the items that a run leaves out of two, and what its summary says."""

    def leave_out(*arguments: str) -> tuple[list[Any], list[str]]:
        gone: list[Any] = []
        lines: list[str] = []
        items = [
            Item(ROOT / "tests" / "plugin" / "test_gpu.py"),
            Item(conftest.INTERPRETED / "test_drawn_cases.py"),
        ]
        kept = list(items)
        config = SimpleNamespace(
            option=SimpleNamespace(markexpr=""),
            invocation_params=SimpleNamespace(dir=ROOT),
            args=list(arguments),
            hook=SimpleNamespace(pytest_deselected=lambda items: gone.extend(items)),
        )
        conftest.pytest_collection_modifyitems(config, kept)
        assert kept == [item for item in items if item not in gone]
        reporter = SimpleNamespace(write_line=lines.append)
        conftest.pytest_terminal_summary(reporter, config)
        return [item.path.name for item in gone], [line.partition(" were ")[0] for line in lines]

    return leave_out


@pytest.mark.parametrize("argument", ["tests", "tests/backends"])
def test_a_run_that_compiles_leaves_out_what_is_interpreted_and_says_so(
    leave_out: Any, monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    gone, said = leave_out(argument)
    assert gone == ["test_drawn_cases.py"]
    assert said[-1:] == ["tests of interpreted kernels"]
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    gone, said = leave_out(argument)
    assert gone == []
    assert "tests of interpreted kernels" not in said


def test_a_run_of_other_tests_says_nothing_of_those(leave_out: Any) -> None:
    assert leave_out("tests/plugin")[1] == []


TARGETS = {"test": "", "test-slow": "", "test-floor": "-floor", "test-latest": "-latest"}
PYTHON = """#!/bin/sh
case "$*" in
  *" {folder}"*) echo interpreted; exit {interpreted};;
  *) sleep 0.1; echo others; exit {others};;
esac
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("interpreted", "others"), [(0, 0), (1, 0), (0, 1)])
def test_make_runs_what_a_run_of_all_tests_leaves_out_and_fails_if_either_does(
    conftest: Any, tmp_path: Path, interpreted: int, others: int
) -> None:
    folder = conftest.INTERPRETED.relative_to(ROOT)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    for target, suffix in TARGETS.items():
        python = tmp_path / f".venv{suffix}" / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(PYTHON.format(folder=folder, interpreted=interpreted, others=others))
        python.chmod(0o755)
        (python.parents[1] / "installed").touch()
        done = subprocess.run(
            ["make", "--silent", target], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert bool(done.returncode) == bool(interpreted or others), target
        if target != "test-slow" or not others:  # whose second run waits for the first
            assert done.stdout == "others\ninterpreted\n", (target, done.stderr)


def test_a_run_in_this_process_keeps_our_modules(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "pytest_rocm_attn.web_page"
    monkeypatch.delitem(sys.modules, name, raising=False)
    pytester.makepyfile(f"def test_one(): import {name}")
    pytester.runpytest_inprocess("-p", "no:randomly").assert_outcomes(passed=1)
    assert name in sys.modules
