"""Tools and files of the mocked machine, read as their readers do.

Source: docs/reference/mock-surface.md#commands, #files.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_rocm_attn.gpu import Gpu, known_gpus
from pytest_rocm_attn.mock import mock_rocm


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("gfx", known_gpus())
def test_rocminfo_tells_the_architecture_to_both_releases_of_aiter(gfx: str) -> None:
    with mock_rocm(gfx):
        text = run("rocminfo")
    word = re.search(r"gfx\w+", text, re.IGNORECASE)
    assert word is not None
    assert word[0].lower() == gfx
    first = next(line for line in text.splitlines() if "gfx" in line.lower())
    assert first.split(":")[-1].strip() == gfx


@pytest.mark.parametrize(
    ("gfx", "units", "chip"),  # prints of real machines, section 3.3
    [
        ("gfx942", 304, "29857(0x74a1)"),
        ("gfx1201", 64, "30032(0x7550)"),
        ("gfx1100", 96, "29772(0x744c)"),
    ],
)
def test_rocminfo_counts_compute_units_as_real_machines_do(gfx: str, units: int, chip: str) -> None:
    with mock_rocm(gfx, count=2):
        text = run("rocminfo")
    blocks = [
        block for block in re.split(r"Agent\s*\d+", text) if re.search(r"Device Type:\s+GPU", block)
    ]
    assert len(blocks) == 2
    for block in blocks:
        found = re.search(r"Compute Unit:\s*(\d+)", block)
        assert found is not None
        assert int(found[1]) == units
        assert chip in block
        assert re.search(rf"Wavefront Size:\s+{Gpu(gfx).wavefront}\(", block)


def test_rocminfo_gives_the_memory_in_the_form_that_sglang_greps() -> None:
    with mock_rocm("gfx1201"):
        lines = run("rocminfo").splitlines()
    gfx = next(number for number, line in enumerate(lines) if "gfx" in line)
    pool = next(n for n in range(gfx, gfx + 100) if "Pool 1" in lines[n])
    size = next(lines[n] for n in range(pool, pool + 6) if "Size:" in lines[n])
    assert size.split()[1] == "16695296(0xfec000)"  # the print of an RX 9070 XT, section 3.3


def test_hipconfig_and_the_version_files_agree() -> None:
    with mock_rocm("gfx942", rocm_version="7.0.2"):
        root = Path(os.environ["ROCM_PATH"])
        assert re.match(r"7\.0\.\d+", run("hipconfig", "--version"))
        assert Path(run("hipconfig", "--path")) == root
        assert (root / ".info" / "version").read_text() == "7.0.2\n"
        header = (root / "include" / "hip" / "hip_version.h").read_text()
        assert "#define HIP_VERSION_MAJOR 7\n" in header
        assert run("hipcc", "--version").startswith("HIP version: 7.0.")
        torch = pytest.importorskip("torch")
        assert torch.version.hip == run("hipconfig", "--version")
        # sglang's parse
        assert tuple(int(n) for n in torch.version.hip.split("-")[0].split("."))[:2] == (7, 0)


def test_rocm_smi_answers_the_questions_that_are_asked_of_it() -> None:
    with mock_rocm("gfx942", count=2):
        assert run("rocm-smi", "--showdriverversion", "--csv").splitlines()[0] == "name,value"
        assert "XGMI" in run("rocm-smi", "--showtopo")
        assert run("rocm_agent_enumerator").split() == ["gfx000", "gfx942", "gfx942"]


@pytest.mark.parametrize("command", [("rocm-smi", "--reset"), ("hipconfig", "--nonsense")])
def test_a_tool_that_is_asked_for_more_says_that_it_is_a_stand_in(
    command: tuple[str, ...],
) -> None:
    with mock_rocm("gfx942"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "stand-in" in done.stderr
    assert command[1] in done.stderr


def test_hipcc_compiles_nothing_and_says_so() -> None:
    with mock_rocm("gfx942"):
        done = subprocess.run(["hipcc", "x.hip"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "stand-in" in done.stderr


def test_the_tools_leave_path_with_the_mock(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.environ["PATH"]
    outside = shutil.which("rocminfo")
    with mock_rocm("gfx942"):
        assert shutil.which("rocminfo") != outside
        with mock_rocm("gfx1100"):
            # One mock's tools only: a tool that the inner lacks must not come from the outer.
            assert os.environ["PATH"].count("pytest-rocm-attn-mock-") == 1
            assert "gfx1100" in run("rocminfo")
        assert "gfx942" in run("rocminfo")
    assert os.environ["PATH"] == before
    assert shutil.which("rocminfo") == outside


def test_without_a_path_the_systems_tools_are_still_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PATH")
    with mock_rocm("gfx942"):
        assert "gfx942" in run("rocminfo")  # its script needs cat
    assert "PATH" not in os.environ


def test_the_temporary_folder_goes_with_the_process_and_dead_ones_are_swept(
    tmp_path: Path,
) -> None:
    code = (
        "import os, sys\n"
        "from pytest_rocm_attn.mock import mock_rocm\n"
        "mock_rocm('gfx942').enter()\n"
        "print(os.environ['ROCM_PATH'])\n"
        "sys.stdout.flush()\n"
        "if sys.argv[1] == 'abrupt': os._exit(0)\n"
    )
    environ = {**os.environ, "TMPDIR": str(tmp_path)}

    def process(how: str) -> Path:
        command = [sys.executable, "-c", code, how]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
        return Path(done.stdout.strip())

    assert not process("orderly").exists()
    left = process("abrupt")
    assert left.exists()
    process("orderly")
    assert not left.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_that_ends_leaves_the_parents_tools() -> None:
    code = (
        "import os, sys\n"
        "from pytest_rocm_attn.mock import mock_rocm\n"
        "with mock_rocm('gfx942'):\n"
        "    root = os.environ['ROCM_PATH']\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        sys.exit(0)  # with exit hooks, unlike os._exit\n"
        "    os.waitpid(child, 0)\n"
        "    sys.exit(not os.path.isdir(root))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
