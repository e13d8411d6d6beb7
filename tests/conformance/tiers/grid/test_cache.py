"""What an interrupted run leaves behind, and when it is not to be trusted."""

from __future__ import annotations

import json
from array import array
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import Crashed, Request, Selected
from pytest_rocm_attn.conformance.isolation import Subject
from pytest_rocm_attn.conformance.isolation.inside.cells import UNANSWERED
from pytest_rocm_attn.conformance.promise.grid.space import Axis, Family
from pytest_rocm_attn.conformance.tiers.grid import cache
from pytest_rocm_attn.conformance.tiers.grid.cache import AnswerCache, fingerprint
from pytest_rocm_attn.conformance.tiers.grid.parts import Part, PartTable, parts_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def part() -> Part:
    family = Family(
        "small",
        "",
        (
            Axis("gfx", ("gfx942",)),
            Axis("aiter", ("present",)),
            Axis("A", (None, "1")),
            Axis("request", (Request(), Request(block_size=1))),
        ),
    )
    return parts_of(next(family.slices()))[0]


def table() -> PartTable:
    codes = array("H", [0, 1, UNANSWERED, 0])
    return PartTable(codes, [Selected("TRITON_ATTN"), Crashed("E", "E: x")], 1.5, {"LEFT"})


def test_what_was_kept_comes_back(tmp_path: Path, part: Part) -> None:
    kept = AnswerCache(tmp_path, "key")
    assert kept.load(part) is None
    kept.save(part, table())
    assert kept.load(part) == table()
    assert AnswerCache(tmp_path, "other key").load(part) is None
    kept.file(part).unlink()
    assert kept.load(part) is None


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: text[: len(text) // 2], id="cut"),
        pytest.param(lambda text: "", id="empty"),
        pytest.param(lambda text: "[1, 2]", id="foreign"),
        *(
            pytest.param(lambda text, with_=with_: json.dumps(json.loads(text) | with_), id=name)
            for name, with_ in {
                "newer": {"schema": 2},
                "codes of no outcome": {"outcomes": []},
                "no codes": {"codes": "xx"},
                "too few codes": {"codes": "c$`-|00062"},
                "outcome of another kind": {"outcomes": [["Guessed", "x"]] * 2},
                "outcome of another type": {"outcomes": [["Selected", ["x"]]] * 2},
                "outcome without its fields": {"outcomes": [["Crashed"]] * 2},
                "time in words": {"seconds": "a while"},
                "what was written as a number": {"written": [1]},
            }.items()
        ),
        *(
            pytest.param(
                lambda text, name=name: json.dumps(
                    {key: value for key, value in json.loads(text).items() if key != name}
                ),
                id=f"without {name}",
            )
            for name in ("schema", "codes", "outcomes", "seconds", "written")
        ),
    ],
)
def test_a_file_that_is_damaged_or_lacks_something_counts_as_none(
    tmp_path: Path, part: Part, damage: Callable[[str], str]
) -> None:
    kept = AnswerCache(tmp_path, "key")
    kept.save(part, table())
    (file,) = (tmp_path / "key").iterdir()
    file.write_text(damage(file.read_text()))
    assert kept.load(part) is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, part: Part) -> None:
    (tmp_path / "key").write_text("a file where the folder should be")
    AnswerCache(tmp_path, "key").save(part, table())
    assert AnswerCache(tmp_path, "key").load(part) is None


def test_the_fingerprint_depends_on_whatever_an_answer_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fork").mkdir()
    selector, beside = tmp_path / "fork" / "selector.py", tmp_path / "fork" / "rules.py"
    selector.write_text("def select(request): ...")
    beside.write_text("A = 1")
    subject = Subject(f"{selector}:select", preload=())
    first = fingerprint(subject, "grid")
    assert first is not None
    assert fingerprint(subject, "grid") == first
    assert fingerprint(subject, "other grid") != first
    assert fingerprint(Subject(f"{selector}:other", preload=()), "grid") != first
    assert fingerprint(Subject(f"{selector}:select", timeout=1.0), "grid") != first
    beside.write_text("A = 2")
    assert fingerprint(subject, "grid") != first
    beside.write_text("A = 1")
    assert fingerprint(subject, "grid") == first
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    assert fingerprint(subject, "grid") != first


def test_what_a_run_writes_beside_the_selector_is_no_source_of_it(tmp_path: Path) -> None:
    (tmp_path / "selector.py").write_text("def select(request): ...")
    report, rules = tmp_path / "report.json", tmp_path / "rules.json"
    rules.write_text("{}")
    subject = Subject(f"{tmp_path}/selector.py:select", preload=())
    first = fingerprint(subject, "grid", [report])
    report.write_text("{}")
    assert fingerprint(subject, "grid", [report]) == first
    rules.write_text("[]")
    assert fingerprint(subject, "grid", [report]) != first


def test_nothing_is_kept_of_a_selector_whose_source_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fingerprint(Subject("no_such_package_here:select"), "grid") is None
    (tmp_path / "selector.py").write_text("")
    (tmp_path / "more.py").write_text("")
    monkeypatch.setattr(cache, "_MOST_FILES", 1)
    assert fingerprint(Subject(f"{tmp_path}/selector.py:select"), "grid") is None
