"""The shape of a package is read without importing it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rocm_attn.conformance.adapters import shape

FILES = {
    "platforms/rocm.py": """
        raise SystemExit("this must not be imported")
        class RocmPlatform:
            @classmethod
            def get_attn_backend_cls(cls, selected_backend, attn_selector_config): ...
    """,
    "v1/attention/selector.py": """
        class AttentionSelectorConfig:
            head_size: int
            use_dcp: bool = False
    """,
    "v1/attention/backends/registry.py": """
        class AttentionBackendEnum:
            ROCM_ATTN = "a"
    """,
    "envs.py": 'environment_variables = {"VLLM_ROCM_USE_AITER": 1, "VLLM_PORT": 2}',
    "_version.py": "__version__ = version = '0.30.1+ours'",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import textwrap

    for name, text in FILES.items():
        file = tmp_path / "shapely_fork" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), "utf-8")
    (tmp_path / "shapely_fork" / "__init__.py").write_text("raise SystemExit('imported')", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_package_is_found_by_its_module_and_by_a_file_that_imports_it(package: Path) -> None:
    wrapper = package / "wrapper.py"
    wrapper.write_text(
        "import os\ndef f():\n    from shapely_fork.platforms import rocm\n", "utf-8"
    )
    for spec in ("shapely_fork.platforms.rocm:RocmPlatform", f"{wrapper}:f"):
        found = shape.of_spec(spec)
        assert found is not None
        assert found.version == "0.30.1+ours"
        assert found.features == {
            *("argument:selected_backend", "argument:attn_selector_config"),
            *("asked:head_size", "asked:use_dcp", "backend:ROCM_ATTN"),
            "variable:VLLM_ROCM_USE_AITER",
        }


@pytest.mark.parametrize(
    "place", ["platforms/amd.py", "platforms/rocm/__init__.py", "platforms/rocm/of_acme.py"]
)
def test_a_fork_that_moved_its_platform_has_the_same_shape(package: Path, place: str) -> None:
    folder = package / "shapely_fork"
    before = shape.of_folder(folder)
    text = "class AmdPlatform(Platform):\n    _enum = PlatformEnum.ROCM\n"
    text += (folder / shape.PLATFORM).read_text("utf-8").replace("class ", "class Own")
    (folder / shape.PLATFORM).unlink()
    cuda = "class CudaPlatform(Platform):\n    _enum = PlatformEnum.CUDA\n"
    (folder / "platforms" / "a_cuda.py").write_text(cuda, "utf-8")
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text(text, "utf-8")
    found = shape.of_spec(f"shapely_fork.{place.removesuffix('.py').replace('/', '.')}:AmdPlatform")
    assert found == before


def test_what_is_no_vllm_has_no_shape(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("import json\ndef select(request): ...\n", "utf-8")
    assert shape.of_spec(f"{mine}:select") is None
    assert shape.of_spec("no_such_package_here.module:select") is None
    assert shape.of_spec(f"{tmp_path}/missing.py:select") is None


def test_a_file_that_cannot_be_parsed_has_no_features(package: Path) -> None:
    (package / "shapely_fork" / "envs.py").write_text("def (", "utf-8")
    found = shape.of_folder(package / "shapely_fork")
    assert not [name for name in found.features if name.startswith("variable:")]


def test_a_fork_that_renamed_its_variables_has_the_shape_of_vllm(package: Path) -> None:
    spec = "shapely_fork.platforms.rocm:RocmPlatform"
    plain = shape.of_spec(spec)
    assert plain is not None
    assert shape.prefix_of_spec(spec) == "VLLM_"
    renamed = 'environment_variables = {"SHAPELY_ROCM_USE_AITER": 1, "SHAPELY_PORT": 2}'
    (package / "shapely_fork" / "envs.py").write_text(renamed, "utf-8")
    assert shape.prefix_of_spec(spec) == "SHAPELY_"
    found = shape.of_spec(spec)
    assert found is not None
    assert found.features == plain.features
