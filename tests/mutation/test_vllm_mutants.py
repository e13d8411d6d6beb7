"""Mutants of vLLM releases' own selectors, made from the unpacked releases: the suite sees them.

Slow; ROCM_ATTN_VLLM_DIR and ROCM_ATTN_PYTHON as in tests/acceptance/test_real_vllm.py. Survivors
are explained one by one in docs/detection.md, which this test holds to be complete. With
ROCM_ATTN_MUTANTS_DIR, a folder with what the tool printed (mutants-0.33.0.jsonl, all shares), it judges that run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RECORDED = os.environ.get("ROCM_ATTN_MUTANTS_DIR")
PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)
TOOL = Path(__file__).with_name("vllm_mutants.py")
DETECTION = Path(__file__).parents[2] / "docs" / "detection.md"
# How many mutants there are at least, and some that there must be.
MUTANTS = {
    "0.12.0": (
        100,
        "get_attn_backend_cls: block_size == 1 -> block_size != 1",
        "get_attn_backend_cls: block_size != 1 -> True",
        "get_attn_backend_cls: rocm_aiter_ops.is_mla_enabled() -> not rocm_aiter_ops.is_mla_enabled()",
        "get_attn_backend_cls: on_gfx9() -> False",
        "get_attn_backend_cls: return AttentionBackendEnum.TRITON_ATTN.get_path() -> return None",
    ),
    "0.33.0": (
        300,
        "get_valid_backends: invalid_reasons_i -> False",
        "_get_backend_priorities: backends.append(AttentionBackendEnum.ROCM_ATTN) -> pass",
        "_get_backend_priorities: backends.append(AttentionBackendEnum.TURBOQUANT) -> pass",
        "AttentionBackend.validate_configuration: has_sink and (not cls.supports_sink()) -> has_sink",
        "supports_block_size: block_size % supported_size == 0 -> block_size % supported_size != 0",
    ),
}


def mutate(release: Path, *options: str) -> dict[str, list[str] | None]:
    """Return what saw each mutant: name -> (platform, tier, row, verdict), or None."""
    done = subprocess.run(
        [PYTHON, str(TOOL), str(release), *options],
        env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=True,
        timeout=7200,
    )
    return _settled(done.stdout)


def _settled(printed: str) -> dict[str, list[str] | None]:
    found = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert len(found) == len({mutant["name"] for mutant in found})
    return {mutant["name"]: mutant["seen"] for mutant in found}


def explained(release: str) -> Sequence[str]:
    """Return the mutants that docs/detection.md explains: first columns of a release's table."""
    text = DETECTION.read_text("utf-8")
    _, _, section = text.partition(f"## Mutants of vLLM {release}")
    table = re.split(r"^## ", section, flags=re.MULTILINE)[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    return [name for line in rows for name in re.findall(r"`([^`]+)`", line.split(" | ")[0])]


@pytest.mark.slow
@pytest.mark.parametrize("release", MUTANTS)
def test_every_mutant_is_seen_or_explained(
    vllm_release: Callable[[str], Path], release: str
) -> None:
    folder = vllm_release(release)
    if RECORDED:
        seen = _settled((Path(RECORDED) / f"mutants-{release}.jsonl").read_text("utf-8"))
        assert sorted(seen) == sorted(mutate(folder, "--list"))
    else:
        seen = mutate(folder)
    survivors = [name for name, by in seen.items() if by is None]
    assert sorted(survivors) == sorted(explained(release))


@pytest.mark.slow
@pytest.mark.parametrize("release", MUTANTS)
def test_every_comparison_condition_backend_and_error_is_altered(
    vllm_release: Callable[[str], Path], release: str
) -> None:
    names = list(mutate(vllm_release(release), "--list"))
    fewest, *some = MUTANTS[release]
    assert len(names) >= fewest
    assert not [name for name in some if name not in names]
    raised = [name for name in names if ": raise " in name]
    assert sum("-> raise TypeError(" in name for name in raised) * 2 == len(raised)
