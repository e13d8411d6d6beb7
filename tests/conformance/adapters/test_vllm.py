"""The vLLM adapters against a small fork of the same shape, in each of its calling conventions."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.adapters import adapt
from pytest_rocm_attn.conformance.adapters.vllm import ChainAdapter, PlatformAdapter
from pytest_rocm_attn.conformance.isolation import Pool, Question, Subject
from pytest_rocm_attn.conformance.isolation.inside import naming
from pytest_rocm_attn.conformance.promise.naming import Named
from pytest_rocm_attn.errors import SelectorError
from pytest_rocm_attn.flags import EXPLICIT
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.outcome import Crashed, Outcome, Rejected, Selected, Told, Unrecognised
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Make = Callable[..., Any]

pytest.importorskip("torch", reason="vLLM's selectors take torch dtypes; install the extra kernels")
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
            **{
                name if "/" in name else name.replace("__", "/"): text
                for name, text in modules.items()
            },
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
    with pytest.raises(SelectorError, match=r"requires moon_phase, .*adapters"):
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


# --- what is named --------------------------------------------------------------------------------

CONFIGURED = {
    "config/__init__": """
import contextlib
from forky.config.attention import AttentionConfig
class Cache:
    block_size = None
    cache_dtype = "auto"
class Parallel:
    decode_context_parallel_size = 1
    prefill_context_parallel_size = 1
class VllmConfig:
    def __init__(self):
        self.attention_config = AttentionConfig()
        self.cache_config = Cache()
        self.parallel_config = Parallel()
        self.kv_transfer_config = None
        self.model_config = None
@contextlib.contextmanager
def set_current_vllm_config(config):
    yield
""",
    "config/attention": """
from dataclasses import dataclass, field
from forky.v1.attention.backends.registry import AttentionBackendEnum
@dataclass
class AttentionConfig:
    backend: object = None
    backend_per_kind: dict = field(default_factory=dict)
    def __post_init__(self):
        if isinstance(self.backend, str):
            named = self.backend.lower() != "auto"
            self.backend = AttentionBackendEnum[self.backend.upper()] if named else None
        self.backend_per_kind = {
            kind: AttentionBackendEnum[name.upper()] for kind, name in self.backend_per_kind.items()
        }
""",
    "v1/attention/selector": """
import enum
from typing import NamedTuple
class AttentionSelectorConfig(NamedTuple):
    head_size: int
    use_dcp: bool = False
class Kind(enum.Enum):
    FULL = "full_attention"
    SLIDING = "sliding_window"
def get_attn_spec_kind(use_mla, has_sliding_window, attn_type):
    return Kind.SLIDING if has_sliding_window else Kind.FULL
""",
    "v1/attention/backends/registry": REGISTRY,
    "envs": ENVS.replace('{"VLLM_ATTENTION_BACKEND": None}', "{}"),
    "rocm": """
class RocmPlatform:
    @classmethod
    def get_attn_backend_cls(cls, selected_backend, attn_selector_config):
        if attn_selector_config.use_dcp:
            raise ValueError("DCP not supported")
        return "forky.backends.Triton" if selected_backend is None else selected_backend.get_path()
""",
}


def name_it(adapter: Any, named: Named, request: Request | None = None) -> Any:
    """Answer as the process of a selector does."""
    return answer_under({}, adapter, named, request or Request())


def answer_under(environ: dict[str, str], adapter: Any, named: Named, request: Request) -> Outcome:
    question = Question.of(Gpu("gfx942"), environ, request, "named", named.to_text())
    return naming.answer(adapter, question)[0]


def test_a_fork_with_a_configuration_is_named_to_by_it_and_parses_itself(fork: Make) -> None:
    adapter = PlatformAdapter(fork("rocm", **CONFIGURED).RocmPlatform)
    assert name_it(adapter, Named("rocm_attn")) == Selected("ROCM_ATTN")
    assert name_it(adapter, Named("auto")) == Selected("TRITON_ATTN")
    unknown = name_it(adapter, Named("NOPE"))
    assert isinstance(unknown, Crashed), "the fork's own KeyError"
    assert unknown.error == "KeyError"


def test_a_backend_is_named_for_a_kind_of_layer(fork: Make) -> None:
    adapter = PlatformAdapter(fork("rocm", **CONFIGURED).RocmPlatform)
    named = Named("TRITON_ATTN", (("sliding_window", "ROCM_ATTN"),))
    assert name_it(adapter, named) == Selected("TRITON_ATTN")
    assert name_it(adapter, named, Request(sliding_window=128)) == Selected("ROCM_ATTN")


def test_a_variable_that_is_gone_names_nothing(fork: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = PlatformAdapter(fork("rocm", **CONFIGURED).RocmPlatform)
    monkeypatch.setenv(EXPLICIT, "ROCM_ATTN")
    answer = answer_under({EXPLICIT: "ROCM_ATTN"}, adapter, Named(), Request())
    assert answer == Selected("TRITON_ATTN")


def test_what_a_server_is_configured_with_reaches_the_selector_and_goes_again(fork: Make) -> None:
    adapter = PlatformAdapter(fork("rocm", **CONFIGURED).RocmPlatform)
    refused = name_it(adapter, Named(), Request(use_dcp=True))
    assert refused == Rejected("ValueError", "DCP not supported")
    assert adapter.fork.server_config.parallel_config.decode_context_parallel_size == 1
    assert name_it(adapter, Named()) == Selected("TRITON_ATTN")


def test_batch_invariance_is_asked_for_as_the_environment_says_however_the_question_is_put(
    fork: Make,
) -> None:
    invariant = {
        "envs": CONFIGURED["envs"] + "VLLM_BATCH_INVARIANT = True\n",
        "v1/attention/selector": CONFIGURED["v1/attention/selector"].replace(
            "use_dcp", "use_batch_invariant"
        ),
        "rocm": CONFIGURED["rocm"].replace("use_dcp", "use_batch_invariant"),
    }
    adapter = PlatformAdapter(fork("rocm", **CONFIGURED | invariant).RocmPlatform)
    assert isinstance(name_it(adapter, Named()), Rejected)
    with pytest.raises(ValueError, match="not supported"):
        ask(adapter)


PLATFORMS = {"platforms/__init__": "class Rocm: pass\ncurrent_platform = Rocm()\n"}
PARTS = PLATFORMS | {
    "config/speculative": """
import dataclasses
from types import SimpleNamespace
from forky.v1.attention.backends.registry import AttentionBackendEnum
@dataclasses.dataclass
class SpeculativeConfig:
    model: str
    attention_backend: object = None
    def parse(value):
        return AttentionBackendEnum[value.upper()] if isinstance(value, str) else value
    __pydantic_decorators__ = SimpleNamespace(
        field_validators={
            "parse": SimpleNamespace(
                func=parse, info=SimpleNamespace(fields=("attention_backend",))
            )
        }
    )
""",
    "v1/spec_decode/llm_base_proposer": """
import dataclasses
class Proposer:
    def _create_draft_vllm_config(self):
        base = self.vllm_config
        own = self.speculative_config.attention_backend
        return dataclasses.replace(
            base, attention_config=dataclasses.replace(base.attention_config, backend=own)
        )
""",
    "model_executor/layers/mamba/gdn/qwen_gdn_linear_attn": """
def _resolve_gdn_prefill_backend(config):
    named = config.additional_config.get("gdn_prefill_backend", "auto")
    if named == "sycl":
        raise ValueError("GDN prefill backend 'sycl' is only supported on XPU.")
    fits = config.model_config.hf_text_config.linear_key_head_dim == 128
    return named, "aiter_flydsl" if named == "aiter_flydsl" and fits else "triton"
""",
}


def test_a_draft_is_named_to_by_the_configuration_that_the_fork_makes_for_it(fork: Make) -> None:
    adapter = PlatformAdapter(fork("rocm", **CONFIGURED | PARTS).RocmPlatform)
    unnamed = Named(asks="draft", target="ROCM_ATTN")
    assert name_it(adapter, unnamed) == Selected("TRITON_ATTN"), "it inherits nothing"
    own = Named("rocm_aiter_fa", asks="draft", target="ROCM_ATTN")
    assert name_it(adapter, own) == Selected("ROCM_AITER_FA")


def test_a_fork_whose_drafts_inherit_the_name_is_asked_as_it_is(fork: Make) -> None:
    inherits = PARTS | {
        "v1/spec_decode/llm_base_proposer": PARTS["v1/spec_decode/llm_base_proposer"].replace(
            "attention_backend\n", "attention_backend or base.attention_config.backend\n"
        )
    }
    adapter = PlatformAdapter(fork("rocm", **CONFIGURED | inherits).RocmPlatform)
    assert name_it(adapter, Named(asks="draft", target="ROCM_ATTN")) == Selected("ROCM_ATTN")


def test_the_prefill_of_linear_attention_is_the_forks_own_choice(fork: Make) -> None:
    adapter = PlatformAdapter(fork("rocm", **CONFIGURED | PARTS).RocmPlatform)
    assert name_it(adapter, Named(asks="gdn-prefill")) == Selected("triton")
    named = Named("aiter_flydsl", asks="gdn-prefill")
    assert name_it(adapter, named) == Selected("aiter_flydsl")
    assert name_it(adapter, named, Request(head_size=64)) == Selected("triton")
    assert isinstance(name_it(adapter, Named("sycl", asks="gdn-prefill")), Rejected)


@pytest.mark.parametrize("asks", ["draft", "gdn-prefill"])
def test_a_fork_without_such_a_part_is_not_asked(fork: Make, asks: Any) -> None:
    adapter = PlatformAdapter(fork("rocm", **CONFIGURED | PLATFORMS).RocmPlatform)
    assert isinstance(name_it(adapter, Named(asks=asks)), Told)


def test_a_fork_without_one_is_named_to_by_the_variable_which_is_put_back(fork: Make) -> None:
    adapter = PlatformAdapter(
        fork("rocm", rocm=platform(CONVENTIONS["loose arguments"])).RocmPlatform
    )
    assert name_it(adapter, Named("ROCM_ATTN")) == Selected("ROCM_ATTN")
    assert EXPLICIT not in os.environ
    assert isinstance(name_it(adapter, Named(asks="mla-prefill")), Told)


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ("pass", Unrecognised("models/own never reads attention_config.backend")),
        (
            "return config.attention_config.backend or 1",
            Unrecognised("models/own reads attention_config.backend and refuses no name"),
        ),
        ("if config.attention_config.backend: raise ValueError", Selected("TRITON_ATTN")),
    ],
)
def test_a_model_that_chooses_for_itself_is_asked_whether_it_looks_at_the_name(
    fork: Make, body: str, answer: Outcome
) -> None:
    modules = {**CONFIGURED, "models/own/choice": f"def choose(config):\n    {body}\n"}
    adapter = PlatformAdapter(fork("rocm", **modules).RocmPlatform)
    named = Named("TRITON_ATTN", (), "model", "models/own")
    assert name_it(adapter, named) == answer
    missing = dataclasses.replace(named, model="models/none")
    assert isinstance(name_it(adapter, missing), Told)


PARALLEL = """
_TP = None
_DCP = None
def get_tp_group():
    assert _TP is not None, "tensor model parallel group is not initialized"
    return _TP
def get_tensor_model_parallel_world_size():
    return get_tp_group().world_size
"""
SPARSE = """
import enum
from forky.distributed import parallel_state
built = []
class Impl:
    def __init__(self, num_heads, head_size):
        built.append(num_heads * parallel_state.get_tensor_model_parallel_world_size())
        built.append(parallel_state._DCP.rank_in_group)
class Fa:
    @staticmethod
    def get_impl_cls():
        return Impl
    @staticmethod
    def get_builder_cls():
        return Impl
    @staticmethod
    def get_name():
        return "ROCM_AITER_FA"
"""


def test_a_backend_is_built_with_groups_of_one_rank_as_a_server_has(fork: Make) -> None:
    config = CONFIG.replace(
        "    block_size = None", "    block_size = None\n    cache_dtype = 'auto'"
    )
    module = fork(
        "rocm",
        rocm=platform(CONVENTIONS["loose arguments"]),
        backends=SPARSE,
        config=config.replace(
            "class VllmConfig:", "class VllmConfig:\n    model_config: object = None"
        ),
        distributed__parallel_state=PARALLEL,
    )
    adapter = PlatformAdapter(module.RocmPlatform)
    state = importlib.import_module("forky.distributed.parallel_state")
    adapter.construct(Request(num_heads=16), "ROCM_AITER_FA", {}, Gpu("gfx942"))
    assert importlib.import_module("forky.backends").built == [16, 0]
    assert (state._TP, state._DCP) == (None, None)  # and gone again


BUNDLE = """
from typing import NamedTuple
class AttentionSelectorConfig(NamedTuple):
    head_size: int
    has_sliding_window: bool = False
    use_dcp: bool = False
    moon_phase: int = 0
"""
BUNDLED = """
        if attn_selector_config.moon_phase:
            raise ValueError("moon")
        return "forky.backends.Triton"
"""
SPECIAL = Request(
    head_size=64,  # asked by every convention
    alibi=True,  # does not affect a selection
    sliding_window=128,
    use_dcp=True,
    use_rswa=True,
    run_kv_cache_dtype="fp8",
)


def test_what_a_fork_cannot_be_asked_is_known_by_the_shape_of_what_it_takes(fork: Make) -> None:
    loose = PlatformAdapter(
        fork("rocm", rocm=platform(CONVENTIONS["loose arguments"])).RocmPlatform
    )
    assert loose.not_asked(SPECIAL) == (
        "sliding_window",
        "use_dcp",
        "use_rswa",
        "run_kv_cache_dtype",
    )
    assert loose.not_asked(Request(use_mla=True)) == ()
    assert loose.unfilled() == ()


def test_a_bundle_says_what_it_can_be_asked_and_what_we_do_not_know_is_reported(
    fork: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.replace(
        "    block_size = None", "    block_size = None\n    cache_dtype = 'auto'"
    )
    rocm = platform("selected_backend, attn_selector_config, num_heads=None, tides=()", BUNDLED)
    module = fork("rocm", rocm=rocm, v1__attention__selector=BUNDLE, config=config)
    adapter = PlatformAdapter(module.RocmPlatform)
    assert adapter.not_asked(SPECIAL) == ("use_rswa",)
    assert adapter.unfilled() == ("tides", "moon_phase")

    pool = Pool(Subject("forky.rocm:RocmPlatform", preload=()), lanes=1)
    try:
        asked = [Question.of(Gpu("gfx942"), {}, request) for request in (SPECIAL, Request())]
        special, plain = [future.result() for future in pool.submit(asked)]
    finally:
        pool.close()
    assert (special.outcome, special.dropped) == (Selected("TRITON_ATTN"), ("use_rswa",))
    assert plain.dropped == ()
    (note,) = pool.notes
    assert note.startswith("the selector can be asked for tides, moon_phase, which this version")


def test_the_chain_is_asked_by_its_parameters_and_by_the_servers_configuration(fork: Make) -> None:
    config = CONFIG.replace(
        "    block_size = None", "    block_size = None\n    cache_dtype = 'auto'"
    )
    config = config.replace(
        "class VllmConfig:",
        "class Parallel:\n    decode_context_parallel_size = 1\n@dataclass\nclass VllmConfig:\n"
        "    parallel_config: object = field(default_factory=Parallel)",
    ).replace("@dataclass\nclass Parallel", "class Parallel")
    chain = CHAIN.replace(
        "    block_size: int | None", "    block_size: int | None\n    use_dcp: bool = False"
    )
    module = fork("v1.attention.selector", v1__attention__selector=chain, config=config)
    adapter = ChainAdapter(module.get_attn_backend)
    assert adapter.not_asked(SPECIAL) == ("sliding_window", "use_rswa")


def test_a_variable_that_the_fork_does_not_know_is_refused_by_its_own_validation(
    fork: Make,
) -> None:
    validates = """
def validate_environ(hard_fail):
    if hard_fail and "VLLM_GONE" in os.environ:
        raise ValueError("Unknown vLLM environment variable detected: VLLM_GONE")
"""
    modules = {**CONFIGURED, "envs": CONFIGURED["envs"] + validates}
    adapter = PlatformAdapter(fork("rocm", **modules).RocmPlatform)
    asked = Named(asks="environment")
    assert isinstance(name_it(adapter, asked), Unrecognised)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_GONE", "1")
        refused = name_it(adapter, asked)
    assert isinstance(refused, Rejected)
    assert "VLLM_GONE" in refused.message
