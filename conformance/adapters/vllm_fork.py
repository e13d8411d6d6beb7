"""The parts of vLLM, or of a fork of it, that the adapters need, found by their shape.

A fork may live under another top-level name (aphrodite does): everything is looked up below the
package that the selector itself comes from.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters import shape
from pytest_rocm_attn.conformance.adapters.construct import ModelConfig
from pytest_rocm_attn.conformance.adapters.shape import version_of
from pytest_rocm_attn.errors import SelectorError
from pytest_rocm_attn.flags import EXPLICIT, PREFILL_DECODE, variable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from types import ModuleType

    from pytest_rocm_attn.conformance.promise.naming import Named
    from pytest_rocm_attn.request import Request

BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"


class Fork:
    """The parts of a vLLM-like package that the adapters need, each looked up once."""

    def __init__(self, found: Any) -> None:
        self.top = found.__module__.partition(".")[0]
        self.prefix = shape.prefix_of_spec(f"{self.top}:")

    def variable(self, name: str) -> str:
        """Return the fork's own name of a variable of vLLM's."""
        return self.prefix + name.removeprefix(shape.VLLM)

    def module(self, *names: str) -> ModuleType | None:
        """Import the first of the modules below the fork's package that exists."""
        for path in (f"{self.top}.{name}" for name in names):
            try:
                return importlib.import_module(path)
            except ModuleNotFoundError as error:
                if not f"{path}.".startswith(f"{error.name}."):
                    raise  # the module is there, something that it imports is not
        return None

    @functools.cached_property
    def version(self) -> str:
        """What the package says of its version; "" if it says nothing."""
        return version_of(Path(str(importlib.import_module(self.top).__file__)).parent)

    @functools.cached_property
    def registry(self) -> Any:
        """The enum of backends."""
        module = self.module("v1.attention.backends.registry", "attention.backends.registry")
        if module is None:
            raise SelectorError(
                f"{self.top} has no attention backend registry where vLLM keeps it"
                " (attention/backends/registry.py or v1/attention/backends/registry.py); write an"
                " adapter class, see docs/adapters.md"
            )
        return module.AttentionBackendEnum

    @functools.cached_property
    def class_paths(self) -> dict[str, str]:
        """Backend name -> class path, as the fork's own registry resolves it."""
        paths = {}
        for name, member in self.registry.__members__.items():
            with contextlib.suppress(ValueError):  # an empty path, to be registered by the user
                paths[name] = member.get_path()
        return paths

    @functools.cached_property
    def selector_config(self) -> Any:
        """The class that bundles the selector's arguments in later releases, else None."""
        module = self.module("v1.attention.selector", "attention.selector")
        return getattr(module, "AttentionSelectorConfig", None)

    @functools.cached_property
    def new_selector_config(self) -> Call:
        """What makes one of them from the values that its fields ask for."""
        return Call(self.selector_config)

    @functools.cached_property
    def server_config(self) -> Any:
        """A default server configuration; later releases read it during selection."""
        return self._config("{}Config", self.top.capitalize(), "Vllm")()

    @functools.cached_property
    def set_current_config(self) -> Any:
        """The context manager that makes a server configuration the current one."""
        return self._config("set_current_{}_config", self.top, "vllm")

    def _config(self, name: str, own: str, vllms: str) -> Any:
        """Return what the fork's config has by its own name for it, or by vLLM's."""
        module = importlib.import_module(f"{self.top}.config")
        found = getattr(module, name.format(own), None)
        return getattr(module, name.format(vllms)) if found is None else found

    @functools.cached_property
    def envs(self) -> Any:
        """The module that reads the environment, or None."""
        return self.module("envs")

    def explicit(self, environ: Mapping[str, str]) -> Any:
        """Return the enum member that the environment names, by the fork's own rule, or None."""
        if EXPLICIT not in environ:
            return None
        own = self.variable(EXPLICIT)
        if own in getattr(self.envs, "environment_variables", ()):
            return self.registry[getattr(self.envs, own)]
        # The variable is gone (vLLM 0.15.0 on). What it held is an option of the server now, which
        # a row's environment stands for; how the fork parses the option is asked by name (Named).
        return self.registry[environ[EXPLICIT]]

    @functools.cached_property
    def attention_config(self) -> Any:
        """The class that ``--attention-backend`` and ``--attention-config`` fill, else None."""
        found = getattr(self.module("config.attention"), "AttentionConfig", None)
        return found if hasattr(found, "backend") else None

    def attention(self, named: Named) -> Any:
        """Return an attention configuration in which the fork itself reads what is named."""
        given: dict[str, Any] = {}
        if named.backend is not None:
            key = "mla_prefill_backend" if named.asks == "mla-prefill" else "backend"
            given[key] = named.backend
        if named.per_kind:
            given["backend_per_kind"] = dict(named.per_kind)
        return self.attention_config(**given)

    def attention_of(self, name: str) -> Any:
        """Return an attention configuration in which a backend is named for all layers, or none."""
        return self.attention_config(**({"backend": name} if name else {}))

    def of_layer(self, attention: Any, request: Request) -> Any:
        """Return the backend that a configuration names for a layer, by its kind or for all."""
        per_kind = getattr(attention, "backend_per_kind", None)
        if per_kind:
            module: Any = self.module("v1.attention.selector")
            kind = module.get_attn_spec_kind(
                use_mla=request.use_mla,
                has_sliding_window=request.sliding_window is not None,
                attn_type=request.attn_type,
            )
            return per_kind.get(kind.value, attention.backend)
        return attention.backend

    @contextlib.contextmanager
    def configured(
        self,
        environ: Mapping[str, str],
        explicit: Any,
        block_size: int | None,
        request: Request | None = None,
        attention: Any = None,
    ) -> Iterator[None]:
        """Make a server configuration current that says what the row's environment says.

        Args:
            environ: the row's environment.
            explicit: the backend that it names.
            block_size: the cache block, if the user gave one.
            request: the layer, for what selectors read of the run that it is part of.
            attention: an attention configuration in which the fork read what is named, in place of
                one that names `explicit`.
        """
        config, set_current = self.server_config, self.set_current_config
        if hasattr(config, "attention_config"):
            if attention is None:
                attention = type(config.attention_config)()
                attention.backend = explicit
            if hasattr(attention, "use_prefill_decode_attention") and PREFILL_DECODE in environ:
                meant = variable(PREFILL_DECODE).parse(environ[PREFILL_DECODE])
                attention.use_prefill_decode_attention = meant
            config.attention_config = attention
        config.cache_config.block_size = block_size
        if hasattr(config.cache_config, "user_specified_block_size"):
            config.cache_config.user_specified_block_size = block_size is not None
        with contextlib.ExitStack() as stack:
            if request is not None:
                for _, owner, name, value in server_values(config, request):
                    stack.callback(setattr, owner, name, getattr(owner, name))
                    setattr(owner, name, value)
            stack.enter_context(set_current(config))
            yield

    def batch_invariant(self, request: Request) -> bool:
        """Whether the layer is asked for as batch invariant, as the fork's own caller decides it."""
        return request.use_batch_invariant or bool(
            getattr(self.envs, self.variable(BATCH_INVARIANT), False)
        )

    def refresh(self) -> bool:
        """Bring what the fork froze at import up to the present environment.

        Known to freeze: class attributes of ``rocm_aiter_ops``
        (docs/reference/mock-surface.md#frozen-by-release); the environment rules themselves are
        live until a server enables their cache. The worker checks the result against a fresh import
        before it relies on it.
        """
        if hasattr(self.envs, "disable_envs_cache"):
            self.envs.disable_envs_cache()
        # Not imported for this: it may fail if aiter is broken, and a later import is a fresh one.
        ops = sys.modules.get(f"{self.top}._aiter_ops")
        frozen = getattr(ops, "rocm_aiter_ops", None)
        if frozen is None:
            return ops is None  # not imported, or no such module: nothing is frozen
        if hasattr(frozen, "refresh_env_variables"):
            frozen.refresh_env_variables()
        else:
            for attribute, name in _frozen_attributes(frozen):
                setattr(frozen, attribute, getattr(self.envs, name))
        return True


@functools.cache
def _frozen_attributes(cls: type) -> tuple[tuple[str, str], ...]:
    """Return (attribute, variable) for each class-level ``attribute = envs.VARIABLE``."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    return tuple(
        (target.id, node.value.attr)
        for node in getattr(definition, "body", ())
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Attribute)
        and isinstance(node.value.value, ast.Name)
        and node.value.value.id == "envs"
        for target in node.targets
        if isinstance(target, ast.Name)
    )


class _Model(ModelConfig):
    """What selectors and backend classes read of the model's configuration."""

    def __init__(self, request: Request) -> None:
        import torch

        super().__init__(request, getattr(torch, request.dtype))
        self.attn_type = "encoder_decoder" if request.encoder_decoder_model else request.attn_type
        self.rswa_window = request.sliding_window or 1 if request.use_rswa else None


def server_values(config: Any, request: Request) -> Iterator[tuple[str, Any, str, Any]]:
    """Yield (field, object, attribute, value) that say in a server's configuration what a field says.

    The chain's get_attn_backend reads them there (vllm/v1/attention/selector.py, v0.33.0); a
    platform reads the run's cache dtype and whether the model is an encoder-decoder.
    """
    parallel = getattr(config, "parallel_config", None)
    attention = getattr(config, "attention_config", None)
    cache = request.run_cache != "auto"
    wanted = [
        ("run_kv_cache_dtype", cache, config.cache_config, "cache_dtype", request.run_cache),
        ("encoder_decoder_model", request.encoder_decoder_model, config, "model_config", None),
        ("use_rswa", request.use_rswa, config, "model_config", None),
        ("use_dcp", request.use_dcp, parallel, "decode_context_parallel_size", 2),
        ("use_pcp", request.use_pcp, parallel, "prefill_context_parallel_size", 2),
        ("use_non_causal", request.use_non_causal, attention, "use_non_causal", True),
        ("use_kv_connector", request.use_kv_connector, config, "kv_transfer_config", _Transfer()),
        (
            "use_adaptive_verification",
            request.use_adaptive_verification,
            config,
            "speculative_config",
            _Speculation(),
        ),
    ]
    for field, says, owner, name, value in wanted:
        if says and hasattr(owner, name):
            yield field, owner, name, _Model(request) if name == "model_config" else value


def left_out(request: Request, asked: Collection[str], said: Collection[str]) -> tuple[str, ...]:
    """Return the fields of a request that are not at their default and that the fork is not asked about."""
    return tuple(
        field
        for field in request.non_default()
        if field in _ASKED_AS and _ASKED_AS[field] not in asked and field not in said
    )


class _Transfer:
    is_kv_transfer_instance = True


class _Speculation:
    enable_adaptive_verification = True


# --- calling what the fork has -------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)  # a grid asks the same few hundred requests a million times
def request_values(request: Request) -> Mapping[str, Any]:
    """Return every value that a selector's parameter or configuration field may ask a request for."""
    import torch

    return {
        "head_size": request.head_size,
        "dtype": getattr(torch, request.dtype),
        "kv_cache_dtype": request.kv_cache_dtype,
        "block_size": request.block_size,
        "use_mla": request.use_mla,
        "has_sink": request.has_sink,
        "use_sparse": request.use_sparse,
        "use_mm_prefix": request.use_mm_prefix,
        "attn_type": request.attn_type,
        "has_sliding_window": request.sliding_window is not None,
        "num_heads": request.num_heads,
        **{name: getattr(request, name) for name in _LATER_VALUES},
    }


# Values that are asked for by the name of the request's own field.
_LATER_VALUES = (
    *("use_kv_connector", "use_dcp", "use_pcp", "use_non_causal", "use_per_head_quant_scales"),
    *("use_rswa", "use_adaptive_verification", "use_batch_invariant"),
)
# Fields that a selector is asked by a parameter or a field of its bundle, by that name; other
# fields of a request do not affect a selection.
_ASKED_AS = {name: name for name in (*_LATER_VALUES, "use_sparse", "has_sink", "use_mm_prefix")} | {
    "attn_type": "attn_type",
    "sliding_window": "has_sliding_window",
    "encoder_decoder_model": "",
    "run_kv_cache_dtype": "",
}
OF_THE_RUN = {"encoder_decoder_model", "run_kv_cache_dtype"}  # read of the configuration only
# The names of those values, known without torch.
_REQUEST_VALUES = (
    *_LATER_VALUES,
    *("head_size", "dtype", "kv_cache_dtype", "block_size", "use_mla", "has_sink", "use_sparse"),
    *("use_mm_prefix", "attn_type", "has_sliding_window", "num_heads"),
)


class Call:
    """A function, and which of its parameters can be filled: looked up once, not per call.

    Args:
        function: what is called.
        more: names of values that the caller gives besides those of a request.
    """

    def __init__(self, function: Callable[..., Any], *more: str) -> None:
        self._function = function
        parameters = inspect.signature(function).parameters
        self.parameters = frozenset(parameters)
        filled = {*_REQUEST_VALUES, *more}
        self._names = tuple(name for name in parameters if name in filled)
        self.unfilled = tuple(
            name
            for name, parameter in parameters.items()
            if name not in filled
            and parameter.default is not parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        )
        self._unknown = tuple(
            name
            for name, parameter in parameters.items()
            if name not in filled
            and parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        )

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """Call the function with the values that its parameters ask for, by name.

        Raises:
            SelectorError: a parameter without default cannot be filled.
        """
        if self._unknown:
            raise SelectorError(
                f"{getattr(self._function, '__qualname__', self._function)} requires"
                f" {', '.join(self._unknown)}, which no known calling convention of vLLM has;"
                " write an adapter class, see docs/adapters.md"
            )
        return self._function(**{name: values[name] for name in self._names})
