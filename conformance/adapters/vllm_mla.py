"""vLLM's MLA decode, unmodified, as a backend under test in the numerics and launch tiers.

    python -m pytest --rocm-attn-conformance --rocm-attn-tier=launch \\
        --rocm-attn-backends=VLLM_MLA=pytest_rocm_attn.conformance.adapters.vllm_mla:MlaDecode

As vLLM's TRITON_MLA calls ``decode_attention_fwd``, by the names in its signature.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch

from pytest_rocm_attn.conformance.adapters.unified import first_home
from pytest_rocm_attn.conformance.adapters.vllm_unified import an_active_driver
from pytest_rocm_attn.errors import BackendUnderTestError

if TYPE_CHECKING:
    from pytest_rocm_attn.problem import MlaDecode as Problem

HOMES = (
    "vllm.v1.attention.ops.triton_decode_attention",
    "vllm.attention.ops.triton_decode_attention",
)
SPLITS = (
    4  # of the keys of a request: vLLM's TRITON_MLA until 0.17, and within the range of later ones
)


class MlaDecode:
    """vLLM's ``decode_attention_fwd``, the kernels of its TRITON_MLA.

    Raises:
        BackendUnderTestError: vLLM is not there, or has no such function.
    """

    name = "VLLM_MLA"

    def __init__(self) -> None:
        with an_active_driver():
            function, why_not = first_home(HOMES, "decode_attention_fwd")
        if function is None:
            raise BackendUnderTestError(
                f"vLLM's decode_attention_fwd is in none of its known modules ({why_not}); install vLLM, or"
                " put its source on PYTHONPATH"
            )
        self.function = function
        self.parameters = inspect.signature(function).parameters

    def mla_decode(self, problem: Problem) -> None:
        """Solve a problem of absorbed decode."""
        query, cache = problem.query, problem.latent_cache.unsqueeze(2)  # one KV head
        requests, heads, _ = query.shape
        rank = problem.out.shape[-1]
        offered = {
            "q": query,
            "k_buffer": cache,
            "v_buffer": cache[..., :rank],
            "o": problem.out,
            "lse": query.new_empty(requests, heads),
            "req_to_token": problem.block_table,
            "b_seq_len": problem.seq_lens,
            "attn_logits": query.new_empty(requests, heads, SPLITS, rank + 1, dtype=torch.float32),
            "num_kv_splits": SPLITS,
            "sm_scale": problem.scale,
            "page_size": cache.shape[1],
            "is_mla": True,
        }
        self.function(**{name: value for name, value in offered.items() if name in self.parameters})
