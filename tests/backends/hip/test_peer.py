"""tools/hip_peer.py, which compiles vLLM's HIP kernels from a source distribution.

Slow: the page beside vLLM against what an sdist compiles to today; ROCM_ATTN_VLLM_SDIST is its path.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_rocm_attn.errors import HipCompileError
from pytest_rocm_attn.hip_compile import compiler_version, find_compiler

SOURCE = """
template <typename T> __device__ T twice(T x) { return x + x; }
template <typename scalar_t, int HEAD_SIZE, int NPAR_LOOPS>
__global__ __launch_bounds__(64) void paged_attention_ll4mi_reduce_kernel(scalar_t* out) {}
#define LAUNCH_CUSTOM_ATTENTION_MFMA16(GQA_RATIO) host code
"""


@pytest.fixture(scope="module")
def tool(script: Callable[[str], Any]) -> Any:
    script("tools/hip_table.py")  # which it imports
    return script("tools/hip_peer.py")


def sdist(folder: Path, files: dict[str, str]) -> Path:
    path = folder / "vllm-1.2.3.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"vllm-1.2.3/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def test_template_arguments_come_in_the_order_of_the_release(tool: Any, tmp_path: Path) -> None:
    files = {"csrc/rocm/attention.cu": SOURCE, "setup.py": ""}
    peer = tool.Peer(sdist(tmp_path, files), tmp_path / "unpacked")
    shape = {"kernel": "reduce", "dtype": "bf16", "cache": "", "head": "64", "block": "", "gqa": ""}

    arguments = peer.arguments("paged_attention_ll4mi_reduce_kernel", tool.values_of(shape))

    assert arguments == "__hip_bfloat16, 64, 1"
    assert peer.version == "1.2.3"
    assert "host code" not in peer.kernels
    assert not (tmp_path / "unpacked" / "vllm-1.2.3" / "setup.py").exists()


def test_what_is_no_vllm_sdist_is_refused_in_one_line(tool: Any, tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"has no csrc/rocm/attention\.cu; it must be a vLLM sdist"
    ):
        tool.Peer(sdist(tmp_path, {"setup.py": ""}), tmp_path / "a")
    with pytest.raises(SystemExit, match="cannot find its kernels"):
        tool.Peer(sdist(tmp_path, {"csrc/rocm/attention.cu": "int x;"}), tmp_path / "b")
    with pytest.raises(SystemExit, match="nothing cannot be read as an archive: "):
        tool.Peer(tmp_path / "nothing", tmp_path / "c")


def test_a_release_with_other_template_parameters_is_named(tool: Any, tmp_path: Path) -> None:
    source = SOURCE.replace("NPAR_LOOPS", "NPAR_LOOPS, bool QUICK")
    peer = tool.Peer(sdist(tmp_path, {"csrc/rocm/attention.cu": source}), tmp_path / "a")
    kernel = "paged_attention_ll4mi_reduce_kernel"
    values = {"scalar_t": "float", "HEAD_SIZE": "64", "NPAR_LOOPS": "1"}
    with pytest.raises(SystemExit, match=r"vLLM 1\.2\.3 has unknown parameters: QUICK"):
        peer.arguments(kernel, values)
    with pytest.raises(SystemExit, match=r"vLLM 1\.2\.3 has no kernel paged_nothing"):
        peer.arguments("paged_nothing", values)


@pytest.mark.slow
@pytest.mark.parametrize("gfx", ["gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201"])
def test_a_sample_of_vllms_kernels_compiles_to_what_the_page_says(
    tool: Any, tmp_path: Path, gfx: str
) -> None:
    path = Path(os.environ.get("ROCM_ATTN_VLLM_SDIST", ""))
    if not path.is_file():
        pytest.skip("ROCM_ATTN_VLLM_SDIST names no vllm-VERSION.tar.gz")
    try:
        version = compiler_version(find_compiler(gfx))
    except HipCompileError as error:
        pytest.skip(str(error).splitlines()[0])
    peer = tool.Peer(path, tmp_path / "unpacked")
    page = tool.PAGE.with_name(f"hip-decode-beside-vllm-{peer.version}.md")
    if not page.exists() or f", {version}\n" not in page.read_text("utf-8"):
        pytest.skip(f"no page of {version} beside vLLM {peer.version}")
    lines = page.read_text("utf-8").partition(f"\n## vLLM {peer.version} on {gfx}\n")[2]
    section = lines.partition("\n## ")[0].splitlines()

    rows = tool.measure(peer, gfx, list(tool.variants(gfx))[::7])

    assert len(rows) >= 2
    for row in rows:
        assert f"| {' | '.join(row.cells())} |" in section
