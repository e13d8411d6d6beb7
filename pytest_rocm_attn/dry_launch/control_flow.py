"""The loops of a compiled kernel, from its control-flow graph.

A loop is a natural loop: the blocks from which a back edge to its header is reached without leaving
it. Loops with one header are one loop with several latches. They are found as the strongly connected
parts of the graph, then those of each part without the edges into its header, and so on. In a graph
that is reducible, which AMDGPU's back end guarantees, these are the natural loops.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_rocm_attn.errors import CodeObjectError

if TYPE_CHECKING:
    from pytest_rocm_attn.emulator.assembly import Instruction, Program

Edges = Mapping[
    int, tuple[int, ...]
]  # the blocks that follow each block, by their first instruction

# A branch that is too far for its 16 bits is a jump to a sum, whose low half names the label.
_DISTANCE = re.compile(r"\(?([.\w$]+)-[.\w$]+\)?&4294967295")


@dataclass(frozen=True, slots=True)
class Graph:
    """The blocks of one kernel that can be reached from its entry.

    Attributes:
        blocks: the instructions of each block, by the index of the first of them.
        edges: the blocks that may follow each block.
        entry: of the kernel.
    """

    blocks: Mapping[int, tuple[Instruction, ...]]
    edges: Edges
    entry: int


@dataclass(frozen=True, slots=True)
class NaturalLoop:
    """One loop.

    Attributes:
        header: the block that every iteration begins with.
        latches: blocks with an edge to the header.
        blocks: all, inner loops' included.
        depth: 1 for a loop that no other loop contains.
        innermost: it contains no other loop.
    """

    header: int
    latches: frozenset[int]
    blocks: frozenset[int]
    depth: int
    innermost: bool


def read_graph(program: Program, kernel: str) -> Graph:
    """Return the control-flow graph of a kernel.

    Raises:
        CodeObjectError: the program has no such kernel, or a branch has a target that it does not define.
    """
    if kernel not in program.kernels:
        raise CodeObjectError(f"the assembly has no kernel {kernel!r}")
    entry = program.kernels[kernel].entry
    starts = {entry, *program.labels.values()}
    blocks: dict[int, tuple[Instruction, ...]] = {}
    edges: dict[int, tuple[int, ...]] = {}
    waiting = [entry]
    while waiting:
        start = waiting.pop()
        if start in blocks or start >= len(program.instructions):
            continue
        end = start
        while not _ends(program.instructions[end]) and end + 1 < len(program.instructions):
            if end + 1 in starts:
                break
            end += 1
        blocks[start] = tuple(program.instructions[start : end + 1])
        edges[start] = tuple(dict.fromkeys(_followers(program, end)))
        waiting.extend(edges[start])
    return Graph(blocks, edges, entry)


def loops_of(graph: Graph) -> tuple[NaturalLoop, ...]:
    """Return the loops of a graph, by the place of their headers in the code."""
    found = list(_nest(graph.edges, frozenset(graph.blocks), frozenset([graph.entry]), 1))
    return tuple(sorted(found, key=lambda loop: (loop.header, loop.depth)))


def unrolled(graph: Graph) -> tuple[Graph, NaturalLoop]:
    """Return a graph without its back edges, and all of it as if it were one loop, of depth 0.

    An iteration of that is a run of the kernel in which each loop is run once.
    """
    backward = {(block, loop.header) for loop in loops_of(graph) for block in loop.latches}
    edges = {
        block: tuple(to for to in followers if (block, to) not in backward)
        for block, followers in graph.edges.items()
    }
    ends = frozenset(block for block, followers in edges.items() if not followers)
    whole = NaturalLoop(graph.entry, ends, frozenset(graph.blocks), 0, innermost=False)
    return Graph(graph.blocks, edges, graph.entry), whole


def heaviest_way(
    graph: Graph, loop: NaturalLoop, weight: Callable[[Instruction], float]
) -> tuple[Instruction, ...]:
    """Return the instructions of the heaviest way through one iteration of an innermost loop, or a whole.

    Branches over a part, as around masked loads, make ways of different lengths. A negative weight
    finds the lightest.
    """
    weights = {block: sum(map(weight, graph.blocks[block])) for block in loop.blocks}
    best: dict[int, tuple[float, tuple[int, ...]]] = {}
    for block in reversed(_in_order(graph, loop)):  # each one after those that may follow it
        ways = [best[follower] for follower in graph.edges[block] if follower in best]
        if block in loop.latches:
            ways.append((0.0, ()))
        if ways:  # else it leads out of the loop only
            rest, way = max(ways, key=lambda one: one[0])
            best[block] = (weights[block] + rest, (block, *way))
    return tuple(
        instruction for block in best[loop.header][1] for instruction in graph.blocks[block]
    )


def _in_order(graph: Graph, loop: NaturalLoop) -> list[int]:
    """Return the blocks of an innermost loop, each before those that follow it in an iteration."""
    order: list[int] = []
    state: dict[int, bool] = {loop.header: False}  # True once all that follows is in order
    stack = [(loop.header, iter(graph.edges[loop.header]))]
    while stack:
        block, followers = stack[-1]
        for follower in followers:
            if follower in loop.blocks and follower not in state:
                state[follower] = False
                stack.append((follower, iter(graph.edges[follower])))
                break
        else:
            state[block] = True
            order.append(block)
            stack.pop()
    return order[::-1]


def _ends(instruction: Instruction) -> bool:
    return instruction.name in (
        "s_endpgm",
        "s_branch",
        "s_setpc_b64",
    ) or instruction.name.startswith("s_cbranch_")


def _followers(program: Program, index: int) -> Iterator[int]:
    instruction = program.instructions[index]
    if instruction.name == "s_endpgm":
        return
    if instruction.name == "s_setpc_b64":
        if (label := _distant(program, index)) is not None:
            yield _target(program, instruction, label)
        return  # else it returns to a caller
    if instruction.name == "s_branch" or instruction.name.startswith("s_cbranch_"):
        yield _target(program, instruction, instruction.operands[0])
    if instruction.name != "s_branch" and index + 1 < len(program.instructions):
        yield index + 1


def _target(program: Program, instruction: Instruction, label: str) -> int:
    if label not in program.labels:
        raise CodeObjectError(
            f"{instruction} branches to {label!r}, which the assembly does not define"
        )
    return program.labels[label]


def _distant(program: Program, index: int) -> str | None:
    """Return the label that a jump to a computed address goes to, from the sum before it."""
    for before in reversed(program.instructions[max(0, index - 8) : index]):
        if before.name == "s_getpc_b64":
            return None
        if match := _DISTANCE.search(before.text):
            return match[1]
    return None


def _nest(
    edges: Edges, blocks: frozenset[int], entries: frozenset[int], depth: int
) -> Iterator[NaturalLoop]:
    """Yield the loops within some blocks, which are entered at `entries` or from outside of them."""
    for part in _strongly_connected(edges, blocks):
        entered = {to for block in blocks - part for to in edges[block] if to in part} | (
            entries & part
        )
        header = min(entered)
        latches = frozenset(block for block in part if header in edges[block])
        without = {
            block: tuple(to for to in edges[block] if to != header and to in part) for block in part
        }
        inner = list(_nest(without, part, frozenset([header]), depth + 1))
        yield NaturalLoop(header, latches, part, depth, innermost=not inner)
        yield from inner


def _strongly_connected(edges: Edges, blocks: frozenset[int]) -> Iterator[frozenset[int]]:
    """Yield the strongly connected parts that have a cycle (Tarjan's algorithm, with its own stack)."""
    number: dict[int, int] = {}
    lowest: dict[int, int] = {}
    held: list[int] = []
    for root in sorted(blocks):
        if root in number:
            continue
        number[root] = lowest[root] = len(number)
        held.append(root)
        stack = [(root, iter(edges[root]))]
        while stack:
            block, followers = stack[-1]
            for to in followers:
                if to not in blocks:
                    continue
                if to not in number:
                    number[to] = lowest[to] = len(number)
                    held.append(to)
                    stack.append((to, iter(edges[to])))
                    break
                if to in lowest:
                    lowest[block] = min(lowest[block], lowest[to])
            else:
                stack.pop()
                if stack:
                    parent = stack[-1][0]
                    lowest[parent] = min(lowest[parent], lowest[block])
                if lowest[block] == number[block]:
                    part = frozenset(held[held.index(block) :])
                    del held[held.index(block) :]
                    low = {one: lowest.pop(one) for one in part}
                    if len(low) > 1 or block in edges[block]:
                        yield part
