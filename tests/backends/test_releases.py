"""The policies of releases: they answer as the unmodified releases were recorded to answer."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_rocm_attn import Flags, Gpu, Request
from pytest_rocm_attn.backends import PR_26980, Selection, how_to_get, select
from pytest_rocm_attn.backends.policy import NAMED, Policy
from pytest_rocm_attn.backends.releases import NEWEST, RELEASES, policy_of
from pytest_rocm_attn.conformance.baseline.baseline import load, shipped
from pytest_rocm_attn.conformance.promise import release as upstream_release
from pytest_rocm_attn.conformance.promise import upstream
from pytest_rocm_attn.conformance.promise.grid.design import standard
from pytest_rocm_attn.conformance.promise.grid.space import Cell
from pytest_rocm_attn.errors import FlagError, SelectionError, UnknownReleaseError
from pytest_rocm_attn.flags import ATTENTION_BACKEND, PREFILL_DECODE, USE_PREFILL_DECODE
from pytest_rocm_attn.gpu import Aiter
from pytest_rocm_attn.outcome import Outcome, Rejected, Selected

RECORDED = tuple(name.removeprefix("vllm-") for name in shipped())
REFUSED = "refused"
STRIDE = 499  # of the sample that the default tests look at


# What validate_configuration (vllm/v1/attention/backend.py) and get_valid_backends (vllm/platforms/rocm.py) of v0.33.0
# say of a class, and our limit; what a class adds of its own is a "combination".
REASONS = {
    "head_size not supported": "head-size",
    "dtype not supported": "dtype",
    "kv_cache_dtype not supported": "kv-cache-dtype",
    "block_size not supported": "block-size",
    "partial multimodal token full attention not supported": "mm-prefix",
    "MLA not supported": "mla",
    "non-MLA not supported": "mla",
    "attention sinks not supported": "sinks",
    "sparse not supported": "sparse",
    "non-sparse not supported": "sparse",
    "per-head quant scales not supported": "per-head-quant-scales",
    "compute capability not supported": "compute-capability",
    **{
        f"attention type {kind} not supported": "attention-type"
        for kind in ("decoder", "encoder", "encoder_only", "encoder_decoder")
    },
    "sliding window not supported": "sliding-window",
    "R-SWA not supported": "rswa",
    "non-causal attention not supported": "non-causal",
    "non-causal MLA attention with DCP not supported": "non-causal-dcp",
    "batch invariance not supported": "batch-invariance",
    "KV connector not supported": "kv-connector",
    "PCP not supported": "pcp",
    "DCP not supported": "dcp",
    "device-cpu query lens mismatch not supported, which is needed for adaptive verification": "adaptive-verification",
    "non-causal fp16 MLA decode not supported": "non-causal-fp16",
    "ImportError": "imports",
}


def answer(policy: Policy | str, request: Request, gpu: Gpu, environ: dict[str, str]) -> str:
    """Return the backend, or that it is refused."""
    return decision(policy, request, gpu, environ).partition(":")[0]


def decision(policy: Policy | str, request: Request, gpu: Gpu, environ: dict[str, str]) -> str:
    """Return the backend, or the limits for which one, or each candidate, is refused."""
    try:
        return select(request, Flags(environ), gpu, policy).backend
    except FlagError:
        return REFUSED
    except SelectionError as error:
        unmet: dict[str, list[str]] = {}
        for step in error.trace:
            if step.answer == "no" and not re.match(SELECTS, step.source):
                backend = "" if error.backend else step.reason.partition(" ")[0]
                unmet.setdefault(backend, []).append(step.rule)
        return in_words(unmet)


SELECTS = r"vllm/platforms/rocm\.py, (get_attn_backend_cls|_get_backend_priorities)"


def in_words(unmet: dict[str, list[str]]) -> str:
    words = [" ".join([name, *rules]).strip() for name, rules in unmet.items()]
    return f"{REFUSED}: {'; '.join(words)}" if words else REFUSED


def decision_of(message: str) -> str:
    """Return what `decision` does, from the refusal of a release of 0.18 or later.

    The recordings cut long messages off: then only that it is refused.
    """
    if found := re.search(r"Reason: (\[.*\])", message):
        unmet = {"": ast.literal_eval(found[1])}
    elif found := re.search(r"Reasons: \{(.*)\}", message):
        each = re.findall(r"(\w+): \[(.*?)\](?=, \w+: \[|$)", found[1])
        unmet = {name: words.split(", ") for name, words in each}
    else:
        return in_words({"": ["registered"]} if "must be registered" in message else {})
    return in_words(
        {name: [REASONS.get(one, "combination") for one in of] for name, of in unmet.items()}
    )


def said_otherwise(cell: Cell) -> bool:
    """Whether a policy gives another reason than the release: each says why."""
    named = cell.environ.get(NAMED)
    # Its supports_combination refuses GPUs; declarations.toml has them as `gpus`.
    if named == "ROCM_SEGMENTED_ATTN":
        return True
    # A second reason for what it does not declare; the policy gives the first.
    return named == "FLASH_ATTN" and cell.request.use_mm_prefix


def as_the_release_is_asked(policy: Policy, environ: dict[str, str]) -> dict[str, str]:
    """Return a cell's environment as the adapters put it: what is an option now, as that option."""
    renamed = {
        name: option
        for name, option in ((NAMED, ATTENTION_BACKEND), (PREFILL_DECODE, USE_PREFILL_DECODE))
        if name not in policy.reads and option in policy.reads
    }
    environ = {renamed.get(name, name): text for name, text in environ.items()}
    # A variable that a release does not read cannot be wrong there either.
    return {name: text for name, text in environ.items() if name in policy.reads}


def recorded(release: str, stride: int) -> Iterator[tuple[Cell, Outcome]]:
    """Yield cells of the grid, every stride-th of each family, with what the release answered."""
    baseline, grid = load(f"vllm-{release}"), standard()
    for family in grid.families:
        table = baseline.tables[family.name]
        for number in range(0, family.cells, stride):
            yield family.cell(number), table.outcomes[table.codes[number]]


def known_difference(release: str, cell: Cell) -> bool:
    """Whether a release was asked something else in this cell than its policy is; each condition has its reason."""
    # AttentionConfig of these two parses the variable for CUDA's backends, and fails.
    if release in ("0.13.0", "0.14.1") and cell.environ.get("VLLM_FLASH_ATTN_VERSION") == "many":
        return True
    # The first such layer of a process finds no FlashAttention at all; the import that fails then succeeds.
    if cell.environ.get(NAMED) == "FLASH_ATTN" and cell.request.head_size == 512:
        return release >= "0.21"
    # The grid's names are given in their exact case.
    return release >= "0.15" and cell.environ.get(NAMED) == "triton_attn"


def questions(release: str, stride: int) -> Iterator[tuple[Cell, dict[str, str], str]]:
    """Yield each cell, the environment in which a policy is asked the same, and the release's decision."""
    policy = policy_of(release)
    for cell, outcome in recorded(release, stride):
        # A release that crashes, at the import of a broken aiter, has no answer to agree with.
        if isinstance(outcome, Selected | Rejected) and not known_difference(release, cell):
            environ = as_the_release_is_asked(policy, cell.environ)
            if isinstance(outcome, Selected):
                yield cell, environ, outcome.backend
            else:
                yield (
                    cell,
                    environ,
                    REFUSED if said_otherwise(cell) else decision_of(outcome.message),
                )


def agrees(mine: str, theirs: str) -> bool:
    """Whether a policy decides as the release did, for the same reasons if these were recorded."""
    return mine == theirs or (theirs == REFUSED and mine.startswith(REFUSED))


def disagreements(release: str, stride: int) -> list[str]:
    policy = policy_of(release)
    found = []
    for cell, environ, theirs in questions(release, stride):
        mine = decision(policy, cell.request, cell.gpu, environ)
        if not agrees(mine, theirs):
            found.append(f"{cell}: {release} {theirs}, policy {mine}")
    return found


@pytest.mark.parametrize("release", RECORDED)
def test_a_policy_agrees_with_the_recorded_release_on_a_sample_of_the_grid(release: str) -> None:
    assert disagreements(release, STRIDE) == []


@pytest.mark.slow
@pytest.mark.parametrize("release", RECORDED)
def test_a_policy_agrees_with_the_recorded_release_on_the_whole_grid(release: str) -> None:
    assert disagreements(release, stride=1) == []


def test_the_sample_would_show_the_policy_of_another_era() -> None:
    policy, wrong = policy_of("0.12"), 0
    for cell, outcome in recorded("0.18.1", STRIDE):
        if isinstance(outcome, Selected):
            environ = as_the_release_is_asked(policy, cell.environ)
            wrong += answer(policy, cell.request, cell.gpu, environ) != outcome.backend
    assert wrong > 10


def test_every_minor_release_has_a_policy_and_is_found_by_any_of_its_names() -> None:
    assert [release.rpartition(".")[0] for release in RELEASES] == [f"0.{n}" for n in range(11, 34)]
    for release in RELEASES:
        assert policy_of(release).name == f"vLLM {release}"
    assert policy_of("0.33") is policy_of("v0.33.1") is policy_of(" 0.33.0rc1 ")
    assert policy_of("pr-26980") is PR_26980
    assert NEWEST == "0.33"


@pytest.mark.parametrize("release", RELEASES)
def test_a_policy_knows_the_names_that_its_releases_registry_has(release: str) -> None:
    features = upstream.shapes()[upstream_release.parse(release)]
    registry = {name.removeprefix("backend:") for name in features if name.startswith("backend:")}
    for branch in policy_of(release).branches:
        assert set(branch.names) == registry


def test_what_the_selector_itself_refused_before_0_18_is_named_in_its_trace() -> None:
    for release in ("0.11", "0.12", "0.17"):
        limits = policy_of(release).limits
        rules = {name: [limit.rule for limit in of] for name, of in limits.items() if of}
        expected = {
            "TRITON_MLA": ["block-size-not-1"],
            "ROCM_AITER_MLA_SPARSE": ["no-fp8-cache", "block-size-1"],
        }
        assert rules == expected | ({"ROCM_AITER_FA": ["gfx9-only"]} if release != "0.11" else {})


@pytest.mark.parametrize("release", ["0.34", "1.0", "", "newest", "0.10.2"])
def test_a_release_without_a_policy_is_named_with_those_that_have_one(release: str) -> None:
    with pytest.raises(UnknownReleaseError, match=r"0\.11, .*0\.33, pr-26980$") as caught:
        select(Request(), Flags(), Gpu("gfx942"), release)
    assert repr(release) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_default_policy_is_still_the_contract() -> None:
    assert select(Request(), Flags(), Gpu("gfx942")).backend == "TRITON_ATTN"
    assert select(Request(), Flags(), Gpu("gfx942"), NEWEST).backend == "ROCM_ATTN"


AITER = {"VLLM_ROCM_USE_AITER": "1"}


# Each changed in the release between the two, by the pull request named.
@pytest.mark.parametrize(
    ("before", "after", "request_", "environ", "gfx", "was", "is_"),
    [
        ("0.11", "0.12", {}, AITER | {NAMED: "TRITON_ATTN"}, "gfx942", "ROCM_AITER_FA", "TRITON_ATTN"),  # 26980
        ("0.14", "0.15", {}, {NAMED: "ROCM_ATTN"}, "gfx942", "ROCM_ATTN", "TRITON_ATTN"),  # 32812
        ("0.17", "0.18", {"has_sink": True}, AITER, "gfx942", "ROCM_AITER_FA", "TRITON_ATTN"),
        ("0.18", "0.19", {}, {}, "gfx1201", "TRITON_ATTN", "ROCM_ATTN"),  # 36702
        ("0.19", "0.20", {"kv_cache_dtype": "turboquant_k8v4"}, {}, "gfx942", REFUSED, "TURBOQUANT"),
        ("0.22", "0.23", {"use_kv_connector": True}, {}, "gfx90a", "ROCM_ATTN", "TRITON_ATTN"),
        ("0.25", "0.26", {"encoder_decoder_model": True}, {}, "gfx942", "ROCM_ATTN", "ROCM_AITER_UNIFIED_ATTN"),
        ("0.27", "0.28", {}, AITER, "gfx1201", "ROCM_ATTN", "ROCM_AITER_UNIFIED_ATTN"),  # 43615
        ("0.31", "0.32", {"kv_cache_dtype": "ultraquant_4bit"}, {}, "gfx942", REFUSED, "ULTRAQUANT"),
        ("0.32", "0.33", {"kv_cache_dtype": "octave_k3v4", "head_size": 256}, {}, "gfx1100", REFUSED, "ROCM_OCTAVE"),
    ],
)  # fmt: skip
def test_what_changed_from_one_release_to_the_next(
    before: str,
    after: str,
    request_: dict[str, Any],
    environ: dict[str, str],
    gfx: str,
    was: str,
    is_: str,
) -> None:
    request = Request(**request_)
    found = [answer(release, request, Gpu(gfx), environ) for release in (before, after)]
    assert found == [was, is_]


NO_MHA = AITER | {"VLLM_ROCM_USE_AITER_MHA": "0"}
UNIFIED = {"VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION": "1"}
FP16: dict[str, object] = {"use_mla": True, "dtype": "float16"}
FP8: dict[str, object] = {"kv_cache_dtype": "fp8"}
NON_CAUSAL: dict[str, object] = {"use_non_causal": True}
NON_CAUSAL_DCP = {"use_mla": True, "use_non_causal": True, "use_dcp": True}


# What a switch, or the lack of the package, decides beyond the sample: platforms/rocm.py of each release.
@pytest.mark.parametrize(
    ("release", "request_", "environ", "aiter", "backend"),
    [
        ("0.18", {}, NO_MHA, "present", "TRITON_ATTN"),
        ("0.18", {}, NO_MHA | UNIFIED, "present", "ROCM_AITER_UNIFIED_ATTN"),
        ("0.19", {}, NO_MHA | UNIFIED, "present", "ROCM_ATTN"),  # 56021
        ("0.22", {"has_sink": True}, AITER, "present", "ROCM_AITER_UNIFIED_ATTN"),
        ("0.33", {"has_sink": True}, AITER, "present", "ROCM_AITER_FA"),  # 43817
        ("0.33", {"has_sink": True}, NO_MHA, "present", "ROCM_AITER_UNIFIED_ATTN"),
        ("0.33", {"has_sink": True}, AITER, "absent", "TRITON_ATTN"),
        ("0.33", {"use_mla": True}, AITER, "present", "ROCM_AITER_MLA"),
        ("0.33", {"use_mla": True}, AITER | {"VLLM_ROCM_USE_AITER_MLA": "0"}, "present", "TRITON_MLA"),
        ("0.28", NON_CAUSAL_DCP, {}, "present", "TRITON_MLA"),  # asked about together from 0.29 on
        ("0.29", NON_CAUSAL_DCP, {}, "present", REFUSED),
        ("0.30", NON_CAUSAL_DCP, AITER, "present", REFUSED),
        ("0.31", NON_CAUSAL_DCP, AITER, "present", "ROCM_AITER_MLA"),
        ("0.33", {"use_per_head_quant_scales": True}, {}, "present", REFUSED),
        # AiterMLABackend.validate_configuration, v0.30.0 on: no non-causal decode in float16.
        ("0.33", FP16, {ATTENTION_BACKEND: "ROCM_AITER_MLA"}, "present", "ROCM_AITER_MLA"),
        ("0.33", FP16 | NON_CAUSAL, {ATTENTION_BACKEND: "ROCM_AITER_MLA"}, "present", REFUSED),
        ("0.33", FP16 | NON_CAUSAL | FP8, {ATTENTION_BACKEND: "ROCM_AITER_MLA"}, "present", "ROCM_AITER_MLA"),
        ("0.33", FP16 | NON_CAUSAL, {ATTENTION_BACKEND: "TRITON_MLA"}, "present", "TRITON_MLA"),
    ],
)  # fmt: skip
def test_what_a_switch_or_the_lack_of_aiter_decides(
    release: str, request_: dict[str, Any], environ: dict[str, str], aiter: str, backend: str
) -> None:
    request = Request(**request_)
    assert answer(release, request, Gpu("gfx950", Aiter(aiter)), environ) == backend


@pytest.mark.parametrize("release", ["0.22", "0.23", "0.25", "0.26", "0.33"])
def test_a_trace_says_once_why_rocm_attn_is_no_candidate(release: str) -> None:
    """_get_backend_priorities of vllm/platforms/rocm.py, v0.23.0 and v0.26.0 on, does not list it."""
    trace = select(Request(use_kv_connector=True), Flags(), Gpu("gfx942"), release).trace
    asked = [(step.answer, step.reason) for step in trace if step.rule == "rocm-attn"]
    first = (
        ("yes", "nothing else was asked for")
        if release < "0.23"
        else ("no", "there is a KV connector")
    )
    assert asked == [first]


@pytest.mark.parametrize("release", ["0.13", "0.14", "0.15"])
def test_the_option_names_a_backend_from_0_13_on_and_the_variable_until_0_14(release: str) -> None:
    """PR #26315 brought the option, PR #32812 removed the variable."""
    gpu = Gpu("gfx942")
    assert answer(release, Request(), gpu, {ATTENTION_BACKEND: "ROCM_ATTN"}) == "ROCM_ATTN"
    reads = release != "0.15"
    named = answer(release, Request(), gpu, {NAMED: "ROCM_ATTN"})
    assert named == ("ROCM_ATTN" if reads else "TRITON_ATTN")
    assert bool(policy_of(release).ignored) is not reads
    switched = answer(release, Request(), gpu, {PREFILL_DECODE: "1"})
    assert switched == ("ROCM_ATTN" if reads else "TRITON_ATTN")


LATENT = ("aiter-mla-sparse", "aiter-mla", "triton-mla", "aiter-triton-mla")
BY_AITER = ("aiter-flash-attention", "aiter-unified", "triton-attn")
RULES = {
    "0.11": (
        *("aiter-mla", "block-size-1-mla", "mla-default", "named-flex-attention"),
        *("aiter-flash-attention", "named-aiter-flash-attention", "aiter-unified"),
        *("named-aiter-unified", "prefill-decode", "named-rocm-attn", "default"),
    ),
    "0.18": (
        *LATENT,
        *("aiter-unified", "aiter-flash-attention", "prefill-decode", "triton-attn"),
    ),
    "0.19": (*LATENT, "rocm-attn", *BY_AITER),
    "0.22": (*LATENT, "rocm-attn", *BY_AITER, "turboquant"),
    "0.25": (*LATENT, "rocm-attn", *BY_AITER, "turboquant"),
    "0.33": (
        *LATENT,
        *("aiter-unified-on-rdna4", "rocm-attn", *BY_AITER),
        *("turboquant", "rocm-octave", "ultraquant"),
    ),
}


@pytest.mark.parametrize("release", RULES)
def test_a_trace_names_the_rules_in_the_order_in_which_they_are_asked(release: str) -> None:
    found = [rule.name for branch in policy_of(release).branches for rule in branch.rules]
    assert tuple(found) == RULES[release]


def test_each_answer_cites_the_file_and_release_that_decided_it() -> None:
    for release in RELEASES:
        for request in (Request(), Request(use_mla=True), Request(has_sink=True)):
            selection = select(request, Flags(AITER), Gpu("gfx942"), release)
            cited = [step.source for step in selection.trace[:-1]]
            for source in cited:
                assert re.match(r"vllm/\S+\.py\b.*\(v0\.\d+(\.\d+)?\)", source), source
    (rule,) = [r for r in policy_of("0.33").branches[-1].rules if r.name == "rocm-attn"]
    assert rule.source == "vllm/platforms/rocm.py, _get_backend_priorities (v0.33.0); PR #36702"


def test_a_candidate_that_cannot_serve_is_passed_over_with_its_reason() -> None:
    selection = select(Request(has_sink=True), Flags(), Gpu("gfx942"), "0.33")
    assert selection.backend == "ROCM_AITER_UNIFIED_ATTN"
    (passed,) = [step for step in selection.trace if step.reason.startswith("ROCM_ATTN does not")]
    assert (passed.rule, passed.answer) == ("sinks", "no")
    assert "attention sinks not supported" in passed.reason


# What validate_configuration of v0.33.0's vllm/v1/attention/backend.py says of each, and our rule and words.
@pytest.mark.parametrize(
    ("field", "backend", "rule", "words", "upstream"),
    [
        ("use_mm_prefix", "ROCM_ATTN", "mm-prefix", "a bidirectional multimodal prefix",
         "partial multimodal token full attention not supported"),
        ("has_sink", "ROCM_ATTN", "sinks", "attention sinks (has_sink)",
         "attention sinks not supported"),
        ("use_per_head_quant_scales", "ROCM_ATTN", "per-head-quant-scales",
         "quantisation scales per head", "per-head quant scales not supported"),
        ("use_rswa", "ROCM_ATTN", "rswa", "R-SWA", "R-SWA not supported"),
        ("use_non_causal", "ROCM_AITER_UNIFIED_ATTN", "non-causal", "non-causal attention",
         "non-causal attention not supported"),
        ("use_batch_invariant", "ROCM_ATTN", "batch-invariance", "batch invariance",
         "batch invariance not supported"),
        ("use_kv_connector", "ROCM_ATTN", "kv-connector", "a KV connector",
         "KV connector not supported"),
        ("use_pcp", "ROCM_ATTN", "pcp", "PCP", "PCP not supported"),
        ("use_dcp", "ROCM_ATTN", "dcp", "DCP", "DCP not supported"),
    ],
)  # fmt: skip
def test_a_refused_feature_is_named_by_its_rule_in_our_words_and_upstreams(
    field: str, backend: str, rule: str, words: str, upstream: str
) -> None:
    asked: dict[str, Any] = {field: True}
    request = Request(**asked)
    with pytest.raises(SelectionError) as caught:
        select(request, Flags({ATTENTION_BACKEND: backend}), Gpu("gfx942"), "0.33")
    assert f"does not support {words} ({upstream})" in str(caught.value)
    assert rule in [step.rule for step in caught.value.trace]


# What the classes of v0.33.0 declare: get_supported_... and supports_... of each.
@pytest.mark.parametrize(
    ("name", "request_", "gfx", "rule", "words"),
    [
        ("ROCM_AITER_FA", {"head_size": 80}, "gfx942", "head-size",
         "head size 80: it declares 64, 128, 256."),
        ("TRITON_ATTN", {"head_size": 16}, "gfx942", "head-size",
         "head size 16: it declares 32 or more."),
        ("ROCM_AITER_FA", {"dtype": "float32"}, "gfx942", "dtype",
         "dtype float32: it declares float16, bfloat16. Remedy: set --dtype to one of these"),
        ("FLEX_ATTENTION", {"kv_cache_dtype": "fp8"}, "gfx942", "kv-cache-dtype",
         "kv_cache_dtype fp8: it declares auto, float16, bfloat16."),
        ("ROCM_AITER_FA", {"block_size": 8}, "gfx942", "block-size",
         "block size 8: it must be a multiple of 16 or 32. Remedy: set --block-size to a multiple of"),
        ("ROCM_ATTN", {"attn_type": "encoder_decoder"}, "gfx942", "attention-type",
         "attention type encoder_decoder: it declares decoder, encoder, encoder_only."),
        ("ROCM_AITER_FA", {}, "gfx1100", "compute-capability",
         "the compute capability of gfx1100: it takes gfx942, gfx950, gfx1250."),
    ],
)  # fmt: skip
def test_a_refusal_says_what_the_class_declares(
    name: str, request_: dict[str, Any], gfx: str, rule: str, words: str
) -> None:
    request = Request(**request_)
    with pytest.raises(SelectionError) as caught:
        select(request, Flags({ATTENTION_BACKEND: name}), Gpu(gfx), "0.33")
    assert f"{name} (named by {ATTENTION_BACKEND}) does not support {words}" in str(caught.value)
    assert rule in [step.rule for step in caught.value.trace]


@pytest.mark.parametrize(
    ("name", "request_", "words"),
    [
        ("TRITON_MLA", {}, "is MLA, and the layer is not MLA"),
        ("ROCM_AITER_FA", {"use_mla": True, "head_size": 128}, "is not MLA, and the layer is MLA"),
        ("ROCM_AITER_MLA_SPARSE", {"use_mla": True}, "is sparse, and the layer is not sparse"),
        ("ROCM_AITER_MLA", {"use_mla": True, "use_sparse": True}, "is not sparse, and the layer is sparse"),
    ],
)  # fmt: skip
def test_a_refusal_says_which_kind_of_layer_a_backend_is_for(
    name: str, request_: dict[str, Any], words: str
) -> None:
    request = Request(**request_)
    with pytest.raises(SelectionError) as caught:
        select(request, Flags({ATTENTION_BACKEND: name}), Gpu("gfx942"), "0.33")
    assert f"{name} (named by {ATTENTION_BACKEND}) {words}." in str(caught.value)


@pytest.mark.parametrize(
    ("name", "rule", "words", "file"),
    [
        ("CUSTOM", "registered", "must be registered before use", "registry.py"),
        ("FLASHINFER", "imports", "cannot be imported: No module named 'flashinfer'", "flashinfer.py"),
    ],
)  # fmt: skip
def test_a_name_without_a_class_that_can_be_imported_is_refused_with_the_reason(
    name: str, rule: str, words: str, file: str
) -> None:
    with pytest.raises(SelectionError) as caught:
        select(Request(), Flags({ATTENTION_BACKEND: name}), Gpu("gfx942"), "0.33")
    assert f"{name} (named by {ATTENTION_BACKEND}) {words}" in str(caught.value)
    assert f"vllm/v1/attention/backends/{file} (v0.33)" in str(caught.value)
    assert rule in [step.rule for step in caught.value.trace]


def test_a_refusal_of_every_candidate_names_each_with_what_it_lacks_and_a_way_out() -> None:
    with pytest.raises(SelectionError) as caught:
        select(Request(block_size=8), Flags(), Gpu("gfx942"), "0.33")
    message = str(caught.value)
    for name in ("ROCM_ATTN", "TRITON_ATTN", "TURBOQUANT"):
        assert f"{name} does not support" in message
    assert "block size 8" in message
    assert "\n" not in message
    with pytest.raises(SelectionError, match="VLLM_ROCM_USE_AITER=1, which gives ROCM_AITER_MLA"):
        select(Request(use_mla=True, block_size=1), Flags(), Gpu("gfx942"), "0.33")


@pytest.mark.parametrize(
    ("request_", "environ", "remedy"),
    [
        # One candidate: how to come within what it takes. Several: which other one serves the layer.
        (
            {"use_mla": True, "use_sparse": True, "dtype": "float32"},
            {},
            "set --dtype to one of these",
        ),
        ({"use_mla": True, "dtype": "float32"}, AITER, None),
        ({"head_size": 16}, {}, "set --attention-backend to FLEX_ATTENTION"),
        ({"head_size": 16, "dtype": "float32", "block_size": 8}, {}, None),
        (
            {"head_size": 256, "kv_cache_dtype": "octave_k3v4"},
            {ATTENTION_BACKEND: "ROCM_ATTN"},
            "set --kv-cache-dtype to one of these; or set --attention-backend to ROCM_OCTAVE",
        ),
    ],
)
def test_a_refusal_offers_only_what_serves_the_layer_on_rocm(
    request_: dict[str, Any], environ: dict[str, str], remedy: str | None
) -> None:
    request = Request(**request_)
    with pytest.raises(SelectionError) as caught:
        select(request, Flags(environ), Gpu("gfx942"), "0.33")
    found = re.search(r"\. Remedy: (.*?)\. Source: ", str(caught.value))
    assert (found and found[1]) == remedy


def test_a_backend_is_named_by_the_option_in_any_case_and_auto_names_none() -> None:
    gpu = Gpu("gfx942")
    for text in ("rocm_aiter_fa", "ROCM_AITER_FA"):
        assert answer("0.33", Request(), gpu, {ATTENTION_BACKEND: text}) == "ROCM_AITER_FA"
    assert answer("0.33", Request(), gpu, {ATTENTION_BACKEND: "auto"}) == "ROCM_ATTN"
    with pytest.raises(SelectionError, match=r"'ROCM_ATTN'"):
        select(Request(), Flags({ATTENTION_BACKEND: "ROCM_ATN"}), gpu, "0.33")


def test_a_turboquant_run_shares_one_layout() -> None:
    """The boundary layers of 0.31 on; tests/v1/attention of v0.33.0 pin the same."""
    layer = Request(run_kv_cache_dtype="turboquant_k8v4")
    for named in ({}, {ATTENTION_BACKEND: "ROCM_ATTN"}, {ATTENTION_BACKEND: "TURBOQUANT"}):
        assert answer("0.33", layer, Gpu("gfx942"), named) == "TRITON_ATTN"
    assert answer("0.30", layer, Gpu("gfx942"), {}) == "ROCM_ATTN"
    packed = Request(kv_cache_dtype="turboquant_k8v4")
    assert answer("0.33", packed, Gpu("gfx942"), {ATTENTION_BACKEND: "ROCM_ATTN"}) == "TURBOQUANT"
    on_rdna = {ATTENTION_BACKEND: "ROCM_AITER_FA"}
    assert answer("0.33", layer, Gpu("gfx1201"), on_rdna) == REFUSED  # another reason as well


def test_a_packed_layer_gives_way_whatever_the_run_is_said_to_have() -> None:
    layer = Request(kv_cache_dtype="turboquant_k8v4", run_kv_cache_dtype="fp8")
    named = {ATTENTION_BACKEND: "TRITON_ATTN"}
    for release in ("0.28", "0.31", "0.33"):
        assert answer(release, layer, Gpu("gfx942"), named) == "TURBOQUANT"


def test_an_ultraquant_run_limits_a_named_backend_only() -> None:
    sparse = Request(use_mla=True, use_sparse=True, run_kv_cache_dtype="ultraquant_4bit")
    named = Flags({ATTENTION_BACKEND: "ROCM_AITER_MLA_SPARSE"})  # it declares ULTRAQUANT's layout
    trace = select(sparse, named, Gpu("gfx942"), "0.33").trace
    assert "named-gives-way" not in {step.rule for step in trace}
    layer = Request(run_kv_cache_dtype="ultraquant_4bit")
    assert answer("0.33", layer, Gpu("gfx942"), {}) == "ROCM_ATTN"
    for name, given in (("TRITON_ATTN", "TRITON_ATTN"), ("ROCM_AITER_FA", "ROCM_ATTN")):
        assert answer("0.33", layer, Gpu("gfx942"), {ATTENTION_BACKEND: name}) == given


@pytest.mark.parametrize("name", ["ROCM_AITER_MLA", "ROCM_AITER_TRITON_MLA"])
def test_non_causal_mla_of_aiter_needs_the_package_besides_its_gpu(name: str) -> None:
    """supports_non_causal of vllm/v1/attention/backends/mla/rocm_aiter_mla.py, v0.30.0 on."""
    layer, named = Request(use_mla=True, use_non_causal=True), {ATTENTION_BACKEND: name}
    for release in ("0.30", "0.31", "0.32", "0.33"):
        for aiter, got in ((Aiter.PRESENT, name), (Aiter.ABSENT, REFUSED)):
            assert answer(release, layer, Gpu("gfx950", aiter), named) == got
            assert answer(release, layer, Gpu("gfx942", aiter), named) == REFUSED
        causal = Request(use_mla=True)
        assert answer(release, causal, Gpu("gfx950", Aiter.ABSENT), named) == name


# What validate_configuration of vllm/v1/attention/backend.py asks about features, by the first release that does.
FEATURES = {
    "0.18": "mm-prefix, sinks, per-head-quant-scales",
    "0.20": "mm-prefix, sinks, per-head-quant-scales, non-causal, batch-invariance",
    "0.23": "mm-prefix, sinks, per-head-quant-scales, non-causal, batch-invariance, kv-connector",
    "0.26": "mm-prefix, sinks, per-head-quant-scales, sliding-window, non-causal, batch-invariance,"
    " kv-connector, pcp",
    "0.28": "mm-prefix, sinks, per-head-quant-scales, sliding-window, non-causal, batch-invariance,"
    " kv-connector, pcp, adaptive-verification",
    "0.29": "mm-prefix, sinks, per-head-quant-scales, sliding-window, non-causal, non-causal-dcp,"
    " batch-invariance, kv-connector, pcp, adaptive-verification",
    "0.30": "mm-prefix, sinks, per-head-quant-scales, sliding-window, rswa, non-causal, non-causal-dcp,"
    " batch-invariance, kv-connector, pcp, dcp, adaptive-verification",
}
FEATURES["0.31"] = f"{FEATURES['0.30']}, layout"  # _get_invalid_reasons of platforms/rocm.py


@pytest.mark.parametrize("release", [release for release in RELEASES if release >= "0.18"])
def test_a_trace_lists_in_one_step_the_features_that_a_release_asks_about(release: str) -> None:
    asked = FEATURES[max(first for first in FEATURES if release >= first)]
    named = Flags({ATTENTION_BACKEND: "ROCM_ATTN"})
    *_, needs, _ = select(Request(), named, Gpu("gfx942"), release).trace
    words = f"the layer needs none of these, or the class declares it: {asked}"
    assert (needs.rule, needs.answer, needs.reason) == ("needs", "yes", words)


def test_a_trace_of_aiter_mla_lists_non_causal_float16_among_the_features() -> None:
    layer, named = Request(use_mla=True), Flags({ATTENTION_BACKEND: "ROCM_AITER_MLA"})
    for release, asked in (("0.29", False), ("0.30", True), ("0.33", True)):
        needs = select(layer, named, Gpu("gfx950"), release).trace[-2]
        assert needs.reason.endswith(", non-causal-fp16") is asked


@pytest.mark.parametrize(
    ("name", "request_", "gfx", "rules"),
    [
        ("FLASH_ATTN", {"block_size": 8}, "gfx942", ["block-size"]),
        ("FLASH_ATTN", {"kv_cache_dtype": "fp8"}, "gfx942", ["kv-cache-dtype", "combination"]),
        ("ROCM_AITER_MLA", FP16 | NON_CAUSAL | {"kv_cache_dtype": "float16"}, "gfx950", ["non-causal-fp16"]),
        ("ROCM_AITER_FA", {"run_kv_cache_dtype": "turboquant_k8v4", "dtype": "float32"}, "gfx942", ["dtype"]),
        ("TRITON_ATTN", {"run_kv_cache_dtype": "turboquant_k8v4", "block_size": 8}, "gfx942", ["block-size"]),
    ],
)  # fmt: skip
def test_a_trace_of_a_refusal_has_a_step_for_a_feature_only_if_it_is_lacking(
    name: str, request_: dict[str, Any], gfx: str, rules: list[str]
) -> None:
    request = Request(**request_)
    with pytest.raises(SelectionError) as caught:
        select(request, Flags({ATTENTION_BACKEND: name}), Gpu(gfx), "0.33")
    steps = [step for step in caught.value.trace if "validate_configuration" in step.source]
    steps += [step for step in caught.value.trace if step.rule == "layout"]
    assert [step.rule for step in steps if step.answer == "no"] == rules
    kinds = ("head-size", "dtype", "kv-cache-dtype", "block-size", "mla", "sparse")
    expected = {*kinds, "compute-capability", "attention-type", "decision", *rules}
    assert {step.rule for step in steps} <= expected


@pytest.mark.parametrize(
    ("run_cache", "first", "words"),
    [
        ("turboquant_k8v4", "0.31", "shares no KV cache layout with TURBOQUANT (LBNHC); its own: LBHNC"),
        ("ultraquant_4bit", "0.32", "shares no KV cache layout with ULTRAQUANT (LBNHC); its own: LBHNC"),
    ],
)  # fmt: skip
def test_a_limit_of_layouts_cites_the_release_that_asks(
    run_cache: str, first: str, words: str
) -> None:
    layer, named = (
        Request(run_kv_cache_dtype=run_cache),
        Flags({ATTENTION_BACKEND: "ROCM_AITER_FA"}),
    )
    for release in ("0.30", "0.31", "0.32", "0.33"):
        trace = select(layer, named, Gpu("gfx942"), release).trace
        steps = [step for step in trace if (step.rule, step.answer) == ("layout", "no")]
        if release < first:
            assert steps == []
            continue
        step, *_ = steps  # then those of candidates
        assert step.source.startswith(f"vllm/platforms/rocm.py, _get_invalid_reasons (v{release}")
        assert step.reason.startswith(words)
        assert [step.rule for step in trace if step.rule == "named-gives-way"]


@pytest.mark.parametrize("release", ["0.20", "0.33"])
def test_batch_invariance_is_asked_for_by_variable_or_request(release: str) -> None:
    gpu = Gpu("gfx942")
    assert answer(release, Request(use_batch_invariant=True), gpu, {}) == "TRITON_ATTN"
    selection = select(Request(), Flags({"VLLM_BATCH_INVARIANT": "1"}), gpu, release)
    assert selection.backend == "TRITON_ATTN"
    assert any(step.rule == "VLLM_BATCH_INVARIANT" for step in selection.trace)
    assert answer("0.19", Request(use_batch_invariant=True), gpu, {}) == "ROCM_ATTN"


@pytest.mark.parametrize(
    ("backend", "request_", "taken", "refused", "words"),
    [
        (
            "FLASH_ATTN",
            Request(head_size=512),
            "gfx942",
            "gfx1201",
            "8 to 512 in steps of 8 (8 to 256 in steps of 8 on gfx1200, gfx1201, gfx1250)",
        ),
        (
            "ROCM_SEGMENTED_ATTN",
            Request(kv_cache_dtype="fp8"),
            "gfx1201",
            "gfx1100",
            "bfloat16 (auto, float16, bfloat16, fp8, fp8_e4m3 on gfx1200, gfx1201)",
        ),
        (
            "ROCM_AITER_MLA_SPARSE",
            Request(use_mla=True, use_sparse=True, has_sink=True),
            "gfx950",
            "gfx90a",
            "does not support attention sinks",
        ),
    ],
)
def test_what_a_class_declares_may_differ_by_gpu(
    backend: str, request_: Request, taken: str, refused: str, words: str
) -> None:
    named = Flags({ATTENTION_BACKEND: backend})
    assert select(request_, named, Gpu(taken), "0.33").backend == backend
    with pytest.raises(SelectionError) as caught:
        select(request_, named, Gpu(refused), "0.33")
    assert words in str(caught.value)


def test_sizes_of_a_class_may_go_in_steps_and_an_import_that_fails_is_a_rule() -> None:
    named = Flags({ATTENTION_BACKEND: "FLASH_ATTN"})
    assert select(Request(head_size=104), named, Gpu("gfx942"), "0.33").backend == "FLASH_ATTN"
    with pytest.raises(SelectionError, match="head size 100: it declares 8 to 512 in steps of 8"):
        select(Request(head_size=100), named, Gpu("gfx942"), "0.33")
    without_aiter = Gpu("gfx942", Aiter.ABSENT)
    assert answer("0.33", Request(head_size=33), without_aiter, {}) == "TRITON_ATTN"
    named = Flags({ATTENTION_BACKEND: "ROCM_AITER_FA"})
    with pytest.raises(SelectionError) as caught:
        select(Request(), named, without_aiter, "0.29")
    assert "imports" in {step.rule for step in caught.value.trace}


@pytest.mark.parametrize(
    ("layer", "backend", "words"),
    [(Request(), "TRITON_ATTN", "not MLA"), (Request(use_mla=True), "TRITON_MLA", "MLA")],
)
def test_a_trace_says_of_which_kind_a_backend_is(layer: Request, backend: str, words: str) -> None:
    selection = select(layer, Flags({ATTENTION_BACKEND: backend}), Gpu("gfx942"), "0.33")
    assert f"the backend is {words}, as the layer" in {step.reason for step in selection.trace}


def test_the_variable_of_batch_invariance_is_read_before_backends_are_asked_for_it() -> None:
    variable = "VLLM_BATCH_INVARIANT"
    read = [release for release in RELEASES if variable in policy_of(release).reads]
    assert read == [r for r in RELEASES if upstream_release.parse(r) >= (0, 19, 0)]
    selection = select(Request(), Flags({variable: "1"}), Gpu("gfx942"), "0.19")
    assert selection.backend == "ROCM_ATTN"
    assert variable not in {step.rule for step in selection.trace}


def test_how_to_get_a_backend_of_a_release() -> None:
    gpu = Gpu("gfx942")
    assert how_to_get("ROCM_ATTN", Request(), gpu, "0.33") == ({},)
    assert how_to_get("ROCM_AITER_FA", Request(), gpu, "0.33") == (
        {ATTENTION_BACKEND: "ROCM_AITER_FA"},
    )
    assert how_to_get("ROCM_AITER_MLA", Request(use_mla=True), gpu, "0.33") == (
        {ATTENTION_BACKEND: "ROCM_AITER_MLA"},
        AITER,
    )
    assert {NAMED: "ROCM_ATTN"} in how_to_get("ROCM_ATTN", Request(), gpu, "0.13")
    with pytest.raises(SelectionError, match="compute capability of gfx1100"):
        how_to_get("ROCM_AITER_FA", Request(), Gpu("gfx1100"), "0.33")
    with pytest.raises(SelectionError, match="sparse attention is not supported"):
        how_to_get("TRITON_MLA", Request(use_mla=True, use_sparse=True), gpu, "0.11")


def test_the_policies_cost_nothing_until_one_is_wanted() -> None:
    code = (
        "import sys, pytest_rocm_attn.backends as b;"
        "assert 'pytest_rocm_attn.backends.releases' not in sys.modules;"
        "assert 'tomllib' not in sys.modules"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env=dict(os.environ))


def test_a_selection_by_a_release_is_the_same_kind_of_answer() -> None:
    selection = select(Request(), Flags(), Gpu("gfx942"), "0.33")
    assert isinstance(selection, Selection)
    assert selection.class_path == "vllm.v1.attention.backends.rocm_attn.RocmAttentionBackend"
    assert selection.trace[-1].answer == "ROCM_ATTN"
