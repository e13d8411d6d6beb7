"""Which changes of machine code cannot have an effect in any case: decided by the program's text alone.

    from emulator_equivalents import without_effect

Not decided is what depends on the data of a case, such as a mask that excludes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pytest_rocm_attn.emulator.machine import EXEC, SCALAR_KEY, SCC_KEY
from pytest_rocm_attn.emulator.operands import parse
from pytest_rocm_attn.emulator.scheduler import Code
from pytest_rocm_attn.emulator.step import Step
from pytest_rocm_attn.emulator.waits import waited

_EXEC = {SCALAR_KEY + EXEC, SCALAR_KEY + EXEC + 1}
# What gives the other operand if one is 0. Those of the scalar unit write SCC as well.
_NEUTRAL = re.compile(
    r"[vs]_(add|or|xor|lshlrev?|lshrrev?|ashrrev?)_(nc_)?[biu]32|[vs]_mov_b(32|64)"
)
_OF_EXEC_ALONE = re.compile(
    r"(v_(?!cmp|readlane|readfirstlane|writelane|mfma|wmma)|ds_|buffer_|global_|flat_|scratch_).*"
)
_COUNTED = re.compile(r"(ds|buffer|global|flat|scratch|image|tbuffer)_|s_(load|buffer_load|store|sendmsg|dcache|atc)")  # fmt: skip


def without_effect(code: Code, number: int, how: str) -> str:
    """Return why a change cannot have an effect, or "" if it may.

    Args:
        number: the instruction that is changed.
        how: "dropped" or "altered".
    """
    instruction, step = code.program.instructions[number], code.step(number)
    if _is_unread(code, number, step.writes):
        return "nothing reads what it writes"
    if how == "altered":
        return ""
    if instruction.name.startswith("s_wait"):
        return "the waits before it cover it" if _is_covered(code, number) else ""
    if instruction.name == "s_cbranch_execz" and _needs_lanes(code, number):
        return "it skips what does nothing without an active lane"
    if not _is_unread(code, number, (SCC_KEY,) if SCC_KEY in step.writes else ()):
        return ""
    first, *others = instruction.operands
    if _NEUTRAL.fullmatch(instruction.name) and not instruction.modifiers:
        if others in ([first], ["0", first]):
            return "it gives what its register has"
        if others == [first, "0"] and instruction.name.startswith("s_"):
            return "it gives what its register has"
    if instruction.name == "s_and_b32" and others == [first, "0xffff"]:
        key = parse(first, code.program).keys[0]
        if all(_is_high_half(code, reader, key) for reader in _readers(code, number, key, False)):
            return "an address of a buffer has 48 bits"
    return ""


def _is_unread(code: Code, number: int, keys: tuple[int, ...]) -> bool:
    """Whether no instruction can read what this one writes into registers; False if it writes none."""
    step = code.step(number)
    if step.control or not step.writes or (keys and _changes_exec(code, number)):
        return not keys and bool(step.writes)
    readers = (_readers(code, number, key, step.everywhere) for key in keys)
    return all(next(one, None) is None for one in readers)


def _changes_exec(code: Code, number: int) -> bool:
    name = code.program.instructions[number].name
    return bool(re.search("saveexec|wrexec|v_cmpx", name) or _EXEC & set(code.step(number).writes))


def _readers(code: Code, number: int, key: int, everywhere: bool) -> Iterator[int]:
    """Yield each instruction that may read a register before it is written again, on any way; -1 for an unknown way.

    A vector register is written again by an instruction that heeds EXEC only if EXEC is as it was.
    """
    todo, seen = [(number + 1, True)], set()
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        place, same = at
        step = code.step(place)
        if key in step.reads:
            yield place
        if step.control == "jump":
            yield -1
        elif step.control != "end" and not _writes(step, key, same and not everywhere):
            same = same and not _changes_exec(code, place)
            if step.control in ("always", "branch"):
                todo.append((code.target(place), same))
            if step.control != "always":
                todo.append((place + 1, same))


def _writes(step: Step, key: int, same: bool) -> bool:
    """Whether a step overwrites the whole register; what keeps a part of it counts as a read."""
    return key in step.writes and (key >= SCALAR_KEY or step.everywhere or same)


def _is_high_half(code: Code, reader: int, key: int) -> bool:
    """Whether a reader takes a register as the second word of a buffer's resource alone."""
    if reader < 0 or not code.program.instructions[reader].name.startswith("buffer_"):
        return False
    uses = [parse(text, code.program) for text in code.program.instructions[reader].operands]
    found = [(one, one.keys.index(key)) for one in uses if key in one.keys]
    return all(len(one.keys) == 4 and place == 1 for one, place in found)


def _straight_before(code: Code, number: int) -> Iterator[int]:
    """Yield the instructions before one, backwards, as far as no other way leads to it."""
    while number and number not in code.joins and not code.step(number - 1).control:
        number -= 1
        yield number


def _is_covered(code: Code, number: int) -> bool:
    """Whether earlier waits have waited for as much, with nothing issued between."""
    instructions = code.program.instructions
    left = waited(instructions[number].name, instructions[number].operands)
    for before in _straight_before(code, number):
        name = instructions[before].name
        if name.startswith("s_wait"):
            done = waited(name, instructions[before].operands)
            left = {kind: most for kind, most in left.items() if done.get(kind, most + 1) > most}
        if not left:
            return True
        if _COUNTED.match(name):
            return False
    return False


def _needs_lanes(code: Code, number: int) -> bool:
    """Whether all that a branch skips does nothing if no lane is active."""
    skipped = code.program.instructions[number + 1 : code.target(number)]
    return all(
        _OF_EXEC_ALONE.fullmatch(one.name) or re.match(r"s_(wait|nop|delay_alu|clause)", one.name)
        for one in skipped
    ) and not any(key >= SCALAR_KEY for one in skipped for key in code.step(one.index).writes)
