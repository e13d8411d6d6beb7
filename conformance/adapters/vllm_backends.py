"""The backend classes of vLLM and its forks: what they declare, and whether they can be built."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters import LacksError, construct, declarations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_rocm_attn.conformance.adapters.vllm_fork import Fork
    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.request import Request


class Backends:
    """What a vLLM-like package can be asked besides its selector.

    Args:
        fork: the package.
        platform_module: the module of the platform class; None for the fork's current platform.
    """

    def __init__(self, fork: Fork, platform_module: str | None) -> None:
        self.fork = fork
        self._platform_module = platform_module

    def construct(
        self,
        request: Request,
        backend: str,
        environ: Mapping[str, str],
        gpu: Gpu,
        *,
        none_for_sinks: bool = False,
    ) -> None:
        """Build a backend's implementation as the fork's own attention layer would."""
        explicit = self.fork.explicit(environ)
        block_size = request.block_size or construct.DEFAULT_BLOCK_SIZE
        with self.fork.configured(environ, explicit, block_size), self._modelled(request):
            construct.build(
                lambda: self._backend_class(backend),
                frozenset(self.fork.registry.__members__),
                request,
                none_for_sinks=none_for_sinks,
            )

    def declare(self, backend: str, asked: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Return what a backend's class declares, and what can be read off its module.

        Returns: "limits" from declarations.of(); "decides": whether the platform asks the
            classes; "cache_refuses": declared block sizes that its own cache cannot have, with the
            error; "kernels": attention kernels that its module calls.

        Raises:
            LacksError: the registry has no such backend.
        """
        if backend not in self.fork.registry.__members__:
            raise LacksError(f"the fork has no backend {backend}")
        cls = self._backend_class(backend)
        limits = declarations.of(cls, asked, self._convert)
        sizes = limits.get("block_size", {}).get("takes", ())
        return {
            "limits": limits,
            "decides": declarations.validates(self._platform()),
            "cache_refuses": declarations.cache_refusals(cls, sizes),
            "kernels": declarations.kernels_called(cls.__module__),
        }

    def import_module(self, name: str) -> None:
        """Import a module below the fork's package."""
        importlib.import_module(f"{self.fork.top}.{name}")

    # --- the fork's parts -------------------------------------------------------------------------

    def _backend_class(self, backend: str) -> Any:
        member = self.fork.registry[backend]
        if hasattr(member, "get_class"):
            return member.get_class()
        module, _, name = self.fork.class_paths[backend].rpartition(".")
        return getattr(importlib.import_module(module), name)

    def _platform(self) -> str:
        if self._platform_module is None:
            return type(self._current_platform()).__module__
        return self._platform_module

    def _current_platform(self) -> Any:
        return importlib.import_module(f"{self.fork.top}.platforms").current_platform

    def _convert(self, limit: str, value: Any) -> Any:
        """Return what a class is asked with: torch's dtype, the mocked device's capability."""
        if limit == "dtype":
            import torch

            return getattr(torch, value)
        if limit == "gfx":
            return self._current_platform().get_device_capability()
        return value

    @contextlib.contextmanager
    def _modelled(self, request: Request) -> Iterator[None]:
        """Have a model of the request's kind: default dtype, configuration, workspaces."""
        import torch

        dtype, before = getattr(torch, request.dtype), torch.get_default_dtype()
        config = self.fork.server_config
        kept = config.model_config, config.cache_config.cache_dtype
        config.model_config = construct.ModelConfig(request, dtype)
        config.cache_config.cache_dtype = request.kv_cache_dtype
        torch.set_default_dtype(dtype)
        try:
            self._make_workspaces()
            with self._grouped():
                yield
        finally:
            torch.set_default_dtype(before)
            config.model_config, config.cache_config.cache_dtype = kept

    @contextlib.contextmanager
    def _grouped(self) -> Iterator[None]:
        """Have the groups of one rank that a server on one GPU makes before it builds layers.

        Sparse MLA asks for the size of the tensor-parallel group when it is built
        (vllm/model_executor/layers/attention/sparse_mla_attention.py, v0.33.0).
        """
        state = self.fork.module("distributed.parallel_state")
        made = [name for name in _GROUPS if getattr(state, name, GroupOfOne) is None]
        try:
            for name in made:
                setattr(state, name, GroupOfOne())
            yield
        finally:
            for name in made:
                setattr(state, name, None)

    def _make_workspaces(self) -> None:
        """Make what later releases' workers make before they build layers; nothing is allocated."""
        workspace: Any = self.fork.module("v1.worker.workspace")
        if workspace is None or not hasattr(workspace, "init_workspace_manager"):
            return
        if not workspace.is_workspace_manager_initialized():
            import torch

            workspace.init_workspace_manager(torch.device("meta"))


# Tensor, pipeline, data, decode-context and prefill-context parallelism, as vLLM's parallel_state
# (v0.11.2 to v0.33.0) keeps them.
_GROUPS = ("_TP", "_PP", "_DP", "_DCP", "_PCP")


class GroupOfOne:
    """A group of one rank; what it is asked besides its size and place is a loud error."""

    world_size = 1
    rank = rank_in_group = local_rank = 0
    ranks: tuple[int, ...] = (0,)
    is_first_rank = is_last_rank = True
