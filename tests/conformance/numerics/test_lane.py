"""The processes that backends run in: few at a time, those that were used last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rocm_attn.conformance.numerics.case import shipped
from pytest_rocm_attn.conformance.numerics.lane import Lane, Lanes

NOBODY = "no_such_module:Backend{}"


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Specs of the lanes that were closed, in order."""
    specs: list[str] = []
    close = Lane.close

    def noted(self: Lane) -> None:
        specs.append(self.spec)
        close(self)

    monkeypatch.setattr(Lane, "close", noted)
    return specs


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    made = Lanes(10.0)
    yield made
    made.close()


def test_the_lane_that_was_used_least_recently_makes_room(lanes: Lanes, ended: list[str]) -> None:
    names = [NOBODY.format(number) for number in range(Lanes.most + 1)]
    kept = [lanes.of(name) for name in names[:-1]]
    assert lanes.of(names[0]) is kept[0]  # used again, so that the second is the oldest
    lanes.of(names[-1])
    assert ended == [names[1]]
    assert lanes.of(names[0]) is kept[0]
    assert lanes.of(names[1]) is not kept[1]


def test_all_are_ended_at_the_end(ended: list[str]) -> None:
    lanes = Lanes(10.0)
    for number in range(2):
        lanes.of(NOBODY.format(number))
    lanes.close()
    lanes.close()
    assert sorted(ended) == [NOBODY.format(0), NOBODY.format(1)]


def test_a_lane_answers_again_after_its_process_was_ended(tmp_path: Path) -> None:
    """What made room for others is started anew when its turn comes."""
    source = tmp_path / "mine.py"
    source.write_text("class Mine:\n    pass\n")
    lanes = Lanes(60.0)
    lanes.most = 1
    case = shipped()[0]
    try:
        for _ in range(2):
            assert lanes.of(f"{source}:Mine").ask(case).kind == "declined"
            lanes.of(NOBODY.format(0))
    finally:
        lanes.close()
