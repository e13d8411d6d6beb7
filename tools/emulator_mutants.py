"""How many faults in machine code does the numerics tier notice? Instructions dropped or altered, one at a time.

    python tools/emulator_mutants.py gfx942 TritonAttn 'prefill-on-both-sides-*' 100 [SEED]

Takes the kernels that the cases with such a name launch, and runs on the emulator up to 24 named cases that launch
each of them. Then it runs these cases again and again with one executed instruction of the kernels
dropped, or with one constant larger by one (1.0 for a float's 0, the other value for a bit of a modifier), until
one case notices.
Prints each change with what it gave, a wrong result or a fault, and if it gave neither, what it changed. Instructions that compute nothing by their definition are left alone.

A change without effect is one that no other instruction sees, in any of the cases: each writes what it writes in the
unchanged program, every time. It is the same if the other instructions that see it are steps of one division, and
the division's quotient is the same every time. Both are counted apart.
"""

from __future__ import annotations

import random
import re
import sys
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from emulator_equivalents import without_effect
from numpy.typing import NDArray
from triton import knobs

from pytest_rocm_attn.backends import under_test
from pytest_rocm_attn.conformance.tiers.numerics import judge
from pytest_rocm_attn.conformance.tiers.numerics.case import shipped
from pytest_rocm_attn.emulator import launch
from pytest_rocm_attn.emulator.assembly import Instruction, read_assembly
from pytest_rocm_attn.emulator.machine import SCALAR_KEY, SCC_KEY, Machine, Waves
from pytest_rocm_attn.emulator.scheduler import Code
from pytest_rocm_attn.emulator.step import Step
from pytest_rocm_attn.emulator.triton_launch import Emulation
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.mock import triton_driver

# What computes nothing: hints, padding between instructions that hardware needs, and the upkeep of caches.
IDLE = re.compile(
    r"s_(nop|delay_alu|clause|endpgm|setprio|sleep|wait_alu|waitcnt_depctr|code_end|set_inst|sendmsg)"
    r"|(buffer|global|s_dcache|s_icache|s_prefetch)_(\w*inv\w*|wb\w*|data|inst)"
)
NO_EFFECT = "no other instruction sees a difference"
SAME_QUOTIENT = "a step of a division whose quotient is the same"
MOST_CASES = 24  # that are asked for each kernel
# Between v_div_scale and v_div_fixup, which corrects what they approximate.
DIVIDES = re.compile(r"v_(div_scale|div_fmas|rcp|fma|fmac|mul|pk_fma|pk_mul)_(legacy_)?f(32|64|16)")
NUMBER = re.compile(r"(?<=[ ,:])(?<!bound_ctrl:)(\d+)(?=$|[ ,])")
# What takes 0 as a float, or moves it: the next integer would be a denormal.
FLOAT = re.compile(r"_(b?f16|f32|f64)|v_mov_b32|v_accvgpr_write")
Bytes = NDArray[np.uint8]
ready = launch.code_of


class Unchanged(Exception):
    """A changed program left what the unchanged one leaves: nothing after it can differ."""


@dataclass
class Watched(Emulation):
    """An emulation that runs one program in place of another.

    Attributes:
        instead: the program to run for an assembly.
        usual: each launch of the unchanged case: its assembly, and what it left in its tensors.
        number: launches of the case under way; those before the first change are not run again.
        changed: a changed program has run.
        longest: how many instructions the longest launch took in lockstep.
    """

    instead: dict[str, Code] = field(default_factory=dict)
    usual: list[tuple[str, list[Bytes]]] = field(default_factory=list)
    number: int = 0
    changed: bool = False
    longest: int = 0

    def __call__(self, gpu: Any, compiled: Any, grid: Any, arguments: Any) -> None:
        text, number = compiled.asm["amdgcn"], self.number
        tensors = [held_by(one) for one in arguments if isinstance(one, torch.Tensor)]
        self.number += 1
        self.changed |= text in self.instead
        if self.instead and not self.changed:
            for held, left in zip(tensors, self.usual[number][1], strict=True):
                held[:] = left
            return
        launch.code_of = lambda assembly: self.instead.get(assembly) or ready(assembly)
        super().__call__(gpu, compiled, grid, arguments)
        if not self.instead:
            self.usual.append((text, [held.copy() for held in tensors]))
        elif text not in (later for later, _ in self.usual[number + 1 :]):
            same = zip(tensors, self.usual[number][1], strict=True)
            if text in self.instead and all((held == left).all() for held, left in same):
                raise Unchanged

    def _note(self, assembly: str, done: launch.Executed) -> None:
        super()._note(assembly, done)
        self.longest = max(self.longest, done.steps)


def held_by(tensor: torch.Tensor) -> Bytes:
    """Return the bytes of a tensor's storage, to be read and written in place."""
    held: Bytes = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy()
    return held


def larger(before: str, number: int, name: str) -> int | str:
    """Return what a constant becomes, given the text before it: what its field has room for."""
    modifier, bracket, _ = before.rpartition("]")[2].rpartition("[")
    if bracket:  # two bits of quad_perm, one bit of the others
        return (number + 1) % (4 if modifier.endswith("quad_perm:") else 2)
    return "1.0" if number == 0 and FLOAT.search(name) else number + 1


def mutant(code: Code, instruction: Instruction, draw: random.Random) -> tuple[Code, str]:
    """Return the program with one instruction changed, and how: "dropped" or "altered"."""
    numbers = list(NUMBER.finditer(instruction.text))
    text, how = "s_nop 0", "dropped"
    if numbers and draw.random() < 0.5:
        chosen, how = draw.choice(numbers), "altered"
        before, after = instruction.text[: chosen.start()], instruction.text[chosen.end() :]
        text = f"{before}{larger(before, int(chosen[1]), instruction.name)}{after}"
    target = f'\t.amdgcn_target "amdgcn-amd-amdhsa--{code.program.gfx}"\n'
    (changed,) = read_assembly(f"{target}\t{text}\n").instructions
    number = instruction.index
    instructions = list(code.program.instructions)
    instructions[number] = replace(
        changed, index=number, line=instruction.line, place=instruction.place
    )
    result = Code(replace(code.program, instructions=instructions), code.lanes)
    result.steps = list(code.steps)
    result.steps[number] = None
    return result, how


KINDS = {"Unchanged": "unchanged", "EmulationFault": "fault", "EmulatorError": "refused"}


def kind_of(finding: Any) -> str:
    """Return how a change was noticed, or "unchanged" or "right" if it was not."""
    if finding.kind != "crashed":
        return str(finding.kind)
    return next(
        (kind for name, kind in KINDS.items() if f"raised {name}" in finding.words), "crash"
    )


def recording(code: Code, seen: dict[int, int]) -> Code:
    """Return the program, whose instructions note what they write, or decide, in a checksum each."""

    def note(index: int, values: Any) -> None:
        seen[index] = zlib.crc32(np.ascontiguousarray(values).tobytes(), seen.get(index, 0))

    def noted(index: int, step: Step) -> Step:
        def run(machine: Machine, waves: Waves) -> None:
            step.run(machine, waves)
            for key in step.writes:
                if key < SCALAR_KEY:
                    whole = machine.exec_is_full or step.everywhere
                    note(index, machine.vector[key] if whole else machine.vector[key][machine.exec])
                else:
                    note(index, machine.scc if key == SCC_KEY else machine.scalar[key - SCALAR_KEY])

        def decide(machine: Machine, waves: Waves) -> Any:
            assert step.decide is not None
            decided = step.decide(machine, waves)
            note(index, decided)
            return decided

        return replace(step, run=run, decide=decide if step.decide else None)

    class Recorded(Code):
        def step(self, index: int) -> Step:
            found = self.steps[index]
            if found is None:
                found = self.steps[index] = noted(index, code.step(index))
            return found

    return Recorded(code.program, code.lanes)


def divides(code: Code, number: int, seeing: set[int]) -> bool:
    """Whether instructions, which see a change of another, are steps of the division that this one is in."""
    instructions = code.program.instructions
    names = [instructions[one].name for one in (number, *seeing)]
    after = (one.name for one in instructions[max(number, *seeing) + 1 :])
    until = next((n for n in after if n.startswith(("v_div_fixup", "s_cbranch", "s_branch"))), "")
    return all(map(DIVIDES.match, names)) and until.startswith("v_div_fixup")


def launches_by_case(backend: Any) -> dict[str, set[Any]]:
    """Return which kernels each named case of a backend launches, without compiling one."""
    seen: set[Any] = set()

    def note(**call: Any) -> bool:
        seen.add((call["fn"].name, call["key"]))
        return True  # it is not compiled

    found: dict[str, set[Any]] = {}
    knobs.runtime.jit_cache_hook = note
    for case in shipped():
        if not case.needs and case.batch_invariant == backend.batch_invariant:
            seen.clear()
            judge.examine(backend, case, torch.device("cpu"))
            found[case.id] = set(seen)
    knobs.runtime.jit_cache_hook = None
    return found


def asked(kernels: dict[str, set[Any]], chosen: set[str], draw: random.Random) -> set[str]:
    """Return the cases to ask: for each kernel of the chosen ones up to MOST_CASES that launch it, of every
    family of cases some, and those that launch fewest others first."""
    wanted = set().union(*(kernels[case] for case in chosen))
    families = {case.id: case.why for case in shipped()}
    order = sorted(kernels, key=lambda case: (len(kernels[case] - wanted), draw.random()))
    found = set(chosen)
    for kernel in wanted:
        seen: Counter[str] = Counter()
        ranked = []
        for case in (case for case in order if kernel in kernels[case]):
            ranked.append((seen[families[case]], case))
            seen[families[case]] += 1
        found.update(case for _, case in sorted(ranked, key=lambda one: one[0])[:MOST_CASES])
    return found


def main() -> None:
    """Run the mutants that the command line asks for."""
    gfx, name, wanted, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)  # it fills what torch.empty gives
    draw = random.Random(int(sys.argv[5]) if len(sys.argv) > 5 else 0)
    emulation = Watched()
    triton_driver.activate(Gpu(gfx), emulation)
    backend = getattr(under_test, name)()
    kernels = launches_by_case(backend)
    chosen = {case for case in kernels if kernels[case] and fnmatchcase(case, wanted)}
    cases = {case.id: case for case in shipped() if case.id in asked(kernels, chosen, draw)}
    usual: dict[str, list[tuple[str, list[Bytes]]]] = {}
    answers: dict[str, Any] = {}  # the oracle's, by case
    usually_seen: dict[tuple[str, str], list[dict[int, int]]] = {}
    addresses: defaultdict[str, set[int]] = defaultdict(set)  # instructions that compute them
    kept: list[torch.Tensor] = []  # so that other tensors lie elsewhere
    oracle = judge.reference_of

    def examined(instead: dict[str, Code], case: str) -> Any:
        emulation.instead, emulation.number, emulation.changed = instead, 0, False
        emulation.usual = usual.setdefault(case, [])
        judge.reference_of = lambda problem: (
            answers.get(case) or answers.setdefault(case, oracle(problem))
        )
        return judge.examine_emulated(backend, cases[case], torch.device("cpu"), emulation)

    def noticed(text: str, code: Code) -> Any:
        """Return what the first case that notices finds, or what the last one finds that differs."""
        finding = None
        for case, launches in usual.items():
            if any(text == launched for launched, _ in launches):
                now = examined({text: code}, case)
                if finding is None or kind_of(now) != "unchanged":
                    finding = now
                if kind_of(now) not in ("unchanged", "right"):
                    break
        return finding

    for case in sorted(cases, key=lambda one: (one not in chosen, one)):
        assert examined({}, case).kind == "right", case
    emulation.limit = 2 * emulation.longest
    changed_here = {text for case in chosen for text, _ in usual[case]}
    places = [
        (text, instruction)
        for text in emulation.executed
        if text in changed_here
        for instruction in ready(text).program.instructions
        if emulation.executed[text][instruction.index] and not IDLE.match(instruction.name)
    ]
    draw.shuffle(places)

    def seeing(text: str, changed: Code, number: int) -> set[int]:
        """Return which other instructions see a change, in any of the cases.

        What differs between runs of the unchanged program is an address, as tensors lie elsewhere each time.
        What is loaded from an address, and what is left in a tensor, is compared all the same.
        """
        differ: set[int] = set()
        for case, launches in usual.items():
            if any(text == launched for launched, _ in launches):
                runs = usually_seen.setdefault((text, case), [])
                now: dict[int, int] = {}
                for code in (changed, ready(text), ready(text))[: 2 if runs else 3]:
                    kept.append(torch.empty(random.randrange(100_000)))
                    seen: dict[int, int] = now if code is changed else {}
                    examined({text: recording(code, seen)}, case)
                    if code is not changed:
                        runs.append(seen)
                first = runs[0]
                addresses[text] |= {i for run in runs for i in first if first[i] != run.get(i)}
                differ |= {i for i in first.keys() | now if first.get(i, 0) != now.get(i, 0)}
        return differ - addresses[text] - {number}

    def why(text: str, instruction: Instruction, changed: Code, kind: str) -> str:
        """Return the class of a change that was not noticed, and who sees it."""
        if instruction.name.startswith("s_wait"):
            return "a wait: another one covers it"
        if kind == "right":
            return "the bytes of a tensor differ, and the error is within its bound"
        others = seeing(text, changed, instruction.index)
        if not others:
            return NO_EFFECT
        if divides(ready(text), instruction.index, others):
            return SAME_QUOTIENT
        names = [ready(text).program.instructions[one].name for one in sorted(others)]
        return f"the tensors are the same\t{len(names)}: {' '.join(names[:8])}"

    found: Counter[str] = Counter()
    left_alone: Counter[str] = Counter()
    for text, instruction in places:
        changed, how = mutant(ready(text), instruction, draw)
        if reason := without_effect(ready(text), instruction.index, how):
            left_alone[reason] += 1
            continue
        finding = noticed(text, changed)
        kind, reason = kind_of(finding), ""
        if kind == "refused":  # no such instruction
            continue
        if kind in ("unchanged", "right"):
            reason = why(text, instruction, changed, kind)
        elif kind == "crash":
            reason = finding.words[:300]
        found["without effect" if reason in (NO_EFFECT, SAME_QUOTIENT) else kind] += 1
        print(gfx, name, wanted, kind, f"{how} {instruction.text}", reason, sep="\t", flush=True)
        if found.total() == count:
            break
    seen = found["wrong"] + found["fault"] + found["crash"]
    print(
        f"{seen} of {found.total()} noticed, {dict(found)}; {len(cases)} cases,"
        f" {len(changed_here)} kernels, {len(places)} executed instructions; left alone {dict(left_alone)}"
    )


if __name__ == "__main__":
    main()
