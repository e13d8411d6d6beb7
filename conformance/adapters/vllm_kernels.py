"""vLLM's other Triton kernels of attention, unmodified, as backends under test in the numerics and launch tiers.

    python -m pytest --rocm-attn-conformance --rocm-attn-tier=numerics \\
        --rocm-attn-backends=ROCM_ATTN=pytest_rocm_attn.conformance.adapters.vllm_kernels:RocmAttn

RocmAttn is the prefill and the paged decode of ROCM_ATTN, as far as both are Triton kernels; TritonMla the
decode of TRITON_MLA; EncoderAttention the kernel without a cache that encoders and vision layers use;
CacheWrite the kernel that writes new tokens into the cache. Each
function is found by trying its homes, and called by the names in its signature (v0.12.0 to v0.33.0).
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters.paged_tokens import slots, tokens
from pytest_rocm_attn.conformance.adapters.unified import asserted_limits
from pytest_rocm_attn.conformance.adapters.vllm_unified import UnifiedAttention, an_active_driver
from pytest_rocm_attn.errors import BackendUnderTestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from pytest_rocm_attn.problem import MlaDecode, PagedAttention

_OPS = ("vllm.v1.attention.ops", "vllm.attention.ops")
_PLATFORM = "vllm.platforms.rocm"
_CUSTOM = "use_rocm_custom_paged_attention"
_LATENT = 512  # columns of the latent cache that are the value as well


class _Kernel:
    """A function of vLLM's, by the file that it is in and its name.

    Raises:
        BackendUnderTestError: vLLM is not there, or has no such function.
    """

    name: str
    file: str
    function_name: str

    def __init__(self) -> None:
        failures = []
        with an_active_driver():
            for folder in _OPS:
                try:
                    self.module = importlib.import_module(f"{folder}.{self.file}")
                    self.function: Callable[..., Any] = getattr(self.module, self.function_name)
                    break
                except (ImportError, AttributeError) as error:
                    failures.append(f"{folder}: {error}")
            else:
                raise BackendUnderTestError(
                    f"vLLM's {self.function_name} is in none of its known modules"
                    f" ({'; '.join(failures)}); install vLLM, or put its source on PYTHONPATH"
                )
        self.parameters = inspect.signature(self.function).parameters

    def call(self, offered: dict[str, Any]) -> None:
        """Call the function with what it has parameters for."""
        given = {name: value for name, value in offered.items() if name in self.parameters}
        with asserted_limits():
            self.function(**given)

    def claim(self, said: str, parameter: str, needed: object) -> None:
        """Refuse what the function has no parameter for.

        Raises:
            NotImplementedError: it is needed and there is none.
        """
        if needed and parameter not in self.parameters:
            raise NotImplementedError(f"{said}: {self.function_name} has no {parameter}")


class RocmAttn(_Kernel):
    """``chunked_prefill_paged_decode`` of ROCM_ATTN, with its Triton kernels in both phases.

    The HIP kernel, which it prefers for some decodes, is compiled into vLLM and is not here. The cache
    is laid out as ROCM_ATTN has it, unused slots included. Requests without a new token are left out, as
    a runner leaves them out: the decode takes each request but prefills for one token.
    """

    name = "ROCM_ATTN"
    file = "chunked_prefill_paged_decode"
    function_name = "chunked_prefill_paged_decode"
    rounds_cache = True

    def attend(self, problem: PagedAttention) -> None:
        """Solve a problem of paged attention.

        Raises:
            NotImplementedError: the release's kernels do not take it.
        """
        if problem.soft_cap:
            raise NotImplementedError("a soft cap")
        self.claim("attention that is not causal", "causal", not problem.causal)
        if not problem.causal and problem.window:
            raise NotImplementedError("a window on either side")
        import torch

        if not problem.query.shape[0]:
            return  # a runner makes no call without a token
        kept = [request for request, new in enumerate(problem.query_lens) if new]
        starts = torch.cat([problem.query_start_loc[kept], problem.query_start_loc[-1:]])
        key, value = tokens(problem, whole=False)
        key_cache, value_cache = _as_rocm_attn_has_it(problem)
        fp8 = problem.key_cache.dtype if problem.key_cache.dtype.itemsize == 1 else None
        offered = {
            "query": problem.query,
            "key": key,
            "value": value,
            "output": problem.out,
            "kv_cache_dtype": "auto" if fp8 is None else "fp8",
            "key_cache": key_cache,
            "value_cache": value_cache,
            "block_table": problem.block_table[kept],
            "query_start_loc": starts,
            "seq_lens": problem.seq_lens[kept],
            "max_seq_len": problem.max_seq_len,
            "max_query_len": problem.max_query_len,
            "k_scale": problem.k_scale,
            "v_scale": problem.v_scale,
            "alibi_slopes": problem.alibi_slopes,
            "sliding_window": problem.window or 0,
            "sm_scale": problem.scale,
            "sinks": problem.sinks,
            "causal": problem.causal,
        }
        with self._in_triton_alone(fp8):
            self.call(offered)

    @contextlib.contextmanager
    def _in_triton_alone(self, fp8: torch.dtype | None) -> Iterator[None]:
        """Have the function choose no HIP kernel, and take the cache's own kind of fp8 for the GPU's."""
        modules = [
            self.module,
            sys.modules[self.function.__globals__["context_attention_fwd"].__module__],
        ]
        kept = [module.current_platform for module in modules]
        platform = sys.modules.get(_PLATFORM)
        try:
            for module, own in zip(modules, kept, strict=True):
                vars(module)["current_platform"] = _Platform(own, fp8)
            stand_in = ModuleType(_PLATFORM)
            vars(stand_in)[_CUSTOM] = lambda *_, **__: False
            sys.modules[_PLATFORM] = stand_in
            yield
        finally:
            for module, own in zip(modules, kept, strict=True):
                vars(module)["current_platform"] = own
            if platform is None:
                del sys.modules[_PLATFORM]
            else:
                sys.modules[_PLATFORM] = platform


class _Platform:
    """vLLM's current platform, as one of ROCm's with the fp8 of a cache."""

    def __init__(self, own: Any, fp8: torch.dtype | None) -> None:
        self._own = own
        self._fp8 = fp8

    def fp8_dtype(self) -> Any:
        return self._own.fp8_dtype() if self._fp8 is None else self._fp8

    def is_rocm(self) -> bool:
        return True

    def has_device_capability(self, *_: Any) -> bool:
        return True  # 9.0 and more on each of AMD's; releases ask for 8.9 before they write fp8

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


def _as_rocm_attn_has_it(problem: PagedAttention) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cache as [blocks, heads, D / x, block, x] and [blocks, heads, D, block] for 16 bytes of x."""
    blocks, size, heads, dim = problem.key_cache.shape
    x = 16 // problem.key_cache.dtype.itemsize
    if dim % x:
        raise NotImplementedError(f"a head of {dim} elements: not a multiple of {x}")
    key = problem.key_cache.reshape(blocks, size, heads, dim // x, x)
    return (
        key.permute(0, 2, 3, 1, 4).contiguous(),
        problem.value_cache.permute(0, 2, 3, 1).contiguous(),
    )


class TritonMla(_Kernel):
    """``decode_attention_fwd``, the decode of TRITON_MLA."""

    name = "TRITON_MLA"
    file = "triton_decode_attention"
    function_name = "decode_attention_fwd"

    splits = 4  # of each request's tokens, as releases before 0.20 have it for every decode

    def mla_decode(self, problem: MlaDecode) -> None:
        """Solve a problem of absorbed MLA decode."""
        import torch

        batch, heads, _ = problem.query.shape
        if not batch:
            return
        device = problem.query.device
        cache = problem.latent_cache.unsqueeze(2)
        shape = (batch, heads, self.splits, _LATENT + 1)
        lse = torch.zeros(batch, heads, dtype=problem.query.dtype, device=device)
        logits = torch.empty(shape, dtype=torch.float32, device=device)
        offered = {
            "q": problem.query,
            "k_buffer": cache,
            "v_buffer": cache[..., :_LATENT],
            "o": problem.out,
            "lse": lse,
            "req_to_token": problem.block_table,
            "b_seq_len": problem.seq_lens,
            "attn_logits": logits,
            "num_kv_splits": self.splits,
            "sm_scale": problem.scale,
            "page_size": problem.latent_cache.shape[1],
            "is_mla": True,
        }
        self.call(offered)


class EncoderAttention(_Kernel):
    """``context_attention_fwd`` without a cache, the kernel of encoders and vision layers (0.14 on)."""

    name = "ENCODER"
    file = "triton_prefill_attention"
    function_name = "context_attention_fwd"
    rounds_cache = True

    def attend(self, problem: PagedAttention) -> None:
        """Solve a problem of paged attention whose requests have new tokens only.

        Raises:
            NotImplementedError: a request has cached tokens, or the layer needs more than a window.
        """
        if not problem.query.is_meta and any(
            new != int(total)
            for new, total in zip(problem.query_lens, problem.seq_lens, strict=True)
        ):
            raise NotImplementedError("tokens in a cache")
        if problem.soft_cap or problem.alibi_slopes is not None:
            raise NotImplementedError("a soft cap or ALiBi")
        self.claim("sinks", "sinks", problem.sinks is not None)
        if not problem.query.shape[0]:
            return
        key, value = tokens(problem, whole=True)
        window = problem.window - 1 if problem.window else 0
        if problem.window == 1:
            raise NotImplementedError("a window of one token, which the function takes for none")
        self.call(
            {
                "q": problem.query,
                "k": key,
                "v": value,
                "o": problem.out,
                "b_start_loc": problem.query_start_loc[:-1],
                "b_seq_len": problem.seq_lens,
                "max_input_len": problem.max_query_len,
                "is_causal": problem.causal,
                "softmax_scale": problem.scale,
                "sliding_window_q": window,
                "sliding_window_k": 0 if problem.causal else window,
                "sinks": problem.sinks,
            }
        )


class CacheWrite(_Kernel):
    """``triton_reshape_and_cache_flash``, by which TRITON_ATTN writes new tokens into the cache.

    The bits of the new tokens' slots are inverted first, and the function gets their keys and values, then
    a padded token without a slot. The tier compares the whole cache with what it was. The release's unified
    attention reads it.
    """

    name = "CACHE_WRITE"
    file = "triton_reshape_and_cache_flash"
    function_name = "triton_reshape_and_cache_flash"
    rounds_cache = True

    def __init__(self) -> None:
        super().__init__()
        self._attention = UnifiedAttention()

    def attend(self, problem: PagedAttention) -> None:
        """Write the new tokens, then solve a problem of paged attention.

        Raises:
            NotImplementedError: the release's attention does not take it, or the values of an fp8 cache
                are not finite, so that they are written as other bits.
        """
        import torch

        if not problem.query.shape[0]:
            return
        key, value = tokens(problem, whole=False)
        fp8 = problem.key_cache.dtype if problem.key_cache.dtype.itemsize == 1 else None
        if fp8 is not None and not key.is_meta and not (key.isfinite() & value.isfinite()).all():
            raise NotImplementedError("values of an fp8 cache that are not finite")
        mapping = torch.empty(key.shape[0], dtype=torch.int64, device=key.device)
        if not key.is_meta:
            mapping = self._inverted(problem)
        padding = torch.full_like(key[:1], torch.nan)
        own = self.module.current_platform
        vars(self.module)["current_platform"] = _Platform(own, fp8)
        try:
            self.call(
                {
                    "key": torch.cat([key, padding]),
                    "value": torch.cat([value, padding]),
                    "key_cache": problem.key_cache,
                    "value_cache": problem.value_cache,
                    "slot_mapping": torch.cat([mapping, torch.full_like(mapping[:1], -1)]),
                    "kv_cache_dtype": "auto" if fp8 is None else "fp8",
                    "k_scale": problem.k_scale,
                    "v_scale": problem.v_scale,
                }
            )
        finally:
            vars(self.module)["current_platform"] = own
        self._attention.attend(problem)

    def _inverted(self, problem: PagedAttention) -> torch.Tensor:
        """Invert the slots of the new tokens, and return their numbers."""
        import torch

        size, found = problem.key_cache.shape[1], []
        for request, new in enumerate(problem.query_lens):
            total = int(problem.seq_lens[request])
            blocks, places = slots(problem, request, total - new, total)
            for cache in (problem.key_cache, problem.value_cache):
                bits = cache.view(torch.uint8)
                bits[blocks, places] = ~bits[blocks, places]
            found.append(blocks * size + places)
        return torch.cat(found)
