"""What the backend classes of vLLM 0.18 to 0.33 declare, as limits: declarations.toml, read.

From 0.18 on the platform asks the class of each candidate whether it can serve a layer
(validate_configuration in vllm/v1/attention/backend.py). Releases ask for more and more: ASKED_SINCE.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pytest_rocm_attn.backends.capabilities import Limit, Limits
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.request import Request

_PRESENT = Aiter.PRESENT
Version: TypeAlias = tuple[int, ...]
WHERE = "vllm/v1/attention/backend.py, validate_configuration"

# Question of validate_configuration -> the first minor release that asks it.
ASKED_SINCE: dict[str, Version] = {
    "block-size": (0, 19),  # 0.18 sets the block size to None before it asks (platforms/rocm.py)
    "non-causal": (0, 20),
    "batch-invariance": (0, 20),
    "kv-connector": (0, 23),
    "sliding-window": (0, 26),
    "pcp": (0, 26),
    "adaptive-verification": (0, 28),
    "non-causal-dcp": (0, 29),
    "rswa": (0, 30),
    "dcp": (0, 30),
    "layout": (0, 31),
}
# Limit -> (what a class says of it in `yes`, whether a request needs it, in words, upstream's words).
_FEATURES: dict[str, tuple[str, Callable[[Request], bool], str, str]] = {
    "mm-prefix": (
        "mm_prefix",
        lambda request: request.use_mm_prefix,
        "a bidirectional multimodal prefix",
        "partial multimodal token full attention not supported",
    ),
    "sinks": (
        "sinks",
        lambda request: request.has_sink,
        "attention sinks (has_sink)",
        "attention sinks not supported",
    ),
    "per-head-quant-scales": (
        "per_head_quant_scales",
        lambda request: request.use_per_head_quant_scales,
        "quantisation scales per head",
        "per-head quant scales not supported",
    ),
    "sliding-window": (
        "sliding_window",
        lambda request: request.sliding_window is not None,
        "a sliding window",
        "sliding window not supported",
    ),
    "rswa": ("rswa", lambda request: request.use_rswa, "R-SWA", "R-SWA not supported"),
    "non-causal": (
        "non_causal",
        lambda request: request.use_non_causal,
        "non-causal attention",
        "non-causal attention not supported",
    ),
    "non-causal-dcp": (
        "non_causal_dcp",
        lambda request: request.use_mla and request.use_non_causal and request.use_dcp,
        "non-causal MLA attention with DCP",
        "non-causal MLA attention with DCP not supported",
    ),
    "batch-invariance": (
        "batch_invariance",
        lambda request: request.use_batch_invariant,
        "batch invariance",
        "batch invariance not supported",
    ),
    "kv-connector": (
        "kv_connector",
        lambda request: request.use_kv_connector,
        "a KV connector",
        "KV connector not supported",
    ),
    "pcp": ("pcp", lambda request: request.use_pcp, "PCP", "PCP not supported"),
    "dcp": ("dcp", lambda request: request.use_dcp, "DCP", "DCP not supported"),
    "adaptive-verification": (
        "adaptive_verification",
        lambda request: request.use_adaptive_verification,
        "adaptive verification",
        "device-cpu query lens mismatch not supported",
    ),
}


@dataclass(frozen=True)
class Declared:
    """What one class declares in one release: an entry of declarations.toml.

    Attributes:
        class_path: the class; "" for a name that has to be registered.
        entry: its table.
        since: the release that the entry was read in.
    """

    class_path: str
    entry: Mapping[str, Any]
    since: str

    def words(self, name: str, gpu: Gpu) -> list[str]:
        """Return the values of a field on a GPU."""
        for text, targets in self.entry.get(f"{name}_on", {}).items():
            if gpu.stands_for in targets.split():
                return str(text).split()
        return str(self.entry.get(name, "")).split()

    def said(self, name: str, in_words: Callable[[str], str]) -> str:
        """Return a field in words, those of other GPUs in brackets."""
        on = [
            f"{in_words(text)} on {', '.join(targets.split())}"
            for text, targets in self.entry.get(f"{name}_on", {}).items()
        ]
        return in_words(self.entry[name]) + (f" ({'; '.join(on)})" if on else "")

    def says(self, feature: str, gpu: Gpu) -> bool:
        """Whether the class declares that it supports a feature on a GPU, with the aiter there."""
        wanting = gpu.aiter is not _PRESENT and feature in self.entry.get("with_aiter", "").split()
        somewhere = self.entry.get("yes_on", {}).get(feature, "").split()
        everywhere = self.entry.get("yes", "").split()
        return not wanting and (feature in everywhere or gpu.stands_for in somewhere)


@functools.cache
def _tables() -> dict[str, list[dict[str, Any]]]:
    import tomllib
    from importlib.resources import files

    text = files("pytest_rocm_attn.backends").joinpath("declarations.toml").read_text("utf-8")
    return tomllib.loads(text)


def version_of(text: str) -> Version:
    """Return "0.33.0" as (0, 33, 0)."""
    return tuple(int(part) for part in text.split("."))


def declared(release: Version) -> dict[str, Declared]:
    """Return what every name of a release's registry declares.

    Args:
        release: (0, 33); the newest patch of that minor release is meant.
    """
    found = {}
    for name, entries in _tables().items():
        before = (one for one in reversed(entries) if version_of(one["since"])[:2] <= release)
        if (entry := next(before, None)) and not entry.get("gone"):
            found[name] = Declared(entry.get("class", ""), entry, entry["since"])
    return found


def limits(name: str, of: Declared, release: Version) -> Limits:
    """Return the limits of a backend in a release, in the order in which upstream asks."""
    tag = "v" + ".".join(map(str, release))
    if of.entry.get("unregistered"):
        why = "must be registered before use"
        return (_always("registered", why, f"vllm/v1/attention/backends/registry.py ({tag})"),)
    file = of.class_path.rpartition(".")[0].replace(".", "/") + ".py"
    if missing := of.entry.get("missing"):
        return (_always("imports", f"cannot be imported: {missing}", f"{file} ({tag})"),)
    source = f"{file}, {WHERE} ({tag})"
    mm_prefix, sinks, scales, *others = (_feature(rule, of, source) for rule in _FEATURES)
    found = [
        *([_aiter(f"{file} ({tag})")] if of.entry.get("needs") == "aiter" else []),
        _listed("head-size", of, "heads", lambda request: request.head_size, source),
        _listed("dtype", of, "dtypes", lambda request: request.dtype, source),
        _listed("kv-cache-dtype", of, "caches", lambda request: request.kv_cache_dtype, source),
        _block_size(of, source),
        mm_prefix,
        _kind("mla", of, lambda request: request.use_mla, "MLA", source),
        sinks,
        _kind("sparse", of, lambda request: request.use_sparse, "sparse", source),
        scales,
        _targets(of, source),
        _listed("attention-type", of, "types", lambda request: request.attn_type, source),
        *others,
    ]
    if of.entry.get("never"):
        found.append(_always("combination", f"refuses: {of.entry['never']}", source))
    if words := of.entry.get("undeclared"):
        found.append(_undeclared(of, words, source))
    if "except" in of.entry or "except_on" in of.entry:
        found.append(_except(of, source))
    if of.says("non_causal", Gpu("gfx950")) and "AiterMLABackend" in of.class_path:
        found.append(_non_causal_fp16(source))
    if layouts := of.entry.get("layouts"):
        found += _layouts(layouts.split(), f"vllm/platforms/rocm.py, _get_invalid_reasons ({tag})")
    asked = [one for one in found if ASKED_SINCE.get(one.rule, ()) <= release]
    return tuple(asked)


def _always(rule: str, beyond: str, source: str) -> Limit:
    return Limit(rule, lambda request, gpu: False, "", beyond, "", source)


def _aiter(source: str) -> Limit:
    return Limit(
        "imports",
        lambda request, gpu: gpu.aiter is _PRESENT,
        "AMD's aiter, which its module imports, is there",
        "cannot be imported: its module imports AMD's aiter, which is {gpu.aiter}",
        "run `pip install amd-aiter`",
        source,
        alone=True,
    )


def _in(listed: list[str], value: Any) -> bool:
    """Whether a list of declarations.toml holds a value."""
    return str(value) in listed or any(_covers(one, value) for one in listed)


def _covers(one: str, value: Any) -> bool:
    """Whether a word of a list means a value besides itself: "any", "32..", "8..256/8"."""
    low, dots, rest = one.partition("..")
    if not dots:
        return one == "any"
    high, _, step = rest.partition("/")
    highest = int(high) if high else value
    return bool(int(low) <= value <= highest and value % int(step or 1) == 0)


_WORDS = {  # rule -> (what it is of a request, in words; the field; what to do)
    "head-size": ("head size", "head_size", ""),
    "dtype": ("dtype", "dtype", "set --dtype to one of these"),
    "kv-cache-dtype": ("kv_cache_dtype", "kv_cache_dtype", "set --kv-cache-dtype to one of these"),
    "attention-type": ("attention type", "attn_type", ""),
}


def _listed(
    rule: str, of: Declared, field: str, value: Callable[[Request], object], source: str
) -> Limit:
    words, name, remedy = _WORDS[rule]
    return Limit(
        rule,
        lambda request, gpu: _in(of.words(field, gpu), value(request)),
        f"the {words} is one that the class declares",
        f"does not support {words} {{request.{name}}}: it declares {of.said(field, _in_words)}",
        remedy,
        source,
    )


def _in_words(listed: str) -> str:
    """Return a list of declarations.toml in words."""
    if listed.endswith(".."):
        return listed.replace("..", " or more")
    if ".." in listed:
        return listed.replace("..", " to ").replace("/", " in steps of ")
    return ", ".join(listed.split()) or "none"


def _block_size(of: Declared, source: str) -> Limit:
    def holds(request: Request, gpu: Gpu) -> bool:
        sizes = of.words("blocks", gpu)
        if request.block_size is None or "any" in sizes or not sizes:
            return True
        if sizes[0] == "exactly":
            return str(request.block_size) in sizes
        return any(request.block_size % int(size) == 0 for size in sizes)

    def in_words(listed: str) -> str:
        first, *others = listed.split()
        sizes = " or ".join(others if first == "exactly" else [first, *others])
        return f"exactly {sizes}" if first == "exactly" else f"a multiple of {sizes}"

    words = of.said("blocks", in_words)
    return Limit(
        "block-size",
        holds,
        "the block size is one that the class declares",
        f"does not support block size {{request.block_size}}: it must be {words}",
        f"set --block-size to {words}",
        source,
    )


def _kind(
    feature: str, of: Declared, needs: Callable[[Request], bool], word: str, source: str
) -> Limit:
    does = feature in of.entry.get("yes", "").split()
    return Limit(
        feature,
        lambda request, gpu: needs(request) == does,
        f"the backend is {'' if does else 'not '}{word}, as the layer",
        f"is {'' if does else 'not '}{word}, and the layer is {'not ' if does else ''}{word}",
        "",
        source,
    )


def _targets(of: Declared, source: str) -> Limit:
    targets = of.entry.get("gpus")
    known = targets.split() if targets is not None else None
    return Limit(
        "compute-capability",
        lambda request, gpu: known is None or gpu.stands_for in known,
        "the class takes the GPU",
        "does not support the compute capability of {gpu.gfx}:"
        f" it takes {', '.join(known or ()) or 'no AMD GPU'}",
        "",
        source,
    )


def _feature(rule: str, of: Declared, source: str) -> Limit:
    feature, needs, words, upstream = _FEATURES[rule]
    return Limit(
        rule,
        lambda request, gpu: not needs(request) or of.says(feature, gpu),
        f"the layer has no need of {words}, or the class supports it",
        f"does not support {words} ({upstream})",
        "",
        source,
        quiet=True,
    )


def _undeclared(of: Declared, words: str, source: str) -> Limit:
    def holds(request: Request, gpu: Gpu) -> bool:
        twice = of.words("twice", gpu)
        cache = request.kv_cache_dtype
        return cache in of.words("caches", gpu) or bool(twice and cache not in twice)

    return Limit(
        "combination",
        holds,
        "the class takes the cache dtype, or refuses it for the dtype alone",
        f"refuses the kv_cache_dtype a second time: {words}",
        "",
        source,
        quiet=True,
    )


def _except(of: Declared, source: str) -> Limit:
    return Limit(
        "combination",
        lambda request, gpu: (
            of.words("except", gpu) != [str(request.head_size), request.kv_cache_dtype]
        ),
        "the class takes the head size and the cache dtype together",
        "does not support head size {request.head_size} with kv_cache_dtype {request.kv_cache_dtype}",
        "",
        source,
    )


def _non_causal_fp16(source: str) -> Limit:
    return Limit(
        "non-causal-fp16",
        lambda request, gpu: (
            not request.use_non_causal
            or request.dtype != "float16"
            or request.kv_cache_dtype not in ("auto", "float16")
        ),
        "the layer is causal, or its dtype is not float16",
        "does not support non-causal MLA decode in float16",
        "set --dtype bfloat16",
        source,
        quiet=True,
    )


def _layouts(layouts: list[str], source: str) -> Limits:
    """Return the limits of a run whose other layers are TURBOQUANT's: its layout is LBNHC."""
    return (
        Limit(
            "layout",
            lambda request, gpu: (
                not request.run_cache.startswith("turboquant_") or "LBNHC" in layouts
            ),
            "the class shares a cache layout with TURBOQUANT, or no layer uses it",
            f"shares no KV cache layout with TURBOQUANT (LBNHC); its own: {', '.join(layouts)}",
            "",
            source,
            quiet=True,
            alone=True,
        ),
    )
