"""``python -m pytest --rocm-attn-tier=grid`` as a user meets it."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest

# Imported here so that the in-process runs below share one copy; see test_conformance_run.py.
from pytest_rocm_attn.conformance.baseline.baseline import Baseline, render
from pytest_rocm_attn.conformance.promise import contract
from pytest_rocm_attn.conformance.promise.grid.design import sample
from pytest_rocm_attn.conformance.promise.grid.outcomes import Table
from pytest_rocm_attn.conformance.run import session
from pytest_rocm_attn.conformance.tiers.grid import run as grid_run
from pytest_rocm_attn.outcome import Selected

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., pytest.RunResult]

pytestmark = pytest.mark.usefixtures("without_torch")

_KEPT = (contract, session, grid_run)
SLICE = "rocm-attn::grid::attention-types[gfx942]"
# The contract's own default, except that aiter's switch overrides an explicit TRITON_ATTN.
SELECTOR = """
from pytest_rocm_attn import Flags, Gpu, Request
from pytest_rocm_attn.backends import select as reference

class Fork:
    def select(self, request, environ, gpu):
        if environ.get("VLLM_ROCM_USE_AITER") == "1":
            if environ.get("VLLM_ATTENTION_BACKEND") == "TRITON_ATTN":
                return "ROCM_AITER_FA"
        return reference(request, Flags(environ), gpu)

    def refresh(self):
        return True

fork = Fork()
"""
DEVIATION = """
[[deviation]]
match = {match!r}
answer = {answer!r}
reason = "our default"
link = "#1"
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """A function that runs one slice of the grid, with more options; rep.json is its report."""
    pytester.makepyfile(fork_selector=SELECTOR)

    def run(*options: str, selector: str = "fork_selector.py:fork") -> pytest.RunResult:
        named = [f"--rocm-attn-selector={selector}"] if selector else []
        return pytester.runpytest_inprocess(
            *("--rocm-attn-conformance", "--rocm-attn-tier=grid", "-p", "no:randomly"),
            *named,
            *(options if any("::" in option for option in options) else (*options, SLICE)),
            "--rocm-attn-report=rep.json",
        )

    return run


def report(pytester: pytest.Pytester) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((pytester.path / "rep.json").read_text())
    return content


def test_the_reference_passes_by_the_rules_of_its_contract(
    run: Run, pytester: pytest.Pytester
) -> None:
    result = run(selector="")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        ["2,688 of 2,688 cells answered in 1 slices (*decided by a rule, 0 compared)*(0 causes)"]
    )
    (row,) = report(pytester)["rows"]
    counts = row["details"]["counts"]
    assert counts["decided"] > 500
    assert (counts["unanswered"], counts["required"], counts["advisory"]) == (0, 0, 0)


def test_a_broken_promise_fails_and_the_command_that_is_printed_reproduces_it(
    run: Run, pytester: pytest.Pytester
) -> None:
    result = run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["FAIL * AITER=1 and TRITON_ATTN named: the explicit one or a refusal -> ROCM_AITER_FA*"]
    )
    (row,) = report(pytester)["rows"]
    assert row["verdict"] == "fail"
    (finding,) = (f for f in row["details"]["findings"] if f["level"] == "required")
    expected = "the explicit one or a refusal"
    assert (finding["expected"], finding["got"]) == (expected, "ROCM_AITER_FA")
    # Two states of aiter, eight ways to set the other switches, the six requests that are no MLA.
    assert finding["cells"] == row["details"]["counts"]["required"] == 2 * 8 * 6
    pytester.path.joinpath("rep.json").unlink()
    again = shlex.split(finding["again"])
    assert again[:3] == ["python", "-m", "pytest"]
    result = run(*(word for word in again[3:] if "selector" not in word))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (row,) = report(pytester)["rows"]
    assert row["env"] == {"VLLM_ROCM_USE_AITER": "1", "VLLM_ATTENTION_BACKEND": "TRITON_ATTN"}
    assert row["outcome"]["words"] == "ROCM_AITER_FA"
    assert row["gpu"] == {"gfx": "gfx942", "aiter": "present"}


@pytest.mark.parametrize(
    ("match", "answer", "verdict"),
    [
        ("explicit-choice-is-never-replaced", "ROCM_AITER_FA", "deviation"),
        ("explicit-choice-is-never-replaced", "refusal", "fail"),
        pytest.param(
            "attention-types[gfx942]", "ROCM_AITER_FA", "deviation", marks=pytest.mark.slow
        ),
        pytest.param("attention-types[gfx942]", "ROCM_ATTN", "fail", marks=pytest.mark.slow),
        pytest.param(
            "explicit-mla-choice-is-never-replaced",
            "ROCM_AITER_FA",
            "fail",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_deviation_covers_one_answer_to_a_rule_or_a_slice(
    run: Run, pytester: pytest.Pytester, match: str, answer: str, verdict: str
) -> None:
    pytester.makefile(".toml", deviations=DEVIATION.format(match=match, answer=answer))
    run("--rocm-attn-deviations=deviations.toml", SLICE)
    (row,) = report(pytester)["rows"]
    assert row["verdict"] == verdict
    changed = "mla" not in match and verdict == "fail"
    assert ("the answer of a deviation changed" in row["message"]) is changed


def test_a_known_defect_of_the_release_covers_the_rule_that_it_breaks(
    run: Run, pytester: pytest.Pytester
) -> None:
    assert run("--rocm-attn-upstream=0.12").ret == pytest.ExitCode.TESTS_FAILED
    assert run("--rocm-attn-upstream=0.11").ret == pytest.ExitCode.OK
    (row,) = report(pytester)["rows"]
    assert row["verdict"] == "inherited-defect"
    assert row["details"]["defect"].startswith("Variables override the backend that the user")
    assert "96 of 2,688 cells" in row["message"]
    assert [one["answer"] for one in row["fell_short"]] == ["ROCM_AITER_FA"]


def test_a_cell_under_several_conditions_is_counted_once(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        other_selector="""
        class Other:
            def select(self, request, environ, gpu):
                names = "VLLM_ROCM_USE_AITER", "VLLM_V1_USE_PREFILL_DECODE_ATTENTION"
                on = any(environ.get(name) == "1" for name in names)
                return "ROCM_ATTN" if on else "TRITON_ATTN"

            def refresh(self):
                return True

        class Plain(Other):
            def select(self, request, environ, gpu):
                return "TRITON_ATTN"

        other, plain = Other(), Plain()
        """
    )
    run("--rocm-attn-against=other_selector.py:plain", SLICE, selector="other_selector.py:other")
    found = report(pytester)
    (row,), (summary,) = found["rows"], found["summaries"]
    differing = row["details"]["counts"]["required"]
    assert sum(condition["cells"] for condition in summary["exact"]) > differing > 0
    assert sum(cause["cells"] for cause in summary["causes"]) == differing
    assert row["message"].startswith(f"{differing:,} of 2,688 cells fall short: ")


def test_a_deviation_that_covers_nothing_any_more_is_stale(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makefile(
        ".toml", deviations=DEVIATION.format(match="explicit-choice-is-*", answer="ROCM_AITER_FA")
    )
    result = run("--rocm-attn-deviations=deviations.toml", SLICE, selector="")
    (row,) = report(pytester)["rows"]
    assert row["verdict"] == "stale"
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_selector_that_the_user_names_is_the_standard(
    run: Run, pytester: pytest.Pytester
) -> None:
    run("--rocm-attn-against=fork_selector.py:fork", selector="")
    (row,) = report(pytester)["rows"]
    assert row["verdict"] == "fail"
    assert row["source"] == "fork_selector.py:fork"
    assert row["details"]["counts"]["compared"] == 2688
    assert {f["rule"] for f in row["details"]["findings"]} == {"fork_selector.py:fork"}
    assert {f["level"] for f in row["details"]["findings"]} == {"required"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rocm-attn-cell=x",), "'x' is invalid; expected the number of a cell"),
        (("--rocm-attn-grid-budget=0",), "'0' is invalid; expected a positive number of seconds"),
        (("--rocm-attn-baseline=nothing-of-that-name",), "nothing-of-that-name"),
        (("--rocm-attn-baseline=a", "--rocm-attn-against=b:c"), "give one of them"),
        (("rocm-attn::grid::mla[gfx94x]",), "no such row"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(run: Run, options: tuple[str, ...], words: str) -> None:
    result = run(*options, selector="")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.startswith("ERROR")]
    assert words in line


def test_a_recording_of_another_grid_is_told_in_one_line(
    run: Run, pytester: pytest.Pytester
) -> None:
    grid = sample()
    tables = {f.name: Table([0] * f.cells, [Selected("TRITON_ATTN")]) for f in grid.families}
    one = Baseline("mine", "m:o", None, None, "0", grid.name, grid.digest, tables=tables)
    (pytester.path / "mine.json").write_bytes(render(one, grid))
    result = run("--rocm-attn-baseline=mine.json", selector="")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.startswith("ERROR")]
    assert "was recorded over grid sample-2" in line


def test_a_number_beyond_the_slice_is_told_in_one_line(run: Run) -> None:
    result = run("--rocm-attn-cell=2688", SLICE, selector="")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["--rocm-attn-cell=2688: slice * has the cells 0 to 2687;*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_slice_that_the_time_limit_stopped_is_not_judged(
    run: Run, pytester: pytest.Pytester
) -> None:
    """Not even as a broken promise: what was not looked at neither holds nor fails."""
    entry = DEVIATION.format(match="attention-types", answer="ROCM_AITER_FA")
    pytester.makefile(".toml", ours=entry)
    result = run("--rocm-attn-grid-budget=1e-6", "--rocm-attn-deviations=ours.toml", selector="")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (row,) = report(pytester)["rows"]
    assert row["verdict"] == "error"
    assert row["message"].startswith("not judged: ")
    assert row["details"]["counts"]["unanswered"] > 0
    result.stdout.fnmatch_lines(["*cells were not reached within the budget*"])


@pytest.mark.slow
def test_what_an_earlier_run_did_not_finish_is_not_asked_again(
    run: Run, pytester: pytest.Pytester
) -> None:
    # A run that is stopped by a budget leaves as much behind as one that is interrupted.
    slow = SELECTOR.replace(
        "        if environ", "        import time; time.sleep(0.02)\n        if environ", 1
    )
    pytester.makepyfile(fork_selector=slow)
    result = run("--rocm-attn-grid-budget=20")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*cells were not reached within the budget*"])
    (row,) = report(pytester)["rows"]
    assert row["details"]["counts"]["unanswered"] > 0
    assert "not reached" in row["message"] or row["details"]["findings"]
    result = run("--rocm-attn-grid-budget=600")
    result.stdout.fnmatch_lines(["note: grid: * cells were answered by an earlier run*"])
    (row,) = report(pytester)["rows"]
    assert row["details"]["counts"]["unanswered"] == 0
    result = run("--rocm-attn-grid-budget=600", "--rocm-attn-fresh")
    result.stdout.no_fnmatch_line("note: grid: * earlier run*")


def test_a_cell_that_the_other_selector_did_not_answer_is_not_passed(
    run: Run, pytester: pytest.Pytester
) -> None:
    slow = SELECTOR.replace(
        "    def select(self, request, environ, gpu):",
        "    def select(self, request, environ, gpu):\n"
        "        if request.attn_type == 'encoder_only' and gpu.aiter == 'present':\n"
        "            if dict(environ) == {'VLLM_ATTENTION_BACKEND': 'FLEX_ATTENTION'}:\n"
        "                import time\n"
        "                time.sleep(600)",
    )
    pytester.makepyfile(slow_selector=slow)
    result = run("--rocm-attn-against=slow_selector.py:fork", "--rocm-attn-timeout=2")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (row,) = report(pytester)["rows"]
    counts = row["details"]["counts"]
    assert (counts["required"], counts["unanswered"]) == (0, 0)
    assert counts["uncompared"] == 2688 - counts["compared"] > 0
    assert row["verdict"] == "error"
    words = f"slow_selector.py:fork answered {counts['uncompared']} of 2,688 cells not in time"
    assert row["message"].startswith(f"not judged: {words}")
    result.stdout.fnmatch_lines(["*cells have no answer to be compared with*"])
