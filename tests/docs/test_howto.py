"""The how-to guides: what they show is what is there, and does what they say."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn import Gpu, Request
from pytest_rocm_attn.cli import main
from pytest_rocm_attn.conformance import adapters
from pytest_rocm_attn.conformance.baseline import baseline
from pytest_rocm_attn.conformance.promise import contract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
GUIDES = sorted(HOWTO.glob("*.md"))
PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)


def guide_text(guide: str) -> str:
    return (HOWTO / guide).read_text()


def blocks(guide: str, language: str) -> list[str]:
    """Return the code blocks of a guide that are in one language."""
    text = guide_text(guide)
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

    vars(module)[get_default_attn_backend.__name__] = get_default_attn_backend
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


OUR_SERVER = """
layers = {"TRITON_ATTN": lambda heads, head_dim, dtype: None}

def pick_backend(head_size, mla):
    return "TRITON_MLA" if mla else "TRITON_ATTN"
"""


@pytest.mark.usefixtures("without_torch")
def test_the_selector_of_the_page_on_adapters_is_found_asked_and_built(
    pytester: pytest.Pytester,
) -> None:
    asked, built = blocks("../adapters.md", "python")
    pytester.mkpydir("our_server").joinpath("attention.py").write_text(OUR_SERVER)
    pytester.makeconftest(
        f"{asked}\nselect = OurSelector.select\n{built}\nOurSelector.select = select"
    )
    result = pytester.runpytest_subprocess(
        *(
            "--rocm-attn-conformance",
            "--rocm-attn-tier=documented,capabilities",
            "-p",
            "no:randomly",
        ),
        *("--rocm-attn-contract=pr-26980", "--rocm-attn-gpu=gfx942"),
        "rocm-attn::documented::nothing-set-gives-triton-attn[gfx942]",
        "rocm-attn::capabilities::head-counts-build-by-default[gfx942]",
    )
    result.assert_outcomes(passed=2)


# --- upgrade-baseline.md ----------------------------------------------------------------------------

UPGRADE = "upgrade-baseline.md"


def upgrade_commands() -> list[list[str]]:
    """Return the commands of the guide, as words; the first line of each block."""
    lines = [block.splitlines()[0].removeprefix("$ ") for block in blocks(UPGRADE, "console")]
    return [shlex.split(line.partition(" | ")[0]) for line in lines]


def test_the_guide_names_shipped_baselines_and_a_command_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = set(re.findall(r"vllm-\d[\d.]*\d", (HOWTO / UPGRADE).read_text()))
    assert named == {"vllm-0.18.1", "vllm-0.22.1"}
    assert named <= set(baseline.shipped())
    python, option, module, *words = upgrade_commands()[3]
    assert (python, option, module) == ("python", "-m", "pytest_rocm_attn")
    (tmp_path / words[-1]).touch()
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2  # understood, and refused before the work: the file is there
    assert "is there already; --force replaces it" in capsys.readouterr().err
    assert upgrade_commands()[4][-1] == words[-1]


def run_the_guides_slice(folder: Path, release: Path, judged_by: str) -> tuple[int, str, str]:
    """Run one slice as the guide says; return the exit code, the verdict and what was printed."""
    ini, _ = blocks(UPGRADE, "ini")
    (folder / "pytest.ini").write_text(ini.replace("vllm-0.18.1", judged_by))
    whole_grid, _, one_slice, *_ = upgrade_commands()
    assert one_slice[:-1] == whole_grid
    done = subprocess.run(
        [PYTHON, *one_slice[1:], "--rocm-attn-report=report.json"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(release)},
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    (row,) = json.loads((folder / "report.json").read_text())["rows"]
    assert row["details"]["counts"]["compared"] == row["details"]["counts"]["cells"] > 0
    return done.returncode, row["verdict"], done.stdout


@pytest.mark.slow
def test_what_a_fork_keeps_fails_until_it_is_declared_and_is_stale_once_given_up(
    vllm_release: Callable[[str], Path], tmp_path: Path
) -> None:
    older, newer = map(vllm_release, ("0.18.1", "0.22.1"))
    code, verdict, told = run_the_guides_slice(tmp_path, older, "vllm-0.22.1")
    assert (code, verdict) == (1, "fail")
    assert "ROCM_ATTN named, ordinary layers: a refusal -> the named one." in told
    (declared,) = blocks(UPGRADE, "toml")
    (tmp_path / "rocm-attn-deviations.toml").write_text(declared)
    assert run_the_guides_slice(tmp_path, older, "vllm-0.22.1")[:2] == (0, "deviation")
    assert run_the_guides_slice(tmp_path, newer, "vllm-0.22.1")[:2] == (1, "stale")


def test_the_guide_to_hardware_tests_names_what_is_there() -> None:
    text = (HOWTO / "on-an-mi-gpu.md").read_text()
    tests = HOWTO.parents[1] / "tests" / "hardware"
    (table,) = re.findall(r"^\| file of `tests/hardware/` .*?\n\n", text, re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"`([\w/]+\.py)`", table))
    there = {path.relative_to(tests).as_posix() for path in tests.rglob("test_*.py")}
    assert named == there - {"test_judging.py"}
    assert "None of us has run these on an AMD GPU" in text


def test_the_group_for_hardware_leaves_torch_and_triton_alone() -> None:
    groups = tomllib.loads((HOWTO.parents[1] / "pyproject.toml").read_text())["dependency-groups"]
    names = {re.split("[=<>]", line)[0] for line in groups["hardware"]}
    assert "pytest" in names
    assert names.isdisjoint({"torch", "triton"})
    pinned = set(groups["test"]) & set(groups["hardware"])
    assert len(pinned) >= 3  # the same versions as everywhere
