"""The checks of the tier: what each promises, how it asks, and what fell short, judged together."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.promise.got import CRASH, WRONG, Got
from pytest_rocm_attn.conformance.promise.verdict import Judgement
from pytest_rocm_attn.conformance.tiers.base import Planned
from pytest_rocm_attn.conformance.tiers.capabilities import answers, cases
from pytest_rocm_attn.conformance.tiers.items import ConformanceItem, request_words
from pytest_rocm_attn.registry import ROCM_BACKENDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pytest_rocm_attn.conformance.isolation import Question
    from pytest_rocm_attn.conformance.tiers.capabilities.answers import Answer
    from pytest_rocm_attn.conformance.tiers.capabilities.tier import CapabilitiesTier
    from pytest_rocm_attn.conformance.tiers.settings import Settings
    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.request import Request

    Find = Callable[..., Iterator["Defect"]]

_SHOWN = 6  # values or requests that a sentence lists


@dataclass(frozen=True, slots=True)
class Defect:
    """One request or value that fell short.

    Attributes:
        wrong: what is wrong, the same words for the same thing.
        request: what was asked, or None.
        environ: under which environment.
        deliberate: it is a refusal, not a crash.
        traceback: of a crash, if there is one.
        value: what it is about, if that is less than the request.
        answer: the result as a deviation pins it (got.py); "" for a crash, or if neither a refusal
            nor a backend is what is wrong.
    """

    wrong: str
    request: Request | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    deliberate: bool = True
    traceback: str = ""
    value: str = ""
    answer: str = ""

    @property
    def got(self) -> Got:
        """The result as a deviation pins it."""
        return Got(self.answer or (WRONG if self.deliberate else CRASH), self.wrong)

    @property
    def about(self) -> str:
        """What it is about, in words."""
        if self.value or self.request is None:
            return self.value
        fields = self.request.non_default()
        return " ".join(f"{name}={value}" for name, value in fields.items()) or "a plain layer"

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data for the report."""
        return {
            "wrong": self.wrong,
            "about": self.about,
            "env": dict(self.environ),
            "request": asdict(self.request) if self.request else None,
        }


def summary(defects: Sequence[Defect]) -> str:
    """Return the defects in words, those of the same thing together; "" for none."""
    together: dict[str, list[str]] = {}
    for defect in defects:
        about = together.setdefault(defect.wrong, [])
        if defect.about and defect.about not in about:
            about.append(defect.about)
    return "; ".join(wrong + _listed(about) for wrong, about in together.items())


def _listed(about: Sequence[str]) -> str:
    if not about:
        return ""
    more = f", and {len(about) - _SHOWN} more" if len(about) > _SHOWN else ""
    return f" (for {', '.join(about[:_SHOWN])}{more})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A promise, and how it is looked into. Texts may refer to the arguments: "{backend}".

    Attributes:
        name: of its items; the arguments stand there in kebab-case.
        promise: in words.
        source: where the promise comes from.
        find: called with an item and the arguments, asks and yields what fell short; it raises
            answers.Inapplicable if the check says nothing about this selector.
        over: returns the arguments of each item on a GPU; "gpu" among them replaces the GPU.
        asks: returns the questions that are sure to be asked, for a GPU and the arguments.
        level: "required" or "advisory".
        environ: returns the environment that the check is about.
    """

    name: str
    promise: str
    source: str
    find: Callable[..., Iterator[Defect]]
    over: Callable[[Gpu], Iterable[dict[str, Any]]] = lambda _: [{}]
    asks: Callable[..., Sequence[Question]] = lambda _, **__: ()
    level: str = "required"
    environ: Callable[..., Mapping[str, str]] = lambda **_: {}


def check(name: str, promise: str, source: str, **more: Any) -> Callable[[Find], Check]:
    """Make a check of the function that finds what fell short; see Check."""
    return lambda find: Check(name=name, promise=promise, source=source, find=find, **more)


def each_backend(gpu: Gpu) -> Iterable[dict[str, Any]]:
    """Return the arguments of a check that is made for each backend."""
    return [{"backend": backend} for backend in ROCM_BACKENDS]


def plan_of(checks: Iterable[Check], gpu: Gpu) -> Iterator[Planned]:
    """Yield the items of checks on a GPU."""
    for one in checks:
        for arguments in one.over(gpu):
            on = arguments.pop("gpu", gpu)
            words = {
                name: value.lower().replace("_", "-") if isinstance(value, str) else value
                for name, value in arguments.items()
            }
            row_id = one.name.format(**words)
            yield Planned(row_id, CheckItem, on, {"check": one, "arguments": arguments})


class CheckItem(ConformanceItem):
    """One check: node id ``rocm-attn::capabilities::triton-attn-imports[gfx942]``."""

    parent: CapabilitiesTier
    gpu: Gpu

    def __init__(self, *, check: Check, arguments: Mapping[str, Any], **kwargs: Any) -> None:
        level: Any = check.level.format(**arguments)
        super().__init__(level=level, **kwargs)
        self.check = check
        self.arguments = arguments
        self.defects: list[Defect] = []
        self.counts: dict[str, int] = {}

    def questions(self) -> Sequence[Question]:
        return self.check.asks(self.gpu, **self.arguments)

    def judge(self) -> Judgement:
        try:
            self.defects = list(self.check.find(self, **self.arguments))
        except answers.Inapplicable as reason:
            pytest.skip(f"not applicable: {reason}")
        return self.judgement_on(summary(self.defects), [defect.got for defect in self.defects])

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment that the item is about."""
        return self.check.environ(**self.arguments)

    # --- what a check asks with -------------------------------------------------------------------

    def ask(self, question: Question) -> Answer:
        """Ask any question but a construct question."""
        return answers.told(question, self.plugin.observe)

    def construct(self, question: Question) -> Answer:
        """Ask a construct question, and count its result."""
        answer = answers.construction(question, self.plugin.observe)
        what = "built" if answer.built else "refused" if not answer.backend else "not built"
        self.counts[what] = self.counts.get(what, 0) + 1
        return answer

    def declared(self, backend: str) -> Answer:
        """Ask what a backend declares; the trouble is why it cannot be imported."""
        values = {name: list(found) for name, found in _values(self.plugin.settings).items()}
        return self.ask(answers.declare_question(self.gpu, backend, values))

    # --- what the report shows --------------------------------------------------------------------

    def known(self) -> dict[str, Any]:
        return {
            "env": dict(self.environ),
            "expect": {"words": self.check.promise.format(**self.arguments)},
            "source": self.check.source.format(**self.arguments),
        }

    def fields(self) -> dict[str, Any]:
        first = self.defects[0] if self.defects else None
        seen = ", ".join(f"{number} {what}" for what, number in self.counts.items() if number)
        return {
            "env": dict(first.environ if first else self.environ),
            "request": asdict(first.request) if first and first.request else None,
            "outcome": {
                "kind": "findings" if self.defects else "none",
                "words": summary(self.defects) or seen or "as expected",
            },
            "details": {
                "counts": dict(self.counts),
                "findings": [defect.as_data() for defect in self.defects],
            },
        }

    def story(self) -> list[tuple[str, str]]:
        story = super().story()
        after = [label for label, _ in story].index("got") + 1
        if self.defects and self.defects[0].request is not None:
            story.insert(after, ("smallest", request_words(self.defects[0].request)))
        if self.defects and self.defects[0].traceback:
            story.append(("traceback", self.defects[0].traceback))
        return story


def _values(settings: Settings) -> dict[str, tuple[Any, ...]]:
    """Return the values that classes are asked about: ours, and those of the contract's table."""
    values = dict(cases.DECLARABLE)
    for promise in settings.contract.capabilities:
        if promise.limit in values and promise.limit != "gfx":
            values[promise.limit] = tuple(dict.fromkeys((*values[promise.limit], *promise.values)))
    return values
