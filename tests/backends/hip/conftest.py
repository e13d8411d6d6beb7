"""The HIP kernels on the CPU: built with g++, one library for each matrix instruction."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import math
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_rocm_attn.backends.cache import (
    FP8_BIAS,
    SPLIT,
    cache_shape,
    reshape_and_cache_reference,
)
from pytest_rocm_attn.backends.hip.arguments import PARTITION, Arguments
from pytest_rocm_attn.backends.hip.matrix_layout import SHAPES, MatrixShape

HERE = Path(__file__).parent
SOURCES = Path(__file__).parents[3] / "backends" / "hip"
CACHE = Path(__file__).parents[3] / ".cache" / "hip-emulator"
FEW = (
    "EACH(::rocm_attn::F16, ::rocm_attn::Cache::SAME, 128, 16)"
    " EACH(::rocm_attn::BF16, ::rocm_attn::Cache::SAME, 64, 32)"
    " EACH(::rocm_attn::BF16, ::rocm_attn::Cache::E4M3FN, 128, 32)"
    " EACH(::rocm_attn::F16, ::rocm_attn::Cache::E4M3FNUZ, 64, 16)"
)


@dataclass
class Decode:
    """One decode step: what the kernel reads, and the same as plain tensors for the oracle."""

    query: torch.Tensor  # [requests, query heads, D]
    keys: list[torch.Tensor]  # of each request: [seq_len, KV heads, D], as the cache holds them
    values: list[torch.Tensor]
    key_cache: torch.Tensor
    value_cache: torch.Tensor
    block_table: torch.Tensor
    seq_lens: torch.Tensor
    scale: float
    alibi_slopes: torch.Tensor | None = None
    k_scale: torch.Tensor | None = None
    v_scale: torch.Tensor | None = None
    fp8: torch.dtype | None = None

    @property
    def block_size(self) -> int:
        return self.value_cache.shape[-1]

    def plant(self, name: str, *, request: int, token: int, number: float) -> None:
        """Put a number into the first column of a request's query, or of a token's key or value, of
        the first head. Not for an fp8 cache."""
        if name == "query":
            self.query[request, 0, 0] = number
            return
        block, slot = divmod(token, self.block_size)
        block = int(self.block_table[request, block])
        if name == "key":
            self.keys[request][token, 0, 0] = number
            self.key_cache[block, 0, 0, slot, 0] = number
        else:
            self.values[request][token, 0, 0] = number
            self.value_cache[block, 0, 0, slot] = number


def make_decode(
    seq_lens: list[int],
    *,
    dtype: torch.dtype,
    head_size: int,
    block_size: int,
    group: int,
    kv_heads: int = 2,
    fp8: torch.dtype | None = None,
    alibi: bool = False,
    seed: int = 0,
) -> Decode:
    """Return a random step. Blocks lie in random order, and what no request uses is NaN."""
    draw = torch.Generator().manual_seed(seed)
    stored = fp8 or dtype
    x = 16 // stored.itemsize
    needed = [math.ceil(length / block_size) for length in seq_lens]
    blocks = sum(needed) + 3
    # 0x7f... in every byte is NaN for fp16 and e4m3fn; 0x80 is for e4m3fnuz; bf16 0x7fff as well.
    poison = 0x80 if fp8 is torch.float8_e4m3fnuz else 0x7F
    caches = [
        torch.full(
            (
                math.prod(cache_shape(axes, blocks, block_size, kv_heads, head_size, x))
                * stored.itemsize,
            ),
            poison,
            dtype=torch.uint8,
        )
        .view(stored)
        .view(cache_shape(axes, blocks, block_size, kv_heads, head_size, x))
        for axes in (SPLIT.key, SPLIT.value)
    ]
    order = torch.randperm(blocks, generator=draw).to(torch.int32)
    table = torch.full((len(seq_lens), max(needed) + 2), -1, dtype=torch.int32)
    scales = (0.5, 1.25) if fp8 else (1.0, 1.0)
    keys, values, start = [], [], 0
    for i, length in enumerate(seq_lens):
        table[i, : needed[i]] = order[start : start + needed[i]]
        start += needed[i]
        shape = (length, kv_heads, head_size)
        key, value = (torch.randn(shape, generator=draw).to(dtype) for _ in range(2))
        position = torch.arange(length)
        slots = table[i, position // block_size].long() * block_size + position % block_size
        reshape_and_cache_reference(
            key, value, caches[0], caches[1], slots, SPLIT, k_scale=scales[0], v_scale=scales[1]
        )
        if fp8:  # what the cache can hold of them
            key, value = (
                (rows.float() / scale).to(fp8).double() * scale
                for rows, scale in ((key, scales[0]), (value, scales[1]))
            )
        keys.append(key)
        values.append(value)
    heads = group * kv_heads
    return Decode(
        query=torch.randn(len(seq_lens), heads, head_size, generator=draw).to(dtype),
        keys=keys,
        values=values,
        key_cache=caches[0],
        value_cache=caches[1],
        block_table=table,
        seq_lens=torch.tensor(seq_lens, dtype=torch.int32),
        scale=head_size**-0.5,
        alibi_slopes=torch.rand(heads, generator=draw) if alibi else None,
        k_scale=torch.tensor([scales[0]]) if fp8 else None,
        v_scale=torch.tensor([scales[1]]) if fp8 else None,
        fp8=fp8,
    )


class Emulator:
    """One built library."""

    def __init__(self, path: Path, shape: MatrixShape) -> None:
        self.library: Any = ctypes.CDLL(str(path))
        self.shape = shape
        self.library.widen_16.restype = ctypes.c_float
        self.library.widen_e4m3.restype = ctypes.c_float
        self.library.narrow_16.argtypes = (ctypes.c_int, ctypes.c_float)
        self.library.narrow_16.restype = ctypes.c_ushort

    def decode(
        self,
        *,
        query: torch.Tensor,
        value_cache: torch.Tensor,
        partitions: int,
        seq_lens: torch.Tensor,
        fp8_bias: int,
        plain: bool,
        **tensors: Any,
    ) -> None:
        """Do what Library.decode of backends/hip/build.py does, on the CPU."""
        heads, head_size = query.shape[1:]
        places = len(seq_lens) * heads * partitions
        partial = torch.full((places * (head_size + 2),), torch.nan)
        arguments = Arguments.of(
            query=query,
            value_cache=value_cache,
            partitions=partitions,
            seq_lens=seq_lens,
            partial=partial,
            **tensors,
        )
        assert self.library.arguments_size() == ctypes.sizeof(arguments)
        status = self.library.emulated_decode(
            ctypes.byref(arguments),
            int(query.dtype is torch.bfloat16),
            {0: 0, 7: 1, 8: 2}[fp8_bias],
            head_size,
            value_cache.shape[-1],
            int(plain),
        )
        assert status == 0, "the library has no kernel for this step"

    def run(self, step: Decode, *, plain: bool, rows: list[int] | None = None) -> torch.Tensor:
        """Return the output, [rows, query heads, D]; what the kernel leaves alone is NaN.

        Args:
            step: the inputs.
            plain: by the plain kernel instead of the matrix kernel.
            rows: query_start_loc, where rows are not requests.
        """
        out = torch.full_like(step.query, torch.nan)
        self.decode(
            out=out,
            query=step.query,
            key_cache=step.key_cache,
            value_cache=step.value_cache,
            block_table=step.block_table,
            seq_lens=step.seq_lens,
            query_start_loc=torch.tensor(rows, dtype=torch.int32) if rows else None,
            alibi_slopes=step.alibi_slopes,
            k_scale=step.k_scale,
            v_scale=step.v_scale,
            partitions=max(1, math.ceil(int(step.seq_lens.max()) / PARTITION)),
            scale=step.scale,
            fp8_bias=FP8_BIAS[step.fp8] if step.fp8 else 0,
            plain=plain,
        )
        return out


def _table(name: str, lanes: int, count: int, place: Callable[[int, int], tuple[int, int]]) -> str:
    pairs = ", ".join(
        "{{{}, {}}}".format(*place(lane, i)) for lane in range(lanes) for i in range(count)
    )
    return f"static const int {name}[][2] = {{{pairs}}};\n"


def build_emulator(shape: MatrixShape, kernels: str = "", cache: Path = CACHE) -> Emulator:
    """Build the kernels for one matrix instruction as a library for the CPU, or find it built.

    It is kept by a hash of all that it is made of, so that a session, and its xdist workers, build it once.

    Args:
        shape: the instruction.
        kernels: which, in the form of ROCM_ATTN_EACH (kernels.h); all of them by default.
        cache: where libraries are kept.
    """
    layout = _table("A_AT", shape.wave, shape.per_lane, shape.a)
    layout += _table("B_AT", shape.wave, shape.per_lane, shape.b)
    layout += _table("D_AT", shape.wave, shape.results, shape.d)
    layout += (
        f"static const emulator::Layout LAYOUT{{{shape.k}, {shape.wave}, {shape.per_lane},"
        f" {shape.results}, A_AT, B_AT, D_AT}};\n"
    )
    options = [
        *("-std=c++17", "-O1", "-fPIC", "-shared"),
        *("-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Werror"),
        f"-DROCM_ATTN_EMULATE={shape.struct}",
        *([f"-DROCM_ATTN_EACH(EACH)={kernels}"] if kernels else []),
    ]
    folder = cache / _hash(layout, *options)
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "kernels.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be building it
        if not library.exists():
            (folder / "layout.h").write_text(layout)
            includes = [f"-I{path}" for path in (SOURCES, HERE, folder)]
            unfinished = folder / "unfinished.so"
            command = ["g++", *options, *includes, str(HERE / "emulated_decode.cpp")]
            subprocess.run([*command, "-o", str(unfinished)], check=True)
            unfinished.rename(library)
    return Emulator(library, shape)


def _hash(*texts: str) -> str:
    """Return a hash of texts, of the sources, and of the compiler."""
    compiler = subprocess.run(["g++", "--version"], capture_output=True, check=True).stdout
    found = hashlib.sha256(compiler)
    for path in sorted(path for folder in (SOURCES, HERE) for path in folder.glob("*.[ch]*")):
        found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for text in texts:
        found.update(text.encode() + b"\0")
    return found.hexdigest()[:32]


@pytest.fixture(scope="session")
def emulator() -> Callable[..., Emulator]:
    """A function that builds, once, the kernels for one matrix shape."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ on PATH; the HIP kernels are emulated on the CPU with it")

    @functools.cache
    def build(shape: MatrixShape, *, every_kernel: bool = False) -> Emulator:
        return build_emulator(shape, "" if every_kernel else FEW)

    return build


@pytest.fixture(params=SHAPES, ids=[shape.struct for shape in SHAPES])
def shape(request: pytest.FixtureRequest) -> MatrixShape:
    """Each matrix instruction that the kernels use."""
    found: MatrixShape = request.param
    return found


@pytest.fixture
def make_step() -> Callable[..., Decode]:
    """make_decode, for tests, which cannot import this file."""
    return make_decode
