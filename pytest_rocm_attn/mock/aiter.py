"""The module ``aiter`` in the four states a machine can have it in.

The states: docs/reference/aiter.md#which-aiter.

present: AMD's package as far as selection and the import of backend classes need it. absent: no such
module, even when one is installed. broken: AMD's package is found and its import fails, as it does on
a box without ROCm. impostor: the unrelated asynchronous-iterator package of the same import name.
"""

from __future__ import annotations

import enum
import importlib
import inspect
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.mock.flash_attn import device_function
from pytest_rocm_attn.mock.packages import StandIn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

VERSION = "0.1.7.post2.dev18"
IMPOSTOR_VERSION = "0.13.20191203"


class ActivationType(enum.IntEnum):
    """Members: No, Silu, Gelu, Swiglu, Situv2 (docs/reference/mock-surface.md#real-aiter)."""

    No = -1
    Silu = 0
    Gelu = 1
    Swiglu = 2
    Situv2 = 3


class QuantType(enum.IntEnum):
    """Members: No, per_Tensor, per_Token and the block sizes (section 5.2)."""

    No = 0
    per_Tensor = 1
    per_Token = 2
    per_1x32 = 3
    per_1x128 = 4
    per_128x128 = 5
    per_256x128 = 6
    per_1024x128 = 7


# By module: what ROCm attention backends import from it (docs/reference/aiter.md#functions).
_FUNCTIONS = {
    "aiter": (
        "flash_attn_func",
        "flash_attn_varlen_func",
        "fmha_v3_varlen_fwd",
        "gemm_a4w4",
        "per_1x32_f4_quant_hip",
        "get_mla_metadata_v1",
        "get_mla_metadata_info_v1",
        "get_pa_metadata_v1",
        "flash_attn_varlen_fp8_pertensor_func",
        "get_ps_metadata_info_v1",
        "get_ps_metadata_v1",
        "mla_prefill_ps_asm_fwd",
        "mla_reduce_v1",
        "mla_decode_stage1_asm_fwd",
        "mla_prefill_asm_fwd",
        "paged_attention_common",
        "paged_attention_rocm",
        "paged_attention_v1",
        "pa_fwd_asm",
        "pa_fwd_naive",
        "pa_persistent_fwd",
        "reshape_and_cache",
        "reshape_and_cache_flash",
        "reshape_and_cache_with_pertoken_quant",
        "rms_norm",
        "rmsnorm2d_fwd_with_add",
    ),
    "aiter.ops.triton.mha": ("flash_attn_varlen_func",),
    "aiter.ops.triton.attention.mha": ("flash_attn_varlen_func",),
    "aiter.ops.triton.mha_v3": ("flash_attn_with_kvcache",),
    "aiter.mla": ("mla_decode_fwd", "mla_prefill_fwd"),
    "aiter.paged_attn": (),
    "aiter.ops.triton.unified_attention": ("unified_attention",),
    "aiter.ops.triton.attention.unified_attention": ("unified_attention",),
    "aiter.ops.triton.gluon.pa_decode_gluon": ("get_recommended_splits", "pa_decode_gluon"),
    "aiter.ops.triton.gluon.mla_decode_gluon": ("mla_decode_gluon",),
    "aiter.ops.triton.gluon.mla_gluon": ("mla_gluon",),
    "aiter.ops.triton.attention.mha_v3": ("flash_attn_with_kvcache",),
    "aiter.ops.triton.attention.mla": ("mla_decode_fwd",),
    "aiter.ops.triton.attention.pa_mqa_logits_mxfp4": (),
    "aiter.ops.triton.batched_gemm_a16wfp4": ("batched_gemm_a16wfp4",),
    "aiter.ops.triton.fp8_mqa_logits": ("fp8_mqa_logits",),
    "aiter.ops.triton.pa_mqa_logits": ("deepgemm_fp8_paged_mqa_logits_stage1",),
    "aiter.ops.triton.fusions.fused_mla_prefill_qkv_fp8": ("fused_mla_prefill_qkv_fp8",),
    "aiter.ops.triton.fusions.k_norm_rope_mxfp4_cache": ("k_norm_rope_mxfp4_cache",),
    "aiter.ops.triton.rope.q_rope_mxfp4_quant": ("q_rope_mxfp4_quant",),
    "aiter.ops.pa_sparse_prefill_opus": ("pa_sparse_prefill_opus",),
    "aiter.ops.topk": ("top_k_per_row_decode", "top_k_per_row_prefill"),
    "aiter.ops.flydsl": ("flydsl_fp8_mqa_logits",),
    "aiter.ops.flydsl.kernels.buffer_ops": (),
    "aiter.ops.flydsl.kernels.vector": (),
    # Of quantised linear layers, which SGLang 0.5.23 imports on the way to its choice of a backend
    # (srt/layers/quantization/quark/schemes/quark_w4a4_mxfp4.py).
    "aiter.ops.shuffle": ("shuffle_weight",),
    "aiter.ops.triton.gemm.fused.fused_gemm_afp4wfp4_split_cat": ("fused_gemm_afp4wfp4_split_cat",),
    "aiter.ops.triton.gemm_afp4wfp4": ("gemm_afp4wfp4",),
    "aiter.ops.triton.gemm_afp4wfp4_pre_quant_atomic": ("gemm_afp4wfp4_pre_quant",),
    "aiter.ops.triton.quant": ("dynamic_mxfp4_quant",),
}
# Parameters that releases look for, by the name of the function: vllm/_aiter_ops.py,
# mla_decode_supports_non_causal (v0.30.0); the rest of the list as in amd-aiter 0.1.7.
_PARAMETERS = {
    "mla_decode_fwd": (
        *("q", "kv_buffer", "o", "qo_indptr", "kv_indptr", "kv_indices", "kv_last_page_lens"),
        *("max_seqlen_q", "sm_scale", "logit_cap", "num_kv_splits", "num_kv_splits_indptr"),
        *("work_meta_data", "work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map"),
        *("reduce_partial_map", "q_scale", "kv_scale", "causal"),
    ),
}
_IMPOSTOR = (
    "active_aiter",
    "aiter_forker",
    "azip",
    "flatten_aiter",
    "gated_aiter",
    "iter_to_aiter",
    "join_aiters",
    "map_aiter",
    "map_filter_aiter",
    "parallel_map_aiter",
    "preload_aiter",
    "push_aiter",
    "sharable_aiter",
    "stoppable_aiter",
)


def stand_in(gpu: Gpu) -> StandIn | None:
    """Return the package for the state of aiter on a GPU, or None when it must not be there."""
    match gpu.aiter:
        case Aiter.PRESENT:
            return _present(gpu)
        case Aiter.BROKEN:
            return _broken(gpu)
        case Aiter.IMPOSTOR:
            return _impostor()
        case Aiter.ABSENT:
            return None


def _present(gpu: Gpu) -> StandIn:
    def functions(module: ModuleType) -> None:
        for name in _FUNCTIONS.get(module.__name__, ()):
            function = device_function(name, module.__name__, gpu.gfx)
            if name in _PARAMETERS:
                vars(function)["__signature__"] = _signature(_PARAMETERS[name])
            setattr(module, name, function)

    def package(module: ModuleType) -> None:
        functions(module)
        # aiter's own __init__ brings these in, so that "import aiter" is enough to use them.
        dtypes = importlib.import_module("aiter.utility.dtypes")
        importlib.import_module("aiter.mla")
        vars(module).update(dtypes=dtypes, ActivationType=ActivationType, QuantType=QuantType)

    modules: dict[str, Callable[[ModuleType], None]] = {
        "aiter": package,
        "aiter.utility": functions,
        "aiter.utility.dtypes": lambda module: _dtypes(module, gpu),
        "aiter.jit": functions,
        "aiter.jit.core": _jit,
    }
    for name in _FUNCTIONS:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            modules.setdefault(".".join(parts[:length]), functions)
    return StandIn(
        "aiter",
        modules,
        distribution="amd-aiter",
        version=VERSION,
        how_to_add="install amd-aiter and pass MockRocm(..., real_aiter=True), or set it on the"
        " module in your test",
    )


def _signature(names: tuple[str, ...]) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind) for name in names])


def _jit(module: ModuleType) -> None:
    """Fill aiter.jit.core: where the package keeps its sources, of which the stand-in has none."""
    vars(module)["AITER_CSRC_DIR"] = str(Path(str(module.__file__)).parents[1] / "csrc")


_DTYPES = {
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
}
# fp8 is by architecture: uint8 if aiter's table has no entry
# (docs/reference/mock-surface.md#derived).
_FP8 = {"gfx942": "float8_e4m3fnuz", "gfx90a": "uint8"}


def _dtypes(module: ModuleType, gpu: Gpu) -> None:
    """Fill aiter.dtypes with torch's types, looked up when asked for: the rest needs no torch."""
    names = {**_DTYPES, "fp8": _FP8.get(gpu.gfx, "float8_e4m3fn")}
    unknown = vars(module)["__getattr__"]

    def __getattr__(name: str) -> Any:  # PEP 562
        if name == "d_dtypes":  # aiter/utility/dtypes.py (v0.1.20)
            return {each: __getattr__(each) for each in names}
        if name not in names:
            return unknown(name)
        import torch

        return getattr(torch, names[name])

    vars(module)["__getattr__"] = __getattr__


def _broken(gpu: Gpu) -> StandIn:
    def fail(module: ModuleType) -> None:
        # Word for word what AMD's wheel says on a box without ROCm
        # (docs/reference/aiter.md#import).
        raise RuntimeError("ROCm version file not found")

    return replace(_present(gpu), modules=dict.fromkeys(_present(gpu).modules, fail))


def _impostor() -> StandIn:
    def fill(module: ModuleType) -> None:
        def iterator(name: str) -> Any:
            async def function(*args: Any, **kwargs: Any) -> Any:
                raise NotImplementedError(f"aiter.{name}: a stand-in of pytest_rocm_attn.mock")

            function.__name__ = function.__qualname__ = name
            return function

        for name in _IMPOSTOR:
            setattr(module, name, iterator(name))
        vars(module)["__version__"] = IMPOSTOR_VERSION
        # An unrelated package says of missing names what any package says.
        del vars(module)["__getattr__"]

    return StandIn(
        "aiter",
        {"aiter": fill},
        distribution="aiter",
        version=IMPOSTOR_VERSION,
    )
