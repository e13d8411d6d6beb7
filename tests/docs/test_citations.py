"""Every citation resolves: to an anchor of a page in docs/, or to an upstream address.

No page is opened over the network. `make docs` checks the links between pages.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from pytest_rocm_attn.citations import SITE, linked
from pytest_rocm_attn.errors import BackendLimitError, RocmAttnError, SelectionError

ROOT = Path(__file__).parents[2]
SHIPPED = ("pytest_rocm_attn", "backends", "conformance")
FOLDERS = (*SHIPPED, "tests", "tools", "benchmarks", "docs")
SUFFIXES = {".py", ".toml", ".md", ".h", ".hip", ".yml", ".html", ".js"}
CITED = re.compile(
    r"(?<![\w/.])docs/(?P<page>(?:[\w-]+/)*[\w-]+\.md)(?P<anchors>#[\w-]+(?:(?:, | and | to )#[\w-]+)*)?"
)
PAGE = re.compile(r"(?<![\w./*-])(?P<path>(?:[\w-]+/)*[\w-]+\.md)\b")
MADE = {"report.md", "summary.md", "FILE.md", "docs/PAGE.md"}  # by the user's own command
ROW = re.compile(r"(?<![\w#.-])[QISAGRTME]\d{1,2}[ab]?(?![\w.])")


def files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    found += ROOT.glob("*.md") if "docs" in folders else ()
    return [path for path in found if path.suffix in SUFFIXES and path.is_file()]


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the ids that a page gives itself, and those of its headings."""
    text = page.read_text("utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = (re.sub(r"[^\w\- ]", "", re.sub(r"<[^>]*>", "", words)) for words in headings)
    return frozenset(re.findall(r'<a id="([\w-]+)">', text)) | {
        slug.strip().lower().replace(" ", "-") for slug in slugs
    }


def unresolved(text: str) -> list[str]:
    """Return the citations in a text that lead nowhere."""
    found = []
    for cited in CITED.finditer(text):
        page = ROOT / "docs" / cited["page"]
        if page.stem.endswith(("VERSION", "PAGE")):  # stands for one
            continue
        if not page.is_file():
            found.append(cited[0])
            continue
        named = re.findall(r"#([\w-]+)", cited["anchors"] or "")
        found += [f"{cited['page']}#{name}" for name in named if name not in anchors(page)]
    return found


def test_every_citation_names_a_page_and_an_anchor_that_exist() -> None:
    assert unresolved("docs/reference/contract.md#a10, #g2 and docs/selection.md") == []
    assert unresolved("docs/reference/contract.md#q99; docs/facts.md") == [
        "reference/contract.md#q99",
        "docs/facts.md",
    ]
    wrong = {
        str(path.relative_to(ROOT)): lost
        for path in files(*FOLDERS)
        if path.name not in ("test_citations.py", "test_packaging.py")  # they make names up
        and path.name != "CHANGELOG.md"  # which tells of pages that are gone
        and (lost := unresolved(path.read_text("utf-8")))
    }
    assert wrong == {}


def test_shipped_files_name_no_document_that_is_not_in_the_repository() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {named['path']}"
        for path in files(*SHIPPED)
        for named in PAGE.finditer(path.read_text("utf-8"))
        if not (ROOT / named["path"]).is_file() and named["path"] not in MADE
    ]
    assert wrong == []


def test_a_row_of_the_contract_is_cited_by_its_anchor_wherever_a_user_reads_it() -> None:
    """In comments of the contract's own files the row's number is enough, and must be one."""
    contract = ROOT / "docs" / "reference" / "contract.md"
    wrong = []
    for path in files(*SHIPPED):
        if path.suffix != ".toml" or path.parent.name != "pr-26980":
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            text, comment = (line, "") if "#" not in line else ("", line)
            if line.startswith(("source", "note")):
                text, comment = re.sub(r"\(PR 26980[^)]*\)", "", line), ""
            rows = {row.lower() for row in ROW.findall(comment)}
            if ROW.search(text) or not rows <= anchors(contract):
                wrong.append(f"{path.name}:{number}: {line}")
    assert wrong == []


@pytest.mark.parametrize("folder", SHIPPED)
def test_no_text_of_python_code_cites_a_row_by_its_number_alone(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files(folder)
        if path.suffix == ".py" and "emulator" not in path.parts
        for line in path.read_text("utf-8").splitlines()
        if re.search(r"[(\"' ](?:[QIGS]\d{1,2}[ab]?)(?:, [QIGS]\d+[ab]?)*[);\"']", line)
    ]
    assert wrong == []


def test_a_cited_page_becomes_an_address_that_opens_the_same_anchor() -> None:
    text = "needs 16 (docs/reference/contract.md#s5, #r4; docs/mock.md); see docs/ci/rocm-attn.yml"
    assert linked(text) == (
        f"needs 16 ({SITE}reference/contract/#s5, #r4; {SITE}mock/); see docs/ci/rocm-attn.yml"
    )
    assert linked(linked(text)) == linked(text)


def test_every_error_gives_the_address() -> None:
    cited = "docs/reference/backends.md#triton-mla"
    for error in (RocmAttnError(cited), BackendLimitError(cited), SelectionError(cited)):
        assert str(error) == f"{SITE}reference/backends/#triton-mla"
