"""What attention layers call on implementations, and what of it is not there."""

from __future__ import annotations

from textwrap import dedent

import pytest

from pytest_rocm_attn.conformance.adapters.layer_calls import misfits

LAYER = """
    class Layer:
        def forward(self, q):
            if self.is_sparse:
                self.mla_attn.impl.note_keys()
            if q is None:
                self.impl.warm_up()
            self.impl.forward(q, self.impl.ranks)
            self.impl.given_by_the_loader()
"""
EVERYWHERE = """
    class Common:
        def note_keys(self): ...
        def warm_up(self): ...
        def forward(self, q, ranks): ...
        ranks: int = 1
"""


class Root:
    def forward(self, q: object, ranks: int) -> None: ...


class Complete(Root):
    def __init__(self) -> None:
        self.ranks = 1

    def note_keys(self) -> None: ...


class Forgetful(Root):
    ranks = 1

    def forward(self, q: object) -> None: ...  # type: ignore[override]


class WithoutRanks(Root): ...


@pytest.mark.parametrize(
    ("impl", "sparse", "expected"),
    [
        (Complete, True, []),
        (Forgetful, False, ["forward: too many positional arguments"]),
        (
            Forgetful,
            True,
            ["note_keys: it has no such attribute", "forward: too many positional arguments"],
        ),
        (WithoutRanks, False, ["ranks: it has no such attribute"]),
    ],
)
def test_what_layers_surely_call_has_to_be_there(
    impl: type, sparse: bool, expected: list[str]
) -> None:
    class Backend:
        @staticmethod
        def get_impl_cls() -> type:
            return impl

        @staticmethod
        def is_sparse() -> bool:
            return sparse

    found = misfits(Backend, {"layer": dedent(LAYER)}, dedent(EVERYWHERE), {})
    assert [f"{use.name}: {reason}" for use, reason in found] == expected
