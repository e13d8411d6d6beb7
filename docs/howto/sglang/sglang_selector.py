"""SGLang's default of --attention-backend, asked as pytest-rocm-attn asks a selector.

SGLang picks it per model and machine, before any layer exists, in get_default_attn_backend.
"""

from types import SimpleNamespace

# A worker imports this file, and with it the server, once for each platform, which is mocked by then.
from sglang.srt.arg_groups.model_override_base import get_default_attn_backend

# SGLang has one name for a backend and its MLA variant; contracts speak of vLLM's names.
NAMES = {
    ("aiter", False): "ROCM_AITER_FA",
    ("aiter", True): "ROCM_AITER_MLA",
    ("triton", False): "TRITON_ATTN",
    ("triton", True): "TRITON_MLA",
}


class DefaultAttentionBackend:
    def select(self, request, environ, gpu):
        backend = get_default_attn_backend(
            _server_args(), use_mla_backend=request.use_mla, model_config=_model(request)
        )
        name = NAMES.get((backend, request.use_mla), backend)
        return Answer(name, trace=[f"get_default_attn_backend answered {backend!r}"])


class Answer:
    def __init__(self, backend, trace):
        self.backend = backend
        self.trace = trace  # what reports show


def _server_args():
    """What a server started without further options has of the fields that are read."""
    return SimpleNamespace(tp_size=1, speculative_algorithm=None, speculative_eagle_topk=None)


def _model(request):
    # Checkpoints of MLA models count a KV head per query head, and SGLang reads that number.
    kv_heads = request.num_heads if request.use_mla else request.num_kv_heads
    return SimpleNamespace(
        hf_config=SimpleNamespace(architectures=["LlamaForCausalLM"]),
        get_num_kv_heads=lambda tp_size: kv_heads // tp_size,
        has_attention_sinks=request.has_sink,
        has_asymmetric_kv=False,
    )
