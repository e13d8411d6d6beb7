"""What a call of a closed kernel says of the kernel's work, and what the kernel would return.

A kernel is known by its function's name, whatever module a release imports it from. Shapes are those that the
kernels' own sources document (ROCm/aiter v0.1.20.post1 by file; vllm-project/vllm v0.33.0, csrc/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Arguments = Mapping[str, Any]


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _queries(a: Arguments, name: str = "q") -> dict[str, Any]:
    """Say what the queries are: [tokens, heads, head size]."""
    query = a[name]
    return {"heads": query.shape[-2], "head size": query.shape[-1], "dtype": _dtype(query)}


def _varlen(a: Arguments) -> dict[str, Any]:
    window = tuple(a.get("window_size") or (a.get("window_size_left", -1),))
    return {
        **_queries(a),
        "KV heads": a["k"].shape[-2],
        "value head size": a["v"].shape[-1],
        "causal": a.get("causal"),
        "window": window[0] >= 0,
        "sinks": any(a.get(name) is not None for name in ("sink_ptr", "sink")),
    }


def _paged_v1(a: Arguments) -> dict[str, Any]:
    """aiter/paged_attn.py: a cache of layout NHD is [blocks, tokens, heads, size], of HND [blocks, heads, ...]."""
    cache = a["key_cache"]
    tokens, heads = (1, 2) if a["kv_cache_layout"] == "NHD" else (2, 1)
    return {
        **_queries(a, "query"),
        "KV heads": cache.shape[heads],
        "block size": cache.shape[tokens],
        "cache dtype": a["kv_cache_dtype"],
        "queries of a request": -(-a["query"].shape[0] // a["context_lens"].shape[0]),
        "mtp": a.get("mtp", 1),
    }


def _paged_rocm(a: Arguments) -> dict[str, Any]:
    """csrc/rocm/attention.cu: the query is [requests, heads, size]."""
    facts = _queries(a, "query")
    facts["queries for a KV head"] = facts["heads"] // a["num_kv_heads"]
    return {**facts, "block size": a["block_size"], "context": a["max_seq_len"]}


def _unified(a: Arguments) -> dict[str, Any]:
    """aiter/ops/triton/attention/unified_attention.py: the cache is [blocks, tokens, heads, size]."""
    return {
        **_queries(a),
        "KV heads": a["k"].shape[2],
        "block size": a["k"].shape[1],
        "cache dtype": _dtype(a["k"]),
        "causal": a["causal"],
        "q_descale": a["q_descale"] is not None,
        "queries of a request": a["max_seqlen_q"],
        "window": a["window_size"][0] >= 0,
        "sinks": a.get("sinks") is not None,
    }


def _mla_decode(a: Arguments) -> dict[str, Any]:
    """aiter/mla.py: the query is [tokens, heads, 576]."""
    return {
        **_queries(a),
        "cache dtype": _dtype(a["kv_buffer"]),
        "queries of a request": a["max_seqlen_q"],
        "persistent": a.get("work_meta_data") is not None,
        "logit cap": a.get("logit_cap"),
    }


def _mla_stage(a: Arguments) -> dict[str, Any]:
    """aiter/ops/attention.py, mla_decode_stage1_asm_fwd: Q [tokens, heads, 576]."""
    return {
        **_queries(a, "Q"),
        "cache dtype": _dtype(a["KV"]),
        "queries of a request": a["max_seqlen_q"],
        "persistent": a.get("work_metadata", a.get("work_meta_data")) is not None,
    }


def _mla_gluon(a: Arguments) -> dict[str, Any]:
    """aiter/ops/triton/gluon/mla_gluon.py: the queries are [tokens, heads, 512] and [tokens, heads, 64]."""
    return {**_queries(a, "q_nope"), "cache dtype": _dtype(a["kv_c"])}


def _pa_asm(a: Arguments) -> dict[str, Any]:
    """aiter/ops/attention.py, pa_fwd_asm: the keys are [blocks, KV heads, size / x, tokens, x]."""
    facts = _queries(a, "Q")
    facts["queries for a KV head"] = facts["heads"] // a["K"].shape[1]
    return {**facts, "block size": a["K"].shape[3], "cache dtype": _dtype(a["K"])}


def _pa_common(a: Arguments) -> dict[str, Any]:
    facts = _queries(a, "Q")
    facts["queries for a KV head"] = facts["heads"] // a["K"].shape[1]
    return {**facts, "block size": a["K"].shape[3], "cache dtype": a["kv_cache_dtype"]}


def _cache_write(a: Arguments) -> dict[str, Any]:
    return {"dtype": _dtype(a["key"]), "cache dtype": a["kv_cache_dtype"]}


def _latent_write(a: Arguments) -> dict[str, Any]:
    return {"dtype": _dtype(a["kv_c"]), "cache dtype": a["kv_cache_dtype"]}


FACTS: dict[str, Callable[[Arguments], dict[str, Any]]] = {
    "flash_attn_varlen_func": _varlen,
    "fmha_v3_varlen_fwd": _varlen,
    "mha_varlen_fwd": _varlen,
    "mla_decode_stage1_asm_fwd": _mla_stage,
    "paged_attention_v1": _paged_v1,
    "paged_attention": _paged_rocm,
    "unified_attention": _unified,
    "mla_decode_fwd": _mla_decode,
    "mla_gluon": _mla_gluon,
    "mla_decode_gluon": _mla_gluon,
    "pa_fwd_asm": _pa_asm,
    "paged_attention_common": _pa_common,
    "reshape_and_cache": _cache_write,
    "reshape_and_cache_flash": _cache_write,
    "concat_and_cache_mla": _latent_write,
}


# --- what they return -----------------------------------------------------------------------------


def _empty(like: Any, shape: tuple[int, ...], dtype: str = "") -> Any:
    import torch

    made = getattr(torch, dtype) if dtype else like.dtype
    return torch.empty(shape, dtype=made, device=like.device)


def _attended(a: Arguments) -> Any:
    """Return the output, and with return_lse the logarithms of sums, [heads, tokens]."""
    query, value = a["q"], a["v"]
    out = a.get("out")
    if out is None:
        dtype = "" if query.element_size() > 1 else "bfloat16"
        out = _empty(query, (*query.shape[:-1], value.shape[-1]), dtype)
    if not a.get("return_lse"):
        return out
    return out, _empty(query, (query.shape[-2], query.shape[0]), "float32")


def _flash(a: Arguments) -> Any:
    """flash_attn/flash_attn_interface.py (2.8.3): with return_attn_probs the sums and the products too."""
    query = a["q"]
    out = _empty(query, (*query.shape[:-1], a["v"].shape[-1]))
    if not a["return_attn_probs"]:
        return out
    return out, _empty(query, (query.shape[-2], query.shape[0]), "float32"), None


def _latent(a: Arguments) -> Any:
    """aiter/mla.py: the output is written; parts of it, or with return_lse the sums, are returned."""
    out = a["o"]
    return None, _empty(out, tuple(out.shape[:2]), "float32")


def _gluon(a: Arguments) -> Any:
    out = a["o"]
    if a.get("return_lse"):
        return out, _empty(out, tuple(out.shape[:2]), "float32")
    return out


def _work_sizes(a: Arguments) -> Any:
    """aiter/ops/attention.py, get_mla_metadata_info_v1: (size, dtype) of six buffers; sizes are ours."""
    import torch

    return (
        (2, torch.uint64),
        (8, torch.int32),
        ((8, 8), torch.int32),
        (8, torch.int32),
        ((8, 2), torch.int32),
        (8, torch.int32),
    )


def _quantised_product(a: Arguments) -> Any:
    """X [batch, M, K] times WQ [batch, N, K]: [batch, M, N], or [M, batch, N] if transpose_bm."""
    x, weight = a["X"], a["WQ"]
    (batch, rows, _), columns = x.shape, weight.shape[1]
    shape = (rows, batch, columns) if a.get("transpose_bm") else (batch, rows, columns)
    given = a.get("YQ")
    return given if given is not None else _empty(x, shape, "bfloat16")


def _fp4_product(a: Arguments) -> Any:
    """x [batch, M, K] times w [batch, N, K / 2]: [batch, M, N], or [M, batch, N] if transpose_bm."""
    if a.get("y") is not None:
        return a["y"]
    (batch, rows, _), columns = a["x"].shape, a["w"].shape[1]
    shape = (rows, batch, columns) if a.get("transpose_bm") else (batch, rows, columns)
    return _empty(a["x"], shape, "bfloat16")


def _nothing(_: Arguments) -> None:
    """It writes into its arguments."""


# By module and name, or by name.
RETURNS: dict[str, Callable[[Arguments], Any]] = {
    "flash_attn.flash_attn_varlen_func": _flash,
    "flash_attn.flash_attn_func": _flash,
    "flash_attn_varlen_func": _attended,
    "flash_attn_varlen_fp8_pertensor_func": _attended,
    "paged_attention_v1": lambda a: a["out"],
    "paged_attention_common": lambda a: a["out_"],
    "pa_fwd_asm": lambda a: a["out_"],
    "unified_attention": _nothing,
    "mla_decode_fwd": _latent,
    "mla_gluon": _gluon,
    "mla_decode_gluon": _gluon,
    "get_mla_metadata_info_v1": _work_sizes,
    "get_ps_metadata_info_v1": _work_sizes,
    "get_mla_metadata_v1": _nothing,
    "get_ps_metadata_v1": _nothing,
    "mla_decode_stage1_asm_fwd": _nothing,
    "mla_prefill_ps_asm_fwd": _nothing,
    "mla_reduce_v1": _nothing,
    "reshape_and_cache": _nothing,
    "reshape_and_cache_flash": _nothing,
    "reshape_and_cache_with_pertoken_quant": _nothing,
    "concat_and_cache_mla": _nothing,
    "batched_gemm_a8w8_a_per_token_group_prequant_w_per_batched_tensor_quant": _quantised_product,
    "batched_gemm_a16wfp4": _fp4_product,
}
