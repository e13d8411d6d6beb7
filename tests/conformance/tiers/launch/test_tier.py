"""The launch tier as a fork meets it."""

from __future__ import annotations

import json

import pytest

BACKEND = """
import torch, triton, triton.language as tl

@triton.jit
def gather(x_ptr, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    tl.store(x_ptr + index, tl.gather(tl.load(x_ptr + index), index, 0))

class Mine:
    def mla_prefill(self, problem):
        raise NotImplementedError("no float16") if problem.request.dtype == "float16" else None
    def mla_decode(self, problem):
        gather[(1,)](problem.query.view(torch.float32), SIZE=32768)
"""


def test_a_forks_kernel_that_does_not_fit_is_named_on_each_target(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(fork=BACKEND)
    result = pytester.runpytest_inprocess(
        "--rocm-attn-conformance",
        "--rocm-attn-tier=launch",
        "--rocm-attn-backends=MINE=fork.py:Mine",
        "--rocm-attn-gpu=gfx1151",  # on which the contract has no rows
        "--rocm-attn-report=report.json",
        "-k=mla-decode-in-large-blocks or mla-prefill-float16",
        "-rs",
    )
    out = result.stdout.str()
    assert result.ret == pytest.ExitCode.TESTS_FAILED, out
    assert "Required: 131072, Hardware limit: 65536" in out
    assert "MINE::mla-decode-in-large-blocks: gather does not fit gfx1151" in out
    assert "MINE declines: no float16" in out
    (row,) = json.loads((pytester.path / "report.json").read_text())["rows"]
    assert (row["tier"], row["evidence"], row["gpu"]["gfx"]) == ("launch", "launch", "gfx1151")
    assert row["verdict"] == "fail"


def test_the_shipped_backends_with_triton_kernels_of_their_own_are_tried(
    pytester: pytest.Pytester,
) -> None:
    result = pytester.runpytest_inprocess(
        *("--rocm-attn-conformance", "--rocm-attn-tier=launch", "--collect-only", "-q")
    )
    names = [line.split("::")[2] for line in result.outlines if line.startswith("rocm-attn::")]
    assert set(names) == {"TRITON_ATTN", "ROCM_ATTN", "TRITON_MLA"}
    assert names.count("ROCM_ATTN") == names.count("TRITON_ATTN") > 100
