"""The fork's own configuration of a server that is described."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters.start.stand_ins import Model, bare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.conformance.adapters.vllm_fork import Fork
    from pytest_rocm_attn.conformance.promise.servers_file import Layer, Server
    from pytest_rocm_attn.request import Request

BLOCKS = 13  # of the cache: a number that no dimension of a layer's has


class Configuration:
    """Makes configurations of one server.

    Args:
        fork: whose classes they are of.
        server: the description.
        environ: the variables that are set.
        left_out: takes what this release has no field for.
    """

    def __init__(
        self, fork: Fork, server: Server, environ: Mapping[str, str], left_out: list[str]
    ) -> None:
        self._fork = fork
        self._server = server
        self._environ = environ
        self._left_out = left_out

    def made(self) -> Any:
        """Return the fork's configuration of the server."""
        server, config = self._server, type(self._fork.server_config)()
        explicit = self._fork.explicit(self._environ)
        if hasattr(config, "attention_config"):
            config.attention_config.backend = explicit
        cache, parallel = config.cache_config, config.parallel_config
        cache.cache_dtype = server.kv_cache_dtype
        cache.num_gpu_blocks_override = BLOCKS
        if server.block_size is not None:
            cache.block_size = server.block_size
        if hasattr(cache, "user_specified_block_size"):
            cache.user_specified_block_size = server.block_size is not None
        for name, size in (
            ("decode_context_parallel_size", server.decode_context_parallel),
            ("prefill_context_parallel_size", server.prefill_context_parallel),
        ):
            if size > 1 and not hasattr(parallel, name):
                self._left_out.append(f"parallel_config.{name}")
            elif size > 1:
                setattr(parallel, name, size)
        configs: Any = self._fork.module("config")
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
        config.model_config = self.model(server.layers[0].request)
        compilation: Any = self._fork.module("config.compilation", "config")
        if (modes := getattr(compilation, "CUDAGraphMode", None)) is not None:
            config.compilation_config.cudagraph_mode = (
                modes.NONE
            )  # as the model's enforce_eager says
        return config

    def as_its_model(self, config: Any) -> None:
        """Have the fork change the configuration as it does for a model of this architecture."""
        models: Any = self._fork.module("model_executor.models.config")
        known = getattr(models, "MODELS_CONFIG_MAP", {}).get(self._server.architecture)
        if known is not None:
            with self._fork.set_current_config(config):
                known.verify_and_update_config(config)

    def model(self, request: Request) -> Model:
        import torch

        configs: Any = self._fork.module("config")
        dtype = getattr(torch, request.dtype)
        return Model(self._server, request, dtype, configs.ModelConfig)

    def of_layer(self, config: Any, layer: Layer) -> Any:
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
