"""``--rocm-attn-tier=invariants`` as a user meets it."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from typing import TYPE_CHECKING

import hypothesis
import pytest

from pytest_rocm_attn import Gpu

# One copy for all in-process runs; see test_conformance_run.py.
from pytest_rocm_attn.conformance.promise import contract, deviations
from pytest_rocm_attn.conformance.promise.grid import rules
from pytest_rocm_attn.conformance.run import session
from pytest_rocm_attn.conformance.tiers.invariants import laws, sequences, switches
from pytest_rocm_attn.conformance.tiers.invariants import tier as invariants

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., pytest.RunResult]

pytestmark = pytest.mark.usefixtures("without_torch")

_KEPT = (contract, deviations, rules, session, laws, sequences, switches, invariants)

# Replaces a named backend when AITER is on, as vLLM 0.11.2 did; crashes on an unset block size.
OVERRIDES = """
def select(request, environ, gpu):
    if request.block_size is None:
        raise AttributeError("no block size")
    if environ.get("VLLM_ROCM_USE_AITER") == "1" and not request.use_mla:
        return "ROCM_AITER_FA"
    return environ.get("VLLM_ATTENTION_BACKEND", "TRITON_MLA" if request.use_mla else "TRITON_ATTN")
"""
LAW = "rocm-attn::invariants::an-explicit-choice-is-taken-or-refused-never-replaced[gfx942]"
# hypothesis before 6.155 repeats itself more (docs/invariants.md).
EXAMPLES = f"--rocm-attn-examples={200 if hypothesis.__version_info__ >= (6, 155) else 800}"
CRASH = "rocm-attn::invariants::every-legal-question-is-answered[gfx942]"


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """A function that runs the invariants tier."""

    def run(*options: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess(
            *("--rocm-attn-conformance", "--rocm-attn-tier=invariants", "-p", "no:randomly"),
            *options,
        )

    return run


def _switches(*gpus: str) -> int:
    return sum(law.is_for(Gpu(gfx)) for law in switches.SWITCH_LAWS for gfx in gpus)


def test_the_reference_keeps_every_law_on_two_gpus(run: Run) -> None:
    result = run("--rocm-attn-gpu=gfx942,gfx1201", "--rocm-attn-examples=12", "-q")
    result.assert_outcomes(passed=2 * (len(laws.LAWS) + 3) + _switches("gfx942", "gfx1201"))
    result.stdout.fnmatch_lines(["* items: * pass (contract*"])
    assert result.ret == 0


def test_a_broken_law_is_told_with_its_smallest_example_and_a_command_that_repeats_it(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(overrides=OVERRIDES)
    selector = "--rocm-attn-selector=overrides.py:select"
    result = run(selector, "--rocm-attn-report=report.json", EXAMPLES, LAW, CRASH)
    result.assert_outcomes(failed=1, xfailed=0)
    rows = json.loads((pytester.path / "report.json").read_text())["rows"]
    by_id = {row["id"]: row for row in rows}
    broken = by_id["an-explicit-choice-is-taken-or-refused-never-replaced"]
    assert broken["verdict"] == "fail"
    assert broken["env"] == {"VLLM_ROCM_USE_AITER": "1", "VLLM_ATTENTION_BACKEND": "TRITON_ATTN"}
    assert broken["outcome"]["backend"] == "ROCM_AITER_FA"
    assert broken["outcome"]["words"] == "TRITON_ATTN was named, ROCM_AITER_FA was selected"
    assert by_id["every-legal-question-is-answered"]["verdict"] == "advisory"

    words = shlex.split(broken["again"])
    assert words[:4] == ["python", "-m", "pytest", "--rocm-attn-conformance"]
    again = pytester.run(sys.executable, *words[1:])
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["*TRITON_ATTN was named, ROCM_AITER_FA was selected*"])

    held = [word.replace("TRITON_ATTN", "ROCM_AITER_FA") for word in words[4:]]
    assert held != words[4:]
    run(*held).assert_outcomes(passed=1)


# As OVERRIDES, but that a kept process can answer for every environment, and remembers a switch.
REMEMBERS = """
import os

class Fork:
    aiter = os.environ.get("VLLM_ROCM_USE_AITER")

    def select(self, request, environ, gpu):
        if self.aiter == "1" and request.head_size % 3:
            return "ROCM_AITER_FA"
        if request.sliding_window == 7 or environ.get("VLLM_ROCM_USE_AITER_MHA") == "0":
            raise ValueError("no")
        return environ.get("VLLM_ATTENTION_BACKEND", "TRITON_ATTN")

    def refresh(self):
        type(self).aiter = os.environ.get("VLLM_ROCM_USE_AITER")
        return True

fork = Fork()
"""
LAWS = (LAW, CRASH, CRASH.replace("legal-question-is-answered", "refusal-names-backend-and-reason"))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [LAWS, ("--rocm-attn-gpu=gfx942",)], ids=["three laws", "all"])
def test_the_same_seed_gives_the_same_report_and_another_one_other_examples(
    run: Run, pytester: pytest.Pytester, rows: tuple[str, ...]
) -> None:
    pytester.makepyfile(remembers=REMEMBERS)
    found = []
    for seed in ("3", "3", "4"):
        run(
            *("--rocm-attn-selector=remembers.py:fork", f"--rocm-attn-seed={seed}", *rows),
            *("--rocm-attn-examples=40", "--rocm-attn-report=report.json"),
        )
        report = json.loads((pytester.path / "report.json").read_text())
        for row in report["rows"]:
            row["seconds"], row["again"], row["details"] = 0.0, "", {}
        del report["settings"]
        found.append(report)
    first, again, other = found
    assert {"fail", "advisory"} <= set(first["totals"])
    assert again == first
    assert other != first


def test_strict_turns_an_advisory_law_into_a_crash(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(overrides=OVERRIDES)
    result = run("--rocm-attn-selector=overrides.py:select", "--rocm-attn-strict", EXAMPLES, CRASH)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*CRASH *every-legal-question-is-answered*"])


SEQUENCE = "rocm-attn::invariants::asking-again-changes-nothing[gfx942]"
SWITCH = "rocm-attn::invariants::the-switch-of-aiter-changes-some-selection[gfx942]"


def test_what_the_time_limit_stopped_is_not_judged_whatever_its_level(
    run: Run, pytester: pytest.Pytester
) -> None:
    # A deviation does not make an answer of it, either.
    entry = "[[deviation]]\nmatch = 'asking-again-*'\nanswer = 'wrong'\nreason = 'r'\nlink = '#1'\n"
    pytester.makefile(".toml", ours=entry)
    nodes = (LAW, CRASH, SEQUENCE, SWITCH)
    files = ("--rocm-attn-deviations=ours.toml", "--rocm-attn-report=report.json")
    result = run("--rocm-attn-budget=1e-9", "--tb=short", *files, *nodes)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    report = json.loads((pytester.path / "report.json").read_text())
    assert report["totals"] == {"error": len(nodes)}
    start, end = "not judged: stopped after 0 of ", " by the time limit --rocm-attn-budget=1e-09*"
    for what in ("200 examples", "50 examples", "* flips of VLLM_ROCM_USE_AITER"):
        result.stdout.fnmatch_lines([start + what + end])


def test_a_dead_switch_is_judged_by_all_of_its_flips(run: Run, pytester: pytest.Pytester) -> None:
    """Whether it failed once depended on how many flips the seconds allowed."""
    answer = "'TRITON_MLA' if request.use_mla else 'TRITON_ATTN'"
    pytester.makepyfile(deaf=f"def select(request):\n    return {answer}\n")
    result = run("--rocm-attn-selector=deaf.py:select", "--rocm-attn-gpu=gfx942", SWITCH)
    assert result.parseoutcomes() == {"failed": 1}
    result.stdout.fnmatch_lines(["FAIL *VLLM_ROCM_USE_AITER changed nothing in 160 flips*"])


def test_a_selector_that_only_crashes_passes_no_law(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(crashes="def select(request):\n    raise AttributeError('gone')\n")
    result = run("--rocm-attn-selector=crashes.py:select", "--rocm-attn-examples=2", LAW)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no question was answered: crash: AttributeError: gone*"])


def test_a_declared_deviation_covers_a_law(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(overrides=OVERRIDES)
    pytester.makefile(
        ".toml",
        ours="[[deviation]]\nmatch = 'an-explicit-choice-is-taken*'\nanswer = 'wrong'\n"
        "reason = 'r'\nlink = '#1'\n",
    )
    selector = "--rocm-attn-selector=overrides.py:select"
    declared = ("--rocm-attn-deviations=ours.toml", "rocm-attn::deviations")
    result = run(selector, *declared, LAW)
    assert result.parseoutcomes() == {"deviation": 1, "passed": 1}
    # The entry is not dead if this tier does not run, either.
    run("--rocm-attn-tier=documented", *declared).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--rocm-attn-example={", "expected a JSON object"),
        ('--rocm-attn-example={"enviro": {}}', "unknown field 'enviro'"),
        ('--rocm-attn-example={"selections": []}', "'selections', and nothing else"),
    ],
)
def test_a_bad_option_is_said_in_one_line(run: Run, option: str, words: str) -> None:
    result = run(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.stderr.lines if line.startswith("ERROR")]
    assert words in line


def test_without_hypothesis_one_line_names_the_extra(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "hypothesis" else found(name, *rest),
    )
    result = run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.stderr.lines if line.startswith("ERROR")]
    assert "pip install 'pytest-rocm-attn[hypothesis]'" in line
