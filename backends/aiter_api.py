"""The functions of aiter that the backends call, with their forms: docs/reference/aiter.md#functions."""

from __future__ import annotations

from pytest_rocm_attn.backends.aiter_function import AiterFunction

_NO_WINDOW = (-1, -1)

FLASH_ATTN_VARLEN = AiterFunction(
    "flash_attn_varlen_func",
    ("aiter",),
    "docs/reference/aiter.md#flash-attn-varlen-func",
    {
        "min_seqlen_q": 0,
        "logits_soft_cap": 0.0,
        "window_size": _NO_WINDOW,
        "alibi_slopes": None,
        "return_lse": False,
        "sink_ptr": None,
    },
)
PAGED_ATTENTION_V1 = AiterFunction(
    "paged_attention_v1",
    ("torch.ops.aiter",),
    "docs/reference/aiter.md#paged-attention-v1",
    {"fp8_out_scale": None},
)
UNIFIED_ATTENTION = AiterFunction(
    "unified_attention",
    ("aiter.ops.triton.attention.unified_attention", "aiter.ops.triton.unified_attention"),
    "docs/reference/aiter.md#unified-attention",
    {"alibi_slopes": None, "sinks": None, "output_scale": None},
)
MLA_DECODE = AiterFunction(
    "mla_decode_fwd",
    ("aiter.mla",),
    "docs/reference/aiter.md#mla-decode-fwd",
    {"page_size": 1, "nhead_kv": 1, "q_scale": None, "kv_scale": None, "logit_cap": 0.0},
)
