"""The how-to guides: what they show is what is there, and does what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn import Gpu, Request
from pytest_rocm_attn.conformance import adapters, contract

if TYPE_CHECKING:
    from collections.abc import Iterator

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
GUIDES = sorted(HOWTO.glob("*.md"))
SGLANG = Path(os.environ.get("ROCM_ATTN_SGLANG_DIR", "/work/sglang/0.5.23"))
SGLANG_PYTHON = os.environ.get("ROCM_ATTN_SGLANG_PYTHON", "/work/sglang/venv/bin/python")
VLLM = Path(os.environ.get("ROCM_ATTN_VLLM_DIR", "/work/vllm")) / "0.12.0"
PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)


def blocks(guide: str, language: str) -> list[str]:
    """Return the code blocks of a guide that are in one language."""
    text = (HOWTO / guide).read_text()
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [code for name, code in found if name == language]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_every_link_of_a_guide_leads_somewhere(guide: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", guide.read_text())
    assert links
    for link in links:
        assert link.startswith("https://") or (guide.parent / link).exists(), link


def test_the_guide_shows_the_adapter_and_the_contract_that_lie_beside_it() -> None:
    (shown,) = blocks("another-server.md", "python")
    assert shown == (HOWTO / "sglang" / "sglang_selector.py").read_text()
    (first_row,) = blocks("another-server.md", "toml")
    assert (HOWTO / "sglang" / "sglang-defaults.toml").read_text().startswith(first_row)


@pytest.fixture
def sglang(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A stand-in for the module of SGLang that the adapter imports; it notes what it was asked."""
    name = ""
    for part in ("sglang", "srt", "arg_groups", "model_override_base"):
        name = f"{name}.{part}".lstrip(".")
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)

    def get_default_attn_backend(server_args: Any, use_mla_backend: bool, model_config: Any) -> str:
        heads = model_config.get_num_kv_heads(server_args.tp_size)
        return "aiter" if heads in (8, 16) else "triton"

    module.get_default_attn_backend = get_default_attn_backend  # type: ignore[attr-defined]
    yield module


@pytest.mark.usefixtures("sglang")
@pytest.mark.parametrize(
    ("fields", "backend"),
    [
        ({}, "ROCM_AITER_FA"),
        ({"num_kv_heads": 4}, "TRITON_ATTN"),
        ({"use_mla": True}, "ROCM_AITER_MLA"),
        ({"use_mla": True, "num_heads": 32}, "TRITON_MLA"),
    ],
)
def test_the_adapter_speaks_sglangs_language_and_ours(fields: dict[str, Any], backend: str) -> None:
    spec = f"{HOWTO}/sglang/sglang_selector.py:DefaultAttentionBackend"
    adapter = adapters.adapt(adapters.load(spec), spec)
    assert str(adapter.select(Request(**fields), {}, Gpu("gfx942"))) == backend


def test_the_contract_of_the_example_is_valid() -> None:
    loaded = contract.load(str(HOWTO / "sglang" / "sglang-defaults.toml"))
    assert sum(len(list(row.cells())) for row in loaded.rows) == 18


@pytest.mark.slow
def test_the_guide_tells_what_the_real_sglang_answers(tmp_path: Path) -> None:
    if not SGLANG.is_dir():
        pytest.skip(f"sglang is not unpacked in {SGLANG}; see docs/howto/another-server.md")
    *_, command = blocks("another-server.md", "console")[0].strip().splitlines()
    words = command.removeprefix("$ ").split()
    assert words[0] == "pytest"
    for file in (HOWTO / "sglang").iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    done = subprocess.run(
        [SGLANG_PYTHON, "-m", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(SGLANG)},
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    (told,) = blocks("another-server.md", "")
    answered = [line.rstrip() for line in done.stdout.splitlines()]
    for line in told.splitlines():
        assert line.rstrip() in answered, done.stdout[-3000:]


@pytest.mark.slow
def test_a_fork_like_0_12_0_is_green_with_what_the_guide_declares(tmp_path: Path) -> None:
    if not VLLM.is_dir():
        pytest.skip(f"vLLM 0.12.0 is not unpacked in {VLLM.parent}; see docs/real-vllm.md")
    (ini,) = blocks("vllm-fork.md", "ini")
    (declared,) = blocks("vllm-fork.md", "toml")
    (command,) = blocks("vllm-fork.md", "console")
    (tmp_path / "pytest.ini").write_text(ini)
    (tmp_path / "rocm-attn-deviations.toml").write_text(declared)
    words = command.strip().removeprefix("$ python ").split()
    done = subprocess.run(
        [PYTHON, *words, "--rocm-attn-report=report.json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(VLLM)},
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    totals = json.loads((tmp_path / "report.json").read_text())["totals"]
    assert totals["deviation"] > 0
    assert "fail" not in totals


def test_the_tests_that_the_guide_shows_pass_or_say_what_is_missing(
    pytester: pytest.Pytester,
) -> None:
    (code,) = blocks("vllm-fork.md", "python")
    pytester.makepyfile(code)
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-rs")
    counts = result.parseoutcomes()
    assert counts.get("passed", 0) >= 2
    assert counts["passed"] + counts.get("skipped", 0) == 3
    assert "failed" not in counts
