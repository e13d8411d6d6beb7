"""The page as a file: nothing is loaded from elsewhere, and its text cannot break out."""

from __future__ import annotations

import json
import re

from pytest_rocm_attn.backends.atlas import render
from pytest_rocm_attn.citations import SITE

RELEASES = ("pr-26980", "0.11.2")


def test_the_page_holds_its_data_and_its_policy_forbids_every_request() -> None:
    evidence = {"rows": [{"note": "</script><script>alert(1)</script>"}]}
    page = render({"use_mla": ("--mla", False, "help")}, evidence, "./", RELEASES)
    (data,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL
    )
    read = json.loads(data)
    assert read["evidence"] == evidence
    assert read["site"] == [SITE, "./"]
    assert list(read["policies"]) == list(RELEASES)
    assert len(re.findall(r"<script\b", page)) == 2
    assert "default-src 'none'" in page
    assert not re.search(r'\b(src|href)="(?!#|data:)', page)
