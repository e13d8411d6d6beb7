"""tools/check_prose.py: the pages that a user reads have none of the banned habits of language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def check_prose(script: Callable[[str], Any]) -> Any:
    """The tool, as a module."""
    return script("tools/check_prose.py")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What is not reached is said.", "is said"),
        ("A report without the tier is told.", "told"),
        ("The run comes to 5 failures.", "comes to"),
        ("That is no baseline.", "is no"),
        ("The suffix is none that is known.", "is none"),
        ("A header of ours is found.", "of ours"),
        ("No compiler is to be had.", "to be had"),
        ("The file is imported anew.", "anew"),
        ("A misspelt name will not do.", "will not do"),
        ("The plain kernel is beside it.", "beside"),
        ("Where aiter is absent, it fails.", "Where"),
        ("Is it slow? Where aiter is absent.", "Where"),
        ("It works, but only where aiter is there.", "only where"),
        ("The tests are yours to run.", "are yours to"),
        ("All are equal but for the time.", "but for"),
        ("MLA is not put to it; a layer is put to it.", "is put to"),
        ("A case is skipped where there is no GPU.", "where there"),
        ("It takes a name. Shipped is the newest patch.", "Shipped is"),
        ("The methods are wrapped meanwhile.", "meanwhile"),
        ("A room imports those alone, be it for types.", "be it"),
        ("The interpreter needs none, nor does the emulator.", "nor does"),
        ("The variables that bear on attention.", "bear on"),
        ("A call is held against its needs.", "held against"),
        ("Return the package; None where absent.", "None where"),
    ],
)
def test_a_banned_habit_is_found(check_prose: Any, text: str, found: str) -> None:
    assert [words for _, words, _ in check_prose.offences(text)] == [found]


@pytest.mark.parametrize(
    "text",
    [
        "There is no GPU, and it is no longer slow.",
        "Where do I change a verdict?",
        "The argument is None.",
        "The kind that is missing is counted, and may be its last.",
        "The besieged are besides the point.",
        "Write `report` for `told`, and ``come to`` as ``total``.",
        "```text\nis told\n```\n\nplain words",
        "- a list\n\n  ```text\n  is told\n  ```\n",
        "words\n\n    beside = code\n\nwords\n",
        "See [the table](hip-decode-beside-vllm.md).",
        "It will not do so, and nobody knows what it will do next.",
    ],
)
def test_plain_english_code_and_links_are_left_alone(check_prose: Any, text: str) -> None:
    assert list(check_prose.offences(text)) == []


def test_a_single_backquote_hides_no_other_paragraph(check_prose: Any) -> None:
    text = "A lone ` here.\n\nNothing is told.\n\nAnother ` there.\n"
    assert [line for line, _, _ in check_prose.offences(text)] == [3]


def test_an_offence_is_named_with_its_line_though_it_is_wrapped(check_prose: Any) -> None:
    text = "# A page\n\n```text\nis told\n```\n\n- one `thing` will not\n  do here.\n"
    ((line, words, _),) = check_prose.offences(text)
    assert (line, words) == (7, "will not do")


def test_the_tool_ends_with_one_and_names_the_place(
    check_prose: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("A title\n\nNothing is told.\n")
    assert check_prose.main([str(page)]) == 1
    assert capsys.readouterr().out.startswith(f"{page}:3: 'told'; write: report, print")
    page.write_text("The run reports nothing.\n")
    assert check_prose.main([str(page)]) == 0
    assert capsys.readouterr().out == ""


CODE = '''"""What is said of it."""

# One comment says that nothing
# is told.
NAME = "beside"


def report(number: int) -> str:
    """Return a text.

    It is said.
    """
    return f"the row {number} is no baseline, told"
'''


def test_messages_docstrings_and_comments_of_code_are_read(
    check_prose: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.py").write_text(CODE)
    (tmp_path / "a.toml").write_text('# Where it is\nnote = "is told"\nid = 3\n')
    found = {
        path.name: sorted(
            (start + line - 1, words)
            for start, text in check_prose.texts(path)
            for line, words, _ in check_prose.offences(text)
        )
        for path in tmp_path.iterdir()
    }
    assert found["a.py"] == [
        *((1, "is said"), (4, "told"), (11, "is said"), (13, "is no"), (13, "told"))
    ]
    assert found["a.toml"] == [(1, "Where"), (2, "told")]


def test_the_pages_that_a_user_reads_are_plain_english(
    check_prose: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {page.relative_to(ROOT).as_posix() for page in check_prose.pages()}
    assert {"README.md", "CONTRIBUTING.md", "docs/grid.md", "docs/howto/ci.md"} <= names
    assert {"backends/selector.py", "conformance/report/words.py"} <= names
    assert "docs/behaviour-changelog.md" not in names
    code = check_prose.main([])
    assert (code, capsys.readouterr().out) == (0, "")
