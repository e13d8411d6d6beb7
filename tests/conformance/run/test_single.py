"""The rocm_select fixture in a test of a fork's: its answers, and what it says of a wrong question."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# Answers by the environment and the request that it is given; dies of one of them.
SELECTOR = """
import os

class Fork:
    def select(self, request, environ, gpu):
        name = os.environ.get("VLLM_ATTENTION_BACKEND")
        if name == "FLEX_ATTENTION":
            os._exit(7)
        if name == "ROCM_ATTN":
            raise ValueError("ROCM_ATTN: not here")
        return name or ("TRITON_MLA" if request.use_mla else "TRITON_ATTN")

fork = Fork()
"""


@pytest.fixture
def tested(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(ours=SELECTOR)
    return pytester


def run(tested: pytest.Pytester, call: str, *options: str) -> str:
    """Run a test that prints what rocm_select(call) is; return what pytest prints."""
    tested.makepyfile(f"def test_it(rocm_select):\n    print('answer:', rocm_select({call}))\n")
    options = options or ("--rocm-attn-selector=ours.py:fork",)
    result = tested.runpytest_subprocess("-s", "-p", "no:randomly", *options)
    return str(result.stdout)


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("gpu='gfx942'", "TRITON_ATTN"),
        ("{}, gpu='gfx1201', use_mla=True", "TRITON_MLA"),
        ("{'VLLM_ATTENTION_BACKEND': 'TREE_ATTN'}, gpu='gfx942'", "TREE_ATTN"),
        (
            "{'VLLM_ATTENTION_BACKEND': 'ROCM_ATTN'}, gpu='gfx942'",
            "ValueError: ROCM_ATTN: not here",
        ),
        (
            "{'VLLM_ATTENTION_BACKEND': 'FLEX_ATTENTION'}, gpu='gfx942'",
            "the process exited with status 7",
        ),
    ],
)
def test_a_question_is_answered_whatever_the_selector_does(
    tested: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, call: str, answer: str
) -> None:
    monkeypatch.setenv("VLLM_ATTENTION_BACKEND", "TRITON_MLA")  # the shell's: not asked about
    output = run(tested, call)
    assert f"answer: {answer}" in output
    assert "1 passed" in output


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("{}, gpu='gfx94'", "UnknownGpuError: unknown GPU 'gfx94'. Did you mean 'gfx942'"),
        ("{}, gpu='gfx942', head_sizes=64", "has no field 'head_sizes'. Did you mean 'head_size'?"),
        ("{}, gpu='gfx942', head_size='64'", "request: head_size is '64'; it must be an int"),
        ("{}, gpu='gfx942', block_size=0", "request: block_size is 0; it must be a positive"),
        ("{'VLLM_ROCM_USE_AITER': 1}, gpu='gfx942'", "'VLLM_ROCM_USE_AITER': 1 is no environment"),
    ],
)
def test_a_wrong_question_is_told_where_it_was_asked_without_a_frame_of_ours(
    tested: pytest.Pytester, call: str, words: str
) -> None:
    output = run(tested, call)
    assert words in output
    assert "1 failed" in output
    assert "single.py" not in output
    assert "answer: " not in output


def test_a_selector_that_is_named_wrongly_is_told_too(
    tested: pytest.Pytester, tmp_path: Path
) -> None:
    output = run(tested, "gpu='gfx942'", "--rocm-attn-selector=no_such_module:fork")
    assert "No module named 'no_such_module'" in output
    assert "single.py" not in output
