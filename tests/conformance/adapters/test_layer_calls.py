"""What attention layers call on implementations, and what of it is not there."""

from __future__ import annotations

from textwrap import dedent
from typing import Generic, TypeVar

import pytest

from pytest_rocm_attn.conformance.adapters.layer_calls import kind, misfits

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

    def forward(self, q: object) -> None: ...  # type: ignore[override]  # that is the fault


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
    assert found.keys() == {"implementation"}
    assert [f"{use.name}: {reason}" for use, reason in found["implementation"]] == expected


class SparseMLAImpl: ...


class NamedImpl(SparseMLAImpl): ...


@pytest.mark.parametrize(
    ("impl", "expected"), [(NamedImpl, (True, True)), (Complete, (False, False))]
)
def test_a_backend_that_does_not_declare_its_kind_is_of_that_of_its_implementation(
    impl: type, expected: tuple[bool, bool]
) -> None:
    class Silent:
        @staticmethod
        def get_impl_cls() -> type:
            return impl

    assert kind(Silent) == expected


READS = """
    class Layer:
        def forward(self, q, attn_metadata):
            if attn_metadata is None:
                return None
            if self.ranks and q is None:
                raise NotImplementedError
            assert attn_metadata.decodes is not None
            return self.impl.forward(q, attn_metadata.tokens)
    class Another:
        def forward(self, q, attn_metadata):
            return attn_metadata.of_another
"""
METADATA = """
    class Common:
        tokens: int
        decodes: int
        of_another: int
"""
T = TypeVar("T")


class Tokens:
    tokens: int


class TokensAndDecodes(Tokens):
    decodes: int


class Builder(Generic[T]): ...


class BuildsTokens(Builder[Tokens]): ...


class BuildsBoth(Builder[TokensAndDecodes]): ...


class Later(BuildsTokens): ...


@pytest.mark.parametrize(
    ("builder", "lacking"), [(BuildsTokens, ["decodes"]), (Later, ["decodes"]), (BuildsBoth, [])]
)
def test_what_layers_surely_read_of_the_metadata_has_to_be_a_field_of_it(
    builder: type, lacking: list[str]
) -> None:
    """As ROCMAiterMLASparseMetadata of v0.26.0, which lacks num_decode_tokens (vllm-project/vllm#50064)."""

    class Backend:
        @staticmethod
        def get_impl_cls() -> type:
            return Root

        @staticmethod
        def get_builder_cls() -> type:
            return builder

    found = misfits(Backend, {"layer": dedent(READS)}, dedent(METADATA), {})
    assert [use.name for use, _ in found["metadata"]] == lacking
