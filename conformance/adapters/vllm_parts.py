"""What a user of vLLM names for a part of a run: its draft, and the prefill of linear attention.

The fork parses the name and makes of it what it would: nothing of its rules is kept here.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters import LacksError

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.adapters.vllm_fork import Fork
    from pytest_rocm_attn.conformance.promise.naming import Named
    from pytest_rocm_attn.request import Request

_PROPOSERS = ("v1.spec_decode.llm_base_proposer", "v1.spec_decode.eagle")
_MAKES = "_create_draft_vllm_config"
_LINEAR = ("model_executor.layers.mamba.gdn.qwen_gdn_linear_attn",)
_RESOLVES = "_resolve_gdn_prefill_backend"


def of_draft(fork: Fork, named: Named) -> Any:
    """Return the attention configuration of a draft, as the fork makes it of the target's.

    Raises:
        LacksError: a draft's backend cannot be named.
    """
    speculation: Any = getattr(fork.module("config.speculative"), "SpeculativeConfig", None)
    if "attention_backend" not in getattr(speculation, "__dataclass_fields__", {}):
        raise LacksError("the fork names no backend for a draft")
    asked: Any = object.__new__(speculation)  # its defaults; a whole one needs a model
    asked.attention_backend = _validated(speculation, "attention_backend", named.backend)
    proposer = next(
        one
        for one in vars(fork.module(*_PROPOSERS)).values()
        if isinstance(one, type) and _MAKES in vars(one)
    )
    server = fork.server_config
    kept = server.attention_config
    server.attention_config = fork.attention_of(named.target)
    try:
        # A server's own class would insist on a model.
        whole = dataclasses.make_dataclass("Server", list(vars(server)))(**vars(server))
        draft = getattr(proposer, _MAKES)(
            SimpleNamespace(speculative_config=asked, vllm_config=whole)
        )
        return draft.attention_config
    finally:
        server.attention_config = kept


def _validated(cls: Any, field: str, value: Any) -> Any:
    """Return a value as the validators of a pydantic dataclass leave it."""
    for validator in cls.__pydantic_decorators__.field_validators.values():
        if field in validator.info.fields:
            value = validator.func(value)
    return value


def gdn_prefill(fork: Fork, request: Request, named: Named) -> str:
    """Return which kernels the fork takes for the prefill of gated delta networks.

    The request's head size is that of the layer's keys and values.

    Raises:
        LacksError: the fork does not choose them in a function that can be asked.
    """
    import torch

    resolve = getattr(fork.module(*_LINEAR), _RESOLVES, None)
    if resolve is None:
        raise LacksError("the fork does not choose kernels for the prefill of GDN layers")
    heads = {"linear_key_head_dim": request.head_size, "linear_value_head_dim": request.head_size}
    model = SimpleNamespace(
        hf_text_config=SimpleNamespace(**heads), dtype=getattr(torch, request.dtype)
    )
    given = {} if named.backend is None else {"gdn_prefill_backend": named.backend}
    answer = resolve(SimpleNamespace(additional_config=given, model_config=model))
    return str(answer[-1] if isinstance(answer, tuple) else answer)
