"""What a case of the numerics tier costs on emulated machine code, as a ratio to Triton's interpreter.

    python benchmarks/emulation.py [gfx942]

Each runs in a process of its own, in CPU time, with one thread. Two runs of the cases are measured: the first
compiles the kernels, unless Triton's cache has them, and makes their instructions ready; the second is execution
and the oracle alone, and its ratio is the one that counts. Exit status 1 if it is above the budget, or if a result
is not right.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from processes import run  # next to this script

BUDGET = 0.6
PAIRS = 2
CASES = {
    "TritonAttn": ("sinks-float16", "chunked-prefill"),
    "TritonMla": ("mla-decode-with-block-size-16", "mla-prefill-after-a-context"),
}


def solve(gfx: str) -> list[float]:
    """Return the CPU seconds of a first and a second run of the cases; gfx "" interprets."""
    import torch

    from pytest_rocm_attn.backends import under_test
    from pytest_rocm_attn.conformance.tiers.numerics.case import shipped
    from pytest_rocm_attn.conformance.tiers.numerics.judge import examine

    torch.set_num_threads(1)
    if gfx:
        from pytest_rocm_attn.emulator.triton_launch import Emulation
        from pytest_rocm_attn.gpu import Gpu
        from pytest_rocm_attn.mock.triton_driver import activate

        activate(Gpu(gfx), Emulation())
    else:
        from pytest_rocm_attn.triton_interpreter import repair

        repair()
    cases = {case.id: case for case in shipped()}
    seconds = []
    for _ in range(2):
        start = time.process_time()
        for name, wanted in CASES.items():
            backend = getattr(under_test, name)()
            for one in wanted:
                finding = examine(backend, cases[one], torch.device("cpu"))
                if finding.kind != "right":
                    raise SystemExit(
                        f"{name} on {gfx or 'the interpreter'}: {one}: {finding.words}"
                    )
        seconds.append(time.process_time() - start)
    return seconds


def seconds(gfx: str, folder: str) -> list[float]:
    """Return what ``solve`` gives in a process of its own."""
    environ = os.environ | {"TRITON_INTERPRET": "" if gfx else "1", "EMULATED": gfx}
    script = str(Path(__file__).resolve())
    words = run([sys.executable, script, "solve"], folder, environ=environ)
    found: list[float] = json.loads(words.splitlines()[-1])
    return found


def main(gfx: str) -> int:
    """Print both times and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(seconds(gfx, folder), seconds("", folder)) for _ in range(PAIRS)]
    first, emulated, interpreted = (
        min(pair[side][run] for pair in pairs) for side, run in ((0, 0), (0, 1), (1, 1))
    )
    ratio = emulated / interpreted
    count = sum(len(wanted) for wanted in CASES.values())
    print(
        f"{count} cases, CPU seconds: emulated on {gfx} {emulated:.2f} (first run {first:.2f}),"
        f" interpreted {interpreted:.2f}; ratio {ratio:.2f}, budget {BUDGET}"
    )
    return int(ratio > BUDGET)


if __name__ == "__main__":
    if sys.argv[1:] == ["solve"]:
        print(json.dumps(solve(os.environ["EMULATED"])))
        sys.exit(0)
    sys.exit(main(*sys.argv[1:] or ["gfx942"]))
