"""Drawn questions, as the page takes them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from pytest_rocm_attn.backends.releases import RELEASES
from pytest_rocm_attn.flags import ATTENTION_BACKEND, EXPLICIT, USE_PREFILL_DECODE
from pytest_rocm_attn.gpu import Aiter, known_gpus
from pytest_rocm_attn.registry import CLASS_PATHS, EVERY_NAME, ROCM_BACKENDS
from pytest_rocm_attn.request import ATTN_TYPES, DTYPES, KV_CACHE_DTYPES

Question = dict[str, Any]
SWITCHES = (
    *("VLLM_ROCM_USE_AITER", "VLLM_ROCM_USE_AITER_MHA", "VLLM_ROCM_USE_AITER_MLA"),
    *("VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION", "VLLM_V1_USE_PREFILL_DECODE_ATTENTION"),
    *("VLLM_BATCH_INVARIANT", "VLLM_MLA_DISABLE"),
)
NEEDS = (
    *("has_sink", "alibi", "use_mm_prefix", "use_kv_connector", "use_dcp", "use_pcp"),
    *("use_non_causal", "use_per_head_quant_scales", "use_rswa", "use_adaptive_verification"),
    *("use_batch_invariant", "encoder_decoder_model"),
)
HEADS = (8, 12, 16, 32, 64, 128)


PACKED = ("turboquant_k8v4", "turboquant_4bit_nc", "ultraquant_4bit")
SEVERAL: dict[str, tuple[Any, ...]] = {
    "head_size": (*range(1, 33), 64, 72, 80, 96, 112, 128, 192, 256, 320, 512, 576, 1000),
    "dtype": DTYPES,
    "kv_cache_dtype": KV_CACHE_DTYPES,
    "run_kv_cache_dtype": KV_CACHE_DTYPES,
    "block_size": (None, *range(1, 18), 32, 48, 64, 128, 256, 272, 544, 1056),
    "attn_type": ATTN_TYPES,
    "sliding_window": (1, 128, 4096),
    "logits_soft_cap": (0.25, 30.0, 50.5, 1e-5, 1e22),
    "num_heads": HEADS,
}


def drawn(count: int, seed: int) -> list[Question]:
    """Return questions about every release in turn, the contract of the pull request twice as often.

    Some are plain, some have several needs at once; and some are about what is rare among drawn ones:
    runs with a packed cache, the blocks of latent layers, and what only the contract refuses.
    """
    chance = random.Random(seed)
    releases = ("pr-26980", *RELEASES, "pr-26980")
    return [_question(chance, releases[n % len(releases)]) for n in range(count)]


def _question(chance: random.Random, release: str) -> Question:
    few = chance.choice((0.03, 0.15, 0.4))  # how likely is each thing that is not plain
    environ = {name: chance.choice("01") for name in SWITCHES if chance.random() < max(few, 0.15)}
    if chance.random() < 0.35:
        names = chance.choice((ROCM_BACKENDS, tuple(CLASS_PATHS), EVERY_NAME, ("auto",)))
        environ[ATTENTION_BACKEND] = chance.choice(names)
    if chance.random() < 0.2:
        environ[EXPLICIT] = chance.choice(chance.choice((ROCM_BACKENDS, tuple(CLASS_PATHS))))
    if chance.random() < 0.1:
        environ[USE_PREFILL_DECODE] = "1"
    request: dict[str, Any] = {name: True for name in NEEDS if chance.random() < few / 2}
    if chance.random() < 0.3:
        request["use_mla"] = True
    if chance.random() < (0.4 if "use_mla" in request else 0.03):
        request["use_sparse"] = True
    for name, values in SEVERAL.items():
        if chance.random() < few:
            request[name] = chance.choice(values)
    if chance.random() < 0.4:
        request = _rare(chance, release, environ)
    if "num_heads" in request and chance.random() < 0.5:
        request["num_kv_heads"] = chance.choice([n for n in HEADS if not request["num_heads"] % n])
    likely = chance.random() < 0.5
    return {
        "release": release,
        "gpu": chance.choice(("gfx90a", "gfx942", "gfx950", "gfx1201") if likely else known_gpus()),
        "aiter": Aiter.PRESENT.value if likely else chance.choice(list(Aiter)).value,
        "environ": environ,
        "request": request,
    }


def _rare(chance: random.Random, release: str, environ: dict[str, str]) -> dict[str, Any]:
    """Return a request of a rare kind; what the environment names is for it, or nothing."""
    kinds = ("packed", "latent", "sparse", "one need")
    kind = chance.choice(
        kinds if release < "0.28" or release == "pr-26980" else kinds[:1] * 5 + kinds
    )
    for name in (ATTENTION_BACKEND, EXPLICIT):
        environ.pop(name, None)
    if kind == "packed":
        if chance.random() < 0.7:
            environ[ATTENTION_BACKEND] = chance.choice(chance.choice((ROCM_BACKENDS, EVERY_NAME)))
        layers = (*PACKED, "auto", "auto", "auto", "fp8")
        asked = {"kv_cache_dtype": layers, "run_kv_cache_dtype": PACKED, "dtype": DTYPES[:2]}
        return {name: chance.choice(values) for name, values in asked.items()}
    if kind == "latent":
        return {"use_mla": True, "block_size": chance.choice((1, 8, 16, None))}
    if kind == "sparse":
        return {"use_mla": True, "use_sparse": True, "block_size": chance.choice((1, 64, None))}
    needs = [*SEVERAL.items(), *((need, (True,)) for need in NEEDS)]
    name, values = chance.choice([*needs, *[("logits_soft_cap", SEVERAL["logits_soft_cap"])] * 5])
    return {name: chance.choice(values), "use_mla": chance.random() < 0.5}


@pytest.fixture
def draw() -> Callable[[int, int], list[Question]]:
    """The function that draws questions: how many, and from which seed."""
    return drawn
