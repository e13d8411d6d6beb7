"""Every citation resolves: to an anchor of a page in docs/, or to an upstream address.

No page is opened over the network. `make docs` checks the links between pages.
"""

from __future__ import annotations

import ast
import json
import os
import re
from functools import cache
from pathlib import Path

import pytest

from pytest_rocm_attn.citations import SITE, VLLM, is_upstream, linked, pages_linked
from pytest_rocm_attn.conformance.promise import contract
from pytest_rocm_attn.errors import BackendLimitError, RocmAttnError, SelectionError

ROOT = Path(__file__).parents[2]
SHIPPED = ("pytest_rocm_attn", "backends", "conformance")
FOLDERS = (*SHIPPED, "tests", "tools", "benchmarks", "docs")
SUFFIXES = {".py", ".toml", ".md", ".h", ".hip", ".yml", ".html", ".js"}
CITED = re.compile(
    r"(?<![\w/.])docs/(?P<page>(?:[\w-]+/)*[\w-]+\.md)(?P<anchors>#[\w-]+(?:(?:, | and | to )#[\w-]+)*)?"
)
PAGE = re.compile(r"(?<![\w./*-])(?P<path>(?:[\w-]+/)*[\w-]+\.md)\b")
MADE = {  # by the user's own command
    *("report.md", "summary.md", "FILE.md", "docs/PAGE.md"),
    *("rocm-attn/report.md", "rocm-attn/changes.md"),
}
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


def own(text: str) -> str:
    """Return a text without the parts of its lines, between semicolons, that cite files of vLLM."""
    lines = (line.split(";") for line in text.splitlines())
    return "\n".join(";".join(p for p in parts if not is_upstream(p)) for parts in lines)


def unresolved(text: str) -> list[str]:
    """Return the citations in a text that lead nowhere."""
    found = []
    text = own(text)
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
        for named in PAGE.finditer(own(path.read_text("utf-8")))
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


def test_a_guide_links_the_rows_that_it_names() -> None:
    bare = re.compile(r"\([QISAG]\d{1,2}[ab]?(?:, [QISAG]\d+[ab]?)*\)")
    pages = [p for p in (ROOT / "docs").rglob("*.md") if p.name != "contract.md"]
    assert {str(p.relative_to(ROOT)) for p in pages if bare.search(p.read_text("utf-8"))} == set()


def test_a_cited_page_becomes_an_address_that_opens_the_same_anchor() -> None:
    text = "needs 16 (docs/reference/contract.md#s5, #r4; docs/mock.md); see docs/ci/rocm-attn.yml"
    assert linked(text) == (
        f"needs 16 ({SITE}reference/contract/#s5, #r4; {SITE}mock/); see docs/ci/rocm-attn.yml"
    )
    assert linked(linked(text)) == linked(text)


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("vLLM PR #36702", f"{VLLM}pull/36702"),
        ("PR #32812, #36702 and #1", f"{VLLM}pull/32812, {VLLM}pull/36702 and {VLLM}pull/1"),
        ("issue #46596; PR #2", f"{VLLM}issues/46596; {VLLM}pull/2"),
        ("ROCm/aiter#4329", "https://github.com/ROCm/aiter/issues/4329"),
        (
            "docs/design/attention_backends.md, Manual Selection (v0.33.0); docs/mock.md",
            (
                f"{VLLM}blob/v0.33.0/docs/design/attention_backends.md, Manual Selection (v0.33.0);"
                f" {SITE}mock/"
            ),
        ),
        (
            "envs.py, the comment of VLLM_X (v0.12.0 to v0.33.0)",
            f"{VLLM}blob/v0.33.0/vllm/envs.py, the comment of VLLM_X (v0.12.0 to v0.33.0)",
        ),
        (
            "vllm/platforms/rocm.py (v0.12.0)",
            f"{VLLM}blob/v0.12.0/vllm/platforms/rocm.py (v0.12.0)",
        ),
        ("a file.py:3, a #hash, v0.33.0", "a file.py:3, a #hash, v0.33.0"),
    ],
)
def test_a_citation_upstream_becomes_its_address(source: str, address: str) -> None:
    assert linked(source) == address
    assert linked(address) == address


def test_in_what_another_program_says_only_our_pages_are_linked() -> None:
    text = "see issue #3 and envs.py (v0.33.0), docs/mock.md"
    assert pages_linked(text) == f"see issue #3 and envs.py (v0.33.0), {SITE}mock/"


@pytest.mark.parametrize("name", contract.shipped())
def test_every_source_of_a_contract_can_be_opened(name: str) -> None:
    loaded = contract.load(name)
    sources = [row.source for row in loaded.rows]
    sources += [capability.source for capability in loaded.capabilities]
    shut = {s for s in sources if "https://" not in linked(s) and "recipe" not in s}
    assert shut == set()


def texts(path: Path) -> list[str]:
    """Return the texts of a file: of code those in quotes, else each paragraph or line of a table."""
    content = path.read_text("utf-8")
    if path.suffix != ".py":
        return re.split(r"\n\n|\n(?=[-|\w]+ ?[=|])", content)
    nodes = ast.walk(ast.parse(content))
    values = (node.value for node in nodes if isinstance(node, ast.Constant))
    return [value for value in values if isinstance(value, str)]


@pytest.mark.slow
def test_every_cited_file_of_vllm_is_in_that_release() -> None:
    releases = Path(os.environ.get("ROCM_ATTN_VLLM_DIR", "/work/vllm"))
    found = "\n".join(linked(text) for path in files(*SHIPPED, "docs") for text in texts(path))
    cited = set(re.findall(rf"{VLLM}blob/v([\d.]+)/(vllm/[\w./-]+\.py)", found))
    assert len(cited) > 50
    held = {(release, path) for release, path in cited if (releases / release).is_dir()}
    if not held:
        pytest.skip(f"no release is unpacked in {releases}")
    assert [pair for pair in sorted(held) if not releases.joinpath(*pair).is_file()] == []


def test_every_error_gives_the_address() -> None:
    cited = "docs/reference/backends.md#triton-mla"
    for error in (RocmAttnError(cited), BackendLimitError(cited), SelectionError(cited)):
        assert str(error) == f"{SITE}reference/backends/#triton-mla"


@pytest.mark.usefixtures("without_torch")
def test_a_run_gives_addresses_in_the_terminal_and_in_the_report(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        selector="def select(request, environ, gpu):\n    return 'FLEX_ATTENTION'\n"
    )
    report = pytester.path / "run.json"
    ran = pytester.runpytest_subprocess(
        "--rocm-attn-conformance",
        "--rocm-attn-contract=pr-26980",
        "--rocm-attn-selector=selector.py:select",
        "--rocm-attn-gpu=gfx942",
        f"--rocm-attn-report={report}",
        "-k",
        "appendix or nothing-set or aiter-gives-aiter-fa",
    )
    ran.stdout.fnmatch_lines([f"*{SITE}reference/contract/#a1,*"])
    written = json.loads(report.read_text("utf-8"))
    assert written["rows"]
    assert all("https://" in row["source"] for row in written["rows"])
    assert "https://" in written["contract"]["source"]
    assert "docs/reference" not in ran.stdout.str() + report.read_text("utf-8")
