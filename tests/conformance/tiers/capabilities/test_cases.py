"""The designed requests: what they cover, how they are named, which of them are advisory."""

from __future__ import annotations

import re

from pytest_rocm_attn import Aiter, Request
from pytest_rocm_attn.conformance.tiers.capabilities.cases import BuildCase, cases
from pytest_rocm_attn.conformance.tiers.capabilities.check import Defect, summary
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER
from pytest_rocm_attn.registry import ROCM_BACKENDS

TARGETS = ("gfx90a", "gfx942", "gfx1201")
# What selectors are asked and no constructor of an implementation takes; the server's tier varies it.
FOR_SELECTORS_ALONE = {
    "use_mm_prefix",
    "use_kv_connector",
    "use_dcp",
    "use_pcp",
    "use_non_causal",
    "use_per_head_quant_scales",
    "use_rswa",
    "use_adaptive_verification",
    "use_batch_invariant",
    "encoder_decoder_model",
    "run_kv_cache_dtype",
}


def one(id_: str, gfx: str = "gfx942") -> BuildCase:
    (found,) = (case for case in cases(TARGETS) if case.id == id_ and case.gpu.gfx == gfx)
    return found


def test_ids_are_unique_on_a_gpu_and_kebab_case() -> None:
    names = [(case.id, case.gpu.gfx) for case in cases(TARGETS)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name, _ in names)


def test_every_backend_is_named_and_every_kind_of_need_varied() -> None:
    every = list(cases(["gfx942"]))
    assert {case.environment.environ.get(EXPLICIT) for case in every} == {None, *ROCM_BACKENDS}
    requests = {request for case in every for request in case.family.requests}
    varied = {
        field
        for field in Request().__dataclass_fields__
        if len({getattr(request, field) for request in requests}) > 1
    }
    assert varied == set(Request().__dataclass_fields__) - FOR_SELECTORS_ALONE
    heads = {request.num_heads for request in requests if request.use_sparse}
    assert {4, 8, 12, 16, 24, 32, 48, 64, 128} <= heads


def test_every_state_of_aiter_is_met_on_every_gpu_whichever_gpus_are_asked_for() -> None:
    met = {(case.id, case.gpu) for case in cases(TARGETS)}
    assert {gpu.aiter for _, gpu in met if gpu.gfx == "gfx1201"} == set(Aiter)
    # or the command that repeats one item, which names no GPUs, would not find it
    assert {(case.id, case.gpu) for case in cases(["gfx942"])} == {
        (id_, gpu) for id_, gpu in met if gpu.gfx == "gfx942"
    }


def test_what_works_without_aiter_is_required_to() -> None:
    where = "-where-aiter-is-absent"
    assert one(f"plain-layers-build-by-default{where}").level == "required"
    assert one(f"plain-layers-build-with-triton-attn-named{where}").level == "required"
    assert one(f"plain-layers-build-with-aiter-on{where}").level == "advisory"
    assert one(f"plain-layers-build-with-rocm-aiter-fa-named{where}").level == "advisory"
    assert one(f"mla-layers-of-block-1-build-by-default{where}").level == "advisory"
    assert one(f"plain-mla-layers-build-by-default{where}").level == "required"


def test_a_late_refusal_of_what_no_selector_is_told_is_advisory_where_it_was_named() -> None:
    assert one("soft-caps-build-with-flex-attention-named").level == "advisory"
    assert one("soft-caps-build-by-default").level == "required"
    assert one("attention-types-build-with-rocm-attn-named").level == "required"


def test_named_backends_of_aiter_are_asked_with_the_switch_off_and_on() -> None:
    off = one("head-counts-build-with-rocm-aiter-fa-named").environment.environ
    on = one("head-counts-build-with-rocm-aiter-fa-named-and-aiter-on").environment.environ
    assert off == {EXPLICIT: "ROCM_AITER_FA"}
    assert on == {EXPLICIT: "ROCM_AITER_FA", USE_AITER: "1"}


def test_findings_of_one_thing_are_one_sentence() -> None:
    wrong = "X cannot be built: ValueError: no"
    many = [Defect(wrong, Request(head_size=size)) for size in range(1, 9)]
    text = summary([*many, Defect("Y is odd", value="head_size=8"), Defect("Z is odd")])
    sizes = ", ".join(f"head_size={size}" for size in range(1, 7))
    assert text == f"{wrong} (for {sizes}, and 2 more); Y is odd (for head_size=8); Z is odd"
    assert summary([]) == ""
