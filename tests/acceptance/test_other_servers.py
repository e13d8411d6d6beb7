"""Servers other than vLLM, as the package index has them: what the guide says of each is what is found.

Slow. The wheels are downloaded to ROCM_ATTN_SERVERS_DIR (default: a temporary folder of this run) without their
dependencies; those that they import besides vLLM's are named in docs/howto/another-server.md. Without the
index the tests are skipped and say so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)
_PATHS = [path for path in (os.environ.get("PYTHONPATH"),) if path]
ADAPTERS = "pytest_rocm_attn.conformance.adapters"
# What the wheels import on the way besides what vLLM needs: small packages.
IMPORTED = {
    "sglang": ("orjson", "dill", "ipython", "traitlets", "decorator"),
    "vllm-omni": (
        *("aenum", "omegaconf", "antlr4-python3-runtime==4.9.3", "janus", "msgpack"),
        "prettytable",
    ),
    "aphrodite-engine": (),
}
VERSIONS = {"sglang": "0.5.23", "vllm-omni": "0.30.0", "aphrodite-engine": "0.24.1"}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheels lie: kept from run to run if the user names a folder."""
    named = os.environ.get("ROCM_ATTN_SERVERS_DIR")
    return Path(named) if named else tmp_path_factory.mktemp("servers")


def unpacked(name: str, folder: Path) -> Path:
    """Return a wheel's files, downloaded unless they are there."""
    place = folder / name / VERSIONS[name]
    if not place.is_dir():
        pip = [PYTHON, "-m", "pip", "--disable-pip-version-check"]
        wheels = folder / "wheels"
        commands = [
            [*pip, *("download", "-q", "--no-deps", "--only-binary", ":all:")]
            + ["-d", str(wheels), f"{name}=={VERSIONS[name]}"]
        ]
        if IMPORTED[name]:
            commands.append([*pip, *("install", "-q", "--target", str(place)), *IMPORTED[name]])
        for command in commands:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
            if done.returncode:
                pytest.skip(f"the package index is out of reach: {done.stderr.strip()[-300:]}")
        (wheel,) = wheels.glob(f"{name.replace('-', '_')}-{VERSIONS[name]}-*.whl")
        with zipfile.ZipFile(wheel) as files:
            files.extractall(place)
    return place


def run(tmp_path: Path, places: list[Path], *arguments: str) -> dict[str, Any]:
    """Run the documented tier; return its rows by name."""
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            *(PYTHON, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider"),
            *("-p", "no:randomly", "--rocm-attn-conformance", "--rocm-attn-tier=documented"),
            *("--rocm-attn-timeout=300", f"--rocm-attn-report={report}", *arguments),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, places), *_PATHS])},
        check=False,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert report.is_file(), done.stdout[-2000:] + done.stderr[-2000:]
    rows = json.loads(report.read_text())["rows"]
    assert rows, done.stdout[-2000:]  # the selector cannot be asked: the output says why
    return {f"{row['id']}[{row['gpu']['gfx']}]": row for row in rows}


def names_of(rows: dict[str, Any], verdict: str) -> set[str]:
    """Return the rows of a verdict, each as "name[gpu]"."""
    return {name for name, row in rows.items() if row["verdict"] == verdict}


def on(name: str, *gpus: str) -> set[str]:
    return {f"{name}[{gpu}]" for gpu in gpus}


CDNA, RDNA = ("gfx942", "gfx950"), ("gfx1100", "gfx1201")


@pytest.mark.slow
def test_sglang_gives_amd_gpus_what_they_do_not_have(tmp_path: Path, folder: Path) -> None:
    rows = run(
        tmp_path,
        [unpacked("sglang", folder)],
        f"--rocm-attn-selector={ADAPTERS}.sglang:Server",
        "--rocm-attn-contract=sglang",
    )
    assert names_of(rows, "fail") == {
        *on("a-deterministic-server-gets-a-backend-that-amd-gpus-have", *CDNA, *RDNA),
        *on("rdna-gets-triton", *RDNA),
        *on("rdna-gets-triton-for-mla-too", *RDNA),
        *on("whisper-gets-a-backend-that-amd-gpus-have", "gfx942", "gfx1201"),
    }
    assert names_of(rows, "advisory") == {
        *on("gpt-oss-gets-triton-on-rdna", *RDNA),
        *on("without-aiter-triton-is-the-default", "gfx942", "gfx1100"),
    }
    assert len(names_of(rows, "pass")) == len(rows) - 14


@pytest.mark.slow
def test_vllm_omni_undoes_its_choice_of_aiter(
    vllm_release: Callable[[str], Path], tmp_path: Path, folder: Path
) -> None:
    vllm = vllm_release("0.30.0")
    rows = run(
        tmp_path,
        [unpacked("vllm-omni", folder), vllm],
        f"--rocm-attn-selector={ADAPTERS}.vllm_omni:Stages",
        "--rocm-attn-contract=vllm-omni",
    )
    assert names_of(rows, "fail") == on("with-aiter-on-a-stage-gets-aiter-fa", *CDNA)
    assert names_of(rows, "advisory") == {
        *on("a-named-backend-of-diffusion-is-taken-or-refused", *RDNA),
        *on("a-stage-with-latent-attention-is-served", "gfx942", "gfx1201"),
    }
    assert len(names_of(rows, "pass")) == len(rows) - 6


@pytest.mark.slow
def test_aphrodite_is_asked_by_vllms_contract_under_its_own_names(
    tmp_path: Path, folder: Path
) -> None:
    rows = run(
        tmp_path,
        [unpacked("aphrodite-engine", folder)],
        "--rocm-attn-selector=aphrodite.platforms.rocm:RocmPlatform",
        "--rocm-attn-gpu=gfx942",
    )
    assert not names_of(rows, "fail")
    # Rows whose answer hangs on a variable: the fork reads it under its own name.
    switched = [
        row
        for row in rows.values()
        if row["verdict"] == "pass" and row["env"].get("VLLM_ROCM_USE_AITER") == "1"
    ]
    assert len(switched) > 20
