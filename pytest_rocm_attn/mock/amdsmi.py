"""The module ``amdsmi``, in the shapes of release 7.0.2 (docs/reference/mock-surface.md#amdsmi).

Names, signatures, enum members and dict keys are compared with the real package's source by
tests/plugin/mock/test_amdsmi.py.
"""

from __future__ import annotations

import ctypes
import enum
import sys
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.gpu import Amdsmi
from pytest_rocm_attn.mock.packages import StandIn

if TYPE_CHECKING:
    from types import ModuleType

    from pytest_rocm_attn.mock.devices import Device

VERSION = "7.0.2"  # of amdsmi and of the ROCm release that has it


class AmdSmiInitFlags(enum.IntEnum):
    INIT_ALL_PROCESSORS = 0xFFFFFFFF
    INIT_AMD_CPUS = 1
    INIT_AMD_GPUS = 2
    INIT_NON_AMD_CPUS = 4
    INIT_NON_AMD_GPUS = 8
    INIT_AMD_APUS = 3


class AmdSmiMemoryType(enum.IntEnum):
    VRAM = 0
    VIS_VRAM = 1
    GTT = 2


class AmdSmiLinkType(enum.IntEnum):
    AMDSMI_LINK_TYPE_INTERNAL = 0
    AMDSMI_LINK_TYPE_PCIE = 1
    AMDSMI_LINK_TYPE_XGMI = 2
    AMDSMI_LINK_TYPE_NOT_APPLICABLE = 3
    AMDSMI_LINK_TYPE_UNKNOWN = 4


class AmdSmiTemperatureType(enum.IntEnum):
    EDGE = 0
    HOTSPOT = 1
    JUNCTION = 1
    VRAM = 2
    HBM_0 = 3
    HBM_1 = 4
    HBM_2 = 5
    HBM_3 = 6
    PLX = 7


class AmdSmiTemperatureMetric(enum.IntEnum):
    CURRENT = 0
    MAX = 1
    MIN = 2
    MAX_HYST = 3
    MIN_HYST = 4
    CRITICAL = 5
    CRITICAL_HYST = 6
    EMERGENCY = 7
    EMERGENCY_HYST = 8
    CRIT_MIN = 9
    CRIT_MIN_HYST = 10
    OFFSET = 11
    LOWEST = 12
    HIGHEST = 13


class AmdSmiClkType(enum.IntEnum):
    SYS = 0
    GFX = 0
    DF = 1
    DCEF = 2
    SOC = 3
    MEM = 4
    PCIE = 5
    VCLK0 = 6
    VCLK1 = 7
    DCLK0 = 8
    DCLK1 = 9


class AmdSmiException(Exception):
    """Base of amdsmi's errors."""


class AmdSmiLibraryException(AmdSmiException):
    """An error code of the library."""

    def __init__(self, err_code: int) -> None:
        self.err_code = abs(err_code)
        super().__init__(self.err_code)
        self.set_err_info()

    def __str__(self) -> str:
        return f"Error code:\n\t{self.err_code} | {self.err_info}"

    def get_error_info(self, detailed: bool = True) -> str:
        return self.err_info if detailed else self.err_info.split(" - ")[0]

    def get_error_code(self) -> int:
        return self.err_code

    def set_err_info(self) -> None:
        self.err_info = _STATUS.get(self.err_code, _STATUS[_UNKNOWN_ERROR])


class AmdSmiRetryException(AmdSmiLibraryException):
    def __init__(self) -> None:
        super().__init__(_RETRY)


class AmdSmiTimeoutException(AmdSmiLibraryException):
    def __init__(self) -> None:
        super().__init__(_TIMEOUT)


class AmdSmiParameterException(AmdSmiException):
    """An argument of the wrong type."""

    err_code = None

    def __init__(self, receivedValue: Any, expectedType: Any, msg: str | None = None) -> None:
        super().__init__(msg)
        self.actualType = type(receivedValue)
        self.expectedType = expectedType
        self.set_err_msg()
        if msg is not None:
            self.err_msg = msg

    def set_err_msg(self) -> None:
        self.err_msg = (
            f"Invalid parameter:\nActual type: {self.actualType}\n"
            f"Expected type: {self.expectedType}"
        )

    def __str__(self) -> str:
        return self.err_msg


_INVAL, _TIMEOUT, _RETRY, _NO_PERM, _NOT_INIT, _UNKNOWN_ERROR = 1, 8, 9, 10, 32, 0xFFFFFFFF
_STATUS = {
    _INVAL: "AMDSMI_STATUS_INVAL - Invalid parameters",
    _TIMEOUT: "AMDSMI_STATUS_TIMEOUT - Timeout in API call",
    _RETRY: "AMDSMI_STATUS_RETRY - Retry operation",
    _NO_PERM: "AMDSMI_STATUS_NO_PERM - Permission Denied",
    _NOT_INIT: "AMDSMI_STATUS_NOT_INIT - Device not initialized",
    _UNKNOWN_ERROR: "AMDSMI_STATUS_UNKNOWN_ERROR - An unknown error occurred",
}
_HANDLE = ctypes.c_void_p


class Library:
    """The state behind one module ``amdsmi``: its GPUs and how often it was initialised.

    Args:
        device: the kind of GPU.
        count: how many it lists, in physical order: amdsmi knows nothing of visible-devices
            variables.
        broken: whether it cannot be initialised.
    """

    def __init__(self, device: Device, count: int, *, broken: bool = False) -> None:
        self._device = device
        self._broken = broken
        self._count = count
        self._initialised = 0

    def _check(self, *handles: Any) -> int:
        """Return the physical index of the first handle; raise as the real library does."""
        for handle in handles:
            if not isinstance(handle, _HANDLE):
                raise AmdSmiParameterException(handle, _HANDLE)
        if not self._initialised:
            raise AmdSmiLibraryException(_NOT_INIT)
        indices = [(handle.value or 0) - _FIRST_HANDLE for handle in handles]
        if any(not 0 <= index < self._count for index in indices):
            raise AmdSmiLibraryException(_INVAL)
        return indices[0] if indices else 0

    def functions(self) -> dict[str, Any]:
        """Return the module's functions by name, with the real parameter names."""
        return {name: getattr(self, name) for name in dir(self) if name.startswith("amdsmi_")}

    def amdsmi_init(self, flag: AmdSmiInitFlags = AmdSmiInitFlags.INIT_AMD_GPUS) -> None:
        if not isinstance(flag, AmdSmiInitFlags):
            raise AmdSmiParameterException(flag, AmdSmiInitFlags)
        if self._broken:
            raise AmdSmiLibraryException(_NO_PERM)
        self._initialised += 1

    def amdsmi_shut_down(self) -> None:
        # Pairs nest around every query of vLLM (section 1.3): only the outermost counts.
        self._initialised = max(0, self._initialised - 1)

    def amdsmi_get_processor_handles(self) -> list[ctypes.c_void_p]:
        self._check()
        return [_HANDLE(_FIRST_HANDLE + index) for index in range(self._count)]

    def amdsmi_get_gpu_asic_info(self, processor_handle: ctypes.c_void_p) -> dict[str, Any]:
        index = self._check(processor_handle)
        return {
            "market_name": self._device.market_name,
            "vendor_id": "0x1002",
            "vendor_name": "Advanced Micro Devices Inc. [AMD/ATI]",
            "subvendor_id": "0x1002",
            "device_id": self._device.device_id,
            "rev_id": "0x00",
            "asic_serial": f"0x{self._device.serial(index):016X}",
            "oam_id": index if self._device.gpu.is_gfx9 else "N/A",
            "num_compute_units": self._device.compute_units or "N/A",
            "target_graphics_version": self._device.gpu.gfx,
            "subsystem_id": "N/A",
        }

    def amdsmi_get_gpu_device_uuid(self, processor_handle: ctypes.c_void_p) -> str:
        serial = f"{self._device.serial(self._check(processor_handle)):016x}"
        chip = (
            self._device.device_id.removeprefix("0x") if self._device.device_id != "N/A" else "0000"
        )
        return f"{serial[:2]}ff{chip}-0000-1000-80{serial[2:4]}-{serial[4:]}"

    def amdsmi_get_gpu_device_bdf(self, processor_handle: ctypes.c_void_p) -> str:
        return f"0000:{self._device.pci_bus(self._check(processor_handle)):02x}:00.0"

    def amdsmi_get_gpu_enumeration_info(self, processor_handle: ctypes.c_void_p) -> dict[str, Any]:
        index = self._check(processor_handle)
        return {
            "drm_render": 128 + index,
            "drm_card": index,
            "hsa_id": index + 1,
            "hip_id": index,
            "hip_uuid": f"GPU-{self._device.serial(index):016x}",
        }

    def amdsmi_get_gpu_memory_total(
        self, processor_handle: ctypes.c_void_p, mem_type: AmdSmiMemoryType
    ) -> int:
        self._check(processor_handle)
        if not isinstance(mem_type, AmdSmiMemoryType):
            raise AmdSmiParameterException(mem_type, AmdSmiMemoryType)
        return self._device.total_memory

    def amdsmi_get_gpu_memory_usage(
        self, processor_handle: ctypes.c_void_p, mem_type: AmdSmiMemoryType
    ) -> int:
        self.amdsmi_get_gpu_memory_total(processor_handle, mem_type)
        return 0

    def amdsmi_get_gpu_vram_usage(self, processor_handle: ctypes.c_void_p) -> dict[str, Any]:
        self._check(processor_handle)
        return {"vram_total": self._device.total_memory >> 20, "vram_used": 0}  # MB

    def amdsmi_get_gpu_activity(self, processor_handle: ctypes.c_void_p) -> dict[str, Any]:
        self._check(processor_handle)
        return {"gfx_activity": 0, "umc_activity": 0, "mm_activity": "N/A"}

    def amdsmi_get_temp_metric(
        self,
        processor_handle: ctypes.c_void_p,
        sensor_type: AmdSmiTemperatureType,
        metric: AmdSmiTemperatureMetric,
    ) -> int:
        self._check(processor_handle)
        if not isinstance(sensor_type, AmdSmiTemperatureType):
            raise AmdSmiParameterException(sensor_type, AmdSmiTemperatureType)
        if not isinstance(metric, AmdSmiTemperatureMetric):
            raise AmdSmiParameterException(metric, AmdSmiTemperatureMetric)
        return 35  # degrees Celsius, of a GPU at rest: made up

    def amdsmi_get_power_info(self, processor_handle: ctypes.c_void_p) -> dict[str, Any]:
        self._check(processor_handle)
        return dict.fromkeys(
            (
                "socket_power",
                "current_socket_power",
                "average_socket_power",
                "gfx_voltage",
                "soc_voltage",
                "mem_voltage",
                "power_limit",
            ),
            0,
        )

    def amdsmi_get_clock_info(
        self, processor_handle: ctypes.c_void_p, clock_type: AmdSmiClkType
    ) -> dict[str, Any]:
        self._check(processor_handle)
        if not isinstance(clock_type, AmdSmiClkType):
            raise AmdSmiParameterException(clock_type, AmdSmiClkType)
        return {
            "clk": 0,
            "min_clk": 0,
            "max_clk": 0,
            "clk_locked": False,
            "clk_deep_sleep": 0,
        }

    def amdsmi_topo_get_link_type(
        self, processor_handle_src: ctypes.c_void_p, processor_handle_dst: ctypes.c_void_p
    ) -> dict[str, Any]:
        self._check(processor_handle_src, processor_handle_dst)
        # Instinct boards connect their GPUs directly by XGMI; Radeon cards by PCIe.
        if self._device.product.startswith("Instinct"):
            return {"hops": 1, "type": int(AmdSmiLinkType.AMDSMI_LINK_TYPE_XGMI)}
        return {"hops": 2, "type": int(AmdSmiLinkType.AMDSMI_LINK_TYPE_PCIE)}

    def amdsmi_topo_get_numa_node_number(self, processor_handle: ctypes.c_void_p) -> int:
        self._check(processor_handle)
        return 0

    def amdsmi_is_P2P_accessible(
        self, processor_handle_src: ctypes.c_void_p, processor_handle_dst: ctypes.c_void_p
    ) -> bool:
        self._check(processor_handle_src, processor_handle_dst)
        return True

    def amdsmi_get_lib_version(self) -> dict[str, Any]:
        major, minor, release = VERSION.split(".")
        return {
            "major": int(major),
            "minor": int(minor),
            "release": int(release),
            "build": "pytest_rocm_attn.mock",
        }


_FIRST_HANDLE = 0xA3D_0000  # not 0: a null handle is not a handle
_TYPES = {
    name: value
    for name, value in list(globals().items())
    if name.startswith("AmdSmi") and isinstance(value, type)
}


def stand_in(device: Device, count: int) -> StandIn | None:
    """Return the package ``amdsmi`` of a machine with count GPUs of one kind; None if it is absent."""
    state = device.gpu.amdsmi
    if state is Amdsmi.ABSENT:
        return None

    def fill(module: ModuleType) -> None:
        library = Library(
            device, 0 if state is Amdsmi.EMPTY else count, broken=state is Amdsmi.BROKEN
        )
        vars(module).update(library.functions() | _TYPES)

    def alias(module: ModuleType) -> None:
        public = vars(sys.modules["amdsmi"])
        vars(module).update({name: public[name] for name in public if name[:6].lower() == "amdsmi"})

    return StandIn(
        "amdsmi",
        {"amdsmi": fill, "amdsmi.amdsmi_interface": alias, "amdsmi.amdsmi_exception": alias},
        distribution="amdsmi",
        version=VERSION,
        how_to_add="set it on the module in your test (monkeypatch.setattr(amdsmi, ..., "
        "raising=False)), in the shape that amdsmi " + VERSION + " has",
    )
