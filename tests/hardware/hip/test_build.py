"""The HIP kernels built on the AMD machine, by its own compiler, in a folder of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pytest_rocm_attn.backends.hip import build

pytestmark = pytest.mark.rocm_attn_gpu

TWO = """
import sys
from pathlib import Path
from pytest_rocm_attn.backends.hip import build
path = build.find_or_build(Path(sys.argv[1]), build.ingredients(), build.build_with_torch)
build.Library(path)
print(path)
"""


@pytest.mark.usefixtures("device")
def test_two_processes_build_one_library_that_is_found_again(tmp_path: Path) -> None:
    """hipcc builds the kernels; two that build at once get one library; it is not built again."""
    command = [sys.executable, "-c", TWO, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=1200)[0].splitlines()[-1] for process in running]
    assert outputs[0] == outputs[1]

    def not_again(folder: Path) -> Path:
        raise AssertionError(f"built again, in {folder}")

    assert str(build.find_or_build(tmp_path, build.ingredients(), not_again)) == outputs[0]


def test_what_a_library_is_made_for_is_this_gpu(device: torch.device) -> None:
    """The key of the build cache names the target and the runtime."""
    made_of = build.ingredients()
    assert torch.cuda.get_device_properties(device).gcnArchName in made_of
    assert str(torch.version.hip) in made_of
