"""Telling AMD's aiter from the unrelated package, by what is installed and never by importing it."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import pytest

from pytest_rocm_attn.aiter_probe import Probe, probe, try_import
from pytest_rocm_attn.gpu import Aiter

BOMB = "raise SystemExit('aiter was imported in-process')\n"


class Site:
    """A folder on sys.path to install packages into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, *files: str, init: str = BOMB) -> Path:
        for name in ("__init__.py", *files):
            path = self.folder / "aiter" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(init if name == "__init__.py" else BOMB)
        importlib.invalidate_caches()
        return self.folder / "aiter"

    def add_distribution(self, name: str, version: str) -> None:
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


AMD = ("jit/core.py", "ops/mha.py", "mla.py")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """An empty place to install to; the machine's own aiter, if any, is out of sight."""
    monkeypatch.delitem(sys.modules, "aiter", raising=False)
    others = [path for path in sys.path if not (Path(path) / "aiter").exists()]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *others])
    return Site(tmp_path)


def test_no_package_is_absent(site: Site) -> None:
    assert probe() == Probe(Aiter.ABSENT, "no module named aiter can be found")


def test_amds_package_is_known_by_its_files(site: Site) -> None:
    folder = site.add(*AMD)
    assert probe() == Probe(Aiter.PRESENT, f"AMD's aiter (no distribution amd-aiter) in {folder}")
    site.add_distribution("amd-aiter", "0.1.7")
    assert probe() == Probe(Aiter.PRESENT, f"amd-aiter 0.1.7 in {folder}")
    assert "aiter" not in sys.modules


def test_the_package_of_2019_is_an_impostor(site: Site) -> None:
    folder = site.add("map_aiter.py", "join_aiters.py")
    site.add_distribution("aiter", "0.13.20191203")
    assert probe() == Probe(
        Aiter.IMPOSTOR, f"not AMD's package: {folder}, distribution aiter 0.13.20191203"
    )
    assert "aiter" not in sys.modules


def test_a_single_module_of_that_name_is_an_impostor(site: Site) -> None:
    (site.folder / "aiter.py").write_text(BOMB)
    assert probe() == Probe(Aiter.IMPOSTOR, "not AMD's package: a single module")


def test_a_folder_without_code_is_an_impostor(site: Site) -> None:
    # vLLM's find_spec takes such a namespace package for an aiter.
    (site.folder / "aiter").mkdir()
    assert probe().state is Aiter.IMPOSTOR


@pytest.mark.parametrize("missing", AMD)
def test_an_incomplete_package_of_amd_is_broken(site: Site, missing: str) -> None:
    folder = site.add(*(name for name in AMD if name != missing))
    lacks = "ops" if missing.startswith("ops") else missing
    assert probe() == Probe(
        Aiter.BROKEN, f"AMD's aiter (no distribution amd-aiter) in {folder} lacks {lacks}"
    )


def test_amds_distribution_without_any_of_its_files_is_broken(site: Site) -> None:
    site.add_distribution("amd-aiter", "0.1.7")
    assert probe() == Probe(Aiter.BROKEN, "amd-aiter 0.1.7 is installed, but has no module aiter")
    folder = site.add("map_aiter.py")
    assert probe() == Probe(
        Aiter.BROKEN, f"amd-aiter 0.1.7 in {folder} lacks jit/core.py, ops, mla.py"
    )


def test_both_packages_in_one_folder_are_broken(site: Site) -> None:
    folder = site.add(*AMD, "map_aiter.py")
    site.add_distribution("amd-aiter", "0.1.7")
    site.add_distribution("aiter", "0.13.20191203")
    assert probe() == Probe(
        Aiter.BROKEN,
        f"amd-aiter 0.1.7 shares {folder} with the unrelated distribution aiter 0.13.20191203",
    )


def test_a_module_made_by_hand_is_no_installed_package(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = types.ModuleType("aiter")
    monkeypatch.setitem(sys.modules, "aiter", made)
    assert probe().state is Aiter.ABSENT


def environ_sees(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(site.folder))


def test_an_import_is_tried_in_a_process_of_its_own(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ_sees(site, monkeypatch)
    folder = site.add(*AMD, init="")
    expected = f"AMD's aiter (no distribution amd-aiter) in {folder}; its import works"
    assert try_import() == Probe(Aiter.PRESENT, expected)
    assert "aiter" not in sys.modules


@pytest.mark.parametrize(
    ("init", "reason"),
    [
        ("raise RuntimeError('no rocminfo')", "its import fails: RuntimeError: no rocminfo"),
        ("raise SystemExit(3)", "its import fails: exit status 3"),
        ("import time; time.sleep(60)", "its import did not end within 2 s"),
    ],
)
def test_an_import_that_fails_is_broken_with_its_reason(
    site: Site, monkeypatch: pytest.MonkeyPatch, init: str, reason: str
) -> None:
    environ_sees(site, monkeypatch)
    site.add(*AMD, init=init)
    assert try_import(2) == Probe(Aiter.BROKEN, reason)


def test_what_is_not_amds_is_not_imported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    environ_sees(site, monkeypatch)
    site.add(init=f"open({str(site.folder / 'imported')!r}, 'w')")
    assert try_import() == probe()
    assert not (site.folder / "imported").exists()
