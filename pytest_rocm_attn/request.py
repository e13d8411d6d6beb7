"""What one attention layer needs from a backend."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from pytest_rocm_attn.errors import RequestError, nearest

DTYPES = ("float16", "bfloat16", "float32")
# vLLM 0.12.0 config/cache.py (docs/reference/backends.md#inputs), then names of later releases
# (2.3).
KV_CACHE_DTYPES = (
    "auto",
    "float16",
    "bfloat16",
    "fp8",
    "fp8_e4m3",
    "fp8_e5m2",
    "fp8_inc",
    "fp8_ds_mla",
    # Of later releases, to 0.33.0 (vLLM config/cache.py, CacheDType).
    "int4_per_token_head",
    "int8_per_token_head",
    "fp8_per_token_head",
    "nvfp4",
    "nvfp4_4over6",
    "nvfp4_ds_mla",
    "turboquant_k8v4",
    "turboquant_4bit_nc",
    "turboquant_k3v4_nc",
    "turboquant_3bit_nc",
    "octave_k3v4",
    "octave_k3v3",
    "octave_k3v3_compact",
    "ultraquant_4bit",
)
ATTN_TYPES = ("decoder", "encoder", "encoder_only", "encoder_decoder")
_SHORT = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32"}
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {  # annotation -> types, in words
    "bool": ((bool,), "True or False"),
    "str": ((str,), "a string"),
    "int": ((int,), "an int"),
    "int | None": ((int, type(None)), "an int or None"),
    "float | None": ((int, float, type(None)), "a number or None"),
}
MLA_HEAD_SIZE = 576  # kv_lora_rank 512 + rope 64 (docs/reference/backends.md#mla)


@dataclass(frozen=True, slots=True)
class Request:
    """One attention layer's needs. Frozen, hashable, describable without torch.

    Args:
        head_size: elements per head; left at 0 it becomes 128, or 576 for MLA.
        dtype: model dtype, torch's name without the prefix; "fp16", "bf16", "fp32" are understood.
        kv_cache_dtype: as vLLM spells it: "auto", "fp8", "fp8_e4m3", ...
        block_size: tokens per KV-cache block; None when the server has not set one.
        use_mla: the model is an MLA model (DeepSeek style latent cache).
        use_sparse: the layer attends to an indexed subset of tokens.
        has_sink: the layer has attention sinks, one logit per query head.
        attn_type: "decoder", "encoder", "encoder_only" or "encoder_decoder".
        sliding_window: window in tokens, or None.
        num_heads: query heads per rank; left at 0 it becomes 32, or 16 for MLA.
        num_kv_heads: KV heads per rank, a divisor of num_heads; left at 0, a quarter of num_heads,
            or 1 for MLA.
        logits_soft_cap: soft cap on scaled scores, or None.
        alibi: the layer has ALiBi slopes.
        use_mm_prefix: bidirectional attention over a multimodal prefix.
        use_kv_connector: a KV connector transfers the cache to or from other servers.
        use_dcp: decode context parallelism: the cache is split over ranks by tokens.
        use_pcp: prefill context parallelism.
        use_non_causal: a decoder layer that attends to later tokens too.
        use_per_head_quant_scales: a quantised cache has a scale for each head.
        use_rswa: the model has a sliding window that restarts (R-SWA).
        use_adaptive_verification: speculative verification trims its drafts on the device.
        use_batch_invariant: results must not depend on the batch; VLLM_BATCH_INVARIANT sets it too.
        encoder_decoder_model: the layer is part of an encoder-decoder model, whatever its own type.
        run_kv_cache_dtype: the server's --kv-cache-dtype, if the layer's own differs from it, as in
            the first and last layers of a turboquant run; "" if it does not.

    Raises:
        RequestError: a field is of another type or out of range; the message names it.
    """

    head_size: int = 0
    dtype: str = "bfloat16"
    kv_cache_dtype: str = "auto"
    block_size: int | None = 16
    use_mla: bool = False
    use_sparse: bool = False
    has_sink: bool = False
    attn_type: str = "decoder"
    sliding_window: int | None = None
    num_heads: int = 0
    num_kv_heads: int = 0
    logits_soft_cap: float | None = None
    alibi: bool = False
    use_mm_prefix: bool = False
    # What selectors after 0.16 are asked too, by the names that their AttentionSelectorConfig has.
    use_kv_connector: bool = False
    use_dcp: bool = False
    use_pcp: bool = False
    use_non_causal: bool = False
    use_per_head_quant_scales: bool = False
    use_rswa: bool = False
    use_adaptive_verification: bool = False
    use_batch_invariant: bool = False
    # What they read of the server's configuration.
    encoder_decoder_model: bool = False
    run_kv_cache_dtype: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            types, words = _KINDS[str(field.type)]
            value = getattr(self, field.name)
            # True is an int to Python, and no number of anything here.
            fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
            _require(fits, field.name, value, words)
        if self.head_size == 0:
            object.__setattr__(self, "head_size", MLA_HEAD_SIZE if self.use_mla else 128)
        if self.num_heads == 0:
            object.__setattr__(self, "num_heads", 16 if self.use_mla else 32)
        if self.num_kv_heads == 0:
            kv_heads = 1 if self.use_mla else max(1, self.num_heads // 4)
            object.__setattr__(self, "num_kv_heads", kv_heads)
        object.__setattr__(self, "dtype", _SHORT.get(self.dtype, self.dtype))
        _require(self.head_size > 0, "head_size", self.head_size, "a positive number of elements")
        _require_one_of("dtype", self.dtype, DTYPES)
        _require_one_of("kv_cache_dtype", self.kv_cache_dtype, KV_CACHE_DTYPES)
        _require_one_of("attn_type", self.attn_type, ATTN_TYPES)
        if self.run_kv_cache_dtype:
            _require_one_of("run_kv_cache_dtype", self.run_kv_cache_dtype, KV_CACHE_DTYPES)
        _require(
            self.block_size is None or self.block_size > 0,
            "block_size",
            self.block_size,
            "a positive number of tokens, or none",
        )
        _require(
            self.sliding_window is None or self.sliding_window > 0,
            "sliding_window",
            self.sliding_window,
            "a positive number of tokens, or none",
        )
        _require(self.num_heads > 0, "num_heads", self.num_heads, "a positive number")
        _require(
            self.num_kv_heads > 0 and self.num_heads % self.num_kv_heads == 0,
            "num_kv_heads",
            self.num_kv_heads,
            f"a positive divisor of num_heads={self.num_heads}",
        )
        _require(
            self.logits_soft_cap is None or self.logits_soft_cap > 0,
            "logits_soft_cap",
            self.logits_soft_cap,
            "a positive number, or none",
        )

    @property
    def kind(self) -> str:
        """The layer's kind, as the keys of ``backend_per_kind`` name it.

        Source: get_attn_spec_kind in vllm/v1/attention/selector.py (v0.33.0).
        """
        by_type = {"encoder_only": "encoder_only_attention", "encoder_decoder": "cross_attention"}
        if self.attn_type in by_type:
            return by_type[self.attn_type]
        if self.sliding_window is not None:
            return "sliding_window_mla" if self.use_mla else "sliding_window"
        return "mla_attention" if self.use_mla else "full_attention"

    @property
    def run_cache(self) -> str:
        """The server's --kv-cache-dtype: run_kv_cache_dtype, or the layer's own."""
        return self.run_kv_cache_dtype or self.kv_cache_dtype

    def non_default(self) -> dict[str, Any]:
        """Return the fields that differ from a plain request of the same kind, in field order."""
        plain = Request(use_mla=self.use_mla)
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if (field.name == "use_mla" and self.use_mla)
            or getattr(self, field.name) != getattr(plain, field.name)
        }


def _require(holds: bool, field: str, value: object, wanted: str) -> None:
    if not holds:
        raise RequestError(f"request: {field} is {value!r}; it must be {wanted}", field)


def _require_one_of(field: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:  # the nearest is worth its milliseconds only when there is a message
        _require(False, field, value, f"one of {', '.join(valid)}.{nearest(value, valid)}")
