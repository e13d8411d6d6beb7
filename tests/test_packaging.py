"""What ends up in the distribution: setuptools leaves out, without a word, what the lists lack."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("pytest_rocm_attn", "backends", "conformance")


def project() -> dict[str, Any]:
    """Return pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def folder_of(package: str) -> Path:
    """Return the source folder of a package, as package-dir maps it."""
    mapped: dict[str, str] = project()["tool"]["setuptools"]["package-dir"]
    longest = max((name for name in mapped if f"{package}.".startswith(f"{name}.")), key=len)
    return Path(mapped[longest], *package.removeprefix(longest).split("."))


def source_files() -> set[str]:
    """Return every file of the three source folders, relative to the repository."""
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    }
    return {path for path in found if "__pycache__" not in path and ".egg-info/" not in path}


def packaged_files() -> set[str]:
    """Return the files that the lists of pyproject.toml put into a wheel."""
    lists = project()["tool"]["setuptools"]
    found: set[Path] = set()
    for package in lists["packages"]:
        folder = ROOT / folder_of(package)
        found |= set(folder.glob("*.py"))
        for pattern in lists["package-data"].get(package, ()):
            found |= set(folder.glob(pattern))
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_every_source_and_data_file_is_in_the_lists() -> None:
    assert source_files()
    assert sorted(source_files() - packaged_files()) == []


def test_every_listed_package_is_there() -> None:
    packages = project()["tool"]["setuptools"]["packages"]
    missing = [name for name in packages if not (ROOT / folder_of(name) / "__init__.py").is_file()]
    assert missing == []


def test_every_data_pattern_matches_something() -> None:
    data = project()["tool"]["setuptools"]["package-data"]
    idle = [
        f"{package}: {pattern}"
        for package, patterns in data.items()
        for pattern in patterns
        if not list((ROOT / folder_of(package)).glob(pattern))
    ]
    assert idle == []


def test_the_core_needs_neither_torch_nor_triton() -> None:
    needed = {line.split(">")[0] for line in project()["project"]["dependencies"]}
    assert needed == {"pytest", "msgspec"}


LINKS = {
    "__init__.py": "../../pytest_rocm_attn/__init__.py",
    "backends": "../../backends",
    "conformance": "../../conformance",
}


def links_in(folder: Path) -> dict[str, str]:
    """Return where each link below .typings leads."""
    found = (folder / ".typings" / "pytest_rocm_attn").iterdir()
    return {path.name: path.readlink().as_posix() for path in found}


def make(target: str, folder: Path) -> str:
    """Run a target of a copy of the Makefile in a folder; return what it prints."""
    if shutil.which("make") is None:
        pytest.skip("no make on PATH")
    shutil.copy(ROOT / "Makefile", folder)
    return run("make", "--silent", target, cwd=folder)


def test_the_checkers_see_the_mapped_folders(tmp_path: Path) -> None:
    """The links are tracked; where they are missing, as in an sdist, `make lint` makes them."""
    make(".typings/pytest_rocm_attn", tmp_path)
    assert links_in(tmp_path) == LINKS
    if (ROOT / ".git").exists():
        assert links_in(ROOT) == LINKS
    for link in LINKS.values():
        assert (ROOT / ".typings" / "pytest_rocm_attn" / link).resolve().exists()


def test_make_help_names_every_target(tmp_path: Path) -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    listed = [line.split(maxsplit=2) for line in make("help", tmp_path).splitlines()]
    assert [words[:2] for words in listed] == [["make", name] for name in phony.split()]
    assert all(len(words) == 3 for words in listed)


def test_make_clean_removes_what_git_ignores_and_nothing_else(tmp_path: Path) -> None:
    kept = {"backends/a.py", "docs/build.md", ".typings/link", "dist.md"}
    ignored = {
        pattern.rstrip("/").replace("*", "name")
        for pattern in (ROOT / ".gitignore").read_text("utf-8").split()
    }
    assert {".venv", "build", "rocm-attn-report.name", "__pycache__"} <= ignored
    for name in kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ignored:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "backends" / "__pycache__").mkdir()
    make("clean", tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == kept | {"Makefile"}
    assert not (tmp_path / "backends" / "__pycache__").exists()


# --- the real thing: needs a package index, and a minute ------------------------------------------


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    """Run a command that must succeed; return its output."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=clean | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def new_python(folder: Path, *packages: str | Path) -> Path:
    """Return the interpreter of a new virtual environment that has the packages."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", *packages, cwd=folder)
    return python


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of a clean copy of the tracked files, and the wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("packaging")
    copy = folder / "checkout"
    listed = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, listed):
        if os.path.lexists(ROOT / name):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    python = new_python(folder / "build", "build")
    run(python, "-m", "build", "--outdir", folder / "dist", copy, cwd=folder)
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
def test_the_wheel_holds_every_source_file_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())
    as_packaged = {
        name if name.startswith("pytest_rocm_attn/") else f"pytest_rocm_attn/{name}"
        for name in packaged_files()
    }
    assert names == as_packaged
    assert {"pytest_rocm_attn/py.typed", "pytest_rocm_attn/hardware.toml"} <= names


@pytest.mark.slow
def test_the_sdist_holds_what_is_tracked(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = source_files() | {"tests/test_packaging.py", "conftest.py", "Makefile", "docs/cli.md"}
    assert sorted(wanted - names) == []


@pytest.mark.slow
def test_the_sdist_passes_its_own_tests(built: tuple[Path, Path], tmp_path: Path) -> None:
    with tarfile.open(built[0]) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    tests = ("tests/test_packaging.py", "tests/test_imports.py", "tests/test_tracked_files.py")
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider")
    output = run(*command, *tests, cwd=folder)
    # What reads sources and the Makefile passes; only what asks git is skipped.
    assert re.search(r"[1-9]\d passed, 3 skipped", output), output


@pytest.mark.slow
def test_the_wheel_works_where_there_is_no_repository(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    python = new_python(tmp_path / "venv", built[1])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = (python, "-m", "pytest", "--rocm-attn-conformance")
    output = run(*command, "--rocm-attn-report=report.json", cwd=elsewhere)
    report = json.loads((elsewhere / "report.json").read_text())
    assert report["totals"] == {"pass": len(report["rows"])}, output
    assert len(report["rows"]) > 600
    assert report["tool"]["version"] == project()["project"]["version"]
    explain = (python.parent / "rocm-attn", "explain", "VLLM_ROCM_USE_AITER=1", "--gpu", "gfx942")
    assert "ROCM_AITER_FA" in run(*explain, cwd=elsewhere)
    present = run(python, "-m", "pip", "list", "--format=json", cwd=elsewhere)
    names = {entry["name"] for entry in json.loads(present.strip().splitlines()[-1])}
    assert {"torch", "triton"}.isdisjoint(names)
