"""What each backend of vLLM 0.12.0 cannot serve, as data: only limits at which it raises.

A limit is listed when docs/reference/backends.md states that 0.12.0's selector, cache-shape
function, constructor or import fails there. If a backend computes wrong numbers instead (its
"quirks"), or if a class merely declares a list that nothing enforces, there is no row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from pytest_rocm_attn.backends.trace import Step
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.request import Request


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """One condition without which a backend cannot run.

    Args:
        rule: short name for the trace.
        holds: whether the request on the GPU stays within the limit.
        within: words for the trace when it does.
        beyond: what the backend does not do, to follow its name in a message; {request} and {gpu}
            are filled in.
        remedy: what the user can do, in the imperative; "" when only another backend helps.
        source: where 0.12.0 enforces it.
        quiet: it is one of many that most requests do not come near; see steps().
        alone: it is asked only if no other before it is unmet; and no other is asked if it is unmet.
    """

    rule: str
    holds: Callable[[Request, Gpu], bool]
    within: str
    beyond: str
    remedy: str
    source: str
    quiet: bool = False
    alone: bool = False
    met: Step = field(init=False)  # built once, not per selection

    def __post_init__(self) -> None:
        object.__setattr__(self, "met", Step(self.rule, "yes", self.within, self.source))

    def refusal(self, request: Request, gpu: Gpu) -> str:
        """Return what the backend does not do, with the refused value in it."""
        return self.beyond.format(request=request, gpu=gpu)

    def unmet(self, request: Request, gpu: Gpu, backend: str = "") -> Step:
        """Return the step of a trace in which the limit, of the backend named, is not met."""
        reason = f"{backend} {self.refusal(request, gpu)}".lstrip()
        return Step(self.rule, "no", reason, self.source)


# Bound once: on Python 3.11 every access to an enum member through its class costs as much as a rule.
_ABSENT, _IMPOSTOR, _BROKEN = Aiter.ABSENT, Aiter.IMPOSTOR, Aiter.BROKEN

Limits: TypeAlias = tuple[Limit, ...]


def unmet(limits: Limits, request: Request, gpu: Gpu) -> list[Limit]:
    """Return the limits that a request does not meet on a GPU, of those that are asked."""
    found = [limit for limit in limits if not limit.holds(request, gpu)]
    if len(found) > 1:
        return found[:1] if found[0].alone else [limit for limit in found if not limit.alone]
    return found


def steps(limits: Limits) -> tuple[Step, ...]:
    """Return a step for each limit that is met; one for all the quiet ones."""
    quiet = [limit for limit in limits if limit.quiet]
    found = [limit.met for limit in limits if not limit.quiet]
    if quiet:
        asked = ", ".join(limit.rule for limit in quiet)
        needs = f"the layer needs none of these, or the class declares it: {asked}"
        found.append(Step("needs", "yes", needs, quiet[0].source))
    return tuple(found)


# Each state of the package has its own message and cure (docs/reference/aiter.md#which-aiter).
NEEDS_AITER: Limits = (
    Limit(
        "aiter-installed",
        lambda request, gpu: gpu.aiter is not _ABSENT,
        "a package named aiter is installed",
        "needs AMD's aiter, which is not installed",
        "run `pip install amd-aiter`",
        "vLLM 0.12.0 returns it unseen and fails at its import: docs/reference/contract.md#q16",
    ),
    Limit(
        "aiter-is-amds",
        lambda request, gpu: gpu.aiter is not _IMPOSTOR,
        "it is not the unrelated package of that name",
        "needs AMD's aiter; the installed package `aiter` is an impostor, the unrelated"
        " asynchronous-iterator helpers of the same import name",
        "run `pip uninstall aiter && pip install amd-aiter`",
        "AMD's distribution is named amd-aiter",
    ),
    Limit(
        "aiter-imports",
        lambda request, gpu: gpu.aiter is not _BROKEN,
        "AMD's aiter can be imported",
        "needs AMD's aiter, which is installed but broken: its import fails",
        "run `python -c 'import aiter'` to see why, then `pip install --force-reinstall amd-aiter`",
        "the backend imports aiter",
    ),
)

# Unset becomes 16 before the selection (docs/reference/contract.md#q30), so None is within every
# limit on the block size but the sparse one.
BLOCK_SIZE_MULTIPLE_OF_16 = Limit(
    "block-size-multiple-of-16",
    lambda request, gpu: request.block_size is None or request.block_size % 16 == 0,
    "the block size is a multiple of 16",
    "does not support block size {request.block_size}: it must be a multiple of 16",
    "set --block-size to a multiple of 16",
    "vLLM 0.12.0 get_kv_cache_shape: ValueError",
)

BLOCK_SIZE_AT_LEAST_16 = Limit(
    "block-size-at-least-16",
    lambda request, gpu: request.block_size is None or request.block_size >= 16,
    "the block size is at least 16",
    "does not support block size {request.block_size}: it must be at least 16",
    "set --block-size to 16 or more",
    "docs/reference/contract.md#s5, #r4",
)

BLOCK_SIZE_1 = Limit(
    "block-size-1",
    lambda request, gpu: request.block_size == 1,
    "the block size is 1",
    "only supports block size 1 (sparse MLA); got block size {request.block_size}",
    "set --block-size 1",
    "vLLM 0.12.0 get_attn_backend_cls: AssertionError, docs/reference/contract.md#q21",
)

GFX9_ONLY = Limit(
    "gfx9-only",
    lambda request, gpu: gpu.is_gfx9,
    "the GPU is gfx9",
    "is only supported on gfx9 architectures (gfx90a, gfx942, gfx950); this GPU is {gpu.gfx}",
    "",
    "vLLM 0.12.0 get_attn_backend_cls: ValueError, docs/reference/contract.md#q15",
)

HEAD_SIZES = (32, 64, 96, 128, 160, 192, 224, 256)
LISTED_HEAD_SIZE = Limit(
    "listed-head-size",
    lambda request, gpu: request.head_size in HEAD_SIZES,
    "the head size is in the backend's list",
    "does not support head size {request.head_size}:"
    f" it must be one of {', '.join(map(str, HEAD_SIZES))}",
    "",
    "vLLM 0.12.0, the constructor: ValueError",
)

NO_FP8_CACHE = Limit(
    "no-fp8-cache",
    lambda request, gpu: not request.kv_cache_dtype.startswith("fp8"),
    "the KV cache is not fp8",
    "does not support an fp8 kv_cache_dtype; got {request.kv_cache_dtype!r}",
    "set --kv-cache-dtype auto",
    "vLLM 0.12.0, the constructor: NotImplementedError; sparse MLA, the selector: ValueError",
)

AUTO_OR_FP8_CACHE = Limit(
    "auto-or-fp8-cache",
    lambda request, gpu: request.kv_cache_dtype.startswith(("auto", "fp8")),
    "the KV cache is auto or fp8",
    "does not support kv_cache_dtype {request.kv_cache_dtype!r}: it must be auto or an fp8 type",
    "set --kv-cache-dtype auto",
    "vLLM 0.12.0, the cache write: AssertionError",
)

NO_SINKS = Limit(
    "no-sinks",
    lambda request, gpu: not request.has_sink,
    "the layer has no attention sinks",
    "does not support attention sinks (has_sink)",
    "",
    "vLLM 0.12.0, the constructor: TypeError",
)

NO_ALIBI_WITH_SINKS = Limit(
    "no-alibi-with-sinks",
    lambda request, gpu: not (request.alibi and request.has_sink),
    "ALiBi and sinks do not meet",
    "does not support ALiBi together with attention sinks",
    "",
    "vLLM 0.12.0, the prefill: AssertionError",
)

NO_ALIBI = Limit(
    "no-alibi",
    lambda request, gpu: not request.alibi,
    "the layer has no ALiBi",
    "does not support ALiBi",
    "",
    "vLLM 0.12.0, the constructor: NotImplementedError",
)

NO_SOFT_CAP = Limit(
    "no-soft-cap",
    lambda request, gpu: request.logits_soft_cap is None,
    "the scores have no soft cap",
    "does not support a logits soft cap; got {request.logits_soft_cap}",
    "",
    "vLLM 0.12.0, the constructor: NotImplementedError",
)

NO_SLIDING_WINDOW = Limit(
    "no-sliding-window",
    lambda request, gpu: request.sliding_window is None,
    "the layer has no sliding window",
    "does not support a sliding window; got {request.sliding_window}",
    "",
    "vLLM 0.12.0, the constructor: NotImplementedError",
)

HEADS_16_OR_128 = Limit(
    "heads-16-or-128",
    lambda request, gpu: request.num_heads in (16, 128),
    "there are 16 or 128 query heads per rank",
    "does not support {request.num_heads} query heads per rank: it must be 16 or 128",
    "change --tensor-parallel-size",
    "vLLM 0.12.0, the constructor: AssertionError",
)


def attention_types(*types: str) -> Limit:
    """Return the limit to some attention types; the constructor raises NotImplementedError beyond."""
    return Limit(
        "attention-type",
        lambda request, gpu: request.attn_type in types,
        f"the attention type is {' or '.join(types)}",
        f"does not support attention type {{request.attn_type!r}}: it must be {' or '.join(types)}",
        "",
        "vLLM 0.12.0, the constructor: NotImplementedError",
    )


_ROCM_ATTN: Limits = (
    BLOCK_SIZE_MULTIPLE_OF_16,
    LISTED_HEAD_SIZE,
    attention_types("decoder", "encoder_decoder"),
)
_MLA: Limits = (
    attention_types("decoder"),
    NO_ALIBI,
    NO_SLIDING_WINDOW,
    NO_SOFT_CAP,
)
_AITER_MLA: Limits = (*NEEDS_AITER, HEADS_16_OR_128, *_MLA)

# Backend -> its limits, in the order in which they are asked. What is missing here has no limit
# that raises: FLEX_ATTENTION takes any block and head size.
LIMITS_0_12_0: dict[
    str, Limits
] = {  # docs/reference/backends.md#triton-attn to #rocm-aiter-mla-sparse, a section a backend
    "TRITON_ATTN": (
        BLOCK_SIZE_MULTIPLE_OF_16,
        AUTO_OR_FP8_CACHE,
        attention_types("decoder", "encoder_decoder"),
    ),
    "ROCM_ATTN": (*_ROCM_ATTN, NO_ALIBI_WITH_SINKS),
    "ROCM_AITER_UNIFIED_ATTN": (*NEEDS_AITER, *_ROCM_ATTN),
    "ROCM_AITER_FA": (
        GFX9_ONLY,
        *NEEDS_AITER,
        BLOCK_SIZE_MULTIPLE_OF_16,
        NO_SINKS,
        attention_types("decoder", "encoder_decoder"),
    ),
    "FLEX_ATTENTION": (
        NO_FP8_CACHE,
        NO_ALIBI,
        NO_SOFT_CAP,
        attention_types("decoder", "encoder_only"),
    ),
    "TRITON_MLA": (BLOCK_SIZE_AT_LEAST_16, NO_FP8_CACHE, *_MLA),
    "ROCM_AITER_MLA": _AITER_MLA,
    "ROCM_AITER_TRITON_MLA": _AITER_MLA,
    "ROCM_AITER_MLA_SPARSE": (NO_FP8_CACHE, BLOCK_SIZE_1),
}
