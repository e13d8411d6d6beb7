"""A module that reserves device memory when it is imported does not stop a selector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.isolation import Question
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.outcome import Crashed, Rejected
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from tests.conformance.isolation.conftest import MakePool


def test_memory_that_an_import_reserves_is_there_and_other_device_memory_is_not(
    make_pool: MakePool, tmp_path: Path
) -> None:
    (tmp_path / "workspace.py").write_text(
        "import torch\n"
        "class Workspace:\n"
        "    def __init__(self, size):\n"
        "        self.buffer = torch.empty(size, device='cuda', dtype=torch.uint8)\n"
        "WORKSPACE = Workspace(128 << 20)\n"
        "ANOTHER = torch.zeros((4, 4), device=torch.device('cuda', 0))\n"
    )
    pool = make_pool(
        f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        def select(request, environ, gpu):
            import workspace
            if request.use_mla:
                import torch
                return torch.empty(4, device="cuda")  # no import: a selector has no use of it
            raise ValueError(f"TRITON_MLA: {{workspace.WORKSPACE.buffer.shape[0]}} bytes")
        """
    )
    questions = [Question.of(Gpu("gfx942"), {}, Request(use_mla=mla)) for mla in (False, True)]
    refused, crashed = [future.result().outcome for future in pool.submit(questions)]
    assert refused == Rejected("ValueError", f"TRITON_MLA: {128 << 20} bytes")
    assert isinstance(crashed, Crashed)
    assert crashed.error == "MockError"
