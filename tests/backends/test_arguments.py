"""What a backend's constructor takes, it honours or refuses."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from pytest_rocm_attn.backends.aiter_function import AiterFunction
from pytest_rocm_attn.backends.flex_attention import FlexAttention
from pytest_rocm_attn.backends.layer import Layer
from pytest_rocm_attn.backends.rocm_aiter_fa import RocmAiterFlashAttention
from pytest_rocm_attn.backends.rocm_aiter_mla import RocmAiterMLA
from pytest_rocm_attn.backends.rocm_aiter_unified_attn import RocmAiterUnifiedAttention
from pytest_rocm_attn.backends.rocm_attn import RocmAttention
from pytest_rocm_attn.backends.triton_attn import TritonAttention
from pytest_rocm_attn.backends.triton_mla import TritonMLA
from pytest_rocm_attn.dry_launch import dry_launch
from pytest_rocm_attn.errors import BackendInputError, BackendLimitError
from pytest_rocm_attn.flags import Flags
from pytest_rocm_attn.request import Request

BACKENDS = (
    TritonAttention,
    RocmAttention,
    FlexAttention,
    RocmAiterUnifiedAttention,
    RocmAiterFlashAttention,
    TritonMLA,
    RocmAiterMLA,
)
HEADS = Request().num_heads
# A value of each argument that is not its default, and what of a request goes with it.
GIVEN: dict[str, tuple[Any, dict[str, Any]]] = {
    "alibi_slopes": (torch.ones(HEADS), {"alibi": True}),
    "sinks": (torch.ones(HEADS), {"has_sink": True}),
    "fp8_dtype": (torch.float8_e4m3fn, {"kv_cache_dtype": "fp8"}),  # not gfx942's own
    "batch_invariant": (True, {}),
    "flags": (Flags({"VLLM_ROCM_CUSTOM_PAGED_ATTN": "0"}), {}),
    "library": (object(), {}),
    "plain": (True, {}),
}
REFUSALS = (BackendInputError, BackendLimitError)
ALWAYS = {"self", "request", "device", "scale"}


def made(backend: type[Layer], fields: dict[str, Any], **arguments: Any) -> Layer:
    mla = {"use_mla": True} if "MLA" in backend.name else {}
    device = torch.device("cpu")
    return backend(Request(**(mla | fields)), device, scale=1.0, **arguments)


@pytest.fixture(autouse=True)
def _on_gfx942_with_aiter(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(AiterFunction, "find", lambda *_: None)
    with dry_launch("gfx942"):
        yield


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_an_argument_is_honoured_or_refused(backend: type[Layer], name: str) -> None:
    """Honoured: the layer reads it after the constructor, which no layer does of what it ignores."""
    if name not in inspect.signature(backend).parameters:
        return
    value, fields = GIVEN[name]
    try:
        layer = made(backend, fields, **{name: value})
    except REFUSALS as error:
        assert backend.name in str(error)
        return
    assert reads(type(layer), name), f"{backend.name} takes {name} and never reads it"


def reads(backend: type[Layer], name: str) -> bool:
    """Whether a method other than a constructor reads an argument."""
    attributes = {"fp8_dtype": ("cache_dtype", "fp8"), "flags": ("_flags",)}
    names = attributes.get(name, (name, f"_{name}"))
    methods = [
        method
        for owner in backend.__mro__
        for key, method in vars(owner).items()
        if key != "__init__" and inspect.isfunction(method)
    ]
    return any(attribute in method.__code__.co_names for method in methods for attribute in names)


def test_every_argument_of_every_backend_is_tried() -> None:
    taken = {name for backend in BACKENDS for name in inspect.signature(backend).parameters}
    assert taken - ALWAYS == set(GIVEN)


@pytest.mark.parametrize(
    "backend",
    [FlexAttention, RocmAiterUnifiedAttention, RocmAiterFlashAttention],
    ids=lambda backend: backend.name,
)
def test_batch_invariance_that_is_not_promised_is_refused(backend: type[Layer]) -> None:
    with pytest.raises(REFUSALS, match=f"{backend.name} does not promise batch invariance"):
        made(backend, {}, batch_invariant=True)


def test_an_fp8_type_without_an_fp8_cache_is_refused() -> None:
    with pytest.raises(REFUSALS, match="fp8_dtype is torch.float8_e4m3fn, kv_cache_dtype is"):
        made(TritonAttention, {}, fp8_dtype=torch.float8_e4m3fn)


def test_batch_invariant_decodes_of_rocm_attn_take_one_kernel_for_any_length() -> None:
    library: Any = object()
    layer = RocmAttention(
        Request(), torch.device("meta"), scale=1.0, batch_invariant=True, library=library
    )
    query = torch.empty(1, HEADS, 128, dtype=torch.bfloat16)
    for longest in (100, 1_000_000):
        assert "batch_invariant" in layer.decode_refusal(longest, query, query) or longest > 131072
