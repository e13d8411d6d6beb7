"""Entering and leaving a mock restores everything, in any order, also when the body raises."""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.metadata
import itertools
import os
import random
import resource
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pytest_rocm_attn.errors import MockError
from pytest_rocm_attn.gpu import Aiter
from pytest_rocm_attn.mock import MockRocm, mock_rocm

torch = pytest.importorskip("torch", reason="needs torch: pip install pytest-rocm-attn[kernels]")


def snapshot() -> dict[str, Any]:
    """All that a mock changes, and its surroundings."""
    # Modules that the mock itself imports on first use are not a trace of it.
    modules = {n: id(m) for n, m in sys.modules.items() if not n.startswith("pytest_rocm_attn")}
    return {
        "environ": dict(os.environ),
        "modules": modules,
        "meta_path": list(map(id, sys.meta_path)),
        "path": list(sys.path),
        "torch": {name: id(value) for name, value in vars(torch).items()},
        "torch.cuda": {name: id(value) for name, value in vars(torch.cuda).items()},
        "torch._C": {name: id(value) for name, value in vars(torch._C).items()},
        "torch.version": dict(vars(torch.version)),
        "stream": {name: id(value) for name, value in vars(torch._C._CudaStreamBase).items()},
        "metadata": id(importlib.metadata.version),
        "distributions": id(vars(importlib.metadata.MetadataPathFinder)["find_distributions"]),
        "dlopen": id(vars(ctypes)["_dlopen"]),
        "count": torch.cuda.device_count(),
        "accelerator": torch.accelerator.current_accelerator(),
    }


@pytest.fixture(autouse=True)
def warm() -> None:
    """Have torch import what it imports lazily, so that snapshots compare."""
    with mock_rocm("gfx942", aiter=True):
        torch.cuda.get_device_properties()
        torch.accelerator.device_count()


def arch() -> str:
    """The architecture as every boundary tells it; they must agree."""
    import amdsmi

    amdsmi.amdsmi_init()
    (handle,) = amdsmi.amdsmi_get_processor_handles()
    told = str(amdsmi.amdsmi_get_gpu_asic_info(handle)["target_graphics_version"])
    assert torch.cuda.get_device_properties().gcnArchName.split(":")[0] == told
    tools = os.environ["PATH"].split(os.pathsep)[0]
    with open(os.path.join(tools, "rocminfo"), encoding="utf-8") as script:
        assert f" {told}\n" in script.read()
    return told


def test_a_mock_leaves_no_trace() -> None:
    before = snapshot()
    with mock_rocm("gfx942", aiter=True):
        assert arch() == "gfx942"
        importlib.import_module("aiter.mla")
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"
        os.environ.pop("HOME", None)
    assert snapshot() == before


def test_a_mock_leaves_no_trace_when_its_body_raises() -> None:
    before = snapshot()
    with pytest.raises(KeyError), mock_rocm("gfx942"):
        raise KeyError("body")
    assert snapshot() == before


def test_a_mock_that_cannot_be_entered_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_rocm_attn.mock import torch_hooks

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(torch_hooks, "clear_caches", fail)
    before = snapshot()
    mock = mock_rocm("gfx942")
    with pytest.raises(OSError, match="disk full"):
        mock.enter()
    assert not mock.active
    assert snapshot() == before


def test_nested_mocks_restore_each_other() -> None:
    before = snapshot()
    with mock_rocm("gfx942", aiter=True):
        import aiter

        inside = snapshot()
        with mock_rocm("gfx1201", aiter=False):
            assert arch() == "gfx1201"
            assert importlib.util.find_spec("aiter") is None
            with mock_rocm("gfx950", aiter=Aiter.IMPOSTOR):
                assert arch() == "gfx950"
                assert importlib.import_module("aiter").__version__
            assert arch() == "gfx1201"
            assert importlib.util.find_spec("aiter") is None
        assert arch() == "gfx942"
        assert importlib.import_module("aiter") is aiter
        sys.modules.pop("amdsmi.amdsmi_interface", None)
        assert snapshot() == inside
    assert snapshot() == before


@pytest.mark.parametrize(
    "order", list(itertools.permutations(range(3))), ids=lambda order: "".join(map(str, order))
)
def test_mocks_may_be_left_in_any_order(order: tuple[int, ...]) -> None:
    before = snapshot()
    mocks = [mock_rocm(gfx, aiter=True) for gfx in ("gfx942", "gfx1100", "gfx90a")]
    for mock in mocks:
        mock.enter()
    entered = list(mocks)
    for index in order:
        mocks[index].exit()
        entered.remove(mocks[index])
        if entered:
            assert arch() == entered[-1].gpu.gfx
    assert snapshot() == before


@pytest.mark.parametrize("seed", range(10))
def test_any_sequence_of_entering_and_leaving_ends_where_it_began(seed: int) -> None:
    dice = random.Random(seed)
    before = snapshot()
    entered: list[MockRocm] = []
    for _ in range(20):
        if entered and dice.random() < 0.5:
            entered.pop(dice.randrange(len(entered))).exit()
        else:
            gfx = dice.choice(["gfx942", "gfx950", "gfx1100", "gfx1201"])
            entered.append(mock_rocm(gfx, aiter=dice.choice(list(Aiter))).enter())
        if entered:
            assert arch() == entered[-1].gpu.gfx
    for mock in entered:
        mock.exit()
    assert snapshot() == before


def test_what_code_writes_to_the_environment_under_an_inner_mock_goes_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with mock_rocm("gfx942"):
        os.environ["ROCM_ATTN_OUTER"] = "1"
        with mock_rocm("gfx950"):
            os.environ["CUDA_VISIBLE_DEVICES"] = "0"
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
        assert os.environ["ROCM_ATTN_OUTER"] == "1"
    assert "ROCM_ATTN_OUTER" not in os.environ


def test_a_mock_can_be_entered_again_but_not_twice_at_once() -> None:
    mock = mock_rocm("gfx942")
    for _ in range(2):
        with mock as entered:
            assert entered is mock
            assert mock.active
            with pytest.raises(MockError, match="entered already"):
                mock.enter()
        assert not mock.active
        mock.exit()  # once more does nothing


def test_a_forked_child_keeps_the_mock_and_leaves_it_without_touching_the_parents() -> None:
    mock = mock_rocm("gfx942").enter()
    try:
        root = os.environ["ROCM_PATH"]
        child = os.fork()
        if child == 0:
            status = 1
            try:
                assert arch() == "gfx942"
                with mock_rocm("gfx950"):
                    assert arch() == "gfx950"
                mock.exit()
                status = int(torch.cuda.is_available())
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert os.path.isdir(root)
        assert arch() == "gfx942"
    finally:
        mock.exit()


def cycle(mocks: list[MockRocm], times: int) -> None:
    for index in range(times):
        with mocks[index % len(mocks)]:
            pass


def leaks(times: int) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Return snapshots before and after many cycles, and the growth of memory in bytes."""
    mocks = [mock_rocm(gfx, aiter=True) for gfx in ("gfx942", "gfx1100")]
    cycle(mocks, 20)
    gc.collect()
    before, resident = snapshot(), _resident()
    cycle(mocks, times)
    gc.collect()
    return before, snapshot(), _resident() - resident


def _resident() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def test_a_hundred_cycles_leave_nothing() -> None:
    before, after, _ = leaks(100)
    assert after == before


@pytest.mark.slow
def test_a_thousand_cycles_leave_nothing_and_memory_flat() -> None:
    before, after, growth = leaks(1000)
    assert after == before
    # A cycle handles some 100 kB; keeping a tenth of that would show as 10 MB.
    assert growth < 4 << 20, f"{growth} bytes"


def test_the_objects_of_a_cycle_are_all_collected() -> None:
    mocks = [mock_rocm("gfx942")]
    cycle(mocks, 3)
    counts: list[int] = []
    for _ in range(3):
        gc.collect()
        counts.append(len(gc.get_objects()))
        cycle(mocks, 20)
    assert counts[2] - counts[1] < 20


def test_torchs_own_caches_about_devices_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has_triton: Callable[[], bool] = importlib.import_module("torch.utils._triton").has_triton
    before = has_triton()
    with mock_rocm("gfx942"):
        inside = has_triton()
    assert has_triton() == before
    if importlib.util.find_spec("triton") is not None:
        assert inside
        assert not before
