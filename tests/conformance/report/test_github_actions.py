"""Annotations of GitHub Actions: one line each, on the fork's file, and nothing that breaks out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_rocm_attn.conformance.report import github_actions

OTHER = {"kind": "selected", "words": "ROCM_ATTN", "backend": "ROCM_ATTN"}


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, int]:
    return tmp_path / "vllm" / "platforms" / "rocm.py", 775


def test_a_cause_that_fails_is_an_error_on_the_function_that_selects(
    record: Any, report: Any, place: tuple[Path, int], tmp_path: Path
) -> None:
    rows = [record(id=name, verdict="fail", outcome=OTHER) for name in "ab"]
    rows.append(
        record(id="c", verdict="deviation", env={"VLLM_ROCM_USE_AITER": "1"}, outcome=OTHER)
    )
    (line,) = github_actions.lines(report(*rows), place, tmp_path)
    assert line.startswith(
        "::error file=vllm/platforms/rocm.py,line=775,title=ROCm attention%3A fail [2 items]::"
        "Default for all layers: TRITON_ATTN -> ROCM_ATTN, on gfx942.%0Awhere: no variables;"
    )
    assert "%0Ashow: python -m pytest" in line


def test_a_crash_is_shown_where_the_fork_raised_it(
    record: Any, report: Any, place: tuple[Path, int], tmp_path: Path
) -> None:
    frames = [
        ("/elsewhere/ours.py", 1),
        (str(tmp_path / "vllm" / "a.py"), 12),
        ("/usr/lib/x.py", 9),
    ]
    traceback = "".join(f'  File "{file}", line {line}, in f\n' for file, line in frames)
    crash = {"kind": "crashed", "words": "crash", "error": "KeyError", "traceback": traceback}
    (line,) = github_actions.lines(report(record(verdict="crash", outcome=crash)), place, tmp_path)
    assert line.startswith("::error file=vllm/a.py,line=12,")


def test_a_file_outside_the_checkout_is_not_named(record: Any, report: Any, tmp_path: Path) -> None:
    row = record(verdict="fail", outcome=OTHER)
    for place in (None, (Path("/usr/lib/rocm.py"), 1)):
        (line,) = github_actions.lines(report(row), place, tmp_path)
        assert line.startswith("::error title=ROCm attention%3A fail [1 item]::")


def test_what_differs_without_failing_is_a_warning_and_at_most_ten_of_a_kind_are_shown(
    record: Any, report: Any, tmp_path: Path
) -> None:
    def crashed(number: int, verdict: str) -> Any:
        words = {"kind": "error", "words": str(number)}
        shortfall = [{"answer": "", "message": f"no. {chr(97 + number)}"}]
        return record(
            id=f"{verdict}-{number}", tier="t", verdict=verdict, fell_short=shortfall, outcome=words
        )

    rows = [crashed(number, verdict) for number in range(12) for verdict in ("error", "differs")]
    lines = list(github_actions.lines(report(*rows), None, tmp_path))
    assert [
        sum(line.startswith(f"::{kind} ") for line in lines) for kind in ("error", "warning")
    ] == [
        10,
        10,
    ]


def test_no_text_breaks_out_of_its_line(hostile: dict[str, Any], tmp_path: Path) -> None:
    lines = list(github_actions.lines(hostile, (tmp_path / "a,b:c%.py", 3), tmp_path))
    assert lines
    for line in lines:
        assert "\n" not in line
        assert "\r" not in line
        kind, properties = line.removeprefix("::").partition("::")[0].split(" ", 1)
        assert kind in ("error", "warning")
        assert properties.startswith("file=a%2Cb%3Ac%25.py,line=3,title=")
