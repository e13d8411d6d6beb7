"""What all items of the capabilities tier share: findings, judged together."""

from __future__ import annotations

import abc
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.promise.verdict import Judgement, verdict_on
from pytest_rocm_attn.conformance.tiers.capabilities import cases, views
from pytest_rocm_attn.conformance.tiers.capabilities.findings import Finding, summary
from pytest_rocm_attn.conformance.tiers.items import ConformanceItem, request_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_rocm_attn.conformance.isolation import Question
    from pytest_rocm_attn.conformance.run.settings import Settings
    from pytest_rocm_attn.gpu import Gpu


class CapabilityItem(ConformanceItem, abc.ABC):
    """What all items of the tier share: findings, judged together."""

    expectation = ""
    source = ""

    def __init__(self, *, level: Any = "required", **kwargs: Any) -> None:
        super().__init__(row_id=kwargs["name"].partition("[")[0], level=level, **kwargs)
        self.findings: list[Finding] = []
        self.counts: dict[str, int] = {}

    @abc.abstractmethod
    def find(self) -> Iterator[Finding]:
        """Ask, and return what fell short.

        Raises:
            views.Inapplicable: the item says nothing of this selector.
        """

    def judge(self) -> Judgement:
        try:
            self.findings = list(self.find())
        except views.Inapplicable as reason:
            pytest.skip(f"not applicable: {reason}")
        return verdict_on(
            summary(self.findings),
            self.level,
            [finding.got for finding in self.findings],
            self.claims(),
            strict=self.plugin.settings.strict,
        )

    def known(self) -> dict[str, Any]:
        return {
            "env": dict(self.environ),
            "expect": {"words": self.expectation},
            "source": self.source,
        }

    def fields(self) -> dict[str, Any]:
        first = self.findings[0] if self.findings else None
        seen = ", ".join(f"{number} {what}" for what, number in self.counts.items() if number)
        return {
            "env": dict(first.environ) if first else dict(self.environ),
            "request": asdict(first.request) if first and first.request else None,
            "outcome": {
                "kind": "findings" if self.findings else "none",
                "words": summary(self.findings) or seen or "as expected",
            },
            "details": {
                "counts": dict(self.counts),
                "findings": [finding.as_data() for finding in self.findings],
            },
        }

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment that the item is about."""
        return {}

    def story(self) -> list[tuple[str, str]]:
        story = super().story()
        after = [label for label, _ in story].index("got") + 1
        if self.findings and self.findings[0].request is not None:
            story.insert(after, ("smallest", request_words(self.findings[0].request)))
        if self.findings and self.findings[0].traceback:
            story.append(("traceback", self.findings[0].traceback))
        return story

    def ask(self, question: Question) -> views.Construction:
        """Ask a construct question, and count what came of it."""
        answer = views.construction(question, self.plugin.observe)
        what = "built" if answer.built else "refused" if not answer.backend else "not built"
        self.counts[what] = self.counts.get(what, 0) + 1
        return answer

    def declared(self, backend: str, gpu: Gpu) -> views.Declaration:
        """Return what a backend declares."""
        values = {name: list(found) for name, found in _values(self.plugin.settings).items()}
        return views.declaration(views.declare_question(gpu, backend, values), self.plugin.observe)


def _values(settings: Settings) -> dict[str, tuple[Any, ...]]:
    """Return the values that classes are asked about: ours, and those of the contract's table."""
    values = dict(cases.DECLARABLE)
    for promise in settings.contract.capabilities:
        if promise.limit in values and promise.limit != "gfx":
            values[promise.limit] = tuple(dict.fromkeys((*values[promise.limit], *promise.values)))
    return values
