"""What a fork reads of a server that is not there: its model, its ranks, its runner."""

from __future__ import annotations

import dataclasses
import inspect
from types import FunctionType, MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters import construct
from pytest_rocm_attn.conformance.adapters.vllm_backends import GroupOfOne
from pytest_rocm_attn.errors import SelectorError

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.adapters.vllm_fork import Fork
    from pytest_rocm_attn.conformance.promise.servers_file import Server
    from pytest_rocm_attn.request import Request


class MissingError(SelectorError, AttributeError):
    """Our stand-in lacks what the fork reads."""


class Model(construct.ModelConfig):
    """What a fork reads of the model; what we do not say has the fork's own default."""

    def __init__(self, server: Server, request: Request, dtype: Any, own: Any) -> None:
        super().__init__(request, dtype)
        self._own = own
        self.architecture = server.architecture
        model: Any = HfConfig(
            **{
                "model_type": "",
                "index_topk": construct.TOPK,
                "layer_types": [layer.name for layer in server.layers],
                **(construct.latent_sizes(request) if request.use_mla else {}),
                **server.config,
            }
        )
        self.hf_config = self.hf_text_config = model
        self.model_arch_config = Architecture(server)
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
        raise MissingError(
            f"the server reads model_config.{name}, which the stand-in for a model of"
            " pytest-rocm-attn does not have; add it to conformance/adapters/start/stand_ins.py"
        )


class _StandIn:
    """Refuses an attribute that it lacks; says where to add it."""

    _of = ""  # what it stands in for
    _add_to = ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise MissingError(
            f"the server reads {name} of {self._of}, which the stand-in of pytest-rocm-attn does not"
            f" have; add it to {self._add_to}conformance/adapters/start/stand_ins.py"
        )


class HfConfig(_StandIn, SimpleNamespace):
    """What a fork reads of a checkpoint's config.json; a description adds to it with ``config``."""

    _of = "config.json"
    _add_to = "the description's config, or to "


class Architecture(_StandIn):
    """What later releases read of a model's layers."""

    _of = "model_arch_config"

    def __init__(self, server: Server) -> None:
        self._layers = server.layers
        self.total_num_hidden_layers = len(server.layers)
        self.total_num_attention_heads = server.layers[0].request.num_heads  # of one rank

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


class Ranks(GroupOfOne):
    """A group of ranks, seen from its first."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.ranks = tuple(range(world_size))
        self.is_last_rank = world_size == 1


class Runner:
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
        raise MissingError(
            f"the server reads {name} of its runner, which the stand-in of pytest-rocm-attn does not"
            " have; add it to conformance/adapters/start/stand_ins.py"
        )


def kind_of(request: Request) -> str:
    if request.use_mla:
        return "MLAAttention"
    return "CrossAttention" if request.attn_type == "encoder_decoder" else "Attention"


def homes(fork: Fork) -> dict[str, Any]:
    """Return the fork's classes of attention layers, by the names of kind_of()."""
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
