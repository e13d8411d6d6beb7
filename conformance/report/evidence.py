"""Which backend was tried on which kind of evidence, and the result: one table for every format.

A pure function of the report's plain data. Every kind has its column, so that a reader sees as well on
which a backend was not tried.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report.words import KERNEL_EVIDENCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

COLUMNS = tuple(kind for kind in KERNEL_EVIDENCE if kind != "oracle")
NOT_TRIED = "not tried"
_ORDER = (*reversed(Verdict), "declined")


def table(
    rows: Iterable[Mapping[str, Any]], declined: Iterable[Mapping[str, Any]] = ()
) -> list[tuple[str, list[str]]]:
    """Return a line for each backend whose kernels a run tried: its name, a cell for each of COLUMNS.

    Args:
        rows: the report's rows; those that are not about a backend's kernels are passed over.
        declined: what backends declined, as the report lists it.
    """
    found: dict[str, dict[str, Counter[str]]] = {}
    for row in rows:
        backend = (row.get("details") or {}).get("backend")
        if isinstance(backend, dict) and row["evidence"] in COLUMNS:
            count(found, str(backend.get("name")), row["evidence"], row["verdict"])
    for entry in declined:
        if entry["backend"] and entry["evidence"] in COLUMNS:
            count(found, entry["backend"], entry["evidence"], "declined")
    return [(backend, [_words(found[backend].get(kind)) for kind in COLUMNS]) for backend in found]


def count(
    found: dict[str, dict[str, Counter[str]]], backend: str, evidence: str, verdict: str
) -> None:
    """Count one result."""
    found.setdefault(backend, {}).setdefault(evidence, Counter())[verdict] += 1


def _words(results: Counter[str] | None) -> str:
    if not results:
        return NOT_TRIED
    order: Sequence[str] = _ORDER
    return ", ".join(f"{results[verdict]:,} {verdict}" for verdict in order if results[verdict])
