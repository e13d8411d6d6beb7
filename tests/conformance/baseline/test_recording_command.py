"""What ``rocm-attn record`` checks before minutes of work, and how it writes."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.cli import main
from pytest_rocm_attn.conformance.baseline.recording_command import (
    check_output,
    checksums,
    subject_of,
    write,
)
from pytest_rocm_attn.errors import BaselineError

if TYPE_CHECKING:
    from pathlib import Path


def refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments.split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("rocm-attn: ")
    assert output.err.count("\n") == 1
    return output.err


def test_an_output_that_is_no_json_file_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(f"record no.such:selector --output {tmp_path / 'mine.txt'}", capsys)
    assert "a baseline's name must end in .json" in error


def test_an_output_in_no_folder_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(f"record no.such:selector --output {tmp_path / 'a' / 'mine.json'}", capsys)
    assert f"{tmp_path / 'a'} is not a folder" in error


def test_a_file_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.json").write_text("precious")
    error = refused(f"record no.such:selector --output {tmp_path / 'mine.json'}", capsys)
    assert "is there already; --force replaces it" in error
    assert (tmp_path / "mine.json").read_text() == "precious"
    check_output(tmp_path / "mine.json", replace=True)


def test_a_folder_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "mine.json").mkdir()
    with pytest.raises(BaselineError, match="cannot be written"):
        check_output(tmp_path / "mine.json", replace=True)


def test_a_source_that_cannot_be_read_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = (
        f"record no.such:selector --output {tmp_path / 'mine.json'} --source {tmp_path / 'x.whl'}"
    )
    assert "x.whl: cannot be read (No such file or directory)" in refused(line, capsys)


def test_a_selector_that_cannot_be_imported_is_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(
        f"record no_such_package_xyz:selector --output {tmp_path / 'mine.json'}", capsys
    )
    assert "no_such_package_xyz" in error
    assert list(tmp_path.iterdir()) == []


def test_the_checksum_of_a_source_is_known_by_the_files_name(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"")
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert checksums([tmp_path / "a.whl"]) == {"a.whl": empty}


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "mine.json"
    target.write_text("precious")

    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(BaselineError, match="No space left on device.*record again"):
        write(target, b"new")
    assert target.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [target]


def test_the_reference_is_asked_as_the_pure_function_that_it_is() -> None:
    assert subject_of("pytest_rocm_attn.backends:select", 5.0).pure
    assert not subject_of("vllm.platforms.rocm:RocmPlatform", 5.0).pure
