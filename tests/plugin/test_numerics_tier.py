"""`--rocm-attn-tier=numerics` as its user sees it: a right backend, wrong ones, and mistakes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("with_torch")
TIER = ("--rocm-attn-conformance", "--rocm-attn-tier=numerics", "-p", "no:randomly")
CASE = "chunked-prefill"

# Plain torch, so that no kernel has to be interpreted. `exact` asks the oracle, as no backend would.
BACKENDS = """
import os
from dataclasses import replace
from pytest_rocm_attn.conformance.tiers.numerics.judge import reference_of

class Right:
    def attend(self, problem):
        problem.out.copy_(reference_of(problem).out)

class NoCausality(Right):
    def attend(self, problem):
        super().attend(problem)
        problem.out.copy_(reference_of(replace(problem, causal=False)).out)

class Declines:
    def attend(self, problem):
        raise NotImplementedError("only on Tuesdays")

class Ours(NoCausality):  # one process for all that may happen to a case
    def attend(self, problem):
        if problem.alibi_slopes is not None:
            return Right.attend(self, problem)
        if problem.soft_cap is not None:
            os.kill(os.getpid(), 11)
        if problem.sinks is None:
            return super().attend(problem)
        if problem.request.dtype == "bfloat16":
            return Declines.attend(self, problem)
        print("about to", flush=True)
        raise RuntimeError("no such kernel")

class Drawn(NoCausality):
    mla_decode = Right.attend
    mla_prefill = Declines.attend
"""


def run(pytester: pytest.Pytester, backends: str, *more: str) -> pytest.RunResult:
    pytester.makepyfile(ours=BACKENDS)
    named = ",".join(f"{name}=ours.py:{name}" for name in backends.split())
    option = [f"--rocm-attn-backends={named}"] if named else []
    return pytester.runpytest_inprocess(*TIER, *option, *more)


def node(backend: str, case: str = CASE) -> str:
    return f"rocm-attn::numerics::{backend}::{case}"


def test_right_wrong_and_missing_backends_and_their_records(pytester: pytest.Pytester) -> None:
    cases = {
        "alibi-float16": "pass",
        CASE: "fail",
        "sinks-float16": "crash",
        "soft-cap-with-a-window": "crash",
    }
    declines = "sinks-bfloat16"
    report = pytester.path / "report.json"
    pytester.makepyfile(ours=BACKENDS)
    result = pytester.runpytest_inprocess(
        *TIER,
        "--rocm-attn-backends=Ours=ours.py:Ours,Gone=no_such_module:Gone",
        *(node("Ours", case) for case in (*cases, declines)),
        *(node("Gone", case) for case in (CASE, "sinks-float16")),
        f"--rocm-attn-report={report}",
        "--rocm-attn-report=report.html",
        "-rs",
        "--tb=short",
    )
    result.assert_outcomes(passed=1, failed=3, skipped=1, errors=2)
    result.stdout.fnmatch_lines(
        [
            "Ours computes chunked-prefill wrongly (evidence: interpreter): error * is *"
            + " times its bound *, at out of request *, column *: got *, expected *",
            "*case  *head_size=64*; causal, dense layout; new of all tokens: 5 of 37, 16 of 48*",
            "*again  python -m pytest --rocm-attn-conformance *--rocm-attn-backends=*Ours=*"
            + " --rocm-attn-tier=numerics rocm-attn::numerics::Ours::chunked-prefill",
        ],
        consecutive=False,
    )
    result.stdout.fnmatch_lines(["Ours breaks down on * raised RuntimeError: no such kernel"])
    result.stdout.fnmatch_lines(["Ours breaks down on * was killed by SIGSEGV*"])
    result.stdout.fnmatch_lines(["SKIPPED * Ours declines: only on Tuesdays"])

    cause = "backend no_such_module:Gone cannot be imported: ModuleNotFoundError: *no_such_module*"
    result.stdout.fnmatch_lines([cause])
    remedy = "install no_such_module, or run *"
    result.stdout.fnmatch_lines([f"ERROR     Gone, 2 cases: {cause}; {remedy} [[]2 items[]]"])
    totals = "7 items: 1 pass, 2 error, 2 crash, 1 fail, 1 declined"
    result.stdout.fnmatch_lines([f"{totals} (*"])
    page = (pytester.path / "report.html").read_text()
    assert f'<p class="result bad">{totals}</p>' in page

    written = json.loads(report.read_text())
    gone = [row for row in written["rows"] if row["details"]["backend"]["name"] == "Gone"]
    assert [row["verdict"] for row in gone] == ["error"] * 2
    rows = {row["id"]: row for row in written["rows"] if row not in gone}
    assert {name: row["verdict"] for name, row in rows.items()} == {
        f"Ours::{case}": verdict for case, verdict in cases.items()
    }
    assert {row["evidence"] for row in rows.values()} == {"interpreter"}
    wrong = rows[f"Ours::{CASE}"]
    assert wrong["tier"] == "numerics"
    assert wrong["details"]["error_over_bound"] > 1
    assert wrong["request"]["head_size"] == 64
    assert 0 < rows["Ours::alibi-float16"]["details"]["error_over_bound"] <= 1

    (declined,) = written["declined"]
    assert (declined["backend"], declined["evidence"]) == ("Ours", "interpreter")
    assert declined["reason"] == "only on Tuesdays"
    (device,) = written["host"]["devices"]
    assert device["name"] == "CPU"
    assert device["torch"]
    assert written["host"]["libraries"]["torch"].startswith(device["torch"])
    result.stdout.fnmatch_lines(
        [
            "*interpreter *launch *source-emulated *emulated *cuda *rocm",
            "Ours *1 pass, 1 fail, 2 crash, 1 declined *not tried*",
        ]
    )


def test_a_conftest_names_backends_and_a_declared_deviation_covers_a_case(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(ours=BACKENDS)
    pytester.makeconftest(
        "def pytest_rocm_attn_backends(config):\n    return {'OURS': 'ours.py:NoCausality'}"
    )
    file = pytester.path / "deviations.toml"
    file.write_text(
        '[[deviation]]\nmatch = ["OURS::*"]\nanswer = "wrong"\nreason = "we know"\n'
        'link = "https://example.org/1"\n'
    )
    nodes = (node("OURS"), "rocm-attn::deviations")
    result = pytester.runpytest_inprocess(*TIER, *nodes, f"--rocm-attn-deviations={file}")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["DEVIATION *chunked-prefill*"])
    result.assert_outcomes(passed=1)  # the entry itself, which matches a case


def test_all_of_one_backend_can_be_selected(pytester: pytest.Pytester) -> None:
    args = ("--collect-only", "-q", "rocm-attn::numerics::TRITON_MLA")
    result = pytester.runpytest_inprocess(*TIER, *args)
    listed = [line for line in result.outlines if line.startswith("rocm-attn::")]
    assert listed
    assert all(line.startswith("rocm-attn::numerics::TRITON_MLA::") for line in listed)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("nonsense", "'nonsense' is not of the form"),
        ("a=m:x,a=m:y", "two backends are called 'a'"),
    ],
)
def test_a_mistake_in_the_option_is_one_line(
    pytester: pytest.Pytester, option: str, words: str
) -> None:
    result = pytester.runpytest_inprocess(*TIER, f"--rocm-attn-backends={option}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert words in result.stderr.str()
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


# --- drawn cases ---------------------------------------------------------------------------------------


def rows_of(report: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in json.loads(report.read_text())["rows"]}


def test_drawn_cases_find_what_is_wrong_shrink_it_and_say_how_to_try_it_again(
    pytester: pytest.Pytester,
) -> None:
    report = pytester.path / "report.json"
    nodes = [node("Drawn", f"drawn-{kind}") for kind in ("attention", "mla-decode", "mla-prefill")]
    few = "--rocm-attn-examples=120"
    result = run(
        pytester, "Drawn", *nodes, few, f"--rocm-attn-report={report}", "-rs", "--tb=short"
    )
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*Drawn declines: all 15 drawn cases"])
    rows = rows_of(report)
    right, wrong = rows["Drawn::drawn-mla-decode"], rows["Drawn::drawn-attention"]
    assert right["outcome"]["words"] == "right in 15 drawn cases, 0 declined"
    assert right["details"]["examples"] == 15
    assert right["evidence"] == wrong["evidence"] == "interpreter"
    # Without causality the smallest wrong answer is the first of two new tokens, in one plain layer.
    case = wrong["details"]["case"]
    assert case["lengths"] == [[2, 2]]
    assert "computes drawn-attention wrongly" in wrong["message"]

    python, option, module, *again = shlex.split(wrong["again"])
    assert (python, option, module) == ("python", "-m", "pytest")
    repeated = pytester.runpytest_inprocess(*again, "-p", "no:randomly")
    repeated.assert_outcomes(failed=1)
    repeated.stdout.fnmatch_lines(["Drawn computes drawn-attention wrongly*"])


def test_a_search_that_runs_out_of_time_does_not_pass(pytester: pytest.Pytester) -> None:
    nodes = (node("Right", "drawn-attention"), node("Right", "drawn-attention-of-any-kind"))
    result = run(pytester, "Right", *nodes, "--rocm-attn-budget=0.000001", "--tb=short")
    stopped = (
        "not judged: stopped after 0 of 25 examples by the time limit --rocm-attn-budget=1e-06*"
    )
    result.stdout.fnmatch_lines([stopped, stopped])  # an advisory one, too
    assert "passed" not in result.parseoutcomes()
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ("{}", "no drawn case of the numerics tier"),
        (
            '{"id": "sinks", "why": "", "kind": "attention", "request": {}, "lengths": []}',
            "'sinks'",
        ),
        ("[]", "expected a JSON object"),
    ],
)
def test_an_example_that_is_none_is_one_line(
    pytester: pytest.Pytester, example: str, words: str
) -> None:
    result = run(pytester, "Right", f"--rocm-attn-example={example}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert words in result.stderr.str()
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


def test_no_batch_invariant_form_and_no_other_kind_is_drawn_for(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess(*TIER, "--collect-only", "-q", "-k", "drawn")
    listed = {line for line in result.outlines if line.startswith("rocm-attn::")}
    assert {line for line in listed if "invariant" in line} == set()
    assert {line.rpartition("::")[2] for line in listed if "TRITON_MLA" in line} == {
        "drawn-mla-decode",
        "drawn-mla-prefill",
    }
