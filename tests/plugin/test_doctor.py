"""rocm-attn doctor: what it finds, and what it calls trouble."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from pytest_rocm_attn import doctor, hardware
from pytest_rocm_attn.aiter_probe import Probe
from pytest_rocm_attn.doctor import Finding, doubtful_variables, examine, torch_build, triton_build
from pytest_rocm_attn.gpu import Aiter


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first on sys.path."""
    for name in ("torch", "triton"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def package(site: Path, name: str, **files: str) -> None:
    for path, text in {"__init__.py": "raise ImportError('imported')\n", **files}.items():
        file = site / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    importlib.invalidate_caches()


@pytest.mark.parametrize(
    ("version", "found"),
    [
        (
            "__version__ = '2.9.1+rocm7.0'\ncuda: Optional[str] = None\nhip: Optional[str] = '7.0'\n",
            "2.9.1+rocm7.0, built for hip 7.0",
        ),
        ("__version__ = '2.9.1'\ncuda = '12.8'\nhip = None\n", "2.9.1, built for cuda 12.8"),
        ("__version__ = '2.13.0+cpu'\ncuda = hip = None\n", "2.13.0+cpu, built for CPU only"),
        ("a, b = 1, 2\nprint()\nx: int\n", "unknown version, built for CPU only"),
        ("def", "unknown version, built for CPU only"),
    ],
)
def test_torchs_build_is_read_from_its_version_file(site: Path, version: str, found: str) -> None:
    package(site, "torch", **{"version.py": version})
    assert torch_build() == found
    assert "torch" not in sys.modules


def test_torch_without_a_version_file_is_of_unknown_version(site: Path) -> None:
    package(site, "torch")
    assert torch_build() == "unknown version, built for CPU only"


def test_triton_says_whether_it_can_compile_for_amd(site: Path) -> None:
    package(site, "triton", **{"__init__.py": "__version__ = '3.6.0'\nimport nothing_here\n"})
    assert triton_build() == "3.6.0, without the AMD backend"
    package(
        site, "triton", **{"backends/amd/compiler.py": "", "__init__.py": "__version__ = '4'\n"}
    )
    assert triton_build() == "4, with the AMD backend"


def test_packages_that_are_not_there_are_said_to_be_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("torch", "triton"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[-1:])  # an editable install has a finder
    assert torch_build() == triton_build() == "not installed"


def test_variables_that_no_release_can_read_are_trouble() -> None:
    findings = doubtful_variables(
        {
            "VLLM_USE_AITER_UNIFIED_ATTENTION": "1",
            "VLLM_ROCM_USE_AITTER_MHA": "0",
            "VLLM_MLA_DISABLE": "true",
            "VLLM_ATTENTION_BACKEND": "TRITON",
            "VLLM_ROCM_USE_AITER": "yes",
            "VLLM_ROCM_USE_AITER_MOE": "1",
            "VLLM_ROCM_QUICK_REDUCE_QUANTIZATION": "FP",
            "VLLM_LOGGING_LEVEL": "DEBUG",
            "HOME": "/",
        }
    )
    assert all(finding.trouble and finding.subject == "variable" for finding in findings)
    texts = [finding.text for finding in findings]
    assert [text.split(maxsplit=1)[0].partition("=")[0] for text in texts] == [
        "VLLM_ATTENTION_BACKEND",
        "VLLM_MLA_DISABLE",
        "VLLM_ROCM_USE_AITER",
        "VLLM_ROCM_USE_AITTER_MHA",
        "VLLM_USE_AITER_UNIFIED_ATTENTION",
    ]
    assert texts[1] == "VLLM_MLA_DISABLE='true' is not an integer; set it to 0 or 1, or unset it"
    assert texts[2] == "VLLM_ROCM_USE_AITER='yes' reads as off; only 1 and true turn it on"
    assert texts[3].startswith(
        "VLLM_ROCM_USE_AITTER_MHA is not known. Did you mean 'VLLM_ROCM_USE_AITER_MHA'"
    )
    assert texts[4] == ("VLLM_USE_AITER_UNIFIED_ATTENTION is read by no release of vLLM; unset it")


def test_the_machine_is_examined_without_importing_what_it_has() -> None:
    heavy = {"torch", "triton", "aiter"} & set(sys.modules)
    subjects = [finding.subject for finding in examine({})]
    assert subjects[:4] == ["python", "torch", "triton", "aiter"]
    assert subjects[4].startswith("GPU")
    assert {"torch", "triton", "aiter"} & set(sys.modules) == heavy


@pytest.mark.parametrize(
    ("state", "trouble", "remedy"),
    [
        (Aiter.PRESENT, False, ""),
        (Aiter.ABSENT, False, ""),
        (Aiter.IMPOSTOR, True, "; run `pip uninstall aiter && pip install amd-aiter`"),
        (Aiter.BROKEN, True, "; run `pip uninstall aiter amd-aiter && pip install amd-aiter`"),
    ],
)
@pytest.mark.parametrize("import_aiter", [False, True])
def test_an_aiter_that_cannot_work_is_trouble_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, state: Aiter, trouble: bool, remedy: str, import_aiter: bool
) -> None:
    wanted, other = ("try_import", "probe") if import_aiter else ("probe", "try_import")
    monkeypatch.setattr(doctor, wanted, lambda: Probe(state, "so it is"))
    monkeypatch.delattr(doctor, other)
    findings = examine({}, import_aiter=import_aiter)
    assert findings[3] == Finding("aiter", f"{state.value}: so it is{remedy}", trouble)


def test_gpus_are_listed_with_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = tuple(hardware.DetectedGpu(i, "gfx942", "AMD Instinct MI300X") for i in range(2))
    monkeypatch.setattr(hardware, "detect", lambda: hardware.Detection(gpus, ""))
    assert [(f.subject, f.text) for f in examine({})[4:]] == [
        ("GPU 0", "gfx942, AMD Instinct MI300X"),
        ("GPU 1", "gfx942, AMD Instinct MI300X"),
    ]


def test_no_gpu_is_no_trouble_and_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "detect", lambda: hardware.Detection((), "no driver"))
    assert examine({})[4:] == [Finding("GPU", "none: no driver")]
