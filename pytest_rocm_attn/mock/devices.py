"""The mocked GPUs as data: one product of a gfx target, with the figures its readers ask for.

Figures come from hardware.toml; what it does not hold comes from
docs/reference/mock-surface.md#amdsmi-asic-info, 2.4 and 3.3, cited below. A figure that neither
gives is None. A field that no build for ROCm has is absent, and asking for it is an error that says
how to supply it.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.errors import MockArgumentError, nearest
from pytest_rocm_attn.gpu import Gpu, target_facts
from pytest_rocm_attn.mock.errors import unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB = 1 << 20

# amdsmi device id by product: those that vLLM lists (hardware.toml, amdsmi_device_ids), and from the
# PCI ID repository (pci.ids) those of MI100, MI210, MI250, MI250X, RX 9060 XT and RX 9070 GRE.
_DEVICE_IDS = {
    "Instinct MI100": "0x738c",
    "Instinct MI250X": "0x7408",
    "Instinct MI250": "0x740c",
    "Instinct MI210": "0x740f",
    "Instinct MI300A": "0x74a0",
    "Instinct MI300X": "0x74a1",
    "Instinct MI308X": "0x74a2",
    "Instinct MI325X": "0x74a5",
    "Radeon RX 7900 XTX": "0x744c",
    "Radeon RX 7900 XT": "0x744c",
    "Radeon RX 7900 GRE": "0x744c",
    "Radeon 890M": "0x150e",
    "Radeon 8060S (Ryzen AI Max+ 395)": "0x1586",
    "Radeon RX 9070 XT": "0x7550",
    "Radeon RX 9060 XT": "0x7590",
    "Radeon RX 9070": "0x7550",
    "Radeon RX 9070 GRE": "0x7550",
    "Radeon AI PRO R9700": "0x7551",
}
# Printed by real machines, section 3.3, if it is not "AMD " and the product's name.
_MARKET_NAMES = {"Radeon 8060S (Ryzen AI Max+ 395)": "Radeon 8060S Graphics"}
# MiB of the L2 of one HIP device, by product where it differs from its target's others, else by target.
# gfx90a, gfx942, gfx1151 and gfx1201: printed by real machines; the others: ROCm's page "GPU hardware
# specifications", of which HIP gives the figure of one XCD, as the print of gfx942 shows.
_L2_MIB = {
    "gfx906": 4,
    "gfx908": 8,
    "gfx90a": 8,
    "gfx942": 4,
    "gfx950": 4,
    "gfx1030": 4,
    "gfx1100": 6,
    "gfx1101": 4,
    "gfx1102": 2,
    "gfx1103": 2,
    "gfx1150": 2,
    "gfx1151": 2,
    "gfx1152": 1,
    "gfx1200": 4,
    "gfx1201": 8,
    "Radeon RX 9070 GRE": 6,
}
# Video memory that the driver keeps: 196592 of 196608 MiB on MI300X and 65520 of 65536 on MI250,
# 16304 of 16384 on RX 9070 XT (section 3.3).
_KEPT_MIB = {"CDNA": 16, "GCN": 16, "RDNA": 80}
# No table gives these a size: an APU's share of system memory is set in its firmware.
_CARVE_OUT_GIB = 16
_APUS = {
    *("Radeon 780M", "Radeon 820M", "Radeon 860M", "Radeon 890M"),
    *("Radeon 8060S (Ryzen AI Max+ 395)", "Instinct MI300A"),
}


@dataclass(frozen=True)
class Device:
    """One kind of mocked GPU.

    Args:
        gpu: the target.
        product: its name in hardware.toml.
        overrides: fields of the torch properties object to set or replace.
    """

    gpu: Gpu
    product: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        products = [one["name"] for one in self._products()]
        if not self.product:
            object.__setattr__(self, "product", products[0])
        elif self.product not in products:
            raise MockArgumentError(
                f"hardware.toml lists no product {self.product!r} of {self.gpu.gfx}."
                f"{nearest(self.product, products)} Known: {', '.join(products)}"
            )

    def _products(self) -> list[dict[str, Any]]:
        products: list[dict[str, Any]] = target_facts(self.gpu.gfx)["product"]
        return products

    def _product_fact(self, name: str) -> Any:
        row = next(one for one in self._products() if one["name"] == self.product)
        return row.get(name, {}).get("v")

    @property
    def gcn_arch_name(self) -> str:
        """Return the name with features, as HIP prints it; without them if no print of one is known."""
        facts = target_facts(self.gpu.gfx)
        return str(facts["gcn_arch_name"]["v"] if "gcn_arch_name" in facts else self.gpu.gfx)

    @property
    def market_name(self) -> str:
        return _MARKET_NAMES.get(self.product, f"AMD {self.product}")

    @property
    def device_id(self) -> str:
        """Lower-case hex as amdsmi prints it, or "N/A" when no table gives the product's id."""
        return _DEVICE_IDS.get(self.product, "N/A")

    @property
    def compute_units(self) -> int | None:
        """Compute units of one HIP device (a die of MI250 is one); None if no table gives them."""
        units = self._product_fact("cu_per_device") or self._product_fact("cu")
        if units is None:  # gfx1250: AITER's own default is the only figure there is
            units = target_facts(self.gpu.gfx).get("aiter_default_cu_count", {}).get("v")
        return None if units is None else int(units)

    @property
    def is_rdna(self) -> bool:
        return self.gpu.family.startswith("RDNA")

    @property
    def is_integrated(self) -> bool:
        return self.product in _APUS

    @property
    def multi_processors(self) -> int | None:
        """What HIP counts: compute units on CDNA, work-group processors on RDNA (section 2.4)."""
        units = self.compute_units
        return units // 2 if units is not None and self.is_rdna else units

    @property
    def total_memory(self) -> int:
        """Bytes that HIP reports: the product's memory less what the driver keeps."""
        gib = self._product_fact("vram_gib") or _CARVE_OUT_GIB
        if per_device := self._product_fact("cu_per_device"):
            gib = gib * per_device // self._product_fact("cu")
        return (gib * 1024 - _KEPT_MIB[self.gpu.family.rstrip("0123456789.")]) * MIB

    @property
    def l2_bytes(self) -> int | None:
        """Bytes of L2 cache; None if no table gives them."""
        mebibytes = _L2_MIB.get(self.product, _L2_MIB.get(self.gpu.gfx))
        return None if mebibytes is None else mebibytes * MIB

    def serial(self, index: int) -> int:
        """A serial number for the GPU at a physical index: made up, unique, stable."""
        return (0xA3D0 << 48) | (int(self.gpu.gfx[3:], 16) << 16) | index

    def pci_bus(self, index: int) -> int:
        """A PCI bus number for the GPU at a physical index: made up, unique, stable."""
        return 5 + 16 * index

    def properties(self, index: int) -> DeviceProperties:
        """Return torch's properties object for the GPU at a physical index."""
        gpu = self.gpu
        major, minor = gpu.compute_capability
        fields = {
            "name": self.market_name,
            "major": major,
            "minor": minor,
            "multi_processor_count": self.multi_processors,
            "total_memory": self.total_memory,
            "is_integrated": int(self.is_integrated),
            "is_multi_gpu_board": 0,
            # four SIMDs per compute unit or work-group processor, on every target
            "max_threads_per_multi_processor": 4 * gpu.fact("max_waves_per_simd") * gpu.wavefront,
            "gcnArchName": self.gcn_arch_name,
            "warp_size": gpu.wavefront,
            # HIP's UUID is the serial number's sixteen hex digits as text
            "uuid": uuid.UUID(bytes=f"{self.serial(index):016x}".encode()),
            "shared_memory_per_block": gpu.lds_bytes,
            "shared_memory_per_multiprocessor": gpu.lds_bytes,
            "regs_per_multiprocessor": 65536,  # section 2.4
            "pci_bus_id": self.pci_bus(index),
            "pci_device_id": 0,
            "pci_domain_id": 0,
            "L2_cache_size": self.l2_bytes,
        }
        return DeviceProperties({**fields, **self.overrides})


class DeviceProperties:
    """Stands for torch's _CudaDeviceProperties: the fields given, and an error for any other.

    Fields that ROCm builds of torch do not have stay absent on purpose: the presence of
    shared_memory_per_block_optin sends vLLM's FlexAttention down another branch (section 8, row 12).
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        vars(self).update(fields)

    def __getattr__(self, name: str) -> Any:
        __tracebackhide__ = True
        raise unknown(
            "torch.cuda.get_device_properties()",
            name,
            f"pass MockRocm(..., properties={{{name!r}: value}})",
        )

    def __repr__(self) -> str:
        size = f"{self.total_memory // MIB}MB"
        return (
            f"_CudaDeviceProperties(name='{self.name}', major={self.major}, minor={self.minor},"
            f" gcnArchName='{self.gcnArchName}', total_memory={size},"
            f" multi_processor_count={self.multi_processor_count}, uuid={self.uuid})"
        )
