"""The launch tables: made of reports, whole or in parts, and of all that the launch tier tries."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_rocm_attn.conformance.tiers.launch.tier import TARGETS, shipped
from pytest_rocm_attn.conformance.tiers.numerics.case import Case
from pytest_rocm_attn.conformance.tiers.numerics.subjects import REFERENCES

TABLES = Path(__file__).parents[2] / "docs" / "launch-tables"
REFERENCE = TABLES / "reference-triton-3.6.0.md"


@pytest.fixture(scope="module")
def from_report() -> Any:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("from_report", TABLES / "from_report.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(family: str, gfx: str, **launch: Any) -> dict[str, Any]:
    launched = {
        "name": "_kernel",
        "compiler": "Triton 3.6.0",
        "constexprs": {"BLOCK_M": 16, "SCALE": 2},
        "num_warps": 4,
        "num_stages": 1,
        "lds_bytes": 2048,
        "lds_limit": 65536,
        **dict.fromkeys(("vgprs", "agprs", "vgpr_spills", "sgpr_spills", "scratch_bytes"), 0),
        "occupancy": None,
        "matrix_instructions": {"v_mfma": 3},
    }
    return {
        "id": f"OURS::{family}",
        "tier": "launch",
        "gpu": {"gfx": gfx},
        "verdict": "pass",
        "message": "",
        "details": {"backend": {"name": "OURS"}, "launches": [launched | launch]},
    }


def test_several_reports_make_the_table_of_one(from_report: Any) -> None:
    rows = [row("decode", "gfx90a"), row("decode", "gfx942"), row("prefill", "gfx942", vgprs=99)]
    whole = list(from_report.document({"rows": rows}))
    parts = list(from_report.document({"rows": rows[2:]}, {"rows": rows[1::-1]}))
    assert parts == whole
    line = next(line for line in whole if "| 99 |" in line)
    assert line.startswith("| gfx942 | `_kernel` | M=16 | 4 | 1 | 2,048 of 65,536 | 99 |")
    assert line.endswith("| ? | 3 v_mfma |")


def test_a_later_report_replaces_a_cell(from_report: Any) -> None:
    old, new = row("decode", "gfx942", vgprs=7), row("decode", "gfx942", vgprs=99)
    text = "\n".join(from_report.document({"rows": [old]}, {"rows": [new]}))
    assert ("| 99 |" in text, "| 7 |" in text) == (True, False)


def test_a_report_without_the_tier_is_told(from_report: Any) -> None:
    with pytest.raises(SystemExit, match="no row of the launch tier"):
        list(from_report.document({"rows": []}))


def _declined(case: Case) -> bool:
    """Whether the reference's paged backends decline a family (docs/backends.md: head sizes to 256)."""
    return case.kind == "attention" and case.request.head_size > 256


def test_the_table_of_the_reference_holds_all_that_the_tier_tries() -> None:
    """Make it anew (docs/launch-tier.md) where this fails: a family or a backend was added."""
    text = REFERENCE.read_text()
    sections = re.findall(r"^## (.*?), (.*?)\n\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    wanted = {
        (backend.name, case.id)
        for backend in REFERENCES
        for case in shipped()
        if backend.compiled != "" and backend.takes(case) and not _declined(case)
    }
    assert {(backend, family) for backend, family, _ in sections} == wanted
    for backend, family, table in sections:
        targets = set(re.findall(r"^\| (gfx\w+) \|", table, re.MULTILINE))
        assert targets == set(TARGETS), (backend, family)
        assert "fail:" not in table and "crash:" not in table
