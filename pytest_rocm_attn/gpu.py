"""GPU targets: a gfx name, its facts from hardware.toml, and the state of AMD's packages on it."""

from __future__ import annotations

import enum
import functools
import itertools
import re
from dataclasses import dataclass, field
from typing import Any

from pytest_rocm_attn.errors import UnknownGpuError, nearest


class Aiter(enum.StrEnum):
    """What ``import aiter`` would find on a machine (docs/reference/aiter.md#which-aiter)."""

    PRESENT = "present"  # AMD's package, whole
    ABSENT = "absent"  # no module of that name
    BROKEN = "broken"  # AMD's package is there, its import fails
    IMPOSTOR = "impostor"  # the unrelated asynchronous-iterator package of the same import name


class Amdsmi(enum.StrEnum):
    """What AMD's system management library says on a machine.

    Source: docs/reference/mock-surface.md#amdsmi.
    """

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


_BRANDS = ("amd", "instinct", "radeon", "rx", "pro", "ai")


def _folded(name: object) -> str:
    return re.sub(r"[\s_-]", "", str(name)).lower().removeprefix("amd")


def _names(product: str) -> set[str]:
    """Return every name of a product, folded; see products()."""
    words = re.sub(r" \(.*\)| \d+GB$", "", product).split()
    brands = sum(1 for _ in itertools.takewhile(lambda word: word.lower() in _BRANDS, words))
    names = {" ".join(words[start:]) for start in range(min(brands + 1, len(words)))}
    return set(map(_folded, names | {product}))


@functools.cache
def products() -> dict[str, str]:
    """Return the gfx target of every product that hardware.toml lists, by each of its names.

    The names of "Radeon RX 7900 XTX" are that one, "RX 7900 XTX" and "7900 XTX", folded: lower case,
    without spaces, underscores and hyphens. What is in brackets, and the size of the memory, may be
    left out. A name that products of two targets share is not listed.
    """
    found: dict[str, str] = {}
    shared = set()
    for gfx, target in hardware()["target"].items():
        for product in target.get("product", ()):
            for name in _names(product["name"]):
                if found.setdefault(name, gfx) != gfx:
                    shared.add(name)
    return {name: gfx for name, gfx in found.items() if name not in shared}


def product_of(name: str) -> str:
    """Return the product that a name means, as hardware.toml has it; "" for a target's name."""
    gfx = products().get(_folded(name))
    listed = hardware()["target"][gfx]["product"] if gfx else ()
    return next((str(one["name"]) for one in listed if _folded(name) in _names(one["name"])), "")


def _target_of(name: str) -> str:
    """Return the gfx target that is meant by its own name or by a product's."""
    if name in known_gpus():
        return name
    folded = _folded(name)
    if folded in products():
        return products()[folded]
    known = [product.upper() for product in products()]
    raise UnknownGpuError(
        f"unknown GPU {name!r}.{nearest(name, (*known_gpus(), *known))}"
        f" Known: {', '.join(known_gpus())}"
    )


@dataclass(frozen=True, slots=True)
class Gpu:
    """One gfx target.

    Args:
        gfx: target, such as "gfx942", or a product that has it, such as "MI300X"; the attribute is
            the target.
        aiter: the state of AMD's aiter on the machine.
        amdsmi: the state of amdsmi on the machine.

    Attributes:
        is_gfx9: the contract's "gfx9": gfx90a, gfx942, gfx950 (rule on_gfx9_0_12).

    Raises:
        UnknownGpuError: hardware.toml describes no such target and no such product.
    """

    gfx: str
    aiter: Aiter = Aiter.PRESENT
    amdsmi: Amdsmi = Amdsmi.WHOLE
    is_gfx9: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gfx", _target_of(self.gfx))
        object.__setattr__(self, "aiter", Aiter(self.aiter))
        object.__setattr__(self, "amdsmi", Amdsmi(self.amdsmi))
        gfx9 = hardware()["rules"]["on_gfx9_0_12"]["v"]
        object.__setattr__(self, "is_gfx9", self.gfx in gfx9)

    def fact(self, name: str) -> Any:
        """Return one value of hardware.toml for this target; KeyError when it records none."""
        return hardware()["target"][self.gfx][name]["v"]

    @property
    def stands_for(self) -> str:
        """The target whose answers tables give: the GPU's own, or the one that it is like."""
        like = hardware()["target"][self.gfx].get("like")
        return str(like["v"]) if like else self.gfx

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
