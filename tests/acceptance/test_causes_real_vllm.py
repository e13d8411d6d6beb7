"""The first screen of runs on real vLLM: what a broken copy does, in one cause; a release by PR #26980.

Nothing but what is printed is read. Slow; ROCM_ATTN_VLLM_DIR and ROCM_ATTN_PYTHON as in
test_real_vllm.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)
FAILS = ("FAIL ", "CRASH ", "ERROR ")
ENUM = "AttentionBackendEnum"

pytestmark = pytest.mark.slow

# A file, and texts that occur once in it -> what stands there instead; and the cause.
MUTANTS = {
    "a priority swapped": (
        "vllm/platforms/rocm.py",
        {
            f"{ENUM}.ROCM_AITER_MLA,\n                {ENUM}.TRITON_MLA,\n": (
                f"{ENUM}.TRITON_MLA,\n                {ENUM}.ROCM_AITER_MLA,\n"
            )
        },
        "AITER=1, MLA layers: ROCM_AITER_MLA -> TRITON_MLA, on gfx942 and gfx950.",
    ),
    "a flag ignored": (
        "vllm/platforms/rocm.py",
        {"if rocm_aiter_ops.is_mha_enabled():": "if rocm_aiter_ops.is_enabled():"},
        (
            "AITER_MHA=0, all layers with sinks: ROCM_AITER_UNIFIED_ATTN -> ROCM_AITER_FA, on gfx942 and"
            " gfx950."
        ),
    ),
    "a capability check lost": (
        "vllm/v1/attention/backend.py",
        {"if has_sink and not cls.supports_sink():": "if False:"},
        "Default for all layers with sinks: ",
    ),
}


def broken(release: Path, folder: Path, file: str, edits: dict[str, str]) -> Path:
    """Return a folder that holds a release with one file changed, all others by links."""
    parts = Path(file).parts
    for depth, part in enumerate(parts):
        here = folder.joinpath(*parts[:depth])
        here.mkdir()
        for entry in release.joinpath(*parts[:depth]).iterdir():
            if entry.name != part:
                (here / entry.name).symlink_to(entry)
    text = (release / file).read_text()
    for old, new in edits.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / file).write_text(text)
    return folder


def screen_of(release: Path, tmp_path: Path, *options: str) -> list[str]:
    """Return the lines that a run on a release, which falls short, ends with."""
    done = subprocess.run(
        [
            PYTHON,
            *("-m", "pytest", "-q", "--rocm-attn-conformance", "-p", "no:cacheprovider"),
            "--rocm-attn-selector=vllm.platforms.rocm:RocmPlatform",
            *options,
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(release)},
        check=False,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout[done.stdout.index("ROCm attention conformance") :].splitlines()


@pytest.mark.parametrize(("file", "edits", "cause"), MUTANTS.values(), ids=MUTANTS)
def test_the_first_screen_names_what_was_changed(
    vllm_release: Callable[[str], Path],
    tmp_path: Path,
    file: str,
    edits: dict[str, str],
    cause: str,
) -> None:
    fork = broken(vllm_release("0.33.0"), tmp_path / "fork", file, edits)
    screen = screen_of(fork, tmp_path)
    causes = [line for line in screen if line.startswith(FAILS)]
    assert len(causes) <= 2, screen
    assert causes[0].removeprefix("FAIL").lstrip().startswith(cause), screen
    assert len(screen) <= 40, screen


@pytest.mark.parametrize("release", ["0.12.0", "0.25.1", "0.33.0"])
def test_what_a_release_does_otherwise_than_the_pull_request_fits_a_screen(
    vllm_release: Callable[[str], Path], tmp_path: Path, release: str
) -> None:
    screen = screen_of(vllm_release(release), tmp_path, "--rocm-attn-contract=pr-26980")
    causes = [line for line in screen if line.startswith((*FAILS, "ADVISORY "))]
    assert 1 <= len(causes) <= 12, screen
    assert len(screen) <= 60, screen
