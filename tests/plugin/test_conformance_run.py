"""``python -m pytest --rocm-attn-conformance`` as a user meets it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

# Imported here so that the in-process runs below, each of which forgets what it imported, share one
# copy: a package keeps a forgotten submodule as an attribute, and msgspec looks it up by its name.
from pytest_rocm_attn.conformance.promise import contract, deviations
from pytest_rocm_attn.conformance.run import session

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., pytest.RunResult]

pytestmark = pytest.mark.usefixtures("without_torch")

CONTRACT = """
id = "mini"
title = "a contract of three rows"
source = "this test"
[[case]]
id = "triton-is-the-default"
source = "s"
level = "required"
platform = { gfx = ["gfx942", "gfx1201"] }
expect = { backend = "TRITON_ATTN" }
[[case]]
id = "aiter-is-ignored"
source = "s"
level = "required"
platform = { gfx = "gfx942" }
env = { VLLM_ROCM_USE_AITER = "1" }
expect = { backend = "TRITON_ATTN" }
[[case]]
id = "fp16-is-flex"
source = "s"
level = "advisory"
platform = { gfx = "gfx942" }
request = { dtype = "fp16" }
expect = { backend = "FLEX_ATTENTION" }
"""
FAILING = "rocm-attn::documented::aiter-is-ignored[gfx942]"


_KEPT = (contract, deviations, session)


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """A function that runs the three-row contract against the reference, with more options."""
    pytester.makefile(".toml", contract=CONTRACT)

    def run(*options: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess(
            "--rocm-attn-conformance",
            "--rocm-attn-contract=contract.toml",
            "-p",
            "no:randomly",
            *options,
        )

    return run


def test_a_run_ends_in_one_screen_that_pytests_sections_do_not_repeat(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_own="def test_of_the_suite():\n    assert 'the suite' == ''\n")
    suite = ["test_own.py", "rocm-attn"]
    result = run(*suite)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*= FAILURES =*",
            "FAILED test_own.py::test_of_the_suite*",
            "*= ROCm attention conformance =*",
            "4 items: 2 pass, 1 fail, 1 advisory (contract mini*",
            "FAIL *AITER=1*TRITON_ATTN -> ROCM_AITER_FA* [[]1 item[]]",
            "  where  VLLM_ROCM_USE_AITER=1; gfx942, aiter present; a plain layer",
            "  why    aiter-is-ignored: expected TRITON_ATTN (*)",
            "  show   python -m pytest --rocm*aiter-is-ignored?gfx942?'",
            "ADVISORY *",
            "  show   python -m pytest *fp16-is-flex*",
            "*2 failed, 2 passed, 1 advisory*",
        ]
    )
    for line in ("FAILED rocm-attn*", "*aiter-is-ignored* | *", "gfx942  gfx1201*"):
        result.stdout.no_fnmatch_line(line)
    assert "FAILED rocm-attn" in str(run("-rf").stdout)
    told = run("-vv").stdout
    told.fnmatch_lines(
        [
            "gfx942  gfx1201  required rows",
            "*F*aiter-is-ignored",
            "FAIL *aiter-is-ignored?gfx942? | VLLM_ROCM_USE_AITER=1 |*got ROCM_AITER_FA*python*",
        ]
    )
    told.no_fnmatch_line("FAILED rocm-attn*-*")
    # What is asked for alone, or with a style of traceback, is pytest's to show.
    for options in ((FAILING,), ("--tb=short",)):
        run(*options).stdout.fnmatch_lines(["*FAILURES*", "  verdict  fail"])


def test_a_row_is_selected_by_its_node_id_and_by_keyword(run: Run) -> None:
    assert run(FAILING).parseoutcomes() == {"failed": 1}
    assert run("-k", "gfx1201").parseoutcomes() == {"passed": 1, "deselected": 3}
    assert run("--deselect", FAILING).parseoutcomes()["passed"] == 2


def test_last_failed_runs_the_failed_row_alone(run: Run) -> None:
    run()
    assert run("--lf").parseoutcomes() == {"failed": 1, "deselected": 3}


def test_strict_makes_advisory_rows_fail(run: Run) -> None:
    assert run("--rocm-attn-strict").parseoutcomes() == {"failed": 2, "passed": 2}


def test_the_json_report_holds_every_cell(run: Run, pytester: pytest.Pytester) -> None:
    run("--rocm-attn-report=out.json")
    report = json.loads((pytester.path / "out.json").read_text())
    assert report["schema"] == 1
    assert report["totals"] == {"advisory": 1, "fail": 1, "pass": 2}
    (failed,) = (row for row in report["rows"] if row["verdict"] == "fail")
    assert failed["env"] == {"VLLM_ROCM_USE_AITER": "1"}
    assert failed["outcome"]["backend"] == "ROCM_AITER_FA"


def test_a_declared_deviation_passes_and_an_unused_one_fails(
    run: Run,
    pytester: pytest.Pytester,
) -> None:
    text = ENTRY.format("aiter-is-ignored") + ENTRY.format("no-such-row")
    (pytester.path / "dev.toml").write_text(text)
    result = run("--rocm-attn-deviations=dev.toml")
    assert result.parseoutcomes() == {"failed": 1, "passed": 3, "deviation": 1, "advisory": 1}
    result.stdout.fnmatch_lines(["*dev.toml:6: 'no-such-row' matches nothing of contract mini*"])


ENTRY = '[[deviation]]\nmatch = "{}"\nanswer = "ROCM_AITER_FA"\nreason = "ours"\nlink = "#1"\n'


def test_the_usual_file_in_the_root_folder_is_found_unless_switched_off(
    run: Run, pytester: pytest.Pytester
) -> None:
    text = ENTRY.format("documented::aiter-is-ignored[gfx942]")
    (pytester.path / "rocm-attn-deviations.toml").write_text(text)
    result = run()
    assert result.parseoutcomes() == {"passed": 3, "deviation": 1, "advisory": 1}
    result.stdout.fnmatch_lines(["rocm-attn: 1 declared deviations (*rocm-attn-deviations.toml)"])
    assert run("--rocm-attn-deviations=").parseoutcomes()["failed"] == 1


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (ENTRY.format("triton-is-the-default"), "d.toml:1 declares ROCM_AITER_FA for it"),
        (
            ENTRY.format("grid::aiter-is-ignored"),
            "d.toml:1: 'grid::aiter-is-ignored' matches nothing",
        ),
        (ENTRY.format("aiter-is-ignored") + "until = 2020-01-31\n", "d.toml:1: * expired on 2020"),
    ],
    ids=["stale", "unused", "expired"],
)
def test_an_entry_that_holds_no_longer_fails_and_says_which_line_to_delete(
    run: Run, pytester: pytest.Pytester, entry: str, words: str
) -> None:
    (pytester.path / "d.toml").write_text(entry)
    result = run("--rocm-attn-deviations=d.toml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"*{words}*"])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="one process"),
        pytest.param(["-n", "2"], id="xdist", marks=pytest.mark.slow),
    ],
)
def test_a_draft_is_refused_until_filled_in_and_then_covers_what_failed(
    run: Run, pytester: pytest.Pytester, options: list[str]
) -> None:
    draft = pytester.path / "draft.toml"
    drafted = run("--rocm-attn-deviations-draft=draft.toml", *options)
    assert drafted.ret == pytest.ExitCode.TESTS_FAILED
    drafted.stdout.fnmatch_lines(["4 items: 2 pass, 1 fail, 1 advisory (contract mini*"])
    text = draft.read_text()
    assert 'match  = "documented::aiter-is-ignored"' in text
    assert "# 1 item: AITER=1: TRITON_ATTN -> ROCM_AITER_FA, on gfx942." in text
    assert 'answer = "ROCM_AITER_FA"' in text
    assert text.count("[[deviation]]") == 1  # neither what passed nor what is advisory

    refused = run("--rocm-attn-deviations=draft.toml")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(
        ["ERROR: *draft.toml: entry 1 (line 5): reason: is empty; say why*"]
    )

    filled = text.replace('reason = ""', 'reason = "ours"').replace('link   = ""', 'link = "#1"')
    draft.write_text(filled)
    assert run("--rocm-attn-deviations=draft.toml").ret == pytest.ExitCode.OK
    again = run("--rocm-attn-deviations-draft=draft.toml")
    assert again.ret == pytest.ExitCode.USAGE_ERROR
    assert draft.read_text() == filled


def test_a_draft_goes_below_the_comments_of_a_file_that_declares_nothing(
    run: Run, pytester: pytest.Pytester
) -> None:
    usual = pytester.path / "rocm-attn-deviations.toml"
    usual.write_text("# ours\n# nothing yet\n")
    draft = "--rocm-attn-deviations-draft=rocm-attn-deviations.toml"
    assert run(draft).ret == pytest.ExitCode.TESTS_FAILED
    # So it does if the options name a file that is yet to be made.
    new = ("--rocm-attn-deviations=new.toml", "--rocm-attn-deviations-draft=new.toml")
    assert run(*new).ret == pytest.ExitCode.TESTS_FAILED
    assert "[[deviation]]" in (pytester.path / "new.toml").read_text()
    text = usual.read_text()
    assert text.startswith("# ours\n# nothing yet\n\n# Drafted by pytest-rocm-attn, 1 entry.")
    usual.write_text(text.replace('reason = ""', 'reason = "r"').replace('""', '"#1"'))
    assert run().parseoutcomes() == {"passed": 3, "deviation": 1, "advisory": 1}


def test_a_draft_leaves_alone_what_is_not_an_empty_deviations_file(
    run: Run, pytester: pytest.Pytester
) -> None:
    for number, text in enumerate((ENTRY.format("x"), "notes of mine\n", "[other]\n")):
        file = pytester.path / f"mine-{number}.toml"
        file.write_text(text)
        result = run(f"--rocm-attn-deviations-draft={file.name}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: *{file.name} exists already*; name a new file"])
        assert file.read_text() == text


def test_whether_an_entry_is_unused_does_not_depend_on_what_is_installed_or_selected(
    run: Run, pytester: pytest.Pytester
) -> None:
    """Without hypothesis, with a pure selector, with other backends, for one GPU and one tier."""
    names = (
        "invariants::every-refusal-*",
        "capabilities::sinks-build-by-default",
        "numerics::MINE::*",
        "numerics::YOURS::sinks-float16",
        "launch::TRITON_ATTN::*[gfx1101]",
        "grid::mla[gfx1201]",
    )
    (pytester.path / "d.toml").write_text("".join(map(ENTRY.format, names)))
    pytester.makepyfile(
        hidden="""
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: (
            None if name == "hypothesis" else find(name, *rest)
        )
        """
    )
    options = ("--rocm-attn-deviations=d.toml", "--rocm-attn-gpu=gfx942", "rocm-attn::deviations")
    there = run(*options, "-rs")
    assert there.parseoutcomes() == {"passed": 4, "skipped": 2}
    there.stdout.fnmatch_lines(["*d.toml:*: not checked: 'numerics::MINE::*"])
    there.stdout.fnmatch_lines(
        ["*deviations: 2 patterns were not checked: they may name items of*"]
    )
    result = pytester.runpytest_subprocess(
        *("-p", "hidden", "-p", "no:randomly", "-p", "no:xdist"),
        "--rocm-attn-conformance",
        "--rocm-attn-contract=contract.toml",
        *options,
    )
    assert result.parseoutcomes() == {"passed": 3, "skipped": 3}


def test_a_pattern_that_no_tier_could_ever_match_is_unused_whatever_is_planned(
    run: Run, pytester: pytest.Pytester
) -> None:
    names = (
        "documented::no-such-row",
        "grid::no-such-family",
        "numerics::TRITON_ATTN::no-such-case",
        "capabilities::no-such-*",
        "invariants::no-such-law",
    )
    (pytester.path / "d.toml").write_text("".join(map(ENTRY.format, names)))
    result = run("--rocm-attn-deviations=d.toml", "rocm-attn::deviations")
    assert result.parseoutcomes() == {"failed": len(names)}


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--rocm-attn-selector=no_such_module_x:f", "cannot be imported: ModuleNotFoundError"),
        ("--rocm-attn-selector=json:loads", "is not a selector"),
        ("--rocm-attn-contract=pr-2698", "no contract 'pr-2698'"),
        ("--rocm-attn-tier=docmented", "'docmented' is not a tier. Did you mean 'documented'?"),
        ("--rocm-attn-tier=,", "'' is not a tier"),
        ("--rocm-attn-gpu=gfx94x", "unknown GPU 'gfx94x'. Did you mean 'gfx942'"),
        ("--rocm-attn-gpu=gfx1030", "has no rows for gfx1030"),
        ("--rocm-attn-timeout=soon", "expected a positive number of seconds"),
        ("--rocm-attn-report=out.txt", "the suffix chooses the format"),
        ("--rocm-attn-report=nowhere/out.json", "is not a folder"),
        ("--rocm-attn-deviations=none.toml", "none.toml"),
        ("rocm-attn::documented::aiter-is-ignore[gfx942]", "no such row"),
    ],
)
def test_bad_input_is_one_line_and_a_usage_error(
    run: Run,
    option: str,
    words: str,
) -> None:
    result = run(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    errors = [line for line in result.errlines if line.startswith("ERROR: ")]
    assert len(errors) == 1
    assert words in errors[0]
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


ADAPTER = """
class Reversed:
    def select(self, request, environ, gpu):
        return "FLEX_ATTENTION" if request.dtype == "float16" else "TRITON_ATTN"

def pytest_rocm_attn_selector(config):
    return Reversed
"""


def test_a_selector_class_in_the_conftest_is_found_through_the_hook(
    run: Run,
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(ADAPTER)
    assert run().parseoutcomes() == {"passed": 4}


def test_last_failed_runs_the_failed_row_alone_under_xdist_too(run: Run) -> None:
    run()
    assert run("-n", "2", "--lf").parseoutcomes() == {"failed": 1}


def test_exitfirst_stops_at_the_first_row_that_fails(run: Run) -> None:
    result = run("-x", "--rocm-attn-strict")
    assert result.parseoutcomes()["failed"] == 1  # of the two that fail otherwise
    result.stdout.fnmatch_lines(["*stopping after 1 failures*"])


# What a selector does, the verdict on a row that expects TRITON_ATTN, and what the row's message says.
CLASSES = "vllm.v1.attention.backends.triton_attn"
ANSWERS = {
    "name": ("return 'TRITON_ATTN'", "pass", ""),
    "another": ("return 'ROCM_ATTN'", "fail", "got ROCM_ATTN"),
    "enum": ("return enum.Enum('E', 'TRITON_ATTN').TRITON_ATTN", "pass", ""),
    "class-path": (f"return '{CLASSES}.TritonAttentionBackend'", "pass", ""),
    "none": ("return None", "fail", "None"),
    "wrong-class-path": (f"return '{CLASSES}.Nope'", "fail", f"'{CLASSES}.Nope'"),
    "import-error": ("raise ImportError('no module aiter')", "crash", "ImportError"),
}


def test_an_answer_of_any_kind_is_judged_for_what_it_is(
    run: Run, pytester: pytest.Pytester
) -> None:
    contract, selector = 'id = "mini"\ntitle = "t"\nsource = "s"\n', "import enum\n"
    selector += "def select(request):\n"
    for number, (name, (statement, _, _)) in enumerate(ANSWERS.items(), 1):
        size = 16 * number
        contract += f'[[case]]\nid = "{name}"\nsource = "s"\nlevel = "required"\n'
        contract += f'platform = {{ gfx = "gfx942" }}\nrequest = {{ block_size = {size} }}\n'
        contract += 'expect = { backend = "TRITON_ATTN" }\n'
        selector += f"    if request.block_size == {size}: {statement}\n"
    pytester.makepyfile(selector=selector)
    pytester.makefile(".toml", answers=contract)
    run(
        "--rocm-attn-contract=answers.toml",
        "--rocm-attn-selector=selector.py:select",
        "--rocm-attn-report=out.json",
    )
    rows = json.loads((pytester.path / "out.json").read_text())["rows"]
    judged = {row["id"]: (row["verdict"], row["message"]) for row in rows}
    assert set(judged) == set(ANSWERS)
    for name, (_, verdict, words) in ANSWERS.items():
        assert judged[name][0] == verdict, (name, judged[name])
        assert words in judged[name][1], (name, judged[name])


def test_a_selector_that_writes_to_the_environment_is_reported(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        selector="""
        import os
        def select(request):
            os.environ["LEFT_BEHIND"] = "1"
            return "TRITON_ATTN"
        """
    )
    result = run("--rocm-attn-selector=selector.py:select")
    result.stdout.fnmatch_lines(["*LEFT_BEHIND*"])
    assert "LEFT_BEHIND" not in os.environ


def test_a_torch_that_takes_its_process_down_is_said_in_one_line(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        torch="import os; os.kill(os.getpid(), 11)",
        selector="def select(request): return 'TRITON_ATTN'",
    )
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    done = pytester.runpytest_subprocess(
        "--rocm-attn-conformance", "--rocm-attn-selector=selector.py:select", "-p", "no:randomly"
    )
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["ERROR: *SIGSEGV (11) while it imported torch; try *"])
    done.stdout.no_fnmatch_line("*INTERNALERROR*")
