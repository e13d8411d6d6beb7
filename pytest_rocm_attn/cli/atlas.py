"""The command ``atlas``: one HTML page that answers what ``explain`` answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rocm_attn.citations import SITE
from pytest_rocm_attn.cli.printing import OK, print_lines
from pytest_rocm_attn.errors import ReportError

if TYPE_CHECKING:
    import argparse


def write_atlas(arguments: argparse.Namespace) -> int:
    """Write the page.

    Raises:
        ReportError: it cannot be written there.
    """
    from pytest_rocm_attn.conformance.report import output, whole_file

    path = Path(arguments.target)
    output.check(path, arguments.target, (".html",))
    text = page()
    try:
        whole_file.write(path, text.encode())
    except OSError as error:
        raise ReportError(f"{arguments.target} cannot be written: {error.strerror}") from None
    print_lines([f"{arguments.target}: {len(text) / 1e6:.1f} MB; open it in a browser"])
    return OK


def page(site: str = SITE) -> str:
    """Return the page.

    Args:
        site: where its links to this project's documentation lead; "./" within the site.
    """
    from pytest_rocm_attn.backends.atlas import render
    from pytest_rocm_attn.cli.arguments import request_options
    from pytest_rocm_attn.conformance.baseline.evidence import evidence

    return render(request_options(), evidence(), site)
