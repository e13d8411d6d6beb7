"""Triton's launches, executed: the arguments as Triton's own launcher packs them.

Source: Triton 3.6.0, third_party/amd/backend/driver.py (make_launcher, make_tensordesc_arg).
"""

from __future__ import annotations

import functools
import inspect
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.emulator.launch import LIMIT, Executed, code_of, launch
from pytest_rocm_attn.emulator.memory import Region
from pytest_rocm_attn.errors import EmulatorError

if TYPE_CHECKING:
    from pytest_rocm_attn.gpu import Gpu

_ACCESS = re.compile(r"(global|flat|buffer)_(load|store|atomic)")
_INTEGERS = re.compile(r"([iu])(\d+)")
_FLOATS = {"fp16": "<e", "fp32": "<f", "f32": "<f", "fp64": "<d"}


@dataclass
class Emulation:
    """Executes Triton's launches on this CPU.

    Attributes:
        seed: run a workgroup's waves one after the other between barriers, in an order that it
            draws; None runs them in lockstep.
        limit: instructions that a batch of workgroups may run in lockstep.
        known: tensors that kernels may touch besides their own arguments: those whose addresses
            lie in a tensor, as a table of pointers.
        launches: how many kernels ran; instructions: of one wave each, over all launches.
        executed: how often each instruction of each kernel was run, by its assembly.
        watched: a Triton function, which may be inlined; accesses: how often a wave has read or written tensors by
            one of its lines.
    """

    seed: int | None = None
    limit: int = LIMIT
    known: list[Any] = field(default_factory=list)
    launches: int = 0
    instructions: int = 0
    executed: dict[str, Counter[int]] = field(default_factory=dict)
    watched: Any = None
    accesses: int = 0

    def __call__(
        self, gpu: Gpu, compiled: Any, grid: tuple[int, int, int], arguments: Iterable[object]
    ) -> None:
        """Run a compiled kernel.

        Args:
            compiled: Triton's CompiledKernel.
            arguments: as Triton gives them to its launcher: one for each parameter.

        Raises:
            EmulationFault: the kernel did something wrong.
            EmulatorError: the emulator does not know what the kernel is made of.
        """
        __tracebackhide__ = True
        assembly = compiled.asm.get("amdgcn")
        if assembly is None:
            raise EmulatorError(
                f"{compiled.name} has no assembly to run: unset TRITON_STORE_BINARY_ONLY"
            )
        metadata = compiled.metadata
        if metadata.num_ctas > 1:
            raise EmulatorError(f"{compiled.name} uses clusters of workgroups (num_ctas)")
        packed = list(_packed(compiled.src.signature, arguments))
        regions = [region for _, region in packed if region is not None]
        regions += [_region("a known tensor", tensor) for tensor in self.known]
        done = launch(
            assembly,
            compiled.name,
            grid,
            metadata.num_warps * gpu.wavefront,
            [value for value, _ in packed],
            [region for region in regions if region.end > region.start],
            dynamic_lds=metadata.shared,
            seed=self.seed,
            limit=self.limit,
        )
        self._note(assembly, done)

    def _note(self, assembly: str, done: Executed) -> None:
        self.launches += 1
        self.instructions += done.instructions
        counts = self.executed.setdefault(assembly, Counter())
        counts.update({number: count for number, count in enumerate(done.by_instruction) if count})
        if self.watched is not None:
            self.accesses += sum(done.by_instruction[i] for i in _accesses(assembly, self.watched))


@functools.cache
def _accesses(assembly: str, function: Any) -> tuple[int, ...]:
    """Return which instructions of a program read or write tensors by lines of a Triton function."""
    lines, first = inspect.getsourcelines(function.fn)
    inside, file = range(first, first + len(lines)), function.fn.__code__.co_filename
    return tuple(
        one.index
        for one in code_of(assembly).program.instructions
        if one.place and one.place.line in inside and one.place.file == file
        if _ACCESS.match(one.name)
    )


def _packed(
    signature: Mapping[str, Any], arguments: Iterable[object]
) -> Iterator[tuple[bytes, Region | None]]:
    """Yield the bytes of each argument that the machine code takes, and what it points to."""
    for (name, kind), value in zip(signature.items(), arguments, strict=True):
        yield from _flattened(str(name), kind, value)


def _flattened(name: str, kind: Any, value: Any) -> Iterator[tuple[bytes, Region | None]]:
    if isinstance(kind, tuple):
        for number, (inner, one) in enumerate(zip(kind, value, strict=True)):
            yield from _flattened(f"{name}[{number}]", inner, one)
    elif kind == "constexpr":
        return
    elif kind.startswith("tensordesc"):
        yield from _descriptor(name, value)
    elif kind.startswith("*"):
        yield _pointer(name, value)
    else:
        yield _number(name, kind, value), None


def _descriptor(name: str, value: Any) -> Iterator[tuple[bytes, Region | None]]:
    """A tensor descriptor, taken apart: pointer, shape and strides, how it pads, then both again."""
    shape, strides = list(value.shape), list(value.strides)
    yield _pointer(name, value.base)
    for size in (*shape, *strides):
        yield _number(name, "i64", size), None
    yield _number(name, "i1", getattr(value, "padding", "zero") == "nan"), None
    for size in shape:
        yield _number(name, "i32", size), None
    for size in strides:
        yield _number(name, "i64", size), None


def _pointer(name: str, value: Any) -> tuple[bytes, Region | None]:
    if value is None:
        return bytes(8), None
    if isinstance(value, int):
        return value.to_bytes(8, "little"), None
    region = _region(name, value)
    return int(value.data_ptr()).to_bytes(8, "little"), region


def _region(name: str, tensor: Any) -> Region:
    device = str(getattr(tensor, "device", "cpu"))
    storage = tensor.untyped_storage()
    start = storage.data_ptr()
    if device == "meta" or (start == 0 and storage.nbytes()):
        raise EmulatorError(
            f"argument {name!r} has no memory (device {device}): emulated launches take CPU tensors"
        )
    shape = ", ".join(str(size) for size in tensor.shape)
    kind = str(tensor.dtype).removeprefix("torch.")
    return Region(
        start,
        start + storage.nbytes(),
        f"{name} ({kind}[{shape}])",
        tensor.element_size(),
        tensor.data_ptr(),
    )


def _number(name: str, kind: str, value: Any) -> bytes:
    if kind in _FLOATS:
        return struct.pack(_FLOATS[kind], float(value))
    if kind == "bf16":
        return struct.pack("<f", float(value))[2:]
    match = _INTEGERS.fullmatch(kind)
    if match is None:
        raise EmulatorError(f"argument {name!r} is of a kind that the emulator lacks: {kind}")
    size = max(1, int(match[2]) // 8)
    return (int(value) & (1 << 8 * size) - 1).to_bytes(size, "little")
