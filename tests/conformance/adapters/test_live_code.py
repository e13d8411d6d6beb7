"""Which code may run on a machine, read off tests that the platform answers."""

from __future__ import annotations

import ast
from textwrap import dedent

import pytest

from pytest_rocm_attn.conformance.adapters.live_code import live


class Platform:
    """Answers as a ROCm platform does."""

    def is_cuda(self) -> bool:
        return False

    def is_rocm(self) -> bool:
        return True

    def has_device_capability(self, number: int) -> bool:
        if number > 900:
            raise RuntimeError("no device")
        return number < 95

    def __getattr__(self, name: str) -> None:
        """Answer as vLLM's platforms do for what they lack."""


def calls(source: str) -> list[str]:
    nodes = live(ast.parse(dedent(source)), {"platform": Platform()})
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    return [one.id for one in called if isinstance(one, ast.Name) and one.id != "hasattr"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("cuda() if platform.is_cuda() else other()", ["other"]),
        ("x = not x.platform.is_rocm() and never()", []),
        ("x = unknown() and may()", ["unknown", "may"]),
        ("x = platform.is_rocm() or unknown() or never()", []),
        ("if hasattr(platform, 'is_rocm'): yes()\nelse: no()", ["yes"]),
        ("if hasattr(platform, 'discover'): no()", []),
        ("if platform.has_device_capability(90): yes()", ["yes"]),
        ("if platform.has_device_capability(100): no()", []),
        ("if platform.has_device_capability(wanted): may()", ["may"]),
        ("if platform.has_device_capability(901): may()", ["may"]),  # it cannot be asked
        ("if platform.is_tpu(): may()", ["may"]),  # what it lacks answers nothing
        ("try: tried()\nexcept AttributeError: instead()", ["instead"]),
        ("try: tried()\nexcept (ValueError, AttributeError): instead()", ["instead"]),
        ("try: tried()\nexcept ValueError: instead()", ["tried", "instead"]),
    ],
)
def test_code_that_this_machine_does_not_run_is_left_out(source: str, expected: list[str]) -> None:
    assert calls(source) == expected


def test_what_follows_a_return_that_is_surely_taken_is_left_out() -> None:
    source = """
        def f():
            if not platform.is_cuda():
                return before()
            never()
        def g():
            if platform.is_cuda():
                return never()
            if unknown():
                return may()
            after()
            raise error()
            never()
    """
    assert calls(source) == ["before", "unknown", "may", "after", "error"]


def test_what_hangs_on_a_test_without_an_answer_does_not_surely_run() -> None:
    source = """
        def f():
            first()
            if unknown():
                maybe()
            else:
                perhaps()
            x = platform.is_rocm() and asked() and maybe()
            while unknown():
                maybe()
            if sparse:
                second()
            if sparse is None:
                return perhaps()
            if unknown():
                raise error()
            third()
            if unknown():
                return perhaps()
            maybe()
    """
    nodes = live(ast.parse(dedent(source)), {"platform": Platform(), "sparse": True}, surely=True)
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    names = [one.id for one in called if isinstance(one, ast.Name)]
    assert set(names) == {"first", "unknown", "asked", "second", "third"}
