"""What falls short in an unmodified release is what docs/releases/ lists for it: no false alarm, no crash.

Slow; needs the releases unpacked: see test_real_vllm.py. Each item that falls short was looked at once, in
the source of the release. That the known regressions are caught is shown by test_known_regressions.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_rocm_attn.backends.releases import RELEASES
from pytest_rocm_attn.conformance.promise import contract, release, upstream

PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)
_PATHS = [path for path in (os.environ.get("PYTHONPATH"),) if path]

TIERS = ("documented", "invariants", "grid", "capabilities")
PAGES = Path(__file__).parents[2] / "docs" / "releases"
# Release -> the required items of tier capabilities that fall short on gfx942, by what is wrong.
FALLS_SHORT: dict[str, dict[str, tuple[str, ...]]] = {
    "0.22.1": {
        "Aiter MLA requires that num_heads be multiples or divisors of 16": (
            "mla-head-counts-build-with-aiter-on",
            "mla-head-counts-build-with-rocm-aiter-mla-named",
            "mla-head-counts-build-with-rocm-aiter-mla-named-and-aiter-on",
            "mla-head-counts-build-with-rocm-aiter-triton-mla-named",
            "mla-head-counts-build-with-rocm-aiter-triton-mla-named-and-aiter-on",
            "sparse-mla-head-counts-build-by-default",
            "sparse-mla-head-counts-build-with-aiter-on",
            "sparse-mla-head-counts-build-with-rocm-aiter-mla-sparse-named",
            "sparse-mla-head-counts-build-with-rocm-aiter-mla-sparse-named-and-aiter-on",
        ),
        "ROCm version file not found": (
            "plain-layers-build-by-default-where-aiter-is-broken",
            "plain-layers-build-with-prefill-decode-on-where-aiter-is-broken",
        ),
        "No module named 'aiter.ops'": (
            "plain-layers-build-by-default-where-aiter-is-impostor",
            "plain-layers-build-with-prefill-decode-on-where-aiter-is-impostor",
        ),
    },
    "0.16.0": {
        "Encoder self-attention is not implemented": (
            "attention-types-build-with-aiter-on",
            "attention-types-build-with-aiter-unified-on",
            "attention-types-build-with-prefill-decode-on",
            "attention-types-build-with-rocm-aiter-fa-named",
            "attention-types-build-with-rocm-aiter-fa-named-and-aiter-on",
            "attention-types-build-with-rocm-aiter-unified-attn-named",
            "attention-types-build-with-rocm-aiter-unified-attn-named-and-aiter-on",
            "attention-types-build-with-rocm-attn-named",
        ),
        "FlexAttention does not support encoder attention": (
            "attention-types-build-with-flex-attention-named",
        ),
        "no kernel block size that it declares divides the cache block": (
            "block-sizes-build-by-default",
            "block-sizes-build-with-aiter-mha-off",
            "block-sizes-build-with-aiter-on",
            "block-sizes-build-with-aiter-unified-on",
            "block-sizes-build-with-prefill-decode-on",
            "block-sizes-build-with-rocm-aiter-fa-named",
            "block-sizes-build-with-rocm-aiter-fa-named-and-aiter-on",
            "block-sizes-build-with-rocm-aiter-unified-attn-named",
            "block-sizes-build-with-rocm-aiter-unified-attn-named-and-aiter-on",
            "block-sizes-build-with-rocm-attn-named",
            "block-sizes-build-with-triton-attn-named",
        ),
        "FlexAttention does not support quantized kv-cache": (
            "cache-dtypes-build-with-flex-attention-named",
        ),
        "and declares that it does not take it": (
            "flex-attention-is-selected-within-its-attn-type",
            "flex-attention-is-selected-within-its-kv-cache-dtype",
            "rocm-aiter-fa-is-selected-within-its-block-size",
            "rocm-aiter-fa-is-selected-within-its-dtype",
            "rocm-aiter-fa-is-selected-within-its-head-size",
            "rocm-aiter-mla-sparse-is-selected-within-its-dtype",
            "rocm-aiter-unified-attn-is-selected-within-its-block-size",
            "rocm-aiter-unified-attn-is-selected-within-its-head-size",
            "rocm-attn-is-selected-within-its-block-size",
            "rocm-attn-is-selected-within-its-head-size",
            "triton-attn-is-selected-within-its-block-size",
            "triton-mla-is-selected-within-its-dtype",
            "triton-mla-is-selected-within-its-kv-cache-dtype",
        ),
        "is not supported by RocmAttention": (
            "head-sizes-build-with-aiter-unified-on",
            "head-sizes-build-with-prefill-decode-on",
            "head-sizes-build-with-rocm-aiter-unified-attn-named",
            "head-sizes-build-with-rocm-aiter-unified-attn-named-and-aiter-on",
            "head-sizes-build-with-rocm-attn-named",
        ),
        "TritonMLA V1 with FP8 KV cache not yet supported": (
            "mla-cache-dtypes-build-by-default",
            "mla-cache-dtypes-build-with-triton-mla-named",
        ),
        "Aiter MLA only supports 16 or 128 number of heads": (
            "mla-head-counts-build-by-default",
            "mla-head-counts-build-with-aiter-on",
            "mla-head-counts-build-with-rocm-aiter-mla-named",
            "mla-head-counts-build-with-rocm-aiter-mla-named-and-aiter-on",
            "mla-head-counts-build-with-rocm-aiter-triton-mla-named",
            "mla-head-counts-build-with-rocm-aiter-triton-mla-named-and-aiter-on",
        ),
        "got an unexpected keyword argument 'sinks'": (
            "optional-sinks-build-with-aiter-on",
            "sinks-build-with-aiter-on",
            "sinks-build-with-rocm-aiter-fa-named",
            "sinks-build-with-rocm-aiter-fa-named-and-aiter-on",
        ),
        "ROCM_AITER_UNIFIED_ATTN's cache blocks differ by how it is chosen": (
            "rocm-aiter-unified-attn-has-one-cache-block-however-chosen",
        ),
        "is built with head counts that ROCM_AITER_MLA, which calls the same kernel, refuses": (
            "sparse-mla-takes-no-more-heads-than-dense",
        ),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASES)
def test_what_falls_short_in_a_release_is_what_its_page_lists(
    vllm_release: Callable[[str], Path], name: str, tmp_path: Path
) -> None:
    folder = vllm_release(name)
    report = tmp_path / "report.json"
    subprocess.run(
        [
            PYTHON,
            *("-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:randomly"),
            *("--rocm-attn-conformance", f"--rocm-attn-tier={','.join(TIERS)}"),
            *("--rocm-attn-gpu=gfx942", "--rocm-attn-timeout=180"),
            "--rocm-attn-selector=vllm.platforms.rocm:RocmPlatform",
            f"--rocm-attn-report={report}",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), *_PATHS))},
        check=False,
        timeout=6000,
    )
    rows = json.loads(report.read_text("utf-8"))["rows"]
    assert {row["tier"] for row in rows} == set(TIERS)
    assert [row["id"] for row in rows if row["verdict"] in ("fail", "crash", "error")] == []

    short = [row for row in rows if row["verdict"] == "inherited-defect"]
    defects = contract.load("vllm").at(upstream.Upstream(release.parse(name), "")).defects
    page = (PAGES / f"{name}.md").read_text("utf-8")
    for defect in defects:
        about = [row for row in rows if defect.is_about(row["id"], "gfx942", row["tier"])]
        assert not about or any(defect.story in row["message"] for row in short), defect.id
        assert f"- {defect.story}\n" in page

    if name in FALLS_SHORT:
        ours = [row for row in short if (row["tier"], row["level"]) == ("capabilities", "required")]
        found = {row["id"]: row["message"] for row in ours}
        expected = {item: words for words, items in FALLS_SHORT[name].items() for item in items}
        assert found.keys() == expected.keys()
        for item, words in expected.items():
            assert words in found[item], item
