"""The matrix on a machine with a real AMD GPU, whose detection is faked: nothing is mocked there."""

from __future__ import annotations

import contextlib
import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn import aiter_probe, hardware
from pytest_rocm_attn.conformance.isolation import Pool, Question, Subject, WorkerError
from pytest_rocm_attn.conformance.promise import contract, deviations
from pytest_rocm_attn.conformance.run import session
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., pytest.RunResult]

_KEPT = (contract, deviations, session)  # see test_conformance_run.py
with contextlib.suppress(ImportError):  # nor can torch be imported twice, as the mock would
    import torch  # noqa: F401  for the runs in this process
pytestmark = pytest.mark.usefixtures("without_torch")
CASE = """
[[case]]
id = "{id}"
source = "s"
level = "required"
platform = {{ gfx = {gfx}, aiter = {aiter} }}
expect = {{ backend = "TRITON_ATTN" }}
"""
# Under the mock, amdsmi can be found and the lists of visible devices are gone.
SELECTOR = """
import importlib.util, os

def select(request):
    mocked = importlib.util.find_spec("amdsmi") is not None
    hidden = "HIP_VISIBLE_DEVICES" not in os.environ
    return "ROCM_ATTN" if mocked and hidden else "TRITON_ATTN"
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs three rows on a machine with the given GPUs and AMD's aiter."""
    rows = [
        CASE.format(id="with-aiter", gfx='["gfx942", "gfx1201"]', aiter="true"),
        CASE.format(id="without-aiter", gfx='"gfx942"', aiter="false"),
    ]
    head = 'id = "mini"\ntitle = "t"\nsource = "this test"\n'
    pytester.makefile(".toml", contract=head + "".join(rows))
    (pytester.path / "selector.py").write_text(SELECTOR)
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(
        aiter_probe, "probe", lambda: aiter_probe.Probe(Aiter.PRESENT, "amd-aiter 1.0")
    )

    def run(*options: str, gpus: tuple[str, ...]) -> pytest.RunResult:
        found = tuple(hardware.DetectedGpu(n, gfx, "MI") for n, gfx in enumerate(gpus))
        monkeypatch.setattr(hardware, "detect", lambda: hardware.Detection(found, "none"))
        return pytester.runpytest_inprocess(
            *("--rocm-attn-conformance", "--rocm-attn-contract=contract.toml"),
            *("--rocm-attn-selector=selector.py:select", "--rocm-attn-report=r.json"),
            *("-p", "no:randomly", *options),
        )

    return run


def report(pytester: pytest.Pytester) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((pytester.path / "r.json").read_text())
    return found


def test_a_real_gpu_is_judged_unmocked_and_alone(run: Run, pytester: pytest.Pytester) -> None:
    result = run(gpus=("gfx942", "gfx1201"))
    assert result.parseoutcomes() == {"passed": 1}
    result.stdout.fnmatch_lines(
        ["*this machine's own gfx942 (MI), aiter present, with the 1 items*--rocm-attn-mock*"]
    )
    written = report(pytester)
    assert written["host"]["kind"] == "real"
    assert written["host"]["machine"] == "gfx942 (MI), aiter present"
    (row,) = written["rows"]
    assert (row["id"], row["evidence"]) == ("with-aiter", "real")
    assert row["gpu"] == {"gfx": "gfx942", "aiter": "present"}


def test_the_mock_option_forces_the_mock_on_all(run: Run, pytester: pytest.Pytester) -> None:
    result = run("--rocm-attn-mock=gfx942", gpus=("gfx942",))
    assert result.parseoutcomes() == {"failed": 3}  # the selector saw the mock
    assert report(pytester)["host"]["kind"] == "mock"


def test_on_a_gpu_that_no_row_is_about_all_is_mocked(run: Run, pytester: pytest.Pytester) -> None:
    assert run(gpus=("gfx1036",)).parseoutcomes() == {"failed": 3}
    assert report(pytester)["host"]["kind"] == "mock"


def test_another_gpu_than_the_real_one_must_be_asked_for_with_the_mock(run: Run) -> None:
    result = run("--rocm-attn-gpu=gfx1201", gpus=("gfx942",))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.startswith("ERROR: ")]
    assert "real gfx942 (MI), aiter present" in line
    assert "--rocm-attn-mock=gfx1201" in line


def test_a_machine_that_the_contract_has_no_row_for_is_said_in_one_line(
    run: Run, pytester: pytest.Pytester
) -> None:
    row = CASE.format(id="without-aiter", gfx='"gfx942"', aiter="false")
    (pytester.path / "contract.toml").write_text('id = "m"\ntitle = "t"\nsource = "s"\n' + row)
    result = run(gpus=("gfx942",))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: contract m has nothing for tier documented * gfx942 (MI), aiter present; *"]
    )


def test_a_printed_command_mocks_what_the_run_mocked(run: Run, pytester: pytest.Pytester) -> None:
    """Else, on this machine, it would judge the real GPU, and know no other."""
    run("--rocm-attn-mock=gfx942", gpus=("gfx942",))
    row = next(row for row in report(pytester)["rows"] if row["gpu"]["gfx"] == "gfx1201")
    python, module, name, *words = shlex.split(row["again"])
    assert (python, module, name) == ("python", "-m", "pytest")
    words = [word for word in words if word != "--rocm-attn-conformance"]
    again = run(*words, gpus=("gfx942",))
    assert again.parseoutcomes() == {"failed": 1}
    (repeated,) = report(pytester)["rows"]
    assert repeated["message"] == row["message"]


def test_the_reference_needs_no_gpu_and_answers_for_all(run: Run) -> None:
    reference = "--rocm-attn-selector=pytest_rocm_attn.backends:select"
    result = run(reference, gpus=("gfx942",))
    result.stdout.fnmatch_lines(["3 items: *"])


def test_a_question_about_another_gpu_is_never_put_to_the_real_one() -> None:
    subject = Subject("json:dumps", fork=False, machine=Gpu("gfx942"))
    pool = Pool(subject, lanes=1)
    try:
        (future,) = pool.submit([Question.of(Gpu("gfx1201"), {}, Request())])
        with pytest.raises(WorkerError, match="gfx1201 .* on a real gfx942"):
            future.result(timeout=60)
    finally:
        pool.close()
