"""Fixtures: thin, delegating. Their names carry "rocm" because they live in other people's suites."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.outcome import Outcome


class RocmEnv:
    """Sets and unsets ROCm attention variables for one test; everything is restored after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, **variables: str | bool | int | None) -> None:
        """Set the given variables; None unsets one.

        True and False become "1" and "0". A name that starts with VLLM_ROCM_ and that no release
        declares is refused, since a misspelt flag tests nothing.

        Raises:
            FlagError: a variable is misspelt, or its value cannot be parsed by its own rule. To set
                such a value on purpose, use monkeypatch.setenv.
        """
        from pytest_rocm_attn.flags import VARIABLES, variable

        for name, value in variables.items():
            if name not in VARIABLES and name.startswith("VLLM_ROCM_"):
                variable(name)  # raises, with the nearest names
            if value is None:
                self._monkeypatch.delenv(name, raising=False)
                continue
            text = str(int(value)) if isinstance(value, bool) else str(value)
            if name in VARIABLES:
                VARIABLES[name].parse(text)
            self._monkeypatch.setenv(name, text)

    def clear(self) -> None:
        """Unset every declared variable."""
        from pytest_rocm_attn.flags import VARIABLES

        for name in VARIABLES:
            self._monkeypatch.delenv(name, raising=False)


@pytest.fixture
def rocm_env(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RocmEnv:
    """ROCm attention variables for this test, all of them unset at first.

    ``rocm_env(VLLM_ROCM_USE_AITER="1", VLLM_ATTENTION_BACKEND=None)`` sets one and unsets the
    other. The marker ``rocm_env(NAME="value")`` sets some beforehand, the closest marker winning.
    """
    environment = RocmEnv(monkeypatch)
    environment.clear()
    for marker in reversed(list(request.node.iter_markers("rocm_env"))):
        if marker.args:
            raise pytest.UsageError(
                f"{request.node.nodeid}: the rocm_env marker takes NAME='value' pairs, not"
                f" {marker.args!r}"
            )
        environment(**marker.kwargs)
    return environment


@pytest.fixture
def mock_rocm(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A function that mocks a ROCm platform for the rest of this test.

    ``mock_rocm("gfx942", aiter=True)`` returns the active MockRocm; its parameters are those of
    pytest_rocm_attn.mock.mock_rocm. Everything is restored after the test, innermost first. The
    marker ``mock_rocm("gfx942")`` does the same before the test starts.
    """
    from contextlib import ExitStack

    from pytest_rocm_attn.mock import mock_rocm as make

    with ExitStack() as stack:

        def enter(gpu: Gpu | str, **options: Any) -> Any:
            return stack.enter_context(make(gpu, **options))

        for marker in reversed(list(request.node.iter_markers("mock_rocm"))):
            enter(*marker.args, **marker.kwargs)
        yield enter


@pytest.fixture(autouse=True)
def _rocm_attn_markers(request: pytest.FixtureRequest) -> None:
    """Let the markers mock_rocm and rocm_env work without naming their fixtures."""
    for name in ("mock_rocm", "rocm_env"):
        if request.node.get_closest_marker(name) is not None:
            request.getfixturevalue(name)


@pytest.fixture
def dry_launch(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A function that compiles Triton kernels for a GPU that is not there; see docs/dry-launch.md.

    ``launches = dry_launch("gfx1201")`` records every launch of the rest of the test and runs none.
    """
    from pytest_rocm_attn.dry_launch.fixture import starter

    yield from starter(request)


@pytest.fixture
def rocm_gpu() -> Any:
    """The real ROCm GPU of this machine (hardware.DetectedGpu); skips where there is none."""
    from pytest_rocm_attn.hardware import detect

    detection = detect()
    if not detection.gpus:
        pytest.skip(detection.reason)
    return detection.gpus[0]


@pytest.fixture
def rocm_select(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A function that asks the selector under test (``--rocm-attn-selector``) one question.

    ``rocm_select({"VLLM_ROCM_USE_AITER": "1"}, gpu="gfx942", use_mla=True) -> Outcome``. It runs in
    a worker process, under the mocked platform and exactly that environment.
    """
    from pytest_rocm_attn.conformance.settings import subject_of
    from pytest_rocm_attn.conformance.workers import Pool, Question
    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.request import Request

    pool: Pool | None = None

    def select(environ: dict[str, str] | None = None, *, gpu: Gpu | str, **fields: Any) -> Outcome:
        nonlocal pool
        if pool is None:
            pool = Pool(subject_of(request.config), lanes=1)
        target = Gpu(gpu) if isinstance(gpu, str) else gpu
        (future,) = pool.submit([Question.of(target, environ or {}, Request(**fields))])
        return future.result().outcome

    yield select
    if pool is not None:
        pool.close()
