"""AMD aiter's functions that choose a kernel, unmodified, as backends under test in the numerics and launch tiers.

    python -m pytest --rocm-attn-conformance --rocm-attn-tier=launch \\
        --rocm-attn-backends=AITER=pytest_rocm_attn.conformance.adapters.aiter_kernels:PagedDecode

FlashAttention and PagedDecode choose among Triton kernels: these run, or are compiled. CompiledFlashAttention,
CompiledPagedAttention and CompiledMlaDecode choose among kernels in HIP, CK or assembly. Their host code runs on tensors
without storage; what it chooses is recorded and compared with what that kernel needs (kernel_needs.py), and
the case is declined, with the choice as the reason. aiter_unified.py has the unified attention.
"""

from __future__ import annotations

import contextlib
import inspect
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters import kernel_needs
from pytest_rocm_attn.conformance.adapters.aiter_unified import function_of_aiter
from pytest_rocm_attn.conformance.adapters.closed import compiled, signatures
from pytest_rocm_attn.conformance.adapters.closed.calls import UnknownKernelError
from pytest_rocm_attn.conformance.adapters.paged_tokens import tokens
from pytest_rocm_attn.conformance.adapters.unified import asserted_limits
from pytest_rocm_attn.errors import RocmAttnError
from pytest_rocm_attn.mock import cpu_tensors
from pytest_rocm_attn.mock.patching import Layer

if TYPE_CHECKING:
    import torch

    from pytest_rocm_attn.problem import MlaDecode, MlaPrefill, PagedAttention

_LARGE_BATCH = 4096  # requests: more than CUs of any GPU, twice over
_TRITON = ("aiter.ops.triton.attention", "aiter.ops.triton")


class UnfitKernelError(RocmAttnError):
    """AITER chooses a kernel that the GPU does not have, or that does not take the call and does not say so."""


class _Function:
    """A function of AITER's, by its homes and its name.

    Raises:
        BackendUnderTestError: AMD's aiter is absent, broken or the unrelated package, or has no such
            function.
    """

    name: str
    homes: tuple[str, ...]
    function_name: str
    imports_aiter = True

    def __init__(self) -> None:
        self.function = function_of_aiter(self.homes, self.function_name)
        self.parameters = inspect.signature(self.function).parameters

    def call(self, offered: dict[str, Any]) -> Any:
        """Call the function with what it has parameters for."""
        given = {name: value for name, value in offered.items() if name in self.parameters}
        with asserted_limits():
            return self.function(**given)

    def refuse(self, **needed: object) -> None:
        """Refuse what the function has no parameter for.

        Raises:
            NotImplementedError: it is needed and there is none.
        """
        for name, need in needed.items():
            if need and name not in self.parameters:
                raise NotImplementedError(f"{self.function_name} has no {name}")


# --- kernels in Triton ----------------------------------------------------------------------------


class FlashAttention(_Function):
    """The ``flash_attn_varlen_func`` in Triton: the prefill of ROCM_AITER_TRITON_MLA.

    It chooses tiles by GPU and dtype, and a kernel with or without columns of a position.
    """

    name = "AITER_FLASH"
    homes = tuple(f"{home}.mha" for home in _TRITON)
    function_name = "flash_attn_varlen_func"
    rounds_cache = True

    def attend(self, problem: PagedAttention) -> None:
        """Solve a problem of paged attention, over the keys and values of its tokens in a row.

        Raises:
            NotImplementedError: the release does not take it.
        """
        self.refuse(softcap=problem.soft_cap, sink=problem.sinks is not None)
        if problem.query.shape[0]:  # a runner makes no call without a token
            problem.out.copy_(self.call(_in_a_row(problem)))

    def mla_prefill(self, problem: MlaPrefill) -> None:
        """Solve a problem of MLA prefill."""
        out, lse = self.call(_latent_prefill(problem))
        problem.out.copy_(out)
        problem.lse.copy_(lse.transpose(0, 1))  # it returns [tokens, heads]


class PagedDecode(_Function):
    """``paged_attention_decode`` in Triton: for each request at once or in parts, for a group of heads or for one."""

    name = "AITER_DECODE"
    homes = tuple(f"{home}.pa_decode" for home in _TRITON)
    function_name = "paged_attention_decode"
    rounds_cache = True

    def attend(self, problem: PagedAttention) -> None:
        """Solve a problem of paged attention whose requests have one new token.

        Raises:
            NotImplementedError: a request has more, or the layer needs what the function does not have.
        """
        if problem.max_query_len > 1:
            raise NotImplementedError("more than one new token of a request")
        self.refuse(
            window=problem.window, softcap=problem.soft_cap, sinks=problem.sinks is not None
        )
        if not problem.query.shape[0]:
            return
        import torch
        import triton.language

        kept = [request for request, new in enumerate(problem.query_lens) if new]
        scales = {"k_scale": problem.k_scale, "v_scale": problem.v_scale}
        if problem.query.is_meta:  # the function reads them
            scales = dict.fromkeys(scales, torch.ones(()))
        self.call(
            scales
            | {
                "output": problem.out,
                "query": problem.query,
                "key_cache": problem.key_cache.transpose(1, 2),
                "value_cache": problem.value_cache.transpose(1, 2),
                "seq_lens": problem.seq_lens[kept],
                "block_tables": problem.block_table[kept],
                "attn_scale": problem.scale,
                "max_seq_len": problem.max_seq_len,
                "compute_type": getattr(triton.language, problem.request.dtype),
                "alibi_slopes": problem.alibi_slopes,
            }
        )


def _in_a_row(problem: PagedAttention) -> dict[str, Any]:
    """Return what a flash_attn_varlen_func is offered for a problem of paged attention."""
    import torch

    key, value = tokens(problem, whole=True)
    # A runner leaves out requests without a new token, too; 0.1.7 writes past its sums if the last one has no key.
    kept = [request for request, new in enumerate(problem.query_lens) if new]
    lengths, slopes = problem.seq_lens[kept], problem.alibi_slopes
    window = problem.window - 1 if problem.window else -1
    return {
        "q": problem.query,
        "k": key,
        "v": value,
        "cu_seqlens_q": torch.cat([problem.query_start_loc[kept], problem.query_start_loc[-1:]]),
        "cu_seqlens_k": torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0)),
        "max_seqlen_q": problem.max_query_len,
        "max_seqlen_k": problem.max_seq_len,
        "softmax_scale": problem.scale,
        "causal": problem.causal,
        "window_size": (window, 0 if problem.causal and problem.window else window),
        "logits_soft_cap": problem.soft_cap or 0.0,
        # The one of the two documented shapes that 0.1.7 takes.
        "alibi_slopes": None if slopes is None else slopes.expand(len(kept), -1),
        "sink": problem.sinks,
        "sink_ptr": problem.sinks,
    }


def _latent_prefill(problem: MlaPrefill) -> dict[str, Any]:
    return {
        "q": problem.query,
        "k": problem.key,
        "v": problem.value,
        "cu_seqlens_q": problem.query_start_loc,
        "cu_seqlens_k": problem.key_start_loc,
        "max_seqlen_q": problem.max_query_len,
        "max_seqlen_k": problem.key.shape[0],
        "softmax_scale": problem.scale,
        "causal": problem.causal,
        "return_lse": True,
    }


# --- compiled kernels -----------------------------------------------------------------------------


class _Compiled(_Function):
    """A function that chooses among kernels whose code is compiled for the device."""

    def choose(self, *offers: dict[str, Any]) -> None:
        """Ask which kernels the function chooses for each of some arguments, on tensors without storage.

        Raises:
            UnfitKernelError: one of them does not take the call, or not on this GPU, and does not refuse it.
            NotImplementedError: what was chosen; or what the function or the chosen kernel does not take.
        """
        import torch

        layer = Layer()
        try:
            cpu_tensors.install(layer)
            with compiled.recorded() as calls:
                for offered in offers:
                    with contextlib.suppress(UnknownKernelError):
                        self.call(
                            {name: _without_storage(value) for name, value in offered.items()}
                        )
        finally:
            layer.close()
        gfx = torch.cuda.get_device_properties(0).gcnArchName.partition(":")[0]
        version = signatures.nearest(_version())
        unfit, refusals = (
            dict.fromkeys(
                words
                for call in calls
                for words in kernel_needs.broken(
                    call.kernel, call.facts | {"GPU": gfx}, version, refuses=refuses
                )
            )
            for refuses in (False, True)
        )
        if unfit:
            raise UnfitKernelError("; ".join(unfit))
        if refusals:
            raise NotImplementedError("; ".join(refusals))
        names = " and ".join(dict.fromkeys(call.kernel for call in calls)) or "no compiled kernel"
        raise NotImplementedError(
            f"{self.function_name} chooses {names} on {gfx}; compiled kernels of aiter are not run here"
        )


def _version() -> str:
    try:
        return metadata.version("amd-aiter")
    except metadata.PackageNotFoundError:  # a checkout on PYTHONPATH
        return ""


def _without_storage(value: Any) -> Any:
    import torch

    if not isinstance(value, torch.Tensor) or value.is_meta:
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


class CompiledFlashAttention(_Compiled):
    """``aiter.flash_attn_varlen_func``: CK or assembly, the prefill of ROCM_AITER_FA and ROCM_AITER_MLA."""

    name = "AITER_CK"
    homes = ("aiter.ops.mha",)
    function_name = "flash_attn_varlen_func"

    def attend(self, problem: PagedAttention) -> None:
        """Ask which kernel is chosen; raises as choose()."""
        self.refuse(logits_soft_cap=problem.soft_cap, sink_ptr=problem.sinks is not None)
        if problem.query.shape[0]:
            self.choose(_in_a_row(problem))

    def mla_prefill(self, problem: MlaPrefill) -> None:
        """Ask which kernel is chosen; raises as choose()."""
        self.choose(_latent_prefill(problem))


class CompiledPagedAttention(_Compiled):
    """``paged_attention_common``: HIP or assembly over the shuffled cache, the decode of ROCM_AITER_FA."""

    name = "AITER_PAGED"
    homes = ("aiter.ops.attention",)
    function_name = "paged_attention_common"

    def attend(self, problem: PagedAttention) -> None:
        """Ask which kernels are chosen for this decode and for one of a large batch; raises as choose()."""
        if problem.max_query_len > 1:
            raise NotImplementedError("more than one new token of a request")
        if problem.window or problem.soft_cap or problem.sinks is not None:
            raise NotImplementedError("a window, a soft cap or sinks")
        self.refuse(alibi_slopes=problem.alibi_slopes is not None)
        import torch

        blocks, size, heads, dim = problem.key_cache.shape
        x = 16 // problem.key_cache.dtype.itemsize
        if dim % x or size % x:
            raise NotImplementedError(
                f"heads of {dim} elements in blocks of {size}: no multiple of {x}"
            )

        def made(*shape: int, like: torch.Tensor = problem.query) -> torch.Tensor:
            return torch.empty(shape, dtype=like.dtype, device="meta")

        def counts(*shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=torch.int32, device="meta")

        query_heads, parts = problem.query.shape[1], -(-problem.max_seq_len // 256)
        fp8 = problem.key_cache.dtype.itemsize == 1

        def of_a_batch(requests: int) -> dict[str, Any]:
            sums = torch.empty(requests, query_heads, parts, device="meta")
            table = counts(requests, problem.block_table.shape[1])
            return {
                "Q": made(requests, query_heads, dim),
                "K": made(blocks, heads, dim // x, size, x, like=problem.key_cache),
                "V": made(blocks, heads, size // x, dim, x, like=problem.value_cache),
                "exp_sums": sums,
                "max_logits": sums,
                "tmp_out": made(requests, query_heads, parts, dim),
                "block_tables": table,
                "context_lens": counts(requests),
                "block_tables_stride0": table.stride(0),
                "scale": problem.scale,
                "max_seq_len": problem.max_seq_len,
                "K_QScale_hip": problem.k_scale,
                "V_QScale_hip": problem.v_scale,
                "out_": made(requests, query_heads, dim),
                "kv_cache_dtype": "fp8" if fp8 else "auto",
            }

        # It chooses by how many heads the batch has for each CU, and a server has small and large batches.
        self.choose(of_a_batch(problem.query.shape[0]), of_a_batch(_LARGE_BATCH))


class CompiledMlaDecode(_Compiled):
    """``aiter.mla.mla_decode_fwd``: how many parts, the assembly of the first stage, the reduction after it."""

    name = "AITER_MLA"
    homes = ("aiter.mla",)
    function_name = "mla_decode_fwd"

    def mla_decode(self, problem: MlaDecode) -> None:
        """Ask which kernels are chosen; raises as choose()."""
        import torch

        def counts(*shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=torch.int32, device="meta")

        requests = problem.query.shape[0]
        blocks, size, width = problem.latent_cache.shape
        cache = torch.empty(
            blocks * size, 1, 1, width, dtype=problem.latent_cache.dtype, device="meta"
        )
        # Pages of one token, as ROCM_AITER_MLA has them.
        self.choose(
            {
                "q": problem.query,
                "kv_buffer": cache,
                "o": problem.out,
                "qo_indptr": counts(requests + 1),
                "kv_indptr": counts(requests + 1),
                "kv_indices": counts(requests * problem.max_seq_len),
                "kv_last_page_lens": counts(requests),
                "max_seqlen_q": 1,
                "sm_scale": problem.scale,
            }
        )
