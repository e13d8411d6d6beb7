"""Writing reports: by suffix, whole or not at all, and without losing a run's results."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pytest_rocm_attn.conformance.report import json_file, output
from pytest_rocm_attn.errors import ReportError


def rescued(error: ReportError) -> dict[str, Any]:
    """Return the results from the file that an error names, and remove it."""
    found = re.search(r"from (\S+)$", str(error))
    assert found
    path = Path(found[1])
    results: dict[str, Any] = json.loads(path.read_text())
    path.unlink()
    return results


def test_each_path_gets_the_format_of_its_suffix(report: Any, record: Any, tmp_path: Path) -> None:
    paths = [tmp_path / f"out{suffix}" for suffix in output.FORMATS]
    output.write(paths, report(record()))
    texts = {path.suffix: path.read_text() for path in paths}
    assert json.loads(texts[".json"])["rows"] == [record()]
    assert texts[".md"].startswith("# ROCm attention conformance, 1 item: 1 pass")
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.parametrize("suffix", output.FORMATS)
def test_a_folder_that_went_away_costs_the_report_but_not_the_results(
    report: Any, record: Any, tmp_path: Path, suffix: str
) -> None:
    good = tmp_path / "good.json"
    with pytest.raises(ReportError, match="gone.*No such file") as caught:
        output.write([tmp_path / "gone" / f"r{suffix}", good], report(record()))
    assert "\n" not in str(caught.value)
    assert rescued(caught.value) == report(record())
    assert json.loads(good.read_text()) == report(record())


def test_a_full_disk_costs_the_report_but_not_the_results(
    report: Any, record: Any, tmp_path: Path
) -> None:
    full = tmp_path / "r.json"
    full.symlink_to("/dev/full")
    with pytest.raises(ReportError, match="No space left on device") as caught:
        output.write([full], report(record()))
    assert rescued(caught.value) == report(record())
    assert Path("/dev/full").is_char_device()  # written to, not replaced


def test_a_failed_write_leaves_the_earlier_report_and_no_litter(
    report: Any, record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json"
    path.write_text("the earlier one")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ReportError) as caught:
        output.write([path], report(record()))
    rescued(caught.value)
    assert path.read_text() == "the earlier one"
    assert list(tmp_path.iterdir()) == [path]


def test_where_nothing_at_all_can_be_written_the_message_says_so(
    report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(ReportError, match="the results are in the terminal output only"):
        output.write([tmp_path / "gone" / "r.md"], report())


def test_hostile_text_survives_being_saved_and_read_back(
    hostile: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    path.write_text(json_file.render(hostile))
    messages = [row["message"] for row in json_file.load(path)["rows"]]
    assert messages == [row["message"] for row in hostile["rows"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"schema": 1, "rows": [', "not whole JSON"),
        ("\xff", "not whole JSON"),
        ("[" * 100_000, "not whole JSON"),
        ("[]", "not a report of this tool"),
        ('{"rows": []}', "not a report of this tool"),
        ('{"schema": 2, "rows": []}', "schema 2, and this version reads schema 1"),
        ('{"schema": 1, "rows": [{"id": "a", "tier": "b"}]}', "missing required field `verdict`"),
        ('{"schema": 1, "rows": [{"id": "a", "tier": "b", "verdict": "good"}]}', "'good'"),
        ('{"schema": 1, "rows": [{"id": 3, "tier": "b", "verdict": "pass"}]}', "rows[0].id"),
    ],
)
def test_a_file_that_is_no_report_is_refused_in_one_line(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ReportError, match=re.escape(words)) as caught:
        json_file.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_an_older_version_left_out_is_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('{"schema": 1, "rows": [{"id": "a", "tier": "b", "verdict": "fail"}]}')
    output.write([tmp_path / "r.md"], json_file.load(path))
    assert "### fail: `a`" in (tmp_path / "r.md").read_text()
