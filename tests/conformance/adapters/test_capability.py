"""Answers that change under a compute capability that no GPU has."""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_rocm_attn.conformance.adapters import capability
from pytest_rocm_attn.outcome import Selected

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.request import Request

pytest.importorskip("torch", reason="a fork asks torch too; install the extra kernels")


class Capability(NamedTuple):
    major: int
    minor: int


class Root:
    @classmethod
    def get_device_capability(cls, device_id: int = 0) -> Capability:
        return Capability(9, 4)


class Platform(Root): ...


def found(select: Callable[[Request], Any], **more: Any) -> list[dict[str, str]]:
    values: dict[str, Any] = {"modules": (), "forget": lambda: None} | more
    return list(capability.changes(Platform, select=select, **values))


def test_a_selection_by_a_number_of_cudas_is_named_with_both_answers() -> None:
    def select(request: Request) -> Selected:
        hopper = Platform.get_device_capability().major >= 9
        return Selected("ROCM_AITER_FA" if hopper and request.use_mla else "TRITON_ATTN")

    changes = found(select)
    assert {one["asked"] for one in changes} == {
        f"selecting for {words}" for words, one in capability.REQUESTS.items() if one.use_mla
    }
    assert changes[0]["is"] == "ROCM_AITER_FA"
    assert (changes[0]["becomes"], changes[0]["capability"]) == ("TRITON_ATTN", "0.0")


def test_a_refusal_by_a_capability_is_a_change_and_is_said_once() -> None:
    def select(request: Request) -> Selected:
        if Platform.get_device_capability() != (9, 4) and request.has_sink:
            raise ValueError("no backend")
        return Selected("TRITON_ATTN")

    (change,) = found(select)
    assert change["becomes"] == "a refusal (ValueError)"


def test_a_selection_that_does_not_look_at_it_has_no_change_and_nothing_stays() -> None:
    import torch

    asked = torch.cuda.get_device_capability
    assert found(lambda request: Selected("TRITON_ATTN")) == []
    assert Platform.get_device_capability() == (9, 4)
    assert "get_device_capability" not in vars(Platform)
    assert torch.cuda.get_device_capability is asked


def test_a_predicate_that_compares_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_hopper() -> bool:
        return Platform.get_device_capability().major == 9

    module = ModuleType("a_fork_of_cuda")
    is_hopper.__module__ = module.__name__
    vars(module)["is_hopper"] = is_hopper
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (change,) = found(lambda request: Selected("X"), modules=[module.__name__])
    assert change["asked"] == "a_fork_of_cuda.is_hopper()"


def test_an_answer_that_is_another_the_second_time_is_held_against_no_capability() -> None:
    asked = []

    def select(request: Request) -> Selected:
        asked.append(request)
        return Selected("FIRST" if request not in asked[:-1] else "TRITON_ATTN")

    assert found(select) == []


def test_a_selection_by_a_capability_shows_if_only_the_first_answer_is_another() -> None:
    asked = []

    def select(request: Request) -> Selected:
        asked.append(request)
        family = Platform.get_device_capability().major if request in asked[:-1] else 0
        return Selected("FLASH_ATTN" if family == 9 else "TRITON_ATTN")

    assert {one["is"] for one in found(select)} == {"FLASH_ATTN"}


def test_what_a_fork_remembers_is_forgotten_between_the_answers() -> None:
    @functools.cache
    def chosen() -> int:
        return 1

    class Chooser:
        @classmethod
        @functools.cache
        def chosen(cls) -> int:
            return 1

    module = ModuleType("remembers")
    vars(module).update(chosen=chosen, Chooser=Chooser)
    cleared = list(capability.caches_of([module]))
    chosen()
    for clear in cleared:
        clear()
    assert chosen.cache_info().currsize == 0
    assert len(cleared) == 2


def test_a_stand_in_for_a_package_that_is_not_there_remembers_nothing() -> None:
    """As vLLM's PlaceholderModule, which raises ImportError for any attribute."""

    class Placeholder:
        def __getattr__(self, name: str) -> object:
            raise ImportError("install vllm[bench]")

    module = ModuleType("remembers")
    vars(module).update(cached=functools.cache(lambda: 1), placeholder=Placeholder())
    (clear,) = capability.caches_of([module])
    assert clear == vars(module)["cached"].cache_clear
