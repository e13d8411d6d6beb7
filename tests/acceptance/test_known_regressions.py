"""Reported ROCm attention defects: each one that a selector can show is caught by a tier. Slow.

The cases are those of known-regressions.md as of 2026-11-24; docs/detection.md has a row for every
one of them, and says why where nothing here catches it. A case is run against the release that is
named bad, or against a release patched to have the defect, and against a good one.

ROCM_ATTN_VLLM_DIR and ROCM_ATTN_PYTHON as in test_real_vllm.py; ROCM_ATTN_FACTS (default
/work/shared/facts) may hold known-regressions.md itself.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

RELEASES = Path(os.environ.get("ROCM_ATTN_VLLM_DIR", "/work/vllm"))
PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)
FACTS = Path(os.environ.get("ROCM_ATTN_FACTS", "/work/shared/facts")) / "known-regressions.md"
DETECTION = Path(__file__).parents[2] / "docs" / "detection.md"

PLATFORM = "vllm.platforms.rocm:RocmPlatform"
CHAIN = "vllm.attention.selector:get_attn_backend"  # where it was up to 0.14.1

# Patches: source that imports vLLM, gives it the defect, and holds the selector.
FLEX_BRANCH_LOST = """
    import ast, inspect, textwrap
    from vllm.platforms import rocm
    class Lost(ast.NodeTransformer):
        def visit_If(self, node):
            self.generic_visit(node)
            return None if "FLEX_ATTENTION" in ast.unparse(node.test) else node
    source = textwrap.dedent(inspect.getsource(rocm.RocmPlatform.get_attn_backend_cls))
    tree = ast.fix_missing_locations(Lost().visit(ast.parse(source)))
    made = {}
    exec(compile(tree, "patched", "exec"), vars(rocm), made)
    rocm.RocmPlatform.get_attn_backend_cls = made["get_attn_backend_cls"]
    selector = rocm.RocmPlatform
"""
WRONG_NAMES_IGNORED = """
    import os
    from vllm import envs
    from vllm.attention.backends.registry import AttentionBackendEnum
    from vllm.attention.selector import get_attn_backend as selector
    def read():
        name = os.environ.get("VLLM_ATTENTION_BACKEND")
        return name if name in AttentionBackendEnum.__members__ else None
    envs.environment_variables["VLLM_ATTENTION_BACKEND"] = read
"""
CACHE_DTYPES_LOST = """
    from vllm.platforms.rocm import RocmPlatform as selector
    from vllm.v1.attention.backends.mla.rocm_aiter_mla import AiterMLABackend
    from vllm.v1.attention.backends.rocm_attn import RocmAttentionBackend
    for backend in (AiterMLABackend, RocmAttentionBackend):
        del backend.supported_kv_cache_dtypes
"""
HYBRID_BLOCKS_REFUSED = """
    from vllm.platforms.rocm import RocmPlatform as selector
    from vllm.v1.attention.backends.rocm_aiter_unified_attn import RocmAiterUnifiedAttentionBackend
    from vllm.v1.attention.backends.rocm_attn import RocmAttentionBackend
    from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend
    def few(cls, block_size):
        return block_size is None or block_size in (16, 32, 64, 128, 256)
    for backend in (
        RocmAiterUnifiedAttentionBackend, RocmAttentionBackend, TritonAttentionBackend
    ):
        backend.supports_block_size = classmethod(few)
"""
ANOTHER_CALL = """
    from vllm.platforms import rocm
    class selector(rocm.RocmPlatform):
        __module__ = rocm.__name__
        @classmethod
        def get_attn_backend_cls(cls, selected_backend, a_bundle_of_the_future):
            raise AssertionError("nobody knows how to call this")
"""
BROKEN_LATE_IMPORT = """
    from vllm.platforms import rocm
    class selector(rocm.RocmPlatform):
        __module__ = rocm.__name__
        @classmethod
        def get_attn_backend_cls(cls, selected_backend, head_size, dtype, kv_cache_dtype,
                                 block_size, use_mla, has_sink, use_sparse, attn_type=None):
            from vllm.attention.selector import backend_name_to_enum_of_the_past
"""


@dataclass(frozen=True)
class Subject:
    """A selector under test: a release, patched or not, at one depth."""

    release: str
    selector: str = PLATFORM
    patch: str = ""


@dataclass(frozen=True)
class Case:
    """How a reported defect is caught.

    Attributes:
        id: of known-regressions.md.
        bad: has the defect.
        good: does not.
        items: the rows or laws that must fall short, without "rocm-attn::TIER::".
        wrong: what the bad one does, as the report words it.
        tier, contract: what is run.
    """

    id: str
    bad: Subject
    good: Subject
    items: tuple[str, ...]
    wrong: str
    tier: str = "documented"
    contract: str = "pr-26980"


KNOWN = "known-regressions"
CASES = (
    Case(
        "sel-explicit-overridden-by-aiter",
        Subject("0.11.2"),
        Subject("0.12.0"),
        (
            "explicit-triton-attn-wins-over-aiter[gfx942]",
            "explicit-rocm-attn-wins-over-aiter[gfx942]",
            "explicit-aiter-unified-wins-over-aiter[gfx942]",
        ),
        "ROCM_AITER_FA",
    ),
    Case(
        "sel-explicit-overridden-by-aiter",
        Subject("0.11.2"),
        Subject("0.12.0"),
        ("an-explicit-choice-is-taken-or-refused-never-replaced[gfx942]",),
        "TRITON_ATTN was named, ROCM_AITER_FA was selected",
        tier="invariants",
    ),
    Case(
        "sel-flex-branch-lost",
        Subject("0.12.0", patch=FLEX_BRANCH_LOST),
        Subject("0.12.0"),
        ("explicit-flex-attention-is-honoured[gfx942]",),
        "FLEX_ATTENTION is not supported on ROCm",
    ),
    Case(
        "sel-aiter-fa-below-rocm-attn",
        Subject("0.22.1"),
        Subject("0.18.1"),
        ("aiter-gives-aiter-fa[gfx942]", "aiter-gives-aiter-fa[gfx950]"),
        "ROCM_ATTN",
    ),
    Case(
        "sel-sinks-with-aiter-fall-to-triton",
        Subject("0.18.1"),
        Subject("0.22.1"),
        ("aiter-with-sinks-gives-aiter-unified[gfx942]",),
        "TRITON_ATTN",
        contract=KNOWN,
    ),
    Case(
        "sel-gfx11-rocm-attn-first",
        Subject("0.22.1"),
        Subject("0.18.1"),
        (
            "triton-attn-is-the-default-for-fp16[gfx1100]",
            "triton-attn-is-the-default-for-fp16[gfx1201]",
        ),
        "ROCM_ATTN",
    ),
    Case(
        "sel-rdna4-unified-forced",
        Subject("0.29.0"),
        Subject("0.18.1"),
        ("aiter-unified-attention-switched-off-is-not-chosen-by-itself[gfx1201]",),
        "ROCM_AITER_UNIFIED_ATTN was selected by itself",
        tier="invariants",
    ),
    Case(
        "sel-gfx90a-aiter",
        Subject("0.12.0"),
        Subject("0.22.1"),
        ("aiter-gives-mi200-no-aiter-mla-for-block-size-1[gfx90a]",),
        "ROCM_AITER_MLA",
        contract=KNOWN,
    ),
    Case(
        "sel-invalid-name-ignored",
        Subject("0.12.0", CHAIN, WRONG_NAMES_IGNORED),
        Subject("0.12.0", CHAIN),
        (
            "an-unknown-backend-name-is-refused-and-the-valid-names-are-listed[gfx942]",
            "a-backend-name-in-lower-case-is-refused[gfx942]",
            "an-empty-backend-name-is-refused[gfx942]",
            "a-backend-name-with-a-blank-is-refused[gfx942]",
        ),
        "TRITON_ATTN",
    ),
    Case(
        "cap-kv-dtype-lost",
        Subject("0.18.1", patch=CACHE_DTYPES_LOST),
        Subject("0.18.1"),
        (
            "explicit-aiter-mla-takes-an-fp8-cache[gfx942]",
            "explicit-rocm-attn-takes-an-fp8-cache[gfx942]",
        ),
        "kv_cache_dtype not supported",
        contract=KNOWN,
    ),
    Case(
        "cap-hybrid-block-refused",
        Subject("0.22.1", patch=HYBRID_BLOCKS_REFUSED),
        Subject("0.22.1"),
        (
            "explicit-triton-attn-takes-the-blocks-of-hybrid-models[gfx942]",
            "explicit-rocm-attn-takes-the-blocks-of-hybrid-models[gfx942]",
            "explicit-aiter-unified-takes-the-blocks-of-hybrid-models[gfx942]",
        ),
        "block_size",
        contract=KNOWN,
    ),
    Case(
        "cap-cross-attn-accepted-wrongly",
        Subject("0.18.1"),
        Subject("0.22.1"),
        (
            "explicit-rocm-attn-refuses-cross-attention[gfx942]",
            "aiter-gives-aiter-unified-for-cross-attention[gfx942]",
        ),
        "ROCM_A",
        contract=KNOWN,
    ),
    Case(
        "itf-stale-selector-cache",
        Subject("0.12.0", CHAIN),
        Subject("0.13.0", CHAIN),
        ("a-changed-backend-name-is-followed[gfx942]",),
        "remembered by the cache vllm.attention.selector._cached_get_attn_backend",
        tier="invariants",
    ),
    Case(
        "itf-selector-call-changed",
        Subject("0.12.0", patch=ANOTHER_CALL),
        Subject("0.12.0"),
        ("explicit-triton-attn-is-honoured[gfx942]",),
        "requires a_bundle_of_the_future, which no known calling convention",
    ),
    Case(
        "itf-platform-broken-import",
        Subject("0.12.0", patch=BROKEN_LATE_IMPORT),
        Subject("0.12.0"),
        ("explicit-triton-attn-is-honoured[gfx942]",),
        "ImportError",
    ),
)


@functools.cache
def rows(subject: Subject, tier: str, contract: str) -> dict[str, dict[str, object]]:
    """Run every item that a case has for this subject, once; return the report's rows by name."""
    if not (RELEASES / subject.release).is_dir():
        pytest.skip(f"vLLM {subject.release} is not unpacked in {RELEASES}; see docs/real-vllm.md")
    wanted = [
        f"rocm-attn::{tier}::{item}"
        for case in CASES
        if subject in (case.bad, case.good) and (case.tier, case.contract) == (tier, contract)
        for item in case.items
    ]
    with tempfile.TemporaryDirectory() as folder:
        selector = subject.selector
        if subject.patch:
            patched = Path(folder) / "patched.py"
            patched.write_text(textwrap.dedent(subject.patch), "utf-8")
            selector = f"{patched}:selector"
        report = Path(folder) / "report.json"
        done = subprocess.run(
            [
                PYTHON,
                *("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rocm-attn-conformance"),
                *(f"--rocm-attn-tier={tier}", f"--rocm-attn-contract={contract}"),
                *(f"--rocm-attn-selector={selector}", f"--rocm-attn-report={report}"),
                *dict.fromkeys(wanted),
            ],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(RELEASES / subject.release)},
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )
        assert report.exists(), done.stdout + done.stderr
        found = json.loads(report.read_text("utf-8"))["rows"]
    return {f"{row['id']}[{row['gpu']['gfx']}]": row for row in found}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.id} by {case.tier}")
def test_the_defect_is_caught_where_it_is_and_nowhere_else(case: Case) -> None:
    bad = rows(case.bad, case.tier, case.contract)
    good = rows(case.good, case.tier, case.contract)
    for item in case.items:
        assert bad[item]["verdict"] in ("fail", "crash", "advisory"), item
        assert case.wrong in bad[item]["outcome"]["words"], item  # type: ignore[index]
        assert good[item]["verdict"] == "pass", (item, good[item]["outcome"])


def documented() -> dict[str, str]:
    """Return docs/detection.md's table of cases: id -> how it is caught."""
    lines = DETECTION.read_text("utf-8").splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("| ")]
    found = [
        (row[1], row[2]) for row in cells if re.fullmatch(r"(sel|vit|cap|itf|fit)-[\w-]+", row[1])
    ]
    assert len(found) == len(dict(found)), "a case has two rows"
    return dict(found)


def test_every_case_that_is_caught_here_is_said_to_be_and_no_other() -> None:
    caught = {name for name, how in documented().items() if how.startswith("yes")}
    assert caught == {case.id for case in CASES}


def test_no_case_is_silently_missing() -> None:
    if not FACTS.is_file():
        pytest.skip(f"{FACTS} is not here; docs/detection.md holds its cases as of 2026-11-24")
    listed = re.findall(r"^### ([\w-]+)$", FACTS.read_text("utf-8"), flags=re.MULTILINE)
    assert sorted(documented()) == sorted(listed)
