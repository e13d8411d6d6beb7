"""`python -m pytest -m rocm_attn_gpu --rocm-attn-report=FILE`: what a run of hardware tests leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn import aiter_probe, hardware
from pytest_rocm_attn.conformance.run import hardware_report
from pytest_rocm_attn.gpu import Aiter

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., pytest.RunResult]

_KEPT = hardware_report  # imported before pytester, which drops what a run in this process imports
TESTS = '''
import pytest

pytestmark = pytest.mark.rocm_attn_gpu

def test_right(record_property):
    """The backend is right."""
    record_property("rocm_attn_backend", "OURS")
    record_property("rocm_attn_evidence", "rocm")
    record_property("rocm_attn_ratio", 0.25)
    record_property("rocm_attn_device", {"name": "MI300X", "arch": "gfx942:sramecc+:xnack-"})

def test_wrong(record_property):
    record_property("rocm_attn_backend", "OURS")
    record_property("rocm_attn_evidence", "rocm")
    assert 1 == 2, "error is 7 times its bound"

def test_crash():
    raise RuntimeError("hipErrorLaunchFailure")

def test_advisory():
    pytest.xfail("ALiBi beside sinks")

@pytest.mark.rocm_attn_aiter
def test_needs_aiter():
    raise AssertionError

@pytest.fixture
def broken():
    raise OSError("no such device")

def test_setup(broken):
    pass

@pytest.fixture
def hung():
    yield
    raise OSError("the device hangs")

def test_teardown(hung):
    pass

def test_wrong_and_teardown(hung):
    assert 1 == 2, "wrong"
'''
PLAIN = "\ndef test_plain():\n    pass\n"


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs hardware tests on a machine with the given GPUs and without aiter."""
    pytester.makepyfile(test_it=TESTS, test_plain=PLAIN)
    monkeypatch.setattr(aiter_probe, "probe", lambda: aiter_probe.Probe(Aiter.ABSENT, "none"))

    def run(*options: str, gpus: tuple[str, ...]) -> pytest.RunResult:
        found = tuple(hardware.DetectedGpu(n, gfx, "MI") for n, gfx in enumerate(gpus))
        monkeypatch.setattr(hardware, "detect", lambda: hardware.Detection(found, "none here"))
        return pytester.runpytest_inprocess("-p", "no:randomly", *options)

    return run


def rows_of(pytester: pytest.Pytester) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    report: dict[str, Any] = json.loads((pytester.path / "r.json").read_text())
    return report, {row["id"].partition("::")[2]: row for row in report["rows"]}


def test_a_command_is_for_the_folder_that_pytest_was_started_in(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini("[pytest]")  # here is pytest's root
    folder = pytester.mkdir("gpu tests")
    (folder / "test_below.py").write_text(TESTS)
    monkeypatch.chdir(folder)
    run("-k", "right", "--rocm-attn-report=../r.json", gpus=("gfx942",))
    again = rows_of(pytester)[1]["test_right"]["again"]
    assert again == "python -m pytest -m rocm_attn_gpu test_below.py::test_right"


def test_each_test_that_ran_has_a_row(run: Run, pytester: pytest.Pytester) -> None:
    result = run(
        "-m",
        "rocm_attn_gpu",
        "--rocm-attn-report=r.json",
        "--rocm-attn-report=r.md",
        gpus=("gfx942",),
    )
    report, rows = rows_of(pytester)
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "test_right": "pass",
        "test_wrong": "fail",
        "test_crash": "crash",
        "test_advisory": "advisory",
        "test_setup": "error",
        "test_teardown": "error",
        "test_wrong_and_teardown": "error",
    }
    assert len(report["rows"]) == len(rows)  # one for each test
    assert rows["test_teardown"]["message"] == "teardown failed: OSError: the device hangs"
    both = rows["test_wrong_and_teardown"]["message"]
    assert both.startswith("teardown failed: OSError: the device hangs; before that, fail: wrong")
    right = rows["test_right"]
    assert (right["tier"], right["evidence"], right["seconds"] > 0) == ("hardware", "rocm", True)
    assert right["gpu"] == {"gfx": "gfx942", "aiter": "absent"}
    assert right["expect"]["words"] == "The backend is right."
    assert right["details"] == {"backend": {"name": "OURS", "spec": ""}, "ratio": 0.25}
    assert right["again"] == "python -m pytest -m rocm_attn_gpu test_it.py::test_right"
    assert "error is 7 times its bound" in rows["test_wrong"]["message"]
    assert "hipErrorLaunchFailure" in rows["test_crash"]["outcome"]["traceback"]
    assert rows["test_crash"]["evidence"] == "real"
    host = report["host"]
    assert host["devices"] == [{"name": "MI300X", "arch": "gfx942:sramecc+:xnack-"}]
    assert host["real_gpus"] == [{"index": 0, "gfx": "gfx942", "name": "MI"}]
    assert (host["kind"], host["machine"]) == ("real", "gfx942 (MI), aiter absent")
    assert rows["test_setup"]["message"] == "setup failed: OSError: no such device"
    (skipped,) = report["declined"]
    assert skipped["reason"].startswith("rocm-attn: needs AMD's aiter")
    assert report["selected"] == 8
    result.stdout.fnmatch_lines(["OURS *1 pass, 1 fail", "on MI300X (gfx942:sramecc+:xnack-)"])
    result.stdout.fnmatch_lines(
        [
            "hardware tests, 8 items: 1 pass, 3 error, 1 crash, 1 fail, 1 advisory, 1 skipped: *r.json"
        ]
    )
    markdown = (pytester.path / "r.md").read_text()
    assert "`hardware tests` (`on a real AMD GPU" in markdown


def test_without_a_gpu_the_report_says_that_nothing_ran(
    run: Run, pytester: pytest.Pytester
) -> None:
    result = run(
        "-m", "rocm_attn_gpu", "--rocm-attn-report=r.json", "--rocm-attn-report=r.html", gpus=()
    )
    result.assert_outcomes(skipped=8, deselected=1)
    report, rows = rows_of(pytester)
    assert rows == {}
    assert report["host"]["kind"] == "none"
    reasons = {entry["reason"] for entry in report["declined"]}
    assert (reasons, len(report["declined"])) == (
        {"rocm-attn: needs a real ROCm GPU: none here"},
        8,
    )
    page = (pytester.path / "r.html").read_text()
    assert '<p class="result bad">8 items: 8 skipped</p>' in page


def test_tests_without_a_hardware_marker_are_not_in_it(run: Run, pytester: pytest.Pytester) -> None:
    run("test_plain.py", "--rocm-attn-report=r.json", gpus=("gfx942",))
    report, rows = rows_of(pytester)
    assert (rows, report["selected"]) == ({}, 0)


def test_the_report_can_be_read_back(run: Run, pytester: pytest.Pytester) -> None:
    run("-m", "rocm_attn_gpu", "--rocm-attn-report=r.json", gpus=("gfx942",))
    command = [sys.executable, "-m", "pytest_rocm_attn", "report", "r.json", "r.html"]
    subprocess.run(command, cwd=pytester.path, check=True)
    assert "hardware tests" in (pytester.path / "r.html").read_text()


def test_a_path_that_cannot_be_written_is_told_before_anything_runs(run: Run) -> None:
    result = run("--rocm-attn-report=no/such/r.json", gpus=())
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "no/such is not a folder" in " ".join(result.errlines)


def test_xdist_sends_the_rows_to_the_controller(pytester: pytest.Pytester) -> None:
    """Nothing runs without a GPU, but what did not is counted once."""
    pytester.makepyfile(test_it=TESTS)
    result = pytester.runpytest_subprocess(
        "-n", "2", "-m", "rocm_attn_gpu", "--rocm-attn-report=r.json"
    )
    if hardware.detect().gpus:
        pytest.skip("made for a machine without an AMD GPU")
    result.assert_outcomes(skipped=8)
    report, _ = rows_of(pytester)
    assert len(report["declined"]) == report["selected"] == 8


def test_the_machine_is_asked_for_its_gpu_once_and_a_stopped_run_counts_what_it_left_out(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(hardware_report, "first_gpu", lambda: asked.append(1))
    selected = ("-m", "rocm_attn_gpu", "--rocm-attn-report=r.json", "--rocm-attn-report=r.md")
    result = run(*selected, "-x", gpus=("gfx942",))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert len(asked) == 1
    report, rows = rows_of(pytester)
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "test_right": "pass",
        "test_wrong": "fail",
    }
    assert (report["selected"], len(report["not_run"])) == (8, 6)
    assert "8 items: 1 pass, 1 fail, 6 not run" in (pytester.path / "r.md").read_text()


LOST = """
import os, signal
import pytest
from pytest_rocm_attn import hardware

hardware.detect = lambda: hardware.Detection((hardware.DetectedGpu(0, "gfx942", "MI"),), "")

@pytest.mark.rocm_attn_gpu
def test_lost():
    os.kill(os.getpid(), signal.SIGKILL)

@pytest.mark.rocm_attn_gpu
def test_right():
    pass

def test_plain_and_lost():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_test_whose_xdist_worker_was_lost_has_a_row(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=LOST)
    result = pytester.runpytest_subprocess("-n", "1", "--rocm-attn-report=r.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    report, rows = rows_of(pytester)
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "test_lost": "error",
        "test_right": "pass",
    }
    assert "crashed while running 'test_it.py::test_lost'" in rows["test_lost"]["message"]
    assert (report["selected"], report["not_run"]) == (2, [])
