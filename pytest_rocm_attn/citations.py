"""Citations of this project's documents: how sources write them, and the address that opens one.

A source names a page and one or more anchors of it: ``docs/reference/contract.md#a10, #g2``. That opens
in an editor and can be searched for. Whoever reads a message has no checkout, so there the page becomes
its address on the site: ``linked``. tests/docs/test_citations.py resolves every citation.
"""

from __future__ import annotations

import re

SITE = "https://pytest-rocm-attn.readthedocs.io/en/latest/"
_PAGE = re.compile(r"\bdocs/((?:[\w-]+/)*[\w-]+)\.md(?![\w/])")


def linked(text: str) -> str:
    """Return a text in which every cited page is an address of the site that can be opened."""
    return _PAGE.sub(rf"{SITE}\1/", text) if "docs/" in text else text
