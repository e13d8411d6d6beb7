"""The environment that a selector under test finds, and what is noticed of its reading it."""

from __future__ import annotations

import os

import pytest

from pytest_rocm_attn.conformance.isolation.inside.environment import (
    EnvironmentReads,
    neutral_environment,
    set_environment,
)
from pytest_rocm_attn.flags import VARIABLES


def test_no_variable_that_a_row_may_set_is_left() -> None:
    shell = dict.fromkeys([*VARIABLES, "VLLM_ROCM_NOT_YET_KNOWN"], "1") | {"HOME": "/home/me"}
    assert neutral_environment(shell) == {"HOME": "/home/me"}


@pytest.mark.parametrize("name", ["HIP", "CUDA", "ROCR"])
def test_devices_are_hidden_from_real_gpus_only(name: str) -> None:
    shell = {f"{name}_VISIBLE_DEVICES": "1"}
    assert neutral_environment(shell) == {}
    assert neutral_environment(shell, mocked=False) == shell


def test_the_environment_becomes_what_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    monkeypatch.setenv("ROCM_ATTN_TOO_MUCH", "1")
    try:
        set_environment(before | {"ROCM_ATTN_WANTED": "x"})
        assert dict(os.environ) == before | {"ROCM_ATTN_WANTED": "x"}
    finally:
        set_environment(before)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> EnvironmentReads:
    """What is read while a block runs in which A is "1" and B is not set."""
    monkeypatch.setenv("ROCM_ATTN_A", "1")
    monkeypatch.delenv("ROCM_ATTN_B", raising=False)
    return EnvironmentReads()


def test_every_way_to_read_a_variable_is_noticed(reads: EnvironmentReads) -> None:
    for read in (
        lambda: os.environ["ROCM_ATTN_A"],
        lambda: os.environ.get("ROCM_ATTN_A"),
        lambda: os.getenv("ROCM_ATTN_A"),
        lambda: "ROCM_ATTN_A" in os.environ,
    ):
        reads.values.clear()
        with reads.recording():
            read()
        assert reads.values == {"ROCM_ATTN_A": "1"}


def test_a_variable_that_is_not_there_counts_as_read(reads: EnvironmentReads) -> None:
    with reads.recording():
        assert os.environ.get("ROCM_ATTN_B") is None
        with pytest.raises(KeyError):
            os.environ["ROCM_ATTN_B"]
    assert reads.values == {"ROCM_ATTN_B": None}


def test_going_through_the_environment_reads_every_declared_variable(
    reads: EnvironmentReads,
) -> None:
    with reads.recording():
        dict(os.environ)
    assert reads.values.keys() >= VARIABLES.keys()


def test_the_first_value_is_kept_and_nothing_is_noticed_afterwards(
    reads: EnvironmentReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reads.recording():
        os.environ.get("ROCM_ATTN_A")
        monkeypatch.setenv("ROCM_ATTN_A", "2")
        os.environ.get("ROCM_ATTN_A")
    os.environ.get("ROCM_ATTN_B")
    assert reads.values == {"ROCM_ATTN_A": "1"}
