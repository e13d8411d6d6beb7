"""The table of options: what --help lists, what is checked, and what a printed command repeats."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_rocm_attn import options

# One copy for all in-process runs; see test_conformance_run.py.
from pytest_rocm_attn.conformance.promise import contract, deviations
from pytest_rocm_attn.conformance.run import session
from pytest_rocm_attn.conformance.tiers import TIERS
from pytest_rocm_attn.gpu import known_gpus

_KEPT = (contract, deviations, session)
BY_NAME = options.BY_NAME

CONTRACT = """
id = "mini"
title = "a contract of two rows"
source = "this test"
[[case]]
id = "triton-is-the-default"
source = "s"
level = "advisory"
platform = { gfx = ["gfx942", "gfx1201"] }
expect = { backend = "TRITON_ATTN" }
"""
# Answers another backend than the row expects, and says on what platform it runs.
SELECTOR = """
def select(request, environ, gpu):
    raise ValueError(f"no backend of ours serves this request on {gpu.gfx}")
"""
# A value for each option on which a verdict can depend, and with it the files of write_files().
# An option without one fails the tests below.
REPEATED = {
    "selector": "ours.platform:select",
    "backends": "MINE=ours.platform:Backend",
    "contract": "our contract.toml",
    "upstream": "0.33.0",
    "deviations": "it's.toml",
    "gpu": "gfx942,gfx1201",
    "timeout": "29",
    "baseline": "vllm-0.18.1",
    "against": "ours.platform:select",
    "servers": "our servers.toml",
    "isolation": "process",
    "mock": "gfx942,aiter",
    "strict": True,
    "seed": "3",
    "examples": "7",
    "budget": "1000",
    "grid-budget": "1000",
    "compile-timeout": "600",
    "fresh": True,
}
INVALID = {
    "selector": ("", "nonsense", "module:"),
    "backends": ("", "nonsense", "a=m:x,a=m:y"),
    "contract": ("",),
    "upstream": ("", "newest", "0"),
    "deviations-draft": ("",),
    "tier": ("", ",", "docmented", "documented,gird"),
    "gpu": ("", ",", "gfx1310", "MI3000X", "gfx942,gfx9"),
    "timeout": ("", "0", "-1", "soon", "nan", "inf"),
    "baseline": ("",),
    "against": ("", "nonsense"),
    "servers": ("",),
    "isolation": ("", "Fork", "thread"),
    "mock": ("", "gfx1310", "gfx942,aiters"),
    "emulate": ("", "gfx1310", "gfx942,aiters"),
    "report": ("",),
    "seed": ("", "-1", "x", "1.5"),
    "examples": ("", "0", "many"),
    "budget": ("", "0", "nan", "soon"),
    "example": ("", "{", "[]", "1"),
    "grid-budget": ("", "0", "-5"),
    "compile-timeout": ("", "0", "long"),
    "cell": ("", "-1", "x"),
}
ANY_TEXT = {"deviations"}  # a file's name, or nothing at all
SWITCHES = {option.name for option in options.OPTIONS if option.is_switch}


def write_files(folder: Path) -> None:
    (folder / "ours").mkdir()
    (folder / "ours" / "__init__.py").touch()
    (folder / "ours" / "platform.py").write_text(SELECTOR)
    (folder / "our contract.toml").write_text(CONTRACT)
    (folder / "it's.toml").write_text("# none\n")
    # The process that asks a selector imports torch ahead of it, which takes longer than these tests do.
    (folder / "torch.py").write_text("raise ImportError('torch is hidden from this test')\n")


def spelled(values: dict[str, Any], *, as_ini: bool) -> list[str]:
    """Options on a command line: as such, or as ini settings."""
    if not as_ini:
        return options.words(values)
    return [word for n, v in values.items() for word in ("-o", f"{BY_NAME[n].ini}={v}")]


# --- the table ------------------------------------------------------------------------------------


def test_every_option_is_of_the_table_and_has_an_ini_twin(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfig()
    declared = {name for name in vars(config.option) if name.startswith("rocm_attn")}
    assert declared == {option.ini for option in options.OPTIONS} | {"rocm_attn_conformance"}
    for option in options.OPTIONS:
        assert config.getini(option.ini) is None


def test_help_explains_each_option_once_and_lists_its_values(pytester: pytest.Pytester) -> None:
    told = pytester.runpytest_inprocess("--help").stdout.str()
    line, _, inis = told.partition("\n[pytest] ")
    section = line[line.index("ROCm attention backends:") :]
    section = section[: section.index("\n\n")] if "\n\n" in section else section
    flags = set(re.findall(r"^  (--rocm-attn-[a-z-]+)", section, re.MULTILINE))
    listed = {option.flag for option in options.OPTIONS if option.listed}
    assert flags == listed | {"--rocm-attn-conformance"}
    assert len(flags) <= 16
    assert {option.ini for option in options.OPTIONS} <= set(re.findall(r"rocm_attn_\w+", inis))
    for name in TIERS:
        assert name in BY_NAME["tier"].help
    for name in known_gpus():
        assert name in BY_NAME["gpu"].help
    assert set(options.TIERS) == set(TIERS)
    assert not set(BY_NAME) - set(INVALID) - ANY_TEXT - SWITCHES


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_value_is_refused_in_one_line_that_says_what_is_expected(
    pytester: pytest.Pytester, name: str
) -> None:
    option = BY_NAME[name]
    for text in INVALID[name]:
        for as_ini in (False, True):
            if as_ini and not text:
                continue  # which is how an ini file unsets one
            with pytest.raises(pytest.UsageError) as caught:
                options.check(pytester.parseconfig(*spelled({name: text}, as_ini=as_ini)))
            where = option.ini if as_ini else option.flag
            start = f"{where}={text!r} is invalid; expected {option.expected}"
            assert str(caught.value).startswith(start)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(SWITCHES))
def test_a_switch_that_an_ini_file_misspells_is_refused(
    pytester: pytest.Pytester, name: str
) -> None:
    config = pytester.parseconfig(*spelled({name: "perhaps"}, as_ini=True))
    with pytest.raises(
        pytest.UsageError, match=f"{BY_NAME[name].ini} is invalid; expected true or false"
    ):
        options.check(config)


def test_values_are_checked_whether_or_not_the_matrix_runs(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--rocm-attn-timeout=soon")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --rocm-attn-timeout='soon' is invalid; expected *"])


def test_an_empty_mock_is_refused_before_anything_is_imported(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("raise RuntimeError('imported')")
    result = pytester.runpytest_inprocess("--rocm-attn-mock=")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --rocm-attn-mock='' is invalid; expected a GPU*"])


# --- the printed command --------------------------------------------------------------------------


def test_every_option_says_whether_a_verdict_can_depend_on_it() -> None:
    by_class = {
        kind: {option.name for option in options.OPTIONS if option.again == kind}
        for kind in ("repeated", "item", "left out")
    }
    # A run is mocked or emulated, never both.
    assert by_class["repeated"] == set(REPEATED) | {"emulate"}
    # Each item states its own; test_invariants_run.py, test_grid_run.py and the runs below.
    assert by_class["item"] == {"tier", "example", "cell"}
    assert by_class["left out"] == {"report", "deviations-draft"}
    assert sum(map(len, by_class.values())) == len(options.OPTIONS)


def ran(folder: Path, *words: str) -> dict[str, Any]:
    """Run pytest as a user does in a checkout that is not installed; return the report."""
    found = shlex.join(words)
    return shell(folder, f"python -m pytest --rocm-attn-conformance {found}")


def shell(folder: Path, command: str) -> dict[str, Any]:
    """Run a command as it is pasted into a shell; return the report."""
    environ = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }
    environ.pop("PYTHONPATH", None)
    report = folder / "report of this run.json"
    report.unlink(missing_ok=True)
    done = subprocess.run(
        f"{command} {shlex.quote(f'--rocm-attn-report={report}')}",
        shell=True,
        check=False,
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def failing(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in report["rows"] if row["verdict"] in ("fail", "crash")]


def alike(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return [first[n] for n in ("id", "verdict", "message", "again")] == [
        second[n] for n in ("id", "verdict", "message", "again")
    ]


@pytest.mark.parametrize(
    ("other", "as_ini"),  # baseline and against exclude each other
    [
        pytest.param("baseline", False, id="command line"),
        pytest.param("against", True, id="ini settings"),
        pytest.param("baseline", True, id="ini settings, a baseline", marks=pytest.mark.slow),
        pytest.param("against", False, id="command line, another", marks=pytest.mark.slow),
    ],
)
def test_the_printed_command_carries_every_option_and_repeats_the_verdict(
    tmp_path: Path, other: str, as_ini: bool
) -> None:
    write_files(tmp_path)
    alone = ("baseline", "against", "servers")  # the last is of a tier that starts servers
    values = {name: v for name, v in REPEATED.items() if name not in alone}
    values[other] = REPEATED[other]
    report = ran(tmp_path, *spelled(values, as_ini=as_ini))
    assert set(report["settings"]) == {o.name for o in options.OPTIONS if o.reported}
    assert report["settings"]["timeout"] == 29.0
    assert report["settings"]["gpu"] == ["gfx942", "gfx1201"]
    first, second = failing(report)
    assert {first["gpu"]["gfx"], second["gpu"]["gfx"]} == {"gfx942", "gfx1201"}
    words = shlex.split(first["again"])
    assert words[:3] == ["python", "-m", "pytest"]
    carried = spelled(values, as_ini=as_ini)
    assert [word for word in words if word in carried] == carried
    (again,) = failing(shell(tmp_path, first["again"]))
    assert alike(again, first)


def test_workers_of_xdist_print_the_command_that_the_user_gave(tmp_path: Path) -> None:
    write_files(tmp_path)
    given: tuple[str, ...] = (
        "-p",
        "no:randomly",
        "-o",
        "rocm_attn_strict=true",
        "--rocm-attn-selector=ours.platform:select",
    )
    given += ("--rocm-attn-contract=our contract.toml",)
    alone, many = ran(tmp_path, *given), ran(tmp_path, *given, "-n", "1")
    assert len(failing(alone)) == 2
    assert [row["again"] for row in failing(alone)] == [row["again"] for row in failing(many)]


def test_the_command_says_which_settings_and_conftest_a_named_folder_gave(tmp_path: Path) -> None:
    """A command that names an item names no folder, near which pytest would look for them."""
    write_files(tmp_path)
    folder = tmp_path / "qa"
    folder.mkdir()
    (folder / "pytest.ini").write_text(
        "[pytest]\nrocm_attn_strict = true\nrocm_attn_contract = our contract.toml\n"
    )
    (folder / "conftest.py").write_text(
        "class Fork:\n    def select(self, request, environ, gpu):\n        raise ValueError('none')\n"
        "def pytest_rocm_attn_selector(config):\n    return Fork\n"
    )
    report = ran(tmp_path, "qa")
    first, _ = failing(report)
    (again,) = failing(shell(tmp_path, first["again"]))
    assert [again[n] for n in ("id", "verdict", "message")] == [
        first[n] for n in ("id", "verdict", "message")
    ]


# --- nothing to run ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            "--rocm-attn-tier=invariants --rocm-attn-gpu=gfx1030",
            "no rows for gfx1030, so that tier invariants has nothing to run there; it covers *gfx942*",
        ),
        ("--rocm-attn-tier=capabilities --rocm-attn-gpu=gfx942,gfx1030", "no rows for gfx1030, *"),
        ("--rocm-attn-tier=launch,invariants --rocm-attn-gpu=gfx1030", "no rows for gfx1030, *"),
        (
            "--rocm-attn-cell=3",
            "cell is about tier grid or upstream, which this run does not have; add *=grid",
        ),
        ("--rocm-attn-example={}", "about tier invariants or numerics, * add *=invariants"),
    ],
)
def test_a_run_that_could_run_nothing_says_why_in_one_line(
    pytester: pytest.Pytester, words: str, reason: str
) -> None:
    result = pytester.runpytest_inprocess("--rocm-attn-conformance", *words.split())
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    errors = [line for line in result.errlines if line.startswith("ERROR: ")]
    assert len(errors) == 1
    result.stderr.fnmatch_lines([f"ERROR: *{reason}"])


def test_a_product_stands_for_its_target(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfig("--rocm-attn-gpu=MI300X, rx 9070 xt,gfx942")
    assert options.value(config, "gpu") == ("gfx942", "gfx1201")
    result = pytester.runpytest_subprocess("--rocm-attn-mock=MI355X", "--co")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED, result.stderr.str()
