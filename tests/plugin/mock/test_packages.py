"""The packages of the mocked machine: aiter in its four states, flash_attn, and their metadata."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_rocm_attn import aiter_probe
from pytest_rocm_attn.errors import MockError
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.mock import MockAttributeError, mock_rocm, real_aiter


@pytest.fixture
def installed_aiter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A box on which some aiter is really installed, with its metadata."""
    monkeypatch.setattr(real_aiter, "_imported", None)  # what a process has imported stays known
    package = tmp_path / "aiter"
    package.mkdir()
    (package / "__init__.py").write_text("who = 'the installed one'\n")
    (package / "sub.py").write_text("")
    info = tmp_path / "amd_aiter-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: amd-aiter\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "aiter"]:
        del sys.modules[name]


@pytest.mark.parametrize("state", list(Aiter))
def test_each_state_of_aiter_is_judged_rightly_from_outside(state: Aiter) -> None:
    """aiter_probe looks at files and metadata only, and knows nothing of the mock."""
    with mock_rocm("gfx942", aiter=state):
        found = aiter_probe.probe().state
    # A broken package is whole on disk: only its import tells.
    assert found is (Aiter.PRESENT if state is Aiter.BROKEN else state)


def test_present_is_a_package_with_spec_path_and_metadata() -> None:
    with mock_rocm("gfx942", aiter=True):
        spec = importlib.util.find_spec("aiter")
        assert spec is not None
        assert spec.submodule_search_locations
        folder = Path(spec.submodule_search_locations[0])
        assert (folder / "jit" / "core.py").is_file()
        assert importlib.metadata.version("amd-aiter") == "0.1.7.post2.dev18"
        # both before and after it is imported
        for _ in range(2):
            assert importlib.util.find_spec("aiter.mla") is not None
            assert importlib.util.find_spec("aiter.no_such_module") is None
            module: Any = importlib.import_module("aiter")
        assert callable(module.flash_attn_varlen_func)
        assert module.mla.mla_decode_fwd.__module__ == "aiter.mla"
        assert Path(module.__file__).is_file()


@pytest.mark.parametrize(
    ("gfx", "fp8"),  # docs/reference/mock-surface.md#derived
    [("gfx942", "float8_e4m3fnuz"), ("gfx950", "float8_e4m3fn"), ("gfx90a", "uint8")],
)
def test_the_fp8_type_of_aiter_follows_the_architecture(gfx: str, fp8: str) -> None:
    torch = pytest.importorskip("torch")
    with mock_rocm(gfx, aiter=True):
        from aiter import dtypes

        assert dtypes.fp8 is getattr(torch, fp8)


def test_a_function_of_the_stand_in_says_why_it_cannot_run() -> None:
    with mock_rocm("gfx942", aiter=True):
        import aiter

        with pytest.raises(MockError, match=r"aiter\.flash_attn_varlen_func needs a real GPU"):
            aiter.flash_attn_varlen_func(None)


def test_an_unknown_name_of_the_stand_in_is_absent_and_explains_itself() -> None:
    with mock_rocm("gfx942", aiter=True):
        import aiter

        assert not hasattr(aiter, "no_such_name")
        with pytest.raises(MockAttributeError, match=r"aiter\.no_such_name.*real_aiter=True"):
            _ = aiter.no_such_name
        with pytest.raises(ImportError):
            from aiter import no_such_name  # noqa: F401  it must not be there


def test_absent_hides_an_installed_aiter_and_gives_it_back(installed_aiter: Path) -> None:
    import aiter

    assert aiter.who == "the installed one"
    with mock_rocm("gfx942", aiter=False):
        assert importlib.util.find_spec("aiter") is None
        with pytest.raises(ModuleNotFoundError) as error:
            importlib.import_module("aiter")
        assert error.value.name == "aiter"
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("aiter.sub")
        with pytest.raises(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version("amd-aiter")
        assert "aiter" not in importlib.metadata.packages_distributions()
    assert sys.modules["aiter"] is aiter
    assert importlib.metadata.version("amd-aiter") == "9.9"


def test_only_the_innermost_of_nested_mocks_answers_for_packages(installed_aiter: Path) -> None:
    """Also where that means to let an installed package through."""
    for name in ("jit/core.py", "ops/__init__.py", "mla.py"):
        file = installed_aiter / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    with mock_rocm("gfx942", aiter=True):
        with mock_rocm("gfx950", aiter=False):
            names = {one.metadata["Name"] for one in importlib.metadata.distributions()}
            assert "amd-aiter" not in names
            assert "amdsmi" in names
        with mock_rocm("gfx950", real_aiter=True, triton_driver=False):
            assert importlib.import_module("aiter").who == "the installed one"
            assert importlib.metadata.version("amd-aiter") == "9.9"
        assert importlib.metadata.version("amd-aiter") == "0.1.7.post2.dev18"
        assert not hasattr(importlib.import_module("aiter"), "who")


@pytest.mark.parametrize("state", [Aiter.PRESENT, Aiter.BROKEN, Aiter.IMPOSTOR])
def test_every_stand_in_takes_the_place_of_an_installed_aiter(
    installed_aiter: Path, state: Aiter
) -> None:
    with mock_rocm("gfx942", aiter=state):
        spec = importlib.util.find_spec("aiter")
        assert spec is not None
        assert spec.origin != str(installed_aiter / "__init__.py")
        names = {one.metadata["Name"] for one in importlib.metadata.distributions()}
        assert ("amd-aiter" in names) == (state is not Aiter.IMPOSTOR)
        assert ("aiter" in names) == (state is Aiter.IMPOSTOR)
    assert importlib.import_module("aiter").who == "the installed one"


def test_broken_is_found_and_fails_at_import_as_amds_does_without_rocm() -> None:
    with mock_rocm("gfx942", aiter="broken"):
        assert importlib.util.find_spec("aiter") is not None
        for name in ("aiter", "aiter.mla"):
            with pytest.raises(RuntimeError, match="ROCm version file not found"):
                importlib.import_module(name)
        assert "aiter" not in sys.modules


def test_the_impostor_has_the_unrelated_packages_names_and_not_amds() -> None:
    with mock_rocm("gfx942", aiter="impostor"):
        import aiter

        assert aiter.__version__ == "0.13.20191203"
        assert {"map_aiter", "azip", "push_aiter", "join_aiters", "active_aiter"} <= set(
            vars(aiter)
        )
        with pytest.raises(ImportError, match="flash_attn_varlen_func"):
            from aiter import flash_attn_varlen_func  # noqa: F401  it must not be there
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("aiter.mla")
        with pytest.raises(NotImplementedError, match="map_aiter"):
            asyncio.run(aiter.map_aiter())


def test_flash_attn_is_there_unless_it_is_not_wanted() -> None:
    with mock_rocm("gfx942"):
        from flash_attn import (
            flash_attn_varlen_func,
        )
        from flash_attn.ops.triton.rotary import (
            apply_rotary,
        )

        assert callable(apply_rotary)
        with pytest.raises(MockError, match="flash_attn_varlen_func needs a real GPU"):
            flash_attn_varlen_func()
        assert importlib.util.find_spec("flash_attn.flash_attn_triton_amd") is not None
        assert importlib.metadata.version("flash-attn") == importlib.metadata.version("flash_attn")
    with mock_rocm("gfx942", flash_attn=False):
        assert importlib.util.find_spec("flash_attn") is None
        with pytest.raises(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version("flash_attn")


def test_packages_of_the_mock_are_gone_after_it() -> None:
    before = set(sys.modules)
    with mock_rocm("gfx942", aiter=True):
        for name in ("amdsmi", "aiter.mla", "flash_attn.layers.rotary"):
            importlib.import_module(name)
    left = {name for name in sys.modules if name.partition(".")[0] in ("amdsmi", "aiter")}
    assert left <= before
    assert "flash_attn" not in sys.modules


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, Aiter.ABSENT),
        (True, Aiter.PRESENT),
        (False, Aiter.ABSENT),
        ("broken", Aiter.BROKEN),
        (Aiter.IMPOSTOR, Aiter.IMPOSTOR),
    ],
)
def test_the_state_can_be_said_in_several_ways(state: Any, expected: Aiter) -> None:
    assert mock_rocm("gfx942", aiter=state).gpu == Gpu("gfx942", expected)


def test_a_gpu_brings_its_own_state() -> None:
    assert mock_rocm(Gpu("gfx942", Aiter.BROKEN)).gpu.aiter is Aiter.BROKEN
    assert mock_rocm(Gpu("gfx942", Aiter.BROKEN), aiter=True).gpu.aiter is Aiter.PRESENT


def test_the_real_aiter_is_asked_for_only_where_it_is() -> None:
    if aiter_probe.probe().state is Aiter.PRESENT:
        pytest.skip("AMD's aiter is installed here; its import is tested in tests/acceptance")
    before = list(sys.meta_path)
    with pytest.raises(MockError, match="pip install amd-aiter"):
        mock_rocm("gfx942", real_aiter=True).enter()
    assert sys.meta_path == before
    with pytest.raises(MockError, match="contradicts"):
        mock_rocm("gfx942", real_aiter=True, aiter=False)
