"""``rocm-attn record``: checks first, then minutes of asking, then one file."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance import adapters
from pytest_rocm_attn.conformance.baseline import baseline
from pytest_rocm_attn.conformance.baseline.recording import checksum, record, source_of
from pytest_rocm_attn.conformance.isolation import Subject
from pytest_rocm_attn.conformance.promise.grid.design import sample, standard
from pytest_rocm_attn.conformance.report import whole_file
from pytest_rocm_attn.conformance.report.progress import on_own_line
from pytest_rocm_attn.errors import BaselineError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator

    from pytest_rocm_attn.conformance.promise.grid.space import Grid
    from pytest_rocm_attn.conformance.tiers.grid.evaluate import Counts


def run(arguments: argparse.Namespace) -> None:
    """Record what the arguments name.

    Raises:
        BaselineError: the file cannot be written, or a source cannot be read; found out first.
        SelectorError: the selector cannot be imported, or is not one.
    """
    output: Path = arguments.output
    check_output(output, replace=arguments.force)
    sources = checksums(arguments.source) if arguments.source else source_of(arguments.selector)
    grid = sample() if arguments.sample else standard()
    with showing_progress(grid) as progress:
        found = record(
            subject_of(arguments.selector, arguments.timeout),
            grid,
            baseline_id=output.stem,
            sources=sources,
            progress=progress,
        )
    write(output, baseline.render(found, grid))
    outcomes = {outcome for table in found.tables.values() for outcome in table.outcomes}
    crashes = sorted(str(o) for o in outcomes if type(o).__name__ not in ("Selected", "Rejected"))
    print(f"{output}: {grid.cells:,} cells of {found}")
    for crash in crashes[:5]:
        print(f"note: some cells have no answer: {crash}")


@contextlib.contextmanager
def showing_progress(grid: Grid, what: str = "") -> Iterator[Callable[[Counts], None]]:
    """Show on stderr how far a recording is; gives what the recording is to call.

    Args:
        grid: what is recorded.
        what: stands before it.
    """
    answered = [0]

    def how_far() -> str:
        share = 100 * answered[0] / grid.cells
        return f"{what}{answered[0]:,} of {grid.cells:,} cells ({share:.0f} %)"

    with contextlib.closing(on_own_line(sys.stderr, how_far)):
        yield lambda counts: answered.__setitem__(0, counts.answered)


def subject_of(selector: str, timeout: float) -> Subject:
    """Return how a selector is run."""
    if selector == adapters.REFERENCE:
        return Subject(selector, pure=True, preload=(), timeout=timeout)
    return Subject(selector, timeout=timeout)


def check_output(output: Path, *, replace: bool) -> None:
    """Make sure, before the work, that its result can be written.

    Raises:
        BaselineError: it cannot, or something is there that would be lost.
    """
    if output.suffix != ".json":
        raise BaselineError(f"--output {output}: a baseline's name must end in .json")
    if not output.parent.is_dir():
        raise BaselineError(f"--output {output}: {output.parent} is not a folder; make it first")
    if output.exists() and not replace:
        raise BaselineError(f"--output {output}: is there already; --force replaces it")
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        raise BaselineError(f"--output {output}: cannot be written; choose another place")


def checksums(paths: Iterable[Path]) -> dict[str, str]:
    """Return the checksum of each file by its name.

    Raises:
        BaselineError: one cannot be read.
    """
    found = {}
    for path in paths:
        try:
            found[path.name] = checksum(path)
        except OSError as error:
            raise BaselineError(
                f"--source {path}: cannot be read ({error.strerror}); check the path"
            ) from None
    return found


def write(output: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        BaselineError: it cannot be written.
    """
    try:
        whole_file.write(output, content)
    except OSError as error:
        raise BaselineError(
            f"--output {output}: cannot be written ({error.strerror}); free some space, or choose"
            " another place, and record again"
        ) from None
