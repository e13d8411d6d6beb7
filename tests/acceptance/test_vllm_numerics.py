"""vLLM's unified attention, unmodified, in the numerics tier: Triton's interpreter, no GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VLLM = Path(os.environ.get("ROCM_ATTN_VLLM_DIR", "/work/vllm"))
ADAPTER = "pytest_rocm_attn.conformance.adapters.vllm_unified:UnifiedAttention"
CASES = (
    "mixed-batch-bfloat16",
    "sliding-window-33",
    "fp8-cache-with-every-feature-e4m3fnuz",
    "strided-tensors-head-size-80-float16",
    "one-long-decode-bfloat16",
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("release", ["0.11.2", "0.12.0", "0.13.0", "0.14.1", "0.18.1", "0.29.0"])
def test_a_releases_unified_attention_is_right(
    release: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (VLLM / release).is_dir():
        pytest.skip(f"no vLLM {release} in {VLLM}; set ROCM_ATTN_VLLM_DIR")
    monkeypatch.setenv("PYTHONPATH", str(VLLM / release))
    result = pytester.runpytest_subprocess(
        "--rocm-attn-conformance",
        "--rocm-attn-tier=numerics",
        f"--rocm-attn-backends=VLLM={ADAPTER}",
        *(f"rocm-attn::numerics::VLLM::{case}" for case in CASES),
    )
    result.assert_outcomes(passed=len(CASES))


def test_alibi_beside_sinks_is_wrong_in_0_12_0(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sink shows that its bias counts from the chunk's start: docs/reference/backends.md#triton-attn."""
    if not (VLLM / "0.12.0").is_dir():
        pytest.skip(f"no vLLM 0.12.0 in {VLLM}; set ROCM_ATTN_VLLM_DIR")
    monkeypatch.setenv("PYTHONPATH", str(VLLM / "0.12.0"))
    result = pytester.runpytest_subprocess(
        "--rocm-attn-conformance",
        "--rocm-attn-tier=numerics",
        f"--rocm-attn-backends=VLLM={ADAPTER}",
        "rocm-attn::numerics::VLLM::alibi-with-sinks-on-decodes",
        "rocm-attn::numerics::VLLM::alibi-with-sinks-on-chunks",
    )
    result.stdout.fnmatch_lines(["ADVISORY  VLLM::alibi-with-sinks-on-chunks*times its bound*"])
    result.stdout.fnmatch_lines(["2 items: 1 pass, 1 advisory*"])
