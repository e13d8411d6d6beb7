"""Our backends as the tiers meet them: which kernel a subject insists on, and what it does without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_rocm_attn.backends import rocm_attn, under_test
from pytest_rocm_attn.backends.hip import build
from pytest_rocm_attn.conformance.tiers.numerics.case import Case, shipped
from pytest_rocm_attn.conformance.tiers.numerics.judge import examine
from pytest_rocm_attn.errors import HipBuildError

CPU = torch.device("cpu")


def case(name: str) -> Case:
    return next(case for case in shipped() if case.id == name)


def test_a_subject_that_insists_on_hip_declines_where_there_is_no_matrix_kernel() -> None:
    finding = examine(under_test.RocmAttnHip(), case("block-size-32"), CPU)
    assert finding.kind == "declined"
    assert "HIP decode is not reached" in finding.words


@pytest.mark.parametrize("backend", [under_test.RocmAttnHip(), under_test.RocmAttnPlainHip()])
def test_a_build_that_fails_is_never_taken_for_the_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: Any
) -> None:
    """The layer itself would go on with Triton, and its right numbers pass for the HIP kernel's."""

    def fails(*_: object) -> Path:
        raise HipBuildError("no hipcc here")

    monkeypatch.setattr(build, "find_or_build", fails)
    monkeypatch.setattr(rocm_attn.RocmAttention, "decode_refusal", lambda *_: "")
    monkeypatch.setattr(build, "_found", {})
    finding = examine(backend, case("block-size-32"), CPU)
    assert finding.kind == "crashed"
    assert "no hipcc here" in finding.words
