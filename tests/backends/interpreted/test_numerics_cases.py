"""The shipped numerics cases on our backends, in Triton's interpreter: some always, all with -m slow."""

from __future__ import annotations

import pytest
import torch

from pytest_rocm_attn.conformance import adapters
from pytest_rocm_attn.conformance.tiers.numerics.case import Case, shipped
from pytest_rocm_attn.conformance.tiers.numerics.judge import examine
from pytest_rocm_attn.conformance.tiers.numerics.subjects import REFERENCES, BackendUnderTest, named
from pytest_rocm_attn.request import Request

# NumPy, which interprets, warns of arithmetic with NaN and infinities: some cases are made of it.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{words}.*:RuntimeWarning")
    for words in ("invalid value encountered", "All-NaN slice")
]

# One of each kind of trouble: what the others vary is a dtype, a size, a scale.
ALWAYS = [
    "decode-on-both-sides-of-every-tile-edge-float32",
    "prefill-on-both-sides-of-every-tile-edge-bfloat16",
    "mixed-batch-float16",
    "one-long-decode-bfloat16",
    "nothing-but-requests-without-new-tokens",
    "heads-in-groups-num-kv-heads-4",
    "a-group-of-more-heads-than-a-block-has-rows",
    "head-size-80",
    "sliding-window-33",
    "both-directions-with-a-window-sliding-window-5",
    "soft-cap-1.5-float16",
    "alibi-float16",
    "sinks-bfloat16",
    "alibi-with-sinks-on-chunks",
    "block-size-not-a-power-of-two-48",
    "fp8-cache-with-every-feature-e4m3fnuz",
    "fp8-cache-e4m3fn-float16",
    "strided-tensors-head-size-80-bfloat16",
    "cache-with-heads-before-slots-fp8",
    "each-request-as-if-alone-bfloat16",
    "mla-decode-on-both-sides-of-every-tile-edge-bfloat16",
    "mla-prefill-of-a-context-chunk",
    "mla-decode-of-each-request-as-if-alone",
    "decode-with-a-visible-plus-inf-key",
    "split-decode-with-a-visible-nan-key",
    "chunks-with-a-visible-minus-inf-key",
    "in-both-directions-a-visible-plus-inf-value",
    "a-sink-of-plus-inf",
    "fp8-cache-with-a-scale-of-minus-inf-v-scale",
    "each-request-as-if-alone-with-a-visible-nan-value",
    "mla-split-decode-with-a-visible-nan-query",
    "mla-prefill-with-a-visible-plus-inf-key",
]
# ROCM_ATTN runs the same kernels over another layout; FLEX_ATTENTION has tests of its own, without Triton.
ALWAYS_ROCM_ATTN = [
    "decode-on-both-sides-of-every-tile-edge-float16",
    "mixed-batch-bfloat16",
    "sinks-with-a-window",
    "fp8-cache-e4m3fnuz-bfloat16",
    "split-decode-with-a-visible-nan-key",
    "chunks-with-a-visible-nan-key",
]
ROCM_ATTN_HEAD_SIZES = (
    32,
    64,
    80,
    96,
    128,
    160,
    192,
    224,
    256,
)  # docs/reference/backends.md#declared, #rocm-attn
CPU = torch.device("cpu")


def always(backend: BackendUnderTest, case: Case) -> bool:
    return case.id in (ALWAYS_ROCM_ATTN if backend.name == "ROCM_ATTN" else ALWAYS)


def reason_to_decline(backend: BackendUnderTest, case: Case) -> str:
    """Return words of the reason for which a backend must decline a case; "": it must not."""
    if case.kind == "mla-decode" and case.request.num_heads < 16:
        return "16 to 128"
    if backend.name == "ROCM_ATTN" and case.request.head_size not in ROCM_ATTN_HEAD_SIZES:
        return f"head size {case.request.head_size}"
    return ""


PAIRS = [
    pytest.param(
        backend,
        case,
        id=f"{backend.name} {case.id}",
        marks=() if always(backend, case) else (pytest.mark.slow,),
    )
    for backend in REFERENCES
    for case in shipped()
    if backend.takes(case) and not case.needs and backend.name != "FLEX_ATTENTION"
]


@pytest.mark.parametrize(("backend", "case"), PAIRS)
def test_a_case_is_right(backend: BackendUnderTest, case: Case) -> None:
    solver = adapters.load(backend.spec)
    assert isinstance(solver, type)
    finding = examine(solver(), case, CPU)
    if reason := reason_to_decline(backend, case):
        assert finding.kind == "declined"
        assert reason in finding.words
    else:
        assert finding.kind == "right", finding.words


@pytest.mark.parametrize("new", [1, 3, 33, 70])
def test_a_tile_of_keys_that_are_all_infinite_has_no_weight(new: int) -> None:
    """All scores of a head's first tiles are -inf, or +inf: inf - inf is NaN, and must not be met."""
    case = Case(
        id="a-tile-of-infinite-keys",
        why="the maximum of a tile is infinite",
        kind="attention",
        request=Request(num_heads=2, num_kv_heads=1, head_size=64, dtype="float16"),
        lengths=((new, 100),),
        score=1.0,
        special="minus-inf",
        special_at=tuple((0, position) for position in range(70)),  # more than two tiles
    )
    for backend in ("TRITON_ATTN", "ROCM_ATTN"):
        solver = adapters.load(named(backend).spec)
        assert isinstance(solver, type)
        finding = examine(solver(), case, CPU)
        assert finding.kind == "right", finding.words


def test_every_name_is_a_case() -> None:
    known = {case.id for case in shipped()}
    assert sorted({*ALWAYS, *ALWAYS_ROCM_ATTN} - known) == []
