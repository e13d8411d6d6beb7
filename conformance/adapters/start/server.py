"""Start a server of vLLM, or of a fork, as far as it goes without weights and without a device.

For a description of a server, the fork's own configuration objects are filled, its own platform
completes them, its own selector chooses a backend for each layer, and its own runner lays out the
cache that the layers share. Nothing is allocated on a device, and nothing runs there. Runs in the worker.

Each part is looked up where releases keep it (v0.11.2 to v0.33.0). A part that a release does not have
is left out and named in Started.left_out.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from pytest_rocm_attn.conformance.adapters import LacksError, allow_lists, construct, join
from pytest_rocm_attn.conformance.adapters.start.cache import Cache
from pytest_rocm_attn.conformance.adapters.start.configuration import Configuration
from pytest_rocm_attn.conformance.adapters.start.stand_ins import (
    MissingError,
    Ranks,
    homes,
    kind_of,
)
from pytest_rocm_attn.conformance.adapters.start.started import NEEDS, TOGETHER, Fault, Started
from pytest_rocm_attn.conformance.adapters.start.steps import FirstSteps
from pytest_rocm_attn.conformance.adapters.vllm_fork import Call, request_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_rocm_attn.conformance.adapters.vllm_fork import Fork
    from pytest_rocm_attn.conformance.adapters.vllm_server import VllmServer
    from pytest_rocm_attn.conformance.promise.servers_file import Layer, Server
    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.request import Request


class Start:
    """One start of a server.

    Args:
        adapter: the fork's.
        server: its description.
        environ: the variables that are set.
        gpu: the target, if the server's first steps are to be taken.
    """

    def __init__(
        self,
        adapter: VllmServer,
        server: Server,
        environ: Mapping[str, str],
        gpu: Gpu | None = None,
    ) -> None:
        self.gpu = gpu
        self.adapter = adapter
        self.fork: Fork = adapter.fork
        self.server = server
        self.environ = environ
        self.started = Started()
        self.configuration = Configuration(self.fork, server, environ, self.started.left_out)
        self.classes: dict[str, Any] = {}  # layer -> the class of its backend
        self.real: dict[str, Any] = {}  # layer -> the fork's own layer

    def run(self) -> Started:
        """Start the server; what the fork raises becomes a fault.

        Raises:
            LacksError: the fork has no such cache dtype.
        """
        self._knows_its_dtypes()
        if (question := self.fork.selector_config) is not None:
            known = request_values(self.server.layers[0].request)
            names = [name for name in inspect.signature(question).parameters if name not in known]
            self.started.not_filled = names
        kept = self.fork.server_config
        config = self.fork.server_config = self.configuration.made()
        try:
            with self.fault((), "completing the configuration"):
                self.configuration.as_its_model(config)
                self.adapter._platform_class().check_and_update_config(config)
            for layer in self.server.layers:
                self._select(config, layer)
            if len(self.classes) == len(self.server.layers):
                with self._ranks():
                    self._together(config)
        finally:
            self.fork.server_config = kept
        return self.started

    def part(self, *names: str) -> Any:
        """Return the first of the fork's modules that exists; None if it needs a package that is not there.

        What such a module does is left out: the machine lacks it, and not the fork.
        """
        try:
            return self.fork.module(*names)
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] == self.fork.top:
                raise
            self.started.left_out.append(f"what {names[0]} does: it needs {error.name}")
            self.started.missing.append(str(error.name))
            return None

    def _knows_its_dtypes(self) -> None:
        """Raise LacksError if the fork has no such cache dtype: its own list says so."""
        cache: Any = self.fork.module("config.cache")
        known = get_args(getattr(cache, "CacheDType", None))
        for layer in self.server.layers:
            if known and layer.request.kv_cache_dtype not in known:
                raise LacksError(f"the fork has no cache dtype {layer.request.kv_cache_dtype}")

    @contextlib.contextmanager
    def _ranks(self) -> Iterator[None]:
        """Have the groups of ranks, of which implementations ask how many divide a context."""
        state: Any = self.fork.module("distributed.parallel_state")
        sizes = {
            "_DCP": self.server.decode_context_parallel,
            "_PCP": self.server.prefill_context_parallel,
        }
        kept = {name: getattr(state, name) for name in sizes if hasattr(state, name)}
        for name in kept:
            setattr(state, name, Ranks(sizes[name]))
        try:
            with self.adapter._grouped():
                yield
        finally:
            for name, group in kept.items():
                setattr(state, name, group)

    @contextlib.contextmanager
    def fault(self, layers: Sequence[str], doing: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  foreign code: what it raises is a result
            self.started.faults.append(Fault(tuple(layers), doing, error=error))

    # --- one layer --------------------------------------------------------------------------------

    def _select(self, config: Any, layer: Layer) -> None:
        """Have the fork's chain choose a backend for a layer."""
        try:
            chosen, asked = self._chosen(self.configuration.of_layer(config, layer), layer)
        except Exception as error:  # noqa: BLE001  foreign code: what it raises is a result
            doing = "selecting a backend"
            fault = Fault((layer.name,), doing, error=error)
            if isinstance(error, ValueError) and (other := self._chosen_alone(layer)):
                words = (
                    f"it is refused for what another layer of the server needs: alone it is given"
                    f" {other} ({error})"
                )
                fault = Fault((layer.name,), doing, words)
            self.started.faults.append(fault)
            return
        self.classes[layer.name] = chosen
        self.started.backends[layer.name] = self._name(chosen)
        self.started.asked[layer.name] = {name: str(value) for name, value in asked.items()}
        self._heeded(layer, chosen, asked)

    def _chosen_alone(self, layer: Layer) -> str:
        """Return the backend of a layer in a server without the others; "" if it has none there."""
        if len(self.server.layers) == 1:
            return ""
        alone = replace(self.server, layers=(layer,))
        if layer.role == "target":
            alone = replace(alone, method="", speculative_tokens=0)
        other = Start(self.adapter, alone, self.environ)
        kept = self.fork.server_config
        config = self.fork.server_config = other.configuration.made()
        try:
            return other._name(other._chosen(other.configuration.of_layer(config, layer), layer)[0])
        except Exception:  # noqa: BLE001  foreign code: refused here too
            return ""
        finally:
            self.fork.server_config = kept

    def _chosen(self, config: Any, layer: Layer) -> tuple[Any, dict[str, Any]]:
        """Return the class that the chain chooses, and what the platform was asked with."""
        module: Any = self.fork.module("v1.attention.selector", "attention.selector")
        for value in list(vars(module).values()):
            if callable(clear := getattr(value, "cache_clear", None)):
                clear()
        request = layer.request
        block = config.cache_config.block_size
        values = dict(request_values(replace(request, block_size=block)))
        values["use_v1"] = True
        asked: dict[str, Any] = {}
        call = Call(module.get_attn_backend, "use_v1")
        with self.of_layer(config, request), self._recorded(asked):
            chosen = call(values)
        return chosen, asked

    @contextlib.contextmanager
    def of_layer(self, config: Any, request: Request) -> Iterator[None]:
        import torch

        kept, dtype = torch.get_default_dtype(), getattr(torch, request.dtype)
        model, config.model_config = config.model_config, self.configuration.model(request)
        torch.set_default_dtype(dtype)
        try:
            self.adapter._make_workspaces()
            with self.adapter._judged(), self.fork.set_current_config(config):
                yield
        finally:
            torch.set_default_dtype(kept)
            config.model_config = model

    @contextlib.contextmanager
    def _recorded(self, asked: dict[str, Any]) -> Iterator[None]:
        """Record in `asked` what the server asks the platform while the block runs."""
        platform = self.adapter._current_platform()
        ask = platform.get_attn_backend_cls
        parameters = inspect.signature(ask)

        def recording(*arguments: Any, **named: Any) -> Any:
            given = parameters.bind(*arguments, **named).arguments
            bundle = given.get("attn_selector_config")
            asked.update(bundle._asdict() if bundle is not None else given)
            return ask(*arguments, **named)

        platform.get_attn_backend_cls = recording
        try:
            yield
        finally:
            del platform.get_attn_backend_cls

    def _name(self, cls: Any) -> str:
        path = f"{cls.__module__}.{cls.__qualname__}"
        for name, known in self.fork.class_paths.items():
            if known == path:
                return name
        return str(cls.get_name())

    def _heeded(self, layer: Layer, chosen: Any, asked: Mapping[str, Any]) -> None:
        """Note what the server needs and nobody asked, or the backend says it does not have."""
        for need, says in NEEDS.items():
            if not getattr(layer.request, need):
                continue
            if not asked.get(need) and need not in self.started.unasked:
                self.started.unasked.append(need)
            self._says(layer, chosen, says, need)
        for says, needs in TOGETHER.items():
            if all(getattr(layer.request, need) for need in needs):
                self._says(layer, chosen, says, " with ".join(needs))

    def _says(self, layer: Layer, chosen: Any, says: str, need: str) -> None:
        """Note if the backend says by a predicate that it does not have what the layer needs."""
        predicate = getattr(chosen, says, None)
        if callable(predicate) and not predicate():
            words = f"{self._name(chosen)} is selected, and says by {says}() that it does not"
            self.started.faults.append(Fault((layer.name,), f"needing {need}", words))

    # --- all layers -------------------------------------------------------------------------------

    def _together(self, config: Any) -> None:
        """Do what the server does with the layers once they have their backends."""
        layers = self.server.layers
        with self.fault((), "placing the layers in the configuration"):
            for layer in layers:
                self.real[layer.name] = self._placed(config, layer)
        platform = self.adapter._platform_class()
        if hasattr(platform, "update_block_size_for_backend"):
            with self.fault((), "choosing the cache block"), self.fork.set_current_config(config):
                platform.update_block_size_for_backend(config)
        block = config.cache_config.block_size or construct.DEFAULT_BLOCK_SIZE
        config.cache_config.block_size = block
        for layer in layers:
            self._build(config, layer, block)
        self._checks(config)
        self._drafts()
        if self.started.faults:
            return
        cache = Cache(self)
        cache.lay_out(config)
        self._join(cache)
        if self.gpu is not None and cache.groups:
            self.started.steps = FirstSteps(self, config, cache, self.gpu).take()

    def _join(self, cache: Cache) -> None:
        """Note the layers that are given a backend for a kernel that refuses them."""
        platform = importlib.import_module(self.adapter._platform())
        sizes = {
            name: size
            for groups, size in zip(cache.groups, cache.sizes, strict=True)
            for group in groups
            for name in group.layer_names
        }
        for layer in self.server.layers:
            if layer.name not in sizes:
                continue
            request = replace(layer.request, block_size=sizes[layer.name])
            impl = type(self.real[layer.name].impl)
            with self.fault((layer.name,), "asking the predicates of its kernels"):
                for words in join.refusing(impl, request, platform, self.fork.top):
                    self.started.joins.append(Fault((layer.name,), "", words))

    def _build(self, config: Any, layer: Layer, block: int) -> None:
        own = self.configuration.of_layer(config, layer)
        name = self.started.backends[layer.name]
        request = replace(layer.request, block_size=block)
        with (
            self.fault((layer.name,), f"building {name}"),
            self.of_layer(own, request),
        ):
            self.real[layer.name].impl = construct.build(
                lambda: self.classes[layer.name],
                frozenset(self.fork.registry.__members__),
                request,
                none_for_sinks=False,
            )

    def _placed(self, config: Any, layer: Layer) -> Any:
        """Return the fork's own layer, with the attributes that its constructor would give it."""
        request = layer.request
        found = homes(self.fork)[kind_of(request)]

        def lacks(self: Any, name: str) -> Any:
            raise MissingError(
                f"the server reads {name} of an attention layer, which the stand-in of"
                " pytest-rocm-attn does not have; add it to conformance/adapters/start/server.py"
            )

        made: Any = object.__new__(type(found.__name__, (found,), {"__getattr__": lacks}))
        utils: Any = self.fork.module("utils.torch_utils", "utils")
        values = {
            "layer_name": layer.name,
            "num_heads": request.num_heads,
            "num_kv_heads": request.num_kv_heads,
            "head_size": request.head_size,
            "head_size_v": request.head_size,
            "sliding_window": request.sliding_window,
            "attn_type": request.attn_type,
            "use_mla": request.use_mla,
            "use_sparse": request.use_sparse,
            "has_sink": request.has_sink,
            "non_causal": request.use_non_causal,
            "kv_cache_dtype": request.kv_cache_dtype,
            "kv_cache_torch_dtype": utils.kv_cache_dtype_str_to_dtype(
                request.kv_cache_dtype, self.configuration.model(request)
            ),
            "kv_sharing_target_layer_name": None,
            "is_draft_layer": layer.role == "drafter",
            "attn_backend": self.classes[layer.name],
            "impl": None,
            "indexer": None,
            "hisparse_cache": None,
            "topk_buffer_width": construct.TOPK if request.use_sparse else None,
            "non_causal_multi_token_decode": request.use_mla and request.use_non_causal,
        }
        for name, value in values.items():
            vars(made)[name] = value
        config.compilation_config.static_forward_context[layer.name] = made
        return made

    def _checks(self, config: Any) -> None:
        """Make the server's own checks of what was selected, as far as the release has them."""
        every = tuple(self.started.backends)
        parallel: Any = self.part("v1.worker.cp_utils")
        if hasattr(parallel, "check_attention_cp_compatibility"):
            with self.fault(every, "checking the context parallelism"):
                parallel.check_attention_cp_compatibility(config)
        invariant: Any = self.part("model_executor.layers.batch_invariant")
        override = getattr(invariant, "override_envs_for_invariance", None)
        if self.environ.get("VLLM_BATCH_INVARIANT") == "1" and override is not None:
            takes = inspect.signature(override).parameters
            named = {"attention_backend": self.fork.explicit(self.environ)}
            before = dict(os.environ)
            with self.fault(every, "preparing batch invariance"):
                override(**{name: value for name, value in named.items() if name in takes})
            os.environ.clear()
            os.environ.update(before)

    def _drafts(self) -> None:
        """Hold the metadata of the drafters' backends against the classes that the server takes."""
        drafters = [layer.name for layer in self.server.layers if layer.role == "drafter"]
        package = self.part("v1.spec_decode")
        # With one token there is no second step, whose metadata would be looked at.
        if not drafters or self.server.speculative_tokens < 2 or package is None:
            return
        lists = allow_lists.of(package)
        for name in drafters:
            with self.fault((name,), "reading which metadata its backend makes"):
                metadata = allow_lists.metadata_of(self.classes[name])
                for one in lists:
                    if metadata is None or one.takes(metadata):
                        continue
                    listed = ", ".join(cls.__name__ for cls in one.classes)
                    words = f"{one.place} takes {listed}, and not its {metadata.__name__}"
                    doing = f"drafting {self.server.speculative_tokens} tokens"
                    self.started.faults.append(Fault((name,), doing, words))
