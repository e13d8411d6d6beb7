"""Record the signatures of kernels that are not in a release's Python files.

Usage: python tools/record_closed_kernels.py AITER FLASH [SDISTS]

AITER is a clone of ROCm/aiter, FLASH an unpacked sdist of flash-attn, SDISTS a folder of unpacked sdists of vLLM,
each named by its release. What is recorded: the parameters of the functions of AITER that attention backends call, as each recorded version defines
them; the operators' schemas that vLLM's C++ registers; and which AITER each release of vLLM is built with. An
entry holds from the version that it names to the next entry. Without SDISTS what is known of vLLM is kept.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

DATA = Path(__file__).parent.parent / "conformance" / "adapters" / "closed" / "signatures.json"
# Versions of AITER, in order: those that releases of vLLM are built with, and the last ones that could be read.
VERSIONS = (
    *("59bd8ff2", "v0.1.7.post2", "v0.1.9", "v0.1.10.post2", "v0.1.10.post3", "v0.1.12.post2"),
    *("v0.1.13", "v0.1.14.post1", "v0.1.15.post3", "v0.1.16.post2", "v0.1.17", "v0.1.18"),
    *("v0.1.19.post2", "v0.1.20.post1"),
)
# Module that callers import from -> files that may define its functions, and the functions.
FUNCTIONS = {
    "aiter": (
        ("aiter/ops/mha.py", "aiter/ops/attention.py", "aiter/ops/cache.py", "aiter/paged_attn.py"),
        (
            *("flash_attn_func", "flash_attn_varlen_func", "flash_attn_varlen_fp8_pertensor_func"),
            *("fmha_v3_varlen_fwd", "get_mla_metadata_v1", "get_mla_metadata_info_v1"),
            *("get_pa_metadata_v1", "get_ps_metadata_info_v1", "get_ps_metadata_v1"),
            *("mla_prefill_ps_asm_fwd", "mla_reduce_v1", "mla_decode_stage1_asm_fwd"),
            *("mla_prefill_asm_fwd", "paged_attention_common", "paged_attention_rocm"),
            *("pa_fwd_asm", "pa_fwd_naive", "pa_persistent_fwd"),
            *("reshape_and_cache", "reshape_and_cache_flash"),
            *("reshape_and_cache_with_pertoken_quant", "concat_and_cache_mla"),
        ),
    ),
    "torch.ops.aiter": (("aiter/ops/attention.py",), ("paged_attention_v1",)),
    "aiter.mla": (("aiter/mla.py",), ("mla_decode_fwd", "mla_prefill_fwd", "mla_prefill_ps_fwd")),
    "aiter.ops.triton.unified_attention": (
        (
            "aiter/ops/triton/attention/unified_attention.py",
            "aiter/ops/triton/unified_attention.py",
        ),
        ("unified_attention",),
    ),
    "aiter.ops.triton.mha": (
        ("aiter/ops/triton/attention/mha.py", "aiter/ops/triton/mha.py"),
        ("flash_attn_varlen_func",),
    ),
    "aiter.ops.triton.mha_v3": (
        ("aiter/ops/triton/attention/mha_v3.py", "aiter/ops/triton/mha_v3.py"),
        ("flash_attn_with_kvcache",),
    ),
    "aiter.ops.triton.gluon.pa_decode_gluon": (
        ("aiter/ops/triton/gluon/pa_decode_gluon.py",),
        ("get_recommended_splits", "pa_decode_gluon"),
    ),
    "aiter.ops.triton.gluon.mla_decode_gluon": (
        ("aiter/ops/triton/gluon/mla_decode_gluon.py",),
        ("mla_decode_gluon",),
    ),
    "aiter.ops.triton.gluon.mla_gluon": (
        ("aiter/ops/triton/gluon/mla_gluon.py",),
        ("mla_gluon",),
    ),
    "aiter.ops.triton.attention.mla": (
        ("aiter/ops/triton/attention/mla.py",),
        ("mla_decode_fwd",),
    ),
    "aiter.ops.triton.batched_gemm_a16wfp4": (
        (
            "aiter/ops/triton/gemm/batched/batched_gemm_a16wfp4.py",
            "aiter/ops/triton/batched_gemm_a16wfp4.py",
        ),
        ("batched_gemm_a16wfp4",),
    ),
}
FLASH = ("flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache")
NAMESPACES = {
    "CONCAT(TORCH_EXTENSION_NAME, _cache_ops)": "_C_cache_ops",
    "TORCH_EXTENSION_NAME": "_C",
}
# Of an operator that attention uses, by its name.
WANTED = re.compile(
    r"(reshape_and_cache|concat_and_cache|gather|concat_mla|indexer|convert_fp8|paged_attention|merge_attn"
    r"|_fp8_quant$|rotary_embedding$)"
)
LIBRARY = re.compile(
    r"(?:STABLE_)?TORCH_LIBRARY(?:_EXPAND|_FRAGMENT)?\(\s*(CONCAT\([^)]*\)|\w+),\s*\w+\)"
    r'|\.def\(\s*((?:"(?:[^"\\]|\\.)*"\s*)+)'
)


def git(repo: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repo), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode == 0 else ""


def parameters(source: str, name: str) -> str | None:
    """Return the parameters of a module's function, as text without annotations."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                one.annotation = None
            return ast.unparse(node.args)
    return None


def add(table: dict[str, list[list[str]]], name: str, version: str, said: str) -> None:
    """Note what a version says, if that is not what the one before says."""
    entries = table.setdefault(name, [])
    if not entries or entries[-1][1] != said:
        entries.append([version, said])


def aiter(repo: Path) -> dict[str, list[list[str]]]:
    table: dict[str, list[list[str]]] = {}
    for version in VERSIONS:
        for module, (files, names) in FUNCTIONS.items():
            sources = [text for file in files if (text := git(repo, "show", f"{version}:{file}"))]
            for name in names:
                found = (parameters(source, name) for source in sources)
                said = next((one for one in found if one is not None), None)
                full = f"{module}.{name}"
                if said is not None:
                    add(table, full, version, said)
                elif full in table:
                    add(table, full, version, "")  # gone
    return table


def flash(folder: Path) -> dict[str, list[list[str]]]:
    """Return flash_attn's functions: they are those of one version, next to every AITER."""
    source = (folder / "flash_attn" / "flash_attn_interface.py").read_text("utf-8")
    found = {f"flash_attn.{name}": parameters(source, name) for name in FLASH}
    return {name: [[VERSIONS[0], said]] for name, said in found.items() if said is not None}


def registered(source: str, folder: str) -> Iterator[tuple[str, str]]:
    """Yield (namespace, schema) of each operator that a file of C++ registers."""
    namespace = ""
    for found in LIBRARY.finditer(source):
        if found[1]:
            namespace = NAMESPACES.get(found[1], found[1])
            if folder == "rocm" and namespace == "_C":
                namespace = "_rocm_C"
            continue
        text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', found[2]))
        schema = re.sub(r"\(\s+", "(", re.sub(r"\s+", " ", text).strip())
        if "(" in schema and WANTED.search(schema.partition("(")[0]):
            yield namespace, schema


def vllm(folder: Path) -> tuple[dict[str, list[list[str]]], dict[str, str]]:
    table: dict[str, list[list[str]]] = {}
    pins: dict[str, str] = {}
    releases = [one for one in folder.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", one.name)]
    for release in sorted(releases, key=lambda one: [int(part) for part in one.name.split(".")]):
        image = (release / "docker" / "Dockerfile.rocm_base").read_text("utf-8")
        pin = re.search(r'^ARG AITER_BRANCH="?([^"\s]+)', image, re.MULTILINE)
        pins[release.name] = pin[1] if pin else ""
        for file in sorted((release / "csrc").rglob("torch_bindings.cpp")):
            if file.parent.name not in ("cpu", "quickreduce", "moe"):
                for namespace, schema in registered(file.read_text("utf-8"), file.parent.name):
                    name = f"{namespace}::{schema.partition('(')[0]}"
                    add(table, name, release.name, schema)
    return table, pins


def main() -> None:
    repo, flash_attn, *more = map(Path, sys.argv[1:])
    known = json.loads(DATA.read_text("utf-8")) if DATA.is_file() else {}
    operators, pins = vllm(more[0]) if more else (known["operators"], known["pins"])
    data = {
        "source": "ROCm/aiter by tag; Dao-AILab/flash-attention 2.8.3, its sdist; vllm-project/vllm's sdists, csrc/**/torch_bindings.cpp and"
        " docker/Dockerfile.rocm_base; tools/record_closed_kernels.py",
        "versions": list(VERSIONS),
        "pins": pins,
        "functions": aiter(repo) | flash(flash_attn),
        "operators": operators,
    }
    DATA.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
