"""Interviews: a process that is kept, asked again and again, and looked into."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import Crashed, Died, Gpu, Request, Selected, TimedOut
from pytest_rocm_attn.conformance.isolation import Interview, Pool, Question, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable

    MakePool = Callable[..., Pool]

GFX942 = Gpu("gfx942")
NAME = "VLLM_ATTENTION_BACKEND"
AITER = "VLLM_ROCM_USE_AITER"

CACHING = """
    import functools, os
    class Settings:
        AITER = os.environ.get("VLLM_ROCM_USE_AITER") == "1"
        name = os.environ.get("VLLM_ATTENTION_BACKEND")
    @functools.cache
    def _remembered(head_size):
        return os.environ.get("VLLM_ATTENTION_BACKEND", "TRITON_ATTN")
    class Fork:
        def select(self, request):
            if Settings.AITER:
                return "ROCM_AITER_FA"
            return _remembered(request.head_size)
        def refresh(self):
            Settings.AITER = os.environ.get("VLLM_ROCM_USE_AITER") == "1"
            _remembered.cache_clear()
            return True
    select = Fork()
"""


def start(pool: Pool, environ: dict[str, str] | None = None) -> Interview:
    interview = pool.interview(GFX942, environ or {})
    assert isinstance(interview, Interview)
    return interview


def question(environ: dict[str, str] | None = None) -> Question:
    return Question(GFX942, tuple((environ or {}).items()), Request())


def backends(interview: Interview, *questions: Question, refresh: bool = False) -> list[str]:
    return [str(seen.outcome) for seen in interview.ask(questions, refresh=refresh)]


@pytest.mark.parametrize("fork", [True, False], ids=["forked", "own process"])
def test_what_a_selector_remembers_stays_for_the_next_question(
    make_pool: MakePool, *, fork: bool
) -> None:
    pool = make_pool(CACHING, fork=fork)
    interview = start(pool)
    assert backends(interview, question(), question({NAME: "ROCM_ATTN"})) == ["TRITON_ATTN"] * 2
    assert backends(interview, question({NAME: "ROCM_ATTN"})) == ["TRITON_ATTN"]
    assert backends(interview, question({NAME: "ROCM_ATTN"}), refresh=True) == ["ROCM_ATTN"]


def test_an_interview_begins_as_an_import_under_its_environment_would(make_pool: MakePool) -> None:
    pool = make_pool(CACHING)
    assert backends(start(pool), question()) == ["TRITON_ATTN"]
    assert backends(start(pool, {AITER: "1"}), question({AITER: "1"})) == ["ROCM_AITER_FA"]
    assert backends(start(pool), question(), question({AITER: "1"})) == ["TRITON_ATTN"] * 2


def test_a_cache_that_is_emptied_and_a_value_that_is_set_are_followed(make_pool: MakePool) -> None:
    interview = start(make_pool(CACHING))
    backends(interview, question())
    (cache,) = interview.memory(caches="_rocm_attn_selector_selector0")
    assert cache == "_rocm_attn_selector_selector0._remembered"
    interview.memory(forget=[cache], of="_rocm_attn_selector_selector0")
    assert backends(interview, question({NAME: "ROCM_ATTN"})) == ["ROCM_ATTN"]
    assert interview.memory(caches="_rocm_attn_selector_selector0") == [cache]

    values = interview.memory(values="_rocm_attn_selector_selector0")
    assert values["_rocm_attn_selector_selector0.Settings.AITER"] is False
    assert values["_rocm_attn_selector_selector0.Settings.name"] is None
    changed = {"_rocm_attn_selector_selector0.Settings.AITER": True}
    interview.memory(assign=changed, of="_rocm_attn_selector_selector0")
    assert backends(interview, question()) == ["ROCM_AITER_FA"]


def test_a_selector_that_takes_its_process_down_ends_its_interview_only(
    make_pool: MakePool,
) -> None:
    pool = make_pool(
        """
        import os, time
        def select(environ):
            match environ.get("VLLM_ATTENTION_BACKEND"):
                case "die": os.kill(os.getpid(), 9)
                case "hang": time.sleep(600)
            return "TRITON_ATTN"
        """,
        timeout=2.0,
    )
    for how, outcome in (("die", Died(9)), ("hang", TimedOut(2.0))):
        interview = start(pool)
        seen = interview.ask([question(), question({NAME: how}), question()], refresh=False)
        assert [s.outcome for s in seen] == [Selected("TRITON_ATTN"), outcome]
        assert interview.over
        interview.close()
    assert backends(start(pool), question()) == ["TRITON_ATTN"]


def test_an_import_that_fails_is_told_instead_of_an_interview(make_pool: MakePool) -> None:
    outcome = make_pool("import no_such_module_here").interview(GFX942, {})
    assert isinstance(outcome, Crashed)
    assert outcome.error == "ModuleNotFoundError"


def test_variables_are_set_in_the_order_of_the_question(make_pool: MakePool) -> None:
    pool = make_pool(
        """
        import os
        def select(request):
            names = [name for name in os.environ if name.startswith("VLLM_")]
            return "TRITON_ATTN" if names == sorted(names) else "ROCM_ATTN"
        """
    )
    interview = start(pool)
    forwards = question({NAME: "X", AITER: "1"})
    backwards = question({AITER: "1", NAME: "X"})
    assert backends(interview, forwards, backwards, forwards) == [
        "TRITON_ATTN",
        "ROCM_ATTN",
        "TRITON_ATTN",
    ]


def test_a_pool_that_closes_ends_its_interviews(make_pool: MakePool) -> None:
    pool = make_pool(CACHING)
    interview = start(pool)
    pool.close()
    assert interview.over


@pytest.mark.parametrize(
    ("clear", "words"),
    [
        ("time.sleep(600)", "did not answer within 2 s"),
        ("os._exit(3)", "ended"),
        ("raise_()", "failed \\(KeyError\\)"),
    ],
    ids=["hangs", "exits", "raises"],
)
def test_a_cache_that_cannot_be_emptied_ends_the_interview_and_says_how(
    make_pool: MakePool, clear: str, words: str
) -> None:
    source = f"""
        import os, time
        def raise_(): raise KeyError("x")
        class Cached:
            def cache_clear(self): {clear}
        cached = Cached()
        def select(request): return "TRITON_ATTN"
    """
    interview = start(make_pool(source, timeout=2.0))
    package = "_rocm_attn_selector_selector0"
    with pytest.raises(WorkerError, match=f"process {words} while"):
        interview.memory(forget=[f"{package}.cached"], of=package)
    assert interview.over
