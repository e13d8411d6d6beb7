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


def distinct_gpus() -> tuple[str, ...]:
    """Return the targets that releases tell apart: those of which none is like another."""
    return tuple(gfx for gfx, facts in hardware()["target"].items() if "like" not in facts)


_NAME = re.compile(r"gfx(\d{1,2})(\d)([0-9a-f])")  # major, minor, stepping
# Facts about one part, which do not hold for another part of its generation.
_OF_ONE_PART = frozenset(
    {
        *("product", "gcn_arch_name", "aiter_asm", "aiter_default_cu_count"),
        "vllm_custom_paged_attention",
    }
)


@functools.cache
def target_facts(gfx: str) -> dict[str, Any]:
    """Return the facts of a target, as hardware.toml has them.

    Of a target that it does not describe, but others of its generation, they are those of the
    nearest, without what is of one part only; `derived_from` names it.

    Raises:
        UnknownGpuError: it describes no target of that generation.
    """
    targets = hardware()["target"]
    if gfx in targets:
        return dict(targets[gfx])
    name = _nearest_of_its_generation(gfx)
    if not name:
        raise _unknown(gfx)
    facts = {key: fact for key, fact in targets[name].items() if key not in _OF_ONE_PART}
    like = facts.get("like", {"v": name})["v"]
    source = {"s": "derived", "note": f"{gfx} is not described; its nearest target is {name}"}
    return facts | {
        "like": {"v": like, **source},
        "derived_from": {"v": name, **source},
        "product": [{"name": gfx}],
    }


def _nearest_of_its_generation(gfx: str) -> str:
    """Return the target of the same major and minor number and the nearest stepping, or "".

    "" as well if the targets of these numbers are of several families, as gfx906 and gfx90a are.
    """
    parts = _NAME.fullmatch(gfx)
    if parts is None:
        return ""
    near = {
        name: abs(int(found[3], 16) - int(parts[3], 16))
        for name in known_gpus()
        if (found := _NAME.fullmatch(name)) and found.groups()[:2] == parts.groups()[:2]
    }
    if len({hardware()["target"][name]["family"]["v"] for name in near}) != 1:
        return ""
    return min(near, key=lambda name: (near[name], name))


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


def target_of(name: str) -> str:
    """Return the gfx target that is meant by its own name or by a product's.

    Raises:
        UnknownGpuError: as Gpu.
    """
    if name in known_gpus():
        return name
    folded = _folded(name)
    if folded in products():
        return products()[folded]
    if isinstance(name, str) and _nearest_of_its_generation(name):
        return name
    raise _unknown(name)


def _unknown(name: str) -> UnknownGpuError:
    known = [product.upper() for product in products()]
    return UnknownGpuError(
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
        UnknownGpuError: hardware.toml describes no such target, none of its generation, and no such
            product.
    """

    gfx: str
    aiter: Aiter = Aiter.PRESENT
    amdsmi: Amdsmi = Amdsmi.WHOLE
    is_gfx9: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gfx", target_of(self.gfx))
        object.__setattr__(self, "aiter", Aiter(self.aiter))
        object.__setattr__(self, "amdsmi", Amdsmi(self.amdsmi))
        gfx9 = hardware()["rules"]["on_gfx9_0_12"]["v"]
        object.__setattr__(self, "is_gfx9", self.gfx in gfx9)

    def fact(self, name: str) -> Any:
        """Return one value of hardware.toml for this target. Raises KeyError if it records none."""
        return target_facts(self.gfx)[name]["v"]

    @property
    def stands_for(self) -> str:
        """The target whose answers tables give: the GPU's own, or the one that it is like."""
        like = target_facts(self.gfx).get("like")
        return str(like["v"]) if like else self.gfx

    @property
    def note(self) -> str:
        """What is not known of a target that is derived from another; "" of one that is described."""
        near = target_facts(self.gfx).get("derived_from")
        if near is None:
            return ""
        return (
            f"{self.gfx} is not described; what its generation shares is that of {near['v']}, and its"
            " number of compute units, memory, caches and full architecture name are unknown"
        )

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
