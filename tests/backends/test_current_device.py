"""A kernel runs on the GPU that holds its tensors, whichever is the current one; or it is refused."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pytest_rocm_attn.backends import current_device
from pytest_rocm_attn.backends.aiter_function import AiterFunction
from pytest_rocm_attn.backends.hip.arguments import Arguments
from pytest_rocm_attn.backends.hip.build import Library
from pytest_rocm_attn.backends.kernels import launcher
from pytest_rocm_attn.backends.kernels.launcher import Launcher
from pytest_rocm_attn.errors import BackendInputError
from pytest_rocm_attn.mock import mock_rocm

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def two_gpus() -> Iterator[None]:
    with mock_rocm("gfx942", count=2):
        yield


def on(gpu: int) -> Any:
    """Return a tensor on a GPU, without memory."""
    with FakeTensorMode():
        return torch.empty(64, 8, 64, device=f"cuda:{gpu}")


class Kernel:
    """What a Launcher needs of Triton: notes the current device at each launch."""

    def __init__(self) -> None:
        self.pre_run_hooks: list[Any] = []
        self.seen: list[int] = []
        self.function = self.packed_metadata = None

    def __getitem__(self, grid: Any) -> Any:
        return self.run

    def run(self, *_: Any, **__: Any) -> Kernel:
        self.seen.append(torch.cuda.current_device())
        return self


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    driver = types.SimpleNamespace(
        get_current_device=torch.cuda.current_device,
        get_current_stream=lambda _: 0,
        get_current_target=lambda: types.SimpleNamespace(backend="cuda"),
    )
    active = types.SimpleNamespace(driver=types.SimpleNamespace(active=driver))
    knobs = types.SimpleNamespace(
        runtime=types.SimpleNamespace(
            launch_enter_hook=types.SimpleNamespace(calls=[]),
            launch_exit_hook=types.SimpleNamespace(calls=[]),
        )
    )
    monkeypatch.setattr(launcher, "triton", types.SimpleNamespace(runtime=active, knobs=knobs))
    return Kernel()


@pytest.mark.parametrize("path", ["compiled", "through Triton"])
@pytest.mark.parametrize("current", [0, 1])
def test_a_triton_kernel_runs_where_its_tensors_are(
    monkeypatch: pytest.MonkeyPatch, kernel: Kernel, path: str, current: int
) -> None:
    tensors = on(0), on(1)
    if path == "compiled":
        monkeypatch.setattr(launcher, "WITH_ADDRESS", {type(tensors[0])})
        monkeypatch.setattr(type(tensors[0]), "data_ptr", lambda _: 4096, raising=False)
    launches = [Launcher(kernel).prepare((1, 1, 1), (), (), (), 1, 1) for _ in tensors]
    with torch.cuda.device(current):
        for _ in range(3):
            for launch, tensor in zip(launches, tensors, strict=True):
                launch(tensor)
        assert torch.cuda.current_device() == current
    assert kernel.seen == [0, 1] * 3


def test_a_launch_follows_the_current_device_as_it_changes(
    monkeypatch: pytest.MonkeyPatch, kernel: Kernel
) -> None:
    tensor = on(1)
    monkeypatch.setattr(launcher, "WITH_ADDRESS", {type(tensor)})
    monkeypatch.setattr(type(tensor), "data_ptr", lambda _: 4096, raising=False)
    launch = Launcher(kernel).prepare((1, 1, 1), (), (), (), 1, 1)
    for current in (1, 0, 1, 0):
        with torch.cuda.device(current):
            launch(tensor)
    assert kernel.seen == [1, 1, 1, 1]


def test_tensors_on_several_gpus_are_refused(kernel: Kernel) -> None:
    launch = Launcher(kernel).prepare((1, 1, 1), (), (), (), 1, 1)
    with pytest.raises(BackendInputError, match="cuda:0, cuda:1; move them to one"):
        launch(on(0), on(1))
    assert kernel.seen == []


def test_aiters_functions_run_where_the_tensors_are(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def work(q: Any, size: int) -> None:
        seen.append((torch.cuda.current_device(), size))

    function = AiterFunction("work", ("aiter",), "aiter/ops", {})
    monkeypatch.setattr(AiterFunction, "find", lambda *_: work)
    for gpu in (0, 1):
        function.call("ROCM_AITER_FA", q=on(gpu), size=8)
    assert seen == [(0, 8), (1, 8)]


def test_the_hip_kernel_runs_where_the_query_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    library: Any = object.__new__(Library)
    library._library = types.SimpleNamespace(
        rocm_attn_decode=lambda *_: seen.append(torch.cuda.current_device())
    )
    monkeypatch.setattr(Arguments, "of", lambda **_: Arguments())
    stream = types.SimpleNamespace(cuda_stream=0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: stream)
    for gpu in (0, 1):
        tensor = on(gpu)
        with FakeTensorMode():
            library.decode(
                query=tensor, key_cache=tensor, value_cache=tensor, out=tensor, block_table=tensor,
                seq_lens=tensor, query_start_loc=None, partitions=1, scale=1.0, alibi_slopes=None,
                k_scale=None, v_scale=None, fp8_bias=0, plain=True,
            )  # fmt: skip
    assert seen == [0, 1]


def test_tensors_that_are_on_no_gpu_leave_the_device_alone() -> None:
    assert current_device.gpu_of((torch.zeros(3), None, 7)) is None
