"""docs/options.md lists the options as the table in pytest_rocm_attn/options.py has them.

``python tests/docs/test_options_page.py`` writes the page's table again.
"""

from __future__ import annotations

import re
from pathlib import Path

from pytest_rocm_attn.options import OPTIONS

PAGE = Path(__file__).parents[2] / "docs" / "options.md"
AGAIN = {"repeated": "yes", "item": "the item's own", "left out": "no"}


def table() -> str:
    """The table of the page."""
    rows = ["| option | what it does | in the printed command |", "| --- | --- | --- |"]
    for option in OPTIONS:
        value = f"={option.metavar}" if option.metavar else ""
        text = option.help.replace("|", "\\|")
        spelled = f"{option.flag}{value}".replace("|", "\\|")
        rows.append(f"| `{spelled}` | {text} | {AGAIN[option.again]} |")
    return "\n".join(rows) + "\n"


def test_the_page_has_the_table() -> None:
    assert table() in PAGE.read_text("utf-8")


if __name__ == "__main__":
    page = re.sub(r"(?ms)^\| option .*?\n(?!\|)", lambda _: table(), PAGE.read_text("utf-8"))
    PAGE.write_text(page, "utf-8")
