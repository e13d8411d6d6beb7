"""GPU targets: a gfx name, its facts from hardware.toml, and the state of AMD's packages on it."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass, field
from typing import Any

from pytest_rocm_attn.errors import UnknownGpuError, nearest


class Aiter(enum.StrEnum):
    """What ``import aiter`` would find on a machine (facts/aiter-api.md section 1)."""

    PRESENT = "present"  # AMD's package, whole
    ABSENT = "absent"  # no module of that name
    BROKEN = "broken"  # AMD's package is there, its import fails
    IMPOSTOR = "impostor"  # the unrelated asynchronous-iterator package of the same import name


class Amdsmi(enum.StrEnum):
    """What AMD's system management library says on a machine (facts/mock-surface.md section 1)."""

    WHOLE = "whole"  # it lists the GPUs
    EMPTY = "empty"  # it initialises and lists no GPU, as in a container without privileges
    BROKEN = "broken"  # its import succeeds, amdsmi_init() raises
    ABSENT = "absent"  # no module of that name


@functools.cache
def hardware() -> dict[str, Any]:
    """Return hardware.toml as parsed. Values are tables ``{v = value, s = source}``."""
    import tomllib
    from importlib.resources import files

    return tomllib.loads(files("pytest_rocm_attn").joinpath("hardware.toml").read_text("utf-8"))


def known_gpus() -> tuple[str, ...]:
    """Return every gfx target that hardware.toml describes, in its order."""
    return tuple(hardware()["target"])


@dataclass(frozen=True, slots=True)
class Gpu:
    """One gfx target.

    Args:
        gfx: bare target name, such as "gfx942".
        aiter: the state of AMD's aiter on the machine.
        amdsmi: the state of amdsmi on the machine.

    Attributes:
        is_gfx9: the contract's "gfx9": gfx90a, gfx942, gfx950 (rule on_gfx9_0_12).

    Raises:
        UnknownGpuError: hardware.toml does not describe the target.
    """

    gfx: str
    aiter: Aiter = Aiter.PRESENT
    amdsmi: Amdsmi = Amdsmi.WHOLE
    is_gfx9: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.gfx not in known_gpus():
            raise UnknownGpuError(
                f"unknown GPU {self.gfx!r}.{nearest(self.gfx, known_gpus())}"
                f" Known: {', '.join(known_gpus())}"
            )
        object.__setattr__(self, "aiter", Aiter(self.aiter))
        object.__setattr__(self, "amdsmi", Amdsmi(self.amdsmi))
        gfx9 = hardware()["rules"]["on_gfx9_0_12"]["v"]
        object.__setattr__(self, "is_gfx9", self.gfx in gfx9)

    def fact(self, name: str) -> Any:
        """Return one value of hardware.toml for this target; KeyError when it records none."""
        return hardware()["target"][self.gfx][name]["v"]

    @property
    def family(self) -> str:
        """Architecture family, such as "CDNA3" or "RDNA4"."""
        return str(self.fact("family"))

    @property
    def wavefront(self) -> int:
        """Lanes per wavefront: 64 on GCN and CDNA up to 4, 32 on RDNA and CDNA5."""
        return int(self.fact("wavefront"))

    @property
    def lds_bytes(self) -> int:
        """Local data share that one workgroup can allocate, in bytes."""
        return int(self.fact("lds_bytes"))

    @property
    def compute_capability(self) -> tuple[int, int]:
        """The (major, minor) pair that torch reports for the target."""
        major, minor = self.fact("compute_capability")
        return major, minor

    @property
    def fp8_dtype(self) -> str:
        """torch's name of the platform fp8 type; e4m3fnuz exactly on gfx94x (rule fp8_type_0_12)."""
        return "float8_e4m3fnuz" if "gfx94" in self.gfx else "float8_e4m3fn"
