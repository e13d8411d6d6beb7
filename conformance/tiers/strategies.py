"""Every hypothesis strategy of the suite: legal values only, the plainest first.

Shipped, and imported on demand: hypothesis is the extra of that name. A strategy shrinks towards
the first value that it lists, so what is listed first is what a reader of a counterexample need not
think about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from pytest_rocm_attn.conformance.tiers.numerics.case import Case
from pytest_rocm_attn.flags import (
    EXPLICIT,
    MHA,
    MLA,
    PREFILL_DECODE,
    UNIFIED,
    USE_AITER,
    VARIABLES,
    Kind,
)
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hypothesis.strategies import SearchStrategy

# --- selection: environments and requests ---------------------------------------------------------

# The switches that the contract selects by (docs/reference/contract.md#appendix and #silences).
SWITCHES = (USE_AITER, MHA, UNIFIED, PREFILL_DECODE, MLA)

ON = ("1", "true", "True", "TRUE")  # docs/reference/environment.md#truth-table
OFF = ("0", "false", "no", "off", "")

# Variables that say how kernels run, or nothing at all; none of them chooses a backend
# (docs/reference/environment.md#variables; the last seven are not declared anywhere).
UNRELATED: dict[str, tuple[str, ...]] = {
    "Q_SCALE_CONSTANT": ("100", "200"),
    "K_SCALE_CONSTANT": ("100", "200"),
    "V_SCALE_CONSTANT": ("50", "100"),
    "VLLM_ROCM_USE_AITER_FP8BMM": ("0", "1"),
    "VLLM_ROCM_USE_AITER_TRITON_ROPE": ("0", "1"),
    "VLLM_ROCM_FP8_MFMA_PAGE_ATTN": ("0", "1"),
    "VLLM_ROCM_USE_AITER_LINEAR": ("0", "1"),
    "VLLM_ROCM_USE_AITER_MOE": ("0", "1"),
    "VLLM_ROCM_USE_AITER_RMSNORM": ("0", "1"),
    "VLLM_USE_AITER_UNIFIED_ATTENTION": ("1", "0"),
    "VLLM_USE_TRITON_FLASH_ATTN": ("0", "1"),
    "VLLM_USE_V1": ("0", "1"),
    "VLLM_ROCM_USE_AITER_": ("1",),
    "vllm_rocm_use_aiter": ("1",),
    "XVLLM_ATTENTION_BACKEND": ("ROCM_ATTN",),
    "ATTENTION_BACKEND": ("ROCM_ATTN",),
}


def environments(
    *,
    named: Sequence[str | None] = (),
    fixed: Mapping[str, Sequence[str | None]] | None = None,
    switches: Iterable[str] = SWITCHES,
) -> SearchStrategy[dict[str, str]]:
    """Return environments of the switches that the contract selects by.

    Args:
        named: one of these backends is named; with None among them, maybe none is.
        fixed: variables that are set to one of these texts; with None among them, maybe not set.
        switches: the switches that may be set; each is unset as often as not.
    """
    drawn: dict[str, SearchStrategy[str | None]] = {
        name: st.sampled_from((None, "1", "0", None)) for name in switches
    }
    if named:
        drawn[EXPLICIT] = st.sampled_from(named)
    for name, texts in (fixed or {}).items():
        drawn[name] = st.sampled_from(tuple(texts))
    return st.fixed_dictionaries(drawn).map(_without_none)


def _without_none(drawn: dict[str, str | None]) -> dict[str, str]:
    return {name: text for name, text in drawn.items() if text is not None}


def defaults() -> SearchStrategy[dict[str, str]]:
    """Return some declared variables, each spelled at its default."""
    spelled = {
        name: _default_texts(variable.kind, variable.default)
        for name, variable in VARIABLES.items()
    }
    return _some_of(spelled)


def _default_texts(kind: Kind, default: Any) -> tuple[str, ...]:
    match kind, default:
        case Kind.BOOL, bool():
            return ON[:2] if default else OFF[:2]
        case Kind.EXACT, False:
            return ("0", "1")
        case Kind.INT_BOOL, bool():
            return (str(int(default)),)
        case ((Kind.INT | Kind.CHOICE_ANY_CASE), int() | str()):
            return (str(default),)
    return ()  # nothing but leaving it unset means the default


def unrelated() -> SearchStrategy[dict[str, str]]:
    """Draw variables that do not choose a backend, each with a value."""
    return _some_of(UNRELATED)


def _some_of(texts: Mapping[str, Sequence[str]]) -> SearchStrategy[dict[str, str]]:
    drawn = {
        name: st.sampled_from((None,) * len(choices) + tuple(choices))
        for name, choices in texts.items()
        if choices
    }
    return st.fixed_dictionaries(drawn).map(_without_none)


def _mostly(plain: Any, *others: Any) -> SearchStrategy[Any]:
    return st.sampled_from((*(plain,) * len(others), *others))


# One list of fields for all kinds, all of which are drawn whatever the kind: an example of few draws
# would count as smaller than one of a plainer kind.
_FIELDS = {
    "head_size": _mostly(128, 64, 256, 80, 96, 32, 72, 192),
    "dtype": _mostly("bfloat16", "float16"),
    "kv_cache_dtype": _mostly("auto", "fp8", "fp8_e4m3", "fp8_e5m2", "bfloat16"),
    "block_size": _mostly(16, 1, 32, None, 64, 8, 128, 256, 544),
    "has_sink": _mostly(False, True),
    "attn_type": _mostly("decoder", "encoder_only", "encoder", "encoder_decoder"),
    "sliding_window": _mostly(None, 128),
    "num_heads": _mostly(32, 8, 16, 64),
    "logits_soft_cap": _mostly(None, 30.0),
    "alibi": _mostly(False, True),
    "use_mm_prefix": _mostly(False, True),
    "latent_heads": _mostly(16, 128, 8, 64),
}
# What every backend of its kind serves, by the contract's table: MLA with 16 or 128 heads, blocks
# of a multiple of 16, no fp8 cache, sinks or the like (docs/reference/contract.md#appendix and
# #supported).
_PLAIN_FIELDS = {
    "head_size": (128, 64, 256),
    "dtype": ("bfloat16", "float16"),
    "block_size": (16, 32, 64),
    "latent_heads": (16, 128),
}
_OF_LATENT = ("dtype", "kv_cache_dtype", "block_size")
_ORDINARY, _LATENT, _SPARSE = "ordinary", "latent", "sparse"


def _request(kind: str, wild: bool, **fields: Any) -> Request:
    """Return the request of a kind that drawn fields make; unless wild, of plain fields only."""
    if not wild:
        fields = {n: v for n, v in fields.items() if v in _PLAIN_FIELDS.get(n, ())}
    heads = {"num_heads": fields["latent_heads"]} if "latent_heads" in fields else {}
    if kind == _ORDINARY:
        return Request(**{n: v for n, v in fields.items() if n != "latent_heads"})
    latent = {n: v for n, v in fields.items() if n in _OF_LATENT} | heads
    return Request(use_mla=True, use_sparse=kind == _SPARSE, **latent)


def _requests(*kinds: str, wild: SearchStrategy[bool] | None = None) -> SearchStrategy[Request]:
    if wild is None:
        wild = st.booleans()
    return st.builds(_request, kind=st.sampled_from(kinds), wild=wild, **_FIELDS)


def requests(*, sparse: bool = True) -> SearchStrategy[Request]:
    """Return requests of ordinary, MLA and (unless asked not to) sparse MLA layers."""
    kinds = (_ORDINARY, _LATENT, _ORDINARY, _LATENT, _ORDINARY)
    return _requests(*kinds, *((_SPARSE,) if sparse else ()))


def mla_requests() -> SearchStrategy[Request]:
    """Return requests of MLA layers that are not sparse."""
    return _requests(_LATENT)


def ordinary_requests() -> SearchStrategy[Request]:
    """Return requests of layers that are neither MLA nor sparse."""
    return _requests(_ORDINARY)


def plain_requests() -> SearchStrategy[Request]:
    """Return requests that every backend of their kind serves."""
    return _requests(_ORDINARY, _LATENT, wild=st.just(False))


# --- numerics: layers and batches ------------------------------------------------------------------

# Lengths gather at the edges of tiles and blocks. A share of new tokens: decode, none, all, a chunk.
_TOTALS = st.one_of(  # whole numbers first: hypothesis shrinks towards the first
    st.integers(0, 80), st.sampled_from((1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65))
)
_SHARES = st.sampled_from((1, 0, -1, 5, 20))
_LAYOUTS = st.sampled_from(("dense", "strided", "heads-first"))
_FP8 = st.sampled_from(("e4m3fn", "e4m3fnuz"))
_NUMERICS_FIELDS = {
    "dtype": st.sampled_from(("float16", "bfloat16", "float32")),
    "head_size": st.sampled_from((64, 32, 80, 33, 128)),
    "block_size": st.sampled_from((16, 32, 48)),
    "kv_cache_dtype": _mostly("auto", "fp8"),
    "sliding_window": st.one_of(st.none(), st.integers(1, 70)),
    "logits_soft_cap": st.sampled_from((None, 30.0, 2.0)),
    "alibi": _mostly(False, True),
    "has_sink": _mostly(False, True),
}
# What every backend over a paged cache promises: the required ones among the named cases.
_PROMISED_FIELDS = _NUMERICS_FIELDS | {
    "dtype": st.sampled_from(("float16", "bfloat16")),
    "head_size": st.sampled_from((64, 128)),
    "block_size": st.sampled_from((16, 32)),
}


def _lengths(pair: tuple[int, int]) -> tuple[int, int]:
    total, new = pair
    return (total if new < 0 else min(new, total), total)


def _drawn(kind: Any, fields: dict[str, Any], batch: list[tuple[int, int]], **own: Any) -> Case:
    return Case(
        id=f"drawn-{kind}",
        why="drawn by hypothesis",
        kind=kind,
        request=Request(use_mla=kind != "attention", **fields),
        lengths=tuple(batch),
        **own,
    )


def _attention(
    fields: dict[str, SearchStrategy[Any]], causal: SearchStrategy[bool]
) -> SearchStrategy[Case]:
    heads = st.sampled_from(((2, 1), (1, 1), (4, 2), (6, 2), (3, 3), (17, 1)))
    layers = st.builds(
        lambda of, drawn: drawn | {"num_heads": of[0], "num_kv_heads": of[1]},
        heads,
        st.fixed_dictionaries(fields),
    )
    return st.builds(
        _drawn,
        st.just("attention"),
        layers,
        st.lists(st.tuples(_TOTALS, _SHARES).map(_lengths), min_size=1, max_size=4),
        causal=causal,
        layout=_LAYOUTS,
        fp8=_FP8,
    )


def attention_cases() -> SearchStrategy[Case]:
    """Return numerics cases over a paged cache: any batch of a few short requests, any features.

    Small enough for Triton's interpreter.
    """
    return _attention(_NUMERICS_FIELDS, _mostly(True, False))


def promised_attention_cases() -> SearchStrategy[Case]:
    """Return those of attention_cases() that every backend of the kind is asked for."""
    return _attention(_PROMISED_FIELDS, st.just(True)).filter(
        lambda case: not (case.request.alibi and case.request.has_sink)
    )


_LATENT_FIELDS = {
    "dtype": st.sampled_from(("bfloat16", "float16")),
    "block_size": st.sampled_from((16, 32, 64)),
    "num_heads": st.sampled_from((16, 32, 24, 128)),
}


def mla_decode_cases() -> SearchStrategy[Case]:
    """Return numerics cases of MLA's absorbed decode: a few short requests, one new token each."""
    return st.builds(
        _drawn,
        st.just("mla-decode"),
        st.fixed_dictionaries(_LATENT_FIELDS),
        st.lists(_TOTALS.map(lambda total: (1, max(1, total))), min_size=1, max_size=3),
        layout=st.sampled_from(("dense", "strided")),
    )


def mla_prefill_cases() -> SearchStrategy[Case]:
    """Return numerics cases of MLA's prefill over materialised keys, causal or over a context."""
    batches = st.lists(st.tuples(_TOTALS, _SHARES).map(_lengths), min_size=1, max_size=3)
    return st.builds(
        _drawn,
        st.just("mla-prefill"),
        st.fixed_dictionaries(_LATENT_FIELDS | {"num_heads": st.just(16)}),
        batches,
        causal=st.booleans(),
        layout=st.sampled_from(("dense", "strided")),
    )
