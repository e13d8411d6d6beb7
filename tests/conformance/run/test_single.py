"""The rocm_select fixture in a test of a fork's: its answers, and what it says of a wrong question."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("without_torch")

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


def run(tested: pytest.Pytester, calls: Iterable[str], *options: str) -> pytest.RunResult:
    """Run a test for each call, test_0 on, that prints what rocm_select(call) is."""
    tested.makepyfile(
        "".join(
            f"def test_{n}(rocm_select):\n    print('answer {n}:', rocm_select({call}))\n"
            for n, call in enumerate(calls)
        )
    )
    options = options or ("--rocm-attn-selector=ours.py:fork",)
    return tested.runpytest_subprocess("-s", "-p", "no:randomly", *options)


ANSWERS = {
    "gpu='gfx942'": "TRITON_ATTN",
    "{}, gpu='gfx1201', use_mla=True": "TRITON_MLA",
    "{'VLLM_ATTENTION_BACKEND': 'TREE_ATTN'}, gpu='gfx942'": "TREE_ATTN",
    "{'VLLM_ATTENTION_BACKEND': 'ROCM_ATTN'}, gpu='gfx942'": "ValueError: ROCM_ATTN: not here",
    "{'VLLM_ATTENTION_BACKEND': 'FLEX_ATTENTION'}, gpu='gfx942'": "the process exited with status 7",
    "gpu='gfx90a'": "TRITON_ATTN",  # as if nothing had happened
}
WRONG = {
    "{}, gpu='gfx94'": "UnknownGpuError: unknown GPU 'gfx94'. Did you mean 'gfx942'",
    "{}, gpu='gfx942', head_sizes=64": "has no field 'head_sizes'. Did you mean 'head_size'?",
    "{}, gpu='gfx942', head_size='64'": "request: head_size is '64'; it must be an int",
    "{}, gpu='gfx942', block_size=0": "request: block_size is 0; it must be a positive",
    "{'VLLM_ROCM_USE_AITER': 1}, gpu='gfx942'": "'VLLM_ROCM_USE_AITER': 1 is not an environment",
}


def test_a_fork_is_asked_with_this_environment_and_request_and_nothing_else(
    tested: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ATTENTION_BACKEND", "TRITON_MLA")  # the shell's: not asked about
    result = run(tested, ANSWERS)
    result.assert_outcomes(passed=len(ANSWERS))
    for number, answer in enumerate(ANSWERS.values()):
        assert f"answer {number}: {answer}" in str(result.stdout)


def test_a_wrong_question_is_told_where_it_was_asked_without_a_frame_of_ours(
    tested: pytest.Pytester,
) -> None:
    result = run(tested, WRONG)
    result.assert_outcomes(failed=len(WRONG))
    output = str(result.stdout)
    assert "single.py" not in output
    assert "answer " not in output.replace("print('answer ", "")
    for number, words in enumerate(WRONG.values()):
        section = output.partition(f"_ test_{number} _")[2].partition("\n____")[0]
        assert words in section


def test_a_selector_that_is_named_wrongly_is_told_too(
    tested: pytest.Pytester, tmp_path: Path
) -> None:
    result = run(tested, ["gpu='gfx942'"], "--rocm-attn-selector=no_such_module:fork")
    output = str(result.stdout)
    assert "No module named 'no_such_module'" in output
    assert "single.py" not in output
