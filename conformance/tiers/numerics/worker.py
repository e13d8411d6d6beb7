"""The process that a backend runs in: cases in, results out, one JSON line each.

A process of its own, because Triton decides at its import whether it interprets kernels on the CPU,
because servers read the GPU's architecture at theirs, and because a kernel that reads out of bounds
may take its process down. Run as a module with a backend's name and what is done with it: "run"
solves the cases and judges the results, or does what the object named next does; "emulate" does so on
the target named next; "launch" launches dry for the target named next. A line that names another backend
makes the process turn to that one. The protocol has the standard output to itself, and the backend's own
goes to stderr.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import sys
import traceback
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance import adapters
from pytest_rocm_attn.conformance.adapters import shape
from pytest_rocm_attn.conformance.isolation.inside import outcomes
from pytest_rocm_attn.conformance.isolation.inside.environment import DEVICE_LISTS
from pytest_rocm_attn.conformance.isolation.inside.refusal import text_of
from pytest_rocm_attn.conformance.tiers.numerics.case import Case, Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.emulator.triton_launch import Emulation

    Started = tuple[dict[str, Any], Callable[[Case], Result]]  # what it says of itself, and does

READS_UNUSED = "it reads unused slots of a request's last block, which hold numbers instead of NaN"
AITERS_GPU = "gfx942"  # mocked for aiter's import, where kernels are interpreted


def main() -> None:
    """Answer cases until the input ends."""
    spec, how, *what = sys.argv[1:]
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        protocol.write(json.dumps(message) + "\n")
        protocol.flush()

    starts: dict[str, Callable[..., Started]]
    starts = {"run": _run, "emulate": _emulate, "launch": _launch}
    start = starts[how]
    if (
        how != "run"
    ):  # they number this machine's GPUs, of which none takes part, and would hide the mocked one
        for name in DEVICE_LISTS:
            os.environ.pop(name, None)
    outcomes.home = outcomes.Home(shape.package_of(spec))
    with contextlib.ExitStack() as mocks:

        @functools.cache
        def started(spec: str) -> Started:
            return start(spec, mocks, *what)

        def turn_to(spec: str) -> Callable[[Case], Result] | None:
            try:
                hello, examine = started(spec)
            except BaseException as error:  # noqa: BLE001  foreign code: its import may raise anything
                words = f"{type(error).__name__}: {text_of(error)}{outcomes.remedy(error)}"
                say({"error": words, "traceback": traceback.format_exc()})
                return None
            say(hello)
            return examine

        # What is imported stays, and what a compiler and an emulator make is large: with Python's own
        # threshold the search for cycles took an eighth of the time.
        gc.disable()
        examine = turn_to(spec)
        gc.freeze()
        gc.set_threshold(500_000)
        gc.enable()
        for line in sys.stdin:
            message = json.loads(line)
            if "backend" in message:
                examine = turn_to(message["backend"])
            elif examine is not None:
                say(asdict(examine(Case.from_json(message))))
        gc.freeze()  # the process ends: nothing is left to search for


def _load(spec: str, mock: Callable[[], object] | None = None) -> Any:
    """Return the backend: the object of that name, or what the class of that name makes.

    Args:
        spec: the name.
        mock: mocks a GPU, which AMD's aiter needs to be imported; called if it is installed and the
            backend says that it imports it.
    """
    from pytest_rocm_attn import aiter_probe
    from pytest_rocm_attn.gpu import Aiter

    found: Any = adapters.load(spec)
    needed = getattr(found, "imports_aiter", False)
    if needed and mock is not None and aiter_probe.probe().state is Aiter.PRESENT:
        mock()
    return found() if isinstance(found, type) else found


def _launch(spec: str, mocks: contextlib.ExitStack, gfx: str) -> Started:
    """Start a backend that launches dry for a target."""
    os.environ.pop("TRITON_INTERPRET", None)  # Triton would run kernels instead of compiling them
    from pytest_rocm_attn.aiter_probe import probe
    from pytest_rocm_attn.conformance.tiers.launch.judge import examine
    from pytest_rocm_attn.gpu import Aiter, Gpu
    from pytest_rocm_attn.mock import MockRocm

    gpu = Gpu(gfx)
    # The tier is about real kernels: no stand-in hides AMD's aiter if it is installed.
    mocks.enter_context(MockRocm(gpu, real_aiter=probe().state is Aiter.PRESENT))
    backend = _load(spec)
    return {"evidence": "launch"}, lambda case: examine(backend, case, gpu)


def _run(spec: str, mocks: contextlib.ExitStack, check: str = "") -> Started:
    """Start a backend on the GPU of this machine, or interpreted without one."""
    import torch

    from pytest_rocm_attn.gpu import Aiter, Gpu
    from pytest_rocm_attn.mock import MockRocm

    if torch.cuda.is_available():
        evidence = "rocm" if torch.version.hip else "cuda"
        device = torch.device("cuda", torch.cuda.current_device())
    else:
        # Triton reads it where a kernel is defined: before anything imports triton.
        os.environ["TRITON_INTERPRET"] = "1"
        evidence, device = "interpreter", torch.device("cpu")
        torch.set_num_threads(1)  # tensors of a few thousand elements
        from pytest_rocm_attn.triton_interpreter import repair

        repair()
    mocked = MockRocm(Gpu(AITERS_GPU, Aiter.PRESENT), real_aiter=True)
    backend = _load(spec, None if device.type == "cuda" else lambda: mocks.enter_context(mocked))
    evidence = getattr(backend, "evidence", None) or evidence
    examine = _examination(check)

    def try_(case: Case) -> Result:
        if evidence == "interpreter" and (reason := _beyond_the_interpreter(backend, case)):
            return Result("declined", reason)
        result: Result = examine(backend, case, device)
        return result

    return _hello(backend, evidence, device), try_


def _emulate(spec: str, mocks: contextlib.ExitStack, gfx: str) -> Started:
    """Start a backend whose kernels, compiled for a target, are executed on the CPU."""
    import torch

    emulation = _emulation(gfx, mocks)
    backend, device = _load(spec), torch.device("cpu")
    from pytest_rocm_attn.conformance.tiers.numerics.judge import examine_emulated

    def try_(case: Case) -> Result:
        result: Result = examine_emulated(backend, case, device, emulation)
        return result

    hello = _hello(backend, getattr(backend, "evidence", None) or "emulated", device)
    hello["device"] |= {"name": f"emulated {gfx}", "arch": gfx}
    return hello, try_


@functools.cache
def _emulation(gfx: str, mocks: contextlib.ExitStack) -> Emulation:
    """Mock a GPU and execute what Triton launches; all backends of the process share it."""
    import torch

    from pytest_rocm_attn.aiter_probe import probe
    from pytest_rocm_attn.emulator.triton_launch import Emulation
    from pytest_rocm_attn.gpu import Aiter, Gpu
    from pytest_rocm_attn.mock import MockRocm
    from pytest_rocm_attn.mock.triton_driver import activate

    aiter = probe().state
    emulation, gpu = Emulation(), Gpu(gfx, aiter)
    # Servers choose their platform at their import, and would choose the GPU that this machine has.
    # The driver is the emulation's; tensors and their device are the CPU's.
    mocks.enter_context(MockRocm(gpu, real_aiter=aiter is Aiter.PRESENT, triton_driver=False))
    activate(gpu, emulation)
    torch.set_num_threads(1)
    # So that torch.empty gives NaN, or the largest integer, and not what another case left there.
    torch.use_deterministic_algorithms(True, warn_only=True)
    return emulation


def _examination(check: str) -> Any:
    """Return what is done with each case: (backend, case, device) -> Result."""
    from pytest_rocm_attn.conformance.tiers.numerics.judge import examine

    return adapters.load(check) if check else examine


def _hello(backend: Any, evidence: str, device: Any) -> dict[str, Any]:
    from pytest_rocm_attn.conformance.report.host import describe

    allowance = READS_UNUSED if getattr(backend, "reads_unused_slots", False) else ""
    return {"evidence": evidence, "device": describe(device), "allowance": allowance}


def _beyond_the_interpreter(backend: Any, case: Case) -> str:
    """Return why a case can only be tried on a GPU; "" if it can be interpreted."""
    if getattr(backend, "needs_gpu", False):
        return "its kernels are not Triton kernels: they need an AMD GPU"
    return "too large for Triton's interpreter: it needs a GPU" if case.needs == "gpu" else ""


if __name__ == "__main__":
    main()
