"""MkDocs hooks: the pages of the site that are made of the code, and the links of citations.

mkdocs.yml names this file. ``pages()`` makes the reference of options, markers, fixtures, hooks,
commands, reports and contracts from what defines them, so that the site cannot differ from the code;
tests/docs/test_reference_pages.py checks that each has its entry.
"""

from __future__ import annotations

import ast
import functools
import importlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn import citations
from pytest_rocm_attn.cli import atlas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pytest_rocm_attn.conformance.promise.rows import Row

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pytest_rocm_attn"
_CITED = re.compile(r"\bdocs/((?:[\w-]+/)*[\w-]+\.md)((?:#[\w-]+(?:(?:, | and | to )#[\w-]+)*)?)")
_NUMBER = re.compile(r"(?:vLLM )?\b(?:PR|issue) #\d+|(?<![\w/.])[A-Za-z][\w-]+/[\w.-]+#\d+")
_CODE = re.compile(r"(?ms)^( *)(```+).*?^\1\2 *$|`[^`\n]*`|\[[^\]\n]*\]\([^)]*\)|^\[[^\]]*\]: .*?$")


# --- Markdown -----------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; cells may have line breaks and bars."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def code(text: str) -> str:
    """Return text as code in a line."""
    return f"`{text}`" if text else ""


def as_markdown(docstring: str) -> str:
    """Return a docstring as Markdown: its double backquotes become single ones."""
    return docstring.replace("``", "`")


def linked(markdown: str, page: str) -> str:
    """Return a page in which every citation outside code is a link.

    Args:
        markdown: the page's text.
        page: its path below docs/.
    """

    def own(cited: re.Match[str]) -> str:
        target = os.path.relpath(cited[1], Path(page).parent)
        if not cited[2]:
            return f"[{cited[1]}]({target})"
        name = Path(cited[1]).stem
        return re.sub(
            r"#([\w-]+)", lambda anchor: f"[{name} {anchor[1]}]({target}#{anchor[1]})", cited[2]
        )

    def plain(text: str) -> str:
        pieces = re.split(r"([;|\n])", text)
        linked = (upstream(p) if citations.is_upstream(p) else _CITED.sub(own, p) for p in pieces)
        return _NUMBER.sub(
            lambda cited: f"[{cited[0]}]({citations.linked(cited[0])})", "".join(linked)
        )

    parts, end = [], 0
    for code_span in _CODE.finditer(markdown):
        parts += [plain(markdown[end : code_span.start()]), code_span[0]]
        end = code_span.end()
    return "".join([*parts, plain(markdown[end:])])


def upstream(part: str) -> str:
    """Return a part of a source that names files of vLLM, with a link for each."""
    tag = re.findall(r"\([^()]*v[\d.]+\)", part)[-1]
    file = re.compile(r"(?<![\w/.:])(?:[\w.-]+/)*[\w-]+\.(?:py|md|cu)\b")
    return file.sub(
        lambda found: f"[{found[0]}]({citations.linked(f'{found[0]} {tag}').split(' ')[0]})", part
    )


# --- what the plugin defines --------------------------------------------------------------------------


@functools.cache
def markers() -> dict[str, tuple[str, str]]:
    """Return each marker's parameters and meaning by its name, as ``pytest --markers`` lists them."""
    command = [sys.executable, "-m", "pytest", "--markers", "-p", "no:cacheprovider"]
    with tempfile.TemporaryDirectory() as elsewhere:
        listed = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=elsewhere
        ).stdout
    found = re.findall(r"^@pytest\.mark\.(\w*rocm\w*)(\([^)]*\))?: (.*)$", listed, re.MULTILINE)
    return {name: (parameters, words) for name, parameters, words in found}


def _documented(path: Path, decorator: str) -> dict[str, str]:
    """Return the docstrings of a file's public functions that have a decorator."""
    functions = (
        n for n in ast.parse(path.read_text("utf-8")).body if isinstance(n, ast.FunctionDef)
    )
    return {
        function.name: ast.get_docstring(function) or ""
        for function in functions
        if not function.name.startswith("_")
        and any(decorator in ast.unparse(one) for one in function.decorator_list)
    }


def fixtures() -> dict[str, str]:
    """Return the docstring of each fixture."""
    return _documented(PACKAGE / "fixtures.py", "pytest.fixture")


def hooks() -> dict[str, str]:
    """Return the docstring of each hook that a conftest may implement."""
    return _documented(PACKAGE / "hookspecs.py", "pytest.hookspec")


@functools.cache
def commands() -> dict[str, str]:
    """Return the help of each command of ``rocm-attn``, and of itself under the name ""."""
    listed = _help()
    names = re.findall(r"^ {4}([a-z][\w-]*)", listed, re.MULTILINE)
    return {"": listed} | {name: _help(name) for name in names}


def _help(*words: str) -> str:
    command = [sys.executable, "-m", "pytest_rocm_attn", *words, "--help"]
    wide = os.environ | {"COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=wide).stdout


def plugin_page() -> str:
    """Return the page of markers, fixtures and hooks."""
    rows = [(code(name + given), words) for name, (given, words) in markers().items()]
    lines = ["# Markers, fixtures and hooks", "## Markers", table(["marker", "meaning"], rows)]
    for title, found in (("Fixtures", fixtures()), ("Hooks", hooks())):
        lines.append(f"## {title}")
        for name, words in found.items():
            lines += [f"### `{name}`", as_markdown(words)]
    return "\n\n".join(lines)


def commands_page() -> str:
    """Return the page of the command line."""
    lines = ["# Every command of `rocm-attn`"]
    for name, text in commands().items():
        lines += [f"## `{f'rocm-attn {name}'.strip()}`", f"```text\n{text.rstrip()}\n```"]
    return "\n\n".join(lines)


# --- formats ------------------------------------------------------------------------------------------


def _attributes(docstring: str) -> dict[str, str]:
    """Return what a docstring says of each attribute under "Attributes:"."""
    _, _, listed = docstring.partition("Attributes:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE)
    return {name: as_markdown(" ".join(words.split())) for name, words in found}


def report_schema() -> dict[str, dict[str, tuple[str, str]]]:
    """Return the type and meaning of each field, for each kind of entry of the JSON report."""
    module = ast.parse((ROOT / "conformance" / "report" / "schema.py").read_text("utf-8"))
    found = {}
    for entry in (node for node in module.body if isinstance(node, ast.ClassDef)):
        meanings = _attributes(ast.get_docstring(entry) or "")
        fields = (node for node in entry.body if isinstance(node, ast.AnnAssign))
        found[entry.name] = {
            (name := ast.unparse(field.target)): (
                ast.unparse(field.annotation),
                meanings.get(name, ""),
            )
            for field in fields
        }
    return found


def report_page() -> str:
    """Return the page of the JSON report's fields."""
    names = {
        "Record": "rows",
        "Declined": "declined",
        "ConditionEntry": "conditions",
        "CauseEntry": "causes",
        "Summary": "summaries",
    }
    lines = ["# Fields of the JSON report", "[Reports](../reports.md) explains what is counted."]
    for name, fields in report_schema().items():
        lines.append(f"## An entry of `{names.get(name, name)}`")
        rows = [(code(field), code(kind), words) for field, (kind, words) in fields.items()]
        lines.append(table(["field", "type", "meaning"], rows))
    return "\n\n".join(lines)


# Module -> the dictionaries in it that say what each field of an entry is, with a heading.
_FORMATS = {
    "contract_file": {"HEAD_FIELDS": "contract.toml", "ENTRY_FIELDS": "[[case]]: a row"},
    "capability_table": {"_FIELDS": "[[capability]]: what a backend can do"},
    "history": {
        "_ENDED_FIELDS": "[[ended]]: rows that a release ended",
        "_DEFECT_FIELDS": "[[defect]]: a known defect of a release",
    },
    "servers_file": {"_FIELDS": "[[server]]", "_LAYER_FIELDS": "[[server.layer]]"},
    "grid.rules": {"_FIELDS": "[[rule]] of grid.toml"},
    "deviations": {"_FIELDS": "[[deviation]]"},
}


def contract_formats() -> dict[str, dict[str, str]]:
    """Return what each field is, for each kind of entry in contracts and deviations files."""
    promise = "pytest_rocm_attn.conformance.promise"
    return {
        title: getattr(importlib.import_module(f"{promise}.{module}"), name)
        for module, dictionaries in _FORMATS.items()
        for name, title in dictionaries.items()
    }


def formats_page() -> str:
    """Return the page of the fields of contracts and deviations."""
    lines = [
        "# Fields of contracts and deviations",
        (
            "The guides are [How to write a contract](../contracts.md) and [How to declare"
            " deviations](../deviations.md)."
        ),
    ]
    for title, fields in contract_formats().items():
        rows = [(code(name), words) for name, words in fields.items()]
        lines += [f"## `{title}`", table(["field", "value"], rows)]
    return "\n\n".join(lines)


def rows_page() -> str:
    """Return the page of every row of every shipped contract."""
    from pytest_rocm_attn.conformance.promise import contract

    lines = ["# Rows of the contracts"]
    for name in contract.shipped():
        loaded = contract.load(name)
        lines += [f"## {loaded.id}", f"{loaded.title}. Source: {loaded.source}."]
        lines.append(table(["row", "level", "asked", "expected", "source"], map(_row, loaded.rows)))
    return "\n\n".join(lines)


def _row(row: Row) -> tuple[str, ...]:
    env = " ".join(f"{name}={text}" for name, text in row.env.items())
    request = " ".join(f"{name}={value}" for name, value in row.request.non_default().items())
    machines = f"{', '.join(gpu.gfx for gpu in row.gpus)}; aiter {row.gpus[0].aiter}"
    asked = "; ".join(part for part in (code(env), code(request), machines) if part)
    return code(row.id), row.level, asked, str(row.expect), row.source


# --- API ----------------------------------------------------------------------------------------------


def api_page() -> str:
    """Return the page of the public Python interface, for mkdocstrings to fill."""
    import pytest_rocm_attn
    from pytest_rocm_attn import backends

    lines = ["# API", "What `pytest_rocm_attn` and `pytest_rocm_attn.backends` export."]
    for module in (pytest_rocm_attn, backends):
        for name in module.__all__:
            home = getattr(getattr(module, name), "__module__", "")
            if home and name.isidentifier() and not name.startswith("__"):
                lines.append(f"::: {_home(module, name)}.{name}")
    return "\n\n".join(lines)


def _home(module: Any, name: str) -> str:
    """Return the module that defines a name which a package exports; constants know no module."""
    home: str = getattr(getattr(module, name), "__module__", module.__name__)
    if name == "PR_26980":
        return "pytest_rocm_attn.backends.policy"
    return home


def lay_package(folder: Path) -> None:
    """Lay links in a folder so that it holds the package as an installation has it."""
    package = folder / "pytest_rocm_attn"
    package.mkdir(parents=True, exist_ok=True)
    for source in (*PACKAGE.iterdir(), ROOT / "backends", ROOT / "conformance"):
        link = package / source.name
        if not link.exists() and source.name != "__pycache__":
            link.symlink_to(source)


# --- pages of the repository --------------------------------------------------------------------------


def _of_root(name: str) -> str:
    """Return a page at the repository's root as one of docs/."""
    text = (ROOT / name).read_text("utf-8")
    return re.sub(r"\]\((?:https://pytest-rocm-attn\.readthedocs\.io/en/latest/|docs/)", "](", text)


def pages() -> dict[str, Callable[[], str]]:
    """Return what writes each page that is not a file in docs/, by its path below docs/."""
    return {
        "reference/plugin.md": plugin_page,
        "reference/commands.md": commands_page,
        "reference/report-schema.md": report_page,
        "reference/contract-schema.md": formats_page,
        "reference/contract-rows.md": rows_page,
        "reference/api.md": api_page,
        "changelog.md": lambda: _of_root("CHANGELOG.md"),
        "contributing.md": lambda: _of_root("CONTRIBUTING.md"),
    }


# --- hooks that MkDocs calls --------------------------------------------------------------------------


def on_startup(**_: Any) -> None:
    """Lay the package where mkdocstrings finds it, which looks when it is configured."""
    lay_package(ROOT / ".cache" / "site")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made of the code, and the atlas."""
    from mkdocs.structure.files import File

    for path, write in pages().items():
        files.append(File.generated(config, path, content=write() + "\n"))
    # Without a directory of its own: its links to other pages of the site start from the root.
    files.append(File.generated(config, "atlas.html", content=atlas.page("./")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make links of the citations on a page."""
    return linked(markdown, page.file.src_uri)


def _iterate() -> Iterator[str]:
    for path, write in pages().items():
        yield f"<!-- {path} -->\n\n{write()}\n"


if __name__ == "__main__":
    print(*_iterate(), sep="\n")
