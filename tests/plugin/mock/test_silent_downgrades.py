"""What an incomplete mock turns into without a message.

One test for each row of docs/reference/mock-surface.md#silent-downgrades.

Row 10, a current vLLM config, is not the mock's to give; tests/acceptance/test_vllm_on_mock.py shows
that a real one can be built under it.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_rocm_attn.gpu import Gpu, known_gpus
from pytest_rocm_attn.mock import mock_rocm

torch = pytest.importorskip("torch", reason="needs torch: pip install pytest-rocm-attn[kernels]")

# docs/reference/mock-surface.md#amdsmi-names: all that vLLM 0.11.0 to 0.33.0 and sglang import by
# name, and what torch reads as attributes.
AMDSMI_NAMES = [
    "AmdSmiException",
    "AmdSmiMemoryType",
    "amdsmi_get_gpu_asic_info",
    "amdsmi_get_gpu_device_uuid",
    "amdsmi_get_gpu_memory_total",
    "amdsmi_get_processor_handles",
    "amdsmi_init",
    "amdsmi_shut_down",
    "amdsmi_topo_get_link_type",
    "amdsmi_topo_get_numa_node_number",
    "AmdSmiLibraryException",
    "AmdSmiParameterException",
    "AmdSmiTemperatureType",
    "AmdSmiTemperatureMetric",
    "AmdSmiClkType",
    "amdsmi_get_gpu_enumeration_info",
    "amdsmi_get_gpu_vram_usage",
    "amdsmi_get_gpu_activity",
    "amdsmi_get_temp_metric",
    "amdsmi_get_power_info",
    "amdsmi_get_clock_info",
]


def test_row_1_no_name_of_amdsmi_that_is_imported_is_missing() -> None:
    with mock_rocm("gfx942"):
        amdsmi = importlib.import_module("amdsmi")
        assert [name for name in AMDSMI_NAMES if not hasattr(amdsmi, name)] == []


def test_row_2_torch_counts_as_compiled_for_a_gpu_and_counts_gpus() -> None:
    with mock_rocm("gfx942", count=2):
        assert torch.cuda._is_compiled()
        assert torch.cuda.device_count() == 2
        assert torch.cuda._device_count_amdsmi() == 2  # vLLM's "stateless" count calls it directly


def active_backends() -> list[str]:
    """vLLM's question at import: which of Triton's backends say that they are active."""
    backends = pytest.importorskip("triton.backends").backends
    return [name for name, backend in backends.items() if backend.driver.is_active()]


def test_rows_3_and_4_exactly_one_triton_backend_is_active_and_it_is_amds() -> None:
    assert active_backends() == []
    with mock_rocm("gfx942"):
        assert torch.version.hip is not None
        assert torch.cuda.is_available()
        assert active_backends() == ["amd"]


def test_row_5_an_installed_nvidia_management_library_is_hidden(tmp_path: Path) -> None:
    ctypes_file = str(importlib.import_module("_ctypes").__file__)
    library = tmp_path / "libnvidia-ml.so.1"
    library.symlink_to(ctypes_file)  # any shared object will do
    ctypes.CDLL(str(library))
    with mock_rocm("gfx942"):
        with pytest.raises(OSError, match="hidden by the mocked gfx942"):
            ctypes.CDLL(str(library))
        ctypes.CDLL(ctypes_file)
        ctypes.CDLL(None)
    ctypes.CDLL(str(library))


def installed(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_row_6_metadata_of_other_distributions_is_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "vllm", "0.33.0")
    monkeypatch.syspath_prepend(tmp_path)
    with mock_rocm("gfx942"):
        assert importlib.metadata.version("vllm") == "0.33.0"
        with pytest.raises(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version("no-such-distribution")


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("0.12.0+cpu", "0.12.0+rocm"),
        ("0.12.0.dev3+g1a2b3c.cpu", "0.12.0.dev3+g1a2b3c.cpu"),
        ("0.12.0", "0.12.0"),
    ],
)
def test_row_7_a_distribution_built_for_the_cpu_reads_as_built_for_rocm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, told: str
) -> None:
    installed(tmp_path, "vllm", version)
    monkeypatch.syspath_prepend(tmp_path)
    with mock_rocm("gfx942"), mock_rocm("gfx950"):
        assert importlib.metadata.version("vllm") == told
    assert importlib.metadata.version("vllm") == version


@pytest.mark.parametrize(("gfx", "lds"), [("gfx942", 65536), ("gfx950", 163840)])
def test_row_8_tritons_driver_answers_helpers_that_ask_it_at_import(gfx: str, lds: int) -> None:
    driver = pytest.importorskip("triton.runtime").driver
    with mock_rocm(gfx):
        target = driver.active.get_current_target()
        assert (target.backend, target.arch) == ("hip", gfx)
        properties = driver.active.utils.get_device_properties(0)
        assert properties["max_shared_mem"] == lds


def test_row_8_the_driver_is_there_before_an_import_of_triton_returns() -> None:
    pytest.importorskip("triton")
    code = (
        "import sys\n"
        "from pytest_rocm_attn.mock import mock_rocm\n"
        "outer, inner = mock_rocm('gfx942').enter(), mock_rocm('gfx1201').enter()\n"
        "assert 'triton' not in sys.modules, 'entering must not cost an import of triton'\n"
        "import importlib.util\n"
        "assert importlib.util.find_spec('triton') is not None\n"
        "import triton.language\n"
        "from triton.runtime import driver\n"
        "assert driver.active.get_current_target().arch == 'gfx1201'\n"
        "inner.exit()\n"
        "assert driver.active.get_current_target().arch == 'gfx942'\n"
        "outer.exit()\n"
        "try:\n"
        "    left = type(driver.active).__name__\n"
        "except RuntimeError as error:\n"
        "    left = str(error)  # Triton's own word on a box without a GPU: 0 active drivers\n"
        "assert 'Dry' not in left, left\n"
        "from importlib.machinery import SourceFileLoader\n"
        "assert type(triton.__loader__) is type(triton.__spec__.loader) is SourceFileLoader\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("gfx", known_gpus())
def test_row_9_every_boundary_tells_the_same_architecture(gfx: str) -> None:
    with mock_rocm(gfx):
        amdsmi = importlib.import_module("amdsmi")
        amdsmi.amdsmi_init()
        (handle,) = amdsmi.amdsmi_get_processor_handles()
        info = amdsmi.amdsmi_get_gpu_asic_info(handle)
        properties = torch.cuda.get_device_properties()
        assert info["target_graphics_version"] == gfx
        assert properties.gcnArchName.split(":")[0] == gfx
        assert info["market_name"] == properties.name
        tools = os.environ["PATH"].split(os.pathsep)[0]
        text = subprocess.run([f"{tools}/rocminfo"], capture_output=True, text=True, check=True)
        assert f"Name:                    {gfx}\n" in text.stdout
        # The pair that vLLM 0.18.1 and later compute from the name, earlier ones ask torch for.
        digits = gfx.removeprefix("gfx")
        pair = int(digits[:-2]), int(digits[-2], 16)
        assert (properties.major, properties.minor) == pair == Gpu(gfx).compute_capability


def test_row_11_a_submodule_that_aiter_lacks_is_not_found_and_does_not_raise() -> None:
    with mock_rocm("gfx942", aiter=True):
        assert importlib.util.find_spec("aiter.ops.triton.not_in_any_release") is None
        assert importlib.util.find_spec("aiter") is not None


def test_row_12_the_optin_limit_of_cuda_is_absent() -> None:
    with mock_rocm("gfx942"):
        assert not hasattr(torch.cuda.get_device_properties(), "shared_memory_per_block_optin")
