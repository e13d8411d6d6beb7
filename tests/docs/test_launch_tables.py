"""The launch tables: a script makes them from reports, and they hold all that the launch tier tries."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import triton

from pytest_rocm_attn.conformance.adapters import load
from pytest_rocm_attn.conformance.tiers.launch.judge import examine
from pytest_rocm_attn.conformance.tiers.launch.tier import TARGETS, shipped
from pytest_rocm_attn.conformance.tiers.numerics.case import Case
from pytest_rocm_attn.conformance.tiers.numerics.subjects import REFERENCES
from pytest_rocm_attn.gpu import Gpu

TABLES = Path(__file__).parents[2] / "docs" / "launch-tables"
REFERENCE = TABLES / "reference-triton-3.6.0.md"


@pytest.fixture(scope="module")
def from_report(script: Callable[[str], Any]) -> Any:
    """The script, as a module."""
    return script("docs/launch-tables/from_report.py")


def row(family: str, gfx: str, **launch: Any) -> dict[str, Any]:
    launched = {
        "name": "_kernel",
        "compiler": "Triton 3.6.0",
        "constexprs": {"BLOCK_M": 16, "SCALE": 2},
        "signature": {"key_ptr": "*bf16", "page_ptr": "*i32", "stride": "i32"},
        "attributes": {"page_ptr": {"tt.divisibility": 16, "tt.pointer_range": 32}},
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
    assert line.endswith("| ? | 3 v_mfma | `key_ptr` |")


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


def sections() -> dict[tuple[str, str], str]:
    """Return the table of each backend and family."""
    text = REFERENCE.read_text("utf-8")
    found = re.findall(r"^## (.*?), (.*?)\n\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return {(backend, family): table for backend, family, table in found}


TRIED = {
    (backend.name, case.id): (backend, case)
    for backend in REFERENCES
    for case in shipped()
    if backend.compiled != "" and backend.takes(case) and not _declined(case)
}


def test_the_table_of_the_reference_holds_all_that_the_tier_tries() -> None:
    """Make it again (docs/launch-tier.md) if this fails: a family or a backend was added."""
    assert sections().keys() == TRIED.keys()
    for (backend, family), table in sections().items():
        targets = set(re.findall(r"^\| (gfx\w+) \|", table, re.MULTILINE))
        assert targets == set(TARGETS), (backend, family)
        assert "fail:" not in table and "crash:" not in table


def test_its_kernels_have_the_cache_of_their_family() -> None:
    for (backend, family), table in sections().items():
        case = TRIED[backend, family][1]
        for line in table.splitlines():
            if "`_attention_kernel`" in line:
                small = case.cache == "small" or case.kind == "mla-prefill"
                wanted = "none" if small else "`key_ptr`, `value_ptr`"
                assert line.split(" | ")[-1].removesuffix(" |") == wanted, (backend, family)


# One over a small cache, and one of MLA: test_launch_table.py and test_kernel_figures.py compile others.
SAMPLE = [
    ("ROCM_ATTN", "decode-over-a-small-cache-head-size-128", "gfx90a"),
    ("TRITON_MLA", "mla-decode-num-heads-16", "gfx1201"),
]
EVERY = [
    pytest.param(backend, family, gfx, marks=pytest.mark.slow)
    for backend, family in TRIED
    for gfx in TARGETS
    if (backend, family, gfx) not in SAMPLE
]


@pytest.mark.parametrize(
    ("backend", "family", "gfx"),
    [*SAMPLE, *EVERY],
)
def test_a_kernel_takes_what_the_table_says(
    from_report: Any, backend: str, family: str, gfx: str
) -> None:
    """Make it again (docs/launch-tier.md) if this fails: a kernel or its configuration was changed."""
    compiler = f"Triton {triton.__version__}"
    if f"\n{compiler}, " not in REFERENCE.read_text("utf-8"):
        pytest.skip(f"{REFERENCE.name} is of another Triton than {triton.__version__}")
    subject, case = TRIED[backend, family]
    under_test: Any = load(subject.compiled or subject.spec)
    found = examine(under_test(), case, Gpu(gfx))
    assert found.kind == "right", found.words
    measured = row(family, gfx) | {"id": f"{backend}::{family}"}
    measured["details"] = {"backend": {"name": backend}, "launches": list(found.launches)}
    lines = [
        line for line in from_report.document({"rows": [measured]}) if line.startswith(f"| {gfx} |")
    ]
    assert len(lines) == len(found.launches) > 0
    table = sections()[backend, family]
    assert [line for line in table.splitlines() if line.startswith(f"| {gfx} |")] == lines
