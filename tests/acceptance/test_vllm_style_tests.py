"""A test file in vLLM's own style runs under --rocm-attn-mock, and is skipped without it. Slow."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)

# What vLLM's ROCm tests do: decide at import whether to run, patch the platform's predicates, reload
# the environment, and ask the platform.
FILE = """
import importlib
from unittest.mock import patch

import pytest
import torch

import vllm.envs as envs
from vllm.platforms import current_platform

pytestmark = pytest.mark.skipif(not current_platform.is_rocm(), reason="ROCm only")


@pytest.fixture
def reload_envs(monkeypatch):
    def reload(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        importlib.reload(envs)

    return reload


def select(backend=None):
    path = current_platform.get_attn_backend_cls(
        backend, 128, torch.bfloat16, "auto", 16, False, False, False
    )
    return path.rsplit(".", 1)[-1]


def test_by_default(reload_envs):
    reload_envs(VLLM_ROCM_USE_AITER="0")
    assert select() == "TritonAttentionBackend"


def test_with_aiter(reload_envs):
    reload_envs(VLLM_ROCM_USE_AITER="1")
    assert select() == "AiterFlashAttentionBackend"


@pytest.mark.parametrize("gfx9", [True, False])
def test_with_a_patched_predicate(reload_envs, gfx9):
    reload_envs(VLLM_ROCM_USE_AITER="1")
    with patch("vllm.platforms.rocm.on_gfx9", return_value=gfx9):
        expected = "AiterFlashAttentionBackend" if gfx9 else "TritonAttentionBackend"
        assert select() == expected


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.version.hip is None, reason="needs a ROCm torch"
)
def test_what_torch_says():
    assert torch.cuda.get_device_properties(0).gcnArchName.startswith("gfx942")
    assert current_platform.get_device_name() == "AMD_Instinct_MI300X"
"""


def run(release: Path, folder: Path, *options: str) -> str:
    folder.joinpath("test_style.py").write_text(FILE)
    done = subprocess.run(
        [PYTHON, "-m", "pytest", "-p", "no:cacheprovider", "-rs", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(release)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    return done.stdout


def test_without_the_option_its_tests_are_skipped(
    vllm_release: Callable[[str], Path], tmp_path: Path
) -> None:
    assert "5 skipped" in run(vllm_release("0.12.0"), tmp_path)


def test_under_the_option_its_tests_run_and_pass(
    vllm_release: Callable[[str], Path], tmp_path: Path
) -> None:
    assert "5 passed" in run(vllm_release("0.12.0"), tmp_path, "--rocm-attn-mock=gfx942")
