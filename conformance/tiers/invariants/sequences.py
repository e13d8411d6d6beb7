"""The laws about one process that is asked again and again while its environment changes.

A hypothesis state machine sets and unsets variables and selects. The process is not refreshed in
between, so that it answers as a server would that changes its own environment; each answer must be
the one of a process that was started under that environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import hypothesis
from hypothesis import stateful
from hypothesis import strategies as st

from pytest_rocm_attn.conformance.isolation import Interview, Question, WorkerError
from pytest_rocm_attn.conformance.promise.grid.outcomes import differ
from pytest_rocm_attn.conformance.tiers import strategies as draw
from pytest_rocm_attn.conformance.tiers.invariants import remembered
from pytest_rocm_attn.conformance.tiers.invariants.law import Broken, texts_of
from pytest_rocm_attn.conformance.tiers.invariants.search import Search
from pytest_rocm_attn.flags import EXPLICIT, MHA, UNIFIED, USE_AITER
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.conformance.promise.rows import Level
    from pytest_rocm_attn.conformance.tiers.effort import Effort
    from pytest_rocm_attn.conformance.tiers.invariants.asking import Asker
    from pytest_rocm_attn.conformance.tiers.invariants.law import Ask
    from pytest_rocm_attn.outcome import Outcome

_STEPS = 8  # of one sequence: rules of the machine that are run
_SHRINKING = 150  # sequences that are tried for a smaller one
# Few, so that a sequence often asks again for what it asked before; kernels of different caches.
_REQUESTS = (Request(), Request(use_mla=True), Request(dtype="float16"))


@dataclass(frozen=True)
class Selections:
    """Selections in one process, each with the environment that it was made under."""

    gpu: Gpu
    selections: tuple[tuple[tuple[tuple[str, str], ...], Request], ...]

    @property
    def questions(self) -> list[Question]:
        """The selections as questions."""
        return [Question(self.gpu, environ, request) for environ, request in self.selections]

    def size(self) -> tuple[int, int, int]:
        """How much a reader has to read: selections, flags and requests, spelling."""
        inside = sum(len(env) + len(req.non_default()) for env, req in self.selections)
        return len(self.selections), inside, len(repr(self.as_data()))

    def as_data(self) -> dict[str, Any]:
        """Return the sequence as --rocm-attn-example takes it, without the GPU's name."""
        return {
            "selections": [
                {"environ": dict(environ)} | ({"request": fields} if fields else {})
                for environ, request in self.selections
                for fields in [request.non_default()]
            ]
        }

    @classmethod
    def from_data(cls, gfx: str, data: Mapping[str, Any]) -> Selections:
        """Return the sequence that as_data() wrote. ValueError, TypeError for anything else."""
        if set(data) != {"selections"} or not data["selections"]:
            raise ValueError("a sequence has the field 'selections', and nothing else")
        return cls(
            Gpu(gfx),
            tuple(
                (
                    tuple(texts_of(selection.get("environ", {})).items()),
                    Request(**selection.get("request", {})),
                )
                for selection in data["selections"]
            ),
        )


@dataclass(frozen=True)
class SequenceLaw:
    """One promise about selections in one process.

    Attributes:
        id, level, source, promise: as of a Law.
        changing: the variables that change between selections, with their texts.
        start: environments that the process starts under.
    """

    id: str
    level: Level
    source: str
    promise: str
    changing: Mapping[str, tuple[str, ...]]
    start: tuple[dict[str, str], ...]

    def search(self, gfx: str, asker: Asker, effort: Effort) -> Search[Broken]:
        """Look for a sequence in which the law does not hold."""
        # A sequence asks several times.
        search: Search[Broken] = Search(effort, max(1, effort.examples // 4), _SHRINKING)
        seed, options = search.options(f"{self.id}[{gfx}]")
        machine = hypothesis.seed(seed)(_machine(self, Gpu(gfx), asker, search))
        options = hypothesis.settings(options, stateful_step_count=_STEPS)
        search.run(lambda: stateful.run_state_machine_as_test(machine, settings=options))
        if search.found is not None:
            steps, broken = search.found
            search.found = self._without_idle_steps(steps, asker), broken
        return search

    def _without_idle_steps(self, steps: Selections, asker: Asker) -> Selections:
        """Leave out every selection before the last without which the last is stale all the same."""
        for number in reversed(range(len(steps.selections) - 1)):
            selections = steps.selections[:number] + steps.selections[number + 1 :]
            if self._replay(shorter := Selections(steps.gpu, selections), asker, asker) is not None:
                steps = shorter
        return steps

    def case_of(self, gfx: str, data: Mapping[str, Any]) -> Selections:
        """Return the example that --rocm-attn-example gives."""
        return Selections.from_data(gfx, data)

    def attempt(self, case: Selections, asker: Asker, ask: Ask) -> Broken | None:
        """Replay a sequence; compare its last answer with a clean process's, and name the cause."""
        replayed = self._replay(case, asker, ask)
        if replayed is None:
            return None
        answers, fresh = replayed
        return Broken(
            f"{_told(case, [str(answer) for answer in answers])}; a new process answers {fresh}"
            f"; {_cause(asker, case, fresh)}",
            case.questions[-1],
            answers[-1],
        )

    def _replay(
        self, case: Selections, asker: Asker, ask: Ask
    ) -> tuple[list[Outcome], Outcome] | None:
        """Return the answers, and what the last should be; None if it is that."""
        interview = asker.interview(case.gpu, dict(case.selections[0][0]))
        if not isinstance(interview, Interview):
            return None  # it cannot be imported, which asker.only_failures says
        try:
            seen = asker.tallied(interview.ask(case.questions, refresh=False))
        finally:
            interview.close()
        if len(seen) < len(case.questions):
            return None  # its process ended before; see every-legal-question-is-answered
        (fresh,) = ask(case.questions[-1])
        if not differ(seen[-1].outcome, fresh.outcome):
            return None
        return [answer.outcome for answer in seen], fresh.outcome


def _cause(asker: Asker, case: Selections, fresh: Outcome) -> str:
    try:
        return remembered.in_words(asker, case.questions, fresh)
    except WorkerError as error:  # the answers are wrong all the same
        return f"what remembers was not found: {error}"


def _told(case: Selections, answers: list[str]) -> str:
    words = []
    before: dict[str, str] | None = None
    for (environ, request), answer in zip(case.selections, answers, strict=True):
        now = dict(environ)
        changes = [
            f"{name}={text!r}" for name, text in now.items() if (before or {}).get(name) != text
        ]
        changes += [f"{name} unset" for name in before or {} if name not in now]
        plain = "unchanged" if before is not None else "nothing set"
        asked = ", ".join(f"{n}={v!r}" for n, v in request.non_default().items())
        words.append(f"{', '.join(changes) or plain}{f' ({asked})' * bool(asked)}: {answer}")
        before = now
    return "; then ".join(words)


def _machine(
    law: SequenceLaw, gpu: Gpu, asker: Asker, search: Search[Broken]
) -> type[stateful.RuleBasedStateMachine]:
    """Return the machine that changes the environment of one process and selects in it."""
    changes: list[tuple[str, str | None]] = [
        (name, text) for name, texts in law.changing.items() for text in (*texts, None)
    ]
    none: list[tuple[str, str | None]] = [("", None)]  # a rule wants something to draw from

    class Selecting(stateful.RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.environ: dict[str, str] = {}
            self.made: list[tuple[tuple[tuple[str, str], ...], Request]] = []
            self.process: Interview | None = None
            self.refresh = False
            self.over = search.is_over
            search.count()

        @stateful.initialize(environ=st.sampled_from(law.start))
        def start(self, environ: dict[str, str]) -> None:
            self.environ = dict(environ)

        # One rule for both: with a rule each, most sequences would select under one environment.
        @stateful.precondition(lambda self: bool(changes))
        @stateful.rule(change=st.sampled_from(changes or none), request=st.sampled_from(_REQUESTS))
        def change_and_select(self, change: tuple[str, str | None], request: Request) -> None:
            name, text = change
            self.environ.pop(name, None)
            if text is not None:
                self.environ[name] = text
            self._select(request)

        @stateful.rule(request=st.sampled_from(_REQUESTS))
        def select(self, request: Request) -> None:
            self._select(request)

        def _select(self, request: Request) -> None:
            if self.over or search.is_over:
                return
            if self.process is None:
                begun = asker.begin(gpu, self.environ)
                if not isinstance(begun, tuple):
                    self.over = True
                    return
                self.process, self.refresh = begun
            self.made.append((tuple(self.environ.items()), request))
            steps = Selections(gpu, tuple(self.made))
            question = steps.questions[-1]
            first = len(self.made) == 1
            (seen,) = self.process.ask([question], refresh=self.refresh and first)
            self.over = self.process.over
            (fresh,) = asker(question)
            if differ(seen.outcome, fresh.outcome):
                words = f"{seen.outcome}; a new process answers {fresh.outcome}"
                search.note(steps, Broken(words, question, seen.outcome))

        def teardown(self) -> None:
            if self.process is not None and not self.refresh:
                self.process.close()

    return Selecting


_STARTS: tuple[dict[str, str], ...] = (
    {},
    {USE_AITER: "1"},
    {USE_AITER: "1", MHA: "0"},
    {USE_AITER: "1", UNIFIED: "1"},
)
_SWITCHED = {name: ("1", "0") for name in draw.SWITCHES}

SEQUENCES: tuple[SequenceLaw, ...] = (
    SequenceLaw(
        "asking-again-changes-nothing",
        "advisory",
        "docs/reference/known-regressions.md#rule-5",
        "a process that has answered other questions, or the same, answers like a new one",
        {},
        (*_STARTS, {EXPLICIT: "ROCM_ATTN"}, {EXPLICIT: "TRITON_MLA"}),
    ),
    SequenceLaw(
        "a-changed-backend-name-is-followed",
        "advisory",
        "docs/reference/contract.md#q27;"
        " docs/reference/known-regressions.md#itf-stale-selector-cache",
        "the answer of a new process after the named backend changes",
        {
            EXPLICIT: (
                "TRITON_ATTN",
                "ROCM_ATTN",
                "FLEX_ATTENTION",
                "TRITON_MLA",
                "ROCM_AITER_MLA",
            )
        },
        _STARTS,
    ),
    SequenceLaw(
        "a-changed-switch-is-followed",
        "advisory",
        "docs/reference/contract.md#q27; docs/reference/environment.md#when-read",
        "the answer of a new process after a switch changes",
        _SWITCHED,
        _STARTS,
    ),
)
