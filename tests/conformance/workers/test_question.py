"""Questions in groups: which of them a refreshed process may answer."""

from __future__ import annotations

from pytest_rocm_attn import Gpu, Request
from pytest_rocm_attn.conformance.workers.question import Group, Question, apart


def test_what_asks_after_imports_is_set_apart_and_keeps_its_environment() -> None:
    gpu, request, on = Gpu("gfx942"), Request(), {"VLLM_ROCM_USE_AITER": "1"}
    select, build = Question.of(gpu, on, request), Question.of(gpu, on, request, "construct")
    names = Question.of(gpu, on, request, "names", "ROCM_AITER_FA")
    plain = Question.of(gpu, {}, request)
    imported, others = apart([Group(on, [select, names, build]), Group({}, [plain])])
    assert imported == [Group(on, [names])]
    assert others == [Group(on, [select, build]), Group({}, [plain])]
