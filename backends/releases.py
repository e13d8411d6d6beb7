"""The selection of vLLM's releases on ROCm, 0.11 to 0.33, as policies: one for each minor release.

A policy answers as the newest patch of its release does, right or wrong;
docs/reference/known-regressions.md lists what is known to be wrong. Three eras, each a table below
that says from which release on a row holds:

* 0.11: flags override names (vllm/platforms/rocm.py, v0.11.2);
* 0.12 to 0.17: PR #26980, names are taken or refused (v0.12.0 to v0.17.1);
* 0.18 on: a list of candidates, of which the first that declares to serve the layer is taken.
"""

from __future__ import annotations

import functools
import re
import sys
from dataclasses import dataclass, replace
from typing import Any

from pytest_rocm_attn.backends import declarations
from pytest_rocm_attn.backends.capabilities import BLOCK_SIZE_1, GFX9_ONLY, Limit, Limits
from pytest_rocm_attn.backends.declarations import ASKED_SINCE, Version
from pytest_rocm_attn.backends.policy import (
    AITER,
    AITER_FOUND,
    GFX9,
    MHA,
    MLA,
    MLA_MODEL,
    NAMED,
    ORDINARY,
    PR_26980,
    PREFILL_DECODE,
    SPARSE_MLA,
    UNIFIED,
    Branch,
    GivesWay,
    Policy,
    Predicate,
    Rule,
    flag,
)
from pytest_rocm_attn.errors import UnknownReleaseError, nearest
from pytest_rocm_attn.flags import ATTENTION_BACKEND, USE_PREFILL_DECODE
from pytest_rocm_attn.registry import CLASS_PATHS

ROCM = "vllm/platforms/rocm.py"
# The newest patch of each minor release: what its policy is of.
RELEASES: tuple[str, ...] = (
    *("0.11.2", "0.12.0", "0.13.0", "0.14.1", "0.15.1", "0.16.0", "0.17.1", "0.18.1", "0.19.1"),
    *("0.20.2", "0.21.0", "0.22.1", "0.23.0", "0.24.0", "0.25.1", "0.26.0", "0.27.1", "0.28.0"),
    *("0.29.0", "0.30.0", "0.31.0", "0.32.0", "0.33.0"),
)
NEWEST = RELEASES[-1].rpartition(".")[0]
_BY_MINOR = {release.rpartition(".")[0]: release for release in RELEASES}


def policy_of(release: str) -> Policy:
    """Return the policy of a release.

    Args:
        release: such as "0.33", "0.33.0" or "v0.33.1"; or "pr-26980", the contract of that pull
            request.

    Raises:
        UnknownReleaseError: there is none; the message lists the releases.
    """
    if release.lower() == "pr-26980":
        return PR_26980
    found = re.fullmatch(r"v?(\d+\.\d+)(\.\S*)?", release.strip())
    if found is None or found[1] not in _BY_MINOR:
        known = ", ".join(_BY_MINOR)
        raise UnknownReleaseError(
            f"there is no policy of vLLM {release!r}.{nearest(release, _BY_MINOR)}"
            f" Known: {known}, pr-26980"
        )
    return _policy(_BY_MINOR[found[1]])


@functools.cache
def _policy(release: str) -> Policy:
    version = declarations.version_of(release)[:2]
    if version < (0, 12):
        return _overriding(release, version)
    return _named_first(release, version) if version < (0, 18) else _candidates(release, version)


# --- 0.11: flags override names -------------------------------------------------------------------

_TRITON_MLA_NOT_1 = Limit(
    "block-size-not-1",
    lambda request, gpu: request.block_size != 1,
    "the block size is not 1",
    "does not support block size 1",
    "set --block-size to 16 or more",
    f"{ROCM}, get_attn_backend_cls: ValueError (v0.12.0)",
)
_NO_FP8 = Limit(
    "no-fp8-cache",
    lambda request, gpu: not request.kv_cache_dtype.startswith("fp8"),
    "the KV cache is not fp8",
    "does not support an fp8 kv_cache_dtype; got {request.kv_cache_dtype!r}",
    "set --kv-cache-dtype auto",
    f"{ROCM}, get_attn_backend_cls: ValueError (v0.12.0)",
)
# What the selector itself refuses before 0.18; what a backend refuses later is PR_26980's matter.
_AT_SELECTION: dict[str, Limits] = {
    **dict.fromkeys(CLASS_PATHS, ()),
    "TRITON_MLA": (_TRITON_MLA_NOT_1,),
    "ROCM_AITER_FA": (
        replace(GFX9_ONLY, source=f"{ROCM}, get_attn_backend_cls: ValueError (v0.12.0)"),
    ),
    "ROCM_AITER_MLA_SPARSE": (
        _NO_FP8,
        replace(BLOCK_SIZE_1, source=f"{ROCM}, get_attn_backend_cls: AssertionError (v0.12.0)"),
    ),
}


def _names(name: str) -> Predicate:
    return Predicate(
        lambda request, flags, gpu: flags[NAMED] == name,
        f"{NAMED} names {name}",
        f"{NAMED} does not name {name}",
    )


_EVER: Version = ()  # before every release
_NEVER: Version = (sys.maxsize,)  # after every release
# Names of the registry that came and went; 0.18 on, declarations.toml has them.
_GONE: tuple[tuple[str, Version, Version], ...] = (  # name, first, first without it
    ("XFORMERS", _EVER, (0, 12)),
    ("ROCM_AITER_TRITON_MLA", (0, 12), _NEVER),
    ("ROCM_AITER_MLA_SPARSE", (0, 12), _NEVER),
    ("FLASH_ATTN_DIFFKV", (0, 14), _NEVER),
    ("PALLAS", _EVER, (0, 14)),
    ("IPEX", _EVER, (0, 16)),
    ("FLASHINFER_MLA_SPARSE", (0, 17), _NEVER),
)


def _registry(version: Version) -> tuple[str, ...]:
    """Return the names of a release's registry before 0.18."""
    changed = {name: first <= version < gone for name, first, gone in _GONE}
    always = (name for name in CLASS_PATHS if name not in changed)
    return (*always, *(name for name, there in changed.items() if there))


def _overriding(release: str, version: Version) -> Policy:
    source = f"{ROCM}, get_attn_backend_cls (v{release}), before PR #26980"
    rules = [
        Rule(name, backend, when, source)
        for name, backend, when in (
            ("named-flex-attention", "FLEX_ATTENTION", (_names("FLEX_ATTENTION"),)),
            ("aiter-flash-attention", "ROCM_AITER_FA", (AITER, MHA, GFX9, AITER_FOUND)),
            ("named-aiter-flash-attention", "ROCM_AITER_FA", (_names("ROCM_AITER_FA"),)),
            ("aiter-unified", "ROCM_AITER_UNIFIED_ATTN", (AITER, UNIFIED, GFX9, AITER_FOUND)),
            (
                "named-aiter-unified",
                "ROCM_AITER_UNIFIED_ATTN",
                (_names("ROCM_AITER_UNIFIED_ATTN"),),
            ),
            ("prefill-decode", "ROCM_ATTN", (PREFILL_DECODE,)),
            ("named-rocm-attn", "ROCM_ATTN", (_names("ROCM_ATTN"),)),
            ("default", "TRITON_ATTN", ()),
        )
    ]
    names = _registry(version)
    sparse = _like(
        SPARSE_MLA,
        source,
        names=names,
        refuses="sparse attention is not supported on ROCm",
        rules=(),
    )
    mla = _like(MLA_MODEL, source, names=names, named=("TRITON_MLA", "ROCM_AITER_MLA"))
    ordinary = _like(
        ORDINARY,
        source,
        names=names,
        named=(),
        unnamed=f"{NAMED} is one of the rules: a flag overrides it, another name is ignored",
        rules=tuple(rules),
    )
    limits = _AT_SELECTION | {"ROCM_AITER_FA": ()}
    return Policy(f"vLLM {release}", (sparse, mla, ordinary), limits)


def _like(branch: Branch, source: str, **changes: object) -> Branch:
    """Return a branch of PR_26980 with changes, its rules citing the release."""
    fields: dict[str, Any] = {
        name: getattr(branch, name)
        for name, field in Branch.__dataclass_fields__.items()
        if field.init
    }
    fields["rules"] = tuple(
        Rule(r.name, r.backend, r.when, source, r.otherwise) for r in branch.rules
    )
    fields |= {"source": source, "named_source": source}
    return Branch(**fields | changes)


# --- 0.12 to 0.17: PR #26980 ----------------------------------------------------------------------

_IGNORED = {NAMED: f"removed by PR #32812; use {ATTENTION_BACKEND}"}


def _named_first(release: str, version: Version) -> Policy:
    source = f"{ROCM}, get_attn_backend_cls (v{release}); PR #26980"
    # PR #26315 brought the option in 0.13, PR #32812 removed the variable after 0.14.
    named_by: dict[Version, tuple[str, ...]] = {
        (0, 12): (NAMED,),
        (0, 13): (NAMED, ATTENTION_BACKEND),
    }
    named_by[(0, 14)] = named_by[(0, 13)]
    naming = {
        "named_by": named_by.get(version, (ATTENTION_BACKEND,)),
        "names": _registry(version),
    }
    option = version >= (0, 15)
    rules = tuple(
        Rule(
            rule.name,
            rule.backend,
            tuple(_PREFILL_DECODE if p is PREFILL_DECODE and option else p for p in rule.when),
            source,
        )
        for rule in ORDINARY.rules
    )
    branches = (
        _like(SPARSE_MLA, source, **naming),
        _like(MLA_MODEL, source, **naming),
        _like(ORDINARY, source, rules=rules, **naming),
    )
    return Policy(f"vLLM {release}", branches, _AT_SELECTION, ignored=_IGNORED if option else {})


# --- 0.18 on: candidates --------------------------------------------------------------------------

_PREFILL_DECODE = flag(USE_PREFILL_DECODE)
_MI3XX = Predicate(
    lambda request, flags, gpu: gpu.gfx in ("gfx942", "gfx950"),
    "the GPU is gfx942 or gfx950",
    "the GPU is neither gfx942 nor gfx950",
)
_CDNA3 = Predicate(
    lambda request, flags, gpu: gpu.gfx in ("gfx942", "gfx950", "gfx1250"),
    "the GPU is CDNA 3 or later",
    "the GPU is not CDNA 3 or later (gfx942, gfx950, gfx1250)",
)
_RDNA4 = Predicate(
    lambda request, flags, gpu: gpu.gfx in ("gfx1200", "gfx1201"),
    "the GPU is RDNA 4",
    "the GPU is not RDNA 4 (gfx1200, gfx1201)",
)
_NO_KV_CONNECTOR = Predicate(
    lambda request, flags, gpu: not request.use_kv_connector,
    "there is no KV connector",
    "there is a KV connector",
)
_NO_ENCODER_DECODER = Predicate(
    lambda request, flags, gpu: not request.encoder_decoder_model,
    "the model is not an encoder-decoder",
    "the model is an encoder-decoder",
)


@dataclass(frozen=True)
class _Candidate:
    """A row of a priority list: a backend, and from which release to before which it holds."""

    name: str
    backend: str
    since: Version
    until: Version = _NEVER
    when: tuple[Predicate, ...] = ()
    why: str = ""  # the pull request of the change
    by_aiter: bool = False  # only on the targets of aiter in that release


# The targets for which is_aiter_found_and_supported() (vllm/_aiter_ops.py) says yes, besides a package being found.
_AITER_TARGETS: tuple[tuple[Version, Predicate], ...] = (
    (_EVER, GFX9),
    ((0, 19), _MI3XX),
    ((0, 27), _CDNA3),
)
_ORDINARY: tuple[_Candidate, ...] = (
    _Candidate("aiter-unified", "ROCM_AITER_UNIFIED_ATTN", _EVER, (0, 19), (AITER, UNIFIED)),
    _Candidate("aiter-flash-attention", "ROCM_AITER_FA", _EVER, (0, 19), (AITER, MHA)),
    _Candidate("prefill-decode", "ROCM_ATTN", _EVER, (0, 19), (_PREFILL_DECODE,)),
    _Candidate(
        "aiter-unified-on-rdna4",
        "ROCM_AITER_UNIFIED_ATTN",
        (0, 28),
        when=(AITER, _RDNA4, AITER_FOUND),
        why="PR #43615",
    ),
    _Candidate("rocm-attn", "ROCM_ATTN", (0, 19), (0, 23), why="PR #36702"),
    _Candidate("rocm-attn", "ROCM_ATTN", (0, 23), (0, 26), (_NO_KV_CONNECTOR,), "PR #36702"),
    _Candidate(
        "rocm-attn",
        "ROCM_ATTN",
        (0, 26),
        when=(_NO_KV_CONNECTOR, _NO_ENCODER_DECODER),
        why="PR #36702",
    ),
    _Candidate(
        "aiter-flash-attention",
        "ROCM_AITER_FA",
        (0, 19),
        when=(AITER, MHA, AITER_FOUND),
        why="PR #36702",
        by_aiter=True,
    ),
    _Candidate(
        "aiter-unified",
        "ROCM_AITER_UNIFIED_ATTN",
        (0, 19),
        when=(AITER_FOUND,),
        why="PR #36702",
        by_aiter=True,
    ),
    _Candidate("triton-attn", "TRITON_ATTN", _EVER),
    _Candidate("turboquant", "TURBOQUANT", (0, 20), why="PR #38479"),
    _Candidate("rocm-octave", "ROCM_OCTAVE", (0, 33)),
    _Candidate("ultraquant", "ULTRAQUANT", (0, 32), why="PR #57057"),
)
_MLA_ENABLED = (AITER, MLA, AITER_FOUND)
_MLA: tuple[_Candidate, ...] = (
    _Candidate("aiter-mla", "ROCM_AITER_MLA", _EVER, when=_MLA_ENABLED, by_aiter=True),
    _Candidate("triton-mla", "TRITON_MLA", _EVER),
    _Candidate(
        "aiter-triton-mla", "ROCM_AITER_TRITON_MLA", _EVER, when=_MLA_ENABLED, by_aiter=True
    ),
)
_SPARSE = (_Candidate("aiter-mla-sparse", "ROCM_AITER_MLA_SPARSE", _EVER),)


def _candidates(release: str, version: Version) -> Policy:
    declared = declarations.declared(version)
    limits = {name: declarations.limits(name, of, version) for name, of in declared.items()}
    kinds: tuple[tuple[Branch, tuple[_Candidate, ...]], ...] = (
        (SPARSE_MLA, _SPARSE),
        (MLA_MODEL, _MLA),
        (ORDINARY, _ORDINARY),
    )
    source = f"{ROCM}, get_attn_backend_cls (v{release})"
    branches = tuple(
        _like(
            branch,
            source,
            named=tuple(declared),
            names=tuple(declared),
            named_by=(ATTENTION_BACKEND,),
            rules=_rules(candidates, release, version),
            tries_next=True,
        )
        for branch, candidates in kinds
    )
    return Policy(
        f"vLLM {release}",
        branches,
        limits,
        class_paths={name: of.class_path for name, of in declared.items()},
        sets=_set_by_variables(version),
        when_named=_ultraquant_layouts(declared, release) if version >= (0, 32) else {},
        gives_way=_gives_way(version),
        ignored=_IGNORED,
    )


def _set_by_variables(version: Version) -> tuple[tuple[str, str], ...]:
    """Return which variables set a field of each request.

    Source: envs.py and config/vllm.py (v0.19.1), where the configuration reads the variable and no backend does.
    """
    if version < (0, 19):
        return ()
    asked = version >= ASKED_SINCE["batch-invariance"]
    return (("VLLM_BATCH_INVARIANT", "use_batch_invariant" if asked else ""),)


def _rules(candidates: tuple[_Candidate, ...], release: str, version: Version) -> tuple[Rule, ...]:
    supported = [target for since, target in _AITER_TARGETS if since <= version][-1]
    return tuple(
        Rule(
            one.name,
            one.backend,
            (*one.when, supported) if one.by_aiter else one.when,
            "; ".join(filter(None, [f"{ROCM}, _get_backend_priorities (v{release})", one.why])),
        )
        for one in candidates
        if one.since <= version < one.until
    )


def _gives_way(version: Version) -> GivesWay | None:
    """Return which refusals of a named backend give way to the automatic choice.

    Source: get_attn_backend_cls (v0.28.0; v0.31.0 on only for these reasons, PR #47896).
    """
    if version < (0, 28):
        return None
    if version < (0, 31):
        return GivesWay(
            lambda request: request.kv_cache_dtype.startswith("turboquant"),
            "the layer's cache is turboquant, for which another backend may be taken",
        )
    packed = ("ultraquant_4bit",) if version >= (0, 32) else ()
    return GivesWay(
        lambda request: (
            request.kv_cache_dtype.startswith("turboquant")
            or request.run_cache.startswith("turboquant_")
            or request.run_cache in packed
        ),
        "the run packs its cache, and the named backend cannot read this layer's",
        ("kv-cache-dtype", "layout"),
    )


def _ultraquant_layouts(
    declared: dict[str, declarations.Declared], release: str
) -> dict[str, Limits]:
    """Return the limit that get_attn_backend_cls puts on a named backend in an ultraquant run.

    The automatic choice is not limited so (get_valid_backends passes no is_ultraquant_run, v0.33.0).
    """

    def limit(layouts: list[str]) -> Limit:
        return Limit(
            "layout",
            lambda request, gpu: request.run_cache != "ultraquant_4bit" or "LBNHC" in layouts,
            "the class shares a cache layout with ULTRAQUANT, or no layer uses it",
            f"shares no KV cache layout with ULTRAQUANT (LBNHC); its own: {', '.join(layouts)}",
            "",
            f"{ROCM}, _get_invalid_reasons (v{release})",
            alone=True,
        )

    return {
        name: (limit(layouts),)
        for name, of in declared.items()
        if (layouts := of.entry.get("layouts", "").split())
    }
