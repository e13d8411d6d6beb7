"""A Launcher launches what Triton itself would: the same compiled kernel, for any arguments."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from pytest_rocm_attn.backends.kernels.launcher import LARGEST_OFFSET, Launcher
from pytest_rocm_attn.dry_launch import dry_launch, storageless
from pytest_rocm_attn.mock import triton_driver


@triton.jit(do_not_specialize=["count"])  # type: ignore[untyped-decorator]  # ships no types
def _shift_kernel(  # type: ignore[no-untyped-def]  # Triton's language, not Python's
    source_ptr, target_ptr, bias_ptr, count, stride, factor, BLOCK: tl.constexpr
):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(source_ptr + index * stride, mask=index < count, other=0.0)
    if bias_ptr is not None:
        x += tl.load(bias_ptr)
    tl.store(target_ptr + index, x * factor, mask=index < count)


@pytest.fixture(autouse=True)
def compiled_for_gfx942() -> Iterator[None]:
    with dry_launch("gfx942"):
        yield


@pytest.fixture
def launcher() -> Launcher:
    return Launcher(_shift_kernel)


def shift(
    launcher: Launcher,
    source: Any,
    *,
    stride: int = 16,
    bias: Any = None,
    count: int = 7,
    **more: Any,
) -> None:
    target = storageless([1024], torch.float32)
    options = {"num_warps": 1, "num_stages": 1} | more
    launch = launcher.prepare((1, 1, 1), (count,), (stride, 0.5), (32,), **options)
    launch(source, target, bias)


def launched(call: Callable[[], None]) -> list[Any]:
    """Return the compiled kernels that a call launches."""
    events: list[triton_driver.Event] = []
    stop = triton_driver.listen(events.append)
    try:
        call()
    finally:
        stop()
    return [event.compiled for event in events]


def call_of(name: str, launcher: Launcher) -> Callable[[], None]:
    source, arguments = CALLS[name]
    return lambda: shift(launcher, source, **arguments)


def floats(size: int = 1024) -> Any:
    return storageless([size], torch.float32)


CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (floats(), {}),
    "another stride that 16 divides": (floats(), {"stride": 32}),
    "a stride that 16 does not divide": (floats(), {"stride": 24}),
    "stride 1": (floats(), {"stride": 1}),
    "a stride beyond 32 bits": (floats(), {"stride": 2**33}),
    "a misaligned address": (floats()[1:], {}),
    "another dtype": (storageless([1024], torch.float16), {}),
    "a storage beyond 2 GiB": (floats(LARGEST_OFFSET // 4 + 1), {}),
    "a small view of a storage beyond 2 GiB": (floats(LARGEST_OFFSET // 4 + 1)[:16], {}),
    "a bias": (floats(), {"bias": floats(1)}),
    "two warps": (floats(), {"num_warps": 2}),
    "an option of the backend": (floats(), {"options": {"waves_per_eu": 2}}),
    "another count": (floats(), {"count": 16}),
}


def test_every_call_launches_the_kernel_that_triton_would(launcher: Launcher) -> None:
    names = [*CALLS, *CALLS, *CALLS]
    random.shuffle(names)
    for name in names:
        (ours,) = launched(call_of(name, launcher))
        (tritons,) = launched(
            call_of(name, Launcher(_shift_kernel))
        )  # a first call is Triton's own
        assert ours is tritons, name


def test_the_calls_above_are_told_apart_by_triton(launcher: Launcher) -> None:
    """Else the test above would pass on a launcher that remembers one kernel for all."""
    compiled = {name: launched(call_of(name, launcher))[0] for name in CALLS}
    alike = [
        {one, other}
        for one, other in itertools.combinations(CALLS, 2)
        if compiled[one] is compiled[other]
    ]
    assert {"plain", "another count"} in alike
    assert all(
        pair <= {"plain", "another count", "another stride that 16 divides"}
        or pair == {"a storage beyond 2 GiB", "a small view of a storage beyond 2 GiB"}
        for pair in alike
    )


def test_a_repeated_call_does_not_pass_through_tritons_binder(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift(launcher, floats())
    monkeypatch.setattr(type(_shift_kernel), "run", lambda *_, **__: pytest.fail("bound again"))
    (again,) = launched(lambda: shift(launcher, floats(), count=8))
    assert again.name == "_shift_kernel"


def test_the_kernel_of_one_gpu_is_never_launched_on_another(launcher: Launcher) -> None:
    (here,) = launched(lambda: shift(launcher, floats()))
    with dry_launch("gfx1100"):
        (there,) = launched(lambda: shift(launcher, floats()))
        (there_again,) = launched(lambda: shift(launcher, floats()))
    (back,) = launched(lambda: shift(launcher, floats()))
    assert [k.metadata.target.arch for k in (here, there, there_again, back)] == [
        "gfx942",
        "gfx1100",
        "gfx1100",
        "gfx942",
    ]


def test_a_fake_tensor_is_launched_every_time(launcher: Launcher) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.empty(1024)
    for _ in range(2):
        assert len(launched(lambda: shift(launcher, fake))) == 1


def test_hooks_before_a_run_still_see_every_launch(launcher: Launcher) -> None:
    seen = []
    _shift_kernel.add_pre_run_hook(lambda *args, **kwargs: seen.append(args[3]))
    try:
        shift(launcher, floats(), count=3)
        shift(launcher, floats(), count=4)
    finally:
        _shift_kernel.pre_run_hooks.clear()
    assert seen == [3, 4]


def test_a_kernel_that_does_not_fit_is_refused_every_time(launcher: Launcher) -> None:
    from triton.runtime.errors import OutOfResources

    with dry_launch("gfx942") as launches:
        for _ in range(2):
            with pytest.raises(OutOfResources):
                shift(launcher, floats(), num_warps=32)
    assert len(launches.rejected) == 2
    assert len(launches) == 0
