"""What all tiers share: the plan, and the collectors that make pytest items of it."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

from pytest_rocm_attn.conformance.isolation import Question
from pytest_rocm_attn.conformance.tiers import tier_class
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pytest_rocm_attn.conformance.isolation import Observation, Pool
    from pytest_rocm_attn.conformance.report.notes import Notes
    from pytest_rocm_attn.conformance.report.schema import Record, Summary
    from pytest_rocm_attn.conformance.tiers.items import ConformanceItem
    from pytest_rocm_attn.conformance.tiers.settings import Settings
    from pytest_rocm_attn.gpu import Gpu

ROOT = "rocm-attn"
DEVIATIONS = "deviations"  # the collector of the fork's declarations, which is not a tier


class Closing(Protocol):
    """What a tier's items share."""

    def close(self, *, kill: Callable[[], None]) -> None:
        """Let go of everything; kill ends the processes of the selector under test."""


T = TypeVar("T", bound=Closing)


class Plugin(Protocol):
    """One run of the matrix, as far as tiers know it; run/session.py has it."""

    config: pytest.Config
    settings: Settings
    notes: Notes

    def planned(self, tier: str) -> Sequence[Planned]:
        """Return the plan of a tier of this run, or of DEVIATIONS."""

    def command(self, **own: Any) -> list[str]:
        """Return the command that repeats the run, with these options of an item's own."""

    def observe(self, question: Question) -> Observation:
        """Return the answer to a question; waits for it."""

    def seconds_of_questions(self) -> float | None:
        """Wait until what was asked at the start is answered; return how long that took.

        None if nothing was asked.
        """

    def show(self, describe: Callable[[], str]) -> None:
        """Add to what is shown of the run's progress; called from another thread."""

    def started_pool(self) -> Pool:
        """Return the workers that ask the selector under test."""

    def shared(self, kind: type[T], make: Callable[[], T]) -> T:
        """Return what all items of a tier share in this process, made when it is first asked for."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One item of a plan: the whole promise, before pytest makes an item of it.

    Args:
        row_id: the part of the name before the brackets.
        item: the class of the item.
        gpu: the GPU that it is about, or None.
        arguments: what its class takes besides these, by name.
    """

    row_id: str
    item: type[ConformanceItem]
    gpu: Gpu | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gfx(self) -> str:
        """The target of the GPU, or ""."""
        return self.gpu.gfx if self.gpu is not None else ""

    @property
    def name(self) -> str:
        """What the item is called: "row-id[gfx942]"."""
        return f"{self.row_id}[{self.gfx}]" if self.gfx else self.row_id


class Matrix(pytest.Collector):
    """The root of the matrix: node id ``rocm-attn``."""

    plugin: Plugin

    def collect(self) -> Iterator[Tier]:
        for name in self.plugin.settings.tiers:
            yield tier_class(name).from_parent(self, name=name)
        if self.plugin.settings.deviations is not None:
            from pytest_rocm_attn.conformance.tiers.declared import Declared

            yield Declared.from_parent(self, name=DEVIATIONS)


class Tier(pytest.Collector, abc.ABC):
    """One tier: node id ``rocm-attn::documented``. conformance/tiers/ has a subclass for each.

    Attributes:
        asks_selector: the selector under test is asked, so that it has to be importable.
        needs_fork: why the tier does not apply to a selector that is a pure function; "" if it does.
    """

    asks_selector = False
    needs_fork = ""
    parent: Matrix

    @classmethod
    @abc.abstractmethod
    def plan(cls, settings: Settings) -> Iterable[Planned]:
        """Yield all items of the tier, cheaply and in order."""

    @classmethod
    def header(cls, settings: Settings) -> list[str]:
        """Return lines for the head of the run, such as why the tier has no items for it."""
        if not cls.needs_fork or not settings.subject.pure:
            return []
        return [f"rocm-attn: {cls.needs_fork}"]

    @classmethod
    def summary(cls, records: Sequence[Record]) -> Summary | None:
        """Return the result of a run, if a line for each item would say less."""
        return None

    @classmethod
    def when_interrupted(cls, settings: Settings) -> list[str]:
        """Return notes for a run of several processes that was interrupted."""
        return []

    def collect(self) -> Iterator[ConformanceItem]:
        for planned in self.plugin.planned(self.name):
            yield planned.item.from_parent(
                self,
                name=planned.name,
                # The whole id as text, so that pytest splits off the brackets as it does when it
                # reads one back, for --lf and the like.
                nodeid=f"{self.nodeid}::{planned.name}",
                row_id=planned.row_id,
                gpu=planned.gpu,
                **planned.arguments,
            )

    @property
    def plugin(self) -> Plugin:
        """The run that the tier is part of."""
        return self.parent.plugin


def first_question(plan: Sequence[Planned]) -> Question | None:
    """Return a plain question on the first GPU of a plan; None if there is none."""
    gpus = [planned.gpu for planned in plan if planned.gpu is not None]
    return Question.of(gpus[0], {}, Request()) if gpus else None
