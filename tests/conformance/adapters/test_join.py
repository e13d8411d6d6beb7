"""Layers whose backend runs another kernel than the one that it is chosen for."""

from __future__ import annotations

import importlib
import sys
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.adapters import join
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("torch", reason="predicates are asked with torch dtypes; install kernels")

SOURCES = {
    "rocm": """
        def use_custom(qtype, head_size, block_size, gqa_ratio, max_seq_len, sliding_window, sinks):
            assert max_seq_len > 0
            return (head_size in (64, 128) and block_size in (16, 32) and gqa_ratio <= 16
                and sliding_window == 0 and sinks is None)
        def use_other(qtype, head_size, block_size, of_another_age): return False
    """,
    "attention/ops": """
        from joined import rocm
        def decode(query, sinks):
            custom = rocm.use_custom(query.dtype, 64, 16, 1, 9, 0, sinks)
            if custom:
                print("custom")
            else:
                print(sinks)
    """,
    "attention/backends": """
        from joined.attention.ops import decode
        class Decoding:
            def forward(self):
                decode(None, None)
    """,
    "attention/others": """
        from joined.attention.backends import Decoding
        class Derived(Decoding):
            def forward(self): ...
    """,
}


@pytest.fixture
def joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that imports a module of a small fork."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in SOURCES.items():
        path = tmp_path / "joined" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    for folder in (tmp_path / "joined", tmp_path / "joined/attention"):
        (folder / "__init__.py").touch()
    yield lambda name: importlib.import_module(f"joined.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "joined"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({}, True),
        ({"head_size": 256}, False),
        ({"block_size": 544}, False),
        ({"num_heads": 32, "num_kv_heads": 1}, False),
        ({"sliding_window": 128}, False),
        ({"has_sink": True}, False),
    ],
)
def test_a_request_that_the_kernels_predicate_refuses_is_reported(
    joined: Any, fields: dict[str, Any], taken: bool
) -> None:
    impl, platform = joined("attention.backends").Decoding, joined("rocm")
    request = Request(**{"head_size": 64, "block_size": 16, **fields})
    found = list(join.refusing(impl, request, platform, "joined"))
    words = (
        "use_custom is false, by which joined.attention.ops.decode chooses: another kernel runs than"
        " its own"
    )
    assert found == ([] if taken else [words])


def test_a_backend_that_does_not_call_the_choosing_function_is_not_concerned(joined: Any) -> None:
    impl, platform = joined("attention.others").Derived, joined("rocm")
    assert list(join.refusing(impl, Request(head_size=256), platform, "joined")) == []
