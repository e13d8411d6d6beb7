"""Bulk evaluation: what a selector does in the middle of many cells, and what becomes of the rest."""

from __future__ import annotations

import contextlib
import textwrap
import time
from array import array
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_rocm_attn import Crashed, Died, Rejected, Request, Selected, TimedOut
from pytest_rocm_attn.conformance.isolation import Bulk, Pool, Subject, WorkerError, wire
from pytest_rocm_attn.conformance.isolation.inside.cells import (
    MOST_OUTCOMES,
    UNANSWERED,
    Enumeration,
    SharedCodes,
    scattered,
)
from pytest_rocm_attn.conformance.promise.grid.space import Axis, Family
from pytest_rocm_attn.conformance.tiers.grid.evaluate import Evaluator
from pytest_rocm_attn.conformance.tiers.grid.parts import Part, PartTable, parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_rocm_attn.outcome import Outcome

    Evaluate = Callable[..., list[Outcome | None]]

NAME = "VLLM_ATTENTION_BACKEND"
FLAG = "VLLM_ROCM_USE_AITER"
REQUESTS = (Request(), Request(block_size=1), Request(head_size=64))


def family(*names: str | None, flags: tuple[str | None, ...] = (None, "1")) -> Family:
    return Family(
        "small",
        "a small one",
        (
            Axis("gfx", ("gfx942",)),
            Axis("aiter", ("present",)),
            Axis(FLAG, flags),
            Axis(NAME, names),
            Axis("request", REQUESTS),
        ),
    )


@pytest.fixture
def evaluate(tmp_path: Path) -> Iterator[Evaluate]:
    """A function that evaluates a selector's source over a family, and returns all outcomes."""
    closing: list[tuple[Evaluator, Pool]] = []

    def run(
        source: str,
        of: Family,
        *,
        timeout: float = 20.0,
        budget: float = 120.0,
        fork: bool = True,
        pure: bool = False,
        **options: Any,
    ) -> list[Outcome | None]:
        path = tmp_path / "selector.py"
        path.write_text(textwrap.dedent(source))
        subject = Subject(f"{path}:select", pure=pure, preload=(), timeout=timeout, fork=fork)
        pool = Pool(subject, lanes=1)
        evaluator = Evaluator(pool, budget=budget, cells=of.cells, lanes=1, **options)
        closing.append((evaluator, pool))
        (part,) = of.slices()
        (table,) = evaluator.tables(part)
        return [None if c == UNANSWERED else table.outcomes[c] for c in table.codes]

    yield run
    for evaluator, pool in closing:
        evaluator.close(kill=pool.close)
        pool.close()


def test_any_beginning_of_the_order_is_spread_over_the_whole() -> None:
    for count in (1, 2, 7, 1944, 6075):
        order = list(scattered(count))
        assert sorted(order) == list(range(count))
    first = list(scattered(1944))[:8]
    halves = [sum(number < 972 for number in first), sum(number >= 972 for number in first)]
    assert min(halves) >= 3


def test_a_process_enumerates_the_cells_that_the_slice_has() -> None:
    of = family("TRITON_ATTN", None)
    (part,) = of.slices()
    enumeration = Enumeration.of(part.axes[1:])
    seen = [
        (enumeration.environ(number), request)
        for number in range(enumeration.environments)
        for request in enumeration.requests
    ]
    assert seen == [(part.cell(n).environ, part.cell(n).request) for n in range(part.cells)]


ECHO = """
import os
class Fork:
    calls = 0
    def select(self, request, environ):
        assert os.environ.get("VLLM_ATTENTION_BACKEND") == environ.get("VLLM_ATTENTION_BACKEND")
        self.calls += 1
        name = os.environ.get("VLLM_ATTENTION_BACKEND", "TRITON_ATTN")
        if request.block_size == 1:
            raise ValueError(f"{name}: not block size 1")
        return "ROCM_AITER_FA" if os.environ.get("VLLM_ROCM_USE_AITER") else name
    def refresh(self):
        return {refreshes}
select = Fork()
"""


def echoed(of: Family) -> list[Outcome]:
    """What ECHO answers, cell by cell."""
    expected: list[Outcome] = []
    for number in range(of.cells):
        cell = of.cell(number)
        name = cell.environ.get(NAME, "TRITON_ATTN")
        if cell.request.block_size == 1:
            expected.append(Rejected("ValueError", f"{name}: not block size 1"))
        else:
            expected.append(Selected("ROCM_AITER_FA" if FLAG in cell.environ else name))
    return expected


@pytest.mark.parametrize(
    ("refreshes", "fork"),
    [
        pytest.param("True", True, id="in one process"),
        pytest.param("False", True, id="in a process for each environment"),
        pytest.param("True", False, id="where there is no fork", marks=pytest.mark.slow),
    ],
)
def test_every_cell_gets_its_own_answer(evaluate: Evaluate, refreshes: str, fork: bool) -> None:
    of = family(None, "ROCM_ATTN", "FLEX_ATTENTION")
    outcomes = evaluate(ECHO.replace("{refreshes}", refreshes), of, fork=fork)
    assert outcomes == echoed(of)


def test_a_variable_of_the_shell_comes_back_where_no_cell_sets_it(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_USE_V1", "0")  # declared nowhere, so that workers keep it
    of = Family(
        "small",
        "a small one",
        (
            Axis("gfx", ("gfx942",)),
            Axis("aiter", ("present",)),
            Axis("also", ((), (("VLLM_USE_V1", "1"),), (("OTHER", "1"),))),
            Axis("request", REQUESTS[:1]),
        ),
    )
    source = """
        import os
        class Fork:
            def select(self, request):
                return {"0": "TRITON_ATTN", "1": "ROCM_ATTN"}[os.environ["VLLM_USE_V1"]]
            def refresh(self):
                return True
        select = Fork()
        """
    assert evaluate(source, of) == [
        Selected(b) for b in ("TRITON_ATTN", "ROCM_ATTN", "TRITON_ATTN")
    ]


def test_what_the_imports_read_holds_before_the_import(evaluate: Evaluate) -> None:
    of = family(None, "ROCM_ATTN")
    outcomes = evaluate(
        f"""
        import os
        FROZEN = os.environ.get("{NAME}", "TRITON_ATTN")
        def select(request):
            return FROZEN
        """,
        of,
    )
    assert outcomes == [Selected("TRITON_ATTN")] * 3 + [Selected("ROCM_ATTN")] * 3 + (
        [Selected("TRITON_ATTN")] * 3 + [Selected("ROCM_ATTN")] * 3
    )


DAMAGE = """
import os, sys, time
class Fork:
    def select(self, request):
        what = os.environ.get("VLLM_ATTENTION_BACKEND")
        assert "LEFT_BEHIND" not in os.environ
        if request.block_size == 1:
            match what:
                case "hang": time.sleep(600)
                case "die": os.kill(os.getpid(), 9)
                case "leave": os._exit(5)
                case "crash": import no_such_module
                case "exit": raise SystemExit(3)
                case "fork":
                    if os.fork():
                        os.wait()
                case "print": print("x" * 100_000)
                case "read": assert sys.stdin.read() == ""
                case "write": os.environ["LEFT_BEHIND"] = "1"
        return "TRITON_ATTN"
    def refresh(self):
        return {refreshes}
select = Fork()
"""
_SURVIVED = (None, "fork", "print", "read", "write")


@pytest.mark.parametrize("refreshes", ["True", pytest.param("False", marks=pytest.mark.slow)])
def test_what_one_cell_does_is_its_own_outcome_and_costs_no_other(
    evaluate: Evaluate, refreshes: str
) -> None:
    names = (None, "hang", "die", "leave", "crash", "exit", "fork", "print", "read", "write")
    of = family(*names, flags=(None,))
    outcomes = evaluate(DAMAGE.replace("{refreshes}", refreshes), of, timeout=5.0)
    found = {name: outcomes[3 * place : 3 * place + 3] for place, name in enumerate(names)}
    for name, (before, damaged, after) in found.items():
        assert before == after == Selected("TRITON_ATTN"), name
        if name in _SURVIVED:
            assert damaged == Selected("TRITON_ATTN"), name
    own = {name: of_name[1] for name, of_name in found.items()}
    assert own["hang"] == TimedOut(5.0)
    assert own["die"] == Died(9)
    assert own["leave"] == Died(None, 5)
    assert isinstance(own["crash"], Crashed)
    assert own["crash"].error == "ModuleNotFoundError"
    assert isinstance(own["exit"], Crashed)


def test_a_selector_that_cannot_be_imported_is_asked_once_and_crashes_everywhere(
    evaluate: Evaluate, tmp_path: Path
) -> None:
    log = tmp_path / "imports"
    of = family(None, "ROCM_ATTN", "FLEX_ATTENTION", "TRITON_MLA")
    outcomes = evaluate(f"open({str(log)!r}, 'a').write('x')\nimport no_such_module", of)
    assert {type(outcome) for outcome in outcomes} == {Crashed}
    assert len(log.read_text()) <= 3


def test_a_slow_selector_ends_with_the_budget_and_says_what_was_not_reached(
    evaluate: Evaluate,
) -> None:
    of = family(*(None, *(f"N{number}" for number in range(100))))
    start = time.monotonic()
    outcomes = evaluate(
        """
        import time
        def select(request):
            time.sleep(0.5)
            return "TRITON_ATTN"
        """,
        of,
        budget=10.0,
        pure=True,
    )
    assert time.monotonic() - start < 100  # asking all would take 303 s
    reached = [number for number, outcome in enumerate(outcomes) if outcome is not None]
    assert 1 <= len(reached) < of.cells
    assert {outcomes[number] for number in reached} == {Selected("TRITON_ATTN")}


def test_a_selector_that_says_something_new_each_time_does_not_fill_the_memory(
    evaluate: Evaluate,
) -> None:
    of = family(*map(str, range(MOST_OUTCOMES // len(REQUESTS) + 10)), flags=(None,))
    assert of.cells > MOST_OUTCOMES
    outcomes = evaluate(
        """
        calls = 0
        def select(request):
            global calls
            calls += 1
            raise ValueError(f"call {calls}")
        """,
        of,
        pure=True,
    )
    assert None not in outcomes
    assert len(set(outcomes)) == MOST_OUTCOMES + 1
    assert sum("one of more than" in str(o) for o in outcomes) == of.cells - MOST_OUTCOMES


def test_what_is_known_already_is_not_asked_again_and_what_is_left_is_kept(
    evaluate: Evaluate,
) -> None:
    of = family(None, "ROCM_ATTN")
    kept: dict[Part, PartTable] = {}

    def known(part: Part) -> PartTable:
        codes = array("H", [0] * (of.cells - 1) + [UNANSWERED])
        return PartTable(codes, [Selected("FLEX_ATTENTION")])

    outcomes = evaluate(ECHO.replace("{refreshes}", "True"), of, load=known, save=kept.__setitem__)
    assert outcomes == [Selected("FLEX_ATTENTION")] * (of.cells - 1) + [echoed(of)[-1]]
    (slice_,) = of.slices()
    (part,) = parts_of(slice_)
    assert kept[part].unanswered == 0


def test_a_machine_of_its_own_answers_for_itself_only(evaluate: Evaluate) -> None:
    from pytest_rocm_attn import Gpu

    of = family(None)
    outcomes = evaluate(ECHO.replace("{refreshes}", "True"), of, only=Gpu("gfx1201"))
    assert {type(outcome) for outcome in outcomes} == {Crashed}
    assert all(isinstance(o, Crashed) and o.error == "MockError" for o in outcomes)


@pytest.mark.parametrize("step", ["load", "save"])
@pytest.mark.parametrize(
    "fault", [KeyError("x"), MemoryError(), SystemExit(3)], ids=lambda fault: type(fault).__name__
)
def test_a_fault_of_ours_is_raised_where_the_tables_are_waited_for(
    evaluate: Evaluate, fault: BaseException, step: str
) -> None:
    def fails(*_: object) -> None:
        raise fault

    with pytest.raises(WorkerError, match=type(fault).__name__):
        evaluate(ECHO.replace("{refreshes}", "True"), family(None), pure=True, **{step: fails})


class Scripted(Bulk):
    """A platform whose process dies with a code written whose outcome it has not sent."""

    in_place = True
    reads: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.asked = 0

    def ask(
        self,
        cells: wire.AskCells,
        environ: object,
        *,
        heard: Callable[[wire.Message], None],
        stuck: object,
    ) -> Outcome | None:
        self.asked += 1
        shared = SharedCodes(cells.file)
        try:
            if self.asked == 1:
                heard(wire.Numbered(Selected("TRITON_ATTN")))
                shared.codes[0] = 0
                shared.codes[1] = 1  # of what was never heard
                shared.current = 2
                return Died(9)
            number = len(cells.outcomes)
            heard(wire.Numbered(Selected("ROCM_ATTN")))
            for cell, code in enumerate(shared.codes):
                if code == UNANSWERED:
                    shared.codes[cell] = number
            heard(wire.Done())
            return None
        finally:
            shared.close()

    def release(self) -> None:
        pass


def test_a_code_whose_outcome_was_not_heard_stands_for_nothing() -> None:
    of = family(None, flags=(None, "1"))
    bulk = Scripted()
    pool = SimpleNamespace(
        subject=Subject("nobody:asks", pure=True),
        bulk=lambda gpu, sample: contextlib.nullcontext(bulk),
    )
    evaluator = Evaluator(cast(Pool, pool), budget=120.0, lanes=1)
    try:
        (part,) = of.slices()
        (table,) = evaluator.tables(part)
    finally:
        evaluator.close(kill=lambda: None)
    outcomes = [str(table.outcomes[code]) for code in table.codes]
    assert outcomes == ["TRITON_ATTN", "ROCM_ATTN", str(Died(9)), *["ROCM_ATTN"] * 3]


def test_a_refresh_that_fails_is_the_outcome_of_its_environment(evaluate: Evaluate) -> None:
    of = family(None, "ROCM_ATTN", flags=(None,))
    source = """
        import os
        class Fork:
            def select(self, request): return "TRITON_ATTN"
            def refresh(self):
                # Not in what refreshing is tried on first, which are the first environments.
                if os.environ.get("VLLM_ATTENTION_BACKEND") == "N30": raise KeyError("stale")
                return True
        select = Fork()
        """
    of = family(None, *(f"N{number}" for number in range(60)), flags=(None,))
    outcomes = evaluate(source, of)
    failed = [n for n, outcome in enumerate(outcomes) if outcome != Selected("TRITON_ATTN")]
    assert {type(outcomes[number]) for number in failed} == {Crashed}
    assert {of.cell(number).environ.get(NAME) for number in failed} == {"N30"}
    assert len(failed) == len(REQUESTS)
