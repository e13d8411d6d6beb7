"""Which device the platform means by each ordinal, next to the one that the runtime gives it.

HIP_VISIBLE_DEVICES, CUDA_VISIBLE_DEVICES and ROCR_VISIBLE_DEVICES hide and reorder devices; AMD's management
library sees all of them. A platform that asks the library about a device has to count as the runtime does.
Runs in the worker, under the mock.
"""

from __future__ import annotations

import importlib
from typing import Any

from pytest_rocm_attn.conformance.adapters import LacksError

# The platform's own translation of an ordinal, in releases that have the first and in earlier ones.
_TRANSLATES = ("visible_device_id_to_physical_device_id", "device_id_to_physical_device_id")


def devices(platform: Any) -> list[dict[str, Any]]:
    """Return, for each device that the runtime shows, its "device", "is" and "said".

    "is" is its number in the management library; "said" is what the platform translates the ordinal to, or
    what it raises, in words.

    Raises:
        LacksError: the platform does not translate, there is no management library, or no device is shown.
    """
    import torch

    translate = next(
        (found for name in _TRANSLATES if (found := getattr(platform, name, None))), None
    )
    if translate is None:
        raise LacksError("the platform does not say which device it means by an ordinal")
    if not torch.cuda.device_count():
        raise LacksError("the runtime shows no device")
    numbers = _numbers()
    found = []
    for ordinal in range(torch.cuda.device_count()):
        uuid: Any = torch.cuda.get_device_properties(ordinal).uuid
        try:
            said = str(translate(ordinal))
        except Exception as error:  # noqa: BLE001  foreign code: what it raises is its answer
            said = f"{type(error).__name__}: {error}"
        found.append(
            {
                "device": ordinal,
                "is": str(numbers[f"GPU-{bytes(uuid.bytes).decode()}"]),
                "said": said,
            }
        )
    return found


def _numbers() -> dict[str, int]:
    """Return HIP's name of a device -> its number in the management library."""
    try:
        library: Any = importlib.import_module("amdsmi")
    except ImportError:
        raise LacksError("this machine has no amdsmi") from None
    library.amdsmi_init()
    try:
        handles = library.amdsmi_get_processor_handles()
        serials = [library.amdsmi_get_gpu_enumeration_info(one)["hip_uuid"] for one in handles]
    finally:
        library.amdsmi_shut_down()
    return {serial: number for number, serial in enumerate(serials)}
