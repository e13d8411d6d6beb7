"""Layers of changes come off in any order and leave nothing."""

from __future__ import annotations

import os
import random
import sys
import types

import pytest

from pytest_rocm_attn.mock.patching import Layer

NAMES = ("a", "b", "c")


def test_an_attribute_that_was_there_comes_back() -> None:
    target = types.SimpleNamespace(a=1)
    layer = Layer()
    layer.set_attribute(target, "a", 2)
    assert target.a == 2
    layer.close()
    assert vars(target) == {"a": 1}


def test_an_attribute_that_was_absent_is_absent_again() -> None:
    target = types.SimpleNamespace()
    layer = Layer()
    layer.set_attribute(target, "a", 2)
    layer.close()
    assert vars(target) == {}


def test_an_inherited_attribute_is_inherited_again() -> None:
    class Base:
        a = 1

    class Derived(Base):
        pass

    layer = Layer()
    layer.set_attribute(Derived, "a", 2)
    layer.close()
    assert "a" not in vars(Derived)
    assert Derived.a == 1


def test_a_static_method_comes_back_as_one() -> None:
    class Target:
        @staticmethod
        def method() -> str:
            return "old"

    layer = Layer()
    layer.set_attribute(Target, "method", staticmethod(lambda: "new"))
    layer.close()
    assert Target().method() == "old"


def test_two_changes_of_one_place_put_back_the_value_before_both() -> None:
    target = types.SimpleNamespace(a=1)
    layer = Layer()
    layer.set_attribute(target, "a", 2)
    layer.set_attribute(target, "a", 3)
    layer.close()
    assert target.a == 1


def test_the_environment_comes_back_with_what_the_code_under_it_wrote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROCM_ATTN_KEPT", "before")
    monkeypatch.setenv("ROCM_ATTN_DELETED", "before")
    before = dict(os.environ)
    layer = Layer()
    layer.keep_environ()
    layer.set_environ("ROCM_ATTN_KEPT", "layer")
    os.environ["ROCM_ATTN_KEPT"] = "code"
    os.environ["ROCM_ATTN_ADDED"] = "code"
    del os.environ["ROCM_ATTN_DELETED"]
    layer.close()
    assert dict(os.environ) == before


def test_packages_are_hidden_with_their_submodules_and_come_back_the_same() -> None:
    outer, inner = types.ModuleType("rocm_attn_pkg"), types.ModuleType("rocm_attn_pkg.sub")
    neighbour = types.ModuleType("rocm_attn_pkg_other")
    for module in (outer, inner, neighbour):
        sys.modules[module.__name__] = module
    try:
        layer = Layer()
        layer.shadow_packages({"rocm_attn_pkg": False})
        with pytest.raises(ModuleNotFoundError):
            __import__("rocm_attn_pkg")
        with pytest.raises(ModuleNotFoundError):
            __import__("rocm_attn_pkg.sub")
        assert sys.modules["rocm_attn_pkg_other"] is neighbour
        sys.modules["rocm_attn_pkg.new"] = types.ModuleType("rocm_attn_pkg.new")
        layer.close()
        assert sys.modules["rocm_attn_pkg"] is outer
        assert sys.modules["rocm_attn_pkg.sub"] is inner
        assert "rocm_attn_pkg.new" not in sys.modules
    finally:
        for name in [name for name in sys.modules if name.startswith("rocm_attn_pkg")]:
            del sys.modules[name]


def test_a_list_loses_the_inserted_element_and_keeps_what_others_added() -> None:
    sequence = ["old"]
    layer = Layer()
    layer.insert(sequence, "mine")
    sequence.append("other")
    layer.close()
    assert sequence == ["old", "other"]


def test_interleaved_layers_keep_the_upper_in_force_and_end_at_the_start() -> None:
    target = types.SimpleNamespace(both=0, lower=0, upper=0)
    lower = Layer()
    lower.set_attribute(target, "both", 1)
    lower.set_attribute(target, "lower", 1)
    upper = Layer()
    upper.set_attribute(target, "both", 2)
    upper.set_attribute(target, "upper", 2)
    lower.close()
    assert vars(target) == {"both": 2, "lower": 0, "upper": 2}
    upper.close()
    assert vars(target) == {"both": 0, "lower": 0, "upper": 0}


def test_an_undo_that_a_higher_layer_shares_waits_for_it() -> None:
    calls: list[str] = []
    lower, upper = Layer(), Layer()
    lower.on_close("place", lambda: calls.append("lower"))
    upper.on_close("place", lambda: calls.append("upper"))
    lower.close()
    assert calls == []
    upper.close()
    assert calls == ["lower"]


@pytest.mark.parametrize("seed", range(50))
def test_layers_opened_and_closed_in_any_order_leave_nothing(seed: int) -> None:
    """Against a model: with layers open, the value is that of the newest that set the name."""
    dice = random.Random(seed)
    target = types.SimpleNamespace(a=0, b=0)
    open_layers: list[tuple[Layer, dict[str, int]]] = []
    for step in range(1, 30):
        if open_layers and dice.random() < 0.45:
            open_layers.pop(dice.randrange(len(open_layers)))[0].close()
        else:
            layer, values = Layer(), {}
            for name in dice.sample(NAMES, dice.randint(0, 3)):
                layer.set_attribute(target, name, step)
                values[name] = step
            open_layers.append((layer, values))
        expected = {"a": 0, "b": 0}
        for _, values in open_layers:
            expected |= values
        assert vars(target) == expected
    while open_layers:
        open_layers.pop(dice.randrange(len(open_layers)))[0].close()
    assert vars(target) == {"a": 0, "b": 0}
