"""The repository's own workflows: careful, and each line that they run works as far as it can here.

CI also runs actionlint over them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML: pip install --group test")

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([\w./-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


def load(path: Path) -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(path.read_text())
    return loaded


def jobs() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{path.stem}/{name}", job)
        for path in WORKFLOWS
        for name, job in load(path)["jobs"].items()
    ]


def scripts() -> dict[str, str]:
    """Return each script that a step runs, by its place."""
    return {
        f"{name}/{number}": step["run"]
        for name, job in jobs()
        for number, step in enumerate(job["steps"])
        if "run" in step
    }


# --- careful ------------------------------------------------------------------------------------------


def test_a_workflow_may_only_read_unless_a_job_says_what_it_writes() -> None:
    assert [path.stem for path in WORKFLOWS] == ["nightly", "release", "tests"]
    for path in WORKFLOWS:
        assert load(path)["permissions"] == {"contents": "read"}
        assert "pull_request_target" not in load(path)[True]  # YAML reads the key "on" as true
        assert "secrets." not in path.read_text()
    writing = {
        name: {right for right, kind in job["permissions"].items() if kind == "write"}
        for name, job in jobs()
        if "permissions" in job
    }
    assert writing == {
        "nightly/unknown": {"issues"},
        "release/publish": {"id-token"},
        "release/announce": {"contents"},
    }


def test_every_job_ends_by_itself_and_uses_actions_of_a_named_version() -> None:
    for name, job in jobs():
        assert job["timeout-minutes"] <= 360, name
        used = [step["uses"] for step in job["steps"] if "uses" in step]
        assert all(re.search(r"@(v\d|release/v\d)", action) for action in used), (name, used)


def test_the_tests_run_on_every_python_that_the_package_claims() -> None:
    matrix = load(GITHUB / "workflows" / "tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    claimed = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert matrix["python"] == claimed
    assert matrix["pytest"] == ["pytest==8.*", "pytest==9.*"]


# --- each line ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", scripts())
def test_a_script_pastes_in_nothing_and_is_legal_shell(place: str) -> None:
    script = scripts()[place]
    assert "${{" not in script
    if shutil.which("bash") is None:
        pytest.skip("bash is not here")
    checked = subprocess.run(
        ["bash", "-n"], input=script, text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("place", scripts())
def test_a_script_names_only_targets_and_files_that_exist(place: str) -> None:
    script = scripts()[place]
    for words in re.findall(r"^ *make (?:-C \S+ )?([\w./ -]+)$", script, re.MULTILINE):
        assert set(words.split()) <= TARGETS, words
    named = re.findall(r"(?<![\w/])((?:tools|docs|\.github)/[\w./-]+)", script)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_make_knows_what_each_target_does() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not here")
    words = [w for s in scripts().values() for w in re.findall(r"\bmake (?:-C \S+ )?(.+)", s)]
    assert words
    for targets in words:
        shown = subprocess.run(
            ["make", "--dry-run", *targets.split()],
            cwd=ROOT,
            text=True,
            capture_output=True,
            check=False,
        )
        assert shown.returncode == 0, shown.stderr


RELEASED = """# Changelog

## Unreleased

## 0.1.0 (2027-01-05)

### Added

- Added it all.

## 0.0.9 (2026-12-01)

- Older.
"""


def test_a_tag_is_released_with_its_section_of_the_changelog(
    script: Callable[[str], Any],
) -> None:
    notes = script("tools/release.py").notes
    assert notes("v0.1.0", "0.1.0", RELEASED) == "### Added\n\n- Added it all.\n"


@pytest.mark.parametrize(
    ("tag", "version", "changelog", "words"),
    [
        ("v0.1.1", "0.1.0", RELEASED, "the tag is v0.1.1 and pyproject.toml has version 0.1.0"),
        ("v0.2.0", "0.2.0", RELEASED, "no section '## 0.2.0"),
        ("v0.1.0", "0.1.0", RELEASED.replace(" (2027-01-05)", ""), "has no date"),
        ("v0.1.0", "0.1.0", "## 0.1.0 (2027-01-05)\n", "is empty"),
    ],
)
def test_a_tag_that_is_not_ready_is_refused(
    script: Callable[[str], Any], tag: str, version: str, changelog: str, words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        script("tools/release.py").notes(tag, version, changelog)


def test_the_repository_as_it_is_reports_why_it_cannot_be_released_yet(
    script: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("tools/release.py").main(["v9.9.9"]) == 1
    assert capsys.readouterr().err.startswith("release: the tag is v9.9.9")


def test_a_release_that_the_suite_does_not_know_is_found_by_its_newest_patch(
    script: Callable[[str], Any],
) -> None:
    releases = script("tools/releases.py")
    fine, gone = [{"yanked": False}], [{"yanked": True}]
    index = {
        "releases": {
            "0.33.0": fine,
            "0.33.1": fine,
            "0.34.0": fine,
            "0.34.10": fine,
            "0.34.9": fine,
            "0.35.0rc1": fine,
            "0.36.0": gone,
            "0.37.0": [],
            "1.0.0": fine,
            "0.9.0": fine,
        }
    }
    assert releases.unknown(index, ("0.11.2", "0.33.0")) == ["0.34.10", "1.0.0"]
    assert releases.known()[-1].count(".") == 2


def test_an_issue_is_opened_for_each_unknown_release_that_has_none(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash is not here")
    script = next(text for text in scripts().values() if "gh issue create" in text)
    log = tmp_path / "log"
    gh = tmp_path / "gh"
    gh.write_text(
        f'#!/bin/sh\nif [ "$2" = create ]; then echo "$4" >> {log}; exit; fi\n'
        'case "$*" in *0.35.0*) echo 1;; *) echo 0;; esac\n'
    )
    gh.chmod(0o755)
    (tmp_path / "unknown.txt").write_text("0.34.0\n0.35.0\n1.0.0\n")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env={"PATH": path}, check=True)
    assert log.read_text().splitlines() == [
        "vLLM 0.34.0 is not known to the suite",
        "vLLM 1.0.0 is not known to the suite",
    ]


def test_github_accepts_their_form_and_that_of_the_workflow_for_forks() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    if not checker.exists():
        pytest.skip("check-jsonschema is not installed: pip install --group test")
    schema = ["--builtin-schema", "vendor.github-workflows"]
    subprocess.run([checker, *schema, *WORKFLOWS, ROOT / "docs/ci/rocm-attn.yml"], check=True)


# --- forms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((GITHUB / "ISSUE_TEMPLATE").glob("[!c]*.yml")))
def test_an_issue_form_has_what_github_needs(path: Path) -> None:
    form = load(path)
    assert {"name", "description", "body"} <= set(form)
    kinds = {"input", "textarea", "markdown", "dropdown", "checkboxes"}
    for field in form["body"]:
        assert field["type"] in kinds
        assert field["attributes"]["label"]
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))


def test_the_addresses_of_the_package_are_those_of_the_site() -> None:
    from pytest_rocm_attn.citations import SITE

    text = (ROOT / "pyproject.toml").read_text()
    assert f'Documentation = "{SITE}"' in text
    assert f"site_url: {SITE}\n" in (ROOT / "mkdocs.yml").read_text()
    source = re.search(r'^Source = "(.*)"$', text, re.MULTILINE)
    assert source is not None
    assert f"repo_url: {source[1]}\n" in (ROOT / "mkdocs.yml").read_text()
