"""Unmodified vLLM releases on the mocked platform. Slow; needs them unpacked (docs/real-vllm.md).

ROCM_ATTN_VLLM_DIR and ROCM_ATTN_PYTHON as in test_real_vllm.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

RELEASES = ("0.11.2", "0.12.0", "0.13.0", "0.16.0", "0.18.1", "0.22.1", "0.29.0")
TARGETS = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1151", "gfx1201")
PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)
DEPENDENCIES = ("torch", "triton", "transformers", "pydantic", "msgspec", "regex")


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter to run vLLM with."""
    probe = (
        "import importlib.util as u, sys;"
        f"print(*[n for n in {DEPENDENCIES} if u.find_spec(n) is None])"
    )
    found = subprocess.run([PYTHON, "-c", probe], capture_output=True, text=True, check=True)
    if missing := found.stdout.strip():
        pytest.skip(
            f"{PYTHON} lacks {missing}, which vLLM imports; install"
            " docs/real-vllm-requirements.txt somewhere and name its python in"
            " ROCM_ATTN_PYTHON"
        )
    return PYTHON


def run(python: str, release: Path, code: str, *args: str) -> Any:
    """Run code with a release on the path; return what it prints last, as JSON."""
    done = subprocess.run(
        [python, "-c", code, *args],
        env={**os.environ, "PYTHONPATH": str(release), "VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


# One process per platform, forked before vLLM is imported: its architecture is frozen then
# (docs/reference/mock-surface.md#isolation-cost).
RESOLVE = """
import json, os, sys
import torch, triton  # neutral, and worth sharing
from pytest_rocm_attn.mock import mock_rocm

answers = {}
for gfx in sys.argv[1:]:
    for aiter in (True, False):
        read, write = os.pipe()
        if os.fork() == 0:
            try:
                mock_rocm(gfx, aiter=aiter).enter()
                from vllm.platforms import current_platform
                from vllm.triton_utils import HAS_TRITON
                capability = current_platform.get_device_capability()
                answer = {
                    "platform": type(current_platform).__name__,
                    "callable": callable(current_platform.get_attn_backend_cls),
                    "triton": HAS_TRITON,
                    "capability": [capability.major, capability.minor],
                    "name": current_platform.get_device_name(),
                    "fp8": str(current_platform.fp8_dtype()),
                }
            except BaseException as error:  # the test judges what it was
                answer = {"error": repr(error)}
            os.write(write, json.dumps(answer).encode())
            os._exit(0)
        os.close(write)
        answers[f"{gfx} aiter={aiter}"] = json.loads(os.read(read, 65536) or '"died"')
        os.close(read)
        os.wait()
print(json.dumps(answers))
"""
# docs/reference/mock-surface.md#derived and, for the names, 1.2: vLLM's table, else the market
# name.
CAPABILITY = {
    "gfx90a": [9, 0],
    "gfx942": [9, 4],
    "gfx950": [9, 5],
    "gfx1100": [11, 0],
    "gfx1151": [11, 5],
    "gfx1201": [12, 0],
}


@pytest.mark.parametrize("version", RELEASES)
def test_unmodified_vllm_resolves_its_rocm_platform_on_every_target(
    python: str, vllm_release: Callable[[str], Path], version: str
) -> None:
    answers = run(python, vllm_release(version), RESOLVE, *TARGETS)
    assert len(answers) == 2 * len(TARGETS)
    for machine, answer in answers.items():
        gfx = machine.split()[0]
        assert answer.pop("name"), machine
        assert answer == {
            "platform": "RocmPlatform",
            "callable": True,
            "triton": True,
            "capability": CAPABILITY[gfx],
            "fp8": "torch.float8_e4m3fnuz" if gfx == "gfx942" else "torch.float8_e4m3fn",
        }, machine


# As RESOLVE; each environment is put in place by the adapter's own refresh.
SELECT = """
import json, os, sys
import torch, triton
from pytest_rocm_attn.conformance import adapters
from pytest_rocm_attn.errors import MockError
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.mock import mock_rocm
from pytest_rocm_attn.request import Request

environments = [
    {},
    {"VLLM_ROCM_USE_AITER": "1"},
    {"VLLM_ROCM_USE_AITER": "1", "VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION": "1"},
    {"VLLM_ATTENTION_BACKEND": "TRITON_ATTN"},
    {"VLLM_ATTENTION_BACKEND": "ROCM_ATTN"},
]
requests = [
    Request(head_size=128, dtype="bfloat16", block_size=16),
    Request(head_size=576, dtype="bfloat16", block_size=16, use_mla=True),
    Request(head_size=576, dtype="bfloat16", block_size=1, use_mla=True),
]


def ask(adapter, gpu, environ, request):
    before = dict(os.environ)
    os.environ.update(environ)
    adapter.refresh()
    try:
        return "selected", str(adapter.select(request, environ, gpu))
    except MockError as error:
        return "mock", repr(error)
    except (ValueError, NotImplementedError, RuntimeError, AssertionError) as error:
        return "refused", repr(error)
    except Exception as error:  # the test judges what it was
        return "crashed", repr(error)
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]


def answer(gpu):
    mock_rocm(gpu).enter()
    spec = "vllm.platforms.rocm:RocmPlatform"
    adapter = adapters.adapt(adapters.load(spec), spec)
    adapter.prepare(gpu)
    return [
        (*ask(adapter, gpu, environ, request), gpu.gfx, str(gpu.aiter), environ, str(request))
        for environ in environments
        for request in requests
    ]


answers = []
for gfx in sys.argv[1:]:
    for aiter in (Aiter.PRESENT, Aiter.ABSENT):
        read, write = os.pipe()
        if os.fork() == 0:
            try:
                found = answer(Gpu(gfx, aiter))
            except BaseException as error:  # the test judges what it was
                found = [("crashed", repr(error), gfx, str(aiter))]
            with os.fdopen(write, "w") as stream:
                json.dump(found, stream)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as stream:
            answers += json.load(stream)
        os.wait()
print(json.dumps(answers))
"""


@pytest.mark.parametrize("version", RELEASES)
def test_unmodified_vllm_answers_the_platform_adapter_without_a_crash(
    python: str, vllm_release: Callable[[str], Path], version: str
) -> None:
    answers = run(python, vllm_release(version), SELECT, *TARGETS)
    kinds = [kind for kind, *_ in answers]
    broken = [one for one in answers if one[0] not in ("selected", "refused")]
    assert not broken, json.dumps(broken[:3], indent=1)
    assert len(answers) == len(TARGETS) * 2 * 5 * 3
    assert kinds.count("selected") > len(kinds) / 2


CONFIG = """
import json
from pytest_rocm_attn.mock import mock_rocm
with mock_rocm("gfx942", aiter=True):
    from vllm.config import VllmConfig
    print(json.dumps(type(VllmConfig()).__name__))
"""


@pytest.mark.parametrize("version", [one for one in RELEASES if one != "0.11.2"])
def test_a_real_vllm_config_can_be_built_on_the_mock(
    python: str, vllm_release: Callable[[str], Path], version: str
) -> None:
    """It cures row 10 of docs/reference/mock-surface.md#silent-downgrades, from 0.12.0 on."""
    assert run(python, vllm_release(version), CONFIG) == "VllmConfig"
