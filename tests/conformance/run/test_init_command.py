"""What ``rocm-attn init`` writes, and that nothing is lost by it."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.cli import main
from pytest_rocm_attn.conformance.run import init_command

if TYPE_CHECKING:
    Captured = pytest.CaptureFixture[str]

ROOT = Path(__file__).parents[3]
SPEC = "serving.platforms.rocm:RocmPlatform"
LINE = f"{init_command.SETTING} = {SPEC}"
TOML_LINE = f'{init_command.SETTING} = "{SPEC}"'
CONTRACT = """
id = "mine"
title = "mine"
source = "this test"

[[case]]
id = "plain"
source = "this test"
level = "required"
platform = { gfx = ["gfx942"] }
expect = { backend = "ROCM_ATTN" }
"""


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    platforms = tmp_path / "fork" / "serving" / "platforms"
    platforms.mkdir(parents=True)
    (platforms / "rocm.py").write_text(
        "# a fork\nclass RocmPlatform:\n    def get_attn_backend_cls(cls): ...\n"
    )
    return tmp_path / "fork"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def init(fork: Path, capsys: Captured, *options: str) -> list[str]:
    assert main(["init", str(fork), "--no-run", *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_dry_run_says_all_and_writes_nothing(fork: Path, capsys: Captured) -> None:
    before = tree(fork)
    lines = init(fork, capsys, "--dry-run")
    assert tree(fork) == before
    assert lines[0] == f"selector: {SPEC} (serving/platforms/rocm.py, line 3)"
    assert lines[1].startswith("release: vLLM 0.")
    assert [line.partition(":")[0] for line in lines[2:6]] == [
        "would write pytest.ini",
        "would write rocm-attn-deviations.toml",
        "would write rocm-attn-requirements.txt",
        "would write .github/workflows/rocm-attn.yml",
    ]


def test_what_is_written_once_is_left_the_second_time(fork: Path, capsys: Captured) -> None:
    assert sum(line.startswith("wrote ") for line in init(fork, capsys)) == 4
    written = tree(fork)
    assert written["pytest.ini"].decode() == f"[pytest]\n{LINE}\n"
    assert f"  SELECTOR: {SPEC}\n" in written[str(init_command.WORKFLOW)].decode()
    assert b"pytest-rocm-attn\n" in written["rocm-attn-requirements.txt"]
    assert tomllib.loads(written["rocm-attn-deviations.toml"].decode()) == {}
    lines = init(fork, capsys)
    assert [line.split()[0] for line in lines[2:6]] == ["left"] * 4
    assert f"it has {LINE} already" in lines[2]
    assert tree(fork) == written


def test_files_that_exist_are_reported_and_left(fork: Path, capsys: Captured) -> None:
    (fork / init_command.WORKFLOW).parent.mkdir(parents=True)
    for name in (init_command.WORKFLOW, init_command.DEVIATIONS):
        (fork / name).write_text("# mine\n")
    lines = init(fork, capsys)
    for name in (init_command.WORKFLOW, init_command.DEVIATIONS):
        assert f"left {name}: it exists already" in lines
        assert (fork / name).read_text() == "# mine\n"


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("pytest.ini", "", f"[pytest]\n{LINE}\n"),
        (
            "pytest.ini",
            "# mine\n[pytest]\naddopts =\n    -q\n    -x\n[other]\na = 1",
            f"# mine\n[pytest]\n{LINE}\naddopts =\n    -q\n    -x\n[other]\na = 1",
        ),
        ("tox.ini", "[pytest] ; mine\r\n", f"[pytest] ; mine\r\n{LINE}\r\n"),
        ("setup.cfg", "[a]\nb=%(c)s\n\n[tool:pytest]", f"[a]\nb=%(c)s\n\n[tool:pytest]\n{LINE}\n"),
        (
            "pyproject.toml",
            '[project]\nname = "x"  # mine\n',
            f'[project]\nname = "x"  # mine\n\n[tool.pytest.ini_options]\n{TOML_LINE}\n',
        ),
        (
            "pyproject.toml",
            "[tool . pytest.ini_options]  # mine\naddopts = '-q'\n[tool.x]\ny = 1\n",
            f"[tool . pytest.ini_options]  # mine\n{TOML_LINE}\naddopts = '-q'\n[tool.x]\ny = 1\n",
        ),
    ],
)
def test_the_setting_is_added_to_the_file_that_pytest_reads_and_all_else_stays(
    fork: Path, capsys: Captured, name: str, before: str, after: str
) -> None:
    (fork / name).write_bytes(before.encode())
    init(fork, capsys)
    assert (fork / name).read_bytes() == after.encode()
    settings = {file for file in tree(fork) if file.endswith((".ini", ".cfg", "pyproject.toml"))}
    assert settings == {name}


def test_of_several_files_the_one_that_pytest_reads_is_changed(
    fork: Path, capsys: Captured
) -> None:
    (fork / "setup.cfg").write_text("[tool:pytest]\naddopts = -q\n")
    (fork / "pyproject.toml").write_text("[project]\n")
    init(fork, capsys)
    assert (fork / "pyproject.toml").read_text() == "[project]\n"
    assert LINE in (fork / "setup.cfg").read_text()


@pytest.mark.parametrize(
    "form",
    [
        "tool = { pytest = { ini_options = { addopts = '-q' } } }\n",
        "[tool.pytest]\nini_options.a = 1\n",
    ],
)
def test_a_form_that_cannot_be_edited_safely_is_left_and_the_line_is_given(
    fork: Path, capsys: Captured, form: str
) -> None:
    (fork / "pyproject.toml").write_text(form)
    lines = init(fork, capsys)
    assert (fork / "pyproject.toml").read_text() == form
    assert lines[2].startswith("left pyproject.toml: its form is unusual; add to ")
    assert lines[2].endswith(TOML_LINE)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("pyproject.toml", "[a", "pyproject.toml: cannot be parsed"),
        ("pytest.ini", "key\n[pytest]\n", "pytest.ini: cannot be parsed"),
        ("serving/platforms/rocm.py", "", "with a class that has get_attn_backend_cls"),
    ],
)
def test_what_stops_it_is_named_in_one_line_before_anything_is_written(
    fork: Path, capsys: Captured, name: str, content: str, why: str
) -> None:
    (fork / name).write_text(content)
    before = tree(fork)
    assert main(["init", str(fork), "--no-run"]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1
    assert tree(fork) == before


@pytest.mark.usefixtures("without_torch")
def test_the_first_run_is_told_by_cause(fork: Path, capsys: Captured) -> None:
    (fork / "pick.py").write_text("def select(request): return 'TRITON_ATTN'\n")
    (fork / "mine.toml").write_text(CONTRACT)
    (fork / "pytest.ini").write_text("[pytest]\nrocm_attn_contract = mine.toml\n")
    assert main(["init", str(fork), "--selector=pick.py:select"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "selector: pick.py:select (pick.py, line 1)"
    assert "1 item: 1 fail" in lines[-3]
    assert lines[-2].startswith(
        "  fail: Default for all layers: ROCM_ATTN -> TRITON_ATTN, on gfx942. [1 item"
    )
    assert lines[-1].startswith("next: correct what is a defect")
    (fork / "pick.py").write_text("def select(request): return 'ROCM_ATTN'\n")
    assert main(["init", str(fork), "--selector=pick.py:select"]) == 0
    (fork / "mine.toml").unlink()
    assert main(["init", str(fork), "--selector=pick.py:select"]) == 1
    assert "it did not run: ERROR: " in capsys.readouterr().out


def test_how_far_the_first_run_is_is_shown_meanwhile(
    fork: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'rocm-attn: 1 of 2 items'\necho other\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert main(["init", str(fork)]) == 1
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "running the matrix once, which takes minutes for vLLM ...",
        "rocm-attn: 1 of 2 items",
        "it did not run: rocm-attn: 1 of 2 items / other",
    ]


def test_the_workflow_that_is_written_is_the_one_that_the_documentation_shows() -> None:
    shown = (ROOT / "docs" / "ci" / "rocm-attn.yml").read_bytes()
    assert (ROOT / "conformance" / "run" / "starter" / "rocm-attn.yml").read_bytes() == shown
    needed = (ROOT / "docs" / "real-vllm-requirements.txt").read_text().split("# vLLM 0.10")[0]
    names = {line for line in needed.splitlines() if line and not line.startswith("#")}
    starter = ROOT / "conformance" / "run" / "starter" / "rocm-attn-requirements.txt"
    assert names < set(starter.read_text().splitlines())
