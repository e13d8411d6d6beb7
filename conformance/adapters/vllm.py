"""vLLM and its forks, at two depths, recognised by the shape of what they offer.

The platform depth asks ``RocmPlatform.get_attn_backend_cls``; the full chain asks
``get_attn_backend``, which reads VLLM_ATTENTION_BACKEND itself, caches, and imports the class.
Three calling conventions exist so far (docs/reference/contract.md#q25 and #later-releases): loose
arguments, loose arguments with ``use_v1``, and one ``attn_selector_config``. Arguments are matched
by name, so a convention that only adds known names needs nothing here, and one that asks for
something unknown fails loudly.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import importlib
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters import (
    LacksError,
    model_choice,
    recognise,
    recognise_class_path,
    shape,
    vllm_parts,
)
from pytest_rocm_attn.conformance.adapters.vllm_fork import (
    OF_THE_RUN,
    Call,
    Fork,
    left_out,
    request_values,
    server_values,
)
from pytest_rocm_attn.conformance.adapters.vllm_server import VllmServer
from pytest_rocm_attn.outcome import Selected, Unrecognised
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.conformance.promise.naming import Named
    from pytest_rocm_attn.gpu import Gpu

_PREFILL = "v1.attention.backends.mla.prefill.selector"
_LAYOUTS = ("v1.attention.backends.utils", "get_supported_kv_cache_layouts")


def is_full_chain(found: object) -> bool:
    """Whether an object is a vLLM-style ``get_attn_backend`` function."""
    if not callable(found) or getattr(found, "__name__", "") != "get_attn_backend":
        return False
    return {"head_size", "dtype", "kv_cache_dtype"} <= set(inspect.signature(found).parameters)


class Naming(VllmServer, abc.ABC):
    """How a fork's users name backends; see adapters.Names."""

    def named_by_variable(self, named: Named) -> bool:
        return named.asks == "layer" and self.fork.attention_config is None

    def select_named(
        self, request: Request, environ: Mapping[str, str], gpu: Gpu, named: Named
    ) -> Selected | Unrecognised:
        fields = getattr(self.fork.attention_config, "__dataclass_fields__", {})
        if named.per_kind and "backend_per_kind" not in fields:
            raise LacksError("the fork names no backends by kind of layer")
        match named.asks:
            case "vision":
                backend = named.backend.upper() if named.backend else ""
                return Selected(self.vision(request, backend)["backend"])
            case "mla-prefill":
                return self._mla_prefill(request, named)
            case "boundary-layer":
                return self._boundary_layer(request, named)
            case "model":
                return self._model(named)
            case "environment":
                return self._environment()
            case "draft":
                return self._layer(request, vllm_parts.of_draft(self.fork, named))
            case "gdn-prefill":
                with self._judged():
                    return Selected(vllm_parts.gdn_prefill(self.fork, request, named))
        return self._layer(request, self.fork.attention(named))

    @abc.abstractmethod
    def _layer_asked(self, request: Request, attention: Any) -> Selected | Unrecognised:
        """Ask for a layer, under the configuration that is current."""

    def _layer(self, request: Request, attention: Any) -> Selected | Unrecognised:
        """Ask for a layer under an attention configuration."""
        # Nothing of the environment stands for an option here: the fork reads its variables itself.
        with self.fork.configured({}, None, request.block_size, request, attention):
            return self._layer_asked(request, attention)

    def _boundary_layer(self, request: Request, named: Named) -> Selected | Unrecognised:
        """Ask for a layer that keeps the model's dtype in a run with a packed cache.

        Raises:
            ValueError: as the fork's server, if no cache layout serves it and the other layers.
        """
        common = getattr(self.fork.module(_LAYOUTS[0]), _LAYOUTS[1], None)
        if common is None:
            raise LacksError("the fork's backends declare no cache layouts")
        run = request.kv_cache_dtype
        plain = dataclasses.replace(request, kv_cache_dtype="auto", run_kv_cache_dtype=run)
        attention = self.fork.attention(named)
        boundary = self._layer(plain, attention)
        other = self._layer(request, attention)
        if isinstance(boundary, Selected) and isinstance(other, Selected):
            common([self._backend_class(one.backend) for one in (boundary, other)])
        return boundary

    def _model(self, named: Named) -> Selected | Unrecognised:
        package: Any = importlib.import_module(self.fork.top)
        unheeded = model_choice.unheeded(Path(package.__path__[0]), named.model)
        if unheeded is None:
            raise LacksError(f"the fork has no {named.model}")
        return Unrecognised(unheeded) if unheeded else Selected(named.backend or "")

    def _environment(self) -> Unrecognised:
        """Have the fork validate its environment, as with --fail-on-environ-validation.

        Raises:
            ValueError: the fork's own, about a variable that it does not know.
        """
        places = (self._platform_class(), self.fork.envs)
        found = (getattr(place, "validate_environ", None) for place in places)
        validate = next(filter(None, found), None)
        if validate is None:
            raise LacksError("the fork does not validate its environment")
        if self.fork.prefix != shape.VLLM:
            raise LacksError(f"the fork validates variables of its own, {self.fork.prefix}...")
        validate(True)
        return Unrecognised("the environment is valid")

    def _mla_prefill(self, request: Request, named: Named) -> Selected | Unrecognised:
        module: Any = self.fork.module(_PREFILL)
        if module is None:
            raise LacksError("the fork does not choose MLA prefill backends")
        registry: Any = self.fork.module(_PREFILL.rpartition(".")[0] + ".registry")
        for value in vars(module).values():
            if callable(clear := getattr(value, "cache_clear", None)):
                clear()
        attention = self.fork.attention(named)
        with (
            self._judged(),
            self._modelled(request),
            self.fork.configured({}, None, request.block_size, None, attention),
        ):
            answer = module.get_mla_prefill_backend(self.fork.server_config)
        for name, member in registry.MLAPrefillBackendEnum.__members__.items():
            with contextlib.suppress(ImportError):
                if member.get_class() is answer:
                    return Selected(name)
        return Unrecognised(repr(answer))


class PlatformAdapter(Naming):
    """A platform class with ``get_attn_backend_cls``."""

    def __init__(self, platform: Any) -> None:
        super().__init__(Fork(platform), platform)
        self._ask = Call(
            platform.get_attn_backend_cls, "selected_backend", "use_v1", "attn_selector_config"
        )

    def select(
        self, request: Request, environ: Mapping[str, str], gpu: Gpu
    ) -> Selected | Unrecognised:
        explicit = self.fork.explicit(environ)
        values = self._values(request, explicit)
        if "attn_selector_config" in self._ask.parameters:
            values["attn_selector_config"] = self.fork.new_selector_config(values)
            with self.fork.configured(environ, explicit, request.block_size, request):
                answer = self._ask(values)
        else:
            answer = self._ask(values)
        return recognise_class_path(answer, self.fork.class_paths)

    def _layer_asked(self, request: Request, attention: Any) -> Selected | Unrecognised:
        values = self._values(request, self.fork.of_layer(attention, request))
        values["attn_selector_config"] = self.fork.new_selector_config(values)
        return recognise_class_path(self._ask(values), self.fork.class_paths)

    def _values(self, request: Request, backend: Any) -> dict[str, Any]:
        """Return what the platform's caller, get_attn_backend, fills in for a layer."""
        return {
            **request_values(request),
            "selected_backend": backend,
            "use_v1": True,
            "use_batch_invariant": self.fork.batch_invariant(request),
        }

    def not_asked(self, request: Request) -> tuple[str, ...]:
        """Return the fields in which a request is special and which the fork cannot be asked."""
        if "attn_selector_config" not in self._ask.parameters:
            return left_out(request, self._ask.parameters, ())
        said = {field for field, owner, name, _ in server_values(self.fork.server_config, request)}
        # What is a field of the bundle is asked there; the configuration has the rest.
        return left_out(request, self.fork.new_selector_config.parameters, said & OF_THE_RUN)

    def unfilled(self) -> tuple[str, ...]:
        """Return the parameters, and fields of the bundle, that nothing fills."""
        if "attn_selector_config" not in self._ask.parameters:
            return self._ask.unfilled
        return (*self._ask.unfilled, *self.fork.new_selector_config.unfilled)

    def prepare(self, gpu: Gpu) -> None:
        _ask_plainly(self, gpu)

    def refresh(self) -> bool:
        return self.fork.refresh()


class ChainAdapter(Naming):
    """A ``get_attn_backend`` function: environment, cache, platform and class import together."""

    def __init__(self, function: Any) -> None:
        super().__init__(Fork(function), None)
        self._ask = Call(function)
        self._module = function.__module__

    def select(
        self, request: Request, environ: Mapping[str, str], gpu: Gpu
    ) -> Selected | Unrecognised:
        values = request_values(request)
        # Since that class exists, backend (and later block size) come from the server's config.
        if self.fork.selector_config is not None:
            explicit = self.fork.explicit(environ)
            with self.fork.configured(environ, explicit, request.block_size, request):
                answer = self._ask(values)
        else:
            answer = self._ask(values)
        return recognise(answer, self.fork.class_paths)

    def not_asked(self, request: Request) -> tuple[str, ...]:
        """Return the fields in which a request is special and which the fork cannot be asked."""
        if self.fork.selector_config is None:
            return left_out(request, self._ask.parameters, ())
        said = {field for field, owner, name, _ in server_values(self.fork.server_config, request)}
        # The chain bundles what it reads of the configuration, as far as the bundle has a field for it.
        bundled = self.fork.new_selector_config.parameters
        said = {field for field in said if field in bundled or field in OF_THE_RUN}
        return left_out(request, self._ask.parameters, said)

    def unfilled(self) -> tuple[str, ...]:
        """Return the parameters that nothing fills."""
        return self._ask.unfilled

    def _layer_asked(self, request: Request, attention: Any) -> Selected | Unrecognised:
        self.refresh()  # forgets what was selected for another name
        return recognise(self._ask(request_values(request)), self.fork.class_paths)

    def prepare(self, gpu: Gpu) -> None:
        _ask_plainly(self, gpu)

    def refresh(self) -> bool:
        module = sys.modules[self._module]
        for value in vars(module).values():
            if callable(clear := getattr(value, "cache_clear", None)):
                clear()
        return self.fork.refresh()


def _ask_plainly(adapter: PlatformAdapter | ChainAdapter, gpu: Gpu) -> None:
    """Ask for plain layers once, for the imports that the first question of a kind costs."""
    for request in (Request(), Request(use_mla=True)):
        # Whatever is wrong here is wrong again, and judged, when a row asks.
        with contextlib.suppress(Exception):
            adapter.select(request, {}, gpu)
