"""A small fork whose parts are where vLLM keeps them."""

from __future__ import annotations

import importlib
import sys
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.adapters import Starts, adapt
from pytest_rocm_attn.conformance.promise.servers_file import read_servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOURCES = {
    "envs": "",
    "config/__init__": """
        import contextlib
        from dataclasses import dataclass, field
        class Attention:
            backend = None
            use_non_causal = False
        class Cache:
            block_size = 16
            user_specified_block_size = False
            cache_dtype = "auto"
            num_gpu_blocks_override = None
        class Parallel:
            decode_context_parallel_size = 1
        class Compilation:
            def __init__(self):
                self.static_forward_context = {}
        @dataclass
        class ModelConfig:
            seed: int = 7
        @dataclass
        class KVTransferConfig:
            kv_connector: str | None = None
            kv_role: str | None = None
            engine_id: str = field(default_factory=str)
            def __post_init__(self):
                raise RuntimeError("looks at the machine")
        @dataclass
        class SpeculativeConfig:
            method: str | None = None
            num_speculative_tokens: int | None = None
        class VllmConfig:
            model_config = kv_transfer_config = speculative_config = None
            def __init__(self):
                self.attention_config = Attention()
                self.cache_config = Cache()
                self.parallel_config = Parallel()
                self.compilation_config = Compilation()
        current = None
        @contextlib.contextmanager
        def set_current_vllm_config(config):
            global current
            kept, current = current, config
            yield
            current = kept
    """,
    "config/cache": "from typing import Literal\nCacheDType = Literal['auto', 'fp8']\n",
    "utils/torch_utils": """
        import torch
        def kv_cache_dtype_str_to_dtype(name, model):
            return torch.int8 if name == "fp8" else model.dtype
    """,
    "distributed/parallel_state": "_TP = _DCP = None\n",
    "platforms/__init__": """
        from servy.platforms.rocm import RocmPlatform
        current_platform = RocmPlatform()
    """,
    "platforms/rocm": """
        from servy.v1.attention.backends.registry import AttentionBackendEnum as B
        class RocmPlatform:
            @classmethod
            def check_and_update_config(cls, config): ...
            @classmethod
            def get_attn_backend_cls(cls, selected_backend, attn_selector_config):
                asked = attn_selector_config
                for backend in (B.ROCM_ATTN, B.TRITON_ATTN):
                    if backend.get_class().takes(asked):
                        return backend.get_path()
                raise ValueError("no backend takes it")
    """,
    "v1/attention/selector": """
        import functools
        from typing import NamedTuple
        from servy import config, platforms
        from servy.v1.attention import backends
        class AttentionSelectorConfig(NamedTuple):
            head_size: int
            kv_cache_dtype: str
            attn_type: str
            use_kv_connector: bool = False
            use_non_causal: bool = False
            from_another_age: bool = False
        def get_attn_backend(head_size, dtype, kv_cache_dtype, attn_type):
            current = config.current
            speculates = current.speculative_config
            return _chosen(AttentionSelectorConfig(
                head_size, kv_cache_dtype, attn_type,
                use_kv_connector=current.kv_transfer_config is not None,
                use_non_causal=speculates is not None and speculates.method == "everywhere",
            ))
        @functools.cache
        def _chosen(asked):
            path = platforms.current_platform.get_attn_backend_cls(None, attn_selector_config=asked)
            return getattr(backends, path.rpartition(".")[2])
    """,
    "v1/attention/backends/registry": """
        import enum, importlib
        class AttentionBackendEnum(enum.Enum):
            ROCM_ATTN = "Rocm"
            TRITON_ATTN = "Triton"
            def get_path(self):
                return "servy.v1.attention.backends." + self.value
            def get_class(self):
                return getattr(importlib.import_module("servy.v1.attention.backends"), self.value)
    """,
    "v1/attention/backends/__init__": """
        class Impl:
            def __init__(self, num_heads, head_size): ...
        class Base:
            sizes = [16]
            @classmethod
            def takes(cls, asked):
                return not asked.use_non_causal
            @classmethod
            def get_impl_cls(cls):
                return Impl
            @classmethod
            def get_builder_cls(cls): ...
            @classmethod
            def get_supported_kernel_block_sizes(cls):
                return cls.sizes
        class Rocm(Base):
            @classmethod
            def takes(cls, asked):
                return super().takes(asked) and asked.attn_type != "encoder_decoder"
            @staticmethod
            def get_name():
                return "ROCM_ATTN"
            @staticmethod
            def get_kv_cache_shape(blocks, size, heads, head_size, cache_dtype_str="auto"):
                return (2, blocks, size, heads, head_size)
            @classmethod
            def supports_kv_connector(cls):
                return False
        class Triton(Base):
            @staticmethod
            def get_name():
                return "TRITON_ATTN"
            @staticmethod
            def get_kv_cache_shape(blocks, size, heads, head_size, cache_dtype_str="auto"):
                return (blocks, 2, size, heads, head_size)
    """,
    "model_executor/layers/attention/__init__": """
        from servy.v1.kv_cache_interface import Spec
        class Attention:
            def get_kv_cache_spec(self, config):
                size = config.cache_config.block_size
                return Spec(size, self.num_kv_heads, self.head_size, self.kv_cache_torch_dtype)
        class CrossAttention(Attention): ...
    """,
    "v1/kv_cache_interface": """
        from dataclasses import dataclass
        @dataclass(frozen=True)
        class Spec:
            block_size: int
            num_kv_heads: int
            head_size: int
            dtype: object
            @property
            def page(self):
                elements = 2 * self.block_size * self.num_kv_heads * self.head_size
                return elements * self.dtype.itemsize
    """,
    "v1/core/kv_cache_utils": """
        from types import SimpleNamespace as Of
        def get_kv_cache_groups(config, specs):
            return [Of(layer_names=[*specs], kv_cache_spec=next(iter(specs.values())))]
        def get_kv_cache_config_from_groups(config, groups, memory):
            (group,) = groups
            size = group.kv_cache_spec.page * config.cache_config.num_gpu_blocks_override
            tensors = [Of(size=size, shared_by=group.layer_names)]
            return Of(kv_cache_groups=groups, kv_cache_tensors=tensors)
    """,
    "v1/worker/utils": """
        from dataclasses import dataclass
        @dataclass
        class AttentionGroup:
            backend: type
            layer_names: list
            kv_cache_spec: object
            kv_cache_group_id: int
        def prepare_kernel_block_sizes(shared, groups):
            (group,) = groups
            both = set.intersection(*(set(one.backend.sizes) for one in group))
            if not both:
                raise ValueError("No common block size")
            return [max(both)]
    """,
    "v1/worker/gpu_model_runner": """
        class GPUModelRunner:
            def _every_group(self):
                return [one for group in self.attn_groups for one in group]
            def _reshape_kv_cache_tensors(self, kv_cache_raw_tensors, kernel_block_sizes):
                views = {}
                for group in self._every_group():
                    spec, (size,) = group.kv_cache_spec, kernel_block_sizes
                    for name in group.layer_names:
                        raw = kv_cache_raw_tensors[name]
                        shape = group.backend.get_kv_cache_shape(
                            raw.numel() // spec.page * (spec.block_size // size),
                            size, spec.num_kv_heads, spec.head_size)
                        views[name] = raw.view(spec.dtype).view(shape)
                return views
    """,
}


@pytest.fixture
def small_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[Any, Any]]]:
    """A function that writes the fork, and returns its adapter and a described server.

    It takes (module, old, new) for what is replaced in the text first, and further modules.
    """
    monkeypatch.syspath_prepend(tmp_path)

    def small_fork(
        described: str, *changes: tuple[str, str, str], more: dict[str, str] | None = None
    ) -> tuple[Any, Any]:
        sources = SOURCES | (more or {})
        for module, old, new in changes:
            assert old in sources[module]
            sources[module] = sources[module].replace(old, new)
        for name, text in sources.items():
            path = tmp_path / "servy" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
        for folder in [tmp_path / "servy", *(tmp_path / "servy").rglob("*/")]:
            (folder / "__init__.py").touch()
        file = tmp_path / "servers.toml"
        file.write_text('[[server]]\nid = "one"\nsource = "a test"\n' + dedent(described))
        (server,) = read_servers([file])
        platform: Any = importlib.import_module("servy.platforms.rocm").RocmPlatform
        adapter = adapt(platform, "servy.platforms.rocm:RocmPlatform")
        assert isinstance(adapter, Starts)
        return adapter, server

    yield small_fork
    for name in [name for name in sys.modules if name.partition(".")[0] == "servy"]:
        del sys.modules[name]
