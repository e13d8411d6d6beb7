"""The process that numerics cases run in: cases in, findings out, one JSON line each.

A process of its own, because Triton decides at its import whether it interprets kernels on the CPU,
and because a kernel that reads out of bounds may take its process down. Run as a module with a
backend's name, then that of a check if it is not examine(), then the target that is emulated if any.
The protocol has the standard output to itself, and the backend's own goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import asdict
from typing import Any

from pytest_rocm_attn.conformance.isolation.inside.refusal import text_of

READS_UNUSED = "it reads unused slots of a request's last block, which hold numbers instead of NaN"
AITERS_GPU = "gfx942"  # mocked for aiter's import, where kernels are interpreted


def main() -> None:
    """Answer cases until the input ends."""
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        protocol.write(json.dumps(message) + "\n")
        protocol.flush()

    try:
        emulation = _emulate(sys.argv[3]) if len(sys.argv) > 3 else None
        backend, device, evidence = _start(sys.argv[1], emulation)
        check = check_named(sys.argv[2] if len(sys.argv) > 2 else "examine")
    except BaseException as error:  # noqa: BLE001  foreign code: its import may raise anything
        words = f"{type(error).__name__}: {text_of(error)}"
        say({"error": words, "traceback": traceback.format_exc()})
        return
    from pytest_rocm_attn.conformance.report.host import describe
    from pytest_rocm_attn.conformance.tiers.numerics.case import Case
    from pytest_rocm_attn.conformance.tiers.numerics.finding import Finding

    name = getattr(backend, "name", None)
    allowance = READS_UNUSED if getattr(backend, "reads_unused_slots", False) else ""
    described = describe(device)
    if emulation is not None:
        described |= {"name": f"emulated {sys.argv[3]}", "arch": sys.argv[3]}
    say({"evidence": evidence, "name": name, "device": described, "allowance": allowance})
    for line in sys.stdin:
        case = Case.from_json(json.loads(line))
        if evidence == "interpreter" and (reason := _beyond_the_interpreter(backend, case)):
            say(asdict(Finding("declined", reason)))
            continue
        before = 0 if emulation is None else emulation.launches
        finding = check(backend, case, device)
        idle = emulation is not None and emulation.launches == before
        if idle and finding.kind == "right" and case.tokens:
            finding = Finding("declined", "it launched no Triton kernel: nothing was emulated")
        say(asdict(finding))


def _beyond_the_interpreter(backend: Any, case: Any) -> str:
    """Return why a case can only be tried on a GPU; "" when it can be interpreted."""
    if getattr(backend, "needs_gpu", False):
        return "its kernels are no Triton kernels: they need an AMD GPU"
    return "too large for Triton's interpreter: it needs a GPU" if case.needs == "gpu" else ""


def check_named(name: str) -> Any:
    """Return what is done with each case: (backend, case, device) -> Finding.

    Raises:
        ValueError: there is no such check.
    """
    if name == "examine":
        from pytest_rocm_attn.conformance.tiers.numerics.judge import examine

        return examine
    if name == "replay":
        from pytest_rocm_attn.conformance.tiers.numerics.replay import examine_replayed

        return examine_replayed
    raise ValueError(f"no check named {name!r}; there are examine and replay")


def _emulate(gfx: str) -> Any:
    """Have what Triton compiles for a target executed on the CPU; return what executes it."""
    from pytest_rocm_attn.emulator.triton_launch import Emulation
    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.mock.triton_driver import activate

    emulation = Emulation()
    activate(Gpu(gfx), emulation)
    return emulation


def _start(spec: str, emulation: Any = None) -> tuple[Any, Any, str]:
    """Return the backend, the device it runs on, and what evidence that makes."""
    import torch

    if emulation is not None:
        evidence, device = "emulated", torch.device("cpu")
        torch.set_num_threads(1)
    elif torch.cuda.is_available():
        evidence = "rocm" if torch.version.hip else "cuda"
        device = torch.device("cuda", torch.cuda.current_device())
    else:
        # Triton reads it where a kernel is defined: before anything imports triton.
        os.environ["TRITON_INTERPRET"] = "1"
        evidence, device = "interpreter", torch.device("cpu")
        torch.set_num_threads(1)  # tensors of a few thousand elements
        from pytest_rocm_attn.triton_interpreter import repair

        repair()
    from pytest_rocm_attn.conformance import adapters

    found: Any = adapters.load(spec)
    if device.type == "cpu" and getattr(found, "imports_aiter", False):
        _mock_for_aiter(emulation)
    backend = found() if isinstance(found, type) else found
    evidence = getattr(backend, "evidence", None) or evidence
    return backend, device, evidence


def _mock_for_aiter(emulation: Any) -> None:
    """Mock a GPU that aiter knows, where AMD's is installed: without one it cannot be imported.

    Args:
        emulation: what executes kernels; its own driver stays Triton's.
    """
    from pytest_rocm_attn import aiter_probe
    from pytest_rocm_attn.gpu import Aiter, Gpu
    from pytest_rocm_attn.mock import MockRocm

    if aiter_probe.probe().state is Aiter.PRESENT:
        gfx = AITERS_GPU if emulation is None else sys.argv[3]
        with_driver = emulation is None
        MockRocm(Gpu(gfx, Aiter.PRESENT), real_aiter=True, triton_driver=with_driver).enter()


if __name__ == "__main__":
    main()
