"""Fixtures: thin, delegating. Their names carry "rocm" because they live in other people's suites.

Imported whenever pytest starts. PYTEST_DONT_REWRITE: see plugin.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.environment import RocmEnv


@pytest.fixture
def rocm_env(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RocmEnv:
    """ROCm attention variables for this test, all of them unset at first.

    ``rocm_env(VLLM_ROCM_USE_AITER="1", VLLM_ATTENTION_BACKEND=None)`` sets one and unsets the
    other. The marker ``rocm_attn_env(NAME="value")`` sets some beforehand; the closest one wins.
    """
    from pytest_rocm_attn.environment import marked

    return marked(request.node, monkeypatch)


@pytest.fixture
def mock_rocm(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A function that mocks a ROCm platform for the rest of this test.

    ``mock_rocm("gfx942", aiter=True)`` returns the active MockRocm; its parameters are those of
    pytest_rocm_attn.mock.mock_rocm. Everything is restored after the test, innermost first. The
    marker ``rocm_attn_mock("gfx942")`` does the same before the test starts.
    """
    from pytest_rocm_attn.mock.fixture import starter

    yield from starter()


@pytest.fixture
def emulated_rocm(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A function that mocks a ROCm GPU for the rest of this test and executes its Triton kernels.

    ``emulated_rocm("gfx942")`` is ``mock_rocm("gfx942", emulate=True)``: kernels are compiled for
    the target and run on CPU tensors, which believe that they are on the device; docs/emulator.md.
    """
    from functools import partial

    from pytest_rocm_attn.mock.fixture import starter

    for enter in starter():
        yield partial(enter, emulate=True)


@pytest.fixture
def _rocm_attn_mock(request: pytest.FixtureRequest) -> Iterator[None]:
    """Enters the mocks of a test's markers, which markers.py adds this fixture for."""
    from pytest_rocm_attn.mock.fixture import marked

    yield from marked(request.node)


@pytest.fixture
def _rocm_attn_env(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets the variables of a test's markers, which markers.py adds this fixture for."""
    from pytest_rocm_attn.environment import marked

    marked(request.node, monkeypatch)


@pytest.fixture
def dry_launch(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A function that compiles Triton kernels for a GPU that is not there; see docs/dry-launch.md.

    ``launches = dry_launch("gfx1201")`` records every launch of the rest of the test and runs none.
    """
    from pytest_rocm_attn.dry_launch.fixture import starter

    yield from starter(request)


@pytest.fixture
def rocm_gpu(pytestconfig: pytest.Config) -> Any:
    """The real ROCm GPU of this machine, or the emulated one (hardware.DetectedGpu); else skips."""
    from pytest_rocm_attn.hardware import DetectedGpu, detect
    from pytest_rocm_attn.markers import EMULATED

    if gfx := pytestconfig.stash.get(EMULATED, ""):
        return DetectedGpu(0, gfx, f"emulated {gfx}")
    detection = detect()
    if not detection.gpus:
        from pytest_rocm_attn.markers import skip

        __tracebackhide__ = True
        skip(f"needs a real ROCm GPU: {detection.reason}")
    return detection.gpus[0]


@pytest.fixture
def rocm_select(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A function that asks the selector under test (``--rocm-attn-selector``) one question.

    ``rocm_select({"VLLM_ROCM_USE_AITER": "1"}, gpu="gfx942", use_mla=True) -> Outcome``. It runs in
    a worker process, under the mocked platform and exactly that environment.
    """
    from pytest_rocm_attn.conformance.run.single import asker

    yield from asker(request.config)
