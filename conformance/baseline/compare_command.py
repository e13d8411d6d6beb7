"""``rocm-attn compare``: what a change of a fork's sources changes in selection, by cause."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.adapters import checkout, shape
from pytest_rocm_attn.conformance.baseline import changelog
from pytest_rocm_attn.conformance.baseline.recording import record
from pytest_rocm_attn.conformance.baseline.recording_command import showing_progress, subject_of
from pytest_rocm_attn.conformance.promise.grid.design import sample, standard
from pytest_rocm_attn.errors import RocmAttnError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.baseline.baseline import Baseline
    from pytest_rocm_attn.conformance.promise.grid.space import Grid

_GIT_LIMIT = 600  # seconds
_BYTECODE = "PYTHONPYCACHEPREFIX"


class CompareError(RocmAttnError, ValueError):
    """Two checkouts cannot be compared; says which, why, and what to do."""


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes:
        name: what the user called it.
        root: the folder that its selector is imported from.
        spec: its selector.
    """

    name: str
    root: Path
    spec: str


def run(arguments: argparse.Namespace) -> tuple[list[str], bool]:
    """Return the lines of what the arguments ask for, and whether anything differs.

    Raises:
        CompareError: one of the two is neither a folder nor a revision, or has no selector.
        SelectorError: a selector cannot be imported, or is not one.
        BaselineError: some cells could not be answered.
    """
    grid = standard() if arguments.whole else sample()
    with (
        tempfile.TemporaryDirectory(prefix="rocm-attn-compare-") as folder,
        _bytecode_in(Path(folder) / "bytecode"),
    ):
        sides = [
            _side(given, Path(folder) / number, arguments.selector)
            for number, given in (("base", arguments.base), ("head", arguments.head))
        ]
        before, after = (_recorded(side, grid, arguments.timeout) for side in sides)
    found = changelog.Changelog.between(before, after, grid)
    text = changelog.render(found, arguments.format, arguments.limit, full=arguments.full)
    lines = [text.rstrip("\n")]
    if not arguments.whole and arguments.format != "json":
        asked, all_of = f"{grid.cells:,}", f"{standard().cells:,}"
        lines += ["", f"A sample of {asked} cells was asked; --whole asks the grid of {all_of}."]
    return lines, bool(found.found.differing)


@contextlib.contextmanager
def _bytecode_in(folder: Path) -> Iterator[None]:
    """Let the processes that start within the block write their bytecode there, not in a checkout."""
    before = os.environ.get(_BYTECODE)
    os.environ[_BYTECODE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_BYTECODE]
        else:
            os.environ[_BYTECODE] = before


def _side(given: str, scratch: Path, spec: str | None) -> Side:
    """Return what a word of the command line stands for.

    Args:
        given: a folder, or a revision of the checkout in the working folder.
        scratch: where the files of a revision go.
        spec: the selector; None to look for it.
    """
    folder, name = Path(given), given
    if folder.is_dir():
        name = "the working tree" if folder.samefile(Path.cwd()) else given
    else:
        folder, commit = _checked_out(given, scratch)
        name = given if commit.startswith(given) else f"{given} ({commit[:9]})"
    if spec is None:
        found = checkout.find(folder)
        if found is None:
            raise CompareError(
                f"{given}: it contains no */{shape.PLATFORM} with a class that has"
                f" {checkout.SELECTS}; name the selector with --selector MODULE:OBJECT"
            )
        return Side(name, found.root, found.spec)
    place, _, attribute = spec.rpartition(":")
    if place.endswith(".py"):
        file = folder / place
        if not file.is_file():
            raise CompareError(f"{given}: has no {place}; --selector names a file of both sides")
        return Side(name, folder, f"{file.resolve()}:{attribute}")
    root = checkout.root_of(folder, spec)
    if root is None:
        raise CompareError(
            f"{given}: has no package {place.partition('.')[0]}; --selector names a module of both"
            " sides"
        )
    return Side(name, root, spec)


def _checked_out(revision: str, scratch: Path) -> tuple[Path, str]:
    """Write the files of a revision to a folder; return the working folder there, and the commit.

    The checkout itself is left as it is: git uses an index of its own for this.
    """
    top = _git("rev-parse", "--show-toplevel")
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if top is None or commit is None:
        why = "is not a folder, and the working folder is not in a git checkout; name two folders"
        if top is not None:
            why = (
                "is neither a folder nor a revision of this checkout; if it is a remote branch, fetch it"
                " first"
            )
        raise CompareError(f"{revision}: {why}")
    scratch.mkdir()
    index = {"GIT_INDEX_FILE": str(scratch.with_suffix(".index"))}
    written = (
        _git("-C", top, "read-tree", commit, environ=index),
        _git("-C", top, "checkout-index", "--all", f"--prefix={scratch}/", environ=index),
    )
    if None in written:
        raise CompareError(
            f"{revision}: git could not write its files to {scratch.parent}; free some space there"
        )
    return scratch / (_git("rev-parse", "--show-prefix") or ""), commit


def _git(*words: str, environ: dict[str, str] | None = None) -> str | None:
    """Return what git prints; None if it fails."""
    try:
        done = subprocess.run(
            ["git", *words],
            env=os.environ | (environ or {}),
            capture_output=True,
            text=True,
            timeout=_GIT_LIMIT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _recorded(side: Side, grid: Grid, timeout: float) -> Baseline:
    with _importable(side.root), showing_progress(grid, f"{side.name}: ") as progress:
        found = record(
            subject_of(side.spec, timeout),
            grid,
            baseline_id=side.name,
            sources={},
            progress=progress,
        )
    # Both have the distribution and version of one package: their names tell them apart.
    return replace(found, distribution=None, version=None)


@contextlib.contextmanager
def _importable(root: Path) -> Iterator[None]:
    """Have what is imported from a folder found there first, in the processes that start now."""
    before = list(sys.path)
    sys.path.insert(0, str(root.resolve()))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
