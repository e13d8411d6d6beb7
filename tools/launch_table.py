"""Choose the attention kernel's configuration for each target and shape class, by what the compiler makes of it.

    python tools/launch_table.py [--again] [--gpu gfx942 ...] [--family prefill-head-size-128 ...]

Every candidate tile is compiled for every class, dry. Those that do not fit are out, and those that spill
if another one does not; of the rest the one with the fewest estimated clocks is taken
(pytest_rocm_attn/dry_launch/estimate.py): per score for a prefill, whose rows fill the tile; per key, of all
programs that share the rows of a KV head, for the others. The choices are written
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "backends" / "launch_table.toml"
TARGETS = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
BACKENDS = "pytest_rocm_attn.backends.under_test"
# Shape family of the launch tier, or of `cases`, -> the kind of tile that it asks for.
FAMILIES = {
    "prefill-head-size-64": "prefill",
    "prefill-head-size-128": "prefill",
    "prefill-head-size-256": "prefill",
    "prefill-over-an-fp8-cache-head-size-64": "prefill",
    "prefill-over-an-fp8-cache-head-size-128": "prefill",
    "prefill-over-an-fp8-cache-head-size-256": "prefill",
    "mla-prefill-bfloat16": "prefill",
    "32-short-rows-head-size-128": "short",
    "64-short-rows-head-size-128": "short",
    "128-short-rows-head-size-128": "short",
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
        "decode-in-blocks-of-hybrid-models-block-size-544",
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
# What is tried: rows, keys, warps, stages, whether tiles that need no mask have a loop of their own, and
# the waves that a SIMD is to hold (0: the compiler decides). On CDNA a wave owns 32 rows, or 16, and more
# waves than that repeat each other's products; a SIMD that holds two has 256 registers for each.
Sizes = tuple[int, int, int, int, bool, int]
CANDIDATES: dict[tuple[str, str], tuple[Sizes, ...]] = {
    ("CDNA", "prefill"): (
        (256, 64, 8, 2, True, 0),
        (256, 64, 8, 1, True, 0),
        (256, 32, 8, 2, True, 0),
        (128, 64, 4, 2, True, 2),
        (128, 64, 4, 1, True, 2),
        (128, 32, 4, 2, True, 2),
    ),
    ("CDNA", "short"): (
        (32, 32, 1, 1, True, 2),
        (32, 32, 2, 1, True, 0),
        (64, 64, 2, 2, True, 2),
        (64, 32, 2, 1, True, 2),
        (128, 64, 4, 2, True, 2),
        (128, 64, 4, 1, True, 2),
    ),
    ("CDNA", "decode"): (
        (16, 64, 1, 1, True, 0),
        (16, 64, 2, 1, True, 2),
        (16, 64, 2, 1, True, 0),
        (16, 32, 1, 1, True, 0),
        (16, 32, 1, 1, True, 3),
        (16, 32, 1, 1, True, 2),
        (16, 32, 2, 2, False, 0),
    ),
    ("CDNA", "latent"): (
        (16, 32, 2, 1, False, 0),
        (32, 32, 4, 1, False, 0),
        (16, 16, 2, 1, False, 0),
        (32, 16, 2, 1, False, 0),
        (64, 16, 4, 1, False, 0),
    ),
    ("RDNA", "prefill"): (
        (128, 32, 8, 1, True, 0),
        (128, 16, 8, 1, True, 0),
        (64, 32, 4, 1, True, 0),
        (64, 32, 8, 1, True, 0),
        (64, 16, 4, 1, True, 0),
    ),
    ("RDNA", "short"): (
        (32, 32, 2, 1, True, 0),
        (32, 16, 2, 1, True, 0),
        (32, 16, 2, 1, False, 0),
        (32, 16, 4, 1, True, 0),
        (64, 32, 4, 1, True, 0),
        (64, 16, 4, 1, True, 0),
        (128, 16, 8, 1, True, 0),
    ),
    ("RDNA", "decode"): (
        (16, 32, 1, 1, True, 0),
        (16, 32, 2, 1, True, 0),
        (16, 32, 2, 1, False, 0),
        (16, 16, 1, 1, True, 0),
        (16, 16, 2, 1, True, 0),
        (16, 16, 2, 1, False, 0),
        (16, 32, 4, 1, False, 0),
    ),
    ("RDNA", "latent"): (
        (16, 16, 4, 1, False, 0),
        (32, 16, 4, 1, False, 0),
        (16, 16, 8, 1, False, 0),
    ),
}
HEAD = """\
# The attention kernel's configuration for each target and class of shapes. Written by tools/launch_table.py:
# edit that. Chosen by loop figures and estimates, for want of an AMD GPU; nothing here was timed.
# value_size to plain: launch_config.Shape. rows: launch_table.rows_of.
# waves_per_eu: asked of the compiler, or 0. clocks: estimated, of a compute unit for 1,000 scores of a prefill,
# for 1,000 keys of the others.
"""


@dataclass(frozen=True)
class Tried:
    """A candidate that compiled and fits: its tile, what was asked, and what the kernel takes; nothing if
    the family is not launched with it."""

    sizes: Sizes
    asked: dict[str, Any]
    figures: dict[str, Any]

    @property
    def clocks(self) -> float:
        """Per 1,000 scores of a prefill, per 1,000 keys of the others."""
        per = "clocks_per_score" if self.asked["kind"] == "prefill" else "clocks_per_key"
        return float(self.figures[per])

    @property
    def spills(self) -> int:
        return int(self.figures.get("spills") or 0)

    @property
    def cost(self) -> float:
        """What is to be small: the clocks, of all programs if several share the rows of a KV head.

        Memory is not compared: every candidate reads the same keys.
        """
        if self.asked["kind"] == "prefill":
            return self.clocks
        return -(-int(self.asked["shape"].rows) // self.sizes[0]) * self.clocks


def attempt(gfx: str, family: str, kind: str, sizes: Sizes) -> Tried | None:
    """Return a candidate as it compiles for a family; None if it does not compile or fit."""
    from pytest_rocm_attn.backends import launch_config
    from pytest_rocm_attn.backends.kernels.attention import AttentionPlan
    from pytest_rocm_attn.conformance.tiers.launch.problems import storageless_problem
    from pytest_rocm_attn.conformance.tiers.numerics.judge import solution_of
    from pytest_rocm_attn.dry_launch import dry_launch, figures
    from pytest_rocm_attn.gpu import Gpu

    case, tile = cases()[family], tile_from(sizes)
    module = importlib.import_module(BACKENDS)
    backend = module.TritonMla() if case.kind.startswith("mla") else module.TritonAttn()
    asked: dict[str, Any] = {}

    def chosen(wanted: str, shape: Any, _: Any) -> Any:
        if wanted != kind:
            return None
        asked.update(kind=wanted, shape=shape)
        return tile

    compute = AttentionPlan.__call__

    def attend_only(plan: Any, *tensors: Any, **further: Any) -> None:
        """Launch a plan without its repair and merge, which have no such tile and take long to compile."""
        quiet = {
            name: (lambda *_: None)
            for name in ("repair", "merge")
            if getattr(plan, name) is not None
        }
        compute(replace(plan, **quiet), *tensors, **further)

    def chosen_short(shape: Any, target: Any) -> Any:
        return [one for one in [chosen("short", shape, target)] if one]

    forget_choices()
    try:
        with (
            mock.patch.object(AttentionPlan, "__call__", attend_only),
            mock.patch.multiple(launch_config, tabled=chosen, tabled_short=chosen_short),
            dry_launch(gfx) as launches,
        ):
            solve = solution_of(backend, case)
            assert callable(solve), solve
            solve(storageless_problem(case, Gpu(gfx)))
    except Exception as error:  # noqa: BLE001  whatever the compiler raises: it is out
        report(gfx, family, sizes, f"{type(error).__name__}: {str(error).splitlines()[0]}")
        return None
    finally:
        forget_choices()
    made = [
        launch
        for launch in launches
        if (launch.rows, launch.keys) == sizes[:2] and launch.matrix_instructions
    ]
    if not made:  # it has a tile of its own, as short requests have
        report(gfx, family, sizes, "is not launched with this tile")
        return Tried(sizes, asked, {})
    kernel = max(made, key=lambda launch: sum((launch.matrix_instructions or {}).values()))
    tried = Tried(sizes, asked, figures(kernel))
    words = ", ".join(
        f"{name} {tried.figures[name]:.4g}"
        for name in (
            "vector",
            "matrix",
            "vector_per_score",
            "narrow_lds",
            "vgprs",
            "spills",
            "occupancy",
        )
    )
    report(gfx, family, sizes, f"{tried.clocks:.1f} clocks; {words}")
    return tried


def cases() -> dict[str, Any]:
    """Return what is compiled for each family: the launch tier's case, or requests of a few new tokens."""
    from pytest_rocm_attn.conformance.tiers.launch.tier import shipped

    found = {one.id: one for one in shipped()}
    decode = found["decode-head-size-128"]
    group = decode.request.num_heads // decode.request.num_kv_heads
    for rows in (32, 64, 128):
        name = f"{rows}-short-rows-head-size-128"
        found[name] = replace(decode, id=name, lengths=((rows // group, 131072),))
    return found


def tile_from(sizes: Sizes) -> Any:
    """Return the tile that a row of the table with these sizes stands for."""
    from pytest_rocm_attn.backends.launch_table import tile_of

    *tile, loops, waves = sizes
    return tile_of({"tile": tile, "loops": loops, "waves_per_eu": waves})


def forget_choices() -> None:
    """Let tiles be chosen again: the table is replaced, or is back."""
    from pytest_rocm_attn.backends import launch_config

    launch_config.choose_tile.cache_clear()
    launch_config.choose_short_tile.cache_clear()


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
        "waves_per_eu": best.sizes[5],
        "lds_bytes": found["lds_bytes"],
        "vgprs": found["vgprs"],
        "spills": found["spills"],
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
            launched = [one for one in tried if one is not None and one.figures]
            for best in sorted(launched, key=lambda one: (one.spills > 0, one.cost)):
                served = [attempt(gfx, one, kind, best.sizes) for one in SERVED.get(family, ())]
                if all(one is not None and one.spills <= best.spills for one in served):
                    yield row(gfx, family, best)
                    break  # if none serves, the rule of launch_config takes what spills least


def again(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield rows with the figures that their tiles have today."""
    from pytest_rocm_attn.mock import MockRocm

    for old in rows:
        with MockRocm(old["target"]):
            sizes = (*old["tile"], old["loops"], old["waves_per_eu"])
            found = attempt(old["target"], old["family"], old["kind"], sizes)
            if found is None or (found.spills and not old["spills"]):
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
