"""The judge passes the oracle's own answers and finds every fault, and says where it lies.

Backends here are plain torch: the judge's own tests need no Triton.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_rocm_attn.conformance.tiers.numerics.build import build
from pytest_rocm_attn.conformance.tiers.numerics.case import Case, shipped
from pytest_rocm_attn.conformance.tiers.numerics.judge import examine, reference_of
from pytest_rocm_attn.conformance.tiers.numerics.subjects import OVER_AITER, REFERENCES, parse
from pytest_rocm_attn.problem import MlaDecode, MlaPrefill, PagedAttention

CPU = torch.device("cpu")
CASES = {case.id: case for case in shipped()}


class Exact:
    """The oracle's answer, rounded to the output's dtype."""

    batch_invariant = True

    def attend(self, problem: PagedAttention) -> None:
        problem.out.copy_(reference_of(problem).out)

    def mla_decode(self, problem: MlaDecode) -> None:
        problem.out.copy_(reference_of(problem).out)

    def mla_prefill(self, problem: MlaPrefill) -> None:
        reference = reference_of(problem)
        problem.out.copy_(reference.out)
        problem.lse.copy_(reference.lse)


ALWAYS = [
    "mixed-batch-bfloat16",
    "sinks-with-a-window",
    "fp8-cache-e4m3fnuz-float16",
    "strided-tensors-head-size-80-float16",
    "cache-with-heads-before-slots-fp8",
    "mla-decode-with-strided-tensors",
    "mla-prefill-of-a-context-chunk",
    "nothing-but-requests-without-new-tokens",
    "chunks-with-a-visible-value-of-minus-inf-bfloat16",
    "a-sink-of-plus-inf",
    "mla-prefill-with-a-visible-plus-inf-key",
]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.id, marks=() if case.id in ALWAYS else (pytest.mark.slow,))
        for case in CASES.values()
        if not case.needs
    ],
)
def test_the_exact_answer_is_right(case: Case) -> None:
    finding = examine(Exact(), case, CPU)
    assert finding.kind == "right", finding.words


class Wrong(Exact):
    """Exact arithmetic on a problem that was changed before."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def attend(self, problem: PagedAttention) -> None:
        changes = {
            name: change(getattr(problem, name)) if callable(change) else change
            for name, change in self.changes.items()
        }
        problem.out.copy_(reference_of(replace(problem, **changes)).out)


# A fault, and a case that is there to catch it.
FAULTS = {
    "the last key is left out": (
        Wrong(seq_lens=lambda n: (n - 1).clamp(min=0), causal=False),
        "one-long-decode-bfloat16",
    ),
    "no ALiBi": (Wrong(alibi_slopes=None), "alibi-bfloat16"),
    "no sinks": (Wrong(sinks=None), "sinks-bfloat16"),
    "a scaled sink": (Wrong(sinks=lambda sinks: sinks / 8), "sinks-bfloat16"),
    "no soft cap": (Wrong(soft_cap=None), "soft-cap-1.5-bfloat16"),
    "no soft cap where few scores reach it": (Wrong(soft_cap=None), "soft-cap-30.0-float16"),
    "no window": (Wrong(window=None), "sliding-window-on-long-decodes"),
    "a window one too wide": (Wrong(window=lambda w: w + 1), "sliding-window-on-long-decodes"),
    "a window one too narrow": (Wrong(window=lambda w: w - 1), "sliding-window-on-long-decodes"),
    "a window one too wide for a tile": (Wrong(window=17), "sliding-window-16"),
    "a scale 1% too large": (Wrong(scale=lambda s: 1.01 * s), "mixed-batch-bfloat16"),
    "no k_scale": (Wrong(k_scale=torch.tensor(1.0)), "fp8-cache-e4m3fn-bfloat16"),
    "no v_scale": (Wrong(v_scale=torch.tensor(1.0)), "fp8-cache-e4m3fn-bfloat16"),
    "the other fp8": (
        Wrong(
            key_cache=lambda cache: cache.view(torch.float8_e4m3fn),
            value_cache=lambda cache: cache.view(torch.float8_e4m3fn),
        ),
        "fp8-cache-e4m3fnuz-bfloat16",
    ),
    "no causality": (Wrong(causal=False), "chunked-prefill"),
    "causality": (Wrong(causal=True), "both-directions"),
    "the table read backwards": (
        Wrong(block_table=lambda table: table.flip(1)),
        "one-long-decode-bfloat16",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str) -> None:
    backend, case = FAULTS[fault]
    finding = examine(backend, CASES[case], CPU)
    assert finding.kind == "wrong"
    assert finding.ratio > 1


class Losing(Exact):
    """Exact, but for a comparison that is false for NaN: such scores have no weight."""

    def attend(self, problem: PagedAttention) -> None:
        finite = {
            name: getattr(problem, name).nan_to_num(0.0, 0.0, 0.0)
            for name in ("query", "key_cache", "value_cache")
        }
        problem.out.copy_(reference_of(replace(problem, **finite)).out)


@pytest.mark.parametrize("where", ["query", "key", "value"])
@pytest.mark.parametrize("number", ["nan", "plus-inf", "minus-inf"])
@pytest.mark.parametrize("batch", ["decode", "split-decode"])
def test_a_kernel_that_loses_what_is_not_finite_is_wrong(
    batch: str, number: str, where: str
) -> None:
    case = CASES[f"{batch}-with-a-visible-{number}-{where}"]
    assert examine(Exact(), case, CPU).kind == "right"
    finding = examine(Losing(), case, CPU)
    assert finding.kind == "wrong"
    assert "not finite" in finding.words


def test_an_infinity_of_the_other_sign_is_wrong() -> None:
    class Flipped(Exact):
        def attend(self, problem: PagedAttention) -> None:
            super().attend(problem)
            problem.out[problem.out == torch.inf] = -torch.inf

    finding = examine(Flipped(), CASES["decode-with-a-visible-plus-inf-value"], CPU)
    assert finding.kind == "wrong"
    assert "got -inf, expected inf" in finding.words


def test_an_output_left_unwritten_is_not_taken_for_a_nan() -> None:
    class Idle(Exact):
        def attend(self, problem: PagedAttention) -> None:
            pass

    assert examine(Idle(), CASES["fp8-cache-with-a-scale-of-nan-k-scale"], CPU).kind == "wrong"


def test_ieee_semantics_bind_our_kernels_and_advise_others() -> None:
    case = CASES["decode-with-a-visible-nan-key"]
    assert {subject.level(case) for subject in REFERENCES} == {"required"}
    assert {subject.level(case) for subject in OVER_AITER} == {"advisory"}
    (foreign,) = parse("OURS=ours:Attention")
    assert foreign.level(case) == "advisory"
    assert foreign.level(CASES["chunked-prefill"]) == "required"


def test_the_words_say_where_and_how_much() -> None:
    class OneElement(Exact):
        def attend(self, problem: PagedAttention) -> None:
            super().attend(problem)
            problem.out[7, 1, 3] += 1.0

    finding = examine(OneElement(), CASES["chunked-prefill"], CPU)
    assert "out of request 1 (16 new of 48 tokens), new token 2, head 1, column 3" in finding.words
    assert "1 of 26624 elements are beyond" in finding.words
    assert "error 1" in finding.words


def test_an_element_that_was_not_written_is_found() -> None:
    class Forgetful(Exact):
        def attend(self, problem: PagedAttention) -> None:
            super().attend(problem)
            problem.out[-1, -1, -1] = torch.nan

    finding = examine(Forgetful(), CASES["chunked-prefill"], CPU)
    assert finding.kind == "wrong"
    assert "got nan" in finding.words


def test_a_wrong_log_sum_exp_is_found() -> None:
    class Base2(Exact):
        def mla_prefill(self, problem: MlaPrefill) -> None:
            super().mla_prefill(problem)
            problem.lse.mul_(1.4427)

    finding = examine(Base2(), CASES["mla-prefill-after-a-context"], CPU)
    assert finding.kind == "wrong"
    assert "lse of request" in finding.words


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        ("query", "query"),
        ("key_cache", "kv_cache"),
        ("value_cache", "kv_cache"),
        ("seq_lens", "seq_lens"),
        ("block_table", "block_table"),
        ("query_start_loc", "query_start_loc"),
    ],
)
def test_writing_to_an_input_is_found(name: str, memory: str) -> None:
    class Scribbler(Exact):
        def attend(self, problem: PagedAttention) -> None:
            super().attend(problem)
            getattr(problem, name)[..., -1:].fill_(17)

    finding = examine(Scribbler(), CASES["chunked-prefill"], CPU)
    assert finding.words.startswith(f"wrote to the memory of {memory}, which is an input")


def test_writing_beside_the_output_is_found() -> None:
    class Overrun(Exact):
        def attend(self, problem: PagedAttention) -> None:
            super().attend(problem)
            out = problem.out
            wider = out.as_strided((*out.shape[:2], out.shape[2] + 1), out.stride())
            wider[0, 0, -1] = 0.0

    finding = examine(Overrun(), CASES["strided-tensors-head-size-64-float16"], CPU)
    assert "wrote to the memory of out" in finding.words


def test_declining_is_no_fault_unless_something_was_written() -> None:
    class Declines:
        def attend(self, problem: PagedAttention) -> None:
            raise NotImplementedError("head sizes above 64")

    class DeclinesLate(Declines):
        def attend(self, problem: PagedAttention) -> None:
            problem.out.zero_()
            super().attend(problem)

    case = CASES["chunked-prefill"]
    finding = examine(Declines(), case, CPU)
    assert (finding.kind, finding.words) == ("declined", "head sizes above 64")
    assert examine(DeclinesLate(), case, CPU).kind == "wrong"
    assert examine(Declines(), CASES["mla-prefill-after-a-context"], CPU).kind == "declined"


def test_any_other_error_is_a_crash() -> None:
    class Crashes:
        def attend(self, problem: PagedAttention) -> None:
            raise RuntimeError("no such kernel")

    finding = examine(Crashes(), CASES["chunked-prefill"], CPU)
    assert (finding.kind, finding.words) == ("crashed", "raised RuntimeError: no such kernel")
    assert "in attend" in finding.traceback


def test_a_result_that_depends_on_the_batch_is_found() -> None:
    class Depends(Exact):
        def attend(self, problem: PagedAttention) -> None:
            super().attend(problem)
            if len(problem.query_lens) > 1:
                first = problem.out[:1].view(torch.int16)
                first += 1  # the last bit

    case = CASES["each-request-as-if-alone-float16"]
    finding = examine(Depends(), case, CPU)
    assert finding.kind == "wrong"
    assert "request 0 (1 new of 300 tokens) computed alone differs" in finding.words
    Depends.batch_invariant = False
    assert examine(Depends(), case, CPU).kind == "declined"


def test_a_nan_may_have_other_bits_in_the_batch() -> None:
    changed = []

    class Signs(Exact):
        def attend(self, problem: PagedAttention) -> None:
            super().attend(problem)
            nan = problem.out.isnan()
            if len(problem.query_lens) > 1:
                problem.out[nan] = problem.out[nan].neg()
                changed.append(int(nan.sum()))

    case = CASES["each-request-as-if-alone-with-a-visible-nan-value"]
    assert examine(Signs(), case, CPU).kind == "right"
    assert changed[0] > 0


def test_a_request_alone_has_the_same_numbers() -> None:
    case = CASES["mixed-batch-float16"]
    whole = build(case, CPU).problem
    alone = build(case, CPU, only=len(case.lengths) - 1).problem
    assert torch.equal(whole.query[-5:], alone.query)


@pytest.mark.parametrize("case", ["mixed-batch-float16", "fp8-cache-e4m3fnuz-float16"])
def test_what_must_not_be_read_is_nan(case: str) -> None:
    problem = build(CASES[case], CPU).problem
    assert isinstance(problem, PagedAttention)
    cache = problem.kv_cache.float()
    owned = torch.zeros(cache.shape[0], cache.shape[2], dtype=torch.bool)
    for row, total in zip(problem.block_table.tolist(), problem.seq_lens.tolist(), strict=True):
        for position in range(total):
            owned[row[position // 16], position % 16] = True
    assert not owned[0].any()
    assert not cache.transpose(1, 2)[owned].isnan().any()
    assert cache.transpose(1, 2)[~owned].isnan().all()
    assert problem.out.isnan().all()


def test_blocks_are_in_random_order() -> None:
    problem = build(CASES["one-long-decode-float16"], CPU).problem
    assert isinstance(problem, PagedAttention)
    blocks = problem.block_table[0].tolist()
    assert blocks != sorted(blocks)
    assert sorted(blocks) == list(range(1, len(blocks) + 1))


def test_strided_tensors_are_what_they_say() -> None:
    problem = build(CASES["strided-tensors-head-size-80-float16"], CPU).problem
    assert isinstance(problem, PagedAttention)
    for tensor in (problem.query, problem.out, problem.kv_cache, problem.block_table):
        assert not tensor.is_contiguous()
        assert tensor.stride(-1) == 1
