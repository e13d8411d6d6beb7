"""What a predicate that chooses between two kernels must look at."""

from __future__ import annotations

import functools
import importlib
import sys
import textwrap
import types
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.adapters import predicates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Write = Callable[..., dict[str, Any]]

pytest.importorskip("torch")
CALLER = """
def decode(query, sinks, sliding_window, alibi_slopes):
    if use_fast(query.dtype, sliding_window, sinks):
        fast(query, alibi_slopes)
    else:
        slow(query, alibi_slopes, sliding_window, sinks)
"""


def test_predicates_are_known_by_their_parameters() -> None:
    module = types.ModuleType("platform")

    @functools.cache
    def one(qtype: object, head_size: int, block_size: int, sinks: object = None) -> bool:
        return False

    def other(head_size: int, block_size: int) -> bool:
        return False

    vars(module).update(one=one, other=other, dict=dict, number=1)
    assert predicates.candidates(module) == {"one": one}


@pytest.fixture
def unheeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """A function that writes a predicate and its caller, and asks about them."""
    top = f"predicated_{tmp_path.name.replace('-', '_')}"
    monkeypatch.syspath_prepend(tmp_path)

    def unheeded(predicate: str, caller: str = CALLER) -> dict[str, Any]:
        folder = tmp_path / top
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "platform.py").write_text("import torch\n" + textwrap.dedent(predicate))
        header = f"from {top}.platform import use_fast\n"
        (folder / "attention.py").write_text(header + caller)
        importlib.import_module(f"{top}.attention")
        asked = importlib.import_module(f"{top}.platform").use_fast
        return predicates.unheeded(asked, top)

    yield unheeded
    for name in [name for name in sys.modules if name.partition(".")[0] == top]:
        del sys.modules[name]


def test_a_predicate_that_looks_at_all_that_differs_has_nothing_unheeded(unheeded: Write) -> None:
    told = unheeded(
        """
        def use_fast(qtype, sliding_window, sinks=None):
            return qtype == torch.float16 and sliding_window == 0 and sinks is None
        """
    )
    assert told["unheeded"] == []
    assert told["taken"] is True
    assert [place.rpartition(".")[2] for place in told["callers"]] == ["decode"]


def test_one_that_is_not_told_of_something_is_found(unheeded: Write) -> None:
    told = unheeded(
        """
        def use_fast(qtype, sliding_window):
            return sliding_window == 0
        """
    )
    (wrong,) = told["unheeded"]
    assert wrong.startswith("use_fast does not receive it: sinks, which ")
    assert "attention.decode passes to only one of" in wrong


def test_one_that_is_told_and_does_not_look_is_found(unheeded: Write) -> None:
    told = unheeded(
        """
        def use_fast(qtype, sliding_window, sinks=None):
            return sinks is None
        """
    )
    (wrong,) = told["unheeded"]
    assert wrong.startswith("use_fast is true with it all the same: sliding_window")


def test_one_that_is_never_true_here_chooses_nothing(unheeded: Write) -> None:
    told = unheeded("def use_fast(qtype, sliding_window, sinks=None):\n    return False\n")
    assert told["taken"] is False
    assert told["unheeded"] == []


def test_a_call_that_leaves_the_parameter_out_does_not_tell(unheeded: Write) -> None:
    told = unheeded(
        """
        def use_fast(qtype, sliding_window, sinks=None):
            return sliding_window == 0 and sinks is None
        """,
        CALLER.replace(", sinks):\n        fast", "):\n        fast"),
    )
    assert [wrong.partition(",")[0] for wrong in told["unheeded"]] == [
        "use_fast does not receive it: sinks"
    ]


def test_one_that_wants_what_is_unknown_is_judged_by_what_it_is_told(unheeded: Write) -> None:
    told = unheeded(
        """
        def use_fast(qtype, sliding_window, sinks, moon):
            return True
        """
    )
    assert told == {"callers": told["callers"], "taken": False, "unheeded": []}
