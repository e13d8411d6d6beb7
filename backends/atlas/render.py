"""The page itself: the tables, the scripts and the style in one file that asks for nothing else."""

from __future__ import annotations

import string
from collections.abc import Mapping
from importlib import resources
from typing import Any

from pytest_rocm_attn import __version__, web_page
from pytest_rocm_attn.backends.atlas.tables import EVERY, tables
from pytest_rocm_attn.citations import SITE
from pytest_rocm_attn.gpu import products


def render(
    options: Mapping[str, tuple[str, bool, str]],
    evidence: Mapping[str, Any],
    site: str = SITE,
    releases: tuple[str, ...] = EVERY,
) -> str:
    """Return the page.

    Args:
        options: field of a request -> the option of ``rocm-attn explain`` that sets it, whether that
            takes a value, and what it means.
        evidence: what is shown next to an answer: promises, recordings and known defects.
        site: where links to this project's documentation lead: an address, or "./" within the site.
        releases: those that may be chosen, oldest first.
    """
    style, script = _asset("page.css"), _asset("select.js") + _asset("page.js")
    data = {
        **tables(releases),
        "options": options,
        "evidence": evidence,
        "product_names": products(),
        "site": [SITE, site],
        "version": __version__,
    }
    return string.Template(_asset("page.html")).substitute(
        policy=web_page.content_policy(style, script),
        style=style,
        script=script,
        data=web_page.embedded(data),
    )


def _asset(name: str) -> str:
    folder = resources.files("pytest_rocm_attn.backends.atlas")
    return folder.joinpath("page", name).read_text("utf-8")
