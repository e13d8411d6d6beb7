"""``--rocm-attn-tier=capabilities`` as a user meets it, on the tiny fork and on other selectors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.conformance.promise import contract, deviations
from pytest_rocm_attn.conformance.run import session
from pytest_rocm_attn.conformance.tiers.capabilities import tier as capabilities

# Imported here so that the in-process runs below share one copy; see tests/plugin.

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., pytest.RunResult]


_KEPT = (capabilities, contract, deviations, session)
EVERY_GPU = "--rocm-attn-gpu=gfx90a,gfx942,gfx950,gfx1100,gfx1201"


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """A function that runs the tier on gfx942, with more options; no release's defects are excused."""

    def run(selector: str, *options: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess(
            "--rocm-attn-conformance",
            "--rocm-attn-tier=capabilities",
            "--rocm-attn-contract=pr-26980",
            f"--rocm-attn-selector={selector}",
            "--rocm-attn-gpu=gfx942",
            "--rocm-attn-timeout=20",
            "-p",
            "no:randomly",
            *options,
        )

    return run


@pytest.mark.usefixtures("with_torch")
def test_items_fall_short_pass_or_do_not_apply(
    run: Run, pytester: pytest.Pytester, write_tiny_fork: Callable[[Path], str]
) -> None:
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
            "rocm-aiter-unified-attn-takes-sinks",
        )
    ]
    (pytester.path / "dev.toml").write_text(
        '[[deviation]]\nmatch = "rocm-attn-has-a-cache-*"\nanswer = "wrong"\n'
        'reason = "ours"\nlink = "#1"\n'
        '[[deviation]]\nmatch = "sinks-build-by-default"\nanswer = "crash"\n'
        'reason = "ours"\nlink = "#2"\n'
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
        "rocm-aiter-unified-attn-takes-sinks": "fail",  # it gives way to one that crashes
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


@pytest.mark.usefixtures("with_torch")
def test_items_about_the_server_fall_short_pass_or_do_not_apply(
    run: Run, pytester: pytest.Pytester, write_tiny_fork: Callable[[Path], str]
) -> None:
    selector = write_tiny_fork(pytester.path)
    pytester.syspathinsert()
    names = (
        "the-platform-imports-without-the-runtime",
        "the-platform-is-found-where-amdsmi-is-whole",
        "the-platform-is-found-where-amdsmi-is-empty",
        "the-platform-is-found-where-amdsmi-is-broken",
        "the-platform-is-found-where-amdsmi-is-absent",
        "rocm-aiter-fa-has-one-cache-block-however-chosen",
        "triton-attn-has-one-cache-block-however-chosen",
        "flex-attention-has-one-cache-block-however-chosen",
        "rocm-aiter-mla-sparse-finds-its-functions-with-aiter-off",
        "rocm-aiter-fa-finds-its-functions-with-aiter-off",
        "rocm-aiter-unified-attn-finds-its-functions-with-aiter-off",
        "rocm-attn-tells-its-kernels-apart",
        "vision-takes-the-backend-that-is-named",
        "vision-by-default-is-supported",
    )
    ids = [f"rocm-attn::capabilities::{name}[gfx942]" for name in names]
    ids.append("rocm-attn::capabilities::vision-by-default-is-no-sdpa-on-rdna[gfx1100]")
    result = run(selector, *ids, "-rs", "--rocm-attn-report=out.json", EVERY_GPU)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    rows = json.loads((pytester.path / "out.json").read_text())["rows"]
    told = {row["id"]: (row["verdict"], row["message"]) for row in rows}
    assert {name: verdict for name, (verdict, _) in told.items()} == {
        "the-platform-imports-without-the-runtime": "pass",
        "the-platform-is-found-where-amdsmi-is-whole": "pass",
        "the-platform-is-found-where-amdsmi-is-empty": "advisory",
        "the-platform-is-found-where-amdsmi-is-broken": "advisory",
        "the-platform-is-found-where-amdsmi-is-absent": "pass",
        "rocm-aiter-fa-has-one-cache-block-however-chosen": "fail",
        "triton-attn-has-one-cache-block-however-chosen": "pass",
        "rocm-aiter-mla-sparse-finds-its-functions-with-aiter-off": "fail",
        "rocm-attn-tells-its-kernels-apart": "fail",
        "vision-takes-the-backend-that-is-named": "fail",
        "vision-by-default-is-supported": "fail",
        "vision-by-default-is-no-sdpa-on-rdna": "advisory",
    }
    messages = {name: message for name, (_, message) in told.items()}
    assert messages["rocm-aiter-fa-has-one-cache-block-however-chosen"] == (
        "ROCM_AITER_FA's cache blocks differ by how it is chosen: 64 with VLLM_ROCM_USE_AITER=1;"
        " 16 with VLLM_ATTENTION_BACKEND=ROCM_AITER_FA"
    )
    assert messages["rocm-aiter-mla-sparse-finds-its-functions-with-aiter-off"] == (
        "ROCM_AITER_MLA_SPARSE refers to what is there only with AITER on (for"
        " rocm_aiter_ops.sparse_decode in v1.attention.backends.sparse.SparseImpl.decode)"
    )
    assert messages["vision-takes-the-backend-that-is-named"].startswith(
        "TRITON_ATTN, named for vision layers, gives way to ROCM_AITER_FA (for"
    )
    assert messages["vision-by-default-is-supported"] == (
        "vision layers are given ROCM_ATTN, which is not listed (for head_size=80)"
    )
    assert "Unspecified" in messages["the-platform-is-found-where-amdsmi-is-empty"]
    result.stdout.fnmatch_lines_random(
        [
            "*SKIP*not applicable: FLEX_ATTENTION is chosen in one way at most",
            "*SKIP*not applicable: ROCM_AITER_FA is not built with AITER on: *",
            "*SKIP*not applicable: ROCM_AITER_UNIFIED_ATTN gives way to TRITON_ATTN with AITER on",
        ]
    )


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


@pytest.mark.usefixtures("without_torch")
def test_a_selector_without_construct_is_said_not_to_apply(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(plain=PLAIN)
    result = run("plain.py:Plain", HEADS, "-rs")
    assert result.parseoutcomes() == {"skipped": 1}
    result.stdout.fnmatch_lines(["*not applicable: *no construct()*docs/adapters.md*"])


IMPORTS = "rocm-attn::capabilities::the-platform-imports-without-the-runtime[gfx942]"


@pytest.mark.usefixtures("with_torch")
def test_a_selector_whose_import_starts_the_runtime_is_found_with_the_line(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(eager="import torch\ntorch.cuda.get_device_name()\n" + PLAIN)
    result = run("eager.py:Plain", IMPORTS)
    assert result.parseoutcomes() == {"failed": 1}
    result.stdout.fnmatch_lines(
        ["FAIL *starts the device's runtime: torch.cuda.get_device_name(), called at *eager:2 *"]
    )


@pytest.mark.usefixtures("without_torch")
def test_a_construct_of_ones_own_is_asked(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(building=BUILDING)
    result = run("building.py:Plain", HEADS)
    assert result.parseoutcomes() == {"failed": 1}
    result.stdout.fnmatch_lines(
        ["FAIL *TRITON_ATTN is selected and cannot be built: construct(): NotImplementedError:*"]
    )


@pytest.mark.usefixtures("without_torch")
def test_a_construct_that_cannot_be_called_is_refused_in_one_line(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(odd=PLAIN + "    def construct(self, weights):\n        pass\n")
    result = run("odd.py:Plain", HEADS)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (error,) = (line for line in result.errlines if line.startswith("ERROR: "))
    assert "construct()" in error
    assert "it requires weights" in error
