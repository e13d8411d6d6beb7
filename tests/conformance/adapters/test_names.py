"""Names that code refers to, read off its source: which are missing, and which are no matter."""

from __future__ import annotations

import importlib
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.conformance.adapters import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Missing = Callable[..., list[str]]


@pytest.fixture
def missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Missing]:
    """A function that writes a package, and returns what is missing in its module ``code``."""
    top = f"named_{tmp_path.name.replace('-', '_')}"
    monkeypatch.syspath_prepend(tmp_path)

    def missing(code: str, **others: str) -> list[str]:
        folder = tmp_path / top
        folder.mkdir()
        for name, source in {"__init__": "", "code": code, **others}.items():
            text = textwrap.dedent(source).replace("TOP", top)
            (folder / f"{name}.py").write_text(text, "utf-8")
        importlib.import_module(f"{top}.code")
        return names.missing(f"{top}.code", top)

    yield missing
    for name in [name for name in sys.modules if name.partition(".")[0] == top]:
        del sys.modules[name]


def test_globals_and_attributes_of_modules_and_classes_are_looked_up(missing: Missing) -> None:
    found = missing(
        """
        import math
        class Ops:
            here = 1
        class Impl:
            def forward(self):
                math.sqrt(Ops.here), math.sqroot(2), Ops.gone, absent(1), len("x")
        """
    )
    assert found == [
        "Ops.gone in code.Impl.forward",
        "absent in code.Impl.forward",
        "math.sqroot in code.Impl.forward",
    ]


def test_what_a_function_binds_itself_is_no_matter(missing: Missing) -> None:
    found = missing(
        """
        from __future__ import annotations
        import math
        def forward(a, *b, c=1, **d):
            e: Unknown = a.whatever
            for f in b:
                g = [h.x for h in f]
            try:
                with c as i, (lambda j: j.y) as k:
                    pass
            except ValueError as error:
                error.note
            match d:
                case {"l": l, **m}:
                    l.z, m.w
            def inner(n):
                return n.deep + o
            o = inner
            return e.x, g, i.q, k.r
        instance = forward
        def uses_an_instance():
            return instance.whatever.it.has
        """
    )
    assert found == []


def test_names_bound_by_global_are_looked_up(missing: Missing) -> None:
    assert missing("def forward():\n    global cache\n    cache = cache + 1\n") == [
        "cache in code.forward"
    ]


def test_imports_within_functions_of_what_is_imported_already_are_looked_up(
    missing: Missing,
) -> None:
    found = missing(
        """
        import TOP.other
        def forward():
            from TOP.other import here, gone, Ops as ops
            from TOP import other
            from never.imported.so.far import anything
            here(), gone(), ops.lacking, other.lacks, anything.at.all
        """,
        other="def here(): ...\nclass Ops: ...\n",
    )
    assert found[0].endswith(".other.gone in code.forward")
    assert found[1:] == [
        "ops.lacking in code.forward",
        "other.lacks in code.forward",
    ]


def test_functions_of_the_fork_are_followed_through_wrappers_and_no_others(
    missing: Missing,
) -> None:
    found = missing(
        """
        import math
        from TOP.ops import Ops
        def forward():
            Ops.decode(math.pi)
        """,
        ops="""
        import functools
        def when_supported(function):
            @functools.wraps(function)
            def wrapper(*arguments):
                return function(*arguments)
            return wrapper
        class Ops:
            @staticmethod
            @when_supported
            def decode(x):
                return kernel(x)
            @staticmethod
            def not_called():
                return nothing_here
        """,
    )
    assert found == ["kernel in ops.Ops.decode"]
