"""Anyone's test of a Triton kernel, on an emulated GPU: option, marker and fixture."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.usefixtures("with_torch")
# A file such as vLLM's own: it knows nothing of this plugin.
KERNEL_TEST = """
import pytest
import torch
import triton
import triton.language as tl

DEVICE = "cuda"


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    x = tl.load(x_ptr + offsets, mask=mask)
    y = tl.load(y_ptr + offsets, mask=mask)
    tl.store(out_ptr + offsets, x + y, mask=mask)


def add(x, y):
    assert x.is_cuda and x.device == y.device
    out = torch.empty_like(x)
    add_kernel[(triton.cdiv(x.numel(), 64),)](x, y, out, x.numel(), BLOCK=64)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_add(dtype):
    x = torch.randn(100, dtype=dtype, device=DEVICE)
    y = torch.randn(100, dtype=dtype).to(DEVICE)
    out = add(x, y)
    torch.cuda.synchronize()
    assert out.device.type == "cuda"
    torch.testing.assert_close(out.cpu(), x.cpu() + y.cpu())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_reads_one_too_many():
    x = torch.randn(100, device=DEVICE)
    add_kernel[(2,)](x, x, x, 101, BLOCK=64)
"""

OURS = """
import pytest
import torch
from kernel_test import add


@pytest.mark.emulated_rocm("gfx1201")
def test_marker():
    assert torch.cuda.get_device_properties(0).gcnArchName.startswith("gfx1201")
    x = torch.ones(10, device="cuda")
    assert add(x, x).tolist() == [2.0] * 10


def test_fixture(emulated_rocm):
    gpu = emulated_rocm("gfx90a")
    x = torch.ones(10, device="cuda")
    assert add(x, x).tolist() == [2.0] * 10
    assert gpu.emulation.launches == 1
    host = x.cpu()
    host += 1
    assert x.tolist() == [1.0] * 10 and not host.is_cuda


def test_afterwards_nothing_is_emulated():
    assert not torch.cuda.is_available()
    assert not torch.ones(1).is_cuda


@pytest.mark.rocm_gpu("gfx942")
def test_hardware():
    pass
"""


def test_an_unchanged_test_file_runs_on_an_emulated_gpu(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_theirs=KERNEL_TEST)
    pytester.makepyfile(test_hardware="""
        import pytest

        @pytest.mark.rocm_gpu("gfx942")
        def test_named(rocm_gpu):
            assert rocm_gpu.gfx == "gfx942"

        @pytest.mark.rocm_gpu("gfx950")
        def test_of_another():
            pass
    """)  # fmt: skip
    result = pytester.runpytest_inprocess(
        "--rocm-attn-emulate=gfx942", "-rs", "--rocm-attn-report=r.json"
    )
    result.assert_outcomes(passed=3, failed=1, skipped=1)
    output = result.stdout.str()
    assert "emulated platform: " in output
    assert "reads 4 bytes at element 100 of x_ptr (float32[100])" in output
    assert "test_theirs.py:13" in output
    assert "emulator/launch.py" not in output
    assert "needs a real gfx950" in output
    (row,) = json.loads((pytester.path / "r.json").read_text())["rows"]
    assert (row["verdict"], row["evidence"]) == ("pass", "emulated")
    assert "--rocm-attn-emulate=gfx942" in row["again"]


def test_the_marker_and_the_fixture_emulate_for_one_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(kernel_test=KERNEL_TEST, test_ours=OURS)
    result = pytester.runpytest_inprocess("test_ours.py", "-p", "no:randomly")
    result.assert_outcomes(passed=3, skipped=1)


def test_what_cannot_be_emulated_is_refused(pytester: pytest.Pytester) -> None:
    for options, words in (
        (["--rocm-attn-emulate=gfx12345"], "gfx12345"),
        (["--rocm-attn-emulate=gfx942", "--rocm-attn-mock=gfx942"], "leave --rocm-attn-mock out"),
    ):
        result = pytester.runpytest_inprocess(*options)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert words in result.stderr.str()
