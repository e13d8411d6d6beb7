"""SGLang, asked as its server decides: by its own command line and its whole pipeline of arguments.

    python -m pytest --rocm-attn-conformance --rocm-attn-contract=sglang \\
        --rocm-attn-selector=pytest_rocm_attn.conformance.adapters.sglang:Server

SGLang chooses once for the whole server, while it resolves its arguments: overrides of the model, the
deterministic mode, the default and its compatibility checks come one after the other. Its own parser reads
the arguments here, and its own ``resolve_once`` resolves them, for a model that is a configuration without
weights. Needs SGLang's wheel on the path; docs/howto/another-server.md says which packages it imports.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import pkgutil
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_rocm_attn.conformance.adapters.unused import stand_ins
from pytest_rocm_attn.errors import SelectorError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.request import Request

# What a row sets besides the variables that SGLang itself reads.
ARGUMENTS = "SGLANG_ARGUMENTS"  # of the server's command line, as a shell would read them
MODEL = "SGLANG_MODEL"  # one of MODELS; else the request describes the model

# Packages that SGLang imports on the way, and that no choice of a backend calls.
_UNUSED = ("sgl_kernel", "torchvision")

# Configurations of small models, of the families that SGLang treats apart
# (srt/arg_groups/model_override_base.py and model_hook.py, 0.5.23).
_PLAIN: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 1024,
    "max_position_embeddings": 4096,
    "num_hidden_layers": 4,
    "torch_dtype": "bfloat16",
    "vocab_size": 1024,
}
_LATENT: dict[str, Any] = {
    **_PLAIN,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {
        **_PLAIN,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "gpt-oss": {
        **_PLAIN,
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "head_dim": 64,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "num_local_experts": 4,
    },
    "deepseek": {
        **_LATENT,
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
    },
    "whisper": {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "d_model": 1280,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 20,
        "decoder_attention_heads": 20,
        "max_target_positions": 448,
        "torch_dtype": "bfloat16",
        "vocab_size": 51866,
    },
}


class Server:
    """A server's choice: the backend of prefill and decode, or "PREFILL+DECODE" if they differ."""

    @property
    def names(self) -> tuple[str, ...]:
        """What SGLang calls its backends, alone and in pairs."""
        choices: Any = importlib.import_module("sglang.srt.arg_groups.choices")
        own = choices.ATTENTION_BACKEND_CHOICES
        return (*own, *("+".join(pair) for pair in itertools.permutations(own, 2)))

    def prepare(self) -> None:
        """Import what resolves arguments, once for all questions about one GPU."""
        with stand_ins(*_UNUSED):
            package: Any = importlib.import_module("sglang.srt.arg_groups")
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{package.__name__}.{module.name}")
            for name in ("server_args", "configs.model_config", "kernel_plugins.amd.binding"):
                importlib.import_module(f"sglang.srt.{name}")

    def select(self, request: Request, environ: Mapping[str, str]) -> NamedAnswer:
        """Return what SGLang chooses.

        Args:
            request: describes the model, if the environment does not name one of MODELS.
            environ: ARGUMENTS and MODEL are read here, the rest by SGLang.

        Raises:
            SelectorError: no such model.
            ValueError: SGLang refuses the arguments.
        """
        view = _resolved(_configuration(request, environ), environ.get(ARGUMENTS, ""))
        parts = {
            part: getattr(view, f"{part}_attention_backend") or view.attention_backend
            for part in ("prefill", "decode")
        }
        trace = [f"{name} is {getattr(view, name)}" for name in _TRACED if hasattr(view, name)]
        return NamedAnswer("+".join(dict.fromkeys(map(str, parts.values()))), tuple(trace))


_TRACED = (
    *("attention_backend", "prefill_attention_backend", "decode_attention_backend", "page_size"),
    *("speculative_draft_attention_backend", "mm_attention_backend"),
)


@dataclass(frozen=True)
class NamedAnswer:
    """What a server chose, and what else it resolved that affects attention."""

    backend: str
    trace: tuple[str, ...]


def _configuration(request: Request, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the model's config.json."""
    name = environ.get(MODEL)
    if name is None:
        kind = MODELS["deepseek" if request.use_mla else "llama"]
        heads = {
            "num_attention_heads": request.num_heads,
            # Checkpoints of MLA models count a KV head per query head.
            "num_key_value_heads": request.num_heads if request.use_mla else request.num_kv_heads,
        }
        return kind | heads | ({} if request.use_mla else {"head_dim": request.head_size})
    if name not in MODELS:
        known = ", ".join(MODELS)
        raise SelectorError(
            f"{MODEL}={name!r} is not a model of the adapter for SGLang.{nearest(name, MODELS)}"
            f" Models: {known}"
        )
    return MODELS[name]


def _resolved(model: Mapping[str, Any], arguments: str) -> Any:
    """Return SGLang's view of a server's arguments after it has resolved them."""
    with stand_ins(*_UNUSED):
        server_args: Any = importlib.import_module("sglang.srt.server_args")
        overrides: Any = importlib.import_module("sglang.srt.arg_groups.overrides")
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(json.dumps(model))
            given = ["--model-path", folder, "--load-format", "dummy", *shlex.split(arguments)]
            parser = _Parser()
            server_args.ServerArgs.add_cli_args(parser)
            args = server_args.ServerArgs.from_cli_args(parser.parse_args(given))
            args.resolve_once()
    return overrides.resolving_view(args)


class _Parser(argparse.ArgumentParser):
    """A parser that refuses by an exception, not by the end of the process."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)
