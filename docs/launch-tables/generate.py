"""Dry-launch attention kernels of a released package on mocked GPUs, and tabulate what they take.

    python docs/launch-tables/generate.py vllm --tree /path/to/vllm-0.12.0 > vllm.md
    python docs/launch-tables/generate.py aiter > aiter.md

``vllm`` runs the unmodified host wrappers of vLLM's unified attention and MLA decode, ``aiter`` those
of AMD's aiter, as installed. The architecture is a property of a process, so each target has one of
its own; ``--one GFX`` is that process, and prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from from_report import beyond_2_gib  # beside this script

TARGETS = {
    "vllm": ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1151", "gfx1201"),
    "aiter": ("gfx942", "gfx950", "gfx1201"),
}
COLUMNS = {
    "LDS": "lds_bytes",
    "limit": "lds_limit",
    "VGPRs": "vgprs",
    "of them AGPRs": "agprs",
    "SGPRs": "sgprs",
    "VGPR spills": "vgpr_spills",
    "SGPR spills": "sgpr_spills",
    "scratch": "scratch_bytes",
    "waves/SIMD": "occupancy",
}
HEAD = """\
# Launch table: {package}, Triton {triton}

Generated on {date} by `docs/launch-tables/generate.py`; torch {torch}. Compiled and checked under
the mocked platform, not executed: no AMD GPU was there. bf16 throughout. LDS and scratch in bytes,
scratch per work-item; VGPRs as allocated, AGPRs included where the register file is unified. Beyond
2 GiB: the pointers whose storage is larger, which Triton's AMD backend addresses with 64 bits.
"""


def unified(attention: Callable[..., None], **shape: int) -> None:
    """Call a unified attention of vLLM's signature on storage-less tensors.

    The cache has 200,000 blocks, which no test machine could hold.
    """
    import torch

    from pytest_rocm_attn.dry_launch import storageless

    head, block, sequences, longest = shape["head"], shape["block"], shape["sequences"], 8192
    q = storageless([shape["tokens"], shape["q_heads"], head], torch.bfloat16)
    cache = storageless([200_000, 2, block, shape["kv_heads"], head], torch.bfloat16)
    attention(
        q,
        cache[:, 0],
        cache[:, 1],
        torch.empty_like(q),
        cu_seqlens_q=storageless([sequences + 1], torch.int32),
        max_seqlen_q=shape["longest_query"],
        seqused_k=storageless([sequences], torch.int32),
        max_seqlen_k=longest,
        softmax_scale=head**-0.5,
        causal=True,
        window_size=(-1, -1),
        block_table=storageless([sequences, longest // block], torch.int32),
        softcap=0.0,
        q_descale=None,
        k_descale=None,
        v_descale=None,
    )


def mla_decode(attention: Callable[..., None], *, heads: int, page: int) -> None:
    """Call vLLM's MLA decode for 32 sequences on storage-less tensors."""
    import torch

    from pytest_rocm_attn.dry_launch import storageless

    batch, splits, latent, rope = 32, 4, 512, 64
    cache = storageless([200_000, page, 1, latent + rope], torch.bfloat16)
    attention(
        storageless([batch, heads, latent + rope], torch.bfloat16),
        cache,
        cache[..., :latent],
        storageless([batch, heads, latent], torch.bfloat16),
        storageless([batch, heads], torch.bfloat16),
        storageless([batch, 8192 // page], torch.int32),
        storageless([batch], torch.int32),
        storageless([batch, heads, splits, latent + 1], torch.float32),
        splits,
        (latent + rope) ** -0.5,
        page,
    )


PREFILL = {"tokens": 4096, "sequences": 4, "longest_query": 1024}
DECODE = {"tokens": 4, "sequences": 4, "longest_query": 1}
SHAPES = {
    "head 128, block 16, 32 query heads on 8": {
        "head": 128,
        "block": 16,
        "q_heads": 32,
        "kv_heads": 8,
    },
    "head 256, block 64, 8 query heads on 1": {
        "head": 256,
        "block": 64,
        "q_heads": 8,
        "kv_heads": 1,
    },
}


def workloads(suite: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield (name, call) of each workload of a suite; imports the package under test."""
    if suite == "aiter":
        from aiter.ops.triton.unified_attention import unified_attention
    else:
        from vllm.attention.ops.triton_decode_attention import decode_attention_fwd
        from vllm.attention.ops.triton_unified_attention import unified_attention
    for shape, sizes in SHAPES.items():
        for phase, lengths in (("prefill", PREFILL), ("decode", DECODE)):
            call = {**sizes, **lengths}
            yield (
                f"unified attention, {phase}, {shape}",
                lambda call=call: unified(unified_attention, **call),
            )
    if suite == "vllm":
        name = "MLA decode, 16 heads, latent 512 and rope 64, page 16"
        yield name, lambda: mla_decode(decode_attention_fwd, heads=16, page=16)


def run_one(suite: str, gfx: str, tree: str | None) -> dict[str, Any]:
    """Dry-launch a suite for one target in this process, and return everything recorded.

    When the package under test cannot even be imported, return the words it died with.
    """
    if tree:
        sys.path.insert(0, tree)
    from pytest_rocm_attn.dry_launch import dry_launch
    from pytest_rocm_attn.errors import MockError
    from pytest_rocm_attn.mock import MockRocm

    found: dict[str, Any] = {"gfx": gfx, "workloads": {}}
    with contextlib.ExitStack() as mocked:
        try:
            mocked.enter_context(MockRocm(gfx, real_aiter=suite == "aiter"))
        except MockError as absent:  # it says what to install
            return {"gfx": gfx, "died": f"MockError: {absent}"}
        try:
            calls = list(workloads(suite))
        except Exception as failure:  # noqa: BLE001 - the package's own words go into the document
            return {"gfx": gfx, "died": f"{type(failure).__name__}: {failure}"}
        for name, call in calls:
            error = None
            with dry_launch() as launches:
                try:
                    call()
                except Exception as failure:  # noqa: BLE001 - whatever it is, a user would see it
                    error = f"{type(failure).__name__}: {failure}"
            found["workloads"][name] = {**launches.as_json(), "error": error}
        import torch
        import triton

        found |= {"triton": triton.__version__, "torch": torch.__version__}
        tool = "amd-aiter" if suite == "aiter" else "vllm"
        found["package"] = f"{tool} {importlib.metadata.version(tool)}"
    return found


def ask(suite: str, gfx: str, tree: str | None) -> dict[str, Any]:
    """Return what a process for one target found, or the end of what it died of."""
    command = [sys.executable, __file__, suite, "--one", gfx]
    done = subprocess.run(
        command + (["--tree", tree] if tree else []), capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    return {"gfx": gfx, "died": done.stderr[-2000:]}


def markdown(results: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the document."""
    whole = [result for result in results if "died" not in result]
    names = list(dict.fromkeys(name for result in whole for name in result["workloads"]))
    for name in names:
        yield f"\n## {name[0].upper()}{name[1:]}\n"
        yield (
            f"| gfx | kernel | {' | '.join(COLUMNS)} | matrix instructions | warps | stages |"
            " beyond 2 GiB |"
        )
        yield f"|---|---|{'---:|' * len(COLUMNS)}---|---:|---:|---|"
        for result in whole:
            workload = result["workloads"][name]
            for launch in workload["launches"]:
                yield row(result["gfx"], launch)
        for result in whole:
            if error := result["workloads"][name]["error"]:
                yield f"\n{result['gfx']} refuses it: `{error}`"
    for result in results:
        if "died" in result:
            yield f"\n## {result['gfx']}\n\nThe package itself refuses the target: `{result['died']}`"


def row(gfx: str, launch: dict[str, Any]) -> str:
    figures = ["?" if launch[key] is None else f"{launch[key]:,}" for key in COLUMNS.values()]
    matrix = ", ".join(f"{n} {name}" for name, n in (launch["matrix_instructions"] or {}).items())
    cells = [gfx, launch["name"], *figures, matrix or "none"]
    cells += [str(launch["num_warps"]), str(launch["num_stages"]), beyond_2_gib(launch)]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=TARGETS)
    parser.add_argument("--tree", help="folder that holds the package, before all others")
    parser.add_argument("--gfx", nargs="+", help="targets; default: those of the suite")
    parser.add_argument("--one", metavar="GFX", help="run one target in this process; print JSON")
    options = parser.parse_args()
    tree = str(Path(options.tree).resolve()) if options.tree else None
    if options.one:
        print(json.dumps(run_one(options.suite, options.one, tree)))
        return 0
    targets = options.gfx or TARGETS[options.suite]
    results = [ask(options.suite, gfx, tree) for gfx in targets]
    versions = next((result for result in results if "died" not in result), None)
    if versions is None:
        raise SystemExit("\n".join(f"{result['gfx']}: {result['died']}" for result in results))
    today = datetime.datetime.now(datetime.UTC).date()
    head = {key: versions[key] for key in ("package", "triton", "torch")}
    print(HEAD.format(date=today, **head) + "\n".join(markdown(results)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
