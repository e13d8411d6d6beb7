"""Who may import whom: docs/development/architecture.md. No module is imported here."""

from __future__ import annotations

import ast
import functools
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "pytest_rocm_attn"
# Folder -> the package that it is mapped to (pyproject.toml, package-dir).
FOLDERS = {
    "pytest_rocm_attn": PACKAGE,
    "backends": f"{PACKAGE}.backends",
    "conformance": f"{PACKAGE}.conformance",
}
HEAVY = {"torch", "triton", "hypothesis", "jinja2", "numpy", "msgspec", "aiter", "vllm"}
# Third-party packages that a folder may use at all, wherever in a module.
THIRD_PARTY = {
    "pytest_rocm_attn": {"pytest", "_pytest", "pluggy", "msgspec", "torch", "triton", "numpy"},
    "backends": {"torch", "triton", "aiter"},
    "conformance": {"pytest", "_pytest", "msgspec", "torch", "triton", "hypothesis", "jinja2"},
}
FACE = {f"{PACKAGE}.{name}" for name in ("plugin", "fixtures", "hookspecs", "markers", "cli")}
FORBIDDEN = {  # anywhere in a module, inside functions too
    "pytest_rocm_attn": set[str](),
    "backends": FACE | {f"{PACKAGE}.{name}" for name in ("conformance", "mock", "dry_launch")},
    # The reference is one more selector under test, found by name: never consulted.
    "conformance": FACE | {f"{PACKAGE}.backends"},
}
FORBIDDEN_AT_MODULE_LEVEL = {
    "pytest_rocm_attn": {f"{PACKAGE}.backends", f"{PACKAGE}.conformance", "torch", "triton"},
    "backends": set[str](),
    "conformance": set[str](),
}


@dataclass(frozen=True)
class Import:
    """One imported name: ``import a.b`` is "a.b", ``from a.b import c`` is "a.b.c"."""

    name: str
    line: int
    at_module_level: bool
    relative: bool


class _Finder(ast.NodeVisitor):
    """Collects imports.

    Args:
        typing: include those for type checkers alone, which never run.
    """

    def __init__(self, *, typing: bool) -> None:
        self.found: list[Import] = []
        self._typing = typing
        self._depth = 0

    def visit_If(self, node: ast.If) -> None:
        for_types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if for_types and not self._typing:
            for statement in node.orelse:
                self.visit(statement)
        else:
            self.generic_visit(node)

    def _function(self, node: ast.AST) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _function

    def _add(self, name: str, line: int, relative: bool = False) -> None:
        self.found.append(Import(name, line, not self._depth, relative))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self._add(f"{node.module}.{alias.name}", node.lineno, node.level > 0)


@functools.cache
def imports_of(file: Path, *, typing: bool = False) -> tuple[Import, ...]:
    """Return the imports of a source file, in order; on request also those for type checkers."""
    finder = _Finder(typing=typing)
    finder.visit(ast.parse(file.read_text("utf-8")))
    return tuple(finder.found)


def sources(folder: str) -> list[Path]:
    """Return a folder's Python files."""
    return sorted((ROOT / folder).rglob("*.py"))


def module_name(file: Path) -> str:
    """Return what a source file is imported as."""
    folder, *rest = file.relative_to(ROOT).with_suffix("").parts
    return ".".join([FOLDERS[folder], *(part for part in rest if part != "__init__")])


def within(name: str, packages: set[str]) -> bool:
    """Whether a dotted name is one of the packages or lies below one."""
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def offences(folder: str) -> list[str]:
    """Return what a folder imports against the rules, as file:line: what."""
    found = []
    for file in sources(folder):
        for entry in imports_of(file):
            banned = FORBIDDEN[folder]
            if entry.at_module_level:
                banned = banned | FORBIDDEN_AT_MODULE_LEVEL[folder]
            top = entry.name.partition(".")[0]
            known = top == PACKAGE or top in sys.stdlib_module_names or top in THIRD_PARTY[folder]
            if entry.relative or within(entry.name, banned) or not known:
                found.append(f"{file.relative_to(ROOT)}:{entry.line}: {entry.name}")
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_what_the_design_lets_it(folder: str) -> None:
    assert sources(folder)
    assert offences(folder) == []


def test_the_emulator_imports_the_vocabulary_and_numpy_only() -> None:
    allowed = {f"{PACKAGE}.{name}" for name in ("emulator", "errors", "gpu")} | {"numpy"}
    foreign = {
        f"{file.name}:{entry.line}: {entry.name}"
        for file in sources(f"{PACKAGE}/emulator")
        for entry in imports_of(file)
        if not within(entry.name, allowed)
        and entry.name.partition(".")[0] not in sys.stdlib_module_names
    }
    assert foreign == set()


def loaded_by(start: str) -> set[str]:
    """Return the modules that importing one of ours runs: through every import at module level."""
    files = {module_name(file): file for folder in FOLDERS for file in sources(folder)}
    seen: set[str] = set()
    open_names = [start]
    while open_names:
        name = open_names.pop()
        parts = name.split(".")
        for length in range(1, len(parts) + 1):  # a package runs before its modules
            prefix = ".".join(parts[:length])
            if prefix in files and prefix not in seen:
                seen.add(prefix)
                entries = imports_of(files[prefix])
                open_names += [entry.name for entry in entries if entry.at_module_level]
            elif parts[0] != PACKAGE:
                seen.add(parts[0])
    return seen


@pytest.mark.parametrize(
    ("start", "allowed"),
    [
        pytest.param("plugin", set(), id="the plugin"),
        pytest.param("cli", set(), id="the command"),
        pytest.param("backends", set(), id="the reference selector"),
        pytest.param("mock", set(), id="the mock"),
        pytest.param("conformance.run.session", {"msgspec"}, id="a run of the matrix"),
        pytest.param("conformance.tiers.documented", {"msgspec"}, id="the documented tier"),
        pytest.param("conformance.isolation.inside.main", {"msgspec"}, id="a worker process"),
    ],
)
def test_what_is_heavy_waits_until_it_is_needed(start: str, allowed: set[str]) -> None:
    modules = loaded_by(f"{PACKAGE}.{start}")
    assert len(modules) > 2
    assert modules & HEAVY == allowed


def test_the_guards_see_an_offence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules above, tried on a tree that breaks each of them."""
    (tmp_path / "conformance").mkdir()
    (tmp_path / "conformance" / "bad.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from pytest_rocm_attn.backends import fine\n"
        "from . import sibling\n"
        "import pandas\n"
        "def late():\n    from pytest_rocm_attn import backends\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert offences("conformance") == [
        "conformance/bad.py:4: None.sibling",
        "conformance/bad.py:5: pandas",
        "conformance/bad.py:7: pytest_rocm_attn.backends",
    ]


# --- the rooms of conformance/ (docs/development/architecture.md)
# -----------------------------------

# Room -> the rooms that it may import, be it for type checkers alone.
ROOMS = {
    "promise": set[str](),
    "adapters": {"promise"},
    "isolation": {"promise", "adapters"},
    "causes": {"promise"},
    "report": {"promise", "causes"},
    "tiers": {"promise", "causes", "isolation", "adapters", "report"},
    "baseline": {"promise", "causes", "isolation", "adapters", "report", "tiers"},
    "run": {"promise", "causes", "isolation", "adapters", "report", "tiers", "baseline"},
}
DATA = {"baselines"}  # read as files, imported by nobody


def room_offences() -> dict[str, set[str]]:
    """Return the rooms that a file of conformance/ imports against the rule, for each such file."""
    prefix = f"{PACKAGE}.conformance."
    found = {}
    for file in sources("conformance"):
        room, *rest = file.relative_to(ROOT / "conformance").parts
        names = (entry.name for entry in imports_of(file, typing=True))
        rooms = {n.removeprefix(prefix).partition(".")[0] for n in names if n.startswith(prefix)}
        wrong = rooms - {room} - ROOMS.get(room, set())
        if rest and wrong:
            found[file.relative_to(ROOT).as_posix()] = wrong
    return found


def test_every_module_of_conformance_is_in_a_room() -> None:
    folder = ROOT / "conformance"
    assert {path.name for path in folder.glob("*.py")} == {"__init__.py"}
    rooms = {file.relative_to(folder).parts[0] for file in sources("conformance")}
    assert rooms - {"__init__.py"} == set(ROOMS) | DATA


def test_no_room_imports_one_that_it_must_not() -> None:
    assert room_offences() == {}


def test_the_rule_of_the_rooms_allows_no_circle() -> None:
    passed: set[str] = set()
    while left := {room: others for room, others in ROOMS.items() if room not in passed}:
        free = {room for room, others in left.items() if others <= passed}
        assert free, f"a circle among {sorted(left)}"
        passed |= free


def test_the_guard_of_the_rooms_sees_an_offence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "conformance" / "promise"
    folder.mkdir(parents=True)
    (folder / "bad.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "from pytest_rocm_attn.conformance import report\n"
        "if TYPE_CHECKING:\n    from pytest_rocm_attn.conformance.run.settings import Settings\n"
        "def late():\n    import pytest_rocm_attn.conformance.tiers.base\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert room_offences() == {"conformance/promise/bad.py": {"report", "run", "tiers"}}


# --- the size of modules, and names of classes ----------------------------------------------------

LONGEST = 400  # lines of a module
# Classes that a user names as MODULE:CLASS, so that another module's may have the same name.
NAMED_WITH_THEIR_MODULE = {
    "adapters/aiter_unified.py:UnifiedAttention",
    "adapters/sglang.py:Server",
}


def too_long() -> dict[str, int]:
    """Return the modules of conformance/ that are too long, and how long they are."""
    lengths = {file: len(file.read_text().splitlines()) for file in sources("conformance")}
    return {file.name: length for file, length in lengths.items() if length > LONGEST}


def names_taken_twice() -> dict[str, list[str]]:
    """Return the names that several classes of conformance/ have, and the modules of these."""
    found: dict[str, list[str]] = {}
    for file in sources("conformance"):
        place = file.relative_to(ROOT / "conformance").as_posix()
        for node in ast.parse(file.read_text()).body:
            if not isinstance(node, ast.ClassDef):
                continue
            if f"{place}:{node.name}" not in NAMED_WITH_THEIR_MODULE:
                found.setdefault(node.name, []).append(place)
    return {name: sorted(places) for name, places in found.items() if len(places) > 1}


def test_a_module_of_conformance_can_be_read_in_one_go() -> None:
    assert too_long() == {}


def test_a_class_name_stands_for_one_thing() -> None:
    assert names_taken_twice() == {}


def test_the_guards_of_size_and_names_see_an_offence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "conformance" / "promise"
    folder.mkdir(parents=True)
    (folder / "long.py").write_text("class Row: ...\n" + "\n" * LONGEST)
    (folder / "rows.py").write_text("class Row: ...\nclass Cell: ...\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert too_long() == {"long.py": LONGEST + 1}
    assert names_taken_twice() == {"Row": ["promise/long.py", "promise/rows.py"]}
