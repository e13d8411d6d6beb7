"""The devices that a platform means by ordinals, under the variables that hide and reorder devices."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pytest_rocm_attn.conformance.adapters import LacksError, visible
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.mock import mock_rocm

pytest.importorskip("torch", reason="the runtime is torch's; install the extra kernels")


class Translates:
    """Counts as the variable lists, as vLLM's platforms do."""

    variable = "HIP_VISIBLE_DEVICES"

    @classmethod
    def device_id_to_physical_device_id(cls, device_id: int) -> int:
        listed = os.environ.get(cls.variable)
        return int(listed.split(",")[device_id]) if listed else device_id


def said(platform: Any, monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[tuple[str, str]]:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with mock_rocm(Gpu("gfx942"), force=True, count=4):
        return [(one["is"], one["said"]) for one in visible.devices(platform)]


def test_a_platform_that_counts_as_the_runtime_does_means_the_same_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert said(Translates, monkeypatch, HIP_VISIBLE_DEVICES="3,1") == [("3", "3"), ("1", "1")]


def test_a_variable_that_the_platform_does_not_read_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(Translates, monkeypatch, ROCR_VISIBLE_DEVICES="2,3") == [("2", "0"), ("3", "1")]


def test_what_the_platform_raises_is_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Raises:
        @staticmethod
        def visible_device_id_to_physical_device_id(device_id: int) -> int:
            raise IndexError("out of range")

    found = said(Raises, monkeypatch, HIP_VISIBLE_DEVICES="1")
    assert found == [("1", "IndexError: out of range")]


def test_a_platform_that_translates_nothing_cannot_be_asked() -> None:
    with pytest.raises(LacksError, match="does not say which device"):
        visible.devices(object())


def test_a_runtime_that_shows_no_device_shows_nothing_about_the_platform(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(LacksError, match="shows no device"):
        said(Translates, monkeypatch, HIP_VISIBLE_DEVICES="")
