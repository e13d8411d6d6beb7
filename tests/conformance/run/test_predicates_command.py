"""``rocm-attn predicates``: what differs, what changed, and what cannot be asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.conformance.run.predicates_command import (
    PredicatesError,
    changes,
    differences,
    read,
    tables,
)

if TYPE_CHECKING:
    from pathlib import Path

OLD = {
    "gfx942": {"is_fp4()": "True", "is_fp8()": "True", "is_gone()": "True"},
    "gfx950": {"is_fp4()": "True", "is_fp8()": "True", "is_gone()": "True"},
}
NEW = {
    "gfx942": {"is_fp4()": "False", "is_fp8()": "True", "is_new(heads=8)": "OSError"},
    "gfx950": {"is_fp4()": "True", "is_fp8()": "True", "is_new(heads=8)": "OSError"},
    "gfx1100": {"is_fp4()": "False", "is_fp8()": "True"},
}


def test_only_what_differs_from_gpu_to_gpu_is_printed() -> None:
    assert list(differences(NEW)) == [
        "is_fp4()  False: gfx942, gfx1100; True: gfx950",
        "is_new(heads=8)  OSError: gfx942, gfx950; -: gfx1100",
    ]
    assert list(differences(OLD)) == []


def test_a_change_names_the_gpus_that_both_have() -> None:
    assert list(changes(OLD, NEW)) == [
        "is_fp4()  True -> False  on gfx942",
        "is_gone()  True -> -  on gfx942, gfx950",
        "is_new(heads=8)  - -> OSError  on gfx942, gfx950",
        "not compared, because the file has no answers for them: gfx1100",
    ]
    assert list(changes(NEW, NEW)) == ["no predicate answers differently than before"]


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "predicates.json"
    file.write_text(json.dumps(OLD))
    assert read(file) == OLD


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "holds no predicates"),
        ('{"gfx942": {"a()": true}}', "holds no predicates"),
    ],
)
def test_a_file_that_is_not_one_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    file = tmp_path / "predicates.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(PredicatesError, match=says) as caught:
        read(file)
    assert str(file) in str(caught.value)


def test_a_selector_without_a_fork_around_it_has_no_predicates(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def choose(request): return 'TRITON_ATTN'\n")
    with pytest.raises(PredicatesError, match="does not know a server"):
        tables(f"{file}:choose", ["gfx942"], {}, timeout=60)
