"""ROCM_ATTN with its HIP decode executed on the CPU as machine code, as backends in the numerics tier.

    python -m pytest --rocm-attn-conformance --rocm-attn-tier=numerics --rocm-attn-emulate=gfx942 \\
        --rocm-attn-backends=HIP=tests/backends/hip/machine_code_backend.py:Matrix

clang compiles the kernels for the target that the tier emulates; what else a step has is Triton's machine
code on the same emulator. Cases that the HIP kernel does not serve are declined.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
import triton

from pytest_rocm_attn import backends
from pytest_rocm_attn.backends.hip.arguments import Arguments
from pytest_rocm_attn.backends.rocm_attn import RocmAttention
from pytest_rocm_attn.backends.under_test import RocmAttnHip
from pytest_rocm_attn.emulator.launch import launch
from pytest_rocm_attn.emulator.memory import Region
from pytest_rocm_attn.hip_compile import INCLUDE

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.paged_layer import PagedLayer
    from pytest_rocm_attn.problem import PagedAttention

SOURCE = Path(backends.__file__).parent / "hip" / "device_only.hip"
CACHES = {0: 0, 7: 1, 8: 2}  # bias of the fp8 format -> Cache of paged_decode.h
THREADS = 256


def assembly(gfx: str, only: str) -> str:
    """Return clang's assembly of the HIP kernels for a target."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernels.s"
        command = ["clang-22", "-x", "hip", "--cuda-device-only", f"--offload-arch={gfx}"]
        command += ["-nogpuinc", "-nogpulib", "-fdeclspec", "-isystem", str(INCLUDE), "-O3"]
        command += ["-std=c++17", "-gline-tables-only", f"-DROCM_ATTN_ONLY_{only}", "-S"]
        subprocess.run([*command, "-o", str(file), str(SOURCE)], check=True)
        return file.read_text()


class Library:
    """Stands for the library of HIP kernels: the same arguments, another way to launch."""

    def __init__(self, gfx: str, emulation: Any, *, plain: bool) -> None:
        self._assembly = assembly(gfx, "PLAIN" if plain else "MATRIX")
        self._emulation = emulation

    def decode(
        self,
        *,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        out: torch.Tensor,
        seq_lens: torch.Tensor,
        partitions: int,
        fp8_bias: int,
        plain: bool,
        **more: Any,
    ) -> None:
        """Run the kernels that rocm_attn_decode of launch.h would launch."""
        heads, size = query.shape[1:]
        places = seq_lens.shape[0] * heads * partitions * (size + 2) if partitions > 1 else 0
        partial = torch.full((places,), torch.nan)
        tensors = {"out": out, "query": query, "key_cache": key_cache, "value_cache": value_cache}
        tensors |= {"seq_lens": seq_lens, "partial": partial}
        pointers = ("block_table", "query_start_loc", "alibi_slopes", "k_scale", "v_scale")
        tensors |= {name: more[name] for name in pointers if more[name] is not None}
        regions = [_region(name, one) for name, one in tensors.items() if one.numel()]
        named = tensors | {name: more[name] for name in pointers}
        block = bytes(Arguments.of(**named, partitions=partitions, scale=more["scale"]))
        dtype, page = int(query.dtype is torch.bfloat16), value_cache.shape[-1]
        kind = f"Lb{dtype}ELNS_5CacheE{CACHES[fp8_bias]}ELi{size}ELi{page}E"
        grid = (seq_lens.shape[0], partitions, key_cache.shape[1])
        if plain:
            group = heads // key_cache.shape[1]
            served = next(count for count in (1, 4, 8, 16) if count >= group)
            self._run(f"decode_plainlyI{kind}Li{served}E", grid, THREADS, block, regions)
        else:
            self._run(f"decode_by_matrixI{kind}", grid, THREADS, block, regions)
        if partitions > 1:
            grid = (seq_lens.shape[0], heads, 1)
            self._run(f"combineILb{dtype}ELi{size}E", grid, size, block, regions)

    def _run(
        self,
        name: str,
        grid: tuple[int, int, int],
        threads: int,
        block: bytes,
        regions: list[Region],
    ) -> None:
        mangled = name.partition("I")
        symbol = f"_ZN9rocm_attn{len(mangled[0])}{name}EEvNS_9ArgumentsE"
        done = launch(self._assembly, symbol, grid, threads, [block], regions)
        self._emulation.launches += 1
        self._emulation.instructions += done.instructions


def _region(name: str, tensor: torch.Tensor) -> Region:
    storage = tensor.untyped_storage()
    start = storage.data_ptr()
    end = start + storage.nbytes()
    return Region(start, end, name, tensor.element_size(), tensor.data_ptr())


class _MachineCode(RocmAttnHip):
    plain = False

    def __init__(self) -> None:
        driver = triton.runtime.driver.active
        assert driver.emulates, "run with --rocm-attn-emulate"
        gfx = driver.get_current_target().arch

        class Layer(RocmAttention):
            def _prepare(self) -> None:
                super()._prepare()
                self.target = replace(self.target, name=gfx)

        self.layer = Layer
        library = Library(gfx, driver.emulation, plain=self.plain)
        self.options = MappingProxyType({"library": library, "plain": self.plain})

    def _insist(self, layer: PagedLayer, problem: PagedAttention) -> None:
        self.reach(layer, problem)


class Matrix(_MachineCode):
    """The kernel with the target's matrix instructions."""

    name = "ROCM_ATTN-hip-machine-code"


class Plain(_MachineCode):
    """The kernel without matrix instructions."""

    name, plain = "ROCM_ATTN-plain-machine-code", True
