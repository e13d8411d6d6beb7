"""Calls of an implementation as the fork's attention layers make them, and what these are given before."""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters import construct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.adapters.vllm_fork import Fork
    from pytest_rocm_attn.request import Request


@contextlib.contextmanager
def workspaces(fork: Fork) -> Iterator[None]:
    """Have the fork's workspaces on the device while the block runs, in releases that have them."""
    import torch

    workspace: Any = fork.module("v1.worker.workspace")
    if not hasattr(workspace, "init_workspace_manager"):
        yield
        return
    kept, workspace._manager = workspace._manager, None
    workspace.init_workspace_manager(torch.device("cuda", 0))
    try:
        yield
    finally:
        workspace._manager = kept


def prepare(fork: Fork, module: Any, request: Request, config: Any) -> None:
    """Give a layer what its constructor would: scales of one, sizes, and a backend to prefill with.

    Args:
        fork: the fork.
        module: the layer.
        request: what the layer is.
        config: the configuration that it is built under.
    """
    import torch

    own = vars(module)
    for name in ("q", "k", "v", "prob"):
        own[f"_{name}_scale"] = torch.ones((), dtype=torch.float32).cuda()
        own[f"_{name}_scale_float"] = 1.0
        own[f"_{name}_scale_cpu"] = torch.ones((), dtype=torch.float32)
    own |= {"kv_cache_update_bypass": False, "dtype": config.model_config.dtype}
    own["_vllm_config"] = config
    for name, value in vars(module.impl).items():
        if isinstance(value, torch.Tensor) and value.is_meta:  # built without memory
            vars(module.impl)[name] = torch.zeros(value.shape, dtype=value.dtype).cuda()
    if not request.use_mla:
        return
    sizes = construct.latent_sizes(request)
    if getattr(module.impl, "dcp_world_size", 1) in (None, -1):
        module.impl.dcp_world_size = 1  # which the layer's first call sets
    own |= {**sizes, "scale": sizes["qk_head_dim"] ** -0.5, "q_pad_num_heads": None}
    prefill: Any = fork.module("v1.attention.backends.mla.prefill")
    if hasattr(prefill, "get_mla_prefill_backend"):
        # Chosen by the layer's constructor: vllm/model_executor/layers/attention/mla_attention.py (v0.33.0).
        cls = prefill.get_mla_prefill_backend(config)
        values = own | {"num_heads": request.num_heads, "vllm_config": config}
        takes = inspect.signature(cls).parameters
        own["prefill_backend"] = cls(**{name: values[name] for name in takes if name in values})


def bind(fork: Fork, module: Any, group: Any, view: Any) -> None:
    """Give a layer its cache as the runner does.

    Args:
        fork: the fork.
        module: the layer.
        group: of layers, that it is in and whose builder is made.
        view: of the cache.
    """
    utils: Any = fork.module("v1.worker.utils")
    if hasattr(utils, "map_kv_caches_to_kernel_blocks"):
        name = module.layer_name
        view = utils.map_kv_caches_to_kernel_blocks({name: view}, [group])[name]
    if inspect.getattr_static(type(module), "bind_kv_cache", None) is not None:
        module.bind_kv_cache(view)
    else:
        vars(module)["kv_cache"] = view


def attend(
    fork: Fork, module: Any, request: Request, tokens: int, metadata: Any, slots: Any
) -> None:
    """Call the implementation as vllm/model_executor/layers/attention/attention.py does (v0.33.0)."""
    import torch

    dtype, size = getattr(torch, request.dtype), request.head_size
    query, output = (torch.zeros(tokens, request.num_heads, size, dtype=dtype).cuda() for _ in "qo")
    key, value = (torch.zeros(tokens, request.num_kv_heads, size, dtype=dtype).cuda() for _ in "kv")
    impl, backend, view = module.impl, module.attn_backend, module.kv_cache
    if request.kv_cache_dtype.startswith("fp8") and getattr(
        impl, "supports_quant_query_input", False
    ):
        query = query.to(_fp8(fork))
    if not getattr(backend, "forward_includes_kv_cache_update", True):
        impl.do_kv_cache_update(module, key, value, view, slots)
    impl.forward(module, query, key, value, view, metadata, output=output)


def _fp8(fork: Fork) -> Any:
    """Return the platform's type of eight bits."""
    platforms: Any = fork.module("platforms")
    return platforms.current_platform.fp8_dtype()


def attend_latent(
    fork: Fork, module: Any, request: Request, tokens: int, metadata: Any, slots: Any
) -> None:
    """Call the implementation as vllm/model_executor/layers/attention/mla_attention.py does (v0.33.0).

    The products with the weights that come before and after are left out, except in releases whose
    implementations make them.
    """
    import torch

    sizes = construct.latent_sizes(request)
    nope, rope_size, rank = (
        sizes[name] for name in ("qk_nope_head_dim", "qk_rope_head_dim", "kv_lora_rank")
    )
    dtype, heads, v_head = getattr(torch, request.dtype), request.num_heads, sizes["v_head_dim"]
    impl, view = module.impl, module.kv_cache
    quantised = request.kv_cache_dtype.startswith("fp8")

    def zeros(*shape: int) -> Any:
        return torch.zeros(shape, dtype=dtype).cuda()

    _projection(impl, dtype)
    if request.use_sparse:
        # As the layer's indexer leaves them: the first keys of a request, of which there is one at least.
        impl.topk_indices_buffer = torch.zeros(tokens, construct.TOPK, dtype=torch.int32).cuda()
    query, latent, rope = (
        zeros(tokens, heads, nope + rope_size),
        zeros(tokens, rank),
        zeros(tokens, 1, rope_size),
    )
    output = zeros(tokens, heads * v_head)
    if not hasattr(impl, "forward_mqa"):
        _weights(impl, heads, sizes, dtype)
        impl.forward(module, query, latent, rope, view, metadata, output=output)
        return
    if hasattr(impl, "do_kv_cache_update"):
        impl.do_kv_cache_update(latent, rope, view, slots, request.kv_cache_dtype, module._k_scale)
    if quantised:
        view = view.view(_fp8(fork))
    dense = getattr(module, "_use_sparse_mha", lambda _: False)
    if request.use_sparse and not dense(metadata):
        decoded = tokens  # the keys of every token are chosen, prefilled or not
    else:
        decoded = metadata.num_decode_tokens
    if decoded < tokens:
        values = {
            "q": query[decoded:],
            "kv_c_normed": latent[decoded:],
            "k_pe": rope[decoded:],
            "kv_c_and_k_pe_cache": view,
            "attn_metadata": metadata,
            "k_scale": module._k_scale,
            "output": output[decoded:],
        }
        impl.forward_mha(**values)
    if decoded:
        parts: Any = (zeros(decoded, heads, rank), zeros(decoded, heads, rope_size))
        if quantised and getattr(impl, "supports_quant_query_input", False):
            parts = torch.cat(parts, dim=-1).to(_fp8(fork))
        impl.forward_mqa(parts, view, metadata, module)


def _projection(impl: Any, dtype: Any) -> None:
    """Give the projection of latent vectors a weight, and the result that the fork's layers have."""
    import torch

    given: Any = getattr(impl, "kv_b_proj", None)
    if not isinstance(given, torch.nn.Linear):
        return

    class Projection:
        """A linear layer of the fork: its result, and a bias."""

        in_features, out_features = given.in_features, given.out_features
        weight = torch.zeros(given.out_features, given.in_features, dtype=dtype).cuda()
        bias = None

        def __call__(self, x: Any) -> tuple[Any, None]:
            return torch.nn.functional.linear(x.to(dtype), self.weight), None

    impl.kv_b_proj = Projection()


def _weights(impl: Any, heads: int, sizes: dict[str, int], dtype: Any) -> None:
    """Give an implementation the weights that earlier releases split off when a model is loaded."""
    import torch

    nope, rank, v_head = (
        sizes[name] for name in ("qk_nope_head_dim", "kv_lora_rank", "v_head_dim")
    )
    impl.W_UK_T = torch.zeros(heads, nope, rank, dtype=dtype).cuda()
    impl.W_UV = torch.zeros(heads, rank, v_head, dtype=dtype).cuda()
    impl.W_K = torch.zeros(heads, rank, nope, dtype=torch.int8).cuda()
    impl.W_V = torch.zeros(heads, v_head, rank, dtype=torch.int8).cuda()
    impl.W_K_scale = impl.W_V_scale = torch.ones((), dtype=torch.float32).cuda()
