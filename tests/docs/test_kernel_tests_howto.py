"""docs/howto/kernel-tests-without-a-gpu.md, tried on a test file in vLLM's own style."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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


def test_the_pages_test_runs_as_its_commands_say(pytester: pytest.Pytester) -> None:
    text = PAGE.read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    commands = re.findall(r"\$ pytest (--rocm-attn-emulate=\w+)", text)
    assert len(commands) == 2
    pytester.makepyfile(test_activation=KERNEL.replace("{mask}", ", mask=mask") + example)
    for command in commands:
        result = pytester.runpytest_subprocess(command, "test_activation.py")
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["rocm-attn: emulated platform: *"])
    pytester.runpytest_subprocess("test_activation.py").assert_outcomes(skipped=2)


def test_the_pages_fault_is_what_a_forgotten_mask_gives(pytester: pytest.Pytester) -> None:
    text = " ".join(PAGE.read_text("utf-8").split())
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    pytester.makepyfile(test_activation=KERNEL.replace("{mask}", "") + example)
    result = pytester.runpytest_subprocess("--rocm-attn-emulate=MI300X", "-k", "1")
    output = result.stdout.str()
    match = re.search(r"reads 2 bytes at element 192 of x_ptr .*? lane 32, by '(\w+)", output)
    assert match is not None, output
    assert f"{match[0]} ...', line" in text
    place = re.search(r"line (\d+) of the assembly \((?:\S+/)?(test_activation.py:\d+)", output)
    assert place is not None
    assert f"line {place[1]} of the assembly ({place[2]})" in text
