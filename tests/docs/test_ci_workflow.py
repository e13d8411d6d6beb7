"""The workflow for forks (docs/ci/rocm-attn.yml): well-formed, careful, and its steps do what they say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML: pip install --group test")

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "docs" / "ci" / "rocm-attn.yml"


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(WORKFLOW.read_text())
    return loaded


def test_the_token_may_only_read(workflow: dict[Any, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    assert "secrets." not in WORKFLOW.read_text()


def test_pull_requests_from_elsewhere_stay_off_the_hardware(workflow: dict[Any, Any]) -> None:
    assert "pull_request_target" not in workflow[True]  # YAML reads the key "on" as true
    guard = workflow["jobs"]["hardware"]["if"]
    assert "github.event.pull_request.head.repo.full_name == github.repository" in guard


def test_no_step_pastes_what_others_wrote_into_a_shell(workflow: dict[Any, Any]) -> None:
    scripts = [s["run"] for job in workflow["jobs"].values() for s in job["steps"] if "run" in s]
    assert len(scripts) == 9
    assert not [script for script in scripts if "${{" in script]


def test_summaries_and_artifacts_are_made_of_failed_runs_too(workflow: dict[Any, Any]) -> None:
    for job in workflow["jobs"].values():
        late = [s for s in job["steps"] if "upload-artifact" in s.get("uses", "")]
        late += [step for step in job["steps"] if step.get("name") == "Show the summary"]
        assert [step["if"] for step in late] == ["${{ !cancelled() }}"] * 2


def test_every_action_is_of_a_named_version(workflow: dict[Any, Any]) -> None:
    used = [s["uses"] for job in workflow["jobs"].values() for s in job["steps"] if "uses" in s]
    assert used
    assert all(action.partition("@")[2].startswith("v") for action in used)


class Runner:
    """Runs a job's steps as a runner would: in order, the later ones only if their ``if`` says so."""

    def __init__(self, folder: Path, workflow: dict[Any, Any]) -> None:
        self.folder = folder
        self.summary = folder / "summary.md"
        self.summary.touch()
        tools = folder / "tools"
        tools.mkdir()
        # What is installed here already is not fetched again: pip only notes what it was told.
        (tools / "pip").write_text(f'#!/bin/sh\necho "$@" >> {folder}/pip.txt\n')
        (tools / "pip").chmod(0o755)
        here = Path(sys.executable).parent
        self.environ = os.environ | {
            "PATH": f"{tools}:{here}:{os.environ['PATH']}",
            "GITHUB_STEP_SUMMARY": str(self.summary),
            **workflow["env"],
        }

    def run(self, job: dict[Any, Any], shell: str = "bash") -> dict[str, int]:
        """Return the exit code of each step that has a script and was run."""
        codes: dict[str, int] = {}
        for step in job["steps"]:
            failed = any(codes.values())
            if "pull_request" in step.get("if", ""):  # which this is not
                continue
            if "run" in step and (not failed or step.get("if") == "${{ !cancelled() }}"):
                codes[step["name"]] = subprocess.run(
                    [shell, "-e", "-c", step["run"]],
                    cwd=self.folder,
                    env=self.environ,
                    check=False,
                    timeout=600,
                ).returncode
        return codes


@pytest.mark.parametrize(("status", "ends"), [(0, 0), (1, 0), (2, 2)])
def test_a_difference_is_shown_and_fails_nothing_and_an_error_fails(
    workflow: dict[Any, Any], tmp_path: Path, status: int, ends: int
) -> None:
    (step,) = (
        s for s in workflow["jobs"]["mock"]["steps"] if "rocm-attn compare" in s.get("run", "")
    )
    assert "github.event_name == 'pull_request'" in step["if"]
    runner = Runner(tmp_path, workflow)
    for name, script in (("git", "true"), ("rocm-attn", f'echo "$@"; exit {status}')):
        (tmp_path / "tools" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "tools" / name).chmod(0o755)
    (tmp_path / "rocm-attn").mkdir()
    words = ["bash", "-e", "-c", step["run"]]
    environ = runner.environ | {"GITHUB_BASE_REF": "main"}
    done = subprocess.run(words, cwd=tmp_path, env=environ, check=False, timeout=60)
    assert done.returncode != 0 if ends else done.returncode == 0
    shown = "compare FETCH_HEAD --selector=vllm.platforms.rocm:RocmPlatform --format=markdown"
    assert (tmp_path / "rocm-attn" / "changes.md").read_text().strip() == shown
    assert bool(runner.summary.read_text()) == (not ends)


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_the_mock_job_leaves_reports_and_a_summary(
    workflow: dict[Any, Any], tmp_path: Path, shell: str
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    runner = Runner(tmp_path, workflow)
    runner.environ["SELECTOR"] = "pytest_rocm_attn.backends:select"
    assert set(runner.run(workflow["jobs"]["mock"], shell).values()) == {0}
    assert "-r rocm-attn-requirements.txt" in (tmp_path / "pip.txt").read_text()
    rows = json.loads((tmp_path / "rocm-attn" / "report.json").read_text())["rows"]
    assert len(rows) > 500
    assert {"report.html", "report.md", "junit.xml"} <= set(os.listdir(tmp_path / "rocm-attn"))
    assert runner.summary.read_text() == (tmp_path / "rocm-attn" / "report.md").read_text()
    assert " pass, 2 skipped" in runner.summary.read_text()


@pytest.mark.slow
def test_a_fork_that_falls_short_is_red_and_still_has_its_summary(
    workflow: dict[Any, Any], tmp_path: Path
) -> None:
    (tmp_path / "ours.py").write_text("def select(request): return 'TRITON_ATTN'\n")
    (tmp_path / "rocm-attn-deviations.toml").write_text(
        '[[deviation]]\nmatch = "explicit-rocm-attn-*"\nanswer = "TRITON_ATTN"\n'
        'reason = "not built"\nlink = "#1"\n'
    )
    runner = Runner(tmp_path, workflow)
    runner.environ["SELECTOR"] = "ours:select"
    codes = runner.run(workflow["jobs"]["mock"])
    assert codes == {"Install": 0, "Run the matrix": 1, "Show the summary": 0}
    assert "## Causes" in runner.summary.read_text()
    assert "deviation" in runner.summary.read_text()  # the file was found
    assert len(runner.summary.read_bytes()) < 10_000


@pytest.mark.slow
def test_a_fork_is_compared_with_the_release_that_the_workflow_names(
    workflow: dict[Any, Any], tmp_path: Path
) -> None:
    assert workflow["env"]["BASELINE"] == ""
    runner = Runner(tmp_path, workflow)
    runner.environ |= {"SELECTOR": "pytest_rocm_attn.backends:select", "BASELINE": "vllm-0.12.0"}
    assert runner.run(workflow["jobs"]["mock"])["Run the matrix"] == 1
    report = json.loads((tmp_path / "rocm-attn" / "report.json").read_text())
    assert {row["tier"] for row in report["rows"]} == {"documented", "grid"}
    assert {row["source"] for row in report["rows"] if row["tier"] == "grid"} == {"vllm-0.12.0"}
    assert "## Causes" in runner.summary.read_text()
    assert len(runner.summary.read_bytes()) < 10_000


@pytest.mark.slow
def test_a_matrix_that_did_not_run_is_red_and_says_so(
    workflow: dict[Any, Any], tmp_path: Path
) -> None:
    runner = Runner(tmp_path, workflow)
    runner.environ["SELECTOR"] = "no_such_module:x"
    assert runner.run(workflow["jobs"]["mock"])["Run the matrix"] == 4
    summary = runner.summary.read_text()
    assert re.search(r"([\d,]+) items: \1 not run", summary)
    assert "No module named 'no_such_module'; install no_such_module" in summary
