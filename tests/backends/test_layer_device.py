"""A device without a number is the current one, as the tensors of a step name it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_rocm_attn.backends.triton_attn import TritonAttention
from pytest_rocm_attn.backends.triton_mla import TritonMLA
from pytest_rocm_attn.mock import mock_rocm
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.mla_layer import MlaLayer
    from pytest_rocm_attn.backends.paged_layer import PagedLayer


@pytest.mark.parametrize(("cls", "fields"), [(TritonAttention, {}), (TritonMLA, {"use_mla": True})])
def test_a_layer_on_cuda_is_on_the_current_device(
    cls: type[PagedLayer | MlaLayer], fields: dict[str, Any]
) -> None:
    with mock_rocm("gfx942", count=2), torch.cuda.device(1):
        layer = cls(Request(**fields), torch.device("cuda"), scale=1.0)
    assert layer.device == torch.device("cuda:1")
