"""Compilations that take long are named on the terminal, and can be ended."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path

import pytest

from pytest_rocm_attn import compile_watch

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)
SUITE = """
import time

import pytest
import torch
import triton
import triton.language as tl

from pytest_rocm_attn import compile_watch

compile_watch.SLOW = 0.2

@triton.jit
def fill(x_ptr):
    tl.store(x_ptr, 1)

@pytest.fixture(autouse=True)
def slow_compiler(monkeypatch):
    print("printed before")
    monkeypatch.setattr(triton.knobs.runtime, "jit_cache_hook", lambda **_: time.sleep(1))

def test_slow(dry_launch, capfd):
    launches = dry_launch("gfx942")
    fill[(1,)](torch.empty(1, device="meta"))
    launches.assert_fits()
    assert "compiling" not in "".join(capfd.readouterr())
"""


@needs_torch
@pytest.mark.parametrize(
    "options",
    [
        (),
        pytest.param(("-n1",), marks=pytest.mark.slow),
        pytest.param(("-s",), marks=pytest.mark.slow),
        pytest.param(("--capture=sys",), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_slow_compilation_is_named_on_the_terminal_past_capturing(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    suite = (
        SUITE if options != ("-s",) else SUITE.replace(", capfd", "").rpartition("    assert")[0]
    )
    pytester.makepyfile(suite)
    result = pytester.runpytest_subprocess("-p", "no:randomly", *options)
    result.assert_outcomes(passed=1)
    shown = str(result.stderr if options == ("-n1",) else result.stdout)
    assert "rocm-attn: still compiling fill for gfx942, for 0 s so far\n" in shown
    assert ("printed before" in shown) == (options == ("-s",))


@needs_torch
@pytest.mark.usefixtures("with_torch")
def test_the_option_bounds_compilations(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=SUITE.replace("sleep(1)", "sleep(20)"))
    result = pytester.runpytest_inprocess("-p", "no:randomly", "--rocm-attn-compile-timeout=0.4")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *CompileTimeoutError: compiling fill for gfx942 takes longer than the limit of 0.4 s *",
            "E *kernel fill for gfx942, by dry launch",
        ]
    )


def test_it_is_named_again_each_time_that_it_has_doubled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    monkeypatch.setattr(compile_watch, "SLOW", 0.02)
    monkeypatch.setattr(compile_watch, "say", said.append)
    with compile_watch.named("a kernel for gfx942"):
        end = time.monotonic() + 20
        while len(said) < 3 and time.monotonic() < end:
            time.sleep(0.01)
    count = len(said)
    assert count >= 3
    assert all(line.startswith("rocm-attn: still compiling a kernel for gfx942") for line in said)
    time.sleep(0.1)
    assert len(said) == count


def test_a_quick_compilation_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_watch, "say", pytest.fail)
    with compile_watch.named("a kernel"):
        pass


def test_outside_of_pytest_it_goes_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "pytest_rocm_attn.plugin")
    compile_watch.say("rocm-attn: still compiling")
    assert capsys.readouterr().err == "rocm-attn: still compiling\n"


def test_work_ends_in_time_or_is_ended(tmp_path: Path) -> None:
    done, other = tmp_path / "done", tmp_path / "other"
    assert compile_watch.ends_within(60, done.touch)
    assert done.exists()

    def too_long() -> None:
        time.sleep(0.5)
        other.touch()

    assert not compile_watch.ends_within(0.05, too_long)
    assert compile_watch.ends_within(60, lambda: 1 / 0)  # its error is for this process to raise
    time.sleep(0.6)
    assert not other.exists()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # none is left


def test_a_limit_of_processor_time_does_not_count_time_that_a_compiler_waits() -> None:
    assert compile_watch.ends_within(compile_watch.CpuSeconds(0.2), lambda: time.sleep(0.4))
    assert not compile_watch.ends_within(compile_watch.CpuSeconds(0.2), _work_for_ever)


def _work_for_ever() -> None:
    while True:
        pass
