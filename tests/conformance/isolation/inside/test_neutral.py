"""Which modules are worth importing once for all platforms."""

from __future__ import annotations

import gc
import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.conformance.isolation.inside.neutral import neutral_modules, preload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULES = {
    "ra_plain": "import json",
    "ra_looks_at_the_platform": "import amdsmi",
    "ra_looks_at_own": "from ra_selector import select",
    "ra_selector": "def select(): ...",
    "ra_has_values": "class Odd:\n    __module__ = property(lambda self: 1 / 0)\nodd = Odd()",
}


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The modules above, imported beside a stand-in for amdsmi."""
    for name, source in MODULES.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "amdsmi", ModuleType("amdsmi"))
    for name in MODULES:
        importlib.import_module(name)
    yield
    for name in MODULES:
        del sys.modules[name]


@pytest.mark.usefixtures("imported")
def test_what_holds_anything_of_the_platform_or_of_the_selector_is_left_out() -> None:
    neutral = neutral_modules("ra_selector:select")
    assert [name for name in neutral if name.startswith("ra_")] == ["ra_plain", "ra_has_values"]
    assert "json" in neutral
    assert "amdsmi" not in neutral
    assert "__main__" not in neutral


def test_what_cannot_be_imported_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ra_broken.py").write_text("raise OSError('no ROCm here')")
    (tmp_path / "ra_whole.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        preload(["ra_broken", "ra_absent", "ra_whole"])
    finally:
        gc.unfreeze()
    assert sys.modules.pop("ra_whole").__file__ == str(tmp_path / "ra_whole.py")
