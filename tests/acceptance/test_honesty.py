"""A trial of honesty: forks that were accepted, then broken, are red under the file that was accepted.

The deviations file is the one that the draft makes for an unmodified release, with reasons filled
in. Slow; needs the releases unpacked (see test_real_vllm.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)
SELECTION = Path("vllm/platforms/rocm.py")
DECLARED = "rocm-attn-deviations.toml"
CHANGED = "the answer of a deviation changed"

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Mutation:
    """A change to a release's selection: texts that occur once -> what stands there instead.

    Attributes:
        edits: the change.
        red: a row that fails by it, and words of why.
    """

    edits: dict[str, str]
    red: tuple[str, str]


ENUM = "AttentionBackendEnum"
MUTATIONS: dict[str, dict[str, Mutation]] = {
    "0.12.0": {
        "two priorities swapped": Mutation(
            {
                f"{ENUM}.ROCM_AITER_MLA\n                    if": f"{ENUM}.TRITON_MLA\n                    if",
                f"else {ENUM}.TRITON_MLA\n": f"else {ENUM}.ROCM_AITER_MLA\n",
            },
            ("aiter-gives-aiter-mla", "expected ROCM_AITER_MLA, got TRITON_MLA"),
        ),
        "a flag ignored": Mutation(
            {"if envs.VLLM_V1_USE_PREFILL_DECODE_ATTENTION:": "if False:"},
            ("prefill-decode-", "expected ROCM_ATTN, got TRITON_ATTN"),
        ),
        "explicit choices not validated": Mutation(
            {"                if block_size != 1:\n": "                if True:\n"},
            ("explicit-triton-mla-refuses-block-size-1", "got TRITON_MLA"),
        ),
    },
    "0.33.0": {
        "two priorities swapped": Mutation(
            {
                f"                {ENUM}.ROCM_AITER_MLA,\n                {ENUM}.TRITON_MLA,\n": (
                    f"                {ENUM}.TRITON_MLA,\n                {ENUM}.ROCM_AITER_MLA,\n"
                )
            },
            ("aiter-gives-aiter-mla", "expected ROCM_AITER_MLA, got TRITON_MLA"),
        ),
        "two more priorities swapped": Mutation(
            {
                f"backends.append({ENUM}.ROCM_ATTN)": f"backends.append({ENUM}.ROCM_AITER_FA)",
                f"backends.append({ENUM}.ROCM_AITER_FA)": f"backends.append({ENUM}.ROCM_ATTN)",
            },
            ("", CHANGED),
        ),
        "a flag ignored": Mutation(
            {"if rocm_aiter_ops.is_mla_enabled():": "if False:"},
            ("aiter-gives-aiter-mla", "expected ROCM_AITER_MLA, got TRITON_MLA"),
        ),
        "explicit choices not validated": Mutation(
            {"            if not sel_invalid_reasons:": "            if True:"},
            ("explicit-triton-mla-refuses-block-size-", "got TRITON_MLA"),
        ),
    },
}


def mutate(release: Path, folder: Path, edits: dict[str, str]) -> Path:
    """Return a folder that holds the release, all but one file by links."""
    fork = folder / "fork"
    fork.mkdir()
    for depth, part in enumerate(SELECTION.parts):
        here = fork.joinpath(*SELECTION.parts[:depth])
        here.mkdir(exist_ok=True)
        for entry in release.joinpath(*SELECTION.parts[:depth]).iterdir():
            if entry.name != part:
                (here / entry.name).symlink_to(entry)
    text = (release / SELECTION).read_text()
    pieces = [text]
    for old in edits:
        assert text.count(old) == 1, old
        pieces = [part for piece in pieces for part in _split(piece, old)]
    (fork / SELECTION).write_text("".join(edits.get(piece, piece) for piece in pieces))
    return fork


def _split(text: str, at: str) -> list[str]:
    head, found, tail = text.partition(at)
    return [head, found, tail]


def run(source: Path, folder: Path, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """Run the documented tier on two GPUs; return the exit status and the rows."""
    report = folder / "report.json"
    done = subprocess.run(
        [
            PYTHON,
            *("-m", "pytest", "-q", "--rocm-attn-conformance", "-p", "no:cacheprovider"),
            "--rocm-attn-selector=vllm.platforms.rocm:RocmPlatform",
            "--rocm-attn-contract=pr-26980",
            "--rocm-attn-gpu=gfx90a,gfx942",
            f"--rocm-attn-report={report}",
            *options,
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(source)},
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert report.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    rows: list[dict[str, Any]] = json.loads(report.read_text())["rows"]
    report.unlink()
    return done.returncode, rows


def failing(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["verdict"] not in ("pass", "advisory", "deviation")]


@pytest.fixture(scope="module", params=MUTATIONS)
def accepted(
    vllm_release: Callable[[str], Path],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """A release, and the deviations file that was accepted for it, as a text."""
    release = vllm_release(request.param)
    folder = tmp_path_factory.mktemp(f"accepted-{request.param}")
    file = folder / DECLARED
    file.write_text("")
    status, rows = run(release, folder, f"--rocm-attn-deviations-draft={DECLARED}")
    failed = failing(rows)
    assert status == 1
    assert failed
    text = file.read_text()
    pairs = {(row["expect"]["words"], row["fell_short"][0]["answer"]) for row in failed}
    assert text.count("[[deviation]]") <= len(pairs) + 2
    text = text.replace('reason = ""', 'reason = "as upstream"')
    return release, text.replace('link   = ""', 'link   = "#1"')


def test_an_accepted_release_is_green_and_every_entry_is_used(
    accepted: Any, tmp_path: Path
) -> None:
    release, declared = accepted
    (tmp_path / DECLARED).write_text(declared)
    status, rows = run(release, tmp_path)
    assert status == 0
    assert not failing(rows)
    assert "deviation" in {row["verdict"] for row in rows}


@pytest.mark.parametrize("name", dict.fromkeys(name for of in MUTATIONS.values() for name in of))
def test_a_broken_fork_is_red_under_the_accepted_file(
    accepted: Any, name: str, tmp_path: Path
) -> None:
    release, declared = accepted
    mutation = MUTATIONS[release.name].get(name)
    if mutation is None:
        pytest.skip(f"{release.name} is not broken in this way")
    (tmp_path / DECLARED).write_text(declared)
    status, rows = run(mutate(release, tmp_path, mutation.edits), tmp_path)
    assert status == 1
    row_id, words = mutation.red
    red = [row for row in failing(rows) if row["id"].startswith(row_id)]
    assert any(words in row["message"] for row in red), [
        (row["id"], row["message"]) for row in failing(rows)
    ]
