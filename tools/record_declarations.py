"""Record what the backend classes of unpacked vLLM releases declare: backends/declarations.toml.

    python tools/record_declarations.py [--releases FOLDER] [--check] [RELEASE ...]

FOLDER/RELEASE holds the unpacked wheel of a release. The Python that runs this needs vLLM's light
dependencies (docs/real-vllm-requirements.txt). Each release is imported in a process of its own, on a
mocked gfx942; its classes are then asked on every target, by the answers of vllm/platforms/rocm.py
for that target's name and the compute capability of hardware.toml.
"""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import itertools
import json
import os
import subprocess
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_rocm_attn.backends.releases import RELEASES
from pytest_rocm_attn.gpu import Aiter, Gpu, distinct_gpus
from pytest_rocm_attn.mock import mock_rocm
from pytest_rocm_attn.request import ATTN_TYPES, DTYPES, KV_CACHE_DTYPES

TABLE = Path(__file__).parent.parent / "backends" / "declarations.toml"
FIRST = (0, 18)  # the first minor release whose platform asks the classes
HOST = "gfx942"
HEADS = (*range(1, 600), 1024)
BLOCKS = (*range(1, 600), 784, 1056, 2048)
FEATURES = {  # method of a backend class -> its word in the table
    "is_mla": "mla",
    "is_sparse": "sparse",
    "supports_batch_invariance": "batch_invariance",
    "supports_dcp": "dcp",
    "supports_device_cpu_query_lens_mismatch": "adaptive_verification",
    "supports_kv_connector": "kv_connector",
    "supports_mm_prefix": "mm_prefix",
    "supports_non_causal": "non_causal",
    "supports_non_causal_dcp": "non_causal_dcp",
    "supports_pcp": "pcp",
    "supports_per_head_quant_scales": "per_head_quant_scales",
    "supports_rswa": "rswa",
    "supports_sink": "sinks",
    "supports_sliding_window": "sliding_window",
}
HEAD = """\
# What the backend classes of vLLM 0.18.1 to 0.33.0 declare, as RocmPlatform asks them
# (validate_configuration in vllm/v1/attention/backend.py). Written by tools/record_declarations.py,
# which imports the unmodified classes of each release on mocked GPUs; do not edit.
#
# An entry holds from its release on, until the backend's next entry. `heads` is "any", "32.." (at least
# 32), "8..256/8" (to 256 in steps of 8) or a list; `blocks` are kernel block sizes, of which a block
# must be a multiple; `yes` is what the class supports besides. X_on gives other values of X on some
# targets; yes_on what is supported there only. `gpus` are the targets that its
# supports_compute_capability takes; all, if it is missing. `needs` is a package that its module
# imports, `missing` one that no ROCm build has; `with_aiter` is what it supports only if AMD's aiter is
# installed; `never` is a refusal of every request, `undeclared` the
# second reason for which the class refuses a cache dtype that it does not declare, `twice` those caches,
# if they are not all.
"""


# --- asking the classes, in a process with the release on its path ----------------------------------


class Torchvision(MetaPathFinder, Loader):
    """Lets modules import torchvision, which some backends' models need and none of this asks."""

    class Anything(ModuleType):
        __path__: list[str] = []  # noqa: RUF012

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        ours = name.partition(".")[0] == "torchvision"
        return ModuleSpec(name, self, is_package=True) if ours else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.Anything(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def ask_release(aiter: Aiter) -> dict[str, dict[str, Any]]:
    """Return target -> backend -> what its class says, of the release on the path.

    Args:
        aiter: whether AMD's aiter is installed.
    """
    from pytest_rocm_attn.mock import import_memory
    from pytest_rocm_attn.mock.patching import Layer

    with mock_rocm(Gpu(HOST, aiter)):
        import_memory.install(Layer())
        from vllm.config import VllmConfig, set_current_vllm_config
        from vllm.platforms import rocm
        from vllm.platforms.interface import DeviceCapability

        config = VllmConfig()
        # Now, as transformers is imported: it decides by its own look whether torchvision is there.
        sys.meta_path.append(Torchvision())
        source = Path(rocm.__file__).read_text("utf-8")
        tests_of_the_name = [line for line in source.splitlines() if line.startswith("_ON_")]
        found = {}
        with set_current_vllm_config(config):
            for gfx in (HOST, *(gfx for gfx in distinct_gpus() if gfx != HOST)):
                vars(rocm)["_GCN_ARCH"] = gfx
                for line in tests_of_the_name:
                    exec(line, vars(rocm))  # noqa: S102  the release's own lines
                forget()
                capability = DeviceCapability(*Gpu(gfx).compute_capability)
                rocm.RocmPlatform.get_device_capability = classmethod(
                    lambda cls, device_id=0, capability=capability: capability
                )
                found[gfx] = ask_registry(gfx, capability)
    return found


def forget() -> None:
    """Clear what the release remembers of the target that was asked before."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "vllm":
            for value in list(vars(module).values()):
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()


def ask_registry(gfx: str, capability: Any) -> dict[str, Any]:
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    found: dict[str, Any] = {}
    for name, member in AttentionBackendEnum.__members__.items():
        if member.name != name:
            found[name] = found[member.name]  # an alias, which stands after it
            continue
        try:
            path = member.get_path()
        except ValueError:
            found[name] = {"unregistered": True}
            continue
        try:
            found[name] = {"class": path} | ask_class(member.get_class(), gfx, capability)
        except (ImportError, AttributeError) as error:
            # AttributeError: an operator of the compiled extension, which an unpacked wheel may lack.
            found[name] = {"class": path, "missing": str(error).split(". ")[0]}
    return found


def ask_class(cls: Any, gfx: str, capability: Any) -> dict[str, Any]:
    import torch

    blocks = [getattr(size, "base", size) for size in cls.get_supported_kernel_block_sizes()]
    taken = [size for size in BLOCKS if cls.supports_block_size(size)]
    if taken == [size for size in BLOCKS if any(size % block == 0 for block in blocks)]:
        words = "any" if 1 in blocks else " ".join(map(str, blocks))
    else:
        words = f"exactly {' '.join(map(str, taken))}"
    layouts = getattr(cls, "supported_kv_cache_layouts", lambda: None)()
    said: dict[str, Any] = {
        "heads": [size for size in HEADS if cls.supports_head_size(size)],
        "dtypes": [name for name in DTYPES if cls.supports_dtype(getattr(torch, name))],
        "caches": [name for name in KV_CACHE_DTYPES if cls.supports_kv_cache_dtype(name)],
        "blocks": words,
        "types": [kind for kind in ATTN_TYPES if cls.supports_attn_type(kind)],
        "yes": sorted(word for method, word in FEATURES.items() if says(cls, method, gfx)),
        "layouts": [getattr(layout, "name", str(layout)) for layout in layouts or ()],
        "takes": bool(cls.supports_compute_capability(capability)),
        "never": "",
        "except": "",
        "undeclared": "",
        "twice": [],
    }
    combine(cls, said, capability)
    said["heads"] = compact(said["heads"])
    return said


def says(cls: Any, method: str, gfx: str) -> bool:
    try:
        return bool(getattr(cls, method, bool)())
    except RuntimeError:
        # ROCM_AITER_MLA asks aiter for a parameter; with it, gfx950 alone has the kernels
        # (vllm/v1/attention/backends/mla/rocm_aiter_mla.py, v0.30.0).
        return gfx == "gfx950"


def combine(cls: Any, said: dict[str, Any], capability: Any) -> None:
    """Take from what a class says what its supports_combination refuses of it."""
    import torch

    owner = next(one for one in cls.__mro__ if "supports_combination" in vars(one))
    if owner.__name__ == "AttentionBackend" or not said["takes"]:
        return
    parameters = inspect.signature(cls.supports_combination).parameters
    heads = [size for size in (32, 64, 128, 192, 256, 320, 512, 576) if size in said["heads"]]
    refusals: dict[tuple[int, str, bool], str | None] = {}
    for head, dtype, cache, prefix in itertools.product(
        heads, said["dtypes"], said["caches"], (False, True)
    ):
        asked = {
            "head_size": head,
            "dtype": getattr(torch, dtype),
            "kv_cache_dtype": cache,
            "block_size": None,
            "use_mla": cls.is_mla(),
            "has_sink": False,
            "use_sparse": cls.is_sparse(),
            "use_mm_prefix": prefix,
            "device_capability": capability,
        }
        given = {name: value for name, value in asked.items() if name in parameters}
        refusals[head, cache, prefix] = cls.supports_combination(**(given or asked))
    plain = {key: why for key, why in refusals.items() if not key[2]}
    if all(plain.values()):
        said["never"] = next(str(why) for why in plain.values()).split(", likely")[0]
        return
    # Words for a cache dtype that the class does not declare anyway: then it refuses for two reasons.
    undeclared = [name for name in KV_CACHE_DTYPES if name not in said["caches"]]
    for cache in undeclared:
        asked |= {"kv_cache_dtype": cache, "use_mm_prefix": False}
        given = {name: value for name, value in asked.items() if name in parameters}
        if why := cls.supports_combination(**(given or asked)):
            said["undeclared"] = said["undeclared"] or why
            said["twice"].append(cache)
    if said["twice"] == undeclared:
        said["twice"] = []
    if all(why for key, why in refusals.items() if key[2]):
        said["yes"] = [word for word in said["yes"] if word != "mm_prefix"]
    for cache in list(said["caches"]):
        by_head = {head: why for (head, one, _), why in plain.items() if one == cache}
        if all(by_head.values()):
            said["caches"].remove(cache)
        elif refused := [head for head, why in by_head.items() if why]:
            said["except"] = f"{refused[0]} {cache}"


def compact(sizes: list[int]) -> str:
    found = set(sizes)
    # FLASH_ATTN leaves out one size between two of its kernels' ranges.
    if found >= set(HEADS) - {264}:
        return "any"
    if found >= set(range(32, 600)) and min(found) == 32:
        return "32.."
    listed = sorted(found - {1024})
    if len(listed) > 30 and set(range(8, listed[-1] + 1, 8)) - found <= {264}:
        return f"8..{listed[-1]}/8"
    return " ".join(map(str, listed))


# --- the table --------------------------------------------------------------------------------------


def merged(
    answers: dict[str, Any], without: dict[str, Any], name: str, package: Path
) -> dict[str, Any]:
    """Return one entry for the answers of a backend on every target.

    Args:
        answers: target -> backend -> what its class says.
        without: the same if AMD's aiter is not installed.
        name: the backend.
        package: the folder of the release.
    """
    by_gpu = {gfx: answers[gfx][name] for gfx in distinct_gpus()}
    first = by_gpu[HOST]
    if "takes" not in first:
        return dict(first)
    takes = [gfx for gfx, said in by_gpu.items() if said["takes"]]
    entry: dict[str, Any] = {"class": first["class"]}
    if takes and all(by_gpu[gfx]["never"] for gfx in takes):
        entry["never"] = by_gpu[takes[0]]["never"]
    else:
        takes = [gfx for gfx in takes if not by_gpu[gfx]["never"]]
    if len(takes) < len(by_gpu):
        entry["gpus"] = " ".join(takes)
    if imports_aiter(package / (first["class"].rpartition(".")[0].replace(".", "/") + ".py")):
        entry["needs"] = "aiter"
    if first["undeclared"]:
        entry["undeclared"] = first["undeclared"]
    if first["twice"]:
        entry["twice"] = " ".join(first["twice"])
    if first["layouts"]:
        entry["layouts"] = " ".join(first["layouts"])
    for field in ("heads", "dtypes", "caches", "blocks", "types", "yes", "except"):
        texts: dict[str, list[str]] = {}
        for gfx in takes or by_gpu:
            value = by_gpu[gfx][field]
            text = value if isinstance(value, str) else " ".join(value)
            texts.setdefault(text, []).append(gfx)
        if field == "yes":
            common = set.intersection(*(set(text.split()) for text in texts))
            entry["yes"] = " ".join(sorted(common))
            on: dict[str, list[str]] = {}
            for text, gpus in texts.items():
                for word in sorted(set(text.split()) - common):
                    on.setdefault(word, []).extend(gpus)
            for word, gpus in on.items():
                listed = " ".join(gfx for gfx in by_gpu if gfx in gpus)
                entry.setdefault("yes_on", {})[word] = listed
            continue
        usual = max(texts, key=lambda text: len(texts[text]))
        if usual or field != "except":
            entry[field] = usual
        for text, gpus in texts.items():
            if text != usual:
                entry.setdefault(f"{field}_on", {})[text] = " ".join(gpus)
    lost = {
        word
        for gfx in takes or by_gpu
        for word in set(by_gpu[gfx]["yes"]) - set(without[gfx][name].get("yes", by_gpu[gfx]["yes"]))
    }
    if lost:
        entry["with_aiter"] = " ".join(sorted(lost))
    return entry


def imports_aiter(file: Path) -> bool:
    """Whether a module imports aiter when it is imported on ROCm."""

    def any_of(body: list[ast.stmt]) -> bool:
        for node in body:
            match node:
                case ast.If(test=test, body=inner):
                    if ast.unparse(test) == "current_platform.is_rocm()" and any_of(inner):
                        return True
                case ast.ImportFrom(module=str(module)) if module.partition(".")[0] == "aiter":
                    return True
                case ast.Import(names=names):
                    if any(alias.name.partition(".")[0] == "aiter" for alias in names):
                        return True
        return False

    return any_of(ast.parse(file.read_text("utf-8")).body)


def render(recorded: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the table: for each backend the entries in which it changed, by release."""
    history: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for release, entries in recorded.items():
        for name, entry in entries.items():
            told = history.setdefault(name, [])
            if not told or told[-1][1] != entry:
                told.append((release, entry))
        for name, told in history.items():
            if name not in entries and told[-1][1] != {"gone": True}:
                told.append((release, {"gone": True}))
    lines = [HEAD]
    for name, told in history.items():
        for release, entry in told:
            lines += [f"[[{name}]]", f'since = "{release}"']
            lines += [f"{field} = {_toml(value)}" for field, value in entry.items()]
            lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {json.dumps(text)}" for key, text in value.items())
        return f"{{ {', '.join(pairs)} }}"
    return json.dumps(value)


def record(release: str, releases: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of one release, asked in processes of their own, with aiter and without."""
    paths = [str(releases / release), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "VLLM_LOGGING_LEVEL": "ERROR"}
    asked = []
    for aiter in (Aiter.PRESENT, Aiter.ABSENT):
        command = [sys.executable, __file__, "--here", aiter.value]
        done = subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, text=True)
        asked.append(json.loads(done.stdout.splitlines()[-1]))
    answers, without = asked
    return {name: merged(answers, without, name, releases / release) for name in answers[HOST]}


def main() -> int:
    """Write the table, or with --check compare it; return 1 if it differs, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [one for one in RELEASES if tuple(map(int, one.split(".")[:2])) >= FIRST]
    parser.add_argument("release", nargs="*", default=known)
    parser.add_argument("--releases", type=Path, default=Path("/work/vllm"))
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    parser.add_argument("--here", type=Aiter, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(ask_release(arguments.here)))
        return 0
    text = render({one: record(one, arguments.releases) for one in arguments.release})
    if arguments.check:
        return int(text != TABLE.read_text("utf-8"))
    TABLE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
