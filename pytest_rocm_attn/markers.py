"""Whether a test marked rocm, rocm_gpu or aiter can run here, and if not, why not.

The decisions are pure functions over what detection found; the plugin's hooks ask them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_rocm_attn.errors import nearest
from pytest_rocm_attn.gpu import Aiter, known_gpus

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from pytest_rocm_attn.hardware import Detection

HARDWARE_MARKERS = ("rocm", "rocm_gpu", "aiter")
_INSTALL_AITER = (
    "install AMD's aiter (pip install amd-aiter, or build it from github.com/ROCm/aiter for this"
    " GPU's ROCm)"
)
_AITER = {
    Aiter.ABSENT: f"needs AMD's aiter, which is not installed; {_INSTALL_AITER}",
    Aiter.IMPOSTOR: "needs AMD's aiter, but the package named aiter here is an unrelated one;"
    f" pip uninstall aiter, then {_INSTALL_AITER}",
    Aiter.BROKEN: f"needs AMD's aiter, and the one here does not work; re-{_INSTALL_AITER}",
}

_SKIPPED = "rocm-attn: "  # begins each of our skip reasons, so that they can be counted


def skip_what_cannot_run(item: pytest.Item) -> None:
    """Skip a test with a hardware marker that cannot run here."""
    from pytest_rocm_attn import aiter_probe, hardware

    for name in HARDWARE_MARKERS:
        for marker in item.iter_markers(name):
            probed = aiter_probe.probe()
            reason = skip_reason(name, marker.args, hardware.detect(), probed.state, probed.reason)
            if reason is not None:
                skip(reason)


def skip(reason: str) -> NoReturn:
    """Skip the running test as one that lacks its hardware."""
    pytest.skip(f"{_SKIPPED}{reason}")


def not_run(skipped: Iterable[object]) -> Counter[str]:
    """Return the reasons of the hardware tests among skipped reports, which xdist sends over too."""
    reasons: Counter[str] = Counter()
    for report in skipped:
        longrepr = getattr(report, "longrepr", None)  # (file, line, "Skipped: reason")
        if isinstance(longrepr, tuple):
            _, found, reason = longrepr[2].partition(_SKIPPED)
            if found:
                reasons[reason] += 1
    return reasons


def skip_reason(
    marker: str,
    args: Collection[object],
    detection: Detection,
    aiter: Aiter,
    aiter_note: str = "",
) -> str | None:
    """Return why a test with one of the hardware markers cannot run here, or None when it can.

    Args:
        marker: "rocm", "rocm_gpu" or "aiter".
        args: the marker's positional arguments; the accepted targets of rocm_gpu.
        detection: the real GPUs; a mocked one does not count.
        aiter: the state of AMD's aiter on this machine.
        aiter_note: the evidence for that state, in words; appended to the reason.

    Raises:
        pytest.UsageError: arguments that the marker does not take, or an unknown target.
    """
    if marker == "rocm_gpu":
        check_targets(args)
        if not detection.gpus:
            return f"needs a real {_either(args)}: {detection.reason}"
        if any(gpu.gfx in args for gpu in detection.gpus):
            return None
        have = ", ".join(f"{gpu.gfx} ({gpu.name})" for gpu in detection.gpus)
        return f"needs a real {_either(args)}, and this machine has {have}; run it on one of those"
    if args:
        given = ", ".join(map(repr, args))
        raise pytest.UsageError(
            f"the {marker} marker takes no arguments, got {given}"
            + ("; to name targets write rocm_gpu('gfx942', ...)" if marker == "rocm" else "")
        )
    if marker == "rocm":
        return None if detection.gpus else f"needs a real ROCm GPU: {detection.reason}"
    if marker != "aiter":
        raise ValueError(f"{marker!r} is no hardware marker; those are {HARDWARE_MARKERS}")
    if aiter is Aiter.PRESENT:
        return None
    return _AITER[aiter] + (f" ({aiter_note})" if aiter_note else "")


def check_targets(args: Collection[object]) -> None:
    """Check the arguments of a rocm_gpu marker.

    Raises:
        pytest.UsageError: there are none, or one is not a target that hardware.toml describes.
    """
    if not args:
        raise pytest.UsageError("the rocm_gpu marker names targets: rocm_gpu('gfx942', ...)")
    for target in args:
        if target not in known_gpus():
            raise pytest.UsageError(
                f"unknown GPU {target!r} in a rocm_gpu marker.{nearest(str(target), known_gpus())}"
                f" Known: {', '.join(known_gpus())}"
            )


def not_run_summary(skipped: Mapping[str, int]) -> str | None:
    """Return the line that tells the reader of a green run that the hardware was not tested.

    Args:
        skipped: how many tests were skipped, by skip reason.
    """
    total = sum(skipped.values())
    if not total:
        return None
    tests = "1 hardware test" if total == 1 else f"{total} hardware tests"
    return f"{tests} did not run: {'; '.join(skipped)}"


def _either(targets: Collection[object]) -> str:
    *most, last = map(str, targets)
    return f"{', '.join(most)} or {last}" if most else last
