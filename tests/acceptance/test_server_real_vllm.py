"""Public reports about whole servers: seen on the release that had each, and not on the one that fixed it.

Slow; needs the releases unpacked: see test_real_vllm.py. docs/server.md says what each item means.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_rocm_attn.conformance.adapters import interfaces

WHISPER = "whisper-large-v3-starts-by-default"  # vllm-project/vllm#47035
TURBOQUANT = "qwen3-8b-turboquant-starts-by-default"  # #54988
INVARIANT = "llama-3-8b-batch-invariant-starts-by-default"  # #40173
DFLASH = "kimi-k2-with-a-dflash-drafter-starts-by-default"  # #40632
CONNECTOR = "use-kv-connector-reaches-the-selector"
USE_DCP = "use-dcp-reaches-the-selector"  # #54761
SPARSE_DCP = "deepseek-v3-2-over-the-context-starts-with-aiter-on"  # #54761
DSPARK = "kimi-k3-with-a-dspark-drafter-over-the-context-starts-with-aiter-on"
DCP = "qwen3-235b-over-the-context-starts-by-default"
MTP = "deepseek-r1-speculating-in-blocks-of-one-starts-with-aiter-on"  # #28222
HYBRID = "a-hybrid-model-with-blocks-of-544-starts-with-aiter-on"  # #32492
HYBRID_STEPS = "a-hybrid-model-with-blocks-of-544-steps-with-aiter-on"  # #32492
FEW_HEADS = "kimi-k2-on-8-ranks-steps-with-aiter-on"  # #51964
LATENT_STEPS = "deepseek-r1-steps-with-aiter-on"  # #34641
PLAIN_STEPS = "llama-3-8b-steps-with-aiter-on"
PREDICATES = "predicates-know-what-the-gpu-has-with-aiter-on"  # #34641, #51964
TWINS = "twin-calls-heed-the-same"  # #33123
CALLS = "the-servers-calls-fit"  # #36845, #50064, #57248
SPARSE_STEPS = "deepseek-v3-2-speculating-steps-with-aiter-on"
MISTRAL_STEPS = "mistral-small-4-steps-by-default"  # #40966
GEMMA_DFLASH = "gemma-4-31b-with-a-dflash-drafter-starts-by-default"  # #42068, #51837
PLAIN = "llama-3-8b-starts-by-default"

# Release -> item -> a part of what it finds; "" for nothing.
FOUND: dict[str, dict[str, str]] = {
    "0.12.0": {MTP: "and not its AiterMLAMetadata"},
    "0.15.1": {
        PREDICATES: "is_fp4bmm_enabled() is true, and the GPU lacks 4-bit floating point",
        HYBRID: "paged_attention_v1 is given blocks of 544 tokens, and takes 16, 32",
        HYBRID_STEPS: "paged_attention_v1 is called with block size 544, and takes 16, 32",
        LATENT_STEPS: "batched_gemm_a16wfp4 is called with GPU gfx942, and takes gfx950, gfx1250",
        TWINS: "kv_cache_layout='NHD', where the other call chooses by",
        PLAIN_STEPS: "",
    },
    "0.17.1": {CALLS: "insert_blocks_to_device of the platform: it has no such attribute"},
    "0.18.1": {CALLS: "", SPARSE_STEPS: ""},
    "0.19.1": {INVARIANT: "batch_invariant mode requires an attention backend in", MTP: ""},
    "0.20.0": {
        INVARIANT: "",
        PREDICATES: "",
        HYBRID: "",
        HYBRID_STEPS: "",
        LATENT_STEPS: "",
        DFLASH: "attention: selecting a backend: it is refused for what another layer",
        MISTRAL_STEPS: "_fwd_grouped_kernel_stage1 does not compile for gfx942",
        GEMMA_DFLASH: "window: selecting a backend: it is refused for what another layer",
    },
    "0.22.1": {
        DFLASH: "",
        CONNECTOR: "without being asked about use_kv_connector",
        MISTRAL_STEPS: "",
        GEMMA_DFLASH: "they share one allocation",
    },
    "0.24.0": {WHISPER: "they share one allocation", CONNECTOR: ""},
    "0.25.1": {WHISPER: "", PLAIN: ""},
    "0.26.0": {CALLS: "num_decode_tokens of ROCM_AITER_MLA_SPARSE's metadata"},
    "0.27.1": {
        CALLS: "",
        FEW_HEADS: "mla_gluon is called with GPU gfx942, and takes gfx950",
        DCP: "RocmAttentionImpl does not",
        PREDICATES: "is true, and the GPU lacks AITER's Gluon kernel for MLA",
    },
    "0.28.0": {
        USE_DCP: "without being asked about use_dcp",
        DSPARK: "AiterMLAImpl does not",
        SPARSE_DCP: "ROCMAiterMLASparseImpl does not",
    },
    "0.29.0": {
        USE_DCP: "",
        DSPARK: "",
        DCP: "RocmAttentionImpl does not",
        TURBOQUANT: "No KV cache layout satisfies every supported set",
    },
    "0.30.0": {CALLS: "record_logical_topk_ready() of ROCM_AITER_MLA_SPARSE's implementation"},
    "0.31.0": {
        SPARSE_DCP: "",
        CALLS: "",
        GEMMA_DFLASH: "",
        DCP: "",
        PREDICATES: "",
        PLAIN: "",
        FEW_HEADS: "",
        PLAIN_STEPS: "",
    },
    "0.33.0": {
        TURBOQUANT: "",
        PLAIN: "",
        "qwen3-8b-ultraquant-starts-by-default": "No KV cache layout satisfies every supported set",
        CALLS: "",
        TWINS: "lacks is_ultraquant_run, which the other call passes",
    },
}


def test_the_page_lists_on_which_releases_each_report_is_found_and_is_not() -> None:
    page = (Path(__file__).parents[2] / "docs/server.md").read_text("utf-8")
    table = page.partition("### Each report on a release")[2].partition("### ")[0]
    rows = re.findall(r"\| \[#(\d+)\].* \| `(.+)` \| ([\d.]+) \| (.+) \|", table)
    for _, item, has, lacks in rows:
        assert FOUND[has][item]
        assert lacks.startswith("none") or FOUND[lacks][item] == ""
    named = re.findall(r"#(\d+)", Path(__file__).read_text("utf-8").partition("FOUND:")[0])
    assert {report for report, *_ in rows} == {*named}


@pytest.mark.slow
@pytest.mark.parametrize("release", FOUND)
def test_a_release_has_what_was_reported_about_it_and_no_more(
    server_rows: Any, release: str
) -> None:
    expected = FOUND[release]
    rows = server_rows(release, "gfx942", *expected)
    assert rows.keys() == expected.keys()
    for name, part in expected.items():
        row = rows[name]
        assert row["verdict"] == ("advisory" if part else "pass"), row["message"]
        assert part in row["message"]


def test_an_operator_whose_rocm_way_forgets_what_callers_give_is_found(
    vllm_release: Callable[[str], Path],
) -> None:
    """vllm-project/vllm#53943 is about a branch; release 0.30.0 has it mended, so that it is undone here."""
    path = vllm_release("0.30.0") / "vllm/model_executor/layers/sparse_attn_indexer_kpool.py"
    source = path.read_text("utf-8")
    before, way, after = source.partition("    def forward_hip(")
    parameters, end, body = after.partition("    ):\n")
    branch = before + way + parameters.partition("        *,\n")[0] + end + body
    ways = ("forward_hip", "forward_cuda")
    assert list(interfaces.other_ways(source, *ways)) == []
    ((_, words),) = interfaces.other_ways(branch, *ways)
    assert words.startswith("SparseAttnIndexerKpool.forward_hip: it lacks gate_score")
