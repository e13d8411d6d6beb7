"""docs/reports.md says of each verdict what it is."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_rocm_attn.conformance.promise.verdict import Verdict

PAGE = Path(__file__).parents[2] / "docs" / "reports.md"


def test_the_table_of_verdicts_is_that_of_the_code() -> None:
    rows = re.findall(
        r"^\| `(.)` \| `([\w-]+)` \| .* \| (yes|no|with .*) \|$", PAGE.read_text(), re.MULTILINE
    )
    assert [(letter, name, fails == "yes") for letter, name, fails in rows] == [
        (verdict.letter, verdict.value, verdict.fails) for verdict in Verdict
    ]
