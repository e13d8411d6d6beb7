"""Write the pages of docs/reference/ that repeat what code or data defines.

    python tools/reference_pages.py [--check]

With --check nothing is written; the exit code is 1 if a page differs from what would be written.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
HARDWARE = ROOT / "pytest_rocm_attn" / "hardware.toml"
GENERATED = "<!-- Written by tools/reference_pages.py: edit that, or what it reads. -->"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# --- GPUs ---------------------------------------------------------------------------------------------

# Source id in hardware.toml -> an address of it, as far as it is one page.
ADDRESSES = {
    "rocm-specs-2025": "https://rocm.docs.amd.com/en/latest/reference/gpu-arch-specs.html",
    "rocm-specs-new": "https://rocm.docs.amd.com/en/latest/reference/gpu-arch-specs.html",
    "rocm-mi100": "https://rocm.docs.amd.com/en/latest/conceptual/gpu-arch/mi100.html",
    "rocm-mi250": "https://rocm.docs.amd.com/en/latest/conceptual/gpu-arch/mi250.html",
    "rocm-mi300": "https://rocm.docs.amd.com/en/latest/conceptual/gpu-arch/mi300.html",
    "llvm": "https://llvm.org/docs/AMDGPUUsage.html",
    "vllm-0.12": "https://github.com/vllm-project/vllm/blob/v0.12.0/vllm/platforms/rocm.py",
    "vllm-0.25": "https://github.com/vllm-project/vllm/blob/v0.25.1/vllm/platforms/rocm.py",
    "vllm-0.33": "https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/platforms/rocm.py",
    "aiter": "https://github.com/ROCm/aiter",
}
TARGET_COLUMNS = {
    "family": "family",
    "wavefront": "wavefront",
    "lds_bytes": "LDS, bytes",
    "vgprs_addressable_per_wave": "VGPRs of a wave",
    "max_waves_per_simd": "waves of a SIMD",
    "platform_fp8_type": "fp8 type",
}
PRODUCT_COLUMNS = {
    "cu": "compute units",
    "vram_gib": "memory, GiB",
    "bandwidth_gbs": "bandwidth, GB/s",
    "peak_bf16_tflops": "bf16, TFLOP/s",
    "peak_fp8_tflops": "fp8, TFLOP/s",
}


def _value(entry: dict[str, Any], column: str) -> str:
    if column not in entry:
        return ""
    sources = entry[column]["s"]
    ids = sources if isinstance(sources, list) else [sources]
    value = entry[column]["v"]
    number = f"{value:,}" if isinstance(value, int | float) else str(value)
    return f"{number} [{', '.join(ids)}](#sources)"


def gpus() -> str:
    """Return the page of GPUs: targets, products, device ids and the sources of each value."""
    data = tomllib.loads(HARDWARE.read_text("utf-8"))
    targets = data["target"]
    products = [
        [product["name"], gfx, *(_value(product, column) for column in PRODUCT_COLUMNS)]
        for gfx, target in targets.items()
        for product in target.get("product", ())
    ]
    sources = [
        (
            f"{name}",
            f"[{words}]({ADDRESSES[name]})" if name in ADDRESSES else words,
        )
        for name, words in data["sources"].items()
    ]
    return "\n\n".join(
        [
            "# GPUs",
            GENERATED,
            (
                "The figures that the selector, the mock and the launch checks use, from"
                " `pytest_rocm_attn/hardware.toml`. Nothing here was measured. A value is followed"
                " by its [source](#sources); an empty cell has none."
            ),
            "## Targets",
            table(
                ["target", *TARGET_COLUMNS.values()],
                [
                    [gfx, *(_value(entry, c) for c in TARGET_COLUMNS)]
                    for gfx, entry in targets.items()
                ],
            ),
            "## Products",
            table(["product", "target", *PRODUCT_COLUMNS.values()], products),
            '## <a id="device-ids"></a>Device ids',
            "The ids that `amdsmi` reports, with the name that vLLM gives them.",
            table(
                ["id", "name", "target", "first release seen"],
                [
                    (f"`{number}`", entry["v"], entry["gfx"], entry["s"])
                    for number, entry in data["amdsmi_device_ids"].items()
                ],
            ),
            "## Sources",
            table(["id", "source"], sources),
        ]
    )


PAGES: dict[str, Callable[[], str]] = {"gpus.md": gpus}


def main(arguments: list[str]) -> int:
    """Write every page, or with --check compare them; return 1 if one differs, else 0."""
    stale = []
    for name, write in PAGES.items():
        page, text = REFERENCE / name, write() + "\n"
        if not page.is_file() or page.read_text("utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                page.write_text(text, "utf-8")
    if stale and "--check" in arguments:
        print("stale:", *stale, "; run python tools/reference_pages.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
