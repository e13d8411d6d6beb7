"""The matrix against unmodified vLLM releases (docs/real-vllm.md). Slow; needs them unpacked.

ROCM_ATTN_VLLM_DIR (default /work/vllm) holds a folder per release, ROCM_ATTN_PYTHON is a Python that
has vLLM's light dependencies (docs/real-vllm-requirements.txt) and this package.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)
PAGE = Path(__file__).parents[2] / "docs" / "real-vllm.md"
PLATFORM = "vllm.platforms.rocm:RocmPlatform"
BLOCK_SIZES = re.compile(r"explicit-triton-mla-refuses-block-size-\d+(-with-aiter-on)?")
OVERRIDES = re.compile(
    r"(explicit-(triton-attn|rocm-attn|aiter-unified)-(wins-over|is-honoured-with)-.*"
    r"|aiter-does-not-override-.*)"
)


def run(
    release: Path,
    tmp_path: Path,
    selector: str = PLATFORM,
    options: tuple[str, ...] = ("--rocm-attn-contract=pr-26980", "-q"),
) -> list[dict[str, Any]]:
    return printed_and_rows(release, tmp_path, selector, options)[1]


def printed_and_rows(
    release: Path, tmp_path: Path, selector: str, options: tuple[str, ...]
) -> tuple[list[str], list[dict[str, Any]]]:
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            PYTHON,
            *("-m", "pytest", "--rocm-attn-conformance"),
            *options,
            f"--rocm-attn-selector={selector}",
            f"--rocm-attn-report={report}",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(release)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=900,
    )
    return done.stdout.splitlines(), json.loads(report.read_text())["rows"]


def counted(rows: list[dict[str, Any]], *verdicts: str) -> Counter[str]:
    """Return on how many platforms each row falls short."""
    return Counter(row["id"] for row in rows if row["verdict"] in verdicts)


def listed(release: str) -> Counter[str]:
    """Return what docs/real-vllm.md lists of it."""
    _, _, section = PAGE.read_text("utf-8").partition(f"\n## vLLM {release}\n")
    lines = re.findall(r"^ +(\d+) ([\w-]+)$", section.partition("\n## ")[0], re.MULTILINE)
    return Counter({row: int(count) for count, row in lines})


@pytest.mark.slow
def test_vllm_0_12_0_falls_short_in_triton_mla_block_sizes_alone(
    vllm_release: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = run(vllm_release("0.12.0"), tmp_path)
    failed = {str(row["id"]) for row in rows if row["verdict"] in ("fail", "crash")}
    assert failed
    assert all(BLOCK_SIZES.fullmatch(row) for row in failed)
    assert counted(rows, "fail", "advisory") == listed("0.12.0")
    assert not any(row["outcome"]["kind"] == "crashed" for row in rows)


@pytest.mark.slow
def test_vllm_0_11_2_lets_flags_override_the_explicit_backend(
    vllm_release: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = run(vllm_release("0.11.2"), tmp_path)
    failed = {str(row["id"]) for row in rows if row["verdict"] in ("fail", "crash")}
    assert "explicit-triton-attn-wins-over-aiter" in failed
    assert all(BLOCK_SIZES.fullmatch(row) or OVERRIDES.fullmatch(row) for row in failed)
    assert counted(rows, "fail") == listed("0.11.2")
    assert not any(row["outcome"]["kind"] == "crashed" for row in rows)


def chain(release: Path) -> str:
    """Where a release keeps get_attn_backend, which reads the environment itself and caches."""
    later = (release / "vllm" / "v1" / "attention" / "selector.py").is_file()
    return f"vllm.{'v1.' if later else ''}attention.selector:get_attn_backend"


@pytest.mark.slow
@pytest.mark.parametrize("release", ["0.11.2", "0.12.0", "0.13.0", "0.18.1"])
def test_the_full_chain_crashes_only_where_it_imports_an_aiter_that_is_not_whole(
    vllm_release: Callable[[str], Path], release: str, tmp_path: Path
) -> None:
    folder = vllm_release(release)
    rows = run(folder, tmp_path, chain(folder))
    broken = [row for row in rows if row["outcome"]["kind"] in ("crashed", "died", "timedout")]
    assert {row["gpu"]["aiter"] for row in broken} <= {"absent", "broken", "impostor"}
    assert all(row["level"] == "advisory" for row in broken)
    assert not any(row["outcome"]["kind"] == "died" for row in rows)


def required_shortfalls(rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """Return the items that fall short, whether that fails or is a known defect of the release."""
    short = ("fail", "crash", "error", "inherited-defect")
    return {
        (row["id"], row["gpu"]["gfx"])
        for row in rows
        if row["verdict"] in short and row["level"] == "required"
    }


@pytest.mark.slow
def test_vllm_0_12_0_has_by_its_age_the_required_shortfalls_of_the_original_contract(
    vllm_release: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = vllm_release("0.12.0")
    original = run(folder, tmp_path)
    by_age = run(folder, tmp_path, options=("-q",))
    rows = {row["id"] for row in original}
    expected = required_shortfalls(original)
    assert {one for one in required_shortfalls(by_age) if one[0] in rows} == expected != set()
    assert counted(by_age, "advisory") == counted(original, "advisory")
    # The rows that the contract by age adds are known defects of the release, each.
    assert not [row["id"] for row in by_age if row["verdict"] in ("fail", "crash", "error")]


@pytest.mark.slow
def test_both_depths_of_vllm_0_12_0_fall_short_in_the_same_required_rows(
    vllm_release: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = vllm_release("0.12.0")
    depths = [run(folder, tmp_path), run(folder, tmp_path, chain(folder))]
    short = [{(r["id"], str(r["gpu"])) for r in rows if r["verdict"] == "fail"} for rows in depths]
    assert short[0] == short[1] != set()


@pytest.mark.slow
def test_the_documented_tier_of_0_33_0_is_a_screen_that_names_what_it_judged_by(
    vllm_release: Callable[[str], Path], tmp_path: Path
) -> None:
    printed, rows = printed_and_rows(
        vllm_release("0.33.0"), tmp_path, PLATFORM, ("--rocm-attn-tier=documented",)
    )
    assert len(rows) > 1000
    assert len(printed) <= 60, printed
    assert (
        "rocm-attn: judged by vLLM 0.33.0"
        " (its version says 0.33.0, and its shape is that of 0.33.0)"
    ) in printed
    assert f"Answers like unmodified vLLM 0.33.0 in all {len(rows):,} items." in printed
    assert not [row["id"] for row in rows if row["verdict"] in ("fail", "crash", "error")]
