"""torch under the mock: its own counting and parsing run, and only the hardware is made up.

The table of visible devices is docs/reference/mock-surface.md#torch-hooks, as observed with torch
itself.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_rocm_attn.errors import MockError
from pytest_rocm_attn.gpu import Gpu, known_gpus
from pytest_rocm_attn.mock import MockAttributeError, MockRocm, mock_rocm

torch = pytest.importorskip("torch", reason="needs torch: pip install pytest-rocm-attn[kernels]")
cpu_build_of_torch = pytest.mark.skipif(
    torch.version.cuda is not None,
    reason="a CUDA build of torch answers streams and events in C, below the mock's hooks"
    " (docs/mock.md, Limits); install a CPU build of torch to run this",
)

VISIBLE = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockRocm]:
    for name in VISIBLE:
        monkeypatch.delenv(name, raising=False)
    with mock_rocm("gfx942", count=4) as mock:
        yield mock


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        ({}, 4),
        ({"HIP_VISIBLE_DEVICES": "1,3"}, 2),
        ({"HIP_VISIBLE_DEVICES": ""}, 0),
        ({"HIP_VISIBLE_DEVICES": "-1"}, 0),
        ({"HIP_VISIBLE_DEVICES": "0,9"}, 1),
        ({"ROCR_VISIBLE_DEVICES": "0,1", "HIP_VISIBLE_DEVICES": "1"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "2"}, 1),
    ],
)
def test_visible_devices_are_counted_by_torch_itself(
    four: MockRocm, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], count: int
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert torch.cuda.device_count() == count
    assert torch.cuda.is_available() == (count > 0)
    assert torch.accelerator.device_count() == count
    assert torch.accelerator.is_available() == (count > 0)


def test_more_hip_than_rocr_devices_is_torchs_own_error(
    four: MockRocm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "0,1")
    with pytest.raises(RuntimeError, match="contains more devices than ROCR_VISIBLE_DEVICES"):
        torch.cuda.device_count()


def test_a_device_can_be_chosen_by_its_serial_number(
    four: MockRocm, monkeypatch: pytest.MonkeyPatch
) -> None:
    import amdsmi

    amdsmi.amdsmi_init()
    handle = amdsmi.amdsmi_get_processor_handles()[1]
    serial = amdsmi.amdsmi_get_gpu_asic_info(handle)["asic_serial"].removeprefix("0x").lower()
    second = str(torch.cuda.get_device_properties(1).uuid)
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", f"GPU-{serial}")
    assert torch.cuda.device_count() == 1
    assert str(torch.cuda.get_device_properties(0).uuid) == second


def test_a_device_out_of_bounds_is_torchs_own_error(four: MockRocm) -> None:
    with pytest.raises(AssertionError, match="Invalid device id"):
        torch.cuda.get_device_properties(7)


def test_the_visible_device_keeps_the_identity_of_its_physical_gpu(
    four: MockRocm, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuids = [str(torch.cuda.get_device_properties(index).uuid) for index in range(4)]
    assert len(set(uuids)) == 4
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "3,1")
    assert [str(torch.cuda.get_device_properties(i).uuid) for i in (0, 1)] == [uuids[3], uuids[1]]
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "2,3")  # HIP counts what ROCr leaves
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    assert str(torch.cuda.get_device_properties(0).uuid) == uuids[3]
    monkeypatch.delenv("HIP_VISIBLE_DEVICES")
    assert [str(torch.cuda.get_device_properties(i).uuid) for i in (0, 1)] == uuids[2:]


@pytest.mark.parametrize("gfx", known_gpus())
def test_properties_follow_the_hardware_facts_on_every_target(gfx: str) -> None:
    gpu = Gpu(gfx)
    with mock_rocm(gfx):
        assert torch.version.hip is not None
        assert torch.version.cuda is None
        properties = torch.cuda.get_device_properties()
        assert properties.gcnArchName.split(":")[0] == gfx
        assert torch.cuda.get_device_capability() == gpu.compute_capability
        assert properties.warp_size == gpu.wavefront
        assert properties.shared_memory_per_block == gpu.lds_bytes
        assert torch.cuda.get_device_name() == properties.name
        assert properties.name.startswith(("AMD ", "Radeon "))
        assert repr(properties).startswith("_CudaDeviceProperties(name=")
    assert torch.version.hip is None


# Prints of real machines: docs/reference/mock-surface.md#real-machines.
@pytest.mark.parametrize(
    ("gfx", "arch", "mebibytes", "processors", "l2_mebibytes"),
    [
        ("gfx942", "gfx942:sramecc+:xnack-", 196592, 304, 4),
        ("gfx90a", "gfx90a:sramecc+:xnack-", 65520, 110, 8),
        ("gfx1201", "gfx1201", 16304, 32, 8),
        ("gfx1151", "gfx1151", None, 20, 2),
    ],
)
def test_properties_are_those_that_real_machines_printed(
    gfx: str, arch: str, mebibytes: int | None, processors: int, l2_mebibytes: int
) -> None:
    with mock_rocm(gfx):
        properties = torch.cuda.get_device_properties("cuda")
        assert properties.gcnArchName == arch
        assert properties.multi_processor_count == processors
        assert properties.L2_cache_size == l2_mebibytes << 20
        if mebibytes is not None:
            assert properties.total_memory == mebibytes << 20
            assert torch.cuda.mem_get_info()[1] == mebibytes << 20


def test_the_field_names_are_those_of_torchs_own_type() -> None:
    """Against torch/_C/__init__.pyi, which lists what every build has."""
    stub = Path(torch.__file__).with_name("_C") / "__init__.pyi"
    body = re.search(
        r"^class _CudaDeviceProperties:\n((?:    .*\n)+)", stub.read_text(), re.MULTILINE
    )
    assert body is not None
    real = set(re.findall(r"^    (\w+):", body[1], re.MULTILINE))
    with mock_rocm("gfx942"):
        ours = set(vars(torch.cuda.get_device_properties()))
    # No source gives clocks and bus widths; asking for them is an error that says so.
    assert real - ours == {"clock_rate", "memory_clock_rate", "memory_bus_width"}
    # In every supported build at run time, and not in the stub; the first got there after torch 2.10.
    assert ours - real - {"shared_memory_per_multiprocessor"} == {
        "regs_per_multiprocessor",
        "pci_bus_id",
        "pci_device_id",
        "pci_domain_id",
    }


def test_an_unknown_property_names_itself_and_how_to_add_it(four: MockRocm) -> None:
    properties = torch.cuda.get_device_properties()
    with pytest.raises(MockAttributeError, match=r"clock_rate.*properties=\{'clock_rate': value\}"):
        _ = properties.clock_rate
    with mock_rocm("gfx942", properties={"clock_rate": 2100000}):
        assert torch.cuda.get_device_properties().clock_rate == 2100000


def test_another_product_of_a_target_can_be_mocked() -> None:
    with mock_rocm("gfx942", product="Instinct MI308X"):
        assert torch.cuda.get_device_properties().multi_processor_count == 80
        assert torch.cuda.get_device_name() == "AMD Instinct MI308X"


def test_tensors_on_the_cpu_work_as_ever(four: MockRocm) -> None:
    torch.manual_seed(0)
    a = torch.randn(8, 8, requires_grad=True)
    (a @ a).sum().backward()
    assert a.grad is not None
    assert torch.zeros(3, dtype=torch.float8_e4m3fnuz).to(torch.float32).tolist() == [0, 0, 0]
    assert torch.empty(10**12, device="meta").numel() == 10**12


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiling_for_the_cpu_works_as_ever(four: MockRocm, backend: str) -> None:
    torch.manual_seed(1)
    twice = torch.compile(lambda x: x * 2, backend=backend)
    assert twice(torch.ones(3)).tolist() == [2, 2, 2]


def test_random_states_of_the_devices_can_be_seeded_saved_and_restored(four: MockRocm) -> None:
    """torch does so around checkpoints, fork_rng() and what it compiles."""
    queued = len(torch.cuda._queued_calls)
    torch.manual_seed(3)
    states = torch.cuda.get_rng_state_all()
    assert len(states) == 4
    assert torch.cuda.initial_seed() == 3
    with torch.random.fork_rng(range(4)):
        torch.cuda.manual_seed_all(5)
    assert all(map(torch.equal, torch.cuda.get_rng_state_all(), states))
    assert len(torch.cuda._queued_calls) == queued


def test_tensors_that_only_claim_a_device_work(four: MockRocm) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        a = torch.empty(4, 4, device="cuda")
        assert (a @ a).device.type == "cuda"


def _zeros() -> None:
    torch.zeros(1, device="cuda")


def _cuda() -> None:
    torch.zeros(1).cuda()


def _to() -> None:
    torch.zeros(1).to("cuda:0")


def _random() -> None:
    torch.randn(2, 2, device=torch.device("cuda", 1))


def _pin() -> None:
    torch.zeros(1).pin_memory()


def _stream() -> None:
    torch.cuda.Stream()


def _event() -> None:
    torch.cuda.Event()


def _synchronize() -> None:
    torch.cuda.synchronize()


def _accelerator_synchronize() -> None:
    torch.accelerator.synchronize()


def _current_stream() -> None:
    torch.cuda.current_stream()


def _graph() -> None:
    torch.cuda.CUDAGraph()


@pytest.mark.parametrize(
    "use",
    [
        _zeros,
        _cuda,
        _to,
        _random,
        _pin,
        pytest.param(_stream, marks=cpu_build_of_torch),
        pytest.param(_event, marks=cpu_build_of_torch),
        pytest.param(_synchronize, marks=cpu_build_of_torch),
        _accelerator_synchronize,
        pytest.param(_current_stream, marks=cpu_build_of_torch),
        _graph,
    ],
)
def test_what_needs_the_device_says_that_it_is_mocked(
    four: MockRocm, use: Callable[[], None]
) -> None:
    with pytest.raises(MockError, match=r"mocked"):
        use()


@cpu_build_of_torch
def test_an_attempt_to_allocate_does_not_outlive_the_mock() -> None:
    """torch must not be left believing that it initialised a device."""
    with mock_rocm("gfx942"), pytest.raises(MockError):
        _zeros()
    with pytest.raises(AssertionError, match="not compiled with CUDA"):
        _zeros()


def test_an_unknown_function_of_torch_is_an_absent_attribute_that_explains(four: MockRocm) -> None:
    assert not hasattr(torch._C, "_cuda_noSuchFunction")
    assert getattr(torch._C, "_cuda_noSuchFunction", None) is None
    with pytest.raises(MockAttributeError, match=r"torch\._C\._cuda_noSuchFunction.*monkeypatch"):
        _ = torch._C._cuda_noSuchFunction
    with pytest.raises(ImportError):
        from torch._C import _cuda_noSuchFunction  # type: ignore[attr-defined]  # noqa: F401  it must not be there
    with pytest.raises(AttributeError, match=r"^module 'torch\._C' has no attribute 'other'$"):
        _ = torch._C.other


def test_selecting_a_device_works_and_is_bounded(four: MockRocm) -> None:
    assert torch.cuda.current_device() == 0
    torch.cuda.set_device(2)
    assert torch.cuda.current_device() == 2
    assert torch.accelerator.current_device_index() == 2
    with torch.cuda.device(3):
        assert torch.cuda.current_device() == 3
    assert torch.cuda.current_device() == 2
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.cuda.set_device(4)


def test_host_side_queries_have_answers(four: MockRocm) -> None:
    assert torch.cuda.is_current_stream_capturing() is False
    assert torch.cuda.is_initialized() is False
    assert torch.cuda.is_bf16_supported() is True
    assert torch.cuda.can_device_access_peer(0, 1) is True
    assert torch.cuda.memory_reserved() == 0
    assert torch.cuda.max_memory_allocated() == 0
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.empty_cache()
    assert torch.cuda.utilization() == 0
    assert torch.cuda.get_arch_list() == ["gfx942"]
    assert torch.accelerator.current_accelerator() == torch.device("cuda")
    assert torch.backends.cuda.is_built()


def test_what_torch_remembers_of_other_gpus_does_not_show_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "_cached_device_count", 7)
    with mock_rocm("gfx942", count=4):
        assert torch.cuda.device_count() == 4
        assert torch.cuda.utilization(3) == 0  # torch maps HIP's indices to amdsmi's, once
        with mock_rocm("gfx950", count=8):
            assert torch.cuda.utilization(7) == 0
    assert torch.cuda._cached_device_count == 7
    assert getattr(torch.cuda, "_cached_hip_to_amdsmi", None) is None  # torch 2.10 keeps none


def test_a_torch_without_the_cache_of_amdsmi_indices_is_mocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch.cuda, "_cached_hip_to_amdsmi", raising=False)
    with mock_rocm("gfx942", count=4):
        assert torch.cuda.device_count() == 4
    assert not hasattr(torch.cuda, "_cached_hip_to_amdsmi")


def test_the_stream_function_that_dynamo_imports_is_there(four: MockRocm) -> None:
    from torch._C import _cuda_getCurrentRawStream

    assert _cuda_getCurrentRawStream(0) == 0


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(
            "empty",
            marks=pytest.mark.skipif(
                torch.__version__.startswith("2.10."),
                reason="torch 2.10 believes an empty list also once the runtime has started",
            ),
        ),
        "broken",
        "absent",
    ],
)
@pytest.mark.parametrize(
    ("environ", "count"),
    [({}, 4), ({"HIP_VISIBLE_DEVICES": "1,3"}, 2), ({"HIP_VISIBLE_DEVICES": "0,9,1"}, 1)],
)
def test_the_runtime_counts_gpus_whatever_amdsmi_tells(
    monkeypatch: pytest.MonkeyPatch, state: str, environ: dict[str, str], count: int
) -> None:
    for name in VISIBLE:
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTORCH_NVML_BASED_CUDA_CHECK", raising=False)
    before = torch.cuda.device_count(), torch.cuda._initialized
    with mock_rocm("gfx942", amdsmi=state, count=4), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it cannot initialise amdsmi
        assert torch.cuda.is_available()
        # torch believes an empty list, until it has started the runtime.
        assert torch.cuda.device_count() == (0 if state == "empty" else count)
        assert torch.cuda.get_device_name(0) == "AMD Instinct MI300X"
        assert torch.cuda.device_count() == count
    assert (torch.cuda.device_count(), torch.cuda._initialized) == before


def test_calls_that_would_start_the_runtime_are_noted_with_their_callers(four: MockRocm) -> None:
    assert torch.cuda.device_count() == 4
    assert torch.cuda.is_available()
    assert four.runtime_calls == ()
    torch.cuda.get_device_properties(0)
    torch.cuda.set_device(1)
    with torch.cuda.device(2):
        torch.cuda.get_device_name()
    told: tuple[str, ...] = four.runtime_calls
    called, callers = zip(*(call.split(", called at ") for call in told), strict=True)
    assert called == (
        "torch.cuda.get_device_properties()",
        "torch.cuda.set_device()",
        "torch.cuda.device.__enter__()",
        "torch.cuda.get_device_name()",
        "torch.cuda.device.__exit__()",
    )
    assert {caller.partition(":")[0] for caller in callers} == {__name__}


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch.cuda", "_cached_device_count"),
        ("torch.cuda", "_exchange_device"),
        ("torch.cuda.random", "_lazy_call"),
        ("torch._subclasses.fake_tensor", "init_gpu_context"),
        ("torch._C", "_accelerator_getDeviceIndex"),
    ],
)
def test_a_torch_that_renamed_what_is_replaced_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    monkeypatch.delattr(f"{module}.{name}")
    before = dict(vars(torch.cuda))
    with pytest.raises(MockError) as caught:
        mock_rocm("gfx942").enter()
    words = f"this torch ({torch.__version__}) has no {module}.{name}; the mock was made for"
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)
    assert dict(vars(torch.cuda)) == before
    assert torch.version.hip is None


LAZY = """
import sys, importlib.abc, importlib.machinery, torch

made = sys.modules.pop("torch._subclasses.fake_tensor")

class Lazy(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name == made.__name__:
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        return made
    def exec_module(self, module):
        print("imported")

sys.meta_path.insert(0, Lazy())
from pytest_rocm_attn.mock import mock_rocm
with mock_rocm("gfx942"):
    print(torch.version.hip is not None)
"""


def test_the_module_of_fake_tensors_need_not_be_imported_yet() -> None:
    command = [sys.executable, "-c", LAZY]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["imported", "True"]


def mentions_it() -> object:
    """Makes a tensor on the device in a function that also names what torch's own Python calls."""
    if not torch.cuda.is_available():
        torch.cuda._lazy_init()
    return torch.empty(1, device="cuda")


@pytest.mark.parametrize(
    "make",
    [
        mentions_it,
        functools.partial(torch.empty, 1, device="cuda"),
        functools.wraps(mentions_it)(lambda: mentions_it()),
        lambda: [torch.empty(1, device=device) for device in ("cuda",)],
        lambda: torch.empty(1).to("cuda"),
        lambda: torch.empty(1).cuda(),
    ],
    ids=["that names _lazy_init", "partial", "decorated", "comprehension", "to", "cuda"],
)
def test_a_tensor_on_the_device_is_refused_from_any_caller(make: Any) -> None:
    with mock_rocm("gfx942"):
        for _ in range(2):  # the first refusal must not count as the initialisation
            with pytest.raises(MockError, match="a tensor on device 'cuda' needs a real GPU"):
                make()
    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize("gfx", known_gpus())
def test_the_l2_cache_has_a_size_on_every_target_that_is_sold(gfx: str) -> None:
    """Sources: ROCm's page of GPU hardware specifications. It lists no gfx1153 and no gfx1250,
    of which the size is None and does not raise.
    """
    with mock_rocm(gfx):
        size = torch.cuda.get_device_properties().L2_cache_size
    assert (size is None) == (gfx in ("gfx1153", "gfx1250"))
    if gfx == "gfx950":
        assert size == 4 << 20  # of one XCD, as HIP says of gfx942


def test_the_l2_cache_is_the_products() -> None:
    with mock_rocm("gfx1201", product="Radeon RX 9070 GRE"):
        assert torch.cuda.get_device_properties().L2_cache_size == 6 << 20


def test_only_what_is_built_for_a_platform_reads_as_built_for_rocm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2+cpu")
    with mock_rocm("gfx942"):
        version = importlib.metadata.version
        assert [version(name) for name in ("vllm", "Torch", "torchvision", "jaxlib")] == [
            "1.2+rocm",
            "1.2+rocm",
            "1.2+cpu",
            "1.2+cpu",
        ]


def test_the_machine_is_of_one_rocm_release() -> None:
    with mock_rocm("gfx942"):
        release = Path(os.environ["ROCM_PATH"], ".info/version").read_text().strip()
        assert importlib.metadata.version("amdsmi") == release
        assert torch.version.hip is not None
        assert torch.version.hip.split(".")[:2] == release.split(".")[:2]
    with mock_rocm("gfx942", rocm_version="6.4.0"):
        assert torch.version.hip == "6.4.43482-0f2d60242"
