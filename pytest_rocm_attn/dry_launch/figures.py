"""The figures of a kernel's main loop by name: to be shown, compared and held to budgets.

An iteration covers `rows` x `keys` scores (Kernel). Lane operations are the vector instructions of all
waves of the workgroup times the lanes of a wave, whether or not a lane has work; a dual instruction is
two operations. "Clocks" are those of one compute unit, by estimate (dry_launch/estimate.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.columns import aligned
from pytest_rocm_attn.dry_launch.estimate import simds_per_cu
from pytest_rocm_attn.errors import MockArgumentError, nearest
from pytest_rocm_attn.gpu import Gpu

if TYPE_CHECKING:
    from pytest_rocm_attn.dry_launch.record import Kernel

Value = float | int | None

# What each figure is, and whether a larger one is better.
FIGURES: Mapping[str, str] = {
    "matrix": "matrix instructions an iteration",
    "vector": "vector operations an iteration",
    "transcendental": "transcendental operations among them",
    "scalar": "scalar instructions an iteration",
    "lds": "LDS instructions an iteration",
    "narrow_lds": "LDS instructions of 16 bits or fewer an iteration",
    "lds_bytes_moved": "bytes that a wave moves to and from LDS an iteration",
    "loads": "vector loads of global memory an iteration",
    "bytes": "bytes that the workgroup loads an iteration",
    "scalar_loads": "scalar loads an iteration",
    "scratch": "loads and stores of scratch memory an iteration",
    "barriers": "barriers an iteration",
    "waits": "waits an iteration",
    "instructions": "instructions of the longest iteration",
    "rows": "query rows that an iteration covers",
    "keys": "keys that an iteration covers",
    "multiply_adds_per_score": "multiply-adds per score, including those that waves repeat",
    "vector_per_score": "vector lane operations per score",
    "vector_per_key": "vector instructions of all waves, per key",
    "vector_per_byte": "vector lane operations a byte loaded",
    "bytes_per_key": "bytes loaded a key, by all waves",
    "clocks_per_score": "estimated clocks of a compute unit per 1,000 scores",
    "clocks_per_key": "estimated clocks of a compute unit per 1,000 keys",
    "memory_clocks_per_key": "clocks per 1,000 keys at the peak of the memory bandwidth, uncached",
    "clocks": "estimated clocks of a SIMD for an iteration of one wave",
    "vgprs": "vector registers of a wave",
    "agprs": "accumulation registers among them",
    "sgprs": "scalar registers of a wave",
    "spills": "registers that are spilled",
    "lds_bytes": "LDS of a workgroup, bytes",
    "waves": "waves of a workgroup",
    "occupancy": "waves per SIMD",
}
AT_LEAST = ("occupancy", "rows", "keys")


def figures(kernel: Kernel) -> dict[str, Value]:
    """Return the figures of a kernel's main loop, and its registers; None for what is not known.

    Those of an iteration count what one wave issues, unless FIGURES says otherwise.
    """
    loop = kernel.main_loop
    rows, keys, waves = kernel.rows, kernel.keys, kernel.waves
    found: dict[str, Value] = dict.fromkeys(FIGURES)
    found |= {
        "rows": rows,
        "keys": keys,
        "vgprs": kernel.vgprs,
        "agprs": kernel.agprs,
        "sgprs": kernel.sgprs,
        "spills": kernel.spills,
        "lds_bytes": kernel.lds_bytes,
        "waves": waves,
        "occupancy": kernel.occupancy,
    }
    estimated = kernel.estimate()
    if loop is None or estimated is None:
        return found
    lanes = kernel.wavefront * waves
    scores = None if rows is None or keys is None else rows * keys
    loaded = loop.load_bytes * lanes
    share = waves / simds_per_cu(Gpu(kernel.gfx)) * 1000  # of a compute unit, for 1,000 of each
    return found | {
        "matrix": loop.matrix_instructions,
        "vector": loop.vector,
        "transcendental": loop.transcendental,
        "scalar": loop.scalar,
        "lds": loop.lds,
        "narrow_lds": loop.narrow_lds,
        "lds_bytes_moved": loop.lds_bytes * kernel.wavefront,
        "loads": loop.loads,
        "bytes": loaded,
        "scalar_loads": loop.scalar_loads,
        "scratch": loop.scratch,
        "barriers": loop.barriers,
        "waits": loop.waits,
        "instructions": loop.instructions,
        "multiply_adds_per_score": _ratio(loop.multiply_adds * waves, scores),
        "vector_per_score": _ratio(loop.vector * lanes, scores),
        "vector_per_key": _ratio(loop.vector * waves, keys),
        "vector_per_byte": _ratio(loop.vector * lanes, loaded),
        "bytes_per_key": _ratio(loaded, keys),
        "clocks_per_score": _ratio(estimated.clocks * share, scores),
        "clocks_per_key": _ratio(estimated.clocks * share, keys),
        "memory_clocks_per_key": _ratio(
            None if estimated.memory is None else estimated.memory * share, keys
        ),
        "clocks": estimated.clocks,
    }


def over_budget(kernel: Kernel, budgets: Mapping[str, float]) -> list[str]:
    """Return each figure of a kernel's main loop that is over its budget, in words.

    Args:
        budgets: by the names of FIGURES: the most of each, of those in AT_LEAST the fewest.

    Raises:
        MockArgumentError: there is no figure of such a name.
    """
    unknown = next((name for name in budgets if name not in FIGURES), None)
    if unknown is not None:
        raise MockArgumentError(
            f"no figure is called {unknown!r}.{nearest(unknown, FIGURES)} Known: {', '.join(FIGURES)}"
        )
    found = figures(kernel)
    faults = []
    for name, budget in budgets.items():
        value = found[name]
        least = name in AT_LEAST
        if value is None:
            faults.append(f"{name} is not known ({_why_unknown(kernel, name)})")
        elif value < budget if least else value > budget:
            side = "least" if least else "most"
            faults.append(
                f"{name} is {text(value)} ({FIGURES[name]}), the budget is at {side} {budget:g}"
            )
    return faults


def compare(kernels: Mapping[str, Kernel]) -> str:
    """Return a table of the main loops of kernels, a column each, for the terminal.

    With two kernels a last column has the first's figure divided by the second's.

    Args:
        kernels: by the name to show. They may be of different targets, compilers or releases.
    """
    return tabulate({name: described(kernel) for name, kernel in kernels.items()})


def described(kernel: Kernel) -> dict[str, Any]:
    """Return a kernel's name, figures and the model of its estimate, as `tabulate` takes them."""
    estimated = kernel.estimate()
    return {
        "kernel": str(kernel),
        "figures": figures(kernel),
        "model": "" if estimated is None else estimated.model,
    }


def tabulate(columns: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table that `compare` prints, from what `described` returned for each kernel."""
    pair = len(columns) == 2
    rows: list[Sequence[str]] = [("", *columns, *(["ratio"] if pair else []))]
    titles = [str(column["kernel"]) for column in columns.values()]
    rows.append(("kernel", *titles, *([""] if pair else [])))
    for name in FIGURES:
        values = [column["figures"][name] for column in columns.values()]
        if any(value is not None for value in values):
            ratio = [_quotient(values[0], values[1])] if pair else []
            rows.append((name, *map(text, values), *ratio))
    models = sorted({column["model"] for column in columns.values()} - {""})
    return "\n".join([*aligned(rows), *(f"clocks are estimates: {model}" for model in models)])


def text(value: Value) -> str:
    """Return a figure as people read it: three digits of a fraction, all of a count."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _why_unknown(kernel: Kernel, name: str) -> str:
    if kernel.loops is None:
        return "the compiler kept no assembly"
    if kernel.main_loop is None:
        return "the kernel has no loop"
    if kernel.rows is None and name not in ("memory_clocks_per_key", "occupancy"):
        return "rows and keys of an iteration are unknown: give them, by dataclasses.replace"
    return "hardware.toml lacks a figure of the target"


def _ratio(value: float | None, of: int | None) -> float | None:
    return None if value is None or not of else value / of


def _quotient(first: Value, second: Value) -> str:
    return "-" if first is None or not second else f"{first / second:.2f}"
