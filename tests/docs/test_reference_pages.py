"""The reference has an entry for all that a user can name, and the docs name nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pytest_rocm_attn.citations import SITE
from pytest_rocm_attn.flags import VARIABLES
from pytest_rocm_attn.options import OPTIONS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Pages that a person writes. CHANGELOG.md tells of names that are gone.
PAGES = [
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md"))
    if page.name != "behaviour-changelog.md" and page.parent.name != "launch-tables"
]
FOLDERS = {
    "pytest_rocm_attn": ROOT / "pytest_rocm_attn",
    "pytest_rocm_attn.backends": ROOT / "backends",
    "pytest_rocm_attn.conformance": ROOT / "conformance",
}


@pytest.fixture(scope="module")
def site(script: Callable[[str], Any]) -> Any:
    """tools/site_pages.py, as a module."""
    return script("tools/site_pages.py")


@pytest.fixture(scope="module")
def markers(site: Any) -> set[str]:
    return set(site.markers())


@pytest.fixture(scope="module")
def commands(site: Any) -> set[str]:
    return set(site.commands()) - {""}


def named(pattern: str) -> dict[str, set[str]]:
    """Return what a pattern finds in the pages, each with the pages that name it."""
    found: dict[str, set[str]] = {}
    for page in PAGES:
        for name in re.findall(pattern, page.read_text("utf-8")):
            found.setdefault(name, set()).add(str(page.relative_to(ROOT)))
    return found


def unknown(found: dict[str, set[str]], known: set[str]) -> dict[str, set[str]]:
    return {name: pages for name, pages in found.items() if name not in known}


def test_the_pages_written_from_data_are_up_to_date(script: Callable[[str], Any]) -> None:
    assert script("tools/reference_pages.py").main(["--check"]) == 0


def test_every_marker_fixture_hook_and_command_is_explained_in_a_guide_too(
    site: Any, markers: set[str], commands: set[str]
) -> None:
    text = {name: (DOCS / f"{name}.md").read_text("utf-8") for name in ("markers", "cli")}
    assert {name for name in markers if f"`{name}" not in text["markers"]} == set()
    assert {name for name in site.fixtures() if f"`{name}`" not in text["markers"]} == set()
    assert {name for name in commands if f"rocm-attn {name}" not in text["cli"]} == set()
    everything = "".join(page.read_text("utf-8") for page in PAGES)
    assert {name for name in site.hooks() if name not in everything} == set()


def test_the_generated_pages_have_an_entry_for_each_of_them(
    site: Any, markers: set[str], commands: set[str]
) -> None:
    assert len(markers) > 5
    assert len(commands) > 5
    plugin, line = site.plugin_page(), site.commands_page()
    assert all(f"| `{name}" in plugin for name in markers)
    assert all(f"### `{name}`" in plugin for name in (*site.fixtures(), *site.hooks()))
    assert all(words for words in (*site.fixtures().values(), *site.hooks().values()))
    assert all(f"## `rocm-attn {name}`" in line for name in commands)
    for fields in site.report_schema().values():
        assert all(words for _, words in fields.values())


def test_every_page_stands_in_the_navigation_of_the_site(site: Any) -> None:
    text = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"([\w./-]+\.md)$", text, re.MULTILINE)
    written = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert sorted(listed) == sorted(written | set(site.pages()))


def test_every_kind_of_entry_in_a_contract_has_its_fields_explained(site: Any) -> None:
    promise = ROOT / "conformance" / "promise"
    defined = {
        (str(path.relative_to(promise).with_suffix("")).replace("/", "."), name)
        for path in promise.rglob("*.py")
        for name in re.findall(r"^(\w*_FIELDS) = \{", path.read_text("utf-8"), re.MULTILINE)
    }
    formats = site._FORMATS
    assert defined == {(module, name) for module, names in formats.items() for name in names}
    assert all(words for fields in site.contract_formats().values() for words in fields.values())


def test_every_row_of_a_contract_has_its_line_with_links_to_its_sources(site: Any) -> None:
    from pytest_rocm_attn.conformance.promise import contract

    page = site.linked(site.rows_page(), "reference/contract-rows.md")
    for name in contract.shipped():
        assert all(f"| `{row.id}` |" in page for row in contract.load(name).rows)
    assert "[contract a10](contract.md#a10)" in page
    assert "docs/reference/" not in re.sub(r"`[^`]*`", "", page)


def test_citations_in_code_stay_as_they_are(site: Any) -> None:
    linked = site.linked
    assert linked("see docs/mock.md, `docs/mock.md`", "howto/ci.md") == (
        "see [mock.md](../mock.md), `docs/mock.md`"
    )
    vllm = "https://github.com/vllm-project/vllm"
    assert linked("envs.py, a comment (v0.33.0); PR #2, ab/c#3", "a.md") == (
        f"[envs.py]({vllm}/blob/v0.33.0/vllm/envs.py), a comment (v0.33.0);"
        f" [PR #2]({vllm}/pull/2), [ab/c#3](https://github.com/ab/c/issues/3)"
    )
    assert linked("[#2](https://a.b/2) and [PR #3](https://a.b/3)", "a.md") == (
        "[#2](https://a.b/2) and [PR #3](https://a.b/3)"
    )
    text = "docs/reference/contract.md#a10, #g2"
    assert linked(text, "invariants.md") == (
        "[contract a10](reference/contract.md#a10), [contract g2](reference/contract.md#g2)"
    )


def test_the_readme_links_to_pages_of_the_site_that_exist_and_to_nothing_relative(
    site: Any,
) -> None:
    """A package index shows it, where a relative link leads nowhere."""
    targets = re.findall(r"\]\(([^)]*)\)", (ROOT / "README.md").read_text("utf-8"))
    ours = [target.removeprefix(SITE) for target in targets if target.startswith(SITE)]
    assert [target for target in targets if not target.startswith("https://")] == []
    generated = set(site.pages())
    for target in filter(None, ours):
        page, _, anchor = target.partition("#")
        path = f"{page.rstrip('/')}.md"
        assert path in generated or (DOCS / path).is_file(), target
        assert not anchor or f"## {anchor}" in (DOCS / path).read_text("utf-8").lower(), target


# --- nothing that does not exist ----------------------------------------------------------------------


def test_the_docs_name_no_option_that_does_not_exist() -> None:
    known = {option.flag for option in OPTIONS} | {"--rocm-attn-conformance", "--rocm-attn-name"}
    assert unknown(named(r"(--rocm-attn-[a-z-]*[a-z])"), known) == {}


def test_the_docs_name_no_ini_setting_or_marker_that_does_not_exist(markers: set[str]) -> None:
    sources = [*ROOT.glob("conformance/tiers/*.py"), *ROOT.glob("tests/hardware/*.py")]
    properties = {  # that a report's testcases have
        name
        for source in sources
        for name in re.findall(r'"(rocm_attn_\w+)"', source.read_text("utf-8"))
    }
    known = {option.ini for option in OPTIONS} | markers | properties
    assert unknown(named(r"(?<![\w./-])(rocm_attn_[a-z_]*[a-z])(?![\w(]*\.py)"), known) == {}


def test_the_docs_name_no_command_that_does_not_exist(commands: set[str]) -> None:
    found = named(r"(?:^|[`$(] ?)rocm-attn ([a-z][a-z-]+)")
    assert unknown(found, commands) == {}


def test_the_docs_name_no_target_of_make_that_does_not_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert unknown(named(r"(?:`|\$ )make ([a-z-]+)"), targets) == {}


def test_the_docs_name_no_variable_of_vllm_that_is_not_explained() -> None:
    explained = set(
        re.findall(r"VLLM_\w+", (DOCS / "reference" / "environment.md").read_text("utf-8"))
    )
    assert {name for name in VARIABLES if name.startswith("VLLM_")} <= explained
    assert unknown(named(r"\b(VLLM_[A-Z0-9_]+[A-Z0-9])\b"), explained) == {}


def test_the_docs_name_no_file_of_the_project_that_does_not_exist() -> None:
    tops = "backends|conformance|pytest_rocm_attn|tests|tools|benchmarks|docs"
    found = named(rf"`((?:{tops})/[\w./-]*\w)`(?!\]\(http)")
    assert {name: pages for name, pages in found.items() if not (ROOT / name).exists()} == {}


def test_the_docs_name_no_object_of_the_package_that_does_not_exist() -> None:
    found = named(r"(?<![\w/])(pytest_rocm_attn(?:[.:][A-Za-z_]\w*)+)")
    assert {name: pages for name, pages in found.items() if not _exists(name)} == {}


def _exists(dotted: str) -> bool:
    """Whether a dotted name is a module of the package, or at the top level of one."""
    parts = re.split(r"[.:]", dotted)
    for length in range(len(parts), 0, -1):
        module, rest = ".".join(parts[:length]), parts[length:]
        if (source := _source(module)) is not None:
            return not rest or rest[0] in _top_level(source)
    return False


def _source(module: str) -> Path | None:
    mapped = max((m for m in FOLDERS if f"{module}.".startswith(f"{m}.")), key=len)
    path = FOLDERS[mapped].joinpath(*module.removeprefix(mapped).strip(".").split("."))
    places = (path / "__init__.py", path.with_suffix(".py"))
    return next((place for place in places if place.is_file()), None)


@cache
def _top_level(source: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
    return names | {"__version__", "__all__"}
