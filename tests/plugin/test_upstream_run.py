"""A run that judges by one release of a contract by age."""

from __future__ import annotations

import json
from typing import Any

import pytest

# Imported here so that the runs in this process share one copy, as test_conformance_run.py says.
from pytest_rocm_attn.conformance.promise import contract, deviations
from pytest_rocm_attn.conformance.run import session

pytestmark = pytest.mark.usefixtures("without_torch")
_KEPT = (contract, deviations, session)

CONTRACT = """
id = "aged"
title = "two releases"
source = "this test"
by_age = true

[[case]]
id = "plain"
source = "PR 1"
grade = "P"
level = "required"
until = "0.19.0"
by = "vllm-project/vllm#2"
platform = { gfx = ["gfx942", "gfx1201"] }
expect = { backend = "ROCM_ATTN" }

[[case]]
id = "plain"
source = "PR 2"
grade = "P"
level = "required"
since = "0.19.0"
platform = { gfx = ["gfx942", "gfx1201"] }
expect = { backend = "TRITON_ATTN" }

[[case]]
id = "named"
source = "the page on names"
grade = "D"
level = "required"
platform = { gfx = "gfx942" }
named = ["ROCM_ATTN", "FLEX_ATTENTION"]
expect = { named = true }

[[case]]
id = "better"
source = "a recipe"
grade = "R"
level = "advice"
platform = { gfx = "gfx942" }
expect = { backend = "ROCM_AITER_FA" }

[[case]]
id = "as-coded"
source = "the code"
grade = "W"
level = "observed"
platform = { gfx = "gfx942" }
request = { has_sink = true }
expect = { backend = "ROCM_AITER_UNIFIED_ATTN" }

[[defect]]
id = "flex-is-passed-over"
what = "FLEX_ATTENTION is passed over when it is named"
link = "vllm-project/vllm#3"
since = "0.19.0"
until = "0.34.0"
match = ["named-flex-attention"]
answers = ["TRITON_ATTN"]

[[defect]]
id = "names-are-passed-over"
what = "A backend that is named is passed over"
link = "vllm-project/vllm#4"
match = ["invariants::an-explicit-choice-is-taken-or-refused-*"]
answers = ["wrong"]
"""
SELECTOR = """
def select(request, environ, gpu):
    named = environ.get("VLLM_ATTENTION_BACKEND", "TRITON_ATTN")
    return "TRITON_ATTN" if named == "FLEX_ATTENTION" else named
"""
DEVIATIONS = """
[[deviation]]
match = "plain[gfx1201]"
answer = "ROCM_ATTN"
reason = "it is faster there"
link = "#1"
must_hold = true
"""


@pytest.fixture
def folder(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makefile(".toml", aged=CONTRACT)
    pytester.makepyfile(mine=SELECTOR)
    return pytester


def run(folder: pytest.Pytester, *options: str) -> pytest.RunResult:
    return folder.runpytest_inprocess(
        *("--rocm-attn-conformance", "--rocm-attn-contract=aged.toml", "-p", "no:randomly"),
        *("--rocm-attn-selector=mine.py:select", "--rocm-attn-report=report.json"),
        *("--rocm-attn-tier=documented", *options),
    )


# As the release itself answers: policies are checked against recordings in tests/backends.
UNMODIFIED = """
from pytest_rocm_attn import Flags
from pytest_rocm_attn.backends import select as as_the_release

class Fork:
    def select(self, request, environ, gpu):
        return as_the_release(request, Flags(environ), gpu, "0.12")

    def refresh(self):
        return True

fork = Fork()
"""
CROSS = "rocm-attn::upstream::attention-types[gfx942]"


def compare(folder: pytest.Pytester, selector: str, *options: str) -> pytest.RunResult:
    folder.makepyfile(fork_of_it=selector)
    return folder.runpytest_inprocess(
        *("--rocm-attn-conformance", "-p", "no:randomly", "--rocm-attn-upstream=0.12.0"),
        *("--rocm-attn-selector=fork_of_it.py:fork", "--rocm-attn-report=report.json", *options),
    )


def rows(folder: pytest.Pytester) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder.path / "report.json").read_text())["rows"]
    return [row for row in found if row["tier"] == "documented"]


def verdicts(folder: pytest.Pytester) -> dict[str, str]:
    return {f"{row['id']}[{row['gpu']['gfx']}]": row["verdict"] for row in rows(folder)}


def test_a_fork_inherits_what_its_release_has_and_nothing_of_it_fails(
    folder: pytest.Pytester,
) -> None:
    result = run(folder, "--rocm-attn-upstream=0.33.0")
    assert result.ret == pytest.ExitCode.OK
    assert verdicts(folder) == {
        "plain[gfx942]": "pass",
        "plain[gfx1201]": "pass",
        "named-rocm-attn[gfx942]": "pass",
        "named-flex-attention[gfx942]": "inherited-defect",
        "better[gfx942]": "advice",
        "as-coded[gfx942]": "differs",
    }
    result.stdout.fnmatch_lines(
        [
            "rocm-attn: contract aged (3 required and 2 other rows)",
            "rocm-attn: judged by vLLM 0.33.0 (as --rocm-attn-upstream says)",
            "rocm-attn: upstream changed 1 promise of earlier releases on purpose (1 by #2)",
            "Answers like unmodified vLLM 0.33.0 except in 1 of 6 items.",
            "Inherits 1 known defect of vLLM 0.33.0 (1 item).",
        ]
    )
    result.stdout.fnmatch_lines(["*FLEX_ATTENTION is passed over when it is named*"])


def test_a_run_that_names_no_tier_compares_cells_with_what_the_release_answered(
    folder: pytest.Pytester,
) -> None:
    result = compare(folder, UNMODIFIED, CROSS)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "rocm-attn: up to * cells of the grid are compared with the recording vllm-0.12.0",
            "Answers like unmodified vLLM 0.12.0 in all 2,688 cells that were compared.",
        ]
    )
    changed = UNMODIFIED.replace(
        "        return as_",
        """        if request.attn_type == "encoder_only" and not request.use_mla and not environ:
            return "FLEX_ATTENTION"
        return as_""",
    )
    result = compare(folder, changed, CROSS)
    assert result.ret == pytest.ExitCode.OK, "nothing promises it"
    result.stdout.fnmatch_lines(
        [
            "Answers like unmodified vLLM 0.12.0 except in 4 of 2,688 cells (1 cause).",
            "DIFFERS   Default *: TRITON_ATTN -> FLEX_ATTENTION, * [[]4 cells]",
        ]
    )
    (row,) = json.loads((folder.path / "report.json").read_text())["rows"]
    assert (row["verdict"], row["level"]) == ("differs", "observed")
    result = compare(folder, changed.replace('return "FLEX_ATTENTION"', "1 / 0"), CROSS)
    assert result.ret == pytest.ExitCode.TESTS_FAILED, "a crash is no answer"
    result.stdout.fnmatch_lines(["FAIL*ZeroDivisionError*"])


def test_cells_are_compared_only_if_their_release_is_recorded_and_no_tier_is_named(
    folder: pytest.Pytester,
) -> None:
    def tiers(*options: str) -> set[str]:
        listed = compare(folder, UNMODIFIED, "--collect-only", "-q", *options).outlines
        return {line.split("::")[1] for line in listed if line.startswith("rocm-attn::")}

    assert tiers() == {"documented", "upstream"}
    assert tiers("--rocm-attn-tier=documented") == {"documented"}
    assert tiers("--rocm-attn-contract=pr-26980") == {"documented"}
    assert tiers("--rocm-attn-upstream=0.10.0") == {"documented"}
    result = compare(folder, UNMODIFIED, "--rocm-attn-tier=upstream", "--rocm-attn-upstream=0.10.0")
    result.stdout.fnmatch_lines(
        ["rocm-attn: no recording of vLLM 0.10.0 ships, so cells are not compared with it"]
    )


def test_a_defect_of_the_release_is_inherited_in_whichever_tier_it_shows(
    folder: pytest.Pytester,
) -> None:
    law = "rocm-attn::invariants::an-explicit-choice-is-taken-or-refused-never-replaced[gfx942]"
    options = ("--rocm-attn-tier=invariants", "--rocm-attn-strict", law)
    result = run(folder, "--rocm-attn-upstream=0.33", *options)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        ["INHERITED-DEFECT A backend that is named is passed over, vllm-project/vllm#4 [[]1 item]"]
    )
    assert run(folder, *options).ret == pytest.ExitCode.TESTS_FAILED, "no release's fork"


def test_a_selector_that_descends_from_no_release_is_not_excused(folder: pytest.Pytester) -> None:
    result = run(folder)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["rocm-attn: judged by vLLM 0.12.0 (*"])
    found = verdicts(folder)
    assert found["plain[gfx942]"] == found["named-flex-attention[gfx942]"] == "fail"


def test_a_change_that_must_hold_is_lost_when_upstream_answers_again(
    folder: pytest.Pytester,
) -> None:
    folder.makefile(".toml", dev=DEVIATIONS)
    result = run(folder, "--rocm-attn-upstream=0.33", "--rocm-attn-deviations=dev.toml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert verdicts(folder)["plain[gfx1201]"] == "lost-delta"
    (lost,) = [row for row in rows(folder) if row["verdict"] == "lost-delta"]
    assert "says that ROCM_ATTN must hold (it is faster there, #1), but" in lost["message"]
    result.stdout.fnmatch_lines(["Has lost changes of its own that must hold, in 1 item."])


def test_github_actions_gets_annotations_on_the_file_of_the_selector(
    folder: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.makepyfile(mine="def select(request, environ, gpu):\n    return 'ROCM_ATTN'\n")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(folder.path))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    lines = run(folder, "--rocm-attn-upstream=0.33.0").outlines
    shown = [line for line in lines if line.startswith("::")]
    assert shown[0].startswith("::error file=mine.py,line=1,title=ROCm attention%3A fail [")
    monkeypatch.delenv("GITHUB_ACTIONS")
    run(folder, "--rocm-attn-upstream=0.33.0").stdout.no_fnmatch_line("::*")
