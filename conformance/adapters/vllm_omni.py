"""vLLM-Omni: what it makes of vLLM's choice for autoregressive stages, and its choice for diffusion.

    python -m pytest --rocm-attn-conformance --rocm-attn-contract=vllm-omni \\
        --rocm-attn-selector=pytest_rocm_attn.conformance.adapters.vllm_omni:Stages

Needs its wheel and vLLM's of the same minor release on the path; docs/howto/another-server.md says which packages
they import.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters.unused import stand_ins
from pytest_rocm_attn.conformance.adapters.vllm import PlatformAdapter
from pytest_rocm_attn.flags import EXPLICIT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.request import Request

STAGE = "OMNI_STAGE"  # "diffusion"; unset for an autoregressive stage
DIFFUSION = "DIFFUSION_ATTENTION_BACKEND"  # vllm_omni/diffusion/attention/selector.py (0.30.0)

# Packages that it imports on the way, and that no choice of a backend calls.
_UNUSED = ("accelerate", "diffusers", "torchvision")


class Stages:
    """The backend of a stage's attention layers."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names in vLLM's registry and in the registry for diffusion."""
        vllm: Any = importlib.import_module("vllm.v1.attention.backends.registry")
        return (*vllm.AttentionBackendEnum.__members__, *_diffusion().__members__)

    def prepare(self) -> None:
        """Import both servers, once for all questions about one GPU."""
        with stand_ins(*_UNUSED):
            importlib.import_module("vllm_omni.engine.stage_init_utils")
            importlib.import_module("vllm_omni.platforms")
            importlib.import_module("vllm.platforms.rocm")

    def select(self, request: Request, environ: Mapping[str, str], gpu: Gpu) -> str:
        """Return the name of the backend that a stage is given.

        Args:
            request: an attention layer.
            environ: STAGE says of which stage, DIFFUSION and VLLM_ATTENTION_BACKEND what the user names.
            gpu: the platform.

        Raises:
            ValueError: either server refuses.
        """
        self.prepare()
        if environ.get(STAGE) == "diffusion":
            return self._of_diffusion(request, environ.get(DIFFUSION))
        stages: Any = importlib.import_module("vllm_omni.engine.stage_init_utils")
        arguments = {"attention_backend": environ.get(EXPLICIT)}
        stages._apply_rocm_attention_backend(arguments, "llm")
        name = arguments["attention_backend"]
        named = {} if name is None else {EXPLICIT: name}
        platform: Any = importlib.import_module("vllm.platforms.rocm").RocmPlatform
        return str(PlatformAdapter(platform).select(request, {**environ, **named}, gpu))

    def _of_diffusion(self, request: Request, named: str | None) -> str:
        platform: Any = importlib.import_module("vllm_omni.platforms").current_omni_platform
        path: str = platform.get_diffusion_attn_backend_cls(named, request.head_size)
        members: dict[str, Any] = dict(_diffusion().__members__)
        for name, member in members.items():
            with contextlib.suppress(ValueError):  # one without a class
                if member.get_path() == path:
                    return name
        return str(path)


def _diffusion() -> Any:
    registry: Any = importlib.import_module("vllm_omni.diffusion.attention.backends.registry")
    return registry.DiffusionAttentionBackendEnum
