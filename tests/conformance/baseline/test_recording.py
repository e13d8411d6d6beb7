"""Recording a selector over a grid: every cell, the same bytes each time."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import Request
from pytest_rocm_attn.conformance.baseline.baseline import Baseline, render
from pytest_rocm_attn.conformance.baseline.recording import checksum, record, source_of
from pytest_rocm_attn.conformance.isolation import Subject, WorkerError
from pytest_rocm_attn.conformance.promise.grid.space import Axis, Family, Grid
from pytest_rocm_attn.conformance.tiers.grid.evaluate import Evaluator
from pytest_rocm_attn.errors import SelectorError
from pytest_rocm_attn.flags import EXPLICIT
from pytest_rocm_attn.outcome import Died, Rejected, Selected

if TYPE_CHECKING:
    from pathlib import Path

GRID = Grid(
    "small-1",
    tuple(
        Family(
            name,
            "a family",
            (
                Axis("gfx", ("gfx942", "gfx1100")),
                Axis("aiter", ("present", "absent")),
                Axis(EXPLICIT, (None, "TRITON_ATTN")),
                Axis("request", requests),
            ),
        )
        for name, requests in (
            ("plain", (Request(), Request(block_size=1))),
            ("latent", (Request(use_mla=True),)),
        )
    ),
)
SELECTOR = """
import os

def select(request, environ, gpu):
    if request.use_mla:
        raise ValueError(f"{object()!r} on {gpu.gfx} refuses MLA, aiter {gpu.aiter}")
    if request.block_size == 1 and gpu.gfx == "gfx1100" and not environ:
        os._exit(3)
    return environ.get("VLLM_ATTENTION_BACKEND", "ROCM_ATTN")
"""


def recorded(tmp_path: Path) -> Baseline:
    file = tmp_path / "selector.py"
    file.write_text(SELECTOR)
    subject = Subject(f"{file}:select", pure=True, preload=())
    return record(subject, GRID, baseline_id="mine", sources=source_of(subject.selector))


def test_every_cell_is_recorded_and_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first = recorded(tmp_path)
    for family in GRID.families:
        table = first.tables[family.name]
        assert len(table.codes) == family.cells
        for number, code in enumerate(table.codes):
            cell = family.cell(number)
            if cell.request.use_mla:
                words = f"<object object at 0x...> on {cell.gpu.gfx} refuses MLA"
                wanted = Rejected("ValueError", f"{words}, aiter {cell.gpu.aiter}")
                assert table.outcomes[code] == wanted
            elif cell.request.block_size == 1 and cell.gpu.gfx == "gfx1100" and not cell.environ:
                assert table.outcomes[code] == Died(None, 3)
            else:
                assert table.outcomes[code] == Selected(cell.environ.get(EXPLICIT, "ROCM_ATTN"))
    assert render(recorded(tmp_path), GRID) == render(first, GRID)


def test_a_fault_of_ours_ends_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Evaluator, "_answer", fails)
    with pytest.raises(WorkerError, match="MemoryError"):
        recorded(tmp_path)


def test_what_was_recorded_is_named_with_its_checksum_and_without_its_folder(
    tmp_path: Path,
) -> None:
    wanted = hashlib.sha256(SELECTOR.encode()).hexdigest()
    assert recorded(tmp_path).sources == {"selector.py": f"sha256:{wanted}"}
    assert str(tmp_path).encode() not in render(recorded(tmp_path), GRID)


def test_a_module_is_found_without_importing_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "forked_server_xyz" / "platforms"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "__init__.py").write_text("1")
    (package / "rocm.py").write_text("2")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert source_of("forked_server_xyz.platforms.rocm:Platform") == {
        "forked_server_xyz/platforms/rocm.py": checksum(package / "rocm.py")
    }
    assert source_of("forked_server_xyz.platforms:Platform") == {
        "forked_server_xyz/platforms/__init__.py": checksum(package / "__init__.py")
    }
    assert source_of("no_such_package_xyz.platforms:Platform") == {}
    assert source_of("forked_server_xyz.absent:Platform") == {}


def test_what_is_no_selector_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "selector.py").write_text("select = 3")
    subject = Subject(f"{tmp_path / 'selector.py'}:select", pure=True, preload=())
    with pytest.raises(SelectorError, match="is not a selector"):
        record(subject, GRID, baseline_id="mine", sources={})
