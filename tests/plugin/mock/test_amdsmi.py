"""The module amdsmi: its behaviour and its faithfulness.

Source: docs/reference/mock-surface.md#amdsmi-behaviour.

The comparison with the real package reads its source and never imports it: the wheel without its
shared library fails at import, with a KeyError.
"""

from __future__ import annotations

import ast
import enum
import importlib
import importlib.metadata
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_rocm_attn.gpu import Amdsmi, Gpu
from pytest_rocm_attn.mock import MockAttributeError, mock_rocm
from pytest_rocm_attn.mock import amdsmi as boundary


@pytest.fixture
def amdsmi() -> Iterator[ModuleType]:
    with mock_rocm("gfx942", count=2):
        import amdsmi

        yield amdsmi


@pytest.fixture
def handles(amdsmi: Any) -> list[Any]:
    amdsmi.amdsmi_init()
    handles: list[Any] = amdsmi.amdsmi_get_processor_handles()
    return handles


def test_it_lists_physical_gpus_whatever_is_visible(
    amdsmi: Any, handles: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    assert len(amdsmi.amdsmi_get_processor_handles()) == len(handles) == 2


def test_the_asic_info_has_the_forms_of_7_0_2(amdsmi: Any, handles: list[Any]) -> None:
    info = amdsmi.amdsmi_get_gpu_asic_info(handles[0])
    assert info["target_graphics_version"] == "gfx942"
    assert info["device_id"] == "0x74a1"  # MI300X in vLLM's table, as a string
    assert info["vendor_id"] == "0x1002"
    assert info["market_name"] == "AMD Instinct MI300X"
    prefix, digits = info["asic_serial"][:2], info["asic_serial"][2:]
    assert prefix == "0x"
    assert len(digits) == 16
    assert digits == digits.upper()
    assert info["num_compute_units"] == 304


def test_device_ids_are_those_of_vllms_table_where_it_has_one() -> None:
    from pytest_rocm_attn.gpu import hardware

    table = hardware()["amdsmi_device_ids"]
    for gfx, device_id in [
        ("gfx942", "0x74a1"),
        ("gfx1100", "0x744c"),
        ("gfx1150", "0x150e"),
        ("gfx1151", "0x1586"),
        ("gfx1201", "0x7550"),
    ]:
        assert table[device_id]["gfx"] == gfx
        with mock_rocm(gfx):
            import amdsmi

            amdsmi.amdsmi_init()
            (handle,) = amdsmi.amdsmi_get_processor_handles()
            assert amdsmi.amdsmi_get_gpu_asic_info(handle)["device_id"] == device_id


def test_instinct_gpus_are_linked_by_xgmi_and_radeons_by_pcie(
    amdsmi: Any, handles: list[Any]
) -> None:
    assert amdsmi.amdsmi_topo_get_link_type(*handles) == {"hops": 1, "type": 2}
    with mock_rocm("gfx1100", count=2):
        import amdsmi as radeon

        radeon.amdsmi_init()
        link = radeon.amdsmi_topo_get_link_type(*radeon.amdsmi_get_processor_handles())
        assert link["type"] == radeon.AmdSmiLinkType.AMDSMI_LINK_TYPE_PCIE


def test_every_gpu_has_a_uuid_that_fits_the_librarys_buffer(
    amdsmi: Any, handles: list[Any]
) -> None:
    uuids = [amdsmi.amdsmi_get_gpu_device_uuid(handle) for handle in handles]
    assert len(set(uuids)) == 2
    assert all(len(uuid) == 36 for uuid in uuids)


def test_the_memory_is_in_bytes_and_torchs(amdsmi: Any, handles: list[Any]) -> None:
    torch = pytest.importorskip("torch")
    total = amdsmi.amdsmi_get_gpu_memory_total(handles[0], amdsmi.AmdSmiMemoryType.VRAM)
    assert total == torch.cuda.get_device_properties(0).total_memory == 196592 << 20
    assert amdsmi.amdsmi_get_gpu_vram_usage(handles[0])["vram_total"] == 196592


def test_a_foreign_handle_is_refused_as_by_the_real_library(amdsmi: Any) -> None:
    amdsmi.amdsmi_init()
    with pytest.raises(amdsmi.AmdSmiParameterException, match="Invalid parameter"):
        amdsmi.amdsmi_get_gpu_asic_info(0)


def test_a_query_outside_init_and_shut_down_fails_and_pairs_nest(amdsmi: Any) -> None:
    with pytest.raises(amdsmi.AmdSmiLibraryException) as error:
        amdsmi.amdsmi_get_processor_handles()
    assert error.value.get_error_code() == 32  # AMDSMI_STATUS_NOT_INIT
    amdsmi.amdsmi_init()
    amdsmi.amdsmi_init()
    amdsmi.amdsmi_shut_down()
    assert amdsmi.amdsmi_get_processor_handles()
    amdsmi.amdsmi_shut_down()
    with pytest.raises(amdsmi.AmdSmiException):
        amdsmi.amdsmi_get_processor_handles()


def test_what_it_lacks_is_absent_and_explains_itself(amdsmi: Any) -> None:
    assert not hasattr(amdsmi, "amdsmi_get_gpu_ras_feature_info")
    with pytest.raises(MockAttributeError, match=r"amdsmi\.amdsmi_reset_gpu.*monkeypatch"):
        _ = amdsmi.amdsmi_reset_gpu
    with pytest.raises(ImportError):
        from amdsmi import amdsmi_reset_gpu  # noqa: F401  it must not be there


def test_the_submodules_that_callers_import_from_are_there(amdsmi: Any) -> None:
    from amdsmi import amdsmi_exception, amdsmi_interface

    assert amdsmi_interface.amdsmi_init is amdsmi.amdsmi_init
    assert amdsmi_exception.AmdSmiException is amdsmi.AmdSmiException


# --- the real package's own definitions ------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked real package; skips where no package index can be reached."""
    folder = tmp_path_factory.mktemp("amdsmi")
    commands = [
        [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder)],
        ["uv", "pip", "install", "--python", sys.executable, "--no-deps", "--target", str(folder)],
    ]
    said = []
    for command in commands:
        try:
            run = subprocess.run(
                [*command, f"amdsmi=={boundary.VERSION}"],
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            said.append(str(error))
            continue
        if run.returncode == 0:
            return folder / "amdsmi"
        said.append(run.stderr.strip().splitlines()[-1])
    pytest.skip(f"amdsmi {boundary.VERSION} cannot be downloaded: {'; '.join(said)}")


@pytest.fixture(scope="module")
def interface(real: Path) -> ast.Module:
    return ast.parse((real / "amdsmi_interface.py").read_text())


@pytest.fixture(scope="module")
def constants(real: Path) -> dict[str, int]:
    """The integers of the wrapper, which the enums' members refer to."""
    return {
        target.id: node.value.value
        for node in ast.parse((real / "amdsmi_wrapper.py").read_text()).body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, int)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _functions(module: ast.Module) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}


def _mocked_functions() -> dict[str, Any]:
    with mock_rocm("gfx942"):
        import amdsmi

        return {
            name: value
            for name, value in vars(amdsmi).items()
            if name.startswith("amdsmi_") and inspect.isfunction(value)
        }


@pytest.mark.slow
def test_signatures_are_those_of_the_real_package(interface: ast.Module) -> None:
    real = _functions(interface)
    for name, function in _mocked_functions().items():
        wanted = [argument.arg for argument in real[name].args.args]
        parameters = inspect.signature(function).parameters.values()
        assert [one.name for one in parameters] == wanted, name
        defaults = [one for one in parameters if one.default is not one.empty]
        assert len(defaults) == len(real[name].args.defaults), name


@pytest.mark.slow
def test_enum_members_are_those_of_the_real_package(
    interface: ast.Module, constants: dict[str, int]
) -> None:
    classes = {node.name: node for node in interface.body if isinstance(node, ast.ClassDef)}
    compared = 0
    for name, ours in vars(boundary).items():
        if not (inspect.isclass(ours) and issubclass(ours, enum.IntEnum)) or name == "IntEnum":
            continue
        real = {
            node.targets[0].id: constants[node.value.attr]
            for node in classes[name].body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Attribute)
        }
        # Board sensors, three digits: no reader of docs/reference/mock-surface.md asks for one.
        if name == "AmdSmiTemperatureType":
            real = {member: value for member, value in real.items() if value < 100}
        assert {member: int(value) for member, value in ours.__members__.items()} == real, name
        compared += 1
    assert compared == 6


@pytest.mark.slow
def test_the_keys_of_returned_dicts_are_those_of_the_real_package(interface: ast.Module) -> None:
    real = _functions(interface)
    calls: dict[str, tuple[Any, ...]] = {
        "amdsmi_get_temp_metric": (
            boundary.AmdSmiTemperatureType.JUNCTION,
            boundary.AmdSmiTemperatureMetric.CURRENT,
        ),
        "amdsmi_get_clock_info": (boundary.AmdSmiClkType.GFX,),
        "amdsmi_get_gpu_memory_total": (boundary.AmdSmiMemoryType.VRAM,),
        "amdsmi_get_gpu_memory_usage": (boundary.AmdSmiMemoryType.VRAM,),
    }
    compared = set()
    functions = _mocked_functions()
    functions["amdsmi_init"]()
    for name, function in functions.items():
        handles = functions["amdsmi_get_processor_handles"]()
        wanted = [one for one in inspect.signature(function).parameters if "handle" in one]
        if name in ("amdsmi_init", "amdsmi_shut_down"):
            continue
        answer = function(*handles * len(wanted), *calls.get(name, ()))
        dicts = [
            {key.value for key in node.keys if isinstance(key, ast.Constant)}
            for node in ast.walk(real[name])
            if isinstance(node, ast.Dict) and node.keys
        ]
        assert isinstance(answer, dict) == bool(dicts), name
        if dicts:
            assert set(answer) == dicts[0], name
            compared.add(name)
    assert len(compared) >= 8


@pytest.mark.slow
def test_exceptions_are_those_of_the_real_package(real: Path) -> None:
    tree = ast.parse((real / "amdsmi_exception.py").read_text())
    bases = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    ours = {
        name: [base.__name__ for base in value.__bases__]
        for name, value in vars(boundary).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert ours == {name: bases[name] for name in ours}
    assert {"AmdSmiException", "AmdSmiLibraryException", "AmdSmiParameterException"} <= set(ours)


# --- other states ---------------------------------------------------------------------------------


def test_an_empty_one_initialises_and_lists_nothing() -> None:
    with mock_rocm("gfx942", amdsmi="empty", count=2):
        library = importlib.import_module("amdsmi")
        library.amdsmi_init()
        assert library.amdsmi_get_processor_handles() == []


def test_a_broken_one_is_imported_and_cannot_be_initialised() -> None:
    with mock_rocm(Gpu("gfx942", amdsmi=Amdsmi.BROKEN)):
        library = importlib.import_module("amdsmi")
        with pytest.raises(library.AmdSmiLibraryException, match="NO_PERM - Permission Denied"):
            library.amdsmi_init()


def test_an_absent_one_is_not_found_nor_its_metadata() -> None:
    with mock_rocm("gfx942", amdsmi="absent"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("amdsmi")
        with pytest.raises(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version("amdsmi")
    with mock_rocm("gfx942"):
        assert importlib.import_module("amdsmi")
