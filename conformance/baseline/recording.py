"""Record a selector: its outcome in every cell of the grid."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.baseline.baseline import Baseline
from pytest_rocm_attn.conformance.isolation import Pool, probing
from pytest_rocm_attn.conformance.isolation.inside.cells import UNANSWERED
from pytest_rocm_attn.conformance.promise.grid.outcomes import OutcomeCodes, Table
from pytest_rocm_attn.conformance.report import origin
from pytest_rocm_attn.conformance.report.json_file import tool_version
from pytest_rocm_attn.conformance.tiers.grid.evaluate import Evaluator
from pytest_rocm_attn.errors import BaselineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_rocm_attn.conformance.isolation import Subject
    from pytest_rocm_attn.conformance.promise.grid.space import Family, Grid
    from pytest_rocm_attn.conformance.tiers.grid.evaluate import Counts

_EVERY = 0.5  # seconds between two looks at the progress


def record(
    subject: Subject,
    grid: Grid,
    *,
    baseline_id: str,
    sources: Mapping[str, str],
    progress: Callable[[Counts], None] = lambda counts: None,
    lanes: int = 2,
) -> Baseline:
    """Ask a selector every cell, and return what came.

    Args:
        subject: the selector, and how it is run.
        grid: the cells.
        baseline_id: what the recording is called.
        sources: what is recorded: name -> "sha256:...".
        progress: gets the number of answered cells, now and then.
        lanes: how many platforms are worked on at a time.

    Raises:
        SelectorError: the selector cannot be imported, or is not one.
        BaselineError: some cells could not be answered, so that there is nothing to compare with.
    """
    pool = Pool(subject, lanes=1)
    try:
        pool.probe(probing(part.gfx for part in grid.slices))
        evaluator = Evaluator(pool, budget=math.inf, cells=grid.cells, lanes=lanes)
        try:
            evaluator.submit(grid.slices)
            while evaluator.counts.parts_done < evaluator.counts.parts:
                progress(evaluator.counts)
                time.sleep(_EVERY)
            tables = {family.name: _table(evaluator, family) for family in grid.families}
        finally:
            evaluator.close(kill=pool.close)
    finally:
        pool.close()
    selector = origin.of(subject.selector)
    return Baseline(
        id=baseline_id,
        selector=_without_folder(subject.selector),
        distribution=selector["distribution"],
        version=selector["version"],
        tool=tool_version(),
        grid=grid.name,
        grid_digest=grid.digest,
        sources=sources,
        tables=tables,
    )


def _table(evaluator: Evaluator, family: Family) -> Table:
    codes = array("H")
    numbers = OutcomeCodes()
    for each in family.slices():
        table = evaluator.answers(each)
        if unanswered := table.codes.count(UNANSWERED):
            raise BaselineError(
                f"{unanswered} cells of {each.id} have no answer, so nothing was recorded;"
                " record it again"
            )
        new = [numbers.code(outcome) for outcome in table.outcomes]
        codes.extend(new[code] for code in table.codes)
    return Table(codes, numbers.outcomes)


def _without_folder(selector: str) -> str:
    place, _, name = selector.rpartition(":")
    return f"{Path(place).name}:{name}" if place.endswith(".py") else selector


def source_of(selector: str) -> dict[str, str]:
    """Return the file that a selector is in, with its checksum: {"vllm/platforms/rocm.py": ...}.

    Nothing is imported. Empty where the file is not to be found.
    """
    place = selector.rpartition(":")[0]
    if place.endswith(".py"):
        path, name = Path(place), Path(place).name
    else:
        top, *rest = place.split(".")
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return {}
        if spec is None or spec.origin is None:
            return {}
        folder = Path(spec.origin).parent
        path = Path(spec.origin) if not rest else folder.joinpath(*rest).with_suffix(".py")
        if rest and not path.is_file():
            path = folder.joinpath(*rest, "__init__.py")
        name = "/".join((top, *path.relative_to(folder).parts))
    return {name: checksum(path)} if path.is_file() else {}


def checksum(path: Path) -> str:
    """Return "sha256:..." of a file's content."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
