"""Choose the attention kernel's configuration for each target and shape class, by what the compiler makes of it.

    python tools/launch_table.py [--again] [--gpu gfx942 ...] [--family prefill-head-size-128 ...]

Every candidate tile is compiled for every class, dry. Those that do not fit, or spill, are out; of the
rest the one with the fewest estimated clocks is taken (pytest_rocm_attn/dry_launch/estimate.py): per score
for a prefill, whose rows fill the tile, per key for the others. The choices are written
to backends/launch_table.toml, with their figures and the compiler's version; the targets and families that
an option leaves out stay as they are. Needs torch, Triton and, for the whole estimate, llvm-mca.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "backends" / "launch_table.toml"
TARGETS = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
BACKENDS = "pytest_rocm_attn.backends.under_test"
# Shape family of the launch tier -> the kind of tile that it asks for.
FAMILIES = {
    "prefill-head-size-64": "prefill",
    "prefill-head-size-128": "prefill",
    "prefill-head-size-256": "prefill",
    "prefill-over-an-fp8-cache-head-size-64": "prefill",
    "prefill-over-an-fp8-cache-head-size-128": "prefill",
    "prefill-over-an-fp8-cache-head-size-256": "prefill",
    "mla-prefill-bfloat16": "prefill",
    "decode-head-size-64": "decode",
    "decode-head-size-128": "decode",
    "decode-head-size-256": "decode",
    "decode-over-an-fp8-cache-head-size-64": "decode",
    "decode-over-an-fp8-cache-head-size-128": "decode",
    "decode-over-an-fp8-cache-head-size-256": "decode",
    "mla-decode-num-heads-16": "latent",
    "mla-decode-num-heads-32": "latent",
    "mla-decode-num-heads-128": "latent",
}
# Families that the same choice serves: whatever is taken for the first must not spill in the others.
SERVED = {
    "prefill-head-size-128": (
        "prefill-over-a-small-cache",
        "prefill-that-sees-the-whole-request",
    ),
    "decode-head-size-128": (
        "decode-over-a-small-cache-head-size-128",
        "decode-of-one-request",
        "decode-of-sixteen-requests",
        "decode-of-views",
        "decode-over-heads-first",
        "decode-in-blocks-of-hybrid-models-block-size-272",
        "decode-over-a-cache-of-the-models-dtype-float16",
    ),
    "decode-head-size-256": ("decode-over-a-small-cache-head-size-256", "decode-in-large-blocks"),
    "prefill-head-size-256": ("prefill-in-large-blocks",),
    "decode-over-an-fp8-cache-head-size-128": ("decode-over-a-small-fp8-cache",),
    "mla-decode-num-heads-16": (
        "mla-decode-over-a-small-cache",
        "mla-decode-of-one-request",
        "mla-decode-of-views",
        "mla-decode-in-large-blocks",
    ),
}
# What is tried: rows, keys, warps, stages, and whether tiles that need no mask have a loop of their own. On
# CDNA a wave owns 32 rows, or 16, and more waves than that repeat each other's products.
Sizes = tuple[int, int, int, int, bool]
CANDIDATES: dict[tuple[str, str], tuple[Sizes, ...]] = {
    ("CDNA", "prefill"): (
        (256, 64, 8, 2, True),
        (256, 64, 8, 1, True),
        (256, 32, 8, 2, True),
        (128, 64, 8, 2, True),
        (128, 32, 4, 2, True),
    ),
    ("CDNA", "decode"): (
        (16, 64, 1, 2, False),
        (16, 64, 1, 1, True),
        (16, 64, 2, 1, True),
        (16, 32, 2, 2, False),
        (16, 64, 4, 2, False),
    ),
    ("CDNA", "latent"): (
        (16, 32, 2, 1, False),
        (32, 32, 4, 1, False),
        (16, 16, 2, 1, False),
        (32, 16, 2, 1, False),
        (64, 32, 4, 1, False),
    ),
    ("RDNA", "prefill"): (
        (128, 32, 8, 1, True),
        (64, 32, 4, 1, True),
        (64, 32, 8, 1, True),
        (64, 16, 4, 1, True),
    ),
    ("RDNA", "decode"): (
        (16, 32, 2, 1, True),
        (16, 16, 1, 1, True),
        (16, 16, 2, 1, True),
        (16, 32, 4, 1, False),
    ),
    ("RDNA", "latent"): (
        (16, 16, 4, 1, False),
        (16, 32, 4, 1, False),
        (16, 16, 8, 1, False),
    ),
}
HEAD = """\
# The attention kernel's configuration for each target and class of shapes. Written by tools/launch_table.py:
# edit that. Chosen by loop figures and estimates, for want of an AMD GPU; nothing here was timed.
# value_size to plain: launch_config.Shape. rows: launch_table.rows_of.
# clocks: estimated, of a compute unit for 1,000 scores of a prefill, for 1,000 keys of the others.
"""


OVERLAPPED = (
    0.25  # of the shorter of work and memory, that is not hidden: so that less work wins of equals
)


@dataclass(frozen=True)
class Tried:
    """A candidate that compiled and fits: its tile, what was asked, and what the kernel takes."""

    sizes: Sizes
    asked: dict[str, Any]
    figures: dict[str, Any]

    @property
    def clocks(self) -> float:
        """Per 1,000 scores of a prefill, per 1,000 keys of the others."""
        per = "clocks_per_score" if self.asked["kind"] == "prefill" else "clocks_per_key"
        return float(self.figures[per])

    @property
    def cost(self) -> float:
        """What is to be small: the clocks, of all programs if several share the rows of a KV head.

        Memory is not compared: every candidate reads the same keys.
        """
        if self.asked["kind"] == "prefill":
            return self.clocks
        return -(-self.asked["shape"].rows // self.sizes[0]) * self.clocks


def attempt(gfx: str, family: str, kind: str, sizes: Sizes) -> Tried | None:
    """Return a candidate as it compiles for a family; None if it does not fit, or spills."""
    from pytest_rocm_attn.backends import launch_config
    from pytest_rocm_attn.backends.launch_tiles import Tile
    from pytest_rocm_attn.conformance.tiers.launch.problems import storageless_problem
    from pytest_rocm_attn.conformance.tiers.launch.tier import shipped
    from pytest_rocm_attn.conformance.tiers.numerics.judge import solution_of
    from pytest_rocm_attn.dry_launch import dry_launch, figures
    from pytest_rocm_attn.gpu import Gpu

    (case,) = (one for one in shipped() if one.id == family)
    module = importlib.import_module(BACKENDS)
    backend = module.TritonMla() if case.kind.startswith("mla") else module.TritonAttn()
    asked: dict[str, Any] = {}

    def chosen(wanted: str, shape: Any, _: Any) -> Any:
        if wanted != kind:
            return None
        asked.update(kind=wanted, shape=shape)
        return Tile(*sizes)

    launch_config.choose_tile.cache_clear()
    try:
        with mock.patch.object(launch_config, "tabled", chosen), dry_launch(gfx) as launches:
            solution_of(backend, case)(storageless_problem(case, Gpu(gfx)))
    except Exception as error:  # noqa: BLE001  whatever the compiler raises: it is out
        report(gfx, family, sizes, f"{type(error).__name__}: {str(error).splitlines()[0]}")
        return None
    finally:
        launch_config.choose_tile.cache_clear()
    made = [
        launch
        for launch in launches
        if (launch.rows, launch.keys) == sizes[:2] and launch.matrix_instructions
    ]
    if not made:  # it has a tile of its own, as short requests have
        report(gfx, family, sizes, "is not launched with this tile")
        return Tried(sizes, asked, {})
    if spilling := [one for one in made if one.vgpr_spills or one.scratch_bytes]:
        report(gfx, family, sizes, f"spills {spilling[0].vgpr_spills}")
        return None
    kernel = max(made, key=lambda launch: sum((launch.matrix_instructions or {}).values()))
    tried = Tried(sizes, asked, figures(kernel))
    words = ", ".join(
        f"{name} {tried.figures[name]:.4g}"
        for name in ("vector", "matrix", "vector_per_score", "narrow_lds", "vgprs", "occupancy")
    )
    report(gfx, family, sizes, f"{tried.clocks:.1f} clocks; {words}")
    return tried


def report(gfx: str, family: str, sizes: Sizes, words: str) -> None:
    print(f"{gfx} {family} {'x'.join(map(str, sizes))}: {words}", file=sys.stderr, flush=True)


def row(gfx: str, family: str, best: Tried) -> dict[str, Any]:
    """Return the table's row of a choice."""
    from pytest_rocm_attn.backends.launch_table import rows_of

    shape, found = best.asked["shape"], best.figures
    return {
        "target": gfx,
        "family": family,
        "kind": best.asked["kind"],
        "rows": rows_of(best.asked["kind"], shape),
        "value_size": shape.value_size,
        "tail": shape.tail,
        "element": shape.element,
        "cache_element": shape.cache_element,
        "shared": shape.shared,
        "plain": shape.plain,
        "tile": list(best.sizes[:4]),
        "loops": best.sizes[4],
        "lds_bytes": found["lds_bytes"],
        "vgprs": found["vgprs"],
        "occupancy": found["occupancy"],
        "vector_per_score": round(found["vector_per_score"], 2),
        "clocks": round(best.clocks, 1),
    }


def choose(gfx: str, families: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the row of each family for a target."""
    from pytest_rocm_attn.backends.launch_target import amd_target
    from pytest_rocm_attn.mock import MockRocm

    family_of_gpu = "CDNA" if amd_target(gfx).family == "CDNA" else "RDNA"
    with MockRocm(gfx):
        for family in families:
            kind = FAMILIES[family]
            candidates = CANDIDATES[family_of_gpu, kind]
            tried = [attempt(gfx, family, kind, sizes) for sizes in candidates]
            for best in sorted(filter(None, tried), key=lambda one: one.cost):
                if all(attempt(gfx, one, kind, best.sizes) for one in SERVED.get(family, ())):
                    yield row(gfx, family, best)
                    break  # if none serves, the rule of launch_config takes what spills least


def again(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield rows with the figures that their tiles have today."""
    from pytest_rocm_attn.mock import MockRocm

    for old in rows:
        with MockRocm(old["target"]):
            sizes = (*old["tile"], old["loops"])
            found = attempt(old["target"], old["family"], old["kind"], sizes)
            if found is None:
                raise SystemExit(f"{old['family']} on {old['target']} has to be chosen again")
            yield row(old["target"], old["family"], found)


def written(triton: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return the table as TOML."""
    lines = [HEAD, f'triton = "{triton}"']
    for one in rows:
        lines.append("\n[[configuration]]")
        lines += [f"{name} = {_toml(value)}" for name, value in one.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def read() -> list[dict[str, Any]]:
    """Return the rows of the table."""
    if not TABLE.exists():
        return []
    return list(tomllib.loads(TABLE.read_text("utf-8"))["configuration"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", nargs="+", default=TARGETS, choices=TARGETS)
    parser.add_argument("--family", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument(
        "--again", action="store_true", help="keep the table's tiles, and compile them again"
    )
    options = parser.parse_args()
    import triton

    wanted = list(itertools.product(options.gpu, options.family))
    if options.again:
        found = again([one for one in read() if (one["target"], one["family"]) in wanted])
    else:
        found = itertools.chain(*(choose(gfx, options.family) for gfx in options.gpu))
    for one in found:  # written after each: a run may be broken off, and another one may run
        kept = {(old["target"], old["family"]): old for old in read()}
        kept[one["target"], one["family"]] = one
        order = itertools.product(TARGETS, FAMILIES)
        text = written(triton.__version__, [kept[key] for key in order if key in kept])
        TABLE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
