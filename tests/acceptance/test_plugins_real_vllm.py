"""A plugin that is planted next to unmodified vLLM: one that heeds its switch, and one that does not.

Slow; needs the release unpacked: see test_real_vllm.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)
_PATHS = [path for path in (os.environ.get("PYTHONPATH"),) if path]
PLUGIN = """
    import os
    def load():
        if os.environ.get("PLANTED_DISABLE_PLUGIN") == "1" and HEEDS:
            return
        from vllm.platforms.rocm import RocmPlatform
        def flex(cls, *args, **kwargs):
            return "vllm.v1.attention.backends.flex_attention.FlexAttentionBackend"
        RocmPlatform.get_attn_backend_cls = classmethod(flex)
"""


def plant(folder: Path, heeds: bool) -> None:
    """Write a distribution that names a plugin of vLLM."""
    about = folder / "planted-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (about / "RECORD").write_text("planted.py,,\nplanted-1.0.dist-info/METADATA,,\n")
    (about / "entry_points.txt").write_text("[vllm.general_plugins]\nplanted = planted:load\n")
    (folder / "planted.py").write_text(dedent(PLUGIN).replace("HEEDS", str(heeds)))


@pytest.mark.slow
@pytest.mark.parametrize("heeds", [True, False])
def test_a_plugin_that_is_off_changes_nothing_or_is_found(
    vllm_release: Callable[[str], Path], heeds: bool, tmp_path: Path
) -> None:
    release = vllm_release("0.33.0")
    plant(tmp_path, heeds)
    report = tmp_path / "report.json"
    subprocess.run(
        [
            *(PYTHON, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider"),
            *("-p", "no:randomly", "--rocm-attn-conformance", "--rocm-attn-tier=server"),
            *("--rocm-attn-gpu=gfx942", "--rocm-attn-timeout=180", f"--rocm-attn-report={report}"),
            "--rocm-attn-selector=vllm.platforms.rocm:RocmPlatform",
            "rocm-attn::server::plugins-that-are-off-change-nothing[gfx942]",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(release), str(tmp_path), *_PATHS])},
        check=False,
        capture_output=True,
        timeout=900,
    )
    (row,) = json.loads(report.read_text())["rows"]
    if heeds:
        assert row["verdict"] == "pass", row["message"]
    else:
        assert row["verdict"] == "advisory"
        assert "under PLANTED_DISABLE_PLUGIN=1 the answer is FLEX_ATTENTION" in row["message"]
        assert "a plain layer" in row["message"]
        assert "VLLM_PLUGINS" not in row["message"]
