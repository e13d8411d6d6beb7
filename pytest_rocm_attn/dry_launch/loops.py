"""Loop figures: what one wave issues in an iteration of each innermost loop of a compiled kernel.

The figures are counts of instructions on the longest way through the loop's body. Nothing is timed.

Source of the classes: LLVM, "Syntax of AMDGPU Instructions"; AMD's ISA guides for CDNA2 to CDNA4 and
RDNA3 to RDNA4, "Instruction Set Reference".
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.dry_launch.control_flow import heaviest_way, loops_of, read_graph, unrolled
from pytest_rocm_attn.emulator.assembly import read_assembly
from pytest_rocm_attn.emulator.names import renamed

if TYPE_CHECKING:
    from pytest_rocm_attn.dry_launch.control_flow import Graph, NaturalLoop
    from pytest_rocm_attn.emulator.assembly import Instruction


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What one wave issues in one iteration of an innermost loop, at most.

    If branches make iterations of different lengths, the figures are those of the longest.

    Attributes:
        label: of the loop's header, in the assembly.
        place: the line of the kernel's source that the loop begins with, or "".
        depth: 1 for a loop that no other one contains; 0 for a whole kernel, run once.
        instructions: issued in the longest iteration.
        shortest: instructions of the shortest iteration.
        matrix: matrix instructions (MFMA, SMFMAC, WMMA, SWMMAC) by name.
        multiply_adds: of them all.
        vector: operations of the vector unit other than those; a dual instruction (VOPD) has two.
        vector_instructions: the instructions that hold them.
        transcendental: exp, log, rcp, rsq, sqrt, sin, cos among them.
        scalar: scalar arithmetic and moves, branches left out.
        branches: conditional or not.
        scalar_loads: loads, and stores, by the scalar cache.
        lds_reads, lds_writes: number of LDS instructions by the bits that a lane moves.
        lds_exchanges: permutes and swizzles, which pass through LDS without its memory.
        loads, stores, atomics: of global memory.
        load_bytes, store_bytes: that a lane moves by them.
        scratch: loads and stores of private memory, such as spilled registers.
        barriers: of the workgroup.
        waits: for memory, LDS or another wave's message.
        other: hints, no-operations and cache control, which take an issue slot only.
        body: the instructions, as the compiler printed them.
    """

    label: str
    place: str
    depth: int
    instructions: int
    shortest: int
    matrix: Mapping[str, int]
    multiply_adds: int
    vector: int
    vector_instructions: int
    transcendental: int
    scalar: int
    branches: int
    scalar_loads: int
    lds_reads: Mapping[int, int]
    lds_writes: Mapping[int, int]
    lds_exchanges: int
    loads: int
    load_bytes: int
    stores: int
    store_bytes: int
    atomics: int
    scratch: int
    barriers: int
    waits: int
    other: int
    body: tuple[str, ...] = field(repr=False)

    @property
    def matrix_instructions(self) -> int:
        """Matrix instructions of all names."""
        return sum(self.matrix.values())

    @property
    def lds(self) -> int:
        """LDS instructions, exchanges included."""
        return sum(self.lds_reads.values()) + sum(self.lds_writes.values()) + self.lds_exchanges

    @property
    def lds_bytes(self) -> int:
        """Bytes that a lane moves to and from LDS; an exchange moves four."""
        moved = Counter(self.lds_reads) + Counter(self.lds_writes)
        return sum(bits * count for bits, count in moved.items()) // 8 + 4 * self.lds_exchanges

    @property
    def narrow_lds(self) -> int:
        """LDS instructions that move 16 bits or fewer of each lane."""
        moved = Counter(self.lds_reads) + Counter(self.lds_writes)
        return sum(count for bits, count in moved.items() if bits <= 16)

    def as_json(self) -> dict[str, Any]:
        """Return the figures as a dict of JSON values, without the body."""
        figures: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            if name != "body":
                value = getattr(self, name)
                figures[name] = (
                    {str(key): count for key, count in value.items()}
                    if isinstance(value, Mapping)
                    else value
                )
        return figures


@functools.lru_cache(maxsize=64)
def innermost_loops(assembly: str, kernel: str) -> tuple[Loop, ...]:
    """Return the figures of each innermost loop of a kernel, in the order of the code.

    Args:
        assembly: LLVM's, for AMDGPU.
        kernel: its symbol.

    Raises:
        CodeObjectError: the assembly has no such kernel.
        EmulatorError: it is not LLVM's assembly for AMDGPU.
    """
    program = read_assembly(assembly)
    graph = read_graph(program, kernel)
    names = {index: label for label, index in program.labels.items()}
    return tuple(
        _figures(graph, loop, names.get(loop.header, ""))
        for loop in loops_of(graph)
        if loop.innermost
    )


@functools.lru_cache(maxsize=64)
def whole_kernel(assembly: str, kernel: str) -> Loop:
    """Return the figures of a run of a kernel in which each loop is run once, as those of a loop of depth 0.

    A kernel that covers all its keys without a loop has no other figures.

    Args:
        assembly, kernel: as of `innermost_loops`, which raises the same errors.
    """
    return _figures(*unrolled(read_graph(read_assembly(assembly), kernel)), kernel)


def main_loop(loops: Iterable[Loop]) -> Loop | None:
    """Return the loop with the most multiply-adds, of equals the one with the least vector work.

    In an attention kernel that is the loop over the keys which no row is masked from; without matrix
    instructions it is the loop that loads the most bytes.
    """
    return max(
        loops,
        key=lambda loop: (
            loop.multiply_adds,
            -loop.vector if loop.multiply_adds else loop.load_bytes,
            -loop.instructions,
        ),
        default=None,
    )


def multiply_adds(name: str) -> int:
    """Return the multiply-adds of a matrix instruction; of a sparse one, those that it computes.

    A name gives rows x columns x depth, and since gfx940 the number of blocks (``_2b``). Before, blocks
    follow from the shape: CDNA2's ISA guide, table of matrix instructions.
    """
    match = re.search(r"_(\d+)x(\d+)x(\d+)_?(?:(\d+)b_)?", name)
    if match is None:
        return 0
    rows, columns, depth = (int(size) for size in match.groups()[:3])
    blocks = int(match[4] or 1)
    if match[4] is None and name.startswith("v_mfma"):
        blocks = _blocks(rows, depth, name)
    sparse = name.startswith(("v_smfmac", "v_swmmac"))
    return rows * columns * depth * blocks // (2 if sparse else 1)


# Depth of gfx908's and gfx90a's instructions with several blocks, by their operands.
_BLOCK_DEPTHS = {"f32": 1, "f16": 4, "i8": 4, "bf16": 2, "bf16_1k": 4}


def _blocks(rows: int, depth: int, name: str) -> int:
    operands = re.search(r"\d+x\d+x\d+((?:bf16_1k|bf16|f16|i8|f32))$", name)
    if rows == 4:
        return 4 if name.endswith("f64") else 16
    if operands is None or depth != _BLOCK_DEPTHS[operands[1]]:
        return 1
    return {32: 2, 16: 4}[rows]


_MATRIX = re.compile(r"v_(mfma|smfmac|wmma|swmmac)_")
_TRANSCENDENTAL = re.compile(
    r"v_(s_)?(exp|log|rcp|rcp_iflag|rsq|sqrt|sin|cos|tanh)(_legacy)?_\w?f\d+"
)
_WAIT = re.compile(r"s_waitcnt(_vscnt|_vmcnt|_lgkmcnt|_expcnt)?|s_wait_(idle|event|\w*cnt\w*)")
# They hold no wave back for memory, and move nothing.
_HINTS = re.compile(
    r"s_(nop|sleep\w*|setprio|sethalt|delay_alu|clause|wait_alu|waitcnt_depctr|inst_prefetch|sendmsg\w*"
    r"|set_inst_prefetch_distance|prefetch_\w+|icache_inv|dcache_\w+|ttracedata\w*|barrier_signal\w*"
    r"|barrier_init|barrier_join|barrier_leave|round_mode|denorm_mode|code_end|version|trap|endpgm\w*"
    r"|(inc|dec)perflevel|set_gpr_idx_\w+|sched_\w+)"
)
_GLOBAL = re.compile(r"(buffer|global|flat|scratch)_(load|store|atomic)_(\w+)")
_LDS = re.compile(r"ds_(read|write|load|store)(2)?(st64)?(_addtid|_tr\d*)?_(\w+)")
_BITS = {"ubyte": 8, "sbyte": 8, "ushort": 16, "sshort": 16, "byte": 8, "short": 16, "dword": 32}


def _figures(graph: Graph, loop: NaturalLoop, label: str) -> Loop:
    body = heaviest_way(graph, loop, lambda _: 1)
    shortest = heaviest_way(graph, loop, lambda _: -1)
    counts: Counter[str] = Counter()
    matrix: Counter[str] = Counter()
    reads: Counter[int] = Counter()
    writes: Counter[int] = Counter()
    for instruction in body:
        name = instruction.name
        if _MATRIX.match(name):
            matrix[name] += 1
            counts["multiply_adds"] += multiply_adds(name)
        elif name.startswith("v_"):
            counts.update(_vector(instruction))
        elif name.startswith("s_"):
            counts[_scalar(name)] += 1
        elif name.startswith("ds_"):
            width = _lds_width(renamed(name))
            if width is None:
                counts["lds_exchanges"] += 1
            else:
                (reads if re.match("ds_(read|load)", name) else writes)[width] += 1
        else:
            counts.update(_memory(renamed(name)))
    place = body[0].place
    return Loop(
        label=label,
        place="" if place is None else str(place),
        depth=loop.depth,
        instructions=len(body),
        shortest=len(shortest),
        matrix=dict(sorted(matrix.items())),
        lds_reads=dict(sorted(reads.items())),
        lds_writes=dict(sorted(writes.items())),
        body=tuple(instruction.text for instruction in body),
        **{name: counts[name] for name in COUNTED},
    )


COUNTED = (
    "multiply_adds",
    "vector",
    "vector_instructions",
    "transcendental",
    "scalar",
    "branches",
    "scalar_loads",
    "lds_exchanges",
    "loads",
    "load_bytes",
    "stores",
    "store_bytes",
    "atomics",
    "scratch",
    "barriers",
    "waits",
    "other",
)


def _vector(instruction: Instruction) -> Mapping[str, int]:
    if instruction.name == "v_nop":
        return {"other": 1}
    operations = [half.split()[0] for half in instruction.text.split("::")]
    return {
        "vector": len(operations),
        "vector_instructions": 1,
        "transcendental": sum(bool(_TRANSCENDENTAL.match(one)) for one in operations),
    }


def _scalar(name: str) -> str:
    if re.match(r"s_(buffer_|scratch_)?(load|store)_|s_(buffer_)?atomic|s_mem(real)?time", name):
        return "scalar_loads"
    if name in ("s_barrier", "s_barrier_wait"):
        return "barriers"
    if re.match(r"s_c?branch|s_setpc|s_swappc|s_call", name):
        return "branches"
    if _HINTS.fullmatch(name):
        return "other"
    if _WAIT.fullmatch(name):
        return "waits"
    return "scalar"


def _lds_width(name: str) -> int | None:
    """Return the bits that a lane moves by an LDS instruction, or None for an exchange of lanes."""
    if match := _LDS.fullmatch(name):
        bits = re.match(r"[a-z]+(\d+)", match[5])
        return (int(bits[1]) if bits else 32) * (2 if match[2] else 1)
    if re.match(r"ds_(b?permute|swizzle)", name):
        return None
    bits = re.search(r"_[a-z]+(\d+)$", name)  # an atomic: it reads and writes, and is one access
    return int(bits[1]) if bits else 32


def _memory(name: str) -> Mapping[str, int]:
    match = _GLOBAL.fullmatch(name)
    if match is None:
        return {"other": 1}
    where, what, kind = match.groups()
    size = _bytes(kind)
    if where == "scratch":
        return {"scratch": 1}
    if what == "atomic":
        return {"atomics": 1}
    return {f"{what}s": 1, f"{what}_bytes": size}


def _bytes(kind: str) -> int:
    """Return the bytes that a lane moves, from what follows ``load_`` or ``store_`` in gfx9's names."""
    if transposed := re.search(r"tr\d*_b(\d+)", kind):
        return int(transposed[1]) // 8
    word = re.search(r"([us]?byte|[us]?short|dword)(?:x(\d))?", kind)
    if word is None:
        return 4
    return _BITS[word[1]] // 8 * int(word[2] or 1)
