"""docs/howto/kernel-tests-without-a-gpu.md, tried on a test file in vLLM's own style."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.usefixtures("with_torch")
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "kernel-tests-without-a-gpu.md"
KERNEL = """
import pytest
import torch
import triton
import triton.language as tl


@triton.jit
def silu_and_mul_kernel(x_ptr, out_ptr, x_stride, out_stride, d, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < d
    gate = tl.load(x_ptr + row * x_stride + columns, mask=mask).to(tl.float32)
    up = tl.load(x_ptr + row * x_stride + d + columns{mask}).to(tl.float32)
    out = gate * tl.sigmoid(gate) * up
    tl.store(out_ptr + row * out_stride + columns, out.to(out_ptr.dtype.element_ty), mask=mask)


def silu_and_mul(out, x):
    d = out.shape[-1]
    silu_and_mul_kernel[(x.shape[0],)](x, out, x.stride(0), out.stride(0), d, BLOCK=128)


def reference(x):
    gate, up = x.float().chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate) * up).to(x.dtype)


"""


@pytest.fixture(autouse=True)
def default_device() -> Iterator[None]:
    """The page's test sets the default device, and leaves it so."""
    yield
    torch.set_default_device(None)


TEXT = PAGE.read_text("utf-8")
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"\$ pytest (--rocm-attn-emulate=\w+)", TEXT)


def test_the_pages_test_passes_and_its_fault_is_what_a_forgotten_mask_gives(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_right=KERNEL.replace("{mask}", ", mask=mask") + EXAMPLE,
        test_activation=KERNEL.replace("{mask}", "") + EXAMPLE,
    )
    chosen = "test_right or test_silu_and_mul[1]"
    result = pytester.runpytest_inprocess(COMMANDS[0], "-v", "-k", chosen, "-p", "no:randomly")
    result.assert_outcomes(passed=2, failed=1, deselected=1)
    result.stdout.fnmatch_lines(["rocm-attn: emulated platform: *"])
    output = result.stdout.str()
    match = re.search(r"reads 2 bytes at element 192 of x_ptr .*? lane 32, by '(\w+)", output)
    assert match is not None, output
    text = " ".join(TEXT.split())
    assert f"{match[0]} ...', line" in text
    place = re.search(r"line (\d+) of the assembly \((?:\S+/)?(test_activation.py:\d+)", output)
    assert place is not None
    assert f"line {place[1]} of the assembly ({place[2]})" in text


@pytest.mark.slow
def test_the_pages_test_runs_as_its_other_command_says_and_is_skipped_without_one(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_activation=KERNEL.replace("{mask}", ", mask=mask") + EXAMPLE)
    assert len(COMMANDS) == 2
    pytester.runpytest_subprocess(COMMANDS[1], "test_activation.py").assert_outcomes(passed=2)
    pytester.runpytest_subprocess("test_activation.py").assert_outcomes(skipped=2)
