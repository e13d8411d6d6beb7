"""How far an adapter's refresh() is relied on, and what a process that is used again remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import Gpu, Request, Selected
from pytest_rocm_attn.conformance.isolation import Pool, Question

if TYPE_CHECKING:
    from collections.abc import Callable

    MakePool = Callable[..., Pool]

GFX942 = Gpu("gfx942")
NAME = "VLLM_ATTENTION_BACKEND"
AITER = "VLLM_ROCM_USE_AITER"


def question(environ: dict[str, str] | None = None) -> Question:
    return Question.of(GFX942, environ or {}, Request())


# Its refresh() is as good as the line that is put there.
FORK = """
    import os
    class Fork:
        def __init__(self):
            self.frozen = os.environ.get("VLLM_ROCM_USE_AITER")
        def select(self, request):
            return "ROCM_AITER_FA" if self.frozen else "TRITON_ATTN"
        def refresh(self):
            {refresh}
            return True
    select = Fork()
"""
# It remembers its first answer until it is refreshed.
REMEMBERING = """
    import os
    class Fork:
        def __init__(self):
            self.answer = None
        def select(self, request):
            self.answer = self.answer or os.environ.get("VLLM_ATTENTION_BACKEND", "TRITON_ATTN")
            return self.answer
        def refresh(self):
            self.answer = None  # forgets
            return True
    select = Fork()
"""


def test_a_refresh_that_was_compared_with_no_answer_is_not_relied_on(make_pool: MakePool) -> None:
    pool = make_pool(
        """
        import time
        class Fork:
            def select(self, environ):
                if environ.get("VLLM_ATTENTION_BACKEND") == "ROCM_ATTN":
                    time.sleep(600)
                return "TRITON_ATTN"
            def refresh(self): return True
        select = Fork()
        """,
        timeout=1.0,
    )
    assert not pool.answers_in_place(GFX942, [question({NAME: "ROCM_ATTN"})])
    assert any("refreshing" in note for note in pool.notes)


@pytest.mark.parametrize(
    ("refresh", "noted"),
    [
        pytest.param('self.frozen = os.environ.get("VLLM_ROCM_USE_AITER")', False, id="honest"),
        pytest.param("pass", True, id="a refresh that does nothing"),
        pytest.param("raise OSError('gone')", False, id="a refresh that raises"),
    ],
)
def test_a_refresh_is_relied_on_only_where_it_equals_a_fresh_import(
    make_pool: MakePool, refresh: str, *, noted: bool
) -> None:
    pool = make_pool(FORK.format(refresh=refresh))
    questions = [question(), question({AITER: "1"}), question({"VLLM_ROCM_USE_AITER_MHA": "0"})]
    outcomes = [future.result(timeout=60).outcome for future in pool.submit(questions)]
    assert outcomes == [Selected("TRITON_ATTN"), Selected("ROCM_AITER_FA"), Selected("TRITON_ATTN")]
    assert bool(pool.notes) is noted


def test_a_refresh_is_not_relied_on_for_having_changed_nothing(make_pool: MakePool) -> None:
    pool = make_pool(FORK.format(refresh="pass"))
    environs: tuple[dict[str, str], ...] = ({}, {NAME: "TRITON_ATTN"}, {AITER: "1"})
    one_by_one = [pool.submit([question(one)])[0].result(60).outcome for one in environs]
    assert one_by_one == [
        Selected(name) for name in ("TRITON_ATTN", "TRITON_ATTN", "ROCM_AITER_FA")
    ]


@pytest.mark.parametrize("fork", [True, False], ids=["forked", "own process"])
def test_a_process_that_is_used_again_forgets_the_environment_before(
    make_pool: MakePool, *, fork: bool
) -> None:
    pool = make_pool(
        """
        import os
        class Live:
            def select(self, request):
                return "ROCM_ATTN" if "VLLM_ROCM_USE_AITER" in os.environ else "TRITON_ATTN"
            def refresh(self):
                return True
        select = Live()
        """,
        fork=fork,
    )
    outcomes = [
        pool.submit([question(environ)])[0].result(60).outcome
        for environ in ({}, {AITER: "1"}, {"VLLM_ROCM_USE_AITER_MHA": "0"})
    ]
    assert outcomes == [Selected("TRITON_ATTN"), Selected("ROCM_ATTN"), Selected("TRITON_ATTN")]


@pytest.mark.parametrize(
    "fork",
    [
        pytest.param(True, id="forked"),
        pytest.param(False, id="own process", marks=pytest.mark.slow),  # a process a question
    ],
)
@pytest.mark.parametrize(
    ("source", "in_place"),
    [
        pytest.param(REMEMBERING, True, id="honest refresh"),
        pytest.param(
            REMEMBERING.replace("self.answer = None  # forgets", "pass"),
            False,
            id="forgetful refresh",
        ),
        pytest.param("def select(request): return 'TRITON_ATTN'", False, id="no refresh"),
    ],
)
def test_one_process_answers_all_only_where_that_was_checked(
    make_pool: MakePool, source: str, *, in_place: bool, fork: bool
) -> None:
    sample = [question(), question({AITER: "1"}), question({NAME: "ROCM_ATTN"})]
    assert make_pool(source, fork=fork).answers_in_place(GFX942, sample) is in_place
