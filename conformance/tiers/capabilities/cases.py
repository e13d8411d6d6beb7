"""The designed requests and environments of "select, then construct".

A family varies one thing that a layer may need; an environment is one way to select a backend. Each
pair is one item per GPU. What follows from a defect in one field is seen in one family.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.promise.capability_table import with_value
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.registry import ROCM_BACKENDS
from pytest_rocm_attn.request import ATTN_TYPES, DTYPES, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any, Literal


# 272 and more: what hybrid models end up with
# (docs/reference/known-regressions.md#cap-hybrid-block-refused).
BLOCK_SIZES = (1, 8, 16, 32, 64, 128, 256, 272, 528, 544, 784, 1056, 2048)
HEAD_SIZES = (32, 64, 72, 80, 96, 112, 120, 128, 160, 192, 224, 256, 512)
HEAD_COUNTS = (4, 8, 12, 16, 24, 32, 48, 64, 128)
CACHE_DTYPES = ("auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2")

# What classes are asked whether they declare it; a contract's table may add to it.
DECLARABLE: dict[str, tuple[Any, ...]] = {
    "head_size": (*HEAD_SIZES, 576),
    "dtype": DTYPES,
    "kv_cache_dtype": CACHE_DTYPES,
    "block_size": BLOCK_SIZES,
    "attn_type": ATTN_TYPES,
    "has_sink": (True, False),
    "use_mla": (True, False),
    "use_sparse": (True, False),
    "gfx": (True,),  # whether it declares for the present GPU
}


@dataclass(frozen=True, slots=True)
class RequestFamily:
    """Requests that differ in one thing.

    Args:
        name: what differs, as a plural: "head sizes build with aiter on".
        requests: them.
        told: whether selectors receive it, so that they could refuse.
        wants_aiter: the contract itself leads it to a backend that needs aiter.
        none_for_sinks: the layer passes ``sinks=None``.
    """

    name: str
    requests: tuple[Request, ...]
    told: bool = True
    wants_aiter: bool = False
    none_for_sinks: bool = False


@dataclass(frozen=True, slots=True)
class Environment:
    """One way to select a backend."""

    name: str
    environ: Mapping[str, str]

    @property
    def is_explicit(self) -> bool:
        return EXPLICIT in self.environ

    @property
    def wants_aiter(self) -> bool:
        return self.environ.get(USE_AITER) == "1" or "AITER" in self.environ.get(EXPLICIT, "")


@dataclass(frozen=True, slots=True)
class BuildCase:
    """One family in one environment on one platform: an item.

    Attributes:
        level: what the contract leaves open is advisory: that a backend needs aiter if there
            is none that works; that a named backend refuses late what no selector
            receives.
    """

    family: RequestFamily
    environment: Environment
    gpu: Gpu

    @property
    def id(self) -> str:
        where = "" if self.gpu.aiter is Aiter.PRESENT else f"-where-aiter-is-{self.gpu.aiter}"
        return f"{self.family.name}-build-{self.environment.name}{where}"

    @property
    def level(self) -> Literal["required", "advisory"]:
        late = self.environment.is_explicit and not self.family.told
        wanted = self.environment.wants_aiter or self.family.wants_aiter
        unusable = wanted and self.gpu.aiter is not Aiter.PRESENT
        return "advisory" if late or unusable else "required"


def _varied(plain: Request, field: str, values: Iterable[object]) -> tuple[Request, ...]:
    return tuple(with_value(plain, field, value) for value in values)


_PLAIN = Request()
_MLA = Request(use_mla=True)
_MLA_BLOCK_1 = Request(use_mla=True, block_size=1)
_SPARSE = Request(use_mla=True, use_sparse=True, block_size=1)
_SINKS = (Request(has_sink=True), Request(has_sink=True, head_size=64))

_DENSE = (
    RequestFamily("head-sizes", _varied(_PLAIN, "head_size", HEAD_SIZES)),
    RequestFamily("dtypes", _varied(_PLAIN, "dtype", DTYPES)),
    RequestFamily("cache-dtypes", _varied(_PLAIN, "kv_cache_dtype", CACHE_DTYPES)),
    RequestFamily(
        "block-sizes", (*_varied(_PLAIN, "block_size", BLOCK_SIZES), Request(block_size=None))
    ),
    RequestFamily(
        "attention-types", _varied(replace(_PLAIN, head_size=64), "attn_type", ATTN_TYPES)
    ),
    RequestFamily("sinks", _SINKS),
    RequestFamily(
        "optional-sinks", (_PLAIN, Request(head_size=64)), told=False, none_for_sinks=True
    ),
    RequestFamily("sliding-windows", _varied(_PLAIN, "sliding_window", (128, 4096)), told=False),
    RequestFamily("soft-caps", _varied(_PLAIN, "logits_soft_cap", (30.0, 50.0)), told=False),
    RequestFamily(
        "alibi-slopes", (Request(alibi=True), Request(alibi=True, num_heads=12)), told=False
    ),
    RequestFamily(
        "head-counts",
        _varied(_PLAIN, "num_heads", HEAD_COUNTS)
        + tuple(Request(num_heads=heads, num_kv_heads=1) for heads in (8, 64)),
    ),
)
_LATENT = (
    RequestFamily("mla-head-sizes", _varied(_MLA, "head_size", (576, 320))),
    RequestFamily("mla-dtypes", _varied(_MLA, "dtype", DTYPES)),
    RequestFamily(
        "mla-cache-dtypes",
        _varied(_MLA, "kv_cache_dtype", CACHE_DTYPES)
        + _varied(_MLA_BLOCK_1, "kv_cache_dtype", CACHE_DTYPES),
    ),
    RequestFamily(
        "mla-block-sizes",
        (
            *_varied(_MLA, "block_size", (1, 8, 16, 32, 64, 128, 256)),
            replace(_MLA, block_size=None),
        ),
    ),
    RequestFamily(
        "mla-head-counts",
        _varied(_MLA, "num_heads", HEAD_COUNTS) + _varied(_MLA_BLOCK_1, "num_heads", HEAD_COUNTS),
    ),
)
_SPARSE_FAMILIES = (
    RequestFamily("sparse-mla-dtypes", _varied(_SPARSE, "dtype", DTYPES)),
    RequestFamily("sparse-mla-cache-dtypes", _varied(_SPARSE, "kv_cache_dtype", CACHE_DTYPES)),
    RequestFamily("sparse-mla-block-sizes", _varied(_SPARSE, "block_size", (1, 16, 64))),
    RequestFamily("sparse-mla-head-counts", _varied(_SPARSE, "num_heads", HEAD_COUNTS)),
)
# If aiter is not as it should be, what matters is whether anything can be built at all.
_ANYTHING = (
    RequestFamily("plain-layers", (_PLAIN, Request(dtype="float16", head_size=64), *_SINKS)),
)
_ANYTHING_LATENT = (
    RequestFamily("plain-mla-layers", (_MLA,)),
    # Block size 1 leads to ROCM_AITER_MLA, whatever the flags (docs/reference/contract.md#mla).
    RequestFamily("mla-layers-of-block-1", (_MLA_BLOCK_1, _SPARSE), wants_aiter=True),
)

_BY_DEFAULT = Environment("by-default", {})
_AITER_ON = Environment("with-aiter-on", {USE_AITER: "1"})


def _named(*names: str) -> tuple[Environment, ...]:
    found = []
    for name in names:
        words = name.lower().replace("_", "-")
        found.append(Environment(f"with-{words}-named", {EXPLICIT: name}))
        if "AITER" in name:
            switched = {EXPLICIT: name, USE_AITER: "1"}
            found.append(Environment(f"with-{words}-named-and-aiter-on", switched))
    return tuple(found)


_DENSE_ENVIRONMENTS = (
    _BY_DEFAULT,
    _AITER_ON,
    Environment(
        "with-aiter-unified-on", {USE_AITER: "1", "VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION": "1"}
    ),
    Environment("with-aiter-mha-off", {USE_AITER: "1", "VLLM_ROCM_USE_AITER_MHA": "0"}),
    Environment("with-prefill-decode-on", {"VLLM_V1_USE_PREFILL_DECODE_ATTENTION": "1"}),
    *_named(*(name for name in ROCM_BACKENDS if "MLA" not in name)),
)
_LATENT_ENVIRONMENTS = (
    _BY_DEFAULT,
    _AITER_ON,
    *_named(*(name for name in ROCM_BACKENDS if "MLA" in name and "SPARSE" not in name)),
)
_SPARSE_ENVIRONMENTS = (_BY_DEFAULT, _AITER_ON, *_named("ROCM_AITER_MLA_SPARSE"))


def plain(backend: str) -> Request:
    """Return the plainest request of the kind that a backend is for."""
    if "SPARSE" in backend:
        return _SPARSE
    return _MLA_BLOCK_1 if backend == "ROCM_AITER_MLA" else _MLA if "MLA" in backend else _PLAIN


def ways(backend: str) -> Iterator[tuple[Request, Environment]]:
    """Return all ways to select a backend, with a request that leaves the cache block open."""
    request = replace(plain(backend), block_size=None)
    for kind, environments in (
        (_SPARSE, _SPARSE_ENVIRONMENTS),
        (_MLA, _LATENT_ENVIRONMENTS),
        (_PLAIN, _DENSE_ENVIRONMENTS),
    ):
        if (kind.use_mla, kind.use_sparse) == (request.use_mla, request.use_sparse):
            yield from ((request, environment) for environment in environments)


def cases(gpus: Iterable[str]) -> Iterator[BuildCase]:
    """Return all cases on these targets, platform by platform."""
    for gfx in gpus:
        for state in Aiter:
            for family, environment in _pairs(whole=state is Aiter.PRESENT):
                yield BuildCase(family, environment, Gpu(gfx, state))


def _pairs(*, whole: bool) -> Iterator[tuple[RequestFamily, Environment]]:
    for families, anything, environments in (
        (_DENSE, _ANYTHING, _DENSE_ENVIRONMENTS),
        (_LATENT, _ANYTHING_LATENT, _LATENT_ENVIRONMENTS),
        (_SPARSE_FAMILIES, (), _SPARSE_ENVIRONMENTS),
    ):
        for family in families if whole else anything:
            for environment in environments:
                yield family, environment
