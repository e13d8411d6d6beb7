"""Isolation: what a selector does in its process, and what becomes of the questions after it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import Crashed, Died, Gpu, Rejected, Request, Selected, TimedOut, Unrecognised
from pytest_rocm_attn.conformance.workers import Pool, Question, Subject
from pytest_rocm_attn.errors import SelectorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_rocm_attn.conformance.workers import Observation

    Ask = Callable[..., list[Observation]]

ENV = "VLLM_ATTENTION_BACKEND"


@pytest.fixture(params=[True, False], ids=["forked", "own process"])
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ask]:
    """A function that runs a selector's source on some environments and returns what came."""
    pools: list[Pool] = []

    def run(source: str, *environs: dict[str, str], timeout: float = 20.0) -> list[Observation]:
        path = tmp_path / "selector.py"
        path.write_text(textwrap.dedent(source))
        subject = Subject(f"{path}:select", preload=(), timeout=timeout, fork=request.param)
        pools.append(Pool(subject, lanes=1))
        questions = [Question.of(Gpu("gfx942"), environ, Request()) for environ in environs]
        return [future.result(timeout=120) for future in pools[-1].submit(questions)]

    yield run
    for pool in pools:
        pool.close()


def test_a_crash_a_death_and_a_hang_are_outcomes_of_their_own_question_only(ask: Ask) -> None:
    outcomes = ask(
        """
        import os, time
        def select(environ):
            match environ["VLLM_ATTENTION_BACKEND"]:
                case "import": import no_such_module
                case "exit": raise SystemExit(3)
                case "die": os.kill(os.getpid(), 9)
                case "leave": os._exit(5)
                case "hang": time.sleep(600)
                case "refuse": raise ValueError("no: TRITON_MLA")
                case "recurse": return select(environ)
            return environ["VLLM_ATTENTION_BACKEND"]
        """,
        *(
            {ENV: what}
            for what in (
                "TRITON_ATTN", "import", "exit", "die", "leave", "hang", "refuse", "recurse",
                "ROCM_ATTN",
            )
        ),
        timeout=3.0,
    )  # fmt: skip
    kinds = [observation.outcome for observation in outcomes]
    assert kinds[0] == Selected("TRITON_ATTN")
    assert isinstance(kinds[1], Crashed)
    assert kinds[1].error == "ModuleNotFoundError"
    assert isinstance(kinds[2], Crashed)
    assert kinds[2].error == "SystemExit"
    assert kinds[3] == Died(9)
    assert kinds[4] == Died(None, 5)
    assert kinds[5] == TimedOut(3.0)
    assert kinds[6] == Rejected("ValueError", "no: TRITON_MLA")
    assert isinstance(kinds[7], Crashed)
    assert kinds[8] == Selected("ROCM_ATTN")


def test_an_environment_read_at_import_holds_before_the_import(ask: Ask) -> None:
    outcomes = ask(
        """
        import os
        FROZEN = os.environ.get("VLLM_ATTENTION_BACKEND", "TRITON_ATTN")
        def select(request):
            return FROZEN
        """,
        {},
        {ENV: "ROCM_ATTN"},
        {ENV: "FLEX_ATTENTION"},
        {"VLLM_ROCM_USE_AITER": "1"},
    )
    assert [observation.outcome for observation in outcomes] == [
        Selected("TRITON_ATTN"),
        Selected("ROCM_ATTN"),
        Selected("FLEX_ATTENTION"),
        Selected("TRITON_ATTN"),
    ]


def test_what_a_selector_writes_to_the_environment_is_reported_and_undone(ask: Ask) -> None:
    first, second = ask(
        """
        import os
        def select(environ):
            seen = os.environ.get("LEFT_BEHIND")
            os.environ["LEFT_BEHIND"] = "1"
            return "ROCM_ATTN" if seen else "TRITON_ATTN"
        """,
        {},
        {"VLLM_ROCM_USE_AITER": "1"},
    )
    assert first.written == second.written == ("LEFT_BEHIND",)
    assert first.outcome == second.outcome == Selected("TRITON_ATTN")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("'TRITON_ATTN'", Selected("TRITON_ATTN")),
        (
            "'vllm.v1.attention.backends.triton_attn.TritonAttentionBackend'",
            Selected("TRITON_ATTN"),
        ),
        ("enum.Enum('E', 'ROCM_ATTN').ROCM_ATTN", Selected("ROCM_ATTN")),
        ("None", Unrecognised("None")),
        ("''", Unrecognised("''")),
        ("'vllm.nope.Backend'", Unrecognised("'vllm.nope.Backend'")),
        ("42", Unrecognised("42")),
    ],
)
def test_answers_of_every_kind_are_recognised_or_said_to_be_none(
    tmp_path: Path, answer: str, outcome: object
) -> None:
    path = tmp_path / "selector.py"
    path.write_text(f"import enum\ndef select(request):\n    return {answer}\n")
    pool = Pool(Subject(f"{path}:select", pure=True, preload=()), lanes=1)
    try:
        (future,) = pool.submit([Question.of(Gpu("gfx942"), {}, Request())])
        assert future.result(timeout=60).outcome == outcome
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        ("no_such_module_here:select", "No module named 'no_such_module_here'"),
        ("json:no_such_name", "json has no 'no_such_name'"),
        ("json", "not of the form module:object"),
        ("json:dumps", "not a selector"),
        ("math:pi", "no selector"),
        ("nowhere.py:select", "does not exist"),
    ],
)
def test_what_is_no_selector_is_said_in_one_line(selector: str, words: str) -> None:
    pool = Pool(Subject(selector, preload=()), lanes=1)
    try:
        with pytest.raises(SelectorError) as caught:
            pool.probe(Question.of(Gpu("gfx942"), {}, Request()))
    finally:
        pool.close()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


class FakeFork:
    """Source of a selector with refresh(), whose refresh is as good as its last lines make it."""

    SOURCE = """
    import os
    class Fork:
        def __init__(self):
            self.frozen = os.environ.get("VLLM_ROCM_USE_AITER")
            self.calls = 0
        def select(self, request):
            self.calls += 1
            return "ROCM_AITER_FA" if self.frozen else "TRITON_ATTN"
        def refresh(self):
            {refresh}
            return True
    select = Fork()
    """


@pytest.mark.parametrize(
    ("refresh", "noted"),
    [
        pytest.param('self.frozen = os.environ.get("VLLM_ROCM_USE_AITER")', False, id="honest"),
        pytest.param("pass", True, id="a refresh that does nothing"),
        pytest.param("raise OSError('gone')", False, id="a refresh that raises"),
    ],
)
def test_a_refresh_is_relied_on_only_where_it_equals_a_fresh_import(
    tmp_path: Path, refresh: str, noted: bool
) -> None:
    path = tmp_path / "selector.py"
    path.write_text(textwrap.dedent(FakeFork.SOURCE).format(refresh=refresh))
    pool = Pool(Subject(f"{path}:select", preload=()), lanes=1)
    try:
        questions = [
            Question.of(Gpu("gfx942"), environ, Request())
            for environ in ({}, {"VLLM_ROCM_USE_AITER": "1"}, {"VLLM_ROCM_USE_AITER_MHA": "0"})
        ]
        outcomes = [future.result(timeout=60).outcome for future in pool.submit(questions)]
    finally:
        pool.close()
    assert outcomes == [Selected("TRITON_ATTN"), Selected("ROCM_AITER_FA"), Selected("TRITON_ATTN")]
    assert bool(pool.notes) is noted


@pytest.mark.parametrize("fork", [True, False], ids=["forked", "own process"])
def test_a_process_that_is_used_again_forgets_the_environment_before(
    tmp_path: Path, *, fork: bool
) -> None:
    path = tmp_path / "selector.py"
    path.write_text(
        textwrap.dedent(
            """
            import os
            class Live:
                def select(self, request):
                    return "ROCM_ATTN" if "VLLM_ROCM_USE_AITER" in os.environ else "TRITON_ATTN"
                def refresh(self):
                    return True
            select = Live()
            """
        )
    )
    pool = Pool(Subject(f"{path}:select", preload=(), fork=fork), lanes=1)
    try:
        outcomes = [
            pool.submit([Question.of(Gpu("gfx942"), environ, Request())])[0].result(60).outcome
            for environ in ({}, {"VLLM_ROCM_USE_AITER": "1"}, {"VLLM_ROCM_USE_AITER_MHA": "0"})
        ]
    finally:
        pool.close()
    assert outcomes == [Selected("TRITON_ATTN"), Selected("ROCM_ATTN"), Selected("TRITON_ATTN")]
