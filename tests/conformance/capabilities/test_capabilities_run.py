"""``--rocm-attn-tier=capabilities`` as a user meets it, on the tiny fork and on other selectors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

# Imported here so that the in-process runs below share one copy; see tests/plugin.
from pytest_rocm_attn.conformance import contract, deviations, session
from pytest_rocm_attn.conformance.tiers import capabilities

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., pytest.RunResult]


_KEPT = (capabilities, contract, deviations, session)


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """A function that runs the tier on gfx942, with more options."""

    def run(selector: str, *options: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess(
            "--rocm-attn-conformance",
            "--rocm-attn-tier=capabilities",
            f"--rocm-attn-selector={selector}",
            "--rocm-attn-gpu=gfx942",
            "--rocm-attn-timeout=20",
            "-p",
            "no:randomly",
            *options,
        )

    return run


def test_items_fall_short_pass_or_do_not_apply(
    run: Run, pytester: pytest.Pytester, write_tiny_fork: Callable[[Path], str]
) -> None:
    pytest.importorskip("torch")
    selector = write_tiny_fork(pytester.path)
    pytester.syspathinsert()
    tier = "rocm-attn::capabilities::"
    ids = [
        f"{tier}{name}[gfx942]"
        for name in (
            "rocm-attn-has-a-cache-for-its-block-sizes",
            "triton-attn-has-a-cache-for-its-block-sizes",
            "rocm-aiter-unified-attn-imports",
            "rocm-aiter-triton-mla-imports",
            "sinks-build-with-aiter-on",
            "sinks-build-by-default",
            "block-sizes-build-with-rocm-attn-named",
            "sparse-mla-takes-no-more-heads-than-dense",
            "spec-decode-needs-no-aiter",
            "rocm-attn-refuses-a-soft-cap",
            "triton-attn-takes-its-head-sizes",
            "triton-attn-takes-sinks",
        )
    ]
    (pytester.path / "dev.toml").write_text(
        '[[deviation]]\nmatch = "rocm-attn-has-a-cache-*"\nreason = "ours"\nlink = "#1"\n'
        '[[deviation]]\nmatch = "sinks-build-by-default"\nreason = "ours"\nlink = "#2"\n'
    )
    result = run(
        selector, *ids, "-rs", "--rocm-attn-report=out.json", "--rocm-attn-deviations=dev.toml"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    rows = json.loads((pytester.path / "out.json").read_text())["rows"]
    verdicts = {row["id"]: row["verdict"] for row in rows}
    assert verdicts == {
        "rocm-attn-has-a-cache-for-its-block-sizes": "deviation",
        "triton-attn-has-a-cache-for-its-block-sizes": "pass",
        "rocm-aiter-unified-attn-imports": "crash",
        "sinks-build-with-aiter-on": "crash",
        "sinks-build-by-default": "stale",
        "block-sizes-build-with-rocm-attn-named": "fail",
        "sparse-mla-takes-no-more-heads-than-dense": "fail",
        "spec-decode-needs-no-aiter": "crash",
        "rocm-attn-refuses-a-soft-cap": "advisory",
        "triton-attn-takes-its-head-sizes": "fail",
        "triton-attn-takes-sinks": "pass",
    }
    messages = {row["id"]: row["message"] for row in rows}
    assert messages["block-sizes-build-with-rocm-attn-named"] == (
        "ROCM_ATTN is selected and cannot be built: calling get_kv_cache_shape() as the runner"
        " does: ValueError: Block size must be a multiple of 16. (for block_size=1, block_size=8)"
    )
    assert messages["sparse-mla-takes-no-more-heads-than-dense"] == (
        "ROCM_AITER_MLA_SPARSE is built with head counts that ROCM_AITER_MLA, which calls the same"
        " kernel, refuses (for num_heads=4, num_heads=8, num_heads=12, num_heads=24, num_heads=32,"
        " num_heads=48, and 1 more)"
    )
    assert (
        "declares that it does not take it (for head_size=32"
        in messages["triton-attn-takes-its-head-sizes"]
    )
    result.stdout.fnmatch_lines(["*SKIP*not applicable*no backend ROCM_AITER_TRITON_MLA*"])


def test_the_reference_has_nothing_to_build_and_the_header_says_so(run: Run) -> None:
    result = run("pytest_rocm_attn.backends:select")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["rocm-attn: tier capabilities does not apply*pure function*"])


PLAIN = """
class Plain:
    def select(self, request):
        return "TRITON_ATTN"
"""
BUILDING = (
    PLAIN
    + """
    def construct(self, request, backend):
        if request.num_heads == 12:
            raise NotImplementedError(f"{backend} has no 12 heads")
"""
)
HEADS = "rocm-attn::capabilities::head-counts-build-by-default[gfx942]"


def test_a_selector_without_construct_is_said_not_to_apply(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(plain=PLAIN)
    result = run("plain.py:Plain", HEADS, "-rs")
    assert result.parseoutcomes() == {"skipped": 1}
    result.stdout.fnmatch_lines(["*not applicable: *no construct()*docs/adapters.md*"])


def test_a_construct_of_ones_own_is_asked(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(building=BUILDING)
    result = run("building.py:Plain", HEADS)
    assert result.parseoutcomes() == {"failed": 1}
    result.stdout.fnmatch_lines(
        ["FAIL *TRITON_ATTN is selected and cannot be built: construct(): NotImplementedError:*"]
    )


def test_a_construct_that_cannot_be_called_is_refused_in_one_line(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(odd=PLAIN + "    def construct(self, weights):\n        pass\n")
    result = run("odd.py:Plain", HEADS)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (error,) = (line for line in result.errlines if line.startswith("ERROR: "))
    assert "construct()" in error
    assert "it requires weights" in error
