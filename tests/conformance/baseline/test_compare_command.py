"""What ``rocm-attn compare`` says of two checkouts, or of two revisions of one."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import Request
from pytest_rocm_attn.cli import main
from pytest_rocm_attn.conformance.baseline import compare_command
from pytest_rocm_attn.conformance.promise.grid.design import known, sample, standard
from pytest_rocm_attn.conformance.promise.grid.space import Axis, Family, Grid
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER

if TYPE_CHECKING:
    from pathlib import Path

SMALL = Grid(
    "small-1",
    (
        Family(
            "plain",
            "a family",
            (
                Axis("gfx", ("gfx942", "gfx1100")),
                Axis("aiter", ("present",)),
                Axis(USE_AITER, (None, "1")),
                Axis(EXPLICIT, (None, "TRITON_ATTN")),
                Axis("request", (Request(), Request(block_size=1))),
            ),
        ),
    ),
)
PLATFORM = """
class RocmPlatform:
    @classmethod
    def get_attn_backend_cls(cls, selected_backend, attn_selector_config): ...

def select(request, environ, gpu):
    if environ.get("VLLM_ROCM_USE_AITER") == "1":
        return "{0}"
    return environ.get("VLLM_ATTENTION_BACKEND", "ROCM_ATTN")
"""
SELECTOR = "--selector=serving.platforms.rocm:select"

pytestmark = pytest.mark.usefixtures("without_torch", "small")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask few cells."""
    monkeypatch.setattr(compare_command, "sample", lambda: SMALL)


def write(folder: Path, backend: str) -> Path:
    platforms = folder / "serving" / "platforms"
    platforms.mkdir(parents=True, exist_ok=True)
    for package in (platforms.parent, platforms):
        (package / "__init__.py").touch()
    (platforms / "rocm.py").write_text(PLATFORM.format(backend))
    return folder


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_folders_that_select_alike_differ_in_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, head = (write(tmp_path / name, "ROCM_AITER_FA") for name in "ab")
    assert main(["compare", str(base), str(head), SELECTOR]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{base} -> {head}: no difference in 16 cells."
    assert lines[-1] == (
        f"A sample of 16 cells was asked; --whole asks the grid of {standard().cells:,}."
    )


def test_revisions_are_compared_and_the_checkout_is_left_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    write(checkout / "server", "ROCM_AITER_FA")
    git(tmp_path, "init", "--quiet", str(checkout))
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "-m", "one")
    write(checkout / "server", "TRITON_ATTN")
    (checkout / "notes.txt").write_text("mine")
    git(checkout, "add", "notes.txt")
    before = git(checkout, "status", "--porcelain"), git(checkout, "worktree", "list")
    monkeypatch.chdir(checkout / "server")
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    assert main(["compare", "HEAD", SELECTOR]) == 1
    lines = capsys.readouterr().out.splitlines()
    commit = git(checkout, "rev-parse", "HEAD")[:9]
    assert lines[0] == f"HEAD ({commit}) -> the working tree: 8 of 16 cells differ (1 cause)."
    assert lines[1] == "1. AITER=1: ROCM_AITER_FA -> TRITON_ATTN."
    assert (git(checkout, "status", "--porcelain"), git(checkout, "worktree", "list")) == before
    assert main(["compare", "HEAD", "HEAD", SELECTOR]) == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["no-such-thing"], "no-such-thing: is neither a folder nor a revision"),
        (
            ["empty"],
            r"empty: it contains no \*/platforms/rocm.py with a class that has get_attn_backend_cls",
        ),
        (["empty", SELECTOR], "empty: has no package serving"),
        (["empty", "--selector=pick.py:select"], "empty: has no pick.py"),
    ],
)
def test_what_cannot_be_compared_is_named_in_one_line(
    arguments: list[str],
    why: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    git(tmp_path, "init", "--quiet", ".")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"rocm-attn: {arguments[0]}: ")
    assert error.count("\n") == 1
    with pytest.raises(compare_command.CompareError, match=why):
        selector = arguments[1].partition("=")[2] if arguments[1:] else None
        compare_command._side(arguments[0], tmp_path / "scratch", selector)


def test_the_selector_of_a_checkout_is_found_in_either_layout(tmp_path: Path) -> None:
    for layout in ("flat", "src"):
        folder = tmp_path / layout
        root = write(folder if layout == "flat" else folder / "src", "TRITON_ATTN")
        side = compare_command._side(str(folder), tmp_path / "scratch", None)
        assert (side.root, side.spec) == (root, "serving.platforms.rocm:RocmPlatform")


def test_the_sample_has_every_kind_of_request_and_a_sixth_of_the_cells() -> None:
    assert [one.name for one in sample().families] == [one.name for one in standard().families]
    assert sample().cells < standard().cells / 6
    assert len({grid.digest for grid in known()}) == 2
    for family in standard().families:
        part = sample().family(family.name)
        assert part.axes[-1] == family.axes[-1]
        for axis, whole in zip(part.axes, family.axes, strict=True):
            assert set(axis.values) <= set(whole.values)
            assert len(axis.values) >= min(2, len(whole.values))
