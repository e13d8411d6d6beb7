"""The shipped baselines: what they say, and that recording again gives the same bytes.

The slow ones need unpacked releases in ROCM_ATTN_VLLM_DIR (default /work/vllm), with SHA256SUMS, and
a Python with vLLM's light dependencies in ROCM_ATTN_PYTHON.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_rocm_attn.backends.releases import RELEASES as VLLM
from pytest_rocm_attn.cli import main
from pytest_rocm_attn.conformance.baseline.baseline import load, shipped
from pytest_rocm_attn.conformance.baseline.changelog import Changelog, render
from pytest_rocm_attn.conformance.causes.boxes import union_of
from pytest_rocm_attn.conformance.promise.grid.design import standard

ROOT = Path(__file__).parent.parent.parent
PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)


def test_the_newest_patch_of_every_minor_release_is_shipped_each_well_under_200_kb() -> None:
    assert shipped() == tuple(f"vllm-{release}" for release in VLLM)
    for name in shipped():
        assert (ROOT / "conformance" / "baselines" / f"{name}.json").stat().st_size < 150_000


def test_each_names_the_wheel_and_the_file_that_were_recorded() -> None:
    for name in shipped():
        found = load(name)
        assert (found.distribution, f"vllm-{found.version}") == ("vllm", name)
        wheel, selector = sorted(found.sources, key=lambda source: not source.endswith(".whl"))
        assert wheel.startswith(f"{name}-")
        assert selector == "vllm/platforms/rocm.py"
        for checksum in found.sources.values():
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", checksum)


# The pull request that the release after this one is known for.
KNOWN = {
    "vllm-0.11.2": "#26980",
    "vllm-0.17.1": "#35246",
    "vllm-0.18.1": "#36702",
    "vllm-0.27.1": "#43615",
}
QUICK = ("vllm-0.16.0", "vllm-0.18.1")  # nothing changed after it, much did; the others are slow


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(before, after, marks=() if before in QUICK else pytest.mark.slow)
        for before, after in itertools.pairwise(shipped())
    ],
)
def test_what_a_release_changed_is_read_in_a_minute(before: str, after: str) -> None:
    changes = Changelog.between(load(before), load(after), standard())
    found = changes.found
    lines = render(changes, "text").splitlines()
    told = [line.partition(". ")[2] for line in lines if line[:1].isdigit() and ". " in line[:5]]
    assert all(len(sentence) < 160 for sentence in told)
    assert len(lines) <= 24
    assert (1 if found.differing else 0) <= len(told) <= 10
    if before in KNOWN:
        assert any(sentence.endswith(f" ({KNOWN[before]}).") for sentence in told)
        links = [cause["source"] for cause in json.loads(render(changes, "json"))["causes"]]
        number = KNOWN[before].removeprefix("#")
        assert any(one and one["link"].endswith(f"/pull/{number}") for one in links)
    if not found.differing:
        assert "no difference in" in lines[0]
        return
    assert found.cells is not None
    shares = [cause.inside for cause in found.causes]
    assert sum(map(found.cells.count, shares)) == found.differing  # each cell in one cause
    assert union_of(shares) == union_of(condition.inside for condition in found.conditions)


def test_pr_26980_is_in_the_changelog_as_explicit_choices_that_were_overridden(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["diff", "vllm-0.12.0", "vllm-0.11.2", "--full"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line[:1].isdigit()]
    assert any("VLLM_ROCM_USE_AITER=1" in line and "-> ROCM_AITER_FA" in line for line in told)


def test_the_changelog_page_is_of_these_baselines() -> None:
    folder = ROOT / "conformance" / "baselines"
    content = b"".join((folder / f"{name}.json").read_bytes() for name in shipped())
    page = (ROOT / "docs" / "behaviour-changelog.md").read_text("utf-8")
    assert f"recordings {hashlib.sha256(content).hexdigest()[:16]}" in page


@pytest.mark.slow
def test_the_changelog_page_is_as_generated() -> None:
    script = str(ROOT / "tools" / "behaviour_changelog.py")
    subprocess.run([sys.executable, script, "--check"], check=True, timeout=1800)


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "1"])
def test_recording_a_release_again_gives_the_same_bytes(
    vllm_release: Callable[[str], Path], seed: str, tmp_path: Path
) -> None:
    releases = vllm_release("0.12.0").parent
    script = str(ROOT / "tools" / "record_baselines.py")
    subprocess.run(
        [PYTHON, script, "0.12.0", "--releases", str(releases), "--output", str(tmp_path)],
        env=os.environ | {"PYTHONHASHSEED": seed},
        cwd=tmp_path,
        check=True,
        timeout=3600,
    )
    again = (tmp_path / "vllm-0.12.0.json").read_bytes()
    assert again == (ROOT / "conformance" / "baselines" / "vllm-0.12.0.json").read_bytes()
