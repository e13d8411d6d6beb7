"""``rocm-attn compare-kernels``: backends named, compiled in processes of their own, and tabulated."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rocm_attn.cli import main
from pytest_rocm_attn.conformance.tiers.launch.compare_command import (
    PEERS,
    KernelSubject,
    read_subjects,
)
from pytest_rocm_attn.errors import BackendUnderTestError

BACKENDS = """
import triton
import triton.language as tl
from tile import KEYS


@triton.jit
def attend(q, k, out, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    row, column = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    query = tl.load(q + row[:, None] * 32 + tl.arange(0, 32)[None, :])
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, n, BLOCK_N):
        key = tl.load(k + (start + column)[None, :] * 32 + tl.arange(0, 32)[:, None])
        total += tl.exp2(tl.dot(query, key))
    tl.store(out + row[:, None] * BLOCK_N + column[None, :], total)


class Backend:
    def attend(self, problem):
        query, key = problem.query, problem.key_cache
        attend[1,](query, key, problem.out, problem.max_seq_len, BLOCK_M=128, BLOCK_N=KEYS)


class Refusing:
    def attend(self, problem):
        raise NotImplementedError("heads of 128")
"""


@pytest.fixture
def backends(tmp_path: Path) -> Path:
    """A file of backends whose tile is a release's: of 32 keys in one tree, of 64 in the other."""
    for release, keys in (("release-1", 32), ("release-2", 64)):
        (tmp_path / release).mkdir()
        (tmp_path / release / "tile.py").write_text(f"KEYS = {keys}\n")
    file = tmp_path / "backends.py"
    file.write_text(BACKENDS)
    return file


@pytest.mark.slow
def test_two_releases_are_compiled_and_stand_next_to_each_other(
    backends: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trees = backends.parent
    code = main(
        [
            "compare-kernels",
            f"new={backends}:Backend@{trees / 'release-2'}",
            f"old={backends}:Backend@{trees / 'release-1'}",
            f"none={backends}:Refusing@{trees / 'release-1'}",
            "--gpu=MI300X",
            "--family=decode-head-size-128",
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert lines[0].startswith("decode-head-size-128 on gfx942: ")
    assert lines[1].split() == ["new", "old", "ratio"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[3:]}
    assert rows["rows"] == ["128", "128", "1.00"]
    assert rows["keys"] == ["64", "32", "2.00"]
    # A score takes one exponential: 128 rows times the keys, by four waves of 64 lanes.
    assert rows["transcendental"] == ["32", "16", "2.00"]
    assert lines[-1] == "none: declined: heads of 128"


def test_names_stand_for_our_backends_and_for_peers_of_a_tree(tmp_path: Path) -> None:
    tree = tmp_path / "vllm-0.33.0"
    tree.mkdir()
    ours, peer, named, other = read_subjects(
        ["ROCM_ATTN", f"VLLM@{tree}", f"old=VLLM@{tree}", "mine.py:Backend"]
    )
    # Its Triton kernels: another compiler builds the HIP decode.
    assert ours == KernelSubject("ROCM_ATTN", "pytest_rocm_attn.backends.under_test:RocmAttnTriton")
    assert peer == KernelSubject("VLLM of vllm-0.33.0", PEERS["VLLM"], str(tree))
    assert named == KernelSubject("old", PEERS["VLLM"], str(tree))
    assert other == KernelSubject("Backend", "mine.py:Backend")


@pytest.mark.parametrize(
    ("subjects", "words"),
    [
        (["VLM"], "no backend is called 'VLM'. Did you mean 'VLLM'"),
        (["VLLM@/no/such/tree"], "'/no/such/tree' is not a folder"),
        (["VLLM", "VLLM"], "two backends are called 'VLLM'; write NAME=VLLM"),
    ],
)
def test_a_backend_that_is_not_there_is_named_with_a_remedy(
    subjects: list[str], words: str
) -> None:
    with pytest.raises(BackendUnderTestError) as caught:
        read_subjects(subjects)
    assert words in str(caught.value)


def test_a_family_that_is_not_there_is_an_error_of_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["compare-kernels", "VLLM", "--gpu=gfx942", "--family=decode-head-size-129"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "rocm-attn: no shape family is called 'decode-head-size-129'. Did you mean"
    )
