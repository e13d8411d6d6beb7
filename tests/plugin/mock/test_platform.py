"""MockRocm's parameters, the process-wide option, and where it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from pytest_rocm_attn.errors import GpuWarning, MockError, UnknownGpuError
from pytest_rocm_attn.gpu import Aiter, Amdsmi, Gpu
from pytest_rocm_attn.hardware import DetectedGpu, Detection
from pytest_rocm_attn.mock import MockRocm, mock_rocm, parse_option, platform


def test_it_knows_its_gpu_and_count() -> None:
    mock = MockRocm("gfx950", aiter=True, count=8)
    assert mock.gpu == Gpu("gfx950", Aiter.PRESENT)
    assert mock.count == 8
    assert not mock.active


def test_an_unknown_target_offers_the_nearest() -> None:
    with pytest.raises(UnknownGpuError, match=r"'gfx94x'.*Did you mean 'gfx942'"):
        mock_rocm("gfx94x")


def test_an_unknown_product_offers_the_nearest_of_the_target() -> None:
    with pytest.raises(MockError, match=r"'Instinct MI300'.*Did you mean 'Instinct MI300"):
        mock_rocm("gfx942", product="Instinct MI300")


def test_an_unknown_state_of_aiter_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"'brokn'.*Did you mean 'broken'.*impostor"):
        mock_rocm("gfx942", aiter="brokn")


@pytest.mark.parametrize("count", [0, 65])
def test_a_machine_has_one_to_64_gpus(count: int) -> None:
    with pytest.raises(MockError, match=f"count={count}"):
        mock_rocm("gfx942", count=count)


def test_variables_can_be_set_while_it_is_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_ROCM_USE_AITER", raising=False)
    with mock_rocm("gfx942", environ={"VLLM_ROCM_USE_AITER": "1"}):
        assert os.environ["VLLM_ROCM_USE_AITER"] == "1"
    assert "VLLM_ROCM_USE_AITER" not in os.environ


@pytest.mark.parametrize(
    ("text", "gpu", "count"),
    [
        ("gfx942", Gpu("gfx942", Aiter.ABSENT), 1),
        ("gfx942,aiter", Gpu("gfx942", Aiter.PRESENT), 1),
        (" gfx1201 , aiter=broken , count=4 ", Gpu("gfx1201", Aiter.BROKEN), 4),
        ("gfx950,count=8", Gpu("gfx950", Aiter.ABSENT), 8),
        ("gfx950,amdsmi=empty", Gpu("gfx950", Aiter.ABSENT, Amdsmi.EMPTY), 1),
    ],
)
def test_the_option_describes_a_machine(text: str, gpu: Gpu, count: int) -> None:
    mock = parse_option(text)
    assert (mock.gpu, mock.count) == (gpu, count)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gfx94", "'gfx94'.*Did you mean 'gfx942'"),
        ("", "unknown GPU ''"),
        ("gfx942,aitr", "'aitr'.*Did you mean 'aiter'"),
        ("gfx942,aiter=maybe", "'maybe'.*absent"),
        ("gfx942,amdsmi=emty", "'emty'.*Did you mean 'empty'.*absent"),
        ("gfx942,amdsmi", "'amdsmi'.*amdsmi=STATE"),
        ("gfx942,count=many", "'count=many'.*count=N"),
        ("gfx942,count=0", "count=0"),
    ],
)
def test_a_bad_option_is_a_value_error_that_says_what_it_can_be(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_option(text)


@pytest.fixture
def real_rocm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that runs a ROCm build of torch on a real MI300X."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.version, "hip", "6.4.43482-0f2d60242")
    found = Detection((DetectedGpu(0, "gfx942", "AMD Instinct MI300X"),), "")
    monkeypatch.setattr(platform, "detect", lambda: found)


@pytest.mark.usefixtures("real_rocm")
def test_it_refuses_inside_a_real_rocm_process_unless_forced() -> None:
    with pytest.raises(MockError, match=r"real gfx942 \(AMD Instinct MI300X\).*force=True"):
        mock_rocm("gfx1201").enter()
    with mock_rocm("gfx1201", force=True):
        import torch

        assert torch.cuda.get_device_properties().gcnArchName == "gfx1201"
        with mock_rocm("gfx90a"):  # inside a mock the process is mocked already
            assert torch.cuda.get_device_capability() == (9, 0)


def run(code: str, **environ: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_torch_is_mocked_when_it_is_imported_and_not_imported_to_be_mocked() -> None:
    pytest.importorskip("torch")
    run(
        "import importlib.util, sys\n"
        "from pytest_rocm_attn.mock import mock_rocm\n"
        "with mock_rocm('gfx950'):\n"
        "    assert importlib.util.find_spec('torch')\n"
        "outer, inner = mock_rocm('gfx942').enter(), mock_rocm('gfx1201', count=2).enter()\n"
        "left = mock_rocm('gfx90a').enter()\n"
        "left.exit()\n"
        "assert 'torch' not in sys.modules\n"
        # Downstream code decides at import; so what it copies must be the mock's.
        "from torch.cuda import device_count, get_device_properties, is_available\n"
        "import torch\n"
        "assert is_available()\n"
        "assert type(torch.__loader__).__module__.startswith(('importlib', '_frozen_importlib'))\n"
        "assert (get_device_properties().gcnArchName, device_count()) == ('gfx1201', 2)\n"
        "inner.exit()\n"
        "assert (get_device_properties().gcnArchName, device_count()) == ('gfx942:sramecc+:xnack-', 1)\n"
        "outer.exit()\n"
        "assert (torch.version.hip, device_count()) == (None, 0)\n"
    )


def test_without_torch_and_triton_the_rest_of_it_works() -> None:
    run(
        "import sys\n"
        "sys.modules['torch'] = sys.modules['triton'] = None\n"
        "from pytest_rocm_attn.mock import mock_rocm\n"
        "import subprocess\n"
        "with mock_rocm('gfx942', aiter=True):\n"
        "    import amdsmi\n"
        "    amdsmi.amdsmi_init()\n"
        "    assert len(amdsmi.amdsmi_get_processor_handles()) == 1\n"
        "    assert b'gfx942' in subprocess.check_output(['rocminfo'])\n"
        "    import aiter, flash_attn\n"
        "    assert aiter.flash_attn_varlen_func and not hasattr(aiter.dtypes, 'fp9')\n"
        "    try:\n"
        "        aiter.dtypes.fp8\n"
        "    except ModuleNotFoundError as error:\n"
        "        assert error.name == 'torch', error\n"
        "    else:\n"
        "        raise SystemExit('a dtype of torch without torch')\n"
        "assert 'amdsmi' not in sys.modules\n"
    )


def test_importing_the_mock_imports_no_torch_and_no_triton() -> None:
    run(
        "import sys, pytest_rocm_attn.mock\n"
        "assert not {'torch', 'triton', 'pytest'} & set(sys.modules)\n"
    )


def test_keyword_arguments_that_do_not_exist_are_refused() -> None:
    options: dict[str, Any] = {"counts": 2}
    with pytest.raises(TypeError, match="counts"):
        mock_rocm("gfx942", **options)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MI308X", "gfx942 (AMD Instinct MI308X), aiter absent"),
        ("rx 7900 xt", "gfx1100 (AMD Radeon RX 7900 XT), aiter absent"),
        ("gfx942", "gfx942 (AMD Instinct MI300X), aiter absent"),
    ],
)
def test_a_product_that_is_named_is_the_one_that_is_mocked(name: str, words: str) -> None:
    assert str(mock_rocm(name)) == words
    assert str(parse_option(name)) == words


def test_a_target_that_is_not_described_is_mocked_with_a_warning_that_names_the_nearest() -> None:
    with pytest.warns(GpuWarning, match=r"gfx943 is not described; .* that of gfx942, .* unknown$"):
        mock = mock_rocm("gfx943")
    with mock as running:
        assert running.gpu.gfx == "gfx943"
