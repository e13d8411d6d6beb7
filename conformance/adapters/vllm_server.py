"""What a vLLM-like server makes of a machine and of a choice, besides its backend classes."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters import (
    LacksError,
    adapt,
    capability,
    interfaces,
    layer_calls,
    names,
    plugins,
    predicate_table,
    predicates,
    twin_calls,
    visible,
)
from pytest_rocm_attn.conformance.adapters.start.server import Start
from pytest_rocm_attn.conformance.adapters.start.stand_ins import homes
from pytest_rocm_attn.conformance.adapters.vllm_backends import Backends
from pytest_rocm_attn.errors import SelectorError
from pytest_rocm_attn.registry import ROCM_BACKENDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pytest_rocm_attn.conformance.adapters.start.started import Started
    from pytest_rocm_attn.conformance.adapters.vllm_fork import Fork
    from pytest_rocm_attn.conformance.promise.servers_file import Server
    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.outcome import Selected, Unrecognised
    from pytest_rocm_attn.request import Request

# The function that gives vision layers their backend, and what later layers make of it.
_VISION = ("model_executor.models.vision", "get_vit_attn_backend")
# Modules that remember what they have chosen.
_CHAIN = ("v1.attention.selector", "attention.selector")
_UPGRADE = ("attention.layer", "maybe_get_vit_flash_attn_backend")


# What runs before workers are started, and what is a question by its name.
_BEFORE_WORKERS = ("config", "engine", "v1/engine", "entrypoints", "usage", "platforms")
# What runs the layers of a server, and what moves their caches.
_SERVING = (
    *("v1", "distributed", "executor", "worker", "compilation", "model_executor/layers"),
    *("model_executor/model_loader", "model_executor/warmup"),
)
_ATTENDING = ("v1/worker", "v1/engine", "model_executor/layers/attention")
_QUESTION = re.compile(r"(get|is|has|supports|support|use|can)_|device_count$|fp8_dtype$")


class VllmServer(Backends):
    """What a vLLM-like package can be asked besides its selector.

    Args:
        fork: the package.
        platform: the platform class under test; None for the class of the fork's current platform.
    """

    if TYPE_CHECKING:

        def select(
            self, request: Request, environ: Mapping[str, str], gpu: Gpu
        ) -> Selected | Unrecognised: ...

    def __init__(self, fork: Fork, platform: Any) -> None:
        super().__init__(fork, platform.__module__ if platform is not None else None)
        self._given = platform

    def _platform_class(self) -> Any:
        return self._given if self._given is not None else type(self._current_platform())

    def platform_found(self) -> dict[str, Any]:
        """Return the "platform" that the fork's own detection finds, and whether it "is_rocm"."""
        found = self._current_platform()
        name = f"{type(found).__module__}.{type(found).__qualname__}"
        return {"platform": name, "is_rocm": bool(found.is_rocm())}

    def asked_before_workers(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield what the server asks its platform before it starts workers, by name, to be called.

        These are the questions without arguments in the code of configurations and engines.
        """
        platform = self._current_platform()
        modules = interfaces.trees(self._sources(_BEFORE_WORKERS), interfaces.PLATFORM)
        made = interfaces.uses(modules, interfaces.PLATFORM, {})
        plain = {use.name for use in made if use.positional == 0 and not use.named}
        for name in sorted(filter(_QUESTION.match, plain)):
            if callable(question := getattr(platform, name, None)):
                yield name, question

    def cache_block(
        self, request: Request, backend: str, environ: Mapping[str, str], gpu: Gpu
    ) -> int | None:
        """Return the cache block that the server's configuration ends up with, by its own choice.

        The platform completes the configuration; where it asks the layers that were built for
        their backend, there is one, of the backend that was selected.
        """
        platform = self._platform_class()
        kept = self.fork.server_config
        # Of its own: platforms change more of a configuration than the cache block.
        self.fork.server_config = type(kept)()
        try:
            explicit = self.fork.explicit(environ)
            with self.fork.configured(environ, explicit, None), self._modelled(request):
                config = self.fork.server_config
                platform.check_and_update_config(config)
                if hasattr(platform, "update_block_size_for_backend"):
                    with self._built_layer(config, self._backend_class(backend)):
                        platform.update_block_size_for_backend(config)
                block_size: int | None = config.cache_config.block_size
                return block_size
        finally:
            self.fork.server_config = kept

    def start(self, server: Server, environ: Mapping[str, str], gpu: Gpu | None = None) -> Started:
        """Start a server, as far as it goes without weights and without a device.

        Args:
            server: its description.
            environ: the variables that are set.
            gpu: the mocked one, if the server's first steps are to be taken too.
        """
        return Start(self, server, environ, gpu).run()

    def read_code(self) -> dict[str, Any]:
        """Return what can be read off the code of the platform and of the backends it may choose.

        Returns: "predicates": predicate -> arguments -> answer (predicate_table.py); "twins": for each
            call that forgets what a twin heeds, "module", "callee", "line", "other" and "words".
        """
        modules = self._own_modules()
        forgetful = []
        for name in modules:
            with contextlib.suppress(OSError, TypeError):  # a module without source
                for twin in twin_calls.twins(inspect.getsource(sys.modules[name])):
                    found = {"module": name, "callee": twin.callee, "line": twin.line}
                    forgetful.append(found | {"other": twin.other, "words": twin.words})
        return {
            "predicates": capability.settled(lambda: predicate_table.table(modules)),
            "twins": forgetful,
        }

    def capability_changes(self, environ: Mapping[str, str], gpu: Gpu) -> list[dict[str, str]]:
        """Return what is answered differently under an impossible compute capability (capability.py)."""
        modules = self._own_modules()
        chain = [f"{self.fork.top}.{name}" for name in _CHAIN]
        clears = list(
            capability.caches_of(
                sys.modules[name] for name in (*modules, *chain) if name in sys.modules
            )
        )

        def select(request: Request) -> Selected | Unrecognised:
            return self.select(request, environ, gpu)

        def forget() -> None:
            for clear in clears:
                clear()

        platform = self._platform_class()
        return list(capability.changes(platform, modules, select, forget))

    def devices(self) -> list[dict[str, Any]]:
        """Return which device the platform means by each ordinal, next to the runtime's (visible.py)."""
        return visible.devices(self._current_platform())

    def answers_with_plugins(self, environ: Mapping[str, str], gpu: Gpu) -> dict[str, str]:
        """Return what is answered once the fork's plugins are loaded, by what is asked (plugins.py)."""
        if (load := getattr(self.fork.module("plugins"), "load_general_plugins", None)) is not None:
            load()
        platform = self._current_platform()
        cls = type(platform)
        # Another adapter, since a plugin may replace what this one holds.
        fresh = adapt(cls, f"{cls.__module__}:{cls.__qualname__}")
        return dict(plugins.answers(platform, lambda one: fresh.select(one, environ, gpu)))

    def misfits(self) -> list[dict[str, str]]:
        """Return what the server uses of its platform and of backend classes, and what does not fit.

        Returns: "place", "on" what, and what is wrong in "words", of each.
        """
        return list(self._misfits())

    def _misfits(self) -> Iterator[dict[str, str]]:
        platform = self._current_platform()
        backends = {}
        for backend in self._named_by_the_platform():
            # One that cannot be imported is another item's finding.
            with contextlib.suppress(Exception):
                backends[backend] = self._backend_class(backend)
        knows = dict.fromkeys(interfaces.PLATFORM, platform)
        modules = interfaces.trees(self._sources(_SERVING), interfaces.PLATFORM)
        made = interfaces.uses(modules, interfaces.PLATFORM, knows)
        found = list(interfaces.misfits(made, platform, self._other_platforms_have()))
        yield from _misfit_words("the platform", found)
        modules = interfaces.trees(self._sources(_ATTENDING), interfaces.BACKEND)
        layers = self._sources(("v1/attention", "attention", "model_executor/layers/attention"))
        attending = "\n".join(layers.values())
        for backend, cls in backends.items():
            holds = knows | dict.fromkeys(interfaces.BACKEND, cls)
            made = interfaces.uses(modules, interfaces.BACKEND, holds)
            others = [other for other in backends.values() if other is not cls]
            found = list(interfaces.misfits(made, cls, _one_of(others)))
            yield from _misfit_words(backend, found)
            parts = layer_calls.misfits(cls, self._layers_of(cls), attending, knows)
            for what, found in parts.items():
                yield from _misfit_words(f"{backend}'s {what}", found)

        for module, source in self._sources(("model_executor", "models")).items():
            if "forward_hip" in source:
                for line, words in interfaces.other_ways(source, "forward_hip", "forward_cuda"):
                    yield {"place": f"{module}:{line}", "on": "ROCm's way", "words": words}

    def _layers_of(self, backend: Any) -> dict[str, str]:
        """Return module -> source, of the code that calls the implementations of a backend's kind."""
        latent = layer_calls.kind(backend)[0]
        layer = homes(self.fork).get("MLAAttention" if latent else "Attention")
        if layer is None:
            return {}
        sources = {layer.__module__: inspect.getsource(sys.modules[layer.__module__])}
        wrappers = self._sources(("model_executor/layers",)) if latent else {}
        return sources | {name: text for name, text in wrappers.items() if "mla_attn.impl." in text}

    def _other_platforms_have(self) -> Callable[[str], bool]:
        """Return whether this platform should have an attribute that it lacks.

        It should if CUDA's platform has it, since AMD's GPUs take the same ways, or if no platform does.
        """
        sources = self._sources(("platforms",))
        by_module = {name.rpartition(".")[2]: interfaces.defined(sources[name]) for name in sources}
        everywhere = set().union(*by_module.values())
        return lambda name: name in by_module.get("cuda", ()) or name not in everywhere

    def _sources(self, folders: Iterable[str]) -> dict[str, str]:
        top = Path(str(importlib.import_module(self.fork.top).__file__)).parent
        found = {}
        for folder in folders:
            for path in sorted((top / folder).rglob("*.py")):
                module = ".".join(path.relative_to(top.parent).with_suffix("").parts)
                found[module] = path.read_text("utf-8")
        return found

    def _named_by_the_platform(self) -> list[str]:
        """Return the backends that the source of the platform names."""
        source = inspect.getsource(importlib.import_module(self._platform()))
        return [
            name
            for name in self.fork.registry.__members__
            if re.search(rf"\b{re.escape(name)}\b", source)
        ]

    def _own_modules(self) -> list[str]:
        """Return the modules of the platform, of AITER's operations, and of the platform's backends.

        The platform's are those that its source names.
        """
        platform = importlib.import_module(self._platform())
        found = [platform.__name__]
        operations = self.fork.module("_aiter_ops")
        if operations is not None:
            found.append(operations.__name__)
        for backend in self._named_by_the_platform():
            # One that cannot be imported is another item's finding.
            with contextlib.suppress(Exception):
                found.append(self._backend_class(backend).__module__)
        return list(dict.fromkeys(found))

    def unresolved(
        self, request: Request, backend: str, environ: Mapping[str, str], gpu: Gpu
    ) -> list[str]:
        """Build a backend, and return the names that its code refers to and that are not there."""
        self.construct(request, backend, environ, gpu)
        return names.missing(self._backend_class(backend).__module__, self.fork.top)

    def unheeded(self) -> dict[str, Any]:
        """Return predicate -> what predicates.unheeded() says of it; {} where the fork has none."""
        module = importlib.import_module(self._platform())
        for backend in self.fork.registry.__members__.keys() & set(ROCM_BACKENDS):
            # The callers are in what backends import. One that cannot be is another item's finding.
            with contextlib.suppress(Exception):
                self._backend_class(backend)
        return {
            name: predicates.unheeded(predicate, self.fork.top)
            for name, predicate in predicates.candidates(module).items()
        }

    def vision(self, request: Request, override: str) -> dict[str, Any]:
        """Return what vision attention is given.

        Args:
            request: its head size and dtype.
            override: the backend that is named for vision layers; "" for none.

        Returns: "backend": its name; "supported": those that the platform supports, or None if
            it does not say.

        Raises:
            LacksError: the fork has no choice of vision backends, or no backend of that name.
        """
        module = self.fork.module(_VISION[0])
        choose = getattr(module, _VISION[1], None)
        if choose is None:
            raise LacksError("the fork has no get_vit_attn_backend")
        if override and override not in self.fork.registry.__members__:
            raise LacksError(f"the fork has no {override}")
        import torch

        member = self.fork.registry[override] if override else None
        takes = inspect.signature(choose).parameters
        with self._judged(), self._modelled(request):
            config = self.fork.server_config.model_config
            config.multimodal_config = _Multimodal(member)
            arguments = {"head_size": request.head_size, "dtype": getattr(torch, request.dtype)}
            if "attn_backend_override" in takes:
                arguments["attn_backend_override"] = member
            with self.fork.set_current_config(self.fork.server_config):
                chosen = self._upgraded(choose(**arguments), member)
        listed = getattr(self._platform_class(), "get_supported_vit_attn_backends", None)
        supported = None if listed is None else [one.name for one in listed()]
        return {"backend": chosen.name, "supported": supported}

    def _upgraded(self, chosen: Any, override: Any) -> Any:
        """Return what the layer makes of the choice, in releases that choose again there."""
        upgrade = getattr(self.fork.module(_UPGRADE[0]), _UPGRADE[1], None)
        parameters = inspect.signature(upgrade).parameters if upgrade is not None else {}
        if upgrade is None or "attn_backend_override" not in parameters:
            return chosen
        known = {"attn_backend": chosen, "attn_backend_override": override}
        if "use_upstream_fa" in parameters:
            known["use_upstream_fa"] = False
        return upgrade(**known)[0]

    @contextlib.contextmanager
    def _judged(self) -> Iterator[None]:
        """Have the fork's current platform be of the class under test, where that derives from it.

        The platform object itself, since modules took it by name when they were imported.
        """
        current = self._current_platform()
        kept = type(current)
        if self._given is not None and issubclass(self._given, kept):
            current.__class__ = self._given
        try:
            yield
        finally:
            current.__class__ = kept

    @contextlib.contextmanager
    def _built_layer(self, config: Any, backend_class: Any) -> Iterator[None]:
        """Have one attention layer, of the given backend, among those that were built."""
        base_module: Any = self.fork.module("model_executor.layers.attention_layer_base")
        if base_module is None:
            raise SelectorError(
                f"{self.fork.top} has no model_executor/layers/attention_layer_base.py, where its"
                " platform looks for the layers that were built; report that to pytest-rocm-attn"
            )
        base = base_module.AttentionLayerBase

        def answer_nothing(self: Any, *arguments: Any) -> None:
            return None

        stubs: dict[str, Any] = dict.fromkeys(base.__abstractmethods__, answer_nothing)
        stubs["get_attn_backend"] = lambda self: backend_class
        layers = config.compilation_config.static_forward_context
        layers["rocm-attn"] = type("Layer", (base,), stubs)()
        try:
            yield
        finally:
            del layers["rocm-attn"]


class _Multimodal:
    """What the choice of a vision backend reads of a multimodal model's configuration."""

    mm_encoder_attn_dtype = None

    def __init__(self, override: Any) -> None:
        self.mm_encoder_attn_backend = override


def _misfit_words(on: str, found: Iterable[tuple[interfaces.Use, str]]) -> Iterator[dict[str, str]]:
    for use, reason in found:
        words = f"{use.name}{'' if use.positional is None else '()'} of {on}: {reason}"
        yield {"place": use.place, "on": on, "words": words}


def _one_of(classes: Iterable[Any]) -> Callable[[str], bool]:
    """Return whether one of the classes has an attribute."""
    return lambda name: any(hasattr(one, name) for one in classes)
