"""MockRocm: all boundaries together, entered and left as one."""

from __future__ import annotations

import ctypes
import enum
import functools
import importlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pytest_rocm_attn.errors import GpuWarning, MockArgumentError, MockError, nearest
from pytest_rocm_attn.gpu import Aiter, Amdsmi, Gpu, product_of
from pytest_rocm_attn.hardware import detect
from pytest_rocm_attn.mock import aiter as aiter_module
from pytest_rocm_attn.mock import amdsmi as amdsmi_module
from pytest_rocm_attn.mock import flash_attn as flash_attn_module
from pytest_rocm_attn.mock import packages, tools, torch_hooks, triton_watch
from pytest_rocm_attn.mock import real_aiter as real_aiter_module
from pytest_rocm_attn.mock.devices import Device
from pytest_rocm_attn.mock.import_watch import when_imported
from pytest_rocm_attn.mock.patching import Layer

if TYPE_CHECKING:
    from types import TracebackType

    from pytest_rocm_attn.emulator.triton_launch import Emulation

# Top-level packages that the mock answers for, as stand-ins or as not installed.
_SHADOWED = ("amdsmi", "flash_attn", *real_aiter_module.PACKAGES)
_REBUILT = frozenset({"torch", "vllm"})  # distributions that are built for one platform
_DISTRIBUTIONS = frozenset({"amdsmi", "amd-aiter", "aiter", "flash-attn"})


class MockRocm:
    """A mocked machine with AMD GPUs of one kind. A context manager; enter() and exit() do the same.

    It can be entered again after it was left, and mocks nest and interleave: the one entered last is
    in force, and when all are left the process is as it was before the first.

    Args:
        gpu: the target, such as "gfx942" or a Gpu, whose aiter state then is the default.
        aiter: state of AMD's aiter: an Aiter, its name, True (present) or False (absent). Default:
            that of a Gpu; absent, when gpu is a name.
        amdsmi: state of amdsmi: an Amdsmi or its name. Default: that of a Gpu; whole, when gpu is
            a name. torch counts GPUs as HIP does, whatever amdsmi lists.
        count: how many GPUs the machine has.
        flash_attn: whether the flash_attn package is there (a stand-in).
        product: product name as in hardware.toml; default: the one that gpu names, else the
            target's first.
        properties: fields of torch's device properties to set or replace.
        rocm_version: version of the ROCm tree, which torch.version.hip follows.
        environ: variables to set while entered.
        real_aiter: import the installed amd-aiter instead of a stand-in; see mock/real_aiter.py.
        triton_driver: whether Triton compiles for the mocked GPU (dry launch).
        emulate: whether what Triton launches is executed, on CPU tensors; an Emulation says how.
        force: mock even if this process runs on real AMD GPUs.

    Raises:
        UnknownGpuError: hardware.toml does not describe the target.
        MockArgumentError: a parameter that no machine can have.
        MockError: on entering: this process already runs on real AMD GPUs.
    """

    def __init__(
        self,
        gpu: Gpu | str,
        *,
        aiter: Aiter | str | bool | None = None,
        amdsmi: Amdsmi | str | None = None,
        count: int = 1,
        flash_attn: bool = True,
        product: str = "",
        properties: Mapping[str, Any] | None = None,
        rocm_version: str = tools.ROCM_VERSION,
        environ: Mapping[str, str] | None = None,
        real_aiter: bool = False,
        triton_driver: bool = True,
        emulate: bool | Emulation = False,
        force: bool = False,
    ) -> None:
        _check_kinds(
            {"properties": properties or {}, "environ": environ or {}}, Mapping, "a mapping"
        )
        _check_kinds(
            {
                "flash_attn": flash_attn,
                "real_aiter": real_aiter,
                "triton_driver": triton_driver,
                "force": force,
            },
            bool,
            "True or False",
        )
        if aiter is None and not isinstance(gpu, Gpu):
            aiter = real_aiter
        base = gpu if isinstance(gpu, Gpu) else Gpu(gpu)
        if base.note and not isinstance(gpu, Gpu):  # perhaps a slip of the pen
            from pytest_rocm_attn.caller import warn_the_caller  # imports pytest

            warn_the_caller(base.note, GpuWarning)
        self._gpu = Gpu(
            base.gfx,
            base.aiter if aiter is None else _aiter_state(aiter),
            base.amdsmi if amdsmi is None else _state("amdsmi", Amdsmi, amdsmi),
        )
        if real_aiter and self._gpu.aiter is not Aiter.PRESENT:
            raise MockArgumentError(
                f"real_aiter=True contradicts aiter={self._gpu.aiter.value!r}; drop one of them"
            )
        # torch reads at most 64 ordinals
        if type(count) is not int or not 1 <= count <= 64:
            raise MockArgumentError(f"a mocked machine has 1 to 64 GPUs, not count={count!r}")
        if not re.fullmatch(r"\d+\.\d+(\.\d+)?", str(rocm_version)):
            raise MockArgumentError(
                f"rocm_version={rocm_version!r} is not a version of ROCm; write one such as"
                f" {tools.ROCM_VERSION!r}"
            )
        for name, value in (environ or {}).items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise MockArgumentError(
                    f"environ has {name!r}: {value!r}; names and values of variables are strings"
                )
        self._count = count
        if not product and not isinstance(gpu, Gpu):
            product = product_of(gpu)
        self._device = Device(self._gpu, product, dict(properties or {}))
        self._flash_attn = flash_attn
        self._rocm_version = rocm_version
        self._environ = dict(environ or {})
        self._real = real_aiter_module.PACKAGES if real_aiter else ()
        self._triton_driver = triton_driver
        self._emulate = emulate
        self._emulation: Emulation | None = None
        self._force = force
        self._layer: Layer | None = None
        self._runtime_calls: list[str] = []

    @property
    def gpu(self) -> Gpu:
        """The mocked target, with the state of aiter on it."""
        return self._gpu

    @property
    def count(self) -> int:
        """How many GPUs the mocked machine has, before any visible-devices variable."""
        return self._count

    @property
    def emulation(self) -> Emulation | None:
        """What executes the kernels, and what it has executed so far; None if nothing does."""
        return self._emulation

    @property
    def active(self) -> bool:
        """Whether the mock is entered."""
        return self._layer is not None

    @property
    def runtime_calls(self) -> tuple[str, ...]:
        """Calls of torch that would have started the HIP runtime so far, each with its caller.

        A process that has started it can no longer be forked from, and no longer sees a change of
        the visible devices. Counting GPUs does not start it, where torch counts by amdsmi.
        """
        return tuple(self._runtime_calls)

    def __str__(self) -> str:
        gpus = f"{self._count} x {self._gpu.gfx}" if self._count > 1 else self._gpu.gfx
        text = f"{gpus} ({self._device.market_name}), aiter {self._gpu.aiter}"
        return text if self._gpu.amdsmi is Amdsmi.WHOLE else f"{text}, amdsmi {self._gpu.amdsmi}"

    @functools.cached_property
    def _rocm_files(self) -> dict[str, str]:
        return tools.rocm_files(self._device, self._count, self._rocm_version)

    def enter(self) -> Self:
        """Put the mock in force; see the class for what it raises. Torch is not imported."""
        if self._layer is not None:
            raise MockError(f"the mock of {self._gpu.gfx} is entered already; leave it first")
        layer = Layer()
        try:
            self._install(layer)
        except BaseException:  # an interrupt too must leave nothing patched
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
        self._refuse_real_gpus(layer)
        stand_ins = self._stand_ins()
        layer.shadow_packages({root: root in stand_ins or root in self._real for root in _SHADOWED})
        layer.insert(
            sys.meta_path,
            packages.StandInFinder(
                stand_ins.values(), tools.tree(packages.files(stand_ins.values()))
            ),
        )
        self._install_metadata(layer)
        layer.set_attribute(ctypes, "_dlopen", _dlopen_without_nvml(self._gpu.gfx))
        self._install_tools(layer)
        if self._real:
            real_aiter_module.install(layer, self._gpu.gfx)
        if packages.installed("torch"):
            hooks = functools.partial(
                torch_hooks.install,
                layer,
                self._device,
                self._count,
                tools.hip_version(self._rocm_version),
                importlib.import_module("amdsmi") if "amdsmi" in stand_ins else None,
                self._runtime_calls,
            )
            when_imported(layer, "torch", hooks)
            if self._emulate:
                self._install_emulation(layer)
            if self._triton_driver and packages.installed("triton"):
                triton_watch.install(layer, self._gpu, self._emulation)
        for name, value in self._environ.items():
            layer.set_environ(name, value)

    def _install_emulation(self, layer: Layer) -> None:
        if not packages.installed("numpy"):
            raise MockError(
                "emulating kernels needs numpy: pip install 'pytest-rocm-attn[kernels]'"
            )
        from pytest_rocm_attn.emulator.triton_launch import Emulation
        from pytest_rocm_attn.mock import cpu_tensors

        given = self._emulate
        self._emulation = given if isinstance(given, Emulation) else Emulation()
        when_imported(layer, "torch", functools.partial(cpu_tensors.install, layer))

    def _refuse_real_gpus(self, layer: Layer) -> None:
        """Raise MockError where a ROCm build of torch runs on AMD GPUs, unless forced."""
        if self._force or not layer.is_first or not packages.installed("torch"):
            return
        if not (found := detect().gpus):
            return
        import torch  # now, as it says which build it is only once it is imported

        if torch.version.hip is not None:
            raise MockError(
                f"this process runs torch for ROCm {torch.version.hip} on a real"
                f" {found[0].gfx} ({found[0].name}); a mocked {self._gpu.gfx} would hide it. Run"
                " the test without the mock, or pass force=True to mock all the same"
            )

    def _stand_ins(self) -> dict[str, packages.StandIn]:
        """Return the stand-in packages of this machine by import name."""
        wanted = [
            amdsmi_module.stand_in(self._device, self._count),
            None if self._real else aiter_module.stand_in(self._gpu),
            flash_attn_module.stand_in(self._gpu.gfx) if self._flash_attn else None,
        ]
        return {stand_in.name: stand_in for stand_in in wanted if stand_in is not None}

    def _install_metadata(self, layer: Layer) -> None:
        """Let importlib.metadata say of the packages what importing them says."""
        finder = importlib.metadata.MetadataPathFinder
        hidden = _DISTRIBUTIONS - ({"amd-aiter"} if self._real else frozenset())
        layer.set_attribute(
            finder, "find_distributions", packages.without(hidden, finder.find_distributions)
        )
        layer.set_attribute(importlib.metadata, "version", _version(importlib.metadata.version))

    def _install_tools(self, layer: Layer) -> None:
        root = tools.tree(self._rocm_files)
        kept = [
            folder
            for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)
            if not tools.is_ours(folder)
        ]
        layer.set_environ("PATH", os.pathsep.join([str(root / "bin"), *kept]))
        for name in ("ROCM_PATH", "ROCM_HOME", "HIP_PATH"):
            layer.set_environ(name, str(root))


def _check_kinds(arguments: Mapping[str, object], kind: type, words: str) -> None:
    for name, value in arguments.items():
        if not isinstance(value, kind):
            raise MockArgumentError(f"{name} is {value!r}; it must be {words}")


def mock_rocm(
    gpu: Gpu | str,
    *,
    aiter: Aiter | str | bool | None = None,
    amdsmi: Amdsmi | str | None = None,
    count: int = 1,
    flash_attn: bool = True,
    **options: Any,
) -> MockRocm:
    """Return a mocked machine, to be used in a with statement; see MockRocm for the arguments."""
    return MockRocm(gpu, aiter=aiter, amdsmi=amdsmi, count=count, flash_attn=flash_attn, **options)


def parse_option(text: str, *, emulate: bool = False) -> MockRocm:
    """Return the mock that an option value "GFX[,aiter[=STATE]][,amdsmi=STATE][,count=N]" describes.

    Args:
        text: the target, then any of "aiter" (present), "aiter=absent|broken|impostor|present",
            "amdsmi=whole|empty|broken|absent" and "count=N". Without "aiter" it is absent, without
            "amdsmi" whole.
        emulate: whether the mock executes kernels.

    Raises:
        UnknownGpuError: hardware.toml does not describe the target.
        MockArgumentError: the text says something else; the message names the word and lists what
            it can be.
    """
    gfx, *words = (word.strip() for word in text.split(","))
    options: dict[str, Any] = {
        "aiter": Aiter.ABSENT,
        "force": True,
        "emulate": emulate,
    }  # whoever writes it asks for it
    for word in words:
        name, _, value = word.partition("=")
        if [one.partition("=")[0] for one in words].count(name) > 1:
            raise MockArgumentError(f"{name!r} is given twice in {text!r}; write it once")
        if name == "aiter":
            options["aiter"] = _aiter_state(value or True)
        elif name == "amdsmi" and value:
            options["amdsmi"] = _state("amdsmi", Amdsmi, value)
        elif name == "count" and value.isdecimal():
            options["count"] = int(value)
        else:
            raise MockArgumentError(
                f"{word!r} in {text!r} is not known.{nearest(name, ('aiter', 'amdsmi', 'count'))}"
                " Write GFX, then any of: aiter, aiter=STATE, amdsmi=STATE, count=N"
            )
    return MockRocm(gfx, **options)


def _aiter_state(state: Aiter | str | bool) -> Aiter:
    if isinstance(state, bool):
        return Aiter.PRESENT if state else Aiter.ABSENT
    return _state("aiter", Aiter, state, ", or True and False")


_State = TypeVar("_State", bound=enum.Enum)


def _state(package: str, kind: type[_State], state: _State | str, more: str = "") -> _State:
    """Return the state of a package that is meant, or say which there are."""
    try:
        return kind(state)
    except ValueError:
        names = [one.value for one in kind]
        raise MockArgumentError(
            f"{package}={state!r} is not a state of {package}.{nearest(str(state), names)}"
            f" Known: {', '.join(names)}{more}"
        ) from None


def _version(original: Any) -> Any:
    """Return importlib.metadata.version with vLLM and torch for the CPU reading as built for ROCm.

    vLLM takes "cpu" in its own version for a CPU platform, and two platforms at once for an error
    (docs/reference/mock-surface.md#silent-downgrades, row 7).
    """

    def version(distribution_name: str) -> str:
        found = str(original(distribution_name))
        if packages.normal(distribution_name) not in _REBUILT:
            return found
        return re.sub(r"(?<=\+)cpu(?=\W|$)", "rocm", found)

    return version


def _dlopen_without_nvml(gfx: str) -> Any:
    """Return ctypes' loader without NVIDIA's management library.

    With a real NVIDIA driver vLLM would find two platforms
    (docs/reference/mock-surface.md#silent-downgrades, 5).
    """
    original: Any = vars(ctypes)["_dlopen"]

    def dlopen(name: Any, *args: Any) -> Any:
        if isinstance(name, (str, bytes)) and "libnvidia-ml" in os.fsdecode(name):
            raise OSError(f"{os.fsdecode(name)}: hidden by the mocked {gfx}")
        return original(name, *args)

    return dlopen
