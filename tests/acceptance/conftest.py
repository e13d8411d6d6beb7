"""What acceptance tests of several modules share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)
_PATHS = [path for path in (os.environ.get("PYTHONPATH"),) if path]


@pytest.fixture
def server_rows(
    vllm_release: Callable[[str], Path], tmp_path: Path
) -> Callable[..., dict[str, dict[str, Any]]]:
    """A function that runs tier server on an unmodified release, and returns its rows by their ids.

    It skips the test if the release is not unpacked. Without names of items it runs all of them.
    """

    def server_rows(release: str, gpu: str, *names: str) -> dict[str, dict[str, Any]]:
        folder = vllm_release(release)
        report = tmp_path / "report.json"
        subprocess.run(
            [
                *(PYTHON, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider"),
                *("-p", "no:randomly", "--rocm-attn-conformance", "--rocm-attn-tier=server"),
                *(f"--rocm-attn-gpu={gpu}", "--rocm-attn-timeout=300"),
                *(f"--rocm-attn-report={report}",),
                "--rocm-attn-selector=vllm.platforms.rocm:RocmPlatform",
                *(f"rocm-attn::server::{name}[{gpu}]" for name in names),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *_PATHS])},
            check=False,
            capture_output=True,
            timeout=3600,
        )
        return {row["id"]: row for row in json.loads(report.read_text())["rows"]}

    return server_rows
