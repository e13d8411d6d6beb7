"""What replaying finds: each wrong subject here would pass the plain examination."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_rocm_attn.conformance.adapters import load
from pytest_rocm_attn.conformance.tiers.numerics.case import Case, Result, shipped
from pytest_rocm_attn.conformance.tiers.numerics.judge import examine, reference_of

REPLAY = Path(__file__).parents[3] / "hardware" / "replay.py"
examine_replayed: Any = load(f"{REPLAY}:examine_replayed")
CPU = torch.device("cpu")
CASES = {case.id: case for case in shipped()}
DECODE = CASES["decode-on-both-sides-of-every-tile-edge-float16"]
MIXED, LATENT = CASES["mixed-batch-bfloat16"], CASES["mla-decode-of-one-long-request"]


class Right:
    """Asks the oracle, as no backend would."""

    graphs = True
    checked = True

    def attend(self, problem: Any) -> None:
        assert not self.checked
        problem.out.copy_(reference_of(problem).out)

    mla_decode = attend


class _Baked(Right):
    """Keeps what a host would keep of the first step: one of its tensors' contents."""

    kept = ""

    def __init__(self) -> None:
        self.first: Any = None

    def attend(self, problem: Any) -> None:
        if self.first is None:
            self.first = getattr(problem, self.kept).clone()
        super().attend(replace(problem, **{self.kept: self.first}))

    mla_decode = attend


class BakedLengths(_Baked):
    kept = "seq_lens"


class BakedTable(_Baked):
    kept = "block_table"


class BakedQuery(_Baked):
    kept = "query"


class WritesElsewhere(Right):
    calls = 0

    def attend(self, problem: Any) -> None:
        super().attend(problem)
        self.calls += 1
        problem.kv_cache[0].fill_(self.calls)  # the block that nobody owns


def perfect(run: Callable[[], None]) -> Callable[[], None]:
    """Stand in for a graph whose replay does what the capture did."""
    return run


def idle(run: Callable[[], None]) -> Callable[[], None]:
    """Stand in for a capture that recorded nothing."""
    run()
    return lambda: None


def replayed(backend: Any, case: Case, capture: Any = perfect) -> Result:
    result: Result = examine_replayed(backend, case, CPU, capture)
    return result


@pytest.mark.parametrize("case", [DECODE, MIXED, LATENT], ids=lambda case: case.id)
def test_a_backend_that_reads_all_from_the_device_is_right(case: Case) -> None:
    finding = replayed(Right(), case)
    assert finding.kind == "right", finding.words
    assert finding.words.startswith("replayed: ")


@pytest.mark.parametrize("backend", [BakedLengths, BakedTable, BakedQuery])
@pytest.mark.parametrize("case", [DECODE, MIXED, LATENT], ids=lambda case: case.id)
def test_what_the_host_kept_of_the_captured_step_is_found(backend: Any, case: Case) -> None:
    plain = backend()
    plain.checked = False
    assert examine(plain, case, CPU).kind == "right"
    finding = replayed(backend(), case)
    assert finding.kind == "wrong"
    assert finding.ratio > 1


def test_a_replay_that_computes_nothing_is_found() -> None:
    assert replayed(Right(), DECODE, idle).kind == "wrong"


def test_a_replay_that_writes_elsewhere_is_found() -> None:
    finding = replayed(WritesElsewhere(), DECODE)
    assert finding.kind == "wrong"
    assert "kv_cache" in finding.words


def test_a_capture_that_the_runtime_refuses_is_a_crash_with_its_words() -> None:
    def refuses(run: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    finding = replayed(Right(), DECODE, refuses)
    assert finding.kind == "crashed"
    assert "not permitted when stream is capturing" in finding.words


@pytest.mark.parametrize(
    ("backend", "case", "words"),
    [
        (type("Other", (Right,), {"graphs": False})(), DECODE, "does not claim"),
        (Right(), CASES["one-request-with-one-token"], "no request is long enough"),
        (Right(), CASES["mla-prefill-after-a-context"], "has no mla_prefill"),
    ],
)
def test_what_cannot_be_replayed_is_declined(backend: Any, case: Case, words: str) -> None:
    finding = replayed(backend, case)
    assert finding.kind == "declined"
    assert words in finding.words


def test_on_a_cpu_nothing_is_captured() -> None:
    finding = examine_replayed(Right(), DECODE, CPU)
    assert finding.kind == "declined"
    assert "on a GPU" in finding.words
