"""The process in which one backend launches dry on one mocked GPU: families in, findings out.

A process of its own, because servers read the GPU's architecture where their modules are imported, and
keep it. The protocol is that of conformance/tiers/numerics/worker.py.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import asdict
from typing import Any


def main() -> None:
    """Answer families until the input ends."""
    spec, gfx = sys.argv[1:3]
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.environ.pop("TRITON_INTERPRET", None)  # Triton would run kernels instead of compiling them

    def say(message: dict[str, Any]) -> None:
        protocol.write(json.dumps(message) + "\n")
        protocol.flush()

    from pytest_rocm_attn.aiter_probe import probe
    from pytest_rocm_attn.conformance import adapters
    from pytest_rocm_attn.conformance.isolation.inside.refusal import text_of
    from pytest_rocm_attn.conformance.tiers.launch.judge import examine
    from pytest_rocm_attn.conformance.tiers.numerics.case import Case
    from pytest_rocm_attn.gpu import Aiter, Gpu
    from pytest_rocm_attn.mock import MockRocm

    gpu = Gpu(gfx)
    # The tier is about real kernels: no stand-in hides AMD's aiter where it is installed.
    with MockRocm(gpu, real_aiter=probe().state is Aiter.PRESENT):
        try:
            found: Any = adapters.load(spec)
            backend = found() if isinstance(found, type) else found
        except BaseException as error:  # noqa: BLE001  foreign code: its import may raise anything
            words = f"{type(error).__name__}: {text_of(error)}"
            say({"error": words, "traceback": traceback.format_exc()})
            return
        say({"evidence": "launch", "name": getattr(backend, "name", None)})
        for line in sys.stdin:
            say(asdict(examine(backend, Case.from_json(json.loads(line)), gpu)))


if __name__ == "__main__":
    main()
