"""What AMD's real aiter needs to be imported on a machine without a GPU.

Source: docs/reference/mock-surface.md#real-aiter.

Its architecture probe runs rocminfo and hipconfig, which the mock provides; its one compiled module is
replaced by one in Python, of the same enums; its Triton part asks Triton's driver. Importing it edits
sys.path and sys.meta_path, which is undone here, and registers operators with torch, which nothing can
undo: a process can import it once.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rocm_attn import aiter_probe
from pytest_rocm_attn.errors import MockError
from pytest_rocm_attn.gpu import Aiter
from pytest_rocm_attn.mock import tools

if TYPE_CHECKING:
    from types import ModuleType

    from pytest_rocm_attn.mock.patching import Layer

PACKAGES = ("aiter", "aiter_meta", "module_aiter_core", "module_aiter_enum")
# Variables that its import sets and its later calls read (section 6).
_WRITTEN = ("AITER_ASM_DIR", "AITER_GPU_ARCHS", "FLYDSL_RUNTIME_CACHE_DIR")
_ENUMS = '''"""Stand-in of pytest_rocm_attn.mock for a compiled module of aiter: enums, and no more."""

import enum


class ActivationType(enum.IntEnum):
    """Members: No, Silu, Gelu, Swiglu, Situv2"""

    No, Silu, Gelu, Swiglu, Situv2 = range(-1, 4)


class QuantType(enum.IntEnum):
    """Members: No, per_Tensor, per_Token, per_1x32 and the other block sizes"""

    No, per_Tensor, per_Token, per_1x32, per_1x128, per_128x128, per_256x128, per_1024x128 = range(8)


class MlaVersion(enum.IntEnum):
    """Members: V32, V40"""

    V32, V40 = range(2)
'''


_imported: tuple[str, dict[str, ModuleType], list[str], dict[str, str]] | None = None


def install(layer: Layer, gfx: str) -> None:
    """Prepare for ``import aiter`` on a target until the layer comes off.

    What a first mock has imported comes back with the next mock of that target.

    Raises:
        MockError: AMD's aiter is not installed, or not whole, or this process has imported it for
            another target.
    """
    if _imported is not None and _imported[0] != gfx:
        raise MockError(
            f"this process has imported the real aiter for {_imported[0]}, and aiter cannot be"
            f" imported twice; use a process of its own for {gfx} (pytest -n, or --forked)"
        )
    found = aiter_probe.probe()
    if found.state is not Aiter.PRESENT:
        raise MockError(
            f"real_aiter=True, but AMD's aiter is {found.state.value}: {found.reason}; pip install"
            " amd-aiter, or leave real_aiter out to use the stand-in"
        )
    spec = importlib.util.find_spec("aiter")
    site = Path(str(spec and spec.origin)).parent.parent
    jit = tools.tree({f"{name}.py": _ENUMS for name in PACKAGES if name.startswith("module")})
    folders = tuple(f"{folder}{os.sep}" for folder in (jit, site / "aiter", site / "aiter_meta"))
    layer.set_environ("AITER_JIT_DIR", str(jit))
    before = set(sys.path)
    if _imported is not None:
        _, modules, paths, environ = _imported
        sys.modules.update(modules)
        sys.path[:0] = paths
        for name, value in environ.items():
            layer.set_environ(name, value)

    def below(path: object) -> bool:
        return isinstance(path, str) and f"{path}{os.sep}".startswith(folders)

    def tidy() -> None:
        global _imported
        modules = {
            name: module
            for name, module in list(sys.modules.items())
            # vars(): a module's own __getattr__ may import
            if below(getattr(module, "__dict__", {}).get("__file__"))
        }
        paths = [path for path in sys.path if path not in before and below(path)]
        if "aiter" in modules:
            environ = {name: os.environ[name] for name in _WRITTEN if name in os.environ}
            _imported = gfx, modules, paths, environ
        # aiter puts its own helpers on sys.path, so some of its modules have top-level names.
        for name in modules:
            del sys.modules[name]
        sys.path[:] = [path for path in sys.path if path not in paths]
        sys.meta_path[:] = [
            finder
            for finder in sys.meta_path
            if type(finder).__module__.partition(".")[0] not in ("aiter", "aiter_meta")
        ]

    layer.on_close("real aiter", tidy)
