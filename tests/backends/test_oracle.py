"""The oracle against answers worked out by hand."""

import math

import torch

from pytest_rocm_attn.backends.oracle import attend, visible_keys


def test_causality_is_bottom_right_aligned() -> None:
    assert visible_keys(2, 3).tolist() == [[True, True, False], [True, True, True]]


def test_a_window_of_two_sees_the_token_itself_and_one_before() -> None:
    assert visible_keys(1, 3, window=2).tolist() == [[False, True, True]]


def test_a_sink_takes_its_share_and_gives_no_value() -> None:
    one = torch.ones(1, 1, 1)
    sinks = torch.tensor([math.log(3.0)], dtype=torch.float64)
    result = attend(0 * one, one, one, scale=1.0, sinks=sinks)
    assert math.isclose(result.out.item(), 0.25)


def test_a_token_that_sees_nothing_is_zero() -> None:
    result = attend(torch.ones(1, 2, 4), torch.ones(0, 1, 4), torch.ones(0, 1, 4), scale=1.0)
    assert result.out.eq(0).all()
    assert result.lse.eq(-torch.inf).all()
