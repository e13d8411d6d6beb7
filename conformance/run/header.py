"""The lines about the matrix at the head of a run."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.tiers import tier_class

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.tiers.settings import Settings


def lines(settings: Settings) -> list[str]:
    """Return the lines."""
    contract = settings.contract
    required = sum(row.level == "required" for row in contract.rows)
    subject = settings.subject
    where = {
        "pure": "a pure function, no mock",
        "mock": "under a mocked ROCm platform",
        "real": "unmocked",
    }[subject.evidence]
    lines = [
        f"rocm-attn: contract {contract.id}"
        + f" ({required} required and {len(contract.rows) - required}"
        + f" {'other' if contract.by_age else 'advisory'} rows)",
        *_upstream_words(settings),
        f"rocm-attn: selector {subject.selector} ({where})",
        *(line for tier in settings.tiers for line in tier_class(tier).header(settings)),
    ]
    own = {cell.gpu.gfx for cell in contract.cells()}
    for gfx in settings.gpus:
        if gfx in contract.relatives and gfx not in own:
            relative = contract.relatives[gfx]
            lines.append(f"rocm-attn: {gfx} has the rows of {relative} that are promised by family")
    if declared := settings.deviations:
        files = ", ".join(dict.fromkeys(entry.file for entry in declared.entries)) or "empty"
        lines.append(f"rocm-attn: {len(declared.entries)} declared deviations ({files})")
    if machine := settings.machine:
        lines.append(
            f"rocm-attn: on this machine's own {machine}, with the {len(settings.cells)} items"
            " of the contract that are about it; --rocm-attn-mock=GFX mocks all of them"
        )
    return lines


def _upstream_words(settings: Settings) -> list[str]:
    """Return by which release the selector is judged and why, and what that one has changed."""
    upstream = settings.contract.upstream
    if upstream is None:
        return []
    lines = [f"rocm-attn: judged by {upstream} ({upstream.why})"]
    ended = Counter(
        row.by.removeprefix("vllm-project/vllm")
        for row in settings.contract.ended
        if row.level == "required"
    )
    if ended:
        causes = ", ".join(f"{count} by {by}" for by, count in ended.most_common())
        lines.append(
            f"rocm-attn: upstream changed {ended.total()} promise{'s' * (ended.total() != 1)} of"
            " earlier releases on purpose"
            f" ({causes})"
        )
    return lines
