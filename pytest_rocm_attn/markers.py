"""What the markers do. The decisions are pure functions; ``prepare`` carries them out at collection.

A marker of this plugin begins with ``rocm_attn_``. Three have a short form, the name of their
fixture: ``rocm_gpu("gfx942")``, ``mock_rocm("gfx942")``, ``rocm_env(VLLM_...="1")``. A short form
counts only if its arguments can mean nothing else: other suites may use those names for their own
purposes, and are left alone.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_rocm_attn.errors import RocmAttnError
from pytest_rocm_attn.gpu import Aiter, Gpu, product_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from pytest_rocm_attn.hardware import Detection

    Ours = list[tuple[str, pytest.Mark]]

GPU, AITER = "rocm_attn_gpu", "rocm_attn_aiter"
MOCK, EMULATE = "rocm_attn_mock", "rocm_attn_emulate"
ENV, DRY_LAUNCH = "rocm_attn_env", "rocm_attn_dry_launch"
HARDWARE_MARKERS = (GPU, AITER)
SHORT = {"rocm_gpu": GPU, "mock_rocm": MOCK, "emulated_rocm": EMULATE, "rocm_env": ENV}
# The fixtures that act for a marker. They are private: a suite may have its own mock_rocm.
_FIXTURES = {MOCK: "_rocm_attn_mock", EMULATE: "_rocm_attn_mock", ENV: "_rocm_attn_env"}
# The target that this run emulates, for which tests of its hardware run.
EMULATED: pytest.StashKey[str] = pytest.StashKey()
_SEEN: pytest.StashKey[list[pytest.Mark]] = pytest.StashKey()
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


# --- which markers are ours -----------------------------------------------------------------------


def ours(node: pytest.Item) -> Ours:
    """Return the markers of a test that are this plugin's, by full name, the closest first."""
    return [
        (SHORT.get(mark.name, mark.name), mark)
        for mark in node.iter_markers()
        if mark.name in _CHECKS or (mark.name in SHORT and _surely_ours(mark))
    ]


def of_kind(node: pytest.Item, kind: str) -> list[pytest.Mark]:
    """Return the markers of one kind, such as MOCK, the closest first."""
    return [mark for name, mark in ours(node) if name == kind]


def needs_hardware(node: pytest.Item) -> str | None:
    """Return the closest hardware marker of a test as it is written there; None without one."""
    return next((mark.name for name, mark in ours(node) if name in HARDWARE_MARKERS), None)


def _surely_ours(mark: pytest.Mark) -> bool:
    """Whether a marker of a short name names a target or product, or variables of vLLM's."""
    if SHORT[mark.name] == ENV:
        return not mark.args and any(name.startswith("VLLM_") for name in mark.kwargs)
    target = mark.args[0] if mark.args else mark.kwargs.get("gpu")
    if isinstance(target, str) and not target.startswith("gfx"):
        return bool(product_of(target))
    return isinstance(target, Gpu | str)


# --- at collection --------------------------------------------------------------------------------


def prepare(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Let the markers of collected tests act: skip, or set up one of this plugin's fixtures.

    A test whose marker is wrong fails in its setup, with one line.
    """
    faulty: dict[pytest.Item, str] = {}
    for item in items:
        marks = ours(item)
        item.stash[_SEEN] = [mark for _, mark in marks]
        try:
            for kind, mark in marks:
                check(kind, mark)
            fixtures = dict.fromkeys(_FIXTURES[kind] for kind in _FIXTURES if kind in dict(marks))
            _insert(item, list(fixtures))
        except (RocmAttnError, pytest.UsageError) as error:
            faulty[item] = str(error)
            continue
        if reason := _what_is_missing(marks, config.stash.get(EMULATED, "")):
            item.add_marker(pytest.mark.skip(reason=f"{_SKIPPED}{reason}"))
    if faulty:
        config.pluginmanager.register(_Faulty(faulty))


class _Faulty:
    """Fails the tests whose markers are wrong. Registered only if there are any."""

    def __init__(self, faults: Mapping[pytest.Item, str]) -> None:
        self._faults = faults

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if item in self._faults:
            refuse(item, self._faults[item])


def act_late(item: pytest.Item) -> None:
    """Skip a test for a hardware marker that was added since collection; refuse the other markers.

    Raises:
        pytest.fail.Exception: a marker that must act before the test's setup came later.
    """
    new = [one for one in ours(item) if one[1] not in item.stash.get(_SEEN, [])]
    for kind, mark in new:
        try:
            check(kind, mark)
        except (RocmAttnError, pytest.UsageError) as error:
            refuse(item, str(error))
        if kind in _FIXTURES:
            refuse(
                item,
                f"the marker {mark.name} was added after collection, too late to act; add it in"
                " pytest_collection_modifyitems, or use the fixture"
                f" {next(short for short, full in SHORT.items() if full == kind)}",
            )
    if reason := _what_is_missing(new, item.config.stash.get(EMULATED, "")):
        skip(reason)


def refuse(item: pytest.Item, message: str) -> NoReturn:
    """Fail the running test with one line, which begins with the place of the test: FILE:LINE."""
    file, line, _ = item.location
    place = file if line is None else f"{file}:{line + 1}"
    raise pytest.fail.Exception(f"{place}: {message}", pytrace=False) from None


def _insert(item: pytest.Item, fixtures: list[str]) -> None:
    """Have fixtures of function scope set up before a test's others of that scope.

    Raises:
        pytest.UsageError: the test takes no fixtures.
    """
    if not fixtures:
        return
    info = getattr(item, "_fixtureinfo", None)
    if info is None or not hasattr(item, "fixturenames"):
        raise pytest.UsageError(
            "the markers rocm_attn_mock and rocm_attn_env act on tests in Python only, and this is"
            f" a {type(item).__name__}"
        )
    names = list(item.fixturenames)  # shared by the variants of a parametrised function
    defined = info.name2fixturedefs
    first = next(
        (n for n, name in enumerate(names) if name in defined and _is_of_function(defined[name])),
        len(names),
    )
    item.fixturenames = names[:first] + fixtures + names[first:]


def _is_of_function(definitions: Any) -> bool:
    return bool(definitions) and definitions[-1].scope == "function"


def _what_is_missing(marks: Ours, emulated: str) -> str | None:
    marks = [
        (kind, mark)
        for kind, mark in marks
        if not (kind == GPU and emulated and (not mark.args or emulated in _targets(mark)))
    ]
    if not any(kind in HARDWARE_MARKERS for kind, _ in marks):
        return None
    from pytest_rocm_attn import aiter_probe, hardware

    detection, probed = hardware.detect(), aiter_probe.probe()
    reasons = (
        skip_reason(kind, _targets(mark), detection, probed.state, probed.reason)
        for wanted in HARDWARE_MARKERS
        for kind, mark in marks
        if kind == wanted
    )
    return next((reason for reason in reasons if reason is not None), None)


# --- skipping -------------------------------------------------------------------------------------


def skip(reason: str) -> NoReturn:
    """Skip the running test as one that lacks its hardware; pytest names the test's own place."""
    raise pytest.skip.Exception(f"{_SKIPPED}{reason}", _use_item_location=True)


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
    kind: str,
    targets: Collection[str],
    detection: Detection,
    aiter: Aiter,
    aiter_note: str = "",
) -> str | None:
    """Return why a test with one of the hardware markers cannot run here, or None if it can.

    Args:
        kind: GPU or AITER.
        targets: the accepted targets of GPU; none: any.
        detection: the real GPUs; a mocked one does not count.
        aiter: the state of AMD's aiter on this machine.
        aiter_note: the evidence for that state, in words; appended to the reason.
    """
    if kind == AITER:
        if aiter is Aiter.PRESENT:
            return None
        return _AITER[aiter] + (f" ({aiter_note})" if aiter_note else "")
    if kind != GPU:
        raise ValueError(f"{kind!r} is not a hardware marker; those are {HARDWARE_MARKERS}")
    wanted = _either(targets) if targets else "ROCm GPU"
    if not detection.gpus:
        return f"needs a real {wanted}: {detection.reason}"
    if not targets or any(gpu.gfx in targets for gpu in detection.gpus):
        return None
    have = ", ".join(f"{gpu.gfx} ({gpu.name})" for gpu in detection.gpus)
    return f"needs a real {wanted}, and this machine has {have}; run it on one of those"


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


def _either(targets: Collection[str]) -> str:
    *most, last = map(str, targets)
    return f"{', '.join(most)} or {last}" if most else last


# --- arguments ------------------------------------------------------------------------------------


def check(kind: str, mark: pytest.Mark) -> None:
    """Check the arguments of a marker.

    Raises:
        RocmAttnError, pytest.UsageError: one line that says which marker is wrong, and why.
    """
    try:
        _CHECKS[kind](mark)
    except (RocmAttnError, TypeError) as error:
        raise pytest.UsageError(f"the {mark.name} marker: {error}") from None


def _check_gpu(mark: pytest.Mark) -> None:
    if mark.kwargs:
        raise pytest.UsageError(
            f"the {mark.name} marker takes gfx targets, not {_arguments(mark)}; write"
            f' {mark.name}("gfx942", ...)'
        )
    _targets(mark)


def _targets(mark: pytest.Mark) -> tuple[str, ...]:
    """Return the gfx names of the GPUs that a marker names. Raises UnknownGpuError for an unknown one."""
    return tuple((one if isinstance(one, Gpu) else Gpu(one)).gfx for one in mark.args)


def _check_aiter(mark: pytest.Mark) -> None:
    if mark.args or mark.kwargs:
        raise pytest.UsageError(
            f"the {mark.name} marker takes no arguments, got {_arguments(mark)}"
        )


def _check_mock(mark: pytest.Mark) -> None:
    import inspect

    from pytest_rocm_attn.mock import MockRocm

    try:
        inspect.signature(MockRocm).bind(*mark.args, **mark.kwargs)
    except TypeError as error:
        raise TypeError(f'{error}; write {mark.name}("gfx942", aiter=True)') from None
    MockRocm(*mark.args, **mark.kwargs)


def _check_env(mark: pytest.Mark) -> None:
    from pytest_rocm_attn.environment import text_of

    if mark.args or not mark.kwargs:
        raise pytest.UsageError(
            f"the {mark.name} marker takes NAME='value' pairs, not {_arguments(mark)}"
        )
    for name, value in mark.kwargs.items():
        text_of(name, value)


def _check_dry_launch(mark: pytest.Mark) -> None:
    if len(mark.args) != 1 or mark.kwargs:
        raise pytest.UsageError(
            f"the {mark.name} marker takes one gfx target, as in"
            f' {mark.name}("gfx942"), not {_arguments(mark)}'
        )
    _targets(mark)


_CHECKS = {
    GPU: _check_gpu,
    AITER: _check_aiter,
    MOCK: _check_mock,
    EMULATE: _check_mock,
    ENV: _check_env,
    DRY_LAUNCH: _check_dry_launch,
}


def _arguments(mark: pytest.Mark) -> str:
    given = [*map(repr, mark.args), *(f"{name}={value!r}" for name, value in mark.kwargs.items())]
    return ", ".join(given) or "nothing"
