"""Start a server of vLLM, or of a fork, as far as it goes without weights and without a device.

For a description of a server, the fork's own configuration objects are filled, its own platform
completes them, its own selector chooses a backend for each layer, and its own runner lays out the
cache that the layers share. Nothing is allocated on a device, and nothing runs there. Runs in the worker.

Each part is looked up where releases keep it (v0.11.2 to v0.33.0). A part that a release does not have
is left out and named in Started.left_out.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import itertools
import os
from dataclasses import dataclass, field, replace
from types import FunctionType, MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args

from pytest_rocm_attn.conformance.adapters import (
    LacksError,
    allow_lists,
    construct,
    declarations,
    kernel_needs,
)
from pytest_rocm_attn.conformance.adapters.vllm_backends import GroupOfOne
from pytest_rocm_attn.conformance.adapters.vllm_fork import Call, request_values
from pytest_rocm_attn.errors import SelectorError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_rocm_attn.conformance.adapters.vllm_fork import Fork
    from pytest_rocm_attn.conformance.adapters.vllm_server import Server as Adapter
    from pytest_rocm_attn.conformance.promise.servers_file import Layer, Server
    from pytest_rocm_attn.request import Request

_BLOCKS = 13  # of the cache: a number that no dimension of a layer's has
_MEMORY = 1 << 40  # bytes; the number of blocks is set apart from it

# What a server needs of a backend besides what its layers are -> the name that vLLM's selector gives it, and
# the method by which a backend says whether it has it (vllm/v1/attention/backend.py, v0.33.0).
NEEDS = {
    "use_batch_invariant": "supports_batch_invariance",
    "use_kv_connector": "supports_kv_connector",
    "use_dcp": "supports_dcp",
    "use_pcp": "supports_pcp",
    "use_non_causal": "supports_non_causal",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that keeps a server from starting, or lets it compute nonsense.

    Args:
        layers: the names of those that it is about.
        doing: what was being done.
        words: what is wrong; "" if the error says it.
        error: what was raised, if anything was.
    """

    layers: tuple[str, ...]
    doing: str
    words: str = ""
    error: BaseException | None = None


@dataclass(slots=True)
class Started:
    """How far a server came.

    Args:
        backends: layer -> the backend that it was given.
        asked: layer -> the fields that the platform was asked with, as text.
        faults: what went wrong, in order.
        left_out: what this release has no function for.
        unasked: the server's needs that are not among the fields of the selector's question.
        not_filled: fields of the selector's question that a request says nothing about: who asks
            the platform without a server leaves them at their defaults.
    """

    backends: dict[str, str] = field(default_factory=dict)
    asked: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
    not_filled: list[str] = field(default_factory=list)


class _MissingError(SelectorError, AttributeError):
    """Our stand-in lacks what the fork reads."""


class _Model(construct.ModelConfig):
    """What a fork reads of the model; what we do not say has the fork's own default."""

    def __init__(self, server: Server, request: Request, dtype: Any, own: Any) -> None:
        super().__init__(request, dtype)
        self._own = own
        self.architecture = server.architecture
        model: Any = SimpleNamespace(
            **{
                "index_topk": construct.TOPK,
                "layer_types": [layer.name for layer in server.layers],
                **server.config,
            }
        )
        self.hf_config = self.hf_text_config = model
        self.model_arch_config = _Architecture(server)
        self.is_encoder_decoder = server.encoder_decoder
        self.attn_type = "encoder_decoder" if server.encoder_decoder else request.attn_type
        self.is_mm_prefix_lm = any(layer.request.use_mm_prefix for layer in server.layers)
        self.original_max_model_len = self.max_model_len
        self.rswa_window = None
        self.enforce_eager = True
        self.disable_cascade_attn = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_own":
            raise AttributeError(name)
        own = {one.name: one for one in dataclasses.fields(self._own)}.get(name)
        if own is not None and own.default is not dataclasses.MISSING:
            default = own.default
            return getattr(default, "default", default)  # pydantic's Field has it inside
        raise _MissingError(
            f"the server reads model_config.{name}, which the stand-in for a model of"
            " pytest-rocm-attn does not have; add it to conformance/adapters/vllm_start.py"
        )


class _Architecture:
    """What later releases read of a model's layers."""

    def __init__(self, server: Server) -> None:
        self._layers = server.layers
        self.total_num_hidden_layers = len(server.layers)

    def __getitem__(self, number: int) -> Any:
        return self._layers[number].request


def bare(cls: Any, **values: Any) -> Any:
    """Return an instance of a configuration class with its defaults and these values.

    Its checks do not run: they would look at a model that is not there.
    """
    made = object.__new__(cls)
    for one in dataclasses.fields(cls):
        default = getattr(one.default, "default", one.default)
        if one.name in values:
            default = values[one.name]
        elif default is dataclasses.MISSING or type(default).__name__ == "PydanticUndefinedType":
            factory = one.default_factory
            default = None if factory is dataclasses.MISSING else factory()
        object.__setattr__(made, one.name, default)
    return made


class Start:
    """One start of a server.

    Args:
        adapter: the fork's.
        server: its description.
        environ: the variables that are set.
    """

    def __init__(self, adapter: Adapter, server: Server, environ: Mapping[str, str]) -> None:
        self.adapter = adapter
        self.fork: Fork = adapter.fork
        self.server = server
        self.environ = environ
        self.started = Started()
        self.classes: dict[str, Any] = {}  # layer -> the class of its backend
        self.real: dict[str, Any] = {}  # layer -> the fork's own layer
        self.blocks: dict[str, int] = {}

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
        config = self.fork.server_config = self._config()
        try:
            with self._fault((), "completing the configuration"):
                self._as_its_model(config)
                self.adapter._platform_class().check_and_update_config(config)
            for layer in self.server.layers:
                self._select(config, layer)
            if len(self.classes) == len(self.server.layers):
                with self._ranks():
                    self._together(config)
        finally:
            self.fork.server_config = kept
        return self.started

    def _part(self, *names: str) -> Any:
        """Return the first of the fork's modules that exists; None if it needs a package that is not there.

        What such a module does is left out: the machine lacks it, and not the fork.
        """
        try:
            return self.fork.module(*names)
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] == self.fork.top:
                raise
            self.started.left_out.append(f"what {names[0]} does: it needs {error.name}")
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
            setattr(state, name, _Ranks(sizes[name]))
        try:
            with self.adapter._grouped():
                yield
        finally:
            for name, group in kept.items():
                setattr(state, name, group)

    @contextlib.contextmanager
    def _fault(self, layers: Sequence[str], doing: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  foreign code: what it raises is a result
            self.started.faults.append(Fault(tuple(layers), doing, error=error))

    # --- the configuration ------------------------------------------------------------------------

    def _config(self) -> Any:
        """Return the fork's configuration of the server."""
        server, config = self.server, type(self.fork.server_config)()
        explicit = self.fork.explicit(self.environ)
        if hasattr(config, "attention_config"):
            config.attention_config.backend = explicit
        cache, parallel = config.cache_config, config.parallel_config
        cache.cache_dtype = server.kv_cache_dtype
        cache.num_gpu_blocks_override = _BLOCKS
        if server.block_size is not None:
            cache.block_size = server.block_size
        if hasattr(cache, "user_specified_block_size"):
            cache.user_specified_block_size = server.block_size is not None
        for name, size in (
            ("decode_context_parallel_size", server.decode_context_parallel),
            ("prefill_context_parallel_size", server.prefill_context_parallel),
        ):
            if size > 1 and not hasattr(parallel, name):
                self.started.left_out.append(f"parallel_config.{name}")
            elif size > 1:
                setattr(parallel, name, size)
        configs: Any = self.fork.module("config")
        if server.connector:
            config.kv_transfer_config = bare(
                configs.KVTransferConfig, kv_connector=server.connector, kv_role="kv_both"
            )
        if server.method:
            config.speculative_config = bare(
                configs.SpeculativeConfig,
                method=server.method,
                num_speculative_tokens=server.speculative_tokens,
            )
        config.model_config = self._model(server.layers[0].request)
        return config

    def _as_its_model(self, config: Any) -> None:
        """Have the fork change the configuration as it does for a model of this architecture."""
        models: Any = self.fork.module("model_executor.models.config")
        known = getattr(models, "MODELS_CONFIG_MAP", {}).get(self.server.architecture)
        if known is not None:
            with self.fork.set_current_config(config):
                known.verify_and_update_config(config)

    def _model(self, request: Request) -> _Model:
        import torch

        configs: Any = self.fork.module("config")
        dtype = getattr(torch, request.dtype)
        return _Model(self.server, request, dtype, configs.ModelConfig)

    def _of_layer(self, config: Any, layer: Layer) -> Any:
        """Return the configuration that a layer is built under: the drafter's differs."""
        if layer.role != "drafter" or not hasattr(config, "attention_config"):
            return config
        # _create_draft_vllm_config in vllm/v1/spec_decode/llm_base_proposer.py (v0.33.0)
        changed, attention = copy.copy(config), copy.copy(config.attention_config)
        if hasattr(config.speculative_config, "attention_backend"):
            attention.backend = config.speculative_config.attention_backend
        if hasattr(attention, "use_non_causal"):
            attention.use_non_causal = layer.request.use_non_causal
        changed.attention_config = attention
        return changed

    # --- one layer --------------------------------------------------------------------------------

    def _select(self, config: Any, layer: Layer) -> None:
        """Have the fork's chain choose a backend for a layer."""
        try:
            chosen, asked = self._chosen(self._of_layer(config, layer), layer)
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
        config = self.fork.server_config = other._config()
        try:
            return other._name(other._chosen(other._of_layer(config, layer), layer)[0])
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
        with self._layer_of(config, request), self._recorded(asked):
            chosen = call(values)
        return chosen, asked

    @contextlib.contextmanager
    def _layer_of(self, config: Any, request: Request) -> Iterator[None]:
        import torch

        kept, dtype = torch.get_default_dtype(), getattr(torch, request.dtype)
        model, config.model_config = config.model_config, self._model(request)
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
        """Note what the platform is asked with while the block runs."""
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
            predicate = getattr(chosen, says, None)
            if callable(predicate) and not predicate():
                words = f"{self._name(chosen)} is selected, and says by {says}() that it does not"
                self.started.faults.append(Fault((layer.name,), f"needing {need}", words))

    # --- all layers -------------------------------------------------------------------------------

    def _together(self, config: Any) -> None:
        """Do what the server does with the layers once they have their backends."""
        layers = [layer for layer in self.server.layers]
        with self._fault((), "placing the layers in the configuration"):
            for layer in layers:
                self.real[layer.name] = self._placed(config, layer)
        platform = self.adapter._platform_class()
        if hasattr(platform, "update_block_size_for_backend"):
            with self._fault((), "choosing the cache block"), self.fork.set_current_config(config):
                platform.update_block_size_for_backend(config)
        block = config.cache_config.block_size or construct.DEFAULT_BLOCK_SIZE
        config.cache_config.block_size = block
        for layer in layers:
            self._build(config, layer, block)
        self._checks(config)
        self._drafts()
        if not self.started.faults:
            self._cache(config)

    def _build(self, config: Any, layer: Layer, block: int) -> None:
        own = self._of_layer(config, layer)
        name = self.started.backends[layer.name]
        request = replace(layer.request, block_size=block)
        with (
            self._fault((layer.name,), f"building {name}"),
            self._layer_of(own, request),
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
        found = _homes(self.fork)[_kind(request)]

        def lacks(self: Any, name: str) -> Any:
            raise _MissingError(
                f"the server reads {name} of an attention layer, which the stand-in of"
                " pytest-rocm-attn does not have; add it to conformance/adapters/vllm_start.py"
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
                request.kv_cache_dtype, self._model(request)
            ),
            "kv_sharing_target_layer_name": None,
            "is_draft_layer": layer.role == "drafter",
            "attn_backend": self.classes[layer.name],
            "impl": None,
            "indexer": None,
            "topk_buffer_width": construct.TOPK if request.use_sparse else None,
            "non_causal_multi_token_decode": False,
        }
        for name, value in values.items():
            vars(made)[name] = value
        config.compilation_config.static_forward_context[layer.name] = made
        return made

    def _checks(self, config: Any) -> None:
        """Make the server's own checks of what was selected, as far as the release has them."""
        every = tuple(self.started.backends)
        parallel: Any = self._part("v1.worker.cp_utils")
        if hasattr(parallel, "check_attention_cp_compatibility"):
            with self._fault(every, "checking the context parallelism"):
                parallel.check_attention_cp_compatibility(config)
        invariant: Any = self._part("model_executor.layers.batch_invariant")
        override = getattr(invariant, "override_envs_for_invariance", None)
        if self.environ.get("VLLM_BATCH_INVARIANT") == "1" and override is not None:
            takes = inspect.signature(override).parameters
            named = {"attention_backend": self.fork.explicit(self.environ)}
            before = dict(os.environ)
            with self._fault(every, "preparing batch invariance"):
                override(**{name: value for name, value in named.items() if name in takes})
            os.environ.clear()
            os.environ.update(before)

    def _drafts(self) -> None:
        """Hold the metadata of the drafters' backends against the classes that the server takes."""
        drafters = [layer.name for layer in self.server.layers if layer.role == "drafter"]
        package = self._part("v1.spec_decode")
        # With one token there is no second step, whose metadata would be looked at.
        if not drafters or self.server.speculative_tokens < 2 or package is None:
            return
        lists = allow_lists.of(package)
        for name in drafters:
            with self._fault((name,), "reading which metadata its backend makes"):
                metadata = allow_lists.metadata_of(self.classes[name])
                for one in lists:
                    if metadata is None or one.takes(metadata):
                        continue
                    listed = ", ".join(cls.__name__ for cls in one.classes)
                    words = f"{one.place} takes {listed}, and not its {metadata.__name__}"
                    doing = f"drafting {self.server.speculative_tokens} tokens"
                    self.started.faults.append(Fault((name,), doing, words))

    # --- the cache --------------------------------------------------------------------------------

    def _cache(self, config: Any) -> None:
        """Lay out the cache that the layers share, by the release's own functions."""
        cached = {
            name: one for name, one in self.real.items() if one.attn_type not in _WITHOUT_CACHE
        }
        if not cached:
            return
        core: Any = self._part("v1.core.kv_cache_planning", "v1.core.kv_cache_utils")
        worker: Any = self._part("v1.worker.utils")
        if core is None or worker is None:
            # Each layer for itself, with the block that one backend alone would be given.
            alone = [
                SimpleNamespace(backend=self.classes[name], layer_names=[name], kv_cache_group_id=0)
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
        with self.fork.set_current_config(config):
            specs: dict[str, Any] = {}
            customize = getattr(worker, "customize_attention_spec", lambda backend, spec: spec)
            for name, one in cached.items():
                with self._fault((name,), "describing its cache"):
                    specs[name] = customize(self.classes[name], one.get_kv_cache_spec(config))
            if len(specs) < len(cached):
                return
            with self._fault(every, self._with_layouts("finding a common layout of the cache")):
                self._layout(config, specs)
            if self.started.faults:
                return
            groups = None
            with self._fault(every, "dividing the cache among the layers"):
                shared = self._shared(core, config, specs)
                groups = self._groups(worker, shared)
            if groups is None:
                return
            sizes = None
            with self._fault(every, self._with_blocks("finding a common kernel block")):
                sizes = self._kernel_blocks(worker, runner, config, shared, groups)
            if sizes is not None:
                self._kernels_take(groups, sizes)
            if sizes is not None and hasattr(runner, "_reshape_kv_cache_tensors"):
                self._views(runner, config, shared, groups, sizes)

    def _runner(self) -> Any:
        """Return the class of the runner in releases whose runner views the cache, else None.

        If layouts are chosen for all layers at once, views follow from the layout; the module is
        heavy, so that it is not imported for nothing.
        """
        utils: Any = self._part("v1.attention.backends.utils")
        if hasattr(utils, "get_supported_kv_cache_layouts"):
            return None
        return getattr(self._part("v1.worker.gpu_model_runner"), "GPUModelRunner", None)

    def _with_layouts(self, doing: str) -> str:
        said = []
        for name, cls in self.classes.items():
            asks = getattr(cls, "supported_kv_cache_layouts", None)
            layouts = asks() if asks is not None else None
            words = "any" if layouts is None else ", ".join(one.name for one in layouts)
            said.append(f"{name} ({self.started.backends[name]}): {words}")
        return f"{doing} of {'; '.join(said)}"

    def _with_blocks(self, doing: str) -> str:
        said = []
        for name, cls in self.classes.items():
            with contextlib.suppress(
                TypeError, AttributeError
            ):  # releases differ in what they take
                sizes = declarations.block_sizes(cls) or "any"
                said.append(f"{name} ({self.started.backends[name]}): {sizes}")
        return f"{doing} of {'; '.join(said)}"

    def _layout(self, config: Any, specs: Mapping[str, Any]) -> None:
        utils: Any = self._part("v1.attention.backends.utils")
        if not hasattr(utils, "get_supported_kv_cache_layouts"):
            self.started.left_out.append("a choice among layouts of the cache")
            return
        backends = [self.classes[name] for name in specs]
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
                alike.setdefault((self.classes[name], spec), []).append(name)
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
            stand_in = _Runner(runner, kv_cache_config=shared, attn_groups=groups)
            found = stand_in._prepare_kernel_block_sizes(shared)
            return found
        self.started.left_out.append("a kernel block that several backends have in common")
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
            for need in kernel_needs.BLOCK_NEEDS:
                if need.kernel in called and size not in need.sizes:
                    takes = ", ".join(map(str, need.sizes))
                    words = f"{need.kernel} is given blocks of {size} tokens, and takes {takes}"
                    doing = f"choosing a kernel block ({need.source})"
                    self.started.faults.append(Fault(tuple(group.layer_names), doing, words))

    def _views(
        self, runner: Any, config: Any, shared: Any, groups: list[list[Any]], sizes: list[int]
    ) -> None:
        """View the cache as the runner does, and find layers whose blocks are each other's."""
        import torch

        raw = {
            name: buffer
            for one in shared.kv_cache_tensors
            for buffer in [torch.zeros(one.size, dtype=torch.int8)]
            for name in one.shared_by
        }
        own = _Runner(
            runner,
            kv_cache_config=shared,
            attn_groups=groups,
            cache_config=config.cache_config,
            vllm_config=config,
            runner_only_attn_layers=set(),
            kernel_block_sizes=sizes,
        )
        views: dict[str, Any] = {}
        takes = inspect.signature(runner._reshape_kv_cache_tensors).parameters
        given = {
            "kv_cache_config": shared,
            "kv_cache_raw_tensors": raw,
            "kernel_block_sizes": sizes,
        }
        with self._fault(tuple(raw), "viewing the cache as the runner does"):
            views = own._reshape_kv_cache_tensors(
                **{name: value for name, value in given.items() if name in takes}
            )
        for one in shared.kv_cache_tensors:
            names = [name for name in one.shared_by if hasattr(views.get(name), "as_strided")]
            for first, second in itertools.pairwise(names):
                if _overlap(views[first], views[second], _BLOCKS):
                    words = (
                        "they share one allocation, and block 1 of one is in other blocks of the other:"
                        f" {self._view_words(first, views)}; {self._view_words(second, views)}"
                    )
                    self.started.faults.append(
                        Fault((first, second), "viewing the cache as the runner does", words)
                    )

    def _view_words(self, name: str, views: Mapping[str, Any]) -> str:
        view = views[name]
        backend = self.started.backends[name]
        return f"{name} ({backend}) has shape {tuple(view.shape)}, strides {tuple(view.stride())}"


_WITHOUT_CACHE = ("encoder", "encoder_only")


class _Ranks(GroupOfOne):
    """A group of ranks, seen from its first."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.ranks = tuple(range(world_size))
        self.is_last_rank = world_size == 1


class _Runner:
    """The fork's runner, of which only some methods are called, with what they read."""

    def __init__(self, cls: Any, **values: Any) -> None:
        vars(self).update(values)
        vars(self)["_cls"] = cls

    def __getattr__(self, name: str) -> Any:
        found = inspect.getattr_static(self._cls, name, None)
        if isinstance(found, FunctionType):
            return MethodType(found, self)
        if isinstance(found, staticmethod):
            return found.__func__
        raise _MissingError(
            f"the server reads {name} of its runner, which the stand-in of pytest-rocm-attn does not"
            " have; add it to conformance/adapters/vllm_start.py"
        )


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


def _kind(request: Request) -> str:
    if request.use_mla:
        return "MLAAttention"
    return "CrossAttention" if request.attn_type == "encoder_decoder" else "Attention"


def _homes(fork: Fork) -> dict[str, Any]:
    """Return the fork's classes of attention layers, by the names of _kind()."""
    found: dict[str, Any] = {}
    for name in (
        "model_executor.layers.attention",
        "attention.layer",
        "attention.layers.cross_attention",
    ):
        module = fork.module(name)
        for kind in ("Attention", "MLAAttention", "CrossAttention"):
            if (cls := getattr(module, kind, None)) is not None:
                found.setdefault(kind, cls)
    return found
