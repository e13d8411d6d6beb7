"""The build cache: what is kept, what is built again, and what a user reads when it fails."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch

from pytest_rocm_attn.backends.hip import build
from pytest_rocm_attn.backends.hip.build import Library, build_with_torch, find_or_build
from pytest_rocm_attn.backends.rocm_attn import RocmAttention
from pytest_rocm_attn.dry_launch import dry_launch
from pytest_rocm_attn.errors import HipBuildError
from pytest_rocm_attn.request import Request

MADE_OF = "torch 2 runtime 6 target gfx942"


class Counting:
    """A builder that writes a stand-in library and counts."""

    def __init__(self, text: bytes = b"library") -> None:
        self.text = text
        self.built = 0

    def __call__(self, folder: Path) -> Path:
        assert {path.name for path in folder.iterdir()} == set(build.SOURCES)
        self.built += 1
        (folder / "out.so").write_bytes(self.text)
        return folder / "out.so"


def test_a_library_is_built_once(tmp_path: Path) -> None:
    builder = Counting()
    first = find_or_build(tmp_path / "cache", MADE_OF, builder)
    assert find_or_build(tmp_path / "cache", MADE_OF, builder) == first
    assert builder.built == 1
    assert first.read_bytes() == b"library"


def test_another_torch_or_another_source_is_another_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = Counting()
    first = find_or_build(tmp_path, MADE_OF, builder)
    second = find_or_build(tmp_path, MADE_OF + "1", builder)
    source = build._source
    monkeypatch.setattr(build, "_source", lambda name: source(name) + "// changed\n")
    third = find_or_build(tmp_path, MADE_OF, builder)
    assert len({first, second, third}) == builder.built == 3


@pytest.mark.parametrize(
    "damage", ["cut short", "no checksum", "no library", "checksum is garbage"]
)
def test_what_is_not_whole_is_built_again(tmp_path: Path, damage: str) -> None:
    place = find_or_build(tmp_path, MADE_OF, Counting())
    match damage:
        case "cut short":
            place.write_bytes(b"libr")
        case "no checksum":
            (place.parent / "sha256").unlink()
        case "no library":
            place.unlink()
        case _:
            (place.parent / "sha256").write_bytes(b"\xff\xfe")
    builder = Counting()
    assert find_or_build(tmp_path, MADE_OF, builder).read_bytes() == b"library"
    assert builder.built == 1


def test_a_failed_build_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    def failing(folder: Path) -> Path:
        (folder / "out.so").write_bytes(b"half")
        raise HipBuildError("hipcc: error: no such GPU")

    with pytest.raises(HipBuildError, match="no such GPU"):
        find_or_build(tmp_path, MADE_OF, failing)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    builder = Counting()
    find_or_build(tmp_path, MADE_OF, builder)
    assert builder.built == 1


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HipBuildError, match="ROCM_ATTN_BUILD_DIR") as error:
        find_or_build(tmp_path / "file" / "cache", MADE_OF, Counting())
    assert str(tmp_path / "file") in str(error.value)


def _slow_build(cache: Path, log: Path) -> None:
    def builder(folder: Path) -> Path:
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(0.3)
        (folder / "out.so").write_bytes(b"library")
        return folder / "out.so"

    assert find_or_build(cache, MADE_OF, builder).read_bytes() == b"library"


def test_two_processes_build_one_library(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    arguments = (tmp_path / "cache", tmp_path / "log")
    processes = [context.Process(target=_slow_build, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_killed_builder_does_not_block_the_next(tmp_path: Path) -> None:
    def dying(folder: Path) -> Path:
        (folder / "out.so").write_bytes(b"half")
        os._exit(9)

    process = multiprocessing.get_context("fork").Process(
        target=find_or_build, args=(tmp_path, MADE_OF, dying)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    builder = Counting()
    assert find_or_build(tmp_path, MADE_OF, builder).read_bytes() == b"library"
    assert builder.built == 1


@pytest.mark.skipif(torch.version.hip is not None, reason="this torch can build for ROCm")
def test_without_a_compiler_the_error_says_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    with pytest.raises(HipBuildError, match=r"ROCM_ATTN cannot be built: .*ninja.*Triton kernel"):
        find_or_build(tmp_path, MADE_OF, build_with_torch)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.so").write_bytes(b"not an ELF file")
    with pytest.raises(HipBuildError, match="cannot be loaded"):
        Library(tmp_path / "x.so")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("int rocm_attn_arguments_size() { return 8; }", "take 8 bytes of arguments"),
        ("int other() { return 8; }", "cannot be loaded"),
    ],
)
def test_a_library_of_another_version_is_refused(tmp_path: Path, source: str, words: str) -> None:
    (tmp_path / "x.c").write_text(source)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", tmp_path / "x.so", tmp_path / "x.c"], check=True
    )
    with pytest.raises(HipBuildError, match=words):
        Library(tmp_path / "x.so")


def test_a_failed_build_is_remembered_until_what_it_depends_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def failing(folder: Path) -> Path:
        tried.append(folder)
        raise HipBuildError("hipcc: error: no such GPU")

    monkeypatch.setattr(build, "_found", {})
    monkeypatch.setattr(build, "build_with_torch", failing)
    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path / "one"))

    def attempts() -> int:
        for _ in range(3):
            with pytest.raises(HipBuildError, match="no such GPU"):
                build.library()
        return len(tried)

    assert attempts() == 1
    monkeypatch.setenv("PATH", "/opt/rocm/bin")
    assert attempts() == 2
    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path / "two"))
    assert attempts() == 3


def test_layers_without_a_compiler_try_one_build_in_all_their_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def failing(folder: Path) -> Path:
        tried.append(folder)
        raise HipBuildError("no hipcc")

    monkeypatch.setattr(build, "_found", {})
    monkeypatch.setattr(build, "build_with_torch", failing)
    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path))
    with dry_launch("gfx942"):
        layers = [RocmAttention(Request(), torch.device("meta"), scale=1.0) for _ in range(2)]
        for _ in range(3):
            assert [layer._kernels() for layer in layers] == [None, None]
    assert len(tried) == 1
