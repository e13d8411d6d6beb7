"""A file is there whole, or is what it was."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.conformance.report import whole_file

if TYPE_CHECKING:
    from pathlib import Path


def test_what_was_there_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(b"a longer text than the new one")
    whole_file.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_that_has_it_open_goes_on_reading_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(b"old")
    with path.open("rb") as file:
        whole_file.write(path, b"new")
        assert file.read() == b"old"


def test_where_writing_fails_the_old_one_stays_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space left"):
        whole_file.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    link, target = tmp_path / "r.json", tmp_path / "target.json"
    link.symlink_to(target)
    whole_file.write(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()), daemon=True)
    reader.start()
    whole_file.write(path, b"new")
    reader.join(30)
    assert read == [b"new"]
    assert path.is_fifo()


def test_others_may_read_it_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        whole_file.write(tmp_path / "r.md", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "r.md").stat().st_mode & 0o777 == 0o640
