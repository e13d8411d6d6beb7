"""Write docs/kernel-figures.md: what the loops of our attention kernels take, with those of others next to them.

    pip install --no-deps --target aiter amd-aiter
    python tools/kernel_figures.py --vllm vllm-0.33.0 [--aiter aiter] [--gpu gfx942 ...] [--workload decode ...]

The folders hold the packages, vLLM's from its source distribution. Each backend is compiled for each target in a process of its own, by
the Triton of this Python, which needs vLLM's light dependencies; llvm-mca makes the estimates whole. What an
option leaves out keeps the figures that docs/kernel-figures.json has of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from pytest_rocm_attn.conformance.tiers.launch.compare_command import (
    KernelSubject,
    examine,
    family,
    loops_of,
    read_subjects,
)
from pytest_rocm_attn.conformance.tiers.numerics.case import Case
from pytest_rocm_attn.dry_launch.figures import text
from pytest_rocm_attn.errors import BackendUnderTestError
from pytest_rocm_attn.gpu import Gpu

DOCS = Path(__file__).parent.parent / "docs"
PAGE, DATA = DOCS / "kernel-figures.md", DOCS / "kernel-figures.json"
TARGETS = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")


@dataclass(frozen=True)
class Workload:
    """What is compared.

    Args:
        title: of its section.
        per: "score" if all rows of every tile have work, else "key": the figure that decides.
        case: what is launched.
        about: a sentence for the page.
    """

    title: str
    per: str
    case: Case
    about: str

    @property
    def ours(self) -> str:
        return "TRITON_MLA" if self.case.kind.startswith("mla") else "TRITON_ATTN"

    @property
    def vllm(self) -> str:
        return "VLLM-MLA" if self.case.kind.startswith("mla") else "VLLM"


def workloads() -> dict[str, Workload]:
    """Return the workloads by name."""
    heads = "32 query heads on 8 KV heads of 128 columns"
    short = replace(
        family("decode-head-size-128"), id="short-queries", lengths=((8, 131072), (3, 100))
    )
    return {
        "prefill": Workload(
            "Prefill", "score", family("prefill-head-size-128"), f"bf16, {heads}, blocks of 16."
        ),
        "decode": Workload(
            "Decode, bf16 cache",
            "key",
            family("decode-head-size-128"),
            f"bf16, {heads}, blocks of 16: 4 rows share a KV head.",
        ),
        "decode-fp8": Workload(
            "Decode, fp8 cache",
            "key",
            family("decode-over-an-fp8-cache-head-size-128"),
            f"bf16 over fp8 in the target's own flavour, {heads}, blocks of 16.",
        ),
        "short": Workload(
            "Short queries", "score", short, f"8 new tokens after 131,064, bf16, {heads}: 32 rows."
        ),
        "mixed": Workload(
            "Mixed batch",
            "score",
            family("mixed-batch"),
            f"fp16, {heads}: two decodes, a prefill of 1,024 and a chunk of 512 tokens.",
        ),
        "mla-16": Workload(
            "MLA decode, 16 heads",
            "key",
            family("mla-decode-num-heads-16"),
            "bf16, 512 + 64 columns, blocks of 16.",
        ),
        "mla-128": Workload(
            "MLA decode, 128 heads",
            "score",
            family("mla-decode-num-heads-128"),
            "bf16, 512 + 64 columns, blocks of 16.",
        ),
    }


COLUMNS = {
    "tile": "rows x keys, waves",
    "matrix": "matrix",
    "vector": "vector",
    "vector_per_score": "vector lane ops a score",
    "vector_per_key": "vector instr. a key",
    "lds": "LDS",
    "narrow_lds": "of 16 bits",
    "barriers": "barriers",
    "bytes_per_key": "bytes a key",
    "vgprs": "VGPRs",
    "spills": "spills",
    "occupancy": "waves a SIMD",
    "clocks_per_score": "clocks, 1,000 scores",
    "clocks_per_key": "clocks, 1,000 keys",
    "memory_clocks_per_key": "memory, 1,000 keys",
}
KEPT = ("rows", "keys", "waves", *(name for name in COLUMNS if name != "tile"))
HEAD = """\
# Loop figures of the attention kernels

<!-- Written by tools/kernel_figures.py: edit that, or what it reads. -->

What one iteration of each kernel's main loop takes, compiled by {compilers}. Evidence: launch. Nothing was run or timed;
no AMD GPU was there. {peers} are unmodified. [dry-launch.md](dry-launch.md#loop-figures) explains the figures. Matrix, vector and
LDS instructions and barriers are those of one wave; the other figures count all waves of the workgroup. Clocks are
*estimates*, of a compute unit, by {models}. "Memory" is what the loads take at the peak of the memory bandwidth if no cache
serves them; in a decode it is the larger of the two.

"Of the best peer" divides ours by the least of the others: the estimated clocks a score if all rows of a tile have work; the bytes
and the vector instructions a key in a decode. Less than 1 is better. The bytes can hardly be fewer than a peer's, as every kernel reads
each key and value of the cache once. A batch for which a backend launches several kernels has a line for each,
and the ratio takes the one whose tile has most rows, which computes the longest requests.
"""


def measure(subject: KernelSubject, work: Mapping[str, Workload], gfx: str) -> dict[str, Any]:
    """Return, by workload, what the page needs of a backend's kernels on a target."""
    try:
        found = examine(subject, [one.case for one in work.values()], Gpu(gfx))
    except BackendUnderTestError as error:  # a package that does not know the target
        return {name: {"refusal": str(error), "kernels": []} for name in work}
    kept = {}
    for name, one in work.items():
        result = found[one.case.id]
        kept[name] = {
            "refusal": "" if result.kind == "right" else f"{result.kind}: {result.words}",
            "kernels": [
                {
                    "figures": {name: _short(launch["figures"][name]) for name in KEPT},
                    "compiler": launch["compiler"],
                    "model": launch["model"],
                }
                for launch in loops_of(result)
            ],
        }
    return kept


def _short(value: float | None) -> float | None:
    """Return a figure with four digits, which is more than an estimate has."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def page(data: Mapping[str, Any]) -> str:
    """Return the page from what was measured: by workload, target and name of the backend."""
    kernels = [
        kernel
        for targets in data.values()
        for backends in targets.values()
        for entry in backends.values()
        for kernel in entry["kernels"]
    ]
    peers = sorted(
        {
            name
            for targets in data.values()
            for backends in targets.values()
            for name in backends
            if name != OURS
        }
    )
    head = HEAD.format(
        compilers=", ".join(sorted({kernel["compiler"] for kernel in kernels})),
        peers=", ".join(peers),
        models="; ".join(sorted({kernel["model"] for kernel in kernels} - {""})),
    )
    lines = [head]
    for name, work in workloads().items():
        if name in data:
            lines += section(work, data[name])
    return "\n".join(lines).rstrip("\n") + "\n"


OURS = "ours"


def section(work: Workload, targets: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a workload's section."""
    yield f"## {work.title}\n"
    yield f"{work.about}\n"
    yield f"| target | kernel | {' | '.join(COLUMNS.values())} | of the best peer |"
    yield f"| --- | --- |{' ---: |' * (len(COLUMNS) + 1)}"
    refusals = []
    for gfx in TARGETS:
        backends = targets.get(gfx, {})
        ratio = _ratio(work, backends)
        for name, entry in backends.items():
            for kernel in entry["kernels"]:
                last = ratio if name == OURS and kernel is _heaviest(entry) else ""
                yield row(gfx, name, kernel["figures"], last)
            if entry["refusal"]:
                refusals.append(f"{name} on {gfx}: {entry['refusal']}")
    yield ""
    for refusal in refusals:
        yield f"{refusal}.\n"


def row(gfx: str, name: str, figures: Mapping[str, Any], ratio: str) -> str:
    """Return a line of a table."""
    tile = f"{text(figures['rows'])} x {text(figures['keys'])}, {figures['waves']}"
    cells = [tile, *(text(figures[column]) for column in COLUMNS if column != "tile")]
    return f"| {gfx} | {name} | {' | '.join(cells)} | {ratio} |"


def _heaviest(entry: Mapping[str, Any]) -> Any:
    """Return the kernel for the longest requests: whose tile has most rows, then most keys."""
    return max(
        entry["kernels"],
        key=lambda kernel: (kernel["figures"]["rows"] or 0, kernel["figures"]["keys"] or 0),
        default=None,
    )


def _ratio(work: Workload, backends: Mapping[str, Any]) -> str:
    """Return our figures divided by the least of the others, those that decide for the workload."""
    decisive = {
        "score": {"clocks_per_score": ""},
        "key": {"bytes_per_key": " bytes", "vector_per_key": " vector"},
    }
    found = []
    for column, unit in decisive[work.per].items():
        values = {
            name: kernel["figures"][column]
            for name, entry in backends.items()
            if (kernel := _heaviest(entry)) is not None and kernel["figures"][column] is not None
        }
        peers = [value for name, value in values.items() if name != OURS]
        if OURS in values and peers:
            found.append(f"{values[OURS] / min(peers):.2f}{unit}")
    return ", ".join(found) or "-"


def subjects(work: Workload, vllm: str, aiter: str) -> dict[str, KernelSubject]:
    """Return the backends that take part in a workload, by the name on the page."""
    (mine,) = read_subjects([work.ours])
    found = {OURS: mine}
    if vllm:
        release = f"vLLM {Path(vllm).name.removeprefix('vllm-')}"
        (found[release],) = read_subjects([f"{work.vllm}@{vllm}"])
        if work.per == "key" and work.vllm == "VLLM":
            (found[f"{release}, paged decode"],) = read_subjects([f"VLLM-ROCM@{vllm}"])
    if aiter and work.vllm == "VLLM":
        (installed,) = distributions(name="amd-aiter", path=[aiter])
        (found[f"aiter {installed.version}"],) = read_subjects([f"AITER@{aiter}"])
    return found


def gather(
    names: Sequence[str], targets: Sequence[str], vllm: str, aiter: str
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield workload, target, backend and what was measured; a process for each backend and target."""
    known = workloads()
    for gfx in targets:
        grouped: dict[tuple[str, KernelSubject], dict[str, Workload]] = {}
        for name in names:
            for shown, subject in subjects(known[name], vllm, aiter).items():
                grouped.setdefault((shown, subject), {})[name] = known[name]
        for (shown, subject), work in grouped.items():
            for name, entry in measure(subject, work, gfx).items():
                yield name, gfx, shown, entry


def read() -> dict[str, Any]:
    """Return what was measured so far."""
    return dict(json.loads(DATA.read_text("utf-8"))) if DATA.exists() else {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", default="", help="folder of vLLM's sources")
    parser.add_argument("--aiter", default="", help="folder of aiter's sources")
    parser.add_argument("--gpu", nargs="+", default=TARGETS, choices=TARGETS)
    parser.add_argument("--workload", nargs="+", default=list(workloads()), choices=workloads())
    options = parser.parse_args()
    for name, gfx, shown, entry in gather(
        options.workload, options.gpu, options.vllm, options.aiter
    ):
        data = read()  # another run may have added to it
        data.setdefault(name, {}).setdefault(gfx, {})[shown] = entry
        DATA.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", "utf-8")
    PAGE.write_text(page(read()), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
