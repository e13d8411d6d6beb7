"""Baselines: the same bytes each time, and a remedy for every file that is none."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn import Request
from pytest_rocm_attn.conformance.baseline import baseline as baselines
from pytest_rocm_attn.conformance.baseline.baseline import (
    Baseline,
    load,
    read,
    render,
    shipped,
)
from pytest_rocm_attn.conformance.baseline.changelog import Changelog
from pytest_rocm_attn.conformance.causes.words import condition_words
from pytest_rocm_attn.conformance.promise.grid.design import standard
from pytest_rocm_attn.conformance.promise.grid.outcomes import Table
from pytest_rocm_attn.conformance.promise.grid.space import Axis, Family, Grid
from pytest_rocm_attn.errors import BaselineError
from pytest_rocm_attn.flags import EXPLICIT
from pytest_rocm_attn.outcome import Crashed, Died, Rejected, Selected, TimedOut, Unrecognised

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_rocm_attn.outcome import Outcome

SMALL = Grid(
    "small-1",
    (
        Family(
            "one",
            "a family",
            (
                Axis("gfx", ("gfx942", "gfx1100")),
                Axis("aiter", ("present",)),
                Axis(EXPLICIT, (None, "TRITON_ATTN", "ROCM_ATTN")),
                Axis("request", (Request(),)),
            ),
        ),
    ),
)
OUTCOMES: tuple[Outcome, ...] = (
    Selected("TRITON_ATTN"),
    Rejected("ValueError", "nö \x00 </script>"),
    Crashed("KeyError", "KeyError: 'x'"),
    TimedOut(2.5),
    Died(9, None),
    Unrecognised("None"),
)


def recording(outcomes: tuple[Outcome, ...] = OUTCOMES, codes: Any = range(6)) -> Baseline:
    return Baseline(
        id="mine",
        selector="m:o",
        distribution="vllm",
        version="1.2",
        tool="0.1",
        grid=SMALL.name,
        grid_digest=SMALL.digest,
        sources={"b.whl": "sha256:0", "a.whl": "sha256:1"},
        tables={"one": Table(list(codes), outcomes)},
    )


def outcomes_of(baseline: Baseline) -> list[Outcome]:
    table = baseline.tables["one"]
    return [table.outcomes[code] for code in table.codes]


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_bytes(render(recording(), SMALL))
    found = load(str(tmp_path / "mine.json"), SMALL)
    assert outcomes_of(found) == list(OUTCOMES)
    assert replace(found, tables={}) == replace(recording(), tables={})
    assert str(found) == "vllm 1.2"


def test_the_bytes_do_not_depend_on_how_outcomes_were_numbered() -> None:
    other = recording((Selected("NEVER_SEEN"), *reversed(OUTCOMES)), range(6, 0, -1))
    assert outcomes_of(other) == list(OUTCOMES)
    assert render(other, SMALL) == render(recording(), SMALL)
    assert b"NEVER_SEEN" not in render(other, SMALL)


def test_a_file_is_text_and_names_what_was_recorded() -> None:
    content = render(recording(), SMALL)
    assert content.isascii()
    found = json.loads(content)
    assert found["selector"] == {"name": "m:o", "distribution": "vllm", "version": "1.2"}
    assert list(found["sources"]) == ["a.whl", "b.whl"]


def edited(change: Callable[[dict[str, Any]], object], *, sign: bool = False) -> bytes:
    content = json.loads(render(recording(), SMALL))
    change(content)
    if sign:
        content["digest"] = baselines._digest(content)
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("content", "wrong", "remedy"),
    [
        pytest.param(b"", "is not a baseline", "rocm-attn record", id="empty"),
        pytest.param(
            b"\x89PNG\r\n", "is not a baseline", "rocm-attn record", id="another kind of file"
        ),
        pytest.param(b"[]", "is not a baseline", "rocm-attn record", id="JSON that is no object"),
        pytest.param(
            b'{"schema": 1}', "is not a baseline", "rocm-attn record", id="another JSON file"
        ),
        pytest.param(b"[" * 100_000, "is not a baseline", "rocm-attn record", id="nested too deep"),
        pytest.param(render(recording(), SMALL)[:-30], "truncated", "restore", id="truncated"),
        pytest.param(
            edited(lambda c: c.update(schema=2)), "has schema 2", "upgrade", id="newer schema"
        ),
        pytest.param(
            edited(lambda c: c.update(schema="x")), "changed", "restore", id="no schema at all"
        ),
        pytest.param(
            edited(lambda c: c["outcomes"][0].append("x")), "changed", "restore", id="edited"
        ),
        pytest.param(
            edited(lambda c: c["sources"].clear()), "changed", "restore", id="edited beside"
        ),
        pytest.param(edited(lambda c: c.pop("digest")), "changed", "restore", id="no digest"),
        pytest.param(
            edited(lambda c: c["outcomes"].pop(), sign=True),
            "does not hold",
            "record it again",
            id="signed, outcomes missing",
        ),
        pytest.param(
            edited(lambda c: c.pop("families"), sign=True),
            "does not hold",
            "record it again",
            id="signed, no families",
        ),
        pytest.param(
            edited(lambda c: c["families"].update(two=[]), sign=True),
            "other families",
            "record it again",
            id="signed, another family",
        ),
        pytest.param(
            edited(lambda c: c["outcomes"][0].__setitem__(0, "Nonsense"), sign=True),
            "does not hold",
            "record it again",
            id="signed, unknown kind of outcome",
        ),
    ],
)
def test_what_is_no_baseline_is_refused_in_one_line(
    content: bytes, wrong: str, remedy: str
) -> None:
    with pytest.raises(BaselineError) as caught:
        read(content, "mine.json", "mine", SMALL)
    message = str(caught.value)
    assert message.startswith("baseline mine.json: ")
    assert wrong in message
    assert remedy in message
    assert "\n" not in message


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match=r"nowhere\.json: cannot be read \(No such file"):
        load(str(tmp_path / "nowhere.json"))


def test_a_folder_is_no_baseline(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match=r"cannot be read \(Is a directory\)"):
        load(str(tmp_path))


def test_an_unknown_id_offers_the_nearest_and_lists_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "shipped", lambda: ("vllm-0.12.0", "vllm-0.18.1"))
    with pytest.raises(BaselineError) as caught:
        load("vllm-0.12")
    assert "Did you mean 'vllm-0.12.0'" in str(caught.value)
    assert "Shipped: vllm-0.12.0, vllm-0.18.1;" in str(caught.value)


def test_a_recording_over_another_grid_says_how_to_record_it_again() -> None:
    found = read(render(recording(), SMALL), "mine.json", "mine", standard())
    with pytest.raises(BaselineError) as caught:
        Changelog.between(recording(), found, standard())
    message = str(caught.value)
    assert "baseline mine was recorded over grid small-1" in message
    assert "python -m pytest_rocm_attn record m:o --output FILE" in message


def test_two_baselines_are_compared_cell_by_cell() -> None:
    new = recording((Selected("ROCM_ATTN"), *OUTCOMES[1:]))
    found = Changelog.between(recording(), new, SMALL).found
    assert [condition_words(condition) for condition in found.conditions] == [
        "gfx gfx942 and no explicit backend: expected TRITON_ATTN, got ROCM_ATTN"
    ]


def test_every_shipped_baseline_is_over_the_grid_of_this_version() -> None:
    assert shipped()
    for name in shipped():
        found = load(name)
        found.require(standard())
        assert found.tables.keys() == {family.name for family in standard().families}
        assert found.sources


def test_shipped_baselines_are_listed_by_release() -> None:
    releases = [tuple(map(int, re.findall(r"\d+", name))) for name in shipped()]
    assert releases
    assert releases == sorted(releases)
