"""The first steps of a server: the fork's own metadata and its implementations' forward, without a device.

For each layer that has a cache, the fork's builder makes the metadata of each batch, and the implementation is
called as the fork's attention layer calls it. What is compiled, what does not fit and what closed kernels are
called with is looked at (device.py); what they compute is not.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import re
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters import kernel_needs
from pytest_rocm_attn.conformance.adapters.closed.calls import UnknownKernelError
from pytest_rocm_attn.conformance.adapters.closed.signatures import aiter_of
from pytest_rocm_attn.conformance.adapters.start import forward
from pytest_rocm_attn.conformance.adapters.start.batches import batches, common_metadata
from pytest_rocm_attn.conformance.adapters.start.device import device
from pytest_rocm_attn.conformance.adapters.start.started import Fault, Steps
from pytest_rocm_attn.errors import CompileTimeoutError, MockError, SelectorError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.adapters.closed.calls import KernelCall
    from pytest_rocm_attn.conformance.adapters.start.batches import Batch
    from pytest_rocm_attn.conformance.adapters.start.cache import Cache
    from pytest_rocm_attn.conformance.adapters.start.device import Device
    from pytest_rocm_attn.conformance.adapters.start.server import Start
    from pytest_rocm_attn.conformance.promise.servers_file import Layer
    from pytest_rocm_attn.dry_launch import Rejection
    from pytest_rocm_attn.gpu import Gpu

# What torch says of an operator that nobody has registered.
_NO_OPERATOR = re.compile(
    r"'_OpNamespace' '(?P<namespace>\w+)' object has no attribute '(?P<operator>\w+)'"
)
# What torch says of tensors and operators where a device is missed, and no code of the fork.
_NO_DEVICE = (
    "Could not run '",
    "on the same device",
    "meta tensor",
    "not implemented for '",
    "without CUDA",
    "pinned memory",
)


_TOO_LONG = CompileTimeoutError.__name__


class FirstSteps:
    """The steps of one server.

    Args:
        start: of the server, whose layers are built.
        config: its configuration.
        cache: laid out.
        gpu: the target.
    """

    def __init__(self, start: Start, config: Any, cache: Cache, gpu: Gpu) -> None:
        self._gpu = gpu
        self._start = start
        self._config = config
        self._cache = cache
        self.steps = Steps()

    def take(self) -> Steps:
        """Take all steps of all layers."""
        shared = {name for group in self._groups() for name in group.layer_names}
        for layer in self._start.server.layers:
            if reason := self._declines(layer, shared):
                self.steps.declined.append(Fault((layer.name,), "every step", reason))
        with (
            device(aiter_of(self._start.fork.version)) as made,
            forward.workspaces(self._start.fork),
        ):
            self._device: Device = made
            if not shared or (views := self._views()) is None:
                return self.steps
            for group in self._groups():
                for name in group.layer_names:
                    layer = next(one for one in self._start.server.layers if one.name == name)
                    if not self._declines(layer, shared):
                        self._layer(layer, group, views[name])
        self.steps.launches = len(made.launches)
        self.steps.calls = [call.kernel for call in made.calls]
        return self.steps

    def _groups(self) -> list[Any]:
        return list(itertools.chain.from_iterable(self._cache.groups))

    def _declines(self, layer: Layer, shared: set[str]) -> str:
        """Return why no step of a layer is taken; "" if they are."""
        if self._start.server.decode_context_parallel > 1:
            return "the ranks of a context gather queries and results, and there is one process"
        if layer.request.attn_type == "encoder_decoder":
            return "cross attention has a builder of its own, which reads the encoder's output"
        if layer.name not in shared:
            return "it has no cache, so that the server has no builder for it"
        return ""

    def _views(self) -> dict[str, Any] | None:
        """Return the layers' views of the cache, as the release makes them; None if it cannot be."""
        with self._noted((), "viewing the cache"):
            return self._cache.views("cuda")
        return None

    # --- one layer --------------------------------------------------------------------------------

    def _layer(self, layer: Layer, group: Any, view: Any) -> None:
        size = self._cache.sizes[group.kv_cache_group_id]
        own = self._start.configuration.of_layer(self._config, layer)
        request = replace(layer.request, block_size=size)
        with self._start.of_layer(own, request):
            module = self._start.real[layer.name]
            builder = None
            with self._noted((layer.name,), "building its metadata builder"):
                forward.prepare(self._start.fork, module, request, own)
                builder = self._builder(group, own, size)
                forward.bind(self._start.fork, module, group, view)
            if builder is None:
                return
            self.steps.backends[layer.name] = self._start.started.backends[layer.name]
            for batch in batches(self._start.server, layer):
                doing = f"a {batch.name} step"
                seen = len(self._device.calls), len(self._device.launches.rejected)
                with self._noted((layer.name,), doing):
                    self._step(layer, batch, builder, group.kv_cache_group_id)
                    self.steps.taken += 1
                rejections = self._device.launches.rejected[seen[1] :]
                if any(one.error.startswith(_TOO_LONG) for one in rejections):
                    break  # the other steps launch it as well
                for rejected in rejections:
                    _add(self.steps.faults, Fault((layer.name,), doing, _rejection(rejected)))
                self._hold(layer, doing, self._device.calls[seen[0] :])

    def _builder(self, group: Any, config: Any, size: int) -> Any:
        import torch

        where = torch.device("cuda", 0)
        make = group.create_metadata_builders
        takes = inspect.signature(make).parameters
        more = {"kernel_block_size": size} if "kernel_block_size" in takes else {}
        make(config, where, **more)
        return group.metadata_builders[0]

    def _step(self, layer: Layer, batch: Batch, builder: Any, number: int) -> None:
        backend: Any = self._start.fork.module(
            "v1.attention.backend", "v1.attention.backends.utils"
        )
        cls = getattr(backend, "CommonAttentionMetadata", None)
        if cls is None:
            utils: Any = self._start.fork.module("v1.attention.backends.utils")
            cls = utils.CommonAttentionMetadata
        common = common_metadata(
            cls,
            batch,
            block=self._cache.sizes[number],
            blocks=self._cache.blocks(number),
            causal=not layer.request.use_non_causal,
            ranks=self._start.server.decode_context_parallel,
        )
        metadata = builder.build(common_prefix_len=0, common_attn_metadata=common)
        module = self._start.real[layer.name]
        attend = forward.attend_latent if layer.request.use_mla else forward.attend
        attend(self._start.fork, module, layer.request, batch.tokens, metadata, common.slot_mapping)

    # --- what is found ----------------------------------------------------------------------------

    def _hold(self, layer: Layer, doing: str, calls: list[KernelCall]) -> None:
        """Hold calls of closed kernels against what these need."""
        aiter = self._device.recorder.aiter
        gfx = self._gpu.gfx
        for call in calls:
            if call.misfit and aiter.exact:
                words = f"AITER {aiter.version}'s {call.name} does not take the call: {call.misfit}"
                _add(self.steps.faults, Fault((layer.name,), doing, words))
            for words in kernel_needs.broken(call.kernel, {"GPU": gfx, **call.facts}, aiter):
                _add(self.steps.faults, Fault((layer.name,), doing, words))

    @contextlib.contextmanager
    def _noted(self, layers: tuple[str, ...], doing: str) -> Iterator[None]:
        """Note what is raised: a fault of the fork, or that the step cannot be taken here."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  foreign code: what it raises is a result
            if _refused_by_triton(error):
                pass  # noted with the launch
            elif reason := self._not_the_forks(error):
                _add(self.steps.declined, Fault(layers, doing, reason))
            else:
                _add(self.steps.faults, Fault(layers, doing, error=error))

    def _not_the_forks(self, error: BaseException) -> str:
        """Return why an exception says nothing about the fork; "" if it does."""
        chain: list[BaseException] = []
        one: BaseException | None = error
        while one is not None and one not in chain:
            chain.append(one)
            one = one.__cause__ or one.__context__
        for one in chain:
            if isinstance(
                one, MockError | SelectorError | UnknownKernelError | CompileTimeoutError
            ):
                return f"{one}".partition(" (--")[0]
            if isinstance(one, ModuleNotFoundError):
                return f"it needs {one.name}"
        if self._device.calls and self._device.calls[-1].misfit:
            aiter = self._device.recorder.aiter
            return (
                f"{self._device.calls[-1].kernel} of AITER {aiter.version} does not take the call"
                f" ({self._device.calls[-1].misfit}); the release is built with"
                f" {aiter.pinned or 'another'}"
            )
        last = traceback.extract_tb(error.__traceback__)[-1]
        words = str(error).partition("\n")[0]
        here = f"/{self._start.fork.top}/" in last.filename
        if _left_unregistered(words, self._start.fork.top):
            return ""
        if not here or any(said in words for said in _NO_DEVICE):
            place = f"{Path(last.filename).name}:{last.lineno}"
            return f"{type(error).__name__} at {place}, which the missing device may cause: {words}"
        return ""


def _add(faults: list[Fault], new: Fault) -> None:
    """Add a fault; one that is known from another step gains the step."""
    for number, known in enumerate(faults):
        alike = known.layers == new.layers and known.words == new.words
        if alike and repr(known.error) == repr(new.error):
            if new.doing not in known.doing.split(", "):
                faults[number] = replace(known, doing=f"{known.doing}, {new.doing}")
            return
    faults.append(new)


@functools.cache
def _left_unregistered(words: str, top: str) -> bool:
    """Whether an error is about an operator that a module of the fork registers, was imported, and did not.

    Python code registers it or not by what it knows of the GPU, so that the missing device is not the reason. A
    module that nobody imported has not decided.
    """
    missing = _NO_OPERATOR.search(words)
    if missing is None or missing["namespace"] != top:
        return False
    named = re.compile(rf"""op_name=["']{missing["operator"]}["']""")
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{top}."):
            with contextlib.suppress(OSError, TypeError):  # a module without source
                if named.search(inspect.getsource(module)):
                    return True
    return False


def _refused_by_triton(error: BaseException) -> bool:
    return type(error).__name__ in ("OutOfResources", "CompilationError")


def _rejection(rejected: Rejection) -> str:
    verb = "compile for" if rejected.launch is None else "fit"
    first = rejected.error.strip().partition("\n")[0]
    return f"{rejected.name} does not {verb} {rejected.gfx} ({rejected.compiler}): {first}"
