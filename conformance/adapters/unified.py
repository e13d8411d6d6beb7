"""The unified attention that vLLM and AMD's aiter share by descent: called by the names in its signature.

Releases add arguments, and move the function; one that keeps the names works.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_rocm_attn.problem import PagedAttention


class Unified:
    """A function of that signature, as a backend under test in the numerics tier.

    Args:
        function: found where the release keeps it.
    """

    name: str
    rounds_cache = True

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.parameters = inspect.signature(function).parameters

    def attend(self, problem: PagedAttention) -> None:
        """Solve a problem of paged attention.

        Raises:
            NotImplementedError: the function says that it does not support the layer.
        """
        if not problem.query.shape[0]:
            return  # a runner makes no call without a token
        offered = self.arguments(problem)
        given = {name: value for name, value in offered.items() if name in self.parameters}
        with asserted_limits(bare=not problem.causal):
            self.function(**given)

    def arguments(self, problem: PagedAttention) -> dict[str, Any]:
        """Return what is offered to the function; it gets what it has parameters for."""
        batch, kv_heads = problem.seq_lens.shape[0], problem.key_cache.shape[2]
        return {
            "q": problem.query,
            "k": problem.key_cache,
            "v": problem.value_cache,
            "out": problem.out,
            "cu_seqlens_q": problem.query_start_loc,
            "max_seqlen_q": problem.max_query_len,
            "seqused_k": problem.seq_lens,
            "max_seqlen_k": problem.max_seq_len,
            "softmax_scale": problem.scale,
            "causal": problem.causal,
            # The function's meaning: that many keys to the left and to the right; -1 for all.
            "window_size": _window(problem),
            "block_table": problem.block_table,
            "softcap": problem.soft_cap or 0,
            "q_descale": None,
            "k_descale": problem.k_scale.expand(batch, kv_heads),
            "v_descale": problem.v_scale.expand(batch, kv_heads),
            "alibi_slopes": problem.alibi_slopes,
            "sinks": problem.sinks,
        }


@contextlib.contextmanager
def asserted_limits(*, bare: bool = False) -> Iterator[None]:
    """Take an assertion, or a ValueError, of a kernel's host code about what it supports for a refusal.

    Such as "Only causal attention is supported" and "Sinks arg is not supported with alibi".

    Args:
        bare: an assertion without a message is a refusal too, since what is asked for is not what every
            release takes.

    Raises:
        NotImplementedError: it was one.
    """
    try:
        yield
    except (AssertionError, ValueError) as error:
        unsaid = bare and isinstance(error, AssertionError) and not str(error)
        if "support" not in str(error) and not unsaid:
            raise
        raise NotImplementedError(str(error) or "attention that is not causal") from None


def _window(problem: PagedAttention) -> tuple[int, int]:
    if not problem.window:
        return -1, -1
    return problem.window - 1, 0 if problem.causal else problem.window - 1


def first_home(
    homes: tuple[str, ...], name: str = "unified_attention"
) -> tuple[Callable[..., Any] | None, str]:
    """Return a function from the first module that has it; else None and why not."""
    failures = []
    for home in homes:
        try:
            function: Callable[..., Any] = getattr(importlib.import_module(home), name)
        except (ImportError, AttributeError) as error:
            failures.append(f"{home}: {error}")
        else:
            return function, ""
    return None, "; ".join(failures)
