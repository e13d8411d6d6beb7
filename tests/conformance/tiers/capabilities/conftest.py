"""A tiny fork of vLLM's shape, with backends that go wrong in the ways that backends do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOURCES = {
    "envs.py": "",
    "_aiter_ops.py": """
        import importlib.util, os
        if importlib.util.find_spec("aiter"):
            import aiter  # where that is broken, so is this
        class rocm_aiter_ops:
            @classmethod
            def refresh_env_variables(cls): ...
            if os.environ.get("VLLM_ROCM_USE_AITER") == "1":
                @staticmethod
                def sparse_decode(): ...
    """,
    "config.py": """
        import contextlib
        class Cache:
            block_size = 16
            cache_dtype = "auto"
        class Attention:
            def __init__(self, backend=None):
                from tinyfork.attention.backends.registry import AttentionBackendEnum
                self.backend = None if backend is None else AttentionBackendEnum[backend.upper()]
        class Compilation:
            def __init__(self):
                self.static_forward_context = {}
        class VllmConfig:
            model_config = None
            def __init__(self):
                self.cache_config = Cache()
                self.attention_config = Attention()
                self.compilation_config = Compilation()
        current = None
        @contextlib.contextmanager
        def set_current_vllm_config(config):
            global current
            current = config
            yield
            current = None
    """,
    "attention/backends/registry.py": """
        import enum, importlib
        class AttentionBackendEnum(enum.Enum):
            TRITON_ATTN = "good.GoodBackend"
            ROCM_ATTN = "any_block.AnyBlockBackend"
            ROCM_AITER_FA = "no_sinks.NoSinksBackend"
            ROCM_AITER_UNIFIED_ATTN = "import_error.Backend"
            FLEX_ATTENTION = "moods.MoodyBackend"
            TRITON_MLA = "latent.LatentBackend"
            ROCM_AITER_MLA = "latent.CountingBackend"
            ROCM_AITER_MLA_SPARSE = "sparse.SparseBackend"
            TORCH_SDPA = "nowhere.VisionOnly"
            def get_path(self):
                return "tinyfork.v1.attention.backends." + self.value
            def get_class(self):
                module, _, name = self.get_path().rpartition(".")
                return getattr(importlib.import_module(module), name)
    """,
    "platforms/__init__.py": """
        from tinyfork.platforms.rocm import RocmPlatform
        class Unspecified:
            def is_rocm(self):
                return False
        def found():
            try:
                import amdsmi
            except ImportError:
                return RocmPlatform()
            amdsmi.amdsmi_init()
            return RocmPlatform() if amdsmi.amdsmi_get_processor_handles() else Unspecified()
        current_platform = found()
    """,
    "platforms/rocm.py": """
        import os
        import torch
        from tinyfork.attention.backends.registry import AttentionBackendEnum
        def use_rocm_custom_paged_attention(qtype, head_size, block_size, gqa_ratio,
                                            max_seq_len, sliding_window, kv_cache_dtype):
            return qtype == torch.float16 and block_size == 16
        class RocmPlatform:
            def is_rocm(self):
                return True
            @classmethod
            def get_supported_vit_attn_backends(cls):
                names = AttentionBackendEnum
                return [names.TRITON_ATTN, names.FLEX_ATTENTION, names.TORCH_SDPA]
            @classmethod
            def get_vit_attn_backend(cls, head_size):
                names = AttentionBackendEnum
                if torch.cuda.get_device_properties(0).gcnArchName.startswith("gfx11"):
                    return names.TORCH_SDPA
                return names.ROCM_ATTN if head_size == 80 else names.TRITON_ATTN
            @classmethod
            def get_device_total_memory(cls):
                return torch.cuda.get_device_properties(0).total_memory
            @classmethod
            def check_and_update_config(cls, config):
                assert config.cache_config.block_size is None
                by_flag = os.environ.get("VLLM_ROCM_USE_AITER") == "1"
                by_flag = by_flag and config.attention_config.backend is None
                config.cache_config.block_size = 64 if by_flag else 16
            @classmethod
            def update_block_size_for_backend(cls, config):
                from tinyfork.model_executor.layers.attention_layer_base import AttentionLayerBase
                for layer in config.compilation_config.static_forward_context.values():
                    assert isinstance(layer, AttentionLayerBase)
                    preferred = getattr(layer.get_attn_backend(), "preferred_block", None)
                    if preferred is not None:
                        config.cache_config.block_size = preferred
            @classmethod
            def get_device_capability(cls):
                return (9, 4)
            @classmethod
            def get_attn_backend_cls(cls, selected_backend, head_size, dtype, kv_cache_dtype,
                                     block_size, use_mla, has_sink, use_sparse):
                aiter = os.environ.get("VLLM_ROCM_USE_AITER") == "1"
                names = AttentionBackendEnum
                if aiter and selected_backend is names.ROCM_AITER_UNIFIED_ATTN:
                    given = names.ROCM_AITER_FA if has_sink else names.TRITON_ATTN
                    return given.get_path()
                if selected_backend is not None:
                    return selected_backend.get_path()
                if head_size == 512:
                    raise ValueError("no backend for head size 512")
                if head_size == 224:
                    from aiter import no_such_name
                if use_sparse:
                    return names.ROCM_AITER_MLA_SPARSE.get_path()
                if use_mla:
                    return names.TRITON_MLA.get_path()
                if aiter:
                    return names.ROCM_AITER_FA.get_path()
                return names.TRITON_ATTN.get_path()
    """,
    "v1/attention/backends/abstract.py": """
        from abc import ABC, abstractmethod
        class MultipleOf:
            def __init__(self, base):
                self.base = base
        class AttentionBackend(ABC):
            @staticmethod
            def get_supported_kernel_block_sizes():
                return [MultipleOf(1)]
            @classmethod
            def supports_sink(cls):
                return False
            @classmethod
            def get_name(cls):
                return cls.name
            @classmethod
            def get_impl_cls(cls):
                return cls.impl
            @staticmethod
            def get_builder_cls():
                return object
            @staticmethod
            def get_kv_cache_shape(num_blocks, block_size, num_kv_heads, head_size,
                                   cache_dtype_str="auto"):
                if block_size % 16:
                    raise ValueError("Block size must be a multiple of 16.")
                return (2, num_blocks, block_size, num_kv_heads, head_size)
            @staticmethod
            def get_kv_cache_stride_order():
                raise NotImplementedError
        class AttentionImpl(ABC):
            @abstractmethod
            def __init__(self, num_heads, head_size, scale, num_kv_heads=None, alibi_slopes=None,
                         sliding_window=None, kv_cache_dtype="auto", logits_soft_cap=None,
                         attn_type="decoder", kv_sharing_target_layer_name=None): ...
    """,
    "v1/attention/backends/good.py": """
        import torch
        from tinyfork import config
        from tinyfork.v1.attention.backends.abstract import *
        class GoodImpl(AttentionImpl):
            def __init__(self, num_heads, head_size, scale, num_kv_heads, alibi_slopes,
                         sliding_window, kv_cache_dtype, logits_soft_cap=None,
                         attn_type="decoder", kv_sharing_target_layer_name=None, sinks=None):
                if head_size == 72:  # tell what came
                    raise ValueError(repr((
                        num_heads, scale == 72**-0.5, num_kv_heads, alibi_slopes and
                        len(alibi_slopes), sliding_window, kv_cache_dtype, logits_soft_cap,
                        attn_type, sinks is not None and tuple(sinks.shape),
                        str(torch.get_default_dtype()), config.current.model_config.dtype ==
                        torch.get_default_dtype(), config.current.cache_config.block_size)))
        class GoodBackend(AttentionBackend):
            name, impl = "TRITON_ATTN", GoodImpl
            @staticmethod
            def get_supported_kernel_block_sizes():
                return [MultipleOf(16)]
            @classmethod
            def supports_sink(cls):
                return True
            @classmethod
            def get_supported_head_sizes(cls):
                return [64, 128]
    """,
    "model_executor/layers/attention_layer_base.py": """
        from abc import ABC, abstractmethod
        class AttentionLayerBase(ABC):
            @abstractmethod
            def get_attn_backend(self): ...
            @abstractmethod
            def get_kv_cache_spec(self, config): ...
    """,
    "model_executor/models/vision.py": """
        import os
        import torch
        from tinyfork.attention.backends.registry import AttentionBackendEnum as names
        from tinyfork.platforms import current_platform
        def get_vit_attn_backend(head_size, dtype, *, attn_backend_override=None):
            assert dtype is torch.bfloat16
            if attn_backend_override is not None:
                if os.environ.get("VLLM_ROCM_USE_AITER") == "1":
                    return names.ROCM_AITER_FA
                return attn_backend_override
            return current_platform.get_vit_attn_backend(head_size)
    """,
    "engine/arg_utils.py": """
        from tinyfork.platforms import current_platform
        def defaults():
            if current_platform.is_rocm():
                return current_platform.get_device_total_memory() > 1 << 36
            current_platform.set_device(0)
            return current_platform.get_vit_attn_backend(64)
    """,
    "v1/attention/ops/decode.py": """
        from tinyfork.platforms.rocm import use_rocm_custom_paged_attention
        def decode(query, alibi_slopes, sliding_window, sinks, kv_cache_dtype):
            use_custom = use_rocm_custom_paged_attention(
                query.dtype, query.head_size, 16, 8, 4096, sliding_window, kv_cache_dtype)
            if use_custom:
                fast(query, alibi_slopes)
            else:
                slow(query, alibi_slopes, sliding_window, sinks)
    """,
    "v1/attention/backends/any_block.py": """
        from tinyfork.v1.attention.ops import decode
        from tinyfork.v1.attention.backends.abstract import *
        from tinyfork.v1.attention.backends.good import GoodImpl
        class AnyBlockBackend(AttentionBackend):
            name, impl = "ROCM_ATTN", GoodImpl
    """,
    "v1/attention/backends/no_sinks.py": """
        from tinyfork.v1.attention.backends.abstract import *
        class NoSinksImpl(AttentionImpl):
            def __init__(self, num_heads, head_size, scale, num_kv_heads, alibi_slopes,
                         sliding_window, kv_cache_dtype, logits_soft_cap=None,
                         attn_type="decoder", kv_sharing_target_layer_name=None): ...
        class NoSinksBackend(AttentionBackend):
            name, impl = "FLASH_ATTN", NoSinksImpl
            @staticmethod
            def get_kv_cache_shape(num_blocks, block_size, num_kv_heads, head_size):
                return (2, num_blocks, block_size, num_kv_heads, head_size)
    """,
    "v1/attention/backends/import_error.py": "import no_such_module",
    "v1/attention/backends/moods.py": """
        import os, time
        from tinyfork.v1.attention.backends.abstract import *
        class MoodyImpl(AttentionImpl):
            def __init__(self, num_heads, head_size, *arguments, unheard_of=None, **more):
                match head_size:
                    case 32: raise SystemExit(3)
                    case 64: os._exit(5)
                    case 80: time.sleep(600)
                    case 96: raise NotImplementedError("no head size 96")
                    case 160: from aiter import no_such_name
        class MoodyBackend(AttentionBackend):
            name, impl = "FLEX_ATTENTION", MoodyImpl
            preferred_block = 128
    """,
    "v1/attention/backends/latent.py": """
        from tinyfork.v1.attention.backends.abstract import *
        class LatentImpl(AttentionImpl):
            def __init__(self, num_heads, head_size, scale, num_kv_heads, alibi_slopes,
                         sliding_window, kv_cache_dtype, logits_soft_cap, attn_type,
                         kv_sharing_target_layer_name, unheard_of, **mla_args): ...
        class LatentBackend(AttentionBackend):
            name, impl = "TRITON_MLA", LatentImpl
        class CountingImpl(AttentionImpl):
            def __init__(self, num_heads, head_size, scale, num_kv_heads, alibi_slopes,
                         sliding_window, kv_cache_dtype, logits_soft_cap, attn_type,
                         kv_sharing_target_layer_name, **mla_args):
                assert num_heads in (16, 128), f"only 16 or 128 heads, not {num_heads}"
                assert mla_args["kv_b_proj"].weight.device.type == "meta"
                assert mla_args["kv_lora_rank"] + mla_args["qk_rope_head_dim"] == head_size
                assert num_kv_heads == 1
            def decode(self):
                mla_decode_fwd()
        class CountingBackend(AttentionBackend):
            name, impl = "ROCM_AITER_MLA", CountingImpl
            @staticmethod
            def get_supported_kernel_block_sizes():
                return [16]
    """,
    "v1/attention/backends/sparse.py": """
        from tinyfork._aiter_ops import rocm_aiter_ops
        from tinyfork.v1.attention.backends.abstract import *
        class SparseImpl(AttentionImpl):
            def __init__(self, num_heads, head_size, scale, num_kv_heads, alibi_slopes,
                         sliding_window, kv_cache_dtype, logits_soft_cap, attn_type,
                         kv_sharing_target_layer_name, indexer=None, **mla_args):
                assert indexer.topk_indices_buffer is not None
            def decode(self, ops):
                rocm_aiter_ops.sparse_decode()
                ops.mla_decode_fwd()
        class SparseBackend(AttentionBackend):
            name, impl = "ROCM_AITER_MLA_SPARSE", SparseImpl
            @staticmethod
            def get_kv_cache_shape(num_blocks, block_size, num_kv_heads, head_size,
                                   cache_dtype_str="auto"):
                return (num_blocks, block_size, head_size)
    """,
    "v1/spec_decode/eagle.py": "import aiter",
}


@pytest.fixture(scope="session")
def write_tiny_fork() -> Callable[[Path], str]:
    """A function that writes the fork below a folder, and returns how its selector is named."""
    import textwrap

    def write(folder: Path) -> str:
        for name, source in SOURCES.items():
            path = folder / "tinyfork" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source))
            for parent in (path.parent, *path.parent.parents):
                if parent == folder:
                    break
                if not (parent / "__init__.py").exists():
                    (parent / "__init__.py").write_text("")
        return "tinyfork.platforms.rocm:RocmPlatform"

    return write
