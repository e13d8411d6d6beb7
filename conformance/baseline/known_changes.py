"""Which pull request is likely behind a change of selection, as baselines/known-changes.toml says."""

from __future__ import annotations

import functools
import tomllib
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_rocm_attn.conformance.baseline.baseline import Baseline
    from pytest_rocm_attn.conformance.causes.cause import Cause, Explained
    from pytest_rocm_attn.conformance.causes.conditions import Change, Condition
    from pytest_rocm_attn.conformance.promise.grid.space import Cell

FILE = "known-changes.toml"
_MOST = 0.5  # of a cause's cells, at least, that one known change must explain


@dataclass(frozen=True)
class KnownChange:
    """A pull request, and the changes that it is likely behind.

    Attributes:
        release: the first recorded release that has it.
        before: a pattern of what was answered.
        after: a pattern of what is answered.
        cell: what holds in the smallest cell: variable, "gfx", "aiter" or field -> its value, or a
            list of values; "unset" for a variable that is not set.
        link: its address; "" if only the release's source is known.
        reason: what it did, in a few words.
    """

    release: str
    before: str
    after: str
    cell: dict[str, Any]
    link: str
    reason: str

    @property
    def name(self) -> str:
        """The number of the pull request, such as "#26980"; "" if there is none."""
        return "#" + self.link.rpartition("/")[2] if self.link else ""

    def explains(self, change: Change, smallest: Cell) -> bool:
        """Whether it is likely behind a change, given its smallest cell."""
        facts: dict[str, Any] = {
            **smallest.environ,
            "gfx": smallest.gpu.gfx,
            "aiter": smallest.gpu.aiter.value,
            **{name: getattr(smallest.request, name) for name in Request.__dataclass_fields__},
        }
        return (
            fnmatchcase(str(change.expected), self.before)
            and fnmatchcase(str(change.got), self.after)
            and all(
                facts.get(name, "unset") in (value if isinstance(value, list) else [value])
                for name, value in self.cell.items()
            )
        )


@functools.cache
def known() -> tuple[KnownChange, ...]:
    """Return all known changes; of those that fit, the first one counts."""
    path = files("pytest_rocm_attn.conformance.baselines") / FILE
    return tuple(
        KnownChange(
            entry["release"],
            entry.get("before", "*"),
            entry.get("after", "*"),
            entry.get("cell", {}),
            entry.get("link", ""),
            entry["reason"],
        )
        for entry in tomllib.loads(path.read_text("utf-8"))["cause"]
    )


def between(before: Baseline, after: Baseline) -> list[KnownChange]:
    """Return the changes that came after one vLLM release and no later than another."""
    if (before.distribution, after.distribution) != ("vllm", "vllm"):
        return []
    first, last = (_version(one.version or "") for one in (before, after))
    return [one for one in known() if first < _version(one.release) <= last]


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


def of_cause(
    cause: Cause,
    found: Explained,
    changes: Sequence[KnownChange],
    cell: Callable[[Condition], Cell],
) -> KnownChange | None:
    """Return the known change that is likely behind most of a cause, or None.

    Args:
        cause: to explain.
        found: what the cause is from.
        changes: that come into question.
        cell: returns the smallest cell of a condition.
    """
    assert found.cells is not None
    shares: Counter[int] = Counter()
    left = cause.inside
    for number in cause.conditions:
        condition = found.conditions[number]
        smallest = cell(condition)
        for position, one in enumerate(changes):
            if one.explains(condition.change, smallest):
                shares[position] += found.cells.count(condition.inside & left)
                break
        left &= ~condition.inside
    best = max(shares, key=lambda position: shares[position], default=None)
    return changes[best] if best is not None and shares[best] >= _MOST * cause.cells else None
