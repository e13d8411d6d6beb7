"""Laws about one process: what remembers is caught, and named by what it is, not by its name."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import Gpu, Request
from pytest_rocm_attn.conformance.isolation import Pool, Subject
from pytest_rocm_attn.conformance.tiers.effort import Effort
from pytest_rocm_attn.conformance.tiers.invariants.asking import Asker
from pytest_rocm_attn.conformance.tiers.invariants.sequences import SEQUENCES, Selections

if TYPE_CHECKING:
    from pathlib import Path

BY_ID = {law.id: law for law in SEQUENCES}
NAME, SWITCH, AGAIN = (
    "a-changed-backend-name-is-followed",
    "a-changed-switch-is-followed",
    "asking-again-changes-nothing",
)

LIVE = """
    import functools, os
    class Fork:
        def select(self, request):
            if os.environ.get("VLLM_ATTENTION_BACKEND"):
                return os.environ["VLLM_ATTENTION_BACKEND"]
            return "ROCM_AITER_FA" if os.environ.get("VLLM_ROCM_USE_AITER") == "1" else "TRITON_ATTN"
        def refresh(self):
            return True
    select = Fork()
"""
CACHED = """
    import functools, os
    class Oddly:
        @staticmethod
        @functools.lru_cache
        def named(head_size):
            return os.environ.get("VLLM_ATTENTION_BACKEND", "TRITON_ATTN")
    class Fork:
        def select(self, request):
            if os.environ.get("VLLM_ROCM_USE_AITER") == "1":
                return "ROCM_AITER_FA"
            return Oddly.named(request.head_size)
        def refresh(self):
            Oddly.named.cache_clear()
            return True
    select = Fork()
"""
FROZEN = """
    import os
    class Switches:
        anything = os.environ.get("VLLM_ROCM_USE_AITER") == "1"
        unused = os.environ.get("VLLM_ROCM_USE_AITER")
    def select(request):
        if os.environ.get("VLLM_ATTENTION_BACKEND"):
            return os.environ["VLLM_ATTENTION_BACKEND"]
        return "ROCM_AITER_FA" if Switches.anything else "TRITON_ATTN"
"""
COUNTING = """
    calls = []
    def select(request, environ):
        calls.append(request)
        return "TRITON_ATTN" if len(calls) < 3 else "ROCM_ATTN"
"""


@pytest.mark.parametrize(
    ("source", "held", "broken"),
    [
        pytest.param(LIVE, [NAME, SWITCH], {}, id="nothing is remembered"),
        pytest.param(CACHED, [SWITCH], {NAME: "the cache {}.Oddly.named"}, id="a cache"),
        pytest.param(
            FROZEN,
            [NAME],
            {SWITCH: "remembered by {}.Switches.anything, read once at import"},
            id="a class attribute",
        ),
        pytest.param(COUNTING, [], {AGAIN: "what remembers was not found"}, id="a list"),
    ],
)
def test_what_a_process_remembers_is_caught_and_named(
    tmp_path: Path, source: str, held: list[str], broken: dict[str, str]
) -> None:
    path = tmp_path / "selector.py"
    path.write_text(textwrap.dedent(source))
    pool = Pool(Subject(f"{path}:select", preload=()), lanes=1)
    asker = Asker(pool)
    try:
        for name in held:
            search = BY_ID[name].search("gfx942", asker, Effort(examples=40))
            assert search.found is None
            assert search.examples >= 8
        for name, words in broken.items():
            law = BY_ID[name]
            search = law.search("gfx942", asker, Effort())
            assert search.found is not None
            steps, _ = search.found
            again = Selections.from_data("gfx942", steps.as_data())
            assert again == steps
            told = law.attempt(again, asker, asker.certain)
            assert told is not None
            assert words.format("_rocm_attn_selector_selector") in told.words
            assert len(steps.selections) == (3 if name == AGAIN else 2)
    finally:
        pool.close()


def test_a_sequence_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'selections', and nothing else"):
        Selections.from_data("gfx942", {"environ": {}})


def test_a_sequence_that_ends_its_process_breaks_no_law_about_memory(tmp_path: Path) -> None:
    path = tmp_path / "selector.py"
    path.write_text("import os\ndef select(request):\n    os._exit(1)\n")
    pool = Pool(Subject(f"{path}:select", preload=()), lanes=1)
    asker = Asker(pool)
    try:
        steps = Selections(Gpu("gfx942"), (((), Request()), ((), Request())))
        assert BY_ID[AGAIN].attempt(steps, asker, asker.certain) is None
        # It breaks no law, and it is not passed either: nothing was answered.
        assert "exited" in asker.only_failures
    finally:
        pool.close()


def test_a_selector_that_cannot_be_imported_on_a_platform_passes_no_law_about_memory(
    tmp_path: Path,
) -> None:
    path = tmp_path / "selector.py"
    path.write_text("raise RuntimeError('not on this GPU')\n")
    pool = Pool(Subject(f"{path}:select", preload=()), lanes=1)
    asker = Asker(pool)
    try:
        for ask in (
            lambda: BY_ID[AGAIN].search("gfx942", asker, Effort(examples=8)),
            lambda: BY_ID[AGAIN].attempt(
                Selections(Gpu("gfx942"), (((), Request()), ((), Request()))), asker, asker.certain
            ),
        ):
            asker.start_tally()
            ask()
            assert "not on this GPU" in asker.only_failures
    finally:
        pool.close()
