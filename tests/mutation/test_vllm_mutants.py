"""Mutants of vLLM 0.12.0's own selector, made from the unpacked release: the suite sees them.

Slow; ROCM_ATTN_VLLM_DIR and ROCM_ATTN_PYTHON as in tests/acceptance/test_real_vllm.py. Survivors
are explained one by one in docs/detection.md, which this test holds to be complete.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

RELEASE = Path(os.environ.get("ROCM_ATTN_VLLM_DIR", "/work/vllm")) / "0.12.0"
PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)
TOOL = Path(__file__).with_name("vllm_mutants.py")
DETECTION = Path(__file__).parents[2] / "docs" / "detection.md"
PLATFORMS = (("gfx942", "present"), ("gfx1201", "present"))


def mutate(gfx: str, aiter: str, *options: str) -> dict[str, list[str] | None]:
    """Return what saw each mutant on one platform: name -> (tier, row or law), or None."""
    if not RELEASE.is_dir():
        pytest.skip(f"vLLM 0.12.0 is not unpacked in {RELEASE.parent}; see docs/real-vllm.md")
    done = subprocess.run(
        [PYTHON, str(TOOL), gfx, aiter, *options],
        env=os.environ | {"PYTHONPATH": str(RELEASE), "VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=True,
        timeout=3000,
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {mutant["name"]: mutant["seen"] for mutant in found}


def explained() -> Sequence[str]:
    """Return the mutants that docs/detection.md explains: the first column of its last table."""
    _, _, table = DETECTION.read_text("utf-8").partition("| surviving mutant |")
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    return [line.split("`")[1] for line in rows]


@pytest.mark.slow
def test_every_mutant_is_seen_or_explained(tmp_path: Path) -> None:
    names: list[str] | None = None
    for gfx, aiter in PLATFORMS:
        options = []
        if names is not None:  # only those that nothing saw before
            survivors = tmp_path / "survivors.json"
            survivors.write_text(json.dumps(names))
            options = ["--only", str(survivors)]
        seen = mutate(gfx, aiter, *options)
        if names is None:
            assert len(seen) >= 60
        names = [name for name, by in seen.items() if by is None]
    assert names == explained()


@pytest.mark.slow
def test_every_comparison_condition_backend_and_error_is_altered() -> None:
    names = list(mutate("gfx942", "present", "--list"))
    assert len(names) == len(set(names))
    for change in (
        "block_size == 1 -> block_size != 1",
        "block_size != 1 -> True",
        "rocm_aiter_ops.is_mla_enabled() -> not rocm_aiter_ops.is_mla_enabled()",
        "AttentionBackendEnum.FLEX_ATTENTION -> AttentionBackendEnum.TRITON_MLA",
        "on_gfx9() -> False",
        "return AttentionBackendEnum.TRITON_ATTN.get_path() -> return None",
    ):
        assert change in names, change
    assert sum("-> raise TypeError(" in name for name in names) == 5
    assert sum(name.startswith("raise ") and name.endswith("-> pass") for name in names) == 5
