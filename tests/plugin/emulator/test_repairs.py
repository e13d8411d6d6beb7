"""What only a number that is not finite may set off is noticed if it runs without one."""

# Kernels are written in Triton's language, whose decorators and values have no types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, misc"

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from pytest_rocm_attn.backends import under_test
from pytest_rocm_attn.backends.kernels.repairs import attend_by_key
from pytest_rocm_attn.conformance.tiers.numerics.case import shipped
from pytest_rocm_attn.conformance.tiers.numerics.judge import examine_emulated, reference_of
from pytest_rocm_attn.conformance.tiers.numerics.subjects import REFERENCES
from pytest_rocm_attn.emulator.triton_launch import Emulation
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.mock.triton_driver import activate

CASES = {case.id: case for case in shipped()}
CPU = torch.device("cpu")


@triton.jit
def once_more(note_ptr):
    tl.store(note_ptr + 1, tl.load(note_ptr))


@triton.jit
def repair(note_ptr):
    if tl.load(note_ptr) > 0:
        once_more(note_ptr)


class Repairs:
    """The exact answer, and a repair if its attribute says so."""

    repairs = once_more

    def __init__(self, noted: bool) -> None:
        self.noted = noted

    def attend(self, problem: Any) -> None:
        problem.out.copy_(reference_of(problem).out)
        repair[(1,)](torch.tensor([int(self.noted), 0], dtype=torch.int32))


@pytest.mark.parametrize("gfx", ["gfx942", "gfx1201"])
def test_a_repair_is_wrong_if_every_number_is_finite(gfx: str) -> None:
    emulation = Emulation()
    undo = activate(Gpu(gfx), emulation)
    try:
        finite, spoiled = CASES["head-size-32"], CASES["a-sink-of-nan"]
        assert examine_emulated(Repairs(False), finite, CPU, emulation).kind == "right"
        assert examine_emulated(Repairs(True), spoiled, CPU, emulation).kind == "right"
        finding = examine_emulated(Repairs(True), finite, CPU, emulation)
        assert finding.kind == "wrong"
        assert finding.words.startswith("once_more, which computes again")
    finally:
        undo()


def test_what_reads_no_tensor_by_the_function_is_not_judged() -> None:
    plain = SimpleNamespace(attend=lambda problem: problem.out.copy_(reference_of(problem).out))
    finding = examine_emulated(plain, CASES["head-size-32"], CPU, Emulation())
    assert finding.kind == "declined"


@pytest.mark.parametrize("backend", REFERENCES, ids=lambda one: one.name)
def test_our_triton_kernels_name_their_repair(backend: Any) -> None:
    """FLEX_ATTENTION has none: torch compiles it."""
    found = getattr(under_test, backend.spec.partition(":")[2])
    assert getattr(found, "repairs", None) is (
        None if backend.name == "FLEX_ATTENTION" else attend_by_key
    )
