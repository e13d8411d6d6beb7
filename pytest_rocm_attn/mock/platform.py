"""MockRocm: all boundaries together, entered and left as one."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Self

from pytest_rocm_attn.errors import MockError, nearest
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.mock import aiter as aiter_module
from pytest_rocm_attn.mock import amdsmi, packages, tools, torch_hooks
from pytest_rocm_attn.mock import flash_attn as flash_attn_module
from pytest_rocm_attn.mock.devices import Device
from pytest_rocm_attn.mock.patching import Layer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

_SHADOWED = ("amdsmi", "aiter", "flash_attn")
_VISIBLE = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")


class MockRocm:
    """A mocked machine with AMD GPUs of one kind. A context manager; enter() and exit() do the same.

    It can be entered again after it was left, and mocks nest and interleave: the one entered last is
    in force, and when all are left the process is as it was before the first.

    Args:
        gpu: the target, such as "gfx942" or a Gpu, whose aiter state then is the default.
        aiter: state of AMD's aiter: an Aiter, its name, True (present) or False (absent).
        count: how many GPUs the machine has.
        flash_attn: whether the flash_attn package is there (a stand-in).
        product: product name as in hardware.toml; default the target's first.
        properties: fields of torch's device properties to set or replace.
        rocm_version: version of the ROCm tree, which torch.version.hip follows.
        environ: variables to set while entered.

    Raises:
        UnknownGpuError: hardware.toml does not describe the target.
        MockError: a parameter that no machine can have; on entering: this process already runs on
            real AMD GPUs.
    """

    def __init__(
        self,
        gpu: Gpu | str,
        *,
        aiter: Aiter | str | bool | None = None,
        count: int = 1,
        flash_attn: bool = True,
        product: str = "",
        properties: Mapping[str, Any] | None = None,
        rocm_version: str = tools.ROCM_VERSION,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        base = gpu if isinstance(gpu, Gpu) else Gpu(gpu)
        self._gpu = Gpu(base.gfx, base.aiter if aiter is None else _aiter_state(aiter))
        if not 1 <= count <= 64:  # torch reads at most 64 ordinals
            raise MockError(f"a mocked machine has 1 to 64 GPUs, not count={count!r}")
        self._count = count
        self._device = Device(self._gpu, product, dict(properties or {}))
        self._flash_attn = flash_attn
        self._rocm_version = rocm_version
        self._environ = dict(environ or {})
        self._layer: Layer | None = None

    @property
    def gpu(self) -> Gpu:
        """The mocked target, with the state of aiter on it."""
        return self._gpu

    @property
    def count(self) -> int:
        """How many GPUs the mocked machine has, before any visible-devices variable."""
        return self._count

    @property
    def active(self) -> bool:
        """Whether the mock is entered."""
        return self._layer is not None

    def enter(self) -> Self:
        """Put the mock in force; see the class for what it raises. Imports torch if installed."""
        if self._layer is not None:
            raise MockError(f"the mock of {self._gpu.gfx} is entered already; leave it first")
        layer = Layer()
        try:
            self._install(layer)
        except BaseException:
            layer.close()
            raise
        self._layer = layer
        return self

    def exit(self) -> None:
        """Take the mock off; what it changed is put back. Nothing happens if it is not entered."""
        layer, self._layer = self._layer, None
        if layer is not None:
            layer.close()

    def __enter__(self) -> Self:
        return self.enter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.exit()

    def _install(self, layer: Layer) -> None:
        layer.keep_environ()
        stand_ins = [amdsmi.stand_in(self._device, self._count)]
        if (package := aiter_module.stand_in(self._gpu, self._gpu.aiter)) is not None:
            stand_ins.append(package)
        if self._flash_attn:
            stand_ins.append(flash_attn_module.stand_in(self._gpu.gfx))
        present = {stand_in.name for stand_in in stand_ins}
        finder = packages.StandInFinder(stand_ins, tools.tree(packages.files(stand_ins)))
        for name in _SHADOWED:
            if name in present:
                layer.shadow_package(name)
            else:
                layer.shadow_package(name, None)
        layer.insert(sys.meta_path, finder)
        layer.set_attribute(importlib.metadata, "version", _version(importlib.metadata.version))
        self._install_tools(layer)
        if packages.installed("torch"):
            torch_hooks.install(
                layer,
                self._device,
                self._count,
                tools.hip_version(self._rocm_version),
                importlib.import_module("amdsmi"),
            )
        for name, value in self._environ.items():
            layer.set_environ(name, value)

    def _install_tools(self, layer: Layer) -> None:
        root = tools.tree(tools.rocm_files(self._device, self._count, self._rocm_version))
        kept = [
            folder
            for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)
            if not tools.is_ours(folder)
        ]
        layer.set_environ("PATH", os.pathsep.join([str(root / "bin"), *kept]))
        for name in ("ROCM_PATH", "ROCM_HOME", "HIP_PATH"):
            layer.set_environ(name, str(root))


def mock_rocm(
    gpu: Gpu | str,
    *,
    aiter: Aiter | str | bool | None = None,
    count: int = 1,
    flash_attn: bool = True,
    **options: Any,
) -> MockRocm:
    """Return a mocked machine, to be used in a with statement; see MockRocm for the arguments."""
    return MockRocm(gpu, aiter=aiter, count=count, flash_attn=flash_attn, **options)


def parse_option(text: str) -> MockRocm:
    """Return the mock that an option value "GFX[,aiter[=STATE]][,count=N]" describes.

    Args:
        text: the target, then any of "aiter" (present), "aiter=absent|broken|impostor|present" and
            "count=N". Without "aiter" it is absent.

    Raises:
        ValueError: the text says something else; the message names the word and lists what it can be.
    """
    gfx, *words = (word.strip() for word in text.split(","))
    options: dict[str, Any] = {"aiter": Aiter.ABSENT}
    for word in words:
        name, _, value = word.partition("=")
        if name == "aiter":
            options["aiter"] = _aiter_state(value or True)
        elif name == "count" and value.isdecimal():
            options["count"] = int(value)
        else:
            raise ValueError(
                f"{word!r} in {text!r} is not known.{nearest(name, ('aiter', 'count'))}"
                " Write GFX, then any of: aiter, aiter=STATE, count=N"
            )
    try:
        return MockRocm(gfx, **options)
    except MockError as error:
        raise ValueError(str(error)) from None


def _aiter_state(state: Aiter | str | bool) -> Aiter:
    if isinstance(state, bool):
        return Aiter.PRESENT if state else Aiter.ABSENT
    try:
        return Aiter(state)
    except ValueError:
        names = [one.value for one in Aiter]
        raise ValueError(
            f"aiter={state!r} is not a state of aiter.{nearest(str(state), names)}"
            f" Known: {', '.join(names)}, or True and False"
        ) from None


def _version(original: Any) -> Any:
    """Return importlib.metadata.version with what was built for the CPU reading as built for ROCm.

    vLLM takes "cpu" in its own version for a CPU platform, and two platforms at once for an error
    (facts/mock-surface.md section 8, row 7).
    """

    def version(distribution_name: str) -> str:
        return re.sub(r"(?<=\+)cpu(?=\W|$)", "rocm", original(distribution_name))

    return version
