"""The decisions behind the hardware markers."""

from __future__ import annotations

import pytest

from pytest_rocm_attn.gpu import Aiter
from pytest_rocm_attn.hardware import DetectedGpu, Detection
from pytest_rocm_attn.markers import AITER, GPU, not_run_summary, skip_reason

NONE = Detection((), "no AMD GPU driver here; plug one in")
MI300X = Detection((DetectedGpu(0, "gfx942", "AMD Instinct MI300X"),), "")
MIXED = Detection((*MI300X.gpus, DetectedGpu(1, "gfx1100", "AMD Radeon RX 7900 XTX")), "")


def test_without_targets_any_gpu_is_enough() -> None:
    assert skip_reason(GPU, (), MI300X, Aiter.ABSENT) is None


def test_without_a_gpu_the_reason_says_what_is_missing_and_how_to_get_it() -> None:
    reason = skip_reason(GPU, (), NONE, Aiter.PRESENT)
    assert reason is not None
    assert "ROCm GPU" in reason
    assert NONE.reason in reason


@pytest.mark.parametrize("targets", [("gfx942",), ("gfx1201", "gfx942")])
def test_rocm_gpu_runs_where_one_of_its_targets_is(targets: tuple[str, ...]) -> None:
    assert skip_reason(GPU, targets, MI300X, Aiter.ABSENT) is None


def test_rocm_gpu_finds_its_target_behind_another_gpu() -> None:
    assert skip_reason(GPU, ("gfx1100",), MIXED, Aiter.ABSENT) is None


def test_rocm_gpu_on_another_gpu_names_the_wanted_and_the_present() -> None:
    reason = skip_reason(GPU, ("gfx950", "gfx1201"), MI300X, Aiter.ABSENT)
    assert reason is not None
    assert "gfx950 or gfx1201" in reason
    assert "gfx942 (AMD Instinct MI300X)" in reason


def test_rocm_gpu_without_a_gpu_names_the_wanted_and_why_there_is_none() -> None:
    reason = skip_reason(GPU, ("gfx950",), NONE, Aiter.ABSENT)
    assert reason is not None
    assert "gfx950" in reason
    assert NONE.reason in reason


def test_aiter_runs_where_amds_is() -> None:
    assert skip_reason(AITER, (), NONE, Aiter.PRESENT) is None


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (Aiter.ABSENT, ["not installed", "pip install amd-aiter"]),
        (Aiter.IMPOSTOR, ["unrelated", "pip uninstall aiter", "amd-aiter"]),
        (Aiter.BROKEN, ["does not work", "amd-aiter"]),
    ],
)
def test_without_amds_aiter_the_reason_tells_the_cases_apart(
    state: Aiter, words: list[str]
) -> None:
    reason = skip_reason(AITER, (), MI300X, state, "its import fails: KeyError")
    assert reason is not None
    assert all(word in reason for word in [*words, "its import fails: KeyError"])


def test_another_marker_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="slow"):
        skip_reason("slow", (), MI300X, Aiter.PRESENT)


def test_the_summary_counts_what_did_not_run_and_says_why() -> None:
    line = not_run_summary({"needs a real ROCm GPU: none": 3, "needs gfx950": 1})
    assert line is not None
    assert line.startswith("4 hardware tests did not run: ")
    assert "needs gfx950" in line


def test_the_summary_is_silent_when_all_ran() -> None:
    assert not_run_summary({}) is None
