"""aiter's unified attention, unmodified, in the numerics tier: Triton's interpreter, no GPU.

ROCM_ATTN_AITER_DIR is a folder with amd-aiter and its dependencies, but neither torch nor triton, for
PYTHONPATH (pip install --target, and torch and triton taken out).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(os.environ.get("ROCM_ATTN_AITER_DIR", "/work/aiter-only"))
ADAPTER = "pytest_rocm_attn.conformance.adapters.aiter_unified:UnifiedAttention"
STRICT = f"""
from {ADAPTER.replace(":", " import ")}

class Strict(UnifiedAttention):
    reads_unused_slots = False
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (FOLDER / "aiter" / "ops" / "triton").is_dir(),
        reason=f"no amd-aiter in {FOLDER}; set ROCM_ATTN_AITER_DIR",
    ),
]


def run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *options: str
) -> tuple[pytest.RunResult, dict[str, Any]]:
    monkeypatch.setenv("PYTHONPATH", str(FOLDER))
    result = pytester.runpytest_subprocess(
        *("--rocm-attn-conformance", "--rocm-attn-tier=numerics", "--rocm-attn-report=r.json"),
        *options,
    )
    report: dict[str, Any] = json.loads((pytester.path / "r.json").read_text())
    return result, report


def judged(report: dict[str, Any], *, drawn: bool = False) -> dict[str, str]:
    """Return the verdict of each named case; without those that a search drew."""
    return {
        row["id"].partition("::")[2]: row["verdict"]
        for row in report["rows"]
        if drawn or "drawn" not in row["id"]
    }


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ROCM_AITER_UNIFIED_ATTN", ()),
        ("AITER", (f"--rocm-attn-backends=AITER={ADAPTER}",)),
    ],
    ids=["through our backend", "through the adapter"],
)
def test_aiters_kernel_is_right_on_every_required_case(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: tuple[str, ...],
) -> None:
    _, report = run(pytester, monkeypatch, *options, f"rocm-attn::numerics::{name}")
    verdicts = judged(report)
    assert {row["evidence"] for row in report["rows"]} == {"interpreter"}
    assert len(verdicts) > 65
    # The bias counts from the start of the chunk, as in vLLM's kernel that it descends from.
    short = {case for case, verdict in verdicts.items() if verdict != "pass"}
    assert short <= {"alibi-with-sinks-on-chunks"}
    assert not any(row["verdict"] in ("fail", "crash") for row in report["rows"])
    reasons = {
        entry["id"].partition("::")[2]: entry["reason"]
        for entry in report["declined"]
        if "drawn" not in entry["id"]
    }
    for case, reason in reasons.items():
        words = ("float32", "not causal", "needs a GPU", "does not claim", "has no mla_")
        assert any(word in reason for word in words), (case, reason)
    (device,) = report["host"]["devices"]
    assert device["aiter"]
    assert (device["name"], "hip" in device) == ("CPU", False)


@pytest.mark.parametrize(
    ("name", "cases"),
    [
        ("FlashAttention", "mixed-batch or alibi or strided or mla-prefill"),
        ("PagedDecode", "decode"),
    ],
)
def test_triton_kernels_that_aiter_chooses_are_right(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str, cases: str
) -> None:
    adapter = f"pytest_rocm_attn.conformance.adapters.aiter_kernels:{name}"
    _, report = run(pytester, monkeypatch, f"--rocm-attn-backends=A={adapter}", "-k", cases)
    verdicts = judged(report)
    assert len(verdicts) >= 5
    # NaN and infinities in the inputs, which are advisory for kernels that are not ours.
    assert {case for case, verdict in verdicts.items() if verdict != "pass"} <= {
        case for case in verdicts if "visible" in case or "with-a-scale-of" in case
    }


@pytest.mark.parametrize(
    ("name", "family", "chosen"),
    [
        ("CompiledFlashAttention", "prefill-head-size-128", "fmha_v3_varlen_fwd"),
        ("CompiledFlashAttention", "prefill-head-size-64", "mha_varlen_fwd"),
        ("CompiledFlashAttention", "mla-prefill-bfloat16", "mha_varlen_fwd"),  # gfx950: assembly
        ("CompiledMlaDecode", "mla-decode-num-heads-16", "mla_decode_stage1_asm_fwd"),
        ("CompiledMlaDecode", "mla-decode-num-heads-32", "nhead=32 not supported"),
    ],
)
def test_the_compiled_kernel_that_aiter_0_1_7_chooses_is_named(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str, family: str, chosen: str
) -> None:
    adapter = f"pytest_rocm_attn.conformance.adapters.aiter_kernels:{name}"
    options = (
        f"--rocm-attn-backends=A={adapter}",
        "--rocm-attn-tier=launch",
        "--rocm-attn-gpu=gfx942",
    )
    _, report = run(pytester, monkeypatch, *options, f"rocm-attn::launch::A::{family}[gfx942]")
    (declined,) = report["declined"]
    assert report["rows"] == []
    assert chosen in declined["reason"]


def test_assembly_is_declined_where_it_cannot_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [f"rocm-attn::numerics::{name}" for name in ("ROCM_AITER_FA", "ROCM_AITER_MLA")]
    result, report = run(pytester, monkeypatch, *nodes)
    assert result.ret == 0
    assert report["rows"] == []
    named = [entry["reason"] for entry in report["declined"] if "drawn" not in entry["id"]]
    assert len(named) > 90
    assert all("need an AMD GPU" in reason for reason in named)


def test_unused_slots_are_read_by_aiter_0_1_7(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What both backends over it have to say of themselves: a NaN left in a block would spread."""
    pytester.makepyfile(strict=STRICT)
    cases = ("one-long-decode-bfloat16", "mixed-batch-float16")
    _, report = run(
        pytester,
        monkeypatch,
        "--rocm-attn-backends=STRICT=strict.py:Strict",
        *(f"rocm-attn::numerics::STRICT::{case}" for case in cases),
    )
    if not report["host"]["devices"][0]["aiter"].startswith("0.1.7"):
        pytest.skip("another release of aiter: see whether reads_unused_slots is still needed")
    assert judged(report) == dict(zip(cases, ("fail", "pass"), strict=True))
    (wrong,) = (row for row in report["rows"] if row["verdict"] == "fail")
    assert "got nan" in wrong["outcome"]["words"]
