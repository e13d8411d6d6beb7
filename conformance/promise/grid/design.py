"""Which cells the grid has, and why: what selectors and backends can tell apart.

Environment. The switches that selection reads (docs/reference/environment.md#variables) are
multiplied out, at unset, off and on; every other declared variable is set alone, at each of its
values, together with the master switch in all its spellings (family ``variables``): that finds the one
that matters though it should not. The explicit choice runs through every name of the registry, or,
where the request is the subject, through those that can run on ROCm and two that cannot.

GPUs. Every target that a release tells from the others, with AMD's aiter present and absent; broken and
impostor aiter, which a selector sees only by its import or its absence, on one GPU of each kind.

Requests. Each departs from a plain layer in one field, so that one refusal does not hide another,
and then in pairs of fields that some backend judges together.
"""

from __future__ import annotations

import functools
from typing import Any

from pytest_rocm_attn.conformance.promise.grid.space import (
    AITER,
    ALSO,
    GFX,
    REQUEST,
    Axis,
    Family,
    Grid,
)
from pytest_rocm_attn.flags import (
    EXPLICIT,
    MHA,
    MLA,
    PREFILL_DECODE,
    SPARSE,
    UNIFIED,
    USE_AITER,
    VARIABLES,
    Kind,
    Variable,
)
from pytest_rocm_attn.gpu import Aiter, distinct_gpus
from pytest_rocm_attn.registry import CLASS_PATHS, ROCM_BACKENDS
from pytest_rocm_attn.request import Request

SWITCHES = (USE_AITER, MHA, MLA, UNIFIED, PREFILL_DECODE, SPARSE)  # that selection reads

_UNSET_OFF_ON = (None, "0", "1")
_EVERY_NAME = (None, *CLASS_PATHS)
# FLASH_ATTN is named in the contract's own text (docs/reference/contract.md#q1), TREE_ATTN is any
# other name that is legal.
_ROCM_NAMES = (None, *ROCM_BACKENDS, "FLASH_ATTN", "TREE_ATTN")

# "true" in any case and "1" are on; all the others are off
# (docs/reference/environment.md#truth-table).
_BOOLEAN_SPELLINGS = ("0", "1", "true", "TRUE", "yes", " 1", "")
_WRONG_NAMES = ("", "triton_attn", "NOT_A_BACKEND")
# Printed in a quick-start page or known from older releases, and read by nothing
# (docs/reference/environment.md#variables).
_READ_BY_NOTHING = ("VLLM_USE_AITER_UNIFIED_ATTENTION", "VLLM_USE_V1", "VLLM_USE_TRITON_FLASH_ATTN")

# The hybrid models' block sizes (docs/reference/known-regressions.md#cap-hybrid-block-refused)
# among them.
_BLOCK_SIZES = (None, 1, 8, 32, 64, 128, 256, 272, 544, 784, 1056, 2048)
_HEAD_SIZES = (32, 64, 72, 80, 96, 112, 192, 256, 512)
_CACHES = ("float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2")
# Backends of later releases that ROCm's platform ranks by itself, or grants if they are named
# (vllm/platforms/rocm.py, v0.33.0).
_LATER_ROCM_NAMES = ("TURBOQUANT", "ULTRAQUANT", "ROCM_OCTAVE", "ROCM_SEGMENTED_ATTN")
# One cache dtype of each later kind (vllm/config/cache.py, v0.33.0).
_LATER_CACHES = (
    *("int8_per_token_head", "fp8_per_token_head", "nvfp4", "turboquant_k8v4"),
    *("octave_k3v4", "ultraquant_4bit"),
)
# What AttentionSelectorConfig asks after vLLM 0.16.0, by request field.
_SERVER_FIELDS = (
    *("use_kv_connector", "use_dcp", "use_pcp", "use_non_causal", "use_batch_invariant"),
    *("use_rswa", "use_adaptive_verification", "encoder_decoder_model"),
)
# One of each kind that users have: a sample asks these (CDNA 2 to 4, RDNA 3 and 4).
_SAMPLED_GPUS = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")


def known() -> tuple[Grid, ...]:
    """Return the grids that a recording can be over."""
    return standard(), sample()


@functools.cache
def sample() -> Grid:
    """Return a sample of the standard grid.

    Every kind of request is in it, five GPUs, each switch unset and the other way, and the names of
    backends that can run on ROCm.
    """
    return Grid("sample-2", tuple(_sampled(family) for family in standard().families))


def _sampled(family: Family) -> Family:
    """Return the part of a family that a sample has."""
    return Family(family.name, family.title, tuple(map(_sampled_axis, family.axes)))


def _sampled_axis(axis: Axis) -> Axis:
    wanted: tuple[Any, ...]
    if axis.name == GFX:
        wanted = _SAMPLED_GPUS
    elif axis.name == EXPLICIT:
        wanted = (None, *ROCM_BACKENDS)
    elif axis.name in SWITCHES:
        (wanted,) = (one.values for one in _switches(axis.name, two=True))
    else:
        return axis
    return Axis(axis.name, tuple(value for value in axis.values if value in wanted))


@functools.cache
def standard() -> Grid:
    """Return the grid that runs, baselines and changelogs are made of."""
    return Grid(
        "standard-2",
        (
            _family(
                "ordinary",
                "ordinary layers under every combination of the switches",
                _switches(USE_AITER, MHA, UNIFIED, PREFILL_DECODE),
                _EVERY_NAME,
                _requests(
                    {},
                    {"dtype": "float16", "head_size": 64},
                    {"kv_cache_dtype": "fp8"},
                    {"block_size": 544, "head_size": 256, "num_heads": 8, "num_kv_heads": 1},
                ),
            ),
            _family(
                "shapes",
                "head sizes, dtypes, cache dtypes, block sizes and head counts of ordinary layers",
                _switches(USE_AITER, MHA, UNIFIED, PREFILL_DECODE, two=True),
                _ROCM_NAMES,
                _shapes(),
            ),
            _family(
                "mla",
                "MLA models",
                (*_switches(USE_AITER, MLA), Axis(UNIFIED, (None, "1"))),
                _EVERY_NAME,
                _requests(
                    *({"block_size": size} for size in (16, None, 1, 2, 8, 15, 32, 64, 544)),
                    *({"kv_cache_dtype": cache} for cache in ("fp8", "fp8_e4m3", "fp8_ds_mla")),
                    {"kv_cache_dtype": "fp8", "block_size": 1},
                    *({"num_heads": heads, "block_size": 1} for heads in (8, 12, 128)),
                    {"num_heads": 8},
                    {"dtype": "float16"},
                    {"head_size": 320},
                    use_mla=True,
                ),
            ),
            _family(
                "sparse",
                "layers that attend to an indexed subset of tokens",
                _switches(USE_AITER, MLA, SPARSE),
                _ROCM_NAMES,
                _requests(
                    *({"block_size": size} for size in (1, None, 16, 64)),
                    *({"block_size": 1, "kv_cache_dtype": cache} for cache in ("fp8", "fp8_e4m3")),
                    {"block_size": 1, "dtype": "float16"},
                    {"block_size": 1, "use_mla": False},
                    {"use_mla": False},
                    use_mla=True,
                    use_sparse=True,
                ),
            ),
            _family(
                "sinks",
                "layers with attention sinks",
                (*_switches(USE_AITER, MHA, UNIFIED), Axis(PREFILL_DECODE, (None, "1"))),
                _ROCM_NAMES,
                _requests(
                    {},
                    {"head_size": 64},
                    {"head_size": 64, "kv_cache_dtype": "fp8", "block_size": 64},
                    {"head_size": 64, "sliding_window": 128, "dtype": "float16"},
                    {"alibi": True},
                    {"use_mla": True},
                    has_sink=True,
                ),
            ),
            _family(
                "attention-types",
                "encoders and cross attention",
                _switches(USE_AITER, MHA, UNIFIED, PREFILL_DECODE, two=True),
                _ROCM_NAMES,
                _requests(
                    *({"attn_type": kind} for kind in ("encoder", "encoder_only")),
                    {"attn_type": "encoder_decoder"},
                    {"attn_type": "encoder_only", "head_size": 64, "dtype": "float16"},
                    {"attn_type": "encoder_decoder", "head_size": 64, "dtype": "float16"},
                    {"attn_type": "encoder_decoder", "kv_cache_dtype": "fp8"},
                    {"attn_type": "encoder_only", "use_mla": True},
                ),
            ),
            _family(
                "masks-and-scores",
                "sliding windows, soft caps, ALiBi and multimodal prefixes",
                _switches(USE_AITER, MHA, UNIFIED, PREFILL_DECODE, two=True),
                _ROCM_NAMES,
                _requests(
                    {"sliding_window": 1024},
                    {"logits_soft_cap": 50.0},
                    {"alibi": True},
                    {"use_mm_prefix": True},
                    {"sliding_window": 4096, "logits_soft_cap": 50.0, "head_size": 256},
                    {"sliding_window": 1024, "kv_cache_dtype": "fp8"},
                    {"sliding_window": 1024, "use_mla": True},
                    {"alibi": True, "use_mla": True},
                ),
            ),
            _family(
                "server-fields",
                "what a server adds to the question: connectors, parallelism, drafters, newer caches",
                _switches(USE_AITER, MHA, UNIFIED, PREFILL_DECODE, two=True),
                (*_ROCM_NAMES, *_LATER_ROCM_NAMES),
                _requests(
                    *({field: True} for field in _SERVER_FIELDS),
                    *({"kv_cache_dtype": cache} for cache in _LATER_CACHES),
                    # A layer of such a run that keeps the model's dtype.
                    {"run_kv_cache_dtype": "turboquant_k8v4"},
                    {"run_kv_cache_dtype": "ultraquant_4bit"},
                    {"use_per_head_quant_scales": True, "kv_cache_dtype": "fp8"},
                    {"use_kv_connector": True, "kv_cache_dtype": "fp8"},
                    {"use_kv_connector": True, "has_sink": True, "head_size": 64},
                    {"use_kv_connector": True, "block_size": 544, "head_size": 256},
                    {"use_dcp": True, "kv_cache_dtype": "fp8"},
                    {"use_batch_invariant": True, "has_sink": True, "head_size": 64},
                    {"use_non_causal": True, "sliding_window": 1024},
                    {"use_non_causal": True, "use_mm_prefix": True},
                    {"use_rswa": True, "sliding_window": 1024},
                    {"encoder_decoder_model": True, "attn_type": "encoder_decoder"},
                    {"encoder_decoder_model": True, "attn_type": "encoder"},
                ),
            ),
            _family(
                "server-fields-mla",
                "the same for MLA models",
                _switches(USE_AITER, MLA, SPARSE, two=True),
                _ROCM_NAMES,
                _requests(
                    *({field: True} for field in _SERVER_FIELDS[:5]),
                    {"use_adaptive_verification": True},
                    *(
                        {"kv_cache_dtype": cache}
                        for cache in ("nvfp4_ds_mla", "fp8_per_token_head")
                    ),
                    {"use_dcp": True, "kv_cache_dtype": "fp8"},
                    {"use_dcp": True, "block_size": 1},
                    {"use_kv_connector": True, "block_size": 1},
                    {"sliding_window": 1024, "use_non_causal": True},
                    *(
                        {"use_sparse": True, "block_size": 1, field: True}
                        for field in _SERVER_FIELDS[:5]
                    ),
                    use_mla=True,
                ),
            ),
            _family(
                "variables",
                "every declared variable alone, at each of its values and spellings",
                (
                    Axis(USE_AITER, (None, *_BOOLEAN_SPELLINGS)),
                    Axis(ALSO, _one_variable_at_a_time()),
                ),
                (None, "TRITON_ATTN", "ROCM_AITER_FA", "ROCM_AITER_MLA", *_WRONG_NAMES),
                _requests({}, {"use_mla": True}),
            ),
            _family(
                "aiter-states",
                "an aiter that cannot be imported, and the unrelated package of that name",
                (*_switches(USE_AITER, MHA, MLA, UNIFIED), Axis(PREFILL_DECODE, (None, "1"))),
                _EVERY_NAME,
                _requests(
                    {},
                    {"has_sink": True},
                    {"use_mla": True},
                    {"use_mla": True, "block_size": 1},
                    {"use_mla": True, "use_sparse": True, "block_size": 1},
                ),
                gpus=("gfx942", "gfx1201"),
                states=(Aiter.BROKEN, Aiter.IMPOSTOR),
            ),
        ),
    )


def _family(
    name: str,
    title: str,
    switches: tuple[Axis, ...],
    choices: tuple[str | None, ...],
    requests: tuple[Request, ...],
    gpus: tuple[str, ...] = (),
    states: tuple[Aiter, ...] = (Aiter.PRESENT, Aiter.ABSENT),
) -> Family:
    return Family(
        name,
        title,
        (
            Axis(GFX, gpus or distinct_gpus()),
            Axis(AITER, tuple(state.value for state in states)),
            *switches,
            Axis(EXPLICIT, choices),
            Axis(REQUEST, requests),
        ),
    )


def _switches(*names: str, two: bool = False) -> tuple[Axis, ...]:
    """Return the axes of some switches: unset, off and on; or two, unset and the other way."""
    if not two:
        return tuple(Axis(name, _UNSET_OFF_ON) for name in names)
    return tuple(Axis(name, (None, "0" if VARIABLES[name].default else "1")) for name in names)


def _requests(*departures: dict[str, Any], **common: Any) -> tuple[Request, ...]:
    return tuple(Request(**common | fields) for fields in departures)


def _shapes() -> tuple[Request, ...]:
    return _requests(
        {},
        *({"block_size": size} for size in _BLOCK_SIZES),
        *({"head_size": size} for size in _HEAD_SIZES),
        {"dtype": "float16"},
        {"dtype": "float32"},
        *({"kv_cache_dtype": cache} for cache in _CACHES),
        {"num_heads": 16, "num_kv_heads": 16},
        {"num_heads": 8, "num_kv_heads": 1},
        # What some backend judges together.
        {"dtype": "float16", "kv_cache_dtype": "fp8"},
        {"dtype": "float32", "kv_cache_dtype": "fp8"},
        {"dtype": "float16", "kv_cache_dtype": "bfloat16"},
        {"kv_cache_dtype": "fp8", "block_size": 544},
        {"kv_cache_dtype": "fp8", "block_size": 64, "head_size": 256},
        {"dtype": "float16", "block_size": 544},
        {"head_size": 80, "block_size": 32},
        {"head_size": 256, "block_size": 64, "num_heads": 8, "num_kv_heads": 1},
    )


def _one_variable_at_a_time() -> tuple[tuple[tuple[str, str], ...], ...]:
    """Return "nothing", then each variable that the family has no axis for, at each value."""
    return (
        (),
        *(
            ((name, text),)
            for name, variable in VARIABLES.items()
            if name not in (EXPLICIT, USE_AITER)
            for text in _texts(variable)
        ),
        *(((name, "1"),) for name in _READ_BY_NOTHING),
    )


def _texts(variable: Variable) -> tuple[str, ...]:
    """Return texts for every value of a variable, and one that is not valid."""
    match variable.kind:
        case Kind.BOOL:
            return ("0", "1", "true")
        case Kind.INT_BOOL:
            return ("0", "1", "true")
        case Kind.INT:
            return ("1", "1000", "many")
        case Kind.TRI:
            return ("0", "1", "maybe")
        case Kind.EXACT:
            return (*variable.choices, "1")
        case Kind.CHOICE | Kind.CHOICE_ANY_CASE:
            return (*variable.choices, "NOT_ONE_OF_THEM")
        case Kind.BACKEND:  # an option's, which no environment has
            return (*CLASS_PATHS, "auto")
