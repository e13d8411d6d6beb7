"""Other people's attention kernels, to be timed together with ours in the same run.

Their files stay as they were released; only the packages around them are stand-ins, as the kernels need
little of them: importing vllm or aiter whole takes their compiled parts and all dependencies.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl

from pytest_rocm_attn.backends.batch import Batch
from pytest_rocm_attn.conformance.adapters.unified import Unified

Function = Callable[..., None]


@dataclass(frozen=True)
class Peer:
    """A package's kernels.

    Args:
        name: for the table.
        unified: unified attention, of the signature that vLLM and aiter share.
        mla_decode: vLLM's decode over a latent cache; None if a package has none.
    """

    name: str
    unified: Function
    mla_decode: Callable[..., None] | None

    def attention(
        self,
        query: torch.Tensor,
        cache: torch.Tensor,
        batch: Batch,
        out: torch.Tensor,
        scale: float,
    ) -> None:
        """Attend over a [blocks, 2, block size, KV heads, D] cache."""
        key, value = cache.unbind(1)
        self.unified(
            q=query,
            k=key,
            v=value,
            out=out,
            cu_seqlens_q=batch.query_start_loc,
            max_seqlen_q=batch.max_query_len,
            seqused_k=batch.seq_lens,
            max_seqlen_k=batch.max_seq_len,
            softmax_scale=scale,
            causal=True,
            window_size=(-1, -1),
            block_table=batch.block_table,
            softcap=0,
            q_descale=None,
            k_descale=None,
            v_descale=None,
        )

    def latent_attention(
        self,
        query: torch.Tensor,
        cache: torch.Tensor,
        batch: Batch,
        out: torch.Tensor,
        scale: float,
    ) -> None:
        """Decode over a [blocks, block size, 576] cache, with the splits that vLLM's backend asks for."""
        assert self.mla_decode is not None
        splits = 4
        requests, heads, _ = query.shape
        logits = torch.empty(requests, heads, splits, 513, dtype=torch.float32, device=query.device)
        lse = torch.empty(requests, heads, dtype=query.dtype, device=query.device)
        latent = cache.unsqueeze(2)
        self.mla_decode(
            query,
            latent,
            latent[..., :512],
            out,
            lse,
            batch.block_table,
            batch.seq_lens,
            logits,
            splits,
            scale,
            cache.shape[1],
        )


class AiterOnCuda(Unified):
    """aiter's unified attention as a backend of the numerics tier on an NVIDIA GPU.

    There aiter cannot be imported whole, as its adapter does. ROCM_ATTN_AITER_DIR names the folder that
    holds the package:

        python -m pytest --rocm-attn-conformance --rocm-attn-tier=numerics \\
            --rocm-attn-backends=AITER=benchmarks/peers.py:AiterOnCuda
    """

    name = "AITER"
    reads_unused_slots = (
        True  # as in the adapter: where a tile is a block, the kernel loads all of it
    )

    def __init__(self) -> None:
        super().__init__(load("aiter", Path(os.environ["ROCM_ATTN_AITER_DIR"])).unified)


def load(name: str, tree: Path) -> Peer:
    """Load a package's kernels from the folder that holds the package.

    Args:
        name: "vllm" or "aiter".
        tree: for example an unpacked wheel.

    Raises:
        ImportError: the release keeps its kernels elsewhere, or they need more than the stand-ins.
    """
    if name == "aiter":
        _stand_in("aiter.ops.triton.utils.types", e4m3_dtype=torch.float8_e4m3fn)
        module = _import("aiter.ops.triton.unified_attention", tree)
        for kernel in [n for n, v in vars(module).items() if isinstance(v, triton.JITFunction)]:
            setattr(module, kernel, _WithoutAmdOptions(getattr(module, kernel)))
        return Peer(f"aiter {_version(tree, 'amd_aiter')}", module.unified_attention, None)
    platform = types.SimpleNamespace(
        is_rocm=lambda: False,
        is_cuda=lambda: True,
        is_pin_memory_available=lambda: True,
        is_device_capability_family=lambda family: False,  # of what the H100 lacks
        fp8_dtype=lambda: torch.float8_e4m3fn,
    )
    _stand_in("vllm.logger", init_logger=logging.getLogger)
    _stand_in("vllm.platforms", current_platform=platform)
    _stand_in("vllm.triton_utils", tl=tl, triton=triton)
    folder = "vllm.attention.ops"
    if not (tree / "vllm/attention/ops").is_dir():
        folder = "vllm.v1.attention.ops"
    unified = _import(f"{folder}.triton_unified_attention", tree).unified_attention
    mla = _import(f"{folder}.triton_decode_attention", tree).decode_attention_fwd
    # Made here: a CUDA graph cannot capture the copies by which later releases make scales that are not given.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    takes = inspect.signature(mla).parameters
    scales = {
        name: torch.ones((), device=device) for name in ("k_scale", "v_scale") if name in takes
    }
    return Peer(f"vLLM {_version(tree, 'vllm')}", unified, functools.partial(mla, **scales))


class _WithoutAmdOptions:
    """A kernel whose launches name compiler options that only the AMD backend knows."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        launch = self._kernel[grid]

        def without(*args: Any, **kwargs: Any) -> Any:
            kwargs.pop("waves_per_eu", None)
            return launch(*args, **kwargs)

        return without


def _stand_in(name: str, **members: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def _import(name: str, tree: Path) -> Any:
    """Import a module without running the packages that it lies in."""
    parts = name.split(".")
    for count in range(1, len(parts)):
        parent = ".".join(parts[:count])
        if parent not in sys.modules:
            package = types.ModuleType(parent)
            package.__path__ = [str(tree.joinpath(*parts[:count]))]
            sys.modules[parent] = package
    return importlib.import_module(name)


def _version(tree: Path, distribution: str) -> str:
    """Return the version that the tree's metadata, else its folder's name, gives."""
    found = sorted(tree.glob(f"{distribution}-*.dist-info"))
    return found[0].stem.split("-")[1] if found else tree.resolve().name
