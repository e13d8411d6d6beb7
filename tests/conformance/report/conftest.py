"""Reports to render: built by hand, so that no run is needed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from pytest_rocm_attn.request import Request

# Each would break out of some format: HTML and its attributes, a script, Markdown's tables, code
# spans, fences, headings and links, a terminal, JSON in a page, and sheer size.
HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>",
    "</script><!-- <script> --><style>*{display:none}</style>",
    "a | b || c \\| d `e` ``f`` ```\n```\n# g\n| - |\n",
    "[click](javascript:hacked) ![x](http://evil.example/x.png) @someone #1 <a href=//evil>",
    "\x00\x07\x1b[31mred\x1b[0m\u202eright to left\u2028line\u2029para\x85\ud800",
    "\"'><&amp;&#60;",
    "x" * 100_000,
)


def build_record(**fields: Any) -> dict[str, Any]:
    """Return one record, a plain cell that passes but for what is given."""
    return {
        "id": "triton-is-the-default",
        "tier": "documented",
        "level": "required",
        "gpu": {"gfx": "gfx942", "aiter": "present"},
        "evidence": "mock",
        "env": {},
        "request": asdict(Request()),
        "named": None,
        "expect": {"words": "TRITON_ATTN", "backend": "TRITON_ATTN"},
        "outcome": {"kind": "selected", "words": "TRITON_ATTN", "backend": "TRITON_ATTN"},
        "verdict": "pass",
        "message": "",
        "source": "the handbook, page 3",
        "seconds": 0.001,
        "environment_written": [],
        "again": "python -m pytest --rocm-attn-conformance 'rocm-attn::documented::x[gfx942]'",
        "details": {},
        "fell_short": [],
    } | fields


def build_report(*rows: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a report that holds these rows."""
    return {
        "schema": 1,
        "tool": {"name": "pytest-rocm-attn", "version": "1.2.3"},
        "contract": {"id": "ours", "title": "What we promise", "source": "the handbook"},
        "selector": {"name": "ours.pick:select", "distribution": "ours", "version": "4.5"},
        "host": {"kind": "mock", "gpus": ["gfx942"], "python": "3.11.7", "system": "Linux"},
        "selected": len(rows),
        "rows": list(rows),
        "totals": {},
        "notes": [],
    } | fields


def build_hostile() -> dict[str, Any]:
    """Return a report that holds every hostile text in every field that can hold text."""
    rows = []
    # A page shows the traceback of a crash in place of the trace.
    parts = ("traceback", "trace")
    for number, (text, part) in enumerate((text, part) for text in HOSTILE for part in parts):
        shown = {"traceback": f"{text}\n{text}", "trace": [[text, text, text, text]]}
        rows.append(
            build_record(
                id=f"{number} {text}",
                tier=f"documented {text[:200]}",
                gpu={"gfx": f"gfx942 {text[:200]}", "aiter": text},
                env={f"NAME {text}": text},
                request={"head_size": text, text[:100]: text},
                expect={"words": text},
                outcome={"kind": "crashed", "words": text, part: shown[part]},
                verdict=("fail", "crash", "advisory")[number % 3],
                message=text,
                source=text,
                environment_written=[text],
                again=text,
                details={
                    "note": text,
                    text[:100]: [text, {"deep": text}],
                    "findings": [{"condition": text, "cells": 3, "smallest": {"a": text}}],
                },
            )
        )
    subject = {"name": HOSTILE[0], "distribution": HOSTILE[2], "version": HOSTILE[4]}
    contract = {"id": HOSTILE[0], "title": HOSTILE[1], "source": HOSTILE[2]}
    host = {"kind": HOSTILE[0], "python": HOSTILE[2]}
    fields = ("level", "rule", "where", "expected", "got", "smallest", "again")
    summary = {
        "tier": HOSTILE[0],
        "told": list(HOSTILE),
        "conditions": [dict.fromkeys(fields, text) | {"cells": 3} for text in HOSTILE],
    }
    return build_report(
        *rows,
        selector=subject,
        contract=contract,
        host=host,
        notes=list(HOSTILE),
        summaries=[summary],
    )


def build_summary() -> dict[str, Any]:
    """Return what a grid came to: one condition that fails, one that is shown."""
    failing = {
        "level": "required",
        "rule": "explicit-choice-is-never-replaced",
        "where": "AITER=1 and an explicit backend is given",
        "expected": "the explicit one",
        "got": "ROCM_AITER_FA",
        "cells": 18_432,
        "smallest": "AITER=1 BACKEND=TRITON_ATTN; gfx942, aiter present; a plain layer",
        "again": "python -m pytest --rocm-attn-cell=117 'rocm-attn::grid::mla[gfx942]'",
    }
    shown = failing | {"level": "advisory", "rule": "the-reference", "where": "block_size 1"}
    told = ["1,169,864 of 1,169,864 cells answered in 106 slices"]
    return {"tier": "grid", "told": told, "conditions": [failing, shown]}


@pytest.fixture
def record() -> Any:
    """The function that builds one record."""
    return build_record


@pytest.fixture
def report() -> Any:
    """The function that builds a report of records."""
    return build_report


@pytest.fixture
def summary() -> dict[str, Any]:
    """What a grid came to."""
    return build_summary()


@pytest.fixture
def hostile() -> dict[str, Any]:
    """A report with hostile text in every field."""
    return build_hostile()
