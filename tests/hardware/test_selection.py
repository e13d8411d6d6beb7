"""Selection on the real machine, unmocked, agrees with the mock of its GPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.isolation import Pool, Question, Subject
from pytest_rocm_attn.conformance.isolation.machine import first_gpu
from pytest_rocm_attn.conformance.promise import contract
from pytest_rocm_attn.conformance.promise.verdict import shortfall_of
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.outcome import Outcome, Rejected, Selected

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_rocm_attn.conformance.promise.rows import RowOnGpu
    from pytest_rocm_attn.hardware import DetectedGpu

HOST_SELECTOR = f"{Path(__file__).with_name('host_selector.py')}:select"
VLLM = "vllm.platforms.rocm:RocmPlatform"
# What a server's platform code reads, of the machine or of the mock of it.
LOOK = """
import json, sys
if sys.argv[1:]:
    from pytest_rocm_attn.mock import mock_rocm
    mock_rocm(sys.argv[1], aiter=sys.argv[2], force=True).enter()
import torch, triton
from pytest_rocm_attn import aiter_probe
p = torch.cuda.get_device_properties(0)
target = triton.runtime.driver.active.get_current_target()
print("SEEN " + json.dumps({
    "hip": bool(torch.version.hip),
    "cuda": torch.version.cuda,
    "available": torch.cuda.is_available(),
    "gfx": p.gcnArchName.partition(":")[0],
    "wavefront": p.warp_size,
    "capability": list(torch.cuda.get_device_capability(0)),
    "triton": [target.backend, target.arch.partition(":")[0], target.warp_size],
    "aiter": str(aiter_probe.probe().state),
}))
"""


def look(*mocked: str) -> dict[str, Any]:
    """Return what a process sees of the machine, or of the mock of a GPU and aiter's state."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *mocked],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    assert lines, done.stderr[-3000:]
    seen: dict[str, Any] = json.loads(lines[-1].removeprefix("SEEN "))
    return seen


def outcomes(selector: str, cells: Iterable[RowOnGpu], machine: Gpu | None) -> list[Outcome]:
    """Return what a selector answers to each cell, on the machine unmocked, or mocked for None."""
    pool = Pool(Subject(selector, fork=machine is None, machine=machine))
    try:
        questions = [Question.of(cell.gpu, cell.row.env, cell.row.request) for cell in cells]
        return [future.result().outcome for future in pool.submit(questions)]
    finally:
        pool.close()


def disagreements(real: list[Outcome], mocked: list[Outcome], cells: list[RowOnGpu]) -> list[str]:
    """Return in words where two lists of answers differ: in the backend, or in whether they refuse."""
    found = []
    for one, other, cell in zip(real, mocked, cells, strict=True):
        alike = one == other or (isinstance(one, Rejected) and isinstance(other, Rejected))
        if not alike:
            found.append(f"{cell.row.id}: {one} on the machine, {other} under the mock")
    return found


def cells_of(gpu: Gpu) -> list[RowOnGpu]:
    """Return the contract's required cells about a GPU in its state of aiter."""
    rows = contract.load("pr-26980").rows
    return [
        cell for row in rows for cell in row.cells() if cell.gpu == gpu and row.level == "required"
    ]


@pytest.mark.rocm_attn_gpu
def test_the_machine_is_what_its_mock_shows(rocm_gpu: DetectedGpu) -> None:
    """torch, Triton and aiter on the machine answer as under the mock of its GPU."""
    machine = first_gpu()
    assert machine is not None, f"hardware.toml does not describe {rocm_gpu.gfx}"
    real = look()
    assert real["gfx"] == rocm_gpu.gfx
    assert real == look(machine.gfx, machine.aiter.value)


@pytest.mark.rocm_attn_gpu
@pytest.mark.parametrize("selector", [HOST_SELECTOR, VLLM], ids=["host_selector", "vllm"])
def test_each_row_gives_the_same_on_the_machine_and_under_its_mock(selector: str) -> None:
    """Every row about this GPU: the same backend, or refusals, unmocked and mocked."""
    if selector == VLLM and importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here")
    machine = first_gpu()
    assert machine is not None
    cells = cells_of(machine.gpu)
    if not cells:
        pytest.skip(f"the contract has no row about {machine}")
    real = outcomes(selector, cells, machine.gpu)
    assert any(isinstance(outcome, Selected) for outcome in real)
    assert disagreements(real, outcomes(selector, cells, None), cells) == []


# --- on any machine ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gpu",
    [
        pytest.param(Gpu("gfx942", Aiter.PRESENT), id="gfx942"),
        pytest.param(Gpu("gfx1201"), id="gfx1201", marks=pytest.mark.slow),
    ],
)
def test_the_host_selector_keeps_the_contract_under_the_mock(gpu: Gpu) -> None:
    """It sees the mocked machine, so that what it sees of a real one can be compared."""
    cells = cells_of(gpu)[::9]
    assert len(cells) > 5
    for outcome, cell in zip(outcomes(HOST_SELECTOR, cells, None), cells, strict=True):
        assert shortfall_of(cell.row.expect, outcome) == "", cell.row.id


def test_an_answer_that_differs_is_found() -> None:
    cells = cells_of(Gpu("gfx942", Aiter.PRESENT))[:4]
    same, refusal = Selected("TRITON_ATTN"), Rejected("ValueError", "a")
    real: list[Outcome] = [same, Selected("ROCM_ATTN"), refusal, refusal]
    mocked: list[Outcome] = [same, Selected("FLEX_ATTENTION"), Rejected("ValueError", "b"), same]
    first, second = disagreements(real, mocked, cells)
    assert first == f"{cells[1].row.id}: ROCM_ATTN on the machine, FLEX_ATTENTION under the mock"
    assert second.startswith(cells[3].row.id)


def test_what_a_process_sees_of_a_mocked_machine_is_the_mocks() -> None:
    assert look("gfx942", "present") == {
        "hip": True,
        "cuda": None,
        "available": True,
        "gfx": "gfx942",
        "wavefront": 64,
        "capability": [9, 4],
        "triton": ["hip", "gfx942", 64],
        "aiter": "present",
    }
