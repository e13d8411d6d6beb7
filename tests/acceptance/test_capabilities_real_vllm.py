"""Known regressions (facts/known-regressions.md) that the capabilities tier catches, in real vLLM.

Slow; needs the releases unpacked: see test_real_vllm.py. A release that has the regression falls
short in the item, the one that mended it passes. Where no release at hand has it, a mutant does: the
release, with a few attributes of its classes put back to what they were.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

RELEASES = Path(os.environ.get("ROCM_ATTN_VLLM_DIR", "/work/vllm"))
PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)
_PATHS = [path for path in (os.environ.get("PYTHONPATH"),) if path]

# regression, release that has it, the one that mended it (or None), item, words of the message
CAUGHT = [
    (
        "cap-rocm-attn-any-block",
        ("0.12.0", "0.14.1"),
        "rocm-attn-has-a-cache-for-its-block-sizes",
        ("declares a block size that its cache cannot have", "block_size=8"),
    ),
    (
        "cap-rocm-attn-encoder-self",
        ("0.16.0", "0.18.1"),
        "attention-types-build-with-rocm-attn-named",
        ("NotImplementedError: Encoder self-attention", "attn_type=encoder_only"),
    ),
    (
        "cap-aiter-fa-no-sinks",
        ("0.16.0", "0.18.1"),
        "sinks-build-with-aiter-on",
        ("ROCM_AITER_FA is selected and cannot be built", "TypeError", "'sinks'"),
    ),
    (
        "cap-aiter-mla-8-heads",
        ("0.14.1", "0.29.0"),
        "mla-head-counts-build-with-aiter-on",
        ("ROCM_AITER_MLA is selected and cannot be built", "AssertionError", "num_heads=8"),
    ),
    (
        "cap-triton-mla-fp8",
        ("0.14.1", "0.18.1"),
        "triton-mla-takes-fp8-caches-from-0-18-1",
        ("NotImplementedError", "kv_cache_dtype=fp8"),
    ),
    (
        "cap-triton-mla-fp8",
        ("0.14.1", None),
        "mla-cache-dtypes-build-by-default",
        ("TRITON_MLA is selected and cannot be built", "NotImplementedError"),
    ),
    (
        "cap-sparse-mla-few-heads",
        ("0.18.1", "0.29.0"),
        "sparse-mla-takes-no-more-heads-than-dense",
        ("ROCM_AITER_MLA_SPARSE is built with head counts that ROCM_AITER_MLA",),
    ),
    (
        "cap-cross-attn-accepted-wrongly",
        ("0.18.1", "0.29.0"),
        "rocm-attn-refuses-cross-attention",
        ("ROCM_ATTN is selected and built as if nothing were wrong",),
    ),
    (
        "itf-half-installed-aiter-mla",
        ("0.29.0", None),
        "plain-mla-layers-build-with-aiter-on-where-aiter-is-impostor",
        ("ROCM_AITER_MLA is selected and cannot be built", "ImportError"),
    ),
]

# regression, release, what is put back, item, words of the message
MUTANTS = [
    (
        "cap-kv-dtype-lost",
        "0.18.1",
        """
        from vllm.v1.attention.backends.rocm_attn import RocmAttentionBackend
        del RocmAttentionBackend.supported_kv_cache_dtypes
        """,
        "rocm-attn-takes-fp8-caches",
        ("is not selected", "kv_cache_dtype not supported"),
    ),
    (
        "cap-kv-dtype-lost",
        "0.18.1",
        """
        from vllm.v1.attention.backends.mla.rocm_aiter_mla import AiterMLABackend
        del AiterMLABackend.supported_kv_cache_dtypes
        """,
        "rocm-aiter-mla-takes-fp8-caches-from-0-18-1",
        ("is not selected", "kv_cache_dtype not supported"),
    ),
    (
        "itf-kv-cache-shape-arg",
        "0.18.1",
        """
        from vllm.v1.attention.backends.rocm_attn import RocmAttentionBackend
        RocmAttentionBackend.get_kv_cache_shape = staticmethod(
            lambda num_blocks, block_size, num_kv_heads, head_size: (2, num_blocks, block_size)
        )
        """,
        "rocm-attn-takes-its-dtypes",
        ("get_kv_cache_shape() as the runner does: TypeError", "cache_dtype_str"),
    ),
]


def _run(release: str, selector: str, items: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    folder = RELEASES / release
    if not folder.is_dir():
        pytest.skip(f"vLLM {release} is not unpacked in {RELEASES}; see docs/real-vllm.md")
    with tempfile.TemporaryDirectory() as work:
        report = Path(work) / "report.json"
        subprocess.run(
            [
                PYTHON,
                *("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rocm-attn-conformance"),
                "--rocm-attn-tier=capabilities",
                "--rocm-attn-timeout=120",
                f"--rocm-attn-selector={selector}",
                f"--rocm-attn-report={report}",
                *(f"rocm-attn::capabilities::{item}[gfx942]" for item in items),
            ],
            cwd=work,
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), *_PATHS))},
            check=False,
            timeout=1800,
        )
        return {row["id"]: row for row in json.loads(report.read_text())["rows"]}


@functools.cache
def rows_of(release: str) -> dict[str, dict[str, Any]]:
    """Return what the items that matter to a release came to; asked together, once."""
    items = (item for _, releases, item, _ in CAUGHT if release in releases)
    return _run(release, "vllm.platforms.rocm:RocmPlatform", tuple(dict.fromkeys(items)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("releases", "item", "words"),
    [pytest.param(*case[1:], id=f"{case[0]} {case[2]}") for case in CAUGHT],
)
def test_a_known_regression_falls_short_where_it_is_and_nowhere_else(
    releases: tuple[str, str | None], item: str, words: tuple[str, ...]
) -> None:
    bad, good = releases
    row = rows_of(bad)[item]
    assert row["verdict"] in ("fail", "crash", "advisory")
    for word in words:
        assert word in row["message"]
    if good is not None:
        assert rows_of(good)[item]["verdict"] == "pass"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("release", "patch", "item", "words"),
    [pytest.param(*case[1:], id=f"{case[0]} {case[3]}") for case in MUTANTS],
)
def test_a_known_regression_put_back_falls_short(
    tmp_path: Path, release: str, patch: str, item: str, words: tuple[str, ...]
) -> None:
    lines = ["from vllm.platforms.rocm import RocmPlatform", *patch.strip().splitlines()]
    (tmp_path / "mutant.py").write_text(
        lines[0] + "\n" + "\n".join(line[8:] if line[:8].isspace() else line for line in lines[1:])
    )
    row = _run(release, f"{tmp_path}/mutant.py:RocmPlatform", (item,))[item]
    assert row["verdict"] in ("fail", "crash", "advisory")
    for word in words:
        assert word in row["message"]
    assert rows_unpatched(release)[item]["verdict"] == "pass"


@functools.cache
def rows_unpatched(release: str) -> dict[str, dict[str, Any]]:
    """Return what the mutants' items come to in the release as it is."""
    items = tuple(dict.fromkeys(case[3] for case in MUTANTS if case[1] == release))
    return _run(release, "vllm.platforms.rocm:RocmPlatform", items)
