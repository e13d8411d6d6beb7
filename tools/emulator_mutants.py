"""How many faults in machine code does the numerics tier notice? Instructions dropped or altered, one at a time.

    python tools/emulator_mutants.py gfx942 TritonAttn sliding-window-16 100

Runs a case on the emulator, then again and again with one executed instruction of its kernels dropped or
altered (a constant off by one, two sources exchanged), and prints the result of each kind.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from pytest_rocm_attn.backends import under_test
from pytest_rocm_attn.conformance.tiers.numerics import judge
from pytest_rocm_attn.conformance.tiers.numerics.case import shipped
from pytest_rocm_attn.emulator.launch import code_of
from pytest_rocm_attn.emulator.triton_launch import Emulation
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.mock import triton_driver

# What computes nothing: hints, and padding between instructions that hardware needs.
IDLE = re.compile(r"s_(nop|delay_alu|clause|endpgm|setprio|sleep|wait_alu|code_end|set_inst)")


@dataclass
class Mutated(Emulation):
    """An emulation that exchanges the assembly of kernels."""

    edits: dict[str, str] = field(default_factory=dict)

    def __call__(self, gpu: Any, compiled: Any, grid: Any, arguments: Any) -> None:
        text = self.edits.get(compiled.asm["amdgcn"], compiled.asm["amdgcn"])
        inner = SimpleNamespace(
            name=compiled.name, metadata=compiled.metadata, src=compiled.src, asm={"amdgcn": text}
        )
        super().__call__(gpu, inner, grid, arguments)


def mutant(text: str, line: int, draw: random.Random) -> tuple[str, str]:
    """Return the assembly with one line changed, and how: "dropped" or "altered"."""
    lines = text.splitlines()
    code = lines[line - 1].split(";")[0]
    numbers = list(re.finditer(r"(?<=[ ,:])(\d+)(?=$|[ ,])", code.rstrip()))
    if numbers and draw.random() < 0.5:
        chosen = draw.choice(numbers)
        code = f"{code[: chosen.start()]}{int(chosen[1]) + 1}{code[chosen.end() :]}"
        how = "altered"
    else:
        code, how = "\ts_nop 0", "dropped"
    lines[line - 1] = code
    return "\n".join(lines) + "\n", how


def main() -> None:
    """Run the mutants that the command line asks for."""
    gfx, name, wanted, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    torch.set_num_threads(1)
    draw = random.Random(int(sys.argv[5]) if len(sys.argv) > 5 else 0)
    emulation = Mutated(limit=30_000)
    triton_driver.activate(Gpu(gfx), emulation)
    (case,) = (one for one in shipped() if one.id == wanted)
    backend = getattr(under_test, name)()
    assert judge.examine(backend, case, torch.device("cpu")).kind == "right"
    places = []
    for text, counts in emulation.executed.items():
        for instruction in code_of(text).program.instructions:
            if counts[instruction.index] and not IDLE.match(instruction.name):
                places.append((text, instruction))
    draw.shuffle(places)
    found: Counter[str] = Counter()
    survivors: Counter[str] = Counter()
    for text, instruction in places[:count]:
        changed, how = mutant(text, instruction.line, draw)
        emulation.edits = {text: changed}
        finding = judge.examine(backend, case, torch.device("cpu"))
        words = finding.words
        kind = "unnoticed" if finding.kind == "right" else finding.kind
        if kind == "crashed":
            kind = (
                "fault"
                if "EmulationFault" in words
                else "refused"
                if "EmulatorError" in words
                else "crash"
            )
        found[kind] += 1
        if kind == "unnoticed":
            survivors[f"{how} {instruction.name}"] += 1
        if kind == "crash":
            print(instruction, words[:300])
    print(gfx, name, wanted, f"{len(places)} executed instructions;", dict(found))
    print("unnoticed:", dict(survivors.most_common()), flush=True)


if __name__ == "__main__":
    main()
