"""vLLM's unified attention, unmodified, in the numerics tier: Triton's interpreter, no GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

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
    vllm_release: Callable[[str], Path],
    release: str,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(vllm_release(release)))
    result = pytester.runpytest_subprocess(
        "--rocm-attn-conformance",
        "--rocm-attn-tier=numerics",
        f"--rocm-attn-backends=VLLM={ADAPTER}",
        *(f"rocm-attn::numerics::VLLM::{case}" for case in CASES),
    )
    result.assert_outcomes(passed=len(CASES))


KERNELS = "pytest_rocm_attn.conformance.adapters.vllm_kernels"
# Backend, case -> the releases on which it is wrong; right on the others. vllm-project/vllm#47305: the kernels
# load slots beyond a request's last token, and a NaN there poisons the output.
FOUND = {
    (f"{KERNELS}:RocmAttn", "mixed-batch-bfloat16"): {"0.12.0", "0.20.0", "0.24.0"},
    (f"{KERNELS}:RocmAttn", "sliding-window-33"): {"0.12.0", "0.20.0", "0.24.0"},
    (ADAPTER, "both-directions"): {"0.24.0"},
    (ADAPTER, "mixed-batch-bfloat16"): set(),
    (f"{KERNELS}:CacheWrite", "mixed-batch-bfloat16"): set(),
    (f"{KERNELS}:CacheWrite", "fp8-cache-e4m3fn-bfloat16"): set(),
    (f"{KERNELS}:TritonMla", "mla-decode-with-heads-num-heads-16"): set(),
    (f"{KERNELS}:TritonMla", "mla-decode-of-one-long-request"): set(),
}
DECLINED = {
    (ADAPTER, "both-directions"): {"0.12.0", "0.20.0"}
}  # "Only causal attention is supported"


@pytest.mark.parametrize("release", ["0.12.0", "0.20.0", "0.24.0", "0.25.1", "0.33.0"])
def test_a_releases_kernels_read_beyond_a_request_until_they_were_mended(
    vllm_release: Callable[[str], Path],
    release: str,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(vllm_release(release)))
    names = {spec: f"B{number}" for number, spec in enumerate({spec: None for spec, _ in FOUND})}
    pytester.runpytest_subprocess(
        "--rocm-attn-conformance",
        "--rocm-attn-tier=numerics",
        "--rocm-attn-report=report.json",
        f"--rocm-attn-backends={','.join(f'{name}={spec}' for spec, name in names.items())}",
        *(f"rocm-attn::numerics::{names[spec]}::{case}" for spec, case in FOUND),
    )
    rows = json.loads((pytester.path / "report.json").read_text())["rows"]
    found = {row["id"]: row["verdict"] for row in rows}
    for (spec, case), wrong in FOUND.items():
        verdict = found.get(f"{names[spec]}::{case}")
        if release in DECLINED.get((spec, case), ()):
            assert verdict is None  # what is declined has no verdict
        elif release in wrong:
            assert verdict in ("fail", "advisory"), (spec, case)
        else:
            assert verdict == "pass", (spec, case)


def test_alibi_beside_sinks_is_wrong_in_0_12_0(
    vllm_release: Callable[[str], Path],
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sink shows that its bias counts from the chunk's start: docs/reference/backends.md#triton-attn."""
    monkeypatch.setenv("PYTHONPATH", str(vllm_release("0.12.0")))
    result = pytester.runpytest_subprocess(
        "--rocm-attn-conformance",
        "--rocm-attn-tier=numerics",
        f"--rocm-attn-backends=VLLM={ADAPTER}",
        "rocm-attn::numerics::VLLM::alibi-with-sinks-on-decodes",
        "rocm-attn::numerics::VLLM::alibi-with-sinks-on-chunks",
    )
    result.stdout.fnmatch_lines(["ADVISORY  VLLM::alibi-with-sinks-on-chunks*times its bound*"])
    result.stdout.fnmatch_lines(["2 items: 1 pass, 1 advisory*"])
