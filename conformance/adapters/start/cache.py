"""The cache that a server's layers share, laid out by the release's own functions."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters import declarations, kernel_needs
from pytest_rocm_attn.conformance.adapters.start.configuration import BLOCKS
from pytest_rocm_attn.conformance.adapters.start.stand_ins import Runner
from pytest_rocm_attn.conformance.adapters.start.started import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.conformance.adapters.start.server import Start

_MEMORY = 1 << 40  # bytes; the number of blocks is set apart from it
WITHOUT_CACHE = ("encoder", "encoder_only")


class Cache:
    """The cache of one server.

    Args:
        start: of the server, whose layers have their backends.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self.groups: list[list[Any]] = []  # of the fork's AttentionGroup, by group of the cache
        self.sizes: list[int] = []  # of the kernel block, by group of the cache
        self._given: tuple[Any, ...] = ()  # what views() needs

    def lay_out(self, config: Any) -> None:
        """Lay out the cache that the layers share, by the release's own functions."""
        cached = {
            name: one
            for name, one in self._start.real.items()
            if one.attn_type not in WITHOUT_CACHE
        }
        if not cached:
            return
        core: Any = self._start.part("v1.core.kv_cache_planning", "v1.core.kv_cache_utils")
        worker: Any = self._start.part("v1.worker.utils")
        if core is None or worker is None:
            # Each layer for itself, with the block that one backend alone would be given.
            alone = [
                SimpleNamespace(
                    backend=self._start.classes[name], layer_names=[name], kv_cache_group_id=0
                )
                for name in cached
            ]
            for one in alone:
                block = config.cache_config.block_size
                size = declarations.kernel_block_size(one.backend, block)
                if size is not None:
                    self._kernels_take([[one]], [size])
            return
        runner = self._runner()
        every = tuple(cached)
        with self._start.fork.set_current_config(config):
            specs: dict[str, Any] = {}
            customize = getattr(worker, "customize_attention_spec", _customized)
            for name, one in cached.items():
                with self._start.fault((name,), "describing its cache"):
                    specs[name] = customize(
                        self._start.classes[name], one.get_kv_cache_spec(config)
                    )
            if len(specs) < len(cached):
                return
            with self._start.fault(
                every, self._with_layouts("finding a common layout of the cache")
            ):
                self._layout(config, specs)
            if self._start.started.faults:
                return
            groups = None
            with self._start.fault(every, "dividing the cache among the layers"):
                shared = self._shared(core, config, specs)
                groups = self._groups(worker, shared)
            if groups is None:
                return
            sizes = None
            with self._start.fault(every, self._with_blocks("finding a common kernel block")):
                sizes = self._kernel_blocks(worker, runner, config, shared, groups)
            if sizes is None:
                return
            self.groups, self.sizes = groups, sizes
            self._given = worker, runner, config, shared
            self._kernels_take(groups, sizes)
            if hasattr(runner, "_reshape_kv_cache_tensors"):
                self._compare_views()

    def _runner(self) -> Any:
        """Return the class of the runner in releases whose runner views the cache, else None.

        If layouts are chosen for all layers at once, views follow from the layout; the module is
        heavy, so that it is not imported for nothing.
        """
        utils: Any = self._start.part("v1.attention.backends.utils")
        if hasattr(utils, "get_supported_kv_cache_layouts"):
            return None
        return getattr(self._start.part("v1.worker.gpu_model_runner"), "GPUModelRunner", None)

    def _with_layouts(self, doing: str) -> str:
        said = []
        for name, cls in self._start.classes.items():
            asks = getattr(cls, "supported_kv_cache_layouts", None)
            layouts = asks() if asks is not None else None
            words = "any" if layouts is None else ", ".join(one.name for one in layouts)
            said.append(f"{name} ({self._start.started.backends[name]}): {words}")
        return f"{doing} of {'; '.join(said)}"

    def _with_blocks(self, doing: str) -> str:
        said = []
        for name, cls in self._start.classes.items():
            with contextlib.suppress(
                TypeError, AttributeError
            ):  # releases differ in what they take
                sizes = declarations.block_sizes(cls) or "any"
                said.append(f"{name} ({self._start.started.backends[name]}): {sizes}")
        return f"{doing} of {'; '.join(said)}"

    def _layout(self, config: Any, specs: Mapping[str, Any]) -> None:
        utils: Any = self._start.part("v1.attention.backends.utils")
        if not hasattr(utils, "get_supported_kv_cache_layouts"):
            self._start.started.left_out.append("a choice among layouts of the cache")
            return
        backends = [self._start.classes[name] for name in specs]
        found = [layout.name for layout in utils.get_supported_kv_cache_layouts(backends)]
        utils.resolve_kv_cache_layout(config, [found], list(specs.values()))

    def _shared(self, core: Any, config: Any, specs: Mapping[str, Any]) -> Any:
        """Return the fork's division of the cache among layers."""
        # Without the check that the memory is enough for one request.
        groups = core.get_kv_cache_groups(config, specs)
        return core.get_kv_cache_config_from_groups(config, groups, _MEMORY)

    def _groups(self, worker: Any, shared: Any) -> list[list[Any]]:
        """Return the groups of layers that the runner makes: of one cache group and one backend."""
        made: list[list[Any]] = []
        for number, group in enumerate(shared.kv_cache_groups):
            alike: dict[tuple[Any, Any], list[str]] = {}
            for name in group.layer_names:
                spec = getattr(group.kv_cache_spec, "kv_cache_specs", {}).get(
                    name, group.kv_cache_spec
                )
                alike.setdefault((self._start.classes[name], spec), []).append(name)
            made.append(
                [
                    worker.AttentionGroup(
                        backend=cls, layer_names=names, kv_cache_spec=spec, kv_cache_group_id=number
                    )
                    for (cls, spec), names in alike.items()
                ]
            )
        return made

    def _kernel_blocks(
        self, worker: Any, runner: Any, config: Any, shared: Any, groups: list[list[Any]]
    ) -> list[int] | None:
        if hasattr(worker, "prepare_kernel_block_sizes"):
            found: list[int] = worker.prepare_kernel_block_sizes(shared, groups)
            return found
        if hasattr(runner, "_prepare_kernel_block_sizes"):
            stand_in = Runner(runner, kv_cache_config=shared, attn_groups=groups)
            found = stand_in._prepare_kernel_block_sizes(shared)
            return found
        self._start.started.left_out.append("a kernel block that several backends have in common")
        if any(len(group) > 1 for group in groups):
            return None
        # Of one backend it is what vLLM's select_common_block_size gives, wherever a release keeps that.
        block = config.cache_config.block_size
        own = [declarations.kernel_block_size(group[0].backend, block) for group in groups]
        return None if None in own else [size for size in own if size is not None]

    def _kernels_take(self, groups: list[list[Any]], sizes: list[int]) -> None:
        """Hold the kernel blocks against what the kernels take that the backends call."""
        for group in itertools.chain.from_iterable(groups):
            if group.kv_cache_group_id >= len(sizes):
                continue  # a group without a cache
            size = sizes[group.kv_cache_group_id]
            called = declarations.kernels_called(group.backend.__module__)
            for need in kernel_needs.NEEDS:
                block = need.fact == kernel_needs.BLOCK and not need.when
                if block and need.kernel in called and size not in need.takes:
                    takes = ", ".join(map(str, need.takes))
                    words = f"{need.kernel} is given blocks of {size} tokens, and takes {takes}"
                    doing = f"choosing a kernel block ({need.source})"
                    self._start.started.faults.append(Fault(tuple(group.layer_names), doing, words))

    def views(self, device: str = "cpu") -> dict[str, Any]:
        """Return layer -> its view of the cache, as the release's runner makes it.

        If the machine lacks what the runner's module imports, they are those that a backend's class says.
        """
        import torch

        worker, runner, config, shared = self._given
        if hasattr(worker, "allocate_kv_cache"):
            layout = config.cache_config.get_resolved_kv_cache_layout()
            made: dict[str, Any] = worker.allocate_kv_cache(
                shared, torch.device(device), layout, self.sizes
            )
            return made
        raw = {
            name: buffer
            for one in shared.kv_cache_tensors
            for buffer in [torch.zeros(one.size, dtype=torch.int8, device=device)]
            for name in one.shared_by
        }
        if not hasattr(runner, "_reshape_kv_cache_tensors"):
            return {
                name: self._view_of(group, raw[name])
                for group in itertools.chain.from_iterable(self.groups)
                for name in group.layer_names
            }
        own = Runner(
            runner,
            kv_cache_config=shared,
            attn_groups=self.groups,
            cache_config=config.cache_config,
            vllm_config=config,
            runner_only_attn_layers=set(),
            kernel_block_sizes=self.sizes,
        )
        takes = inspect.signature(runner._reshape_kv_cache_tensors).parameters
        given = {
            "kv_cache_config": shared,
            "kv_cache_raw_tensors": raw,
            "kernel_block_sizes": self.sizes,
        }
        viewed: dict[str, Any] = own._reshape_kv_cache_tensors(
            **{name: value for name, value in given.items() if name in takes}
        )
        return viewed

    def _view_of(self, group: Any, raw: Any) -> Any:
        """View a layer's bytes as vllm/v1/worker/gpu_model_runner.py does (v0.12.0)."""
        spec, size = group.kv_cache_spec, self.sizes[group.kv_cache_group_id]
        shape = group.backend.get_kv_cache_shape(
            self.blocks(group.kv_cache_group_id),
            size,
            spec.num_kv_heads,
            spec.head_size,
            cache_dtype_str=self._given[2].cache_config.cache_dtype,
        )
        try:
            order = tuple(group.backend.get_kv_cache_stride_order())
        except (AttributeError, NotImplementedError):
            order = tuple(range(len(shape)))
        stored = raw.view(spec.dtype).view(tuple(shape[one] for one in order))
        return stored.permute(*(order.index(one) for one in range(len(order))))

    def blocks(self, group: int) -> int:
        """Return how many kernel blocks a group of the cache has."""
        shared = self._given[-1]
        size: int = shared.kv_cache_groups[group].kv_cache_spec.block_size
        return BLOCKS * (size // self.sizes[group])

    def _compare_views(self) -> None:
        """View the cache as the runner does, and find layers whose blocks are each other's."""
        shared = self._given[-1]
        names = [name for one in shared.kv_cache_tensors for name in one.shared_by]
        doing = "viewing the cache as the runner does"
        views: dict[str, Any] = {}
        with self._start.fault(tuple(names), doing):
            views = self.views()
        for one in shared.kv_cache_tensors:
            names = [name for name in one.shared_by if hasattr(views.get(name), "as_strided")]
            for first, second in itertools.pairwise(names):
                if _overlap(views[first], views[second], BLOCKS):
                    words = (
                        "they share one allocation, and block 1 of one is in other blocks of the other:"
                        f" {self._view_words(first, views)}; {self._view_words(second, views)}"
                    )
                    self._start.started.faults.append(Fault((first, second), doing, words))

    def _view_words(self, name: str, views: Mapping[str, Any]) -> str:
        view = views[name]
        backend = self._start.started.backends[name]
        return f"{name} ({backend}) has shape {tuple(view.shape)}, strides {tuple(view.stride())}"


def _customized(backend: Any, spec: Any) -> Any:
    """Let a backend change the specification of its layers, as the runner does from v0.29.0 to v0.31.0."""
    change = getattr(backend, "customize_spec", None)
    return spec if change is None or not hasattr(spec, "head_size") else change(spec)


def _overlap(first: Any, second: Any, blocks: int) -> bool:
    """Whether a block of one view has bytes of another block of the other.

    Args:
        first, second: views of the same bytes.
        blocks: how many blocks of the server's there are; kernel blocks divide them.
    """
    bytes_of = [_bytes_by_block(view, blocks) for view in (first, second)]
    if None in bytes_of:
        return False
    ours, theirs = bytes_of
    one = set(ours[1].tolist())
    return any(one.intersection(part.tolist()) for number, part in enumerate(theirs) if number != 1)


def _bytes_by_block(view: Any, blocks: int) -> Any:
    """Return the positions of each block's bytes, a row for each block; None if it has no blocks."""
    import torch

    dimension = next((d for d, size in enumerate(view.shape) if size % blocks == 0), None)
    if dimension is None:
        return None
    # Which byte an element starts at says enough: elements of one view do not overlap.
    where = torch.tensor([0])
    for d, (size, stride) in enumerate(zip(view.shape, view.stride(), strict=True)):
        if d != dimension:
            where = (where[:, None] + torch.arange(size)[None] * stride).reshape(-1)
    size, stride = view.shape[dimension], view.stride()[dimension]
    rows = torch.arange(size)[:, None] * stride + where[None] + view.storage_offset()
    rows = rows.reshape(blocks, -1)
    return rows * view.element_size()
