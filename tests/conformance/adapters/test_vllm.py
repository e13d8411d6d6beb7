"""The vLLM adapters against a small fork of the same shape, in each of its calling conventions."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.adapters import adapt
from pytest_rocm_attn.conformance.adapters.vllm import ChainAdapter, PlatformAdapter
from pytest_rocm_attn.errors import SelectorError
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.outcome import Selected, Unrecognised
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Make = Callable[..., Any]

pytest.importorskip("torch", reason="vLLM's selectors take torch dtypes; install the extra kernels")
EXPLICIT = "VLLM_ATTENTION_BACKEND"
REGISTRY = """
import enum
class AttentionBackendEnum(enum.Enum):
    TRITON_ATTN = "forky.backends.Triton"
    ROCM_ATTN = "forky.backends.Rocm"
    ROCM_AITER_FA = "forky.backends.Fa"
    CUSTOM = ""
    def get_path(self):
        if not self.value:
            raise ValueError("to be registered")
        return self.value
"""
ENVS = """
import os
environment_variables = {"VLLM_ATTENTION_BACKEND": None}
def __getattr__(name):
    if name == "VLLM_ROCM_USE_AITER":
        return os.environ.get(name, "0") == "1"
    if name not in environment_variables:
        raise AttributeError(name)
    return os.environ.get(name)
"""
# As vLLM 0.12.0's: the flag is read once, when the class is made.
OPS = """
from forky import envs
class rocm_aiter_ops:
    _ENABLED = envs.VLLM_ROCM_USE_AITER
"""
BODY = """
        from forky._aiter_ops import rocm_aiter_ops
        if selected_backend is not None:
            return selected_backend.get_path()
        return "forky.backends.Fa" if rocm_aiter_ops._ENABLED else "forky.backends.Triton"
"""
CONVENTIONS = {
    "loose arguments": "selected_backend, head_size, dtype, kv_cache_dtype, block_size, use_mla",
    "with use_v1": "selected_backend, head_size, dtype, use_v1, block_size",
}
CONFIG = """
import contextlib
from dataclasses import dataclass, field
class Attention:
    backend = None
class Cache:
    block_size = None
@dataclass
class VllmConfig:
    attention_config: Attention = field(default_factory=Attention)
    cache_config: Cache = field(default_factory=Cache)
current = None
@contextlib.contextmanager
def set_current_vllm_config(config):
    global current
    current = config
    yield
    current = None
"""
CHAIN = """
import functools, os
from typing import NamedTuple
class AttentionSelectorConfig(NamedTuple):
    head_size: int
    dtype: object
    block_size: int | None
@functools.cache
def _cached(head_size):
    return os.environ.get("VLLM_ROCM_USE_AITER")
def get_attn_backend(head_size, dtype, kv_cache_dtype):
    from forky import backends, config
    named = config.current.attention_config.backend
    if named is not None:
        return getattr(backends, named.value.rpartition(".")[2])
    return backends.Fa if _cached(head_size) == "1" else backends.Triton
"""


@pytest.fixture
def fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """A function that writes a package ``forky`` with the given modules, and imports one of them."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in (EXPLICIT, "VLLM_ROCM_USE_AITER"):
        monkeypatch.delenv(name, raising=False)

    def make(imported: str, **modules: str) -> Any:
        files = {
            "v1/attention/backends/registry": REGISTRY,
            "envs": ENVS,
            "_aiter_ops": OPS,
            "backends": "class Triton: pass\nclass Rocm: pass\nclass Fa: pass\n",
            **{name.replace("__", "/"): text for name, text in modules.items()},
        }
        for name, text in files.items():
            path = tmp_path / "forky" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for folder in [tmp_path / "forky", *(tmp_path / "forky").rglob("*/")]:
            (folder / "__init__.py").touch()
        return importlib.import_module(f"forky.{imported}")

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == "forky"]:
        del sys.modules[name]


def platform(parameters: str, body: str = BODY) -> str:
    method = f"    @classmethod\n    def get_attn_backend_cls(cls, {parameters}):{body}"
    return f"class RocmPlatform:\n{method}"


def ask(adapter: Any, **environ: str) -> object:
    return adapter.select(Request(), environ, Gpu("gfx942"))


@pytest.mark.parametrize("parameters", CONVENTIONS.values(), ids=CONVENTIONS)
def test_the_platform_is_asked_by_name_in_each_convention(fork: Make, parameters: str) -> None:
    found = fork("rocm", rocm=platform(parameters)).RocmPlatform
    adapter = adapt(found, "forky.rocm:RocmPlatform")
    assert isinstance(adapter, PlatformAdapter)
    assert ask(adapter) == Selected("TRITON_ATTN")


def test_an_explicit_backend_goes_through_the_forks_own_variable(
    fork: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = fork("rocm", rocm=platform(CONVENTIONS["loose arguments"]))
    monkeypatch.setenv(EXPLICIT, "ROCM_ATTN")
    assert ask(PlatformAdapter(module.RocmPlatform), **os.environ) == Selected("ROCM_ATTN")


def test_a_bundled_configuration_holds_what_its_fields_ask_for(fork: Make) -> None:
    body = """
        from forky import config
        assert config.current.attention_config.backend is selected_backend
        assert config.current.cache_config.block_size == attn_selector_config.block_size == 16
        return "forky.backends.Rocm"
"""
    module = fork(
        "rocm",
        rocm=platform("selected_backend, attn_selector_config, num_heads=None", body),
        config=CONFIG,
        v1__attention__selector=CHAIN,
    )
    assert ask(PlatformAdapter(module.RocmPlatform)) == Selected("ROCM_ATTN")


def test_a_parameter_that_no_convention_has_is_named(fork: Make) -> None:
    module = fork("rocm", rocm=platform("selected_backend, head_size, moon_phase"))
    with pytest.raises(SelectorError, match=r"requires moon_phase, .*docs/adapters\.md"):
        ask(PlatformAdapter(module.RocmPlatform))


@pytest.mark.parametrize("answer", ["None", "'ROCM_ATTN'", "selected_backend", "'forky.Nope'"])
def test_only_a_class_path_will_do_as_for_the_forks_own_caller(fork: Make, answer: str) -> None:
    body = f"\n        return {answer}\n"
    module = fork("rocm", rocm=platform(CONVENTIONS["loose arguments"], body))
    assert isinstance(ask(PlatformAdapter(module.RocmPlatform)), Unrecognised)


def test_refreshing_brings_class_level_flags_up_to_the_environment(
    fork: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = fork("rocm", rocm=platform(CONVENTIONS["loose arguments"]))
    adapter = PlatformAdapter(module.RocmPlatform)
    assert ask(adapter) == Selected("TRITON_ATTN")
    monkeypatch.setenv("VLLM_ROCM_USE_AITER", "1")
    assert ask(adapter) == Selected("TRITON_ATTN")  # frozen
    assert adapter.refresh()
    assert ask(adapter) == Selected("ROCM_AITER_FA")


def test_refreshing_does_not_import_what_the_fork_has_not(fork: Make) -> None:
    """Where aiter is broken, vLLM 0.13.0's _aiter_ops raises while it is imported."""
    module = fork(
        "rocm",
        rocm=platform(CONVENTIONS["loose arguments"]),
        _aiter_ops="raise RuntimeError('ROCm version file not found')",
    )
    adapter = PlatformAdapter(module.RocmPlatform)
    assert adapter.refresh()
    with pytest.raises(RuntimeError, match="version file"):
        ask(adapter)


def test_the_full_chain_answers_from_the_config_and_refreshing_clears_its_caches(
    fork: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = fork("v1.attention.selector", v1__attention__selector=CHAIN, config=CONFIG)
    adapter = adapt(module.get_attn_backend, "forky.v1.attention.selector:get_attn_backend")
    assert isinstance(adapter, ChainAdapter)
    assert ask(adapter) == Selected("TRITON_ATTN")
    monkeypatch.setenv("VLLM_ROCM_USE_AITER", "1")
    assert ask(adapter) == Selected("TRITON_ATTN")  # cached
    assert adapter.refresh()
    assert ask(adapter) == Selected("ROCM_AITER_FA")
    monkeypatch.setenv(EXPLICIT, "ROCM_ATTN")
    assert ask(adapter, **os.environ) == Selected("ROCM_ATTN")
