"""Tests that need the AMD GPU itself: docs/howto/on-an-mi-gpu.md. Skipped where there is none.

What judges is here, as fixtures, so that test_judging.py can show it wrong subjects on a machine
without a GPU: it must not let them pass.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_rocm_attn import hardware
from pytest_rocm_attn.conformance.tiers.numerics.lane import Lane
from pytest_rocm_attn.errors import BackendUnderTestError
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.markers import EMULATED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_rocm_attn.conformance.tiers.numerics.case import Case, Result
    from pytest_rocm_attn.conformance.tiers.numerics.subjects import BackendUnderTest

    Tell = Callable[[str, object], None]

TIMEOUT = 1200.0  # seconds for one case: its first may build HIP, or have Triton compile


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let warnings be warnings: those of a ROCm build's libraries are no fault of what is tested.

    Under ``--rocm-attn-emulate`` skip FLEX_ATTENTION, which torch compiles.
    """
    emulated = bool(config.stash.get(EMULATED, ""))
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("default"))
            if emulated and "flex" in item.nodeid.lower():
                reason = (
                    "the emulator runs Triton kernels; torch.compile makes those of FLEX_ATTENTION"
                )
                item.add_marker(pytest.mark.skip(reason=reason))


def judge(
    finding: Result,
    case: Case,
    *,
    evidence: str,
    arch: str,
    target: str,
    refusal: str = "",
    wanted: str = "rocm",
) -> None:
    """Pass, fail, or mark as expected to fail, what came of a case on a backend.

    Args:
        finding: what came of it.
        case: the case.
        evidence: what the process that it ran in could show.
        arch: the device that it ran on, with its features.
        target: the gfx name that the driver gives the first visible GPU.
        refusal: words of the reason for which the backend must decline the case; "": it must not.
        wanted: the evidence that this run is to give: "emulated" under --rocm-attn-emulate.
    """
    if evidence != wanted:
        pytest.fail(
            f"ran as {evidence}, not on the AMD GPU: torch {torch.__version__} does not see it; install"
            " torch for ROCm (docs/howto/on-an-mi-gpu.md)"
        )
    if arch.partition(":")[0] != target:
        pytest.fail(f"ran on {arch}, and the driver's first visible GPU is {target}")
    if refusal:
        if finding.kind != "declined" or refusal not in finding.words:
            pytest.fail(
                f"must be declined because of {refusal!r}, and was {finding.kind}: {finding.words}"
            )
        return
    if finding.kind == "right":
        return
    if case.level == "advisory":
        pytest.xfail(f"advisory, {finding.kind}: {finding.words}")
    pytest.fail(f"{finding.kind}: {finding.words}\n{finding.traceback}", pytrace=False)


@pytest.fixture(scope="session", name="judge")
def _judge() -> Callable[..., None]:
    """The function that judges a finding."""
    return judge


def foreign_fp8(case: Case, gfx: str) -> bool:
    """Whether a case's cache is in another fp8 flavour than the GPU's own."""
    is_fp8 = case.request.kv_cache_dtype.startswith("fp8")
    return is_fp8 and Gpu(gfx).fp8_dtype != f"float8_{case.fp8}"


# What is done with a case in its process, other than to examine the result.
_CHECKS = {
    "examine": (),
    "replay": (f"{Path(__file__).parent / 'replay.py'}:examine_replayed",),
}


class Lanes:
    """The processes that one module's backends run in: a fault of the GPU ends no other test.

    Args:
        emulated: the target that this run emulates, or "".
    """

    def __init__(self, emulated: str) -> None:
        self._start = ("emulate", emulated) if emulated else ("run",)
        self._open: dict[tuple[str, str], Lane] = {}

    def ask(self, backend: BackendUnderTest, case: Case, check: str) -> tuple[Result, Lane]:
        """Return what came of a case, and the process that it ran in."""
        key = backend.spec, check
        if key not in self._open:
            self._open[key] = Lane(backend.spec, TIMEOUT, *self._start, *_CHECKS[check])
        return self._open[key].ask(case), self._open[key]

    def close(self) -> None:
        """End the processes."""
        for lane in self._open.values():
            lane.close()


@pytest.fixture(scope="module")
def lanes(pytestconfig: pytest.Config) -> Iterator[Lanes]:
    """The processes of this module's backends."""
    made = Lanes(pytestconfig.stash.get(EMULATED, ""))
    yield made
    made.close()


@pytest.fixture
def on_gpu(
    lanes: Lanes,
    rocm_gpu: hardware.DetectedGpu,
    record_property: Tell,
    pytestconfig: pytest.Config,
) -> Callable[..., None]:
    """A function that puts a case to a backend on this machine's GPU, and judges what came of it.

    ``on_gpu(backend, case, refusal="", check="examine", own_fp8=False)``; the check "replay" captures
    a graph; own_fp8 leaves out cases whose cache is in another GPU's fp8.
    """

    emulated = bool(pytestconfig.stash.get(EMULATED, ""))

    def run(
        backend: BackendUnderTest,
        case: Case,
        *,
        refusal: str = "",
        check: str = "examine",
        own_fp8: bool = False,
    ) -> None:
        if own_fp8 and foreign_fp8(case, rocm_gpu.gfx):
            pytest.skip(f"{backend.name} takes the fp8 of {rocm_gpu.gfx}, which is not {case.fp8}")
        if emulated and check == "replay":
            pytest.skip("the emulator captures no graphs")
        record_property("rocm_attn_backend", backend.name)
        try:
            finding, lane = lanes.ask(backend, case, check)
        except BackendUnderTestError as error:
            pytest.fail(str(error), pytrace=False)
        if emulated and finding.kind == "declined" and "nothing was emulated" in finding.words:
            pytest.skip(finding.words)
        record_property("rocm_attn_evidence", lane.evidence)
        record_property("rocm_attn_device", lane.device)
        if math.isfinite(finding.ratio):
            record_property("rocm_attn_ratio", finding.ratio)
        judge(
            finding,
            replace(case, level=backend.level(case)),
            evidence=lane.evidence,
            arch=lane.device.get("arch", ""),
            target=rocm_gpu.gfx,
            refusal=refusal,
            wanted="emulated" if emulated else "rocm",
        )

    return run


@pytest.fixture
def device(
    rocm_gpu: hardware.DetectedGpu, record_property: Tell, pytestconfig: pytest.Config
) -> torch.device:
    """The first visible GPU, as torch for ROCm has it; a test with another torch fails."""
    if pytestconfig.stash.get(EMULATED, ""):
        record_property("rocm_attn_evidence", "emulated")
        return torch.device("cuda", 0)
    from pytest_rocm_attn.conformance.report.host import describe

    if torch.version.hip is None or not torch.cuda.is_available():
        pytest.fail(
            f"torch {torch.__version__} is not built for ROCm, or does not see the {rocm_gpu.gfx};"
            " install torch for ROCm (docs/howto/on-an-mi-gpu.md)"
        )
    found = torch.device("cuda", torch.cuda.current_device())
    told = describe(found)
    record_property("rocm_attn_evidence", "rocm")
    record_property("rocm_attn_device", told)
    assert told["arch"].partition(":")[0] == rocm_gpu.gfx
    return found


def same_bytes(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """Compare two tensors to the bit, NaN payloads included.

    Raises:
        AssertionError: they differ; the message says in how many bytes.
    """
    ours, theirs = (
        tensor.detach().cpu().contiguous().view(torch.uint8) for tensor in (got, wanted)
    )
    assert ours.shape == theirs.shape
    differ = int((ours != theirs).sum())
    assert not differ, f"{differ} of {ours.numel()} bytes differ"


def refused(call: Callable[[], Any], words: str, out: torch.Tensor) -> None:
    """Check that a call is refused with these words in one line, and that out keeps its bytes.

    Raises:
        AssertionError: out was written, or the message is another one.
    """
    from pytest_rocm_attn.errors import BackendInputError, BackendLimitError

    before = out.clone()
    with pytest.raises((BackendInputError, BackendLimitError)) as caught:
        call()
    if out.is_cuda:
        torch.cuda.synchronize()  # whatever was launched all the same has come to its end
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    same_bytes(out, before)


@pytest.fixture(scope="session", name="same_bytes")
def _same_bytes() -> Callable[..., None]:
    """The function that compares tensors to the bit."""
    return same_bytes


@pytest.fixture(scope="session", name="refused")
def _refused() -> Callable[..., None]:
    """The function that checks a refusal."""
    return refused
