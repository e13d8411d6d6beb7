"""How far a correct floating-point attention may be from the exact one, element by element.

Nothing here is tuned: each term has a cause, and the figures are the formats' own.

Let u be the unit roundoff of the model dtype (half the distance from 1 to the next number), f that of
float32, S the number of visible keys, D the head size, and A = sum p |v| the result with signs
dropped. A kernel that accumulates in float32 and rounds the probabilities to the model dtype before
the value product (every backend here does, as matrix units take equal operands) errs by at most

1. scores: a dot product of D terms errs by 2 D f sum |q k|: f per addition, twice that because matrix
   units may truncate instead of rounding. Scaling, soft cap, ALiBi and the change to base 2 add a few
   roundings of the finished score, at most SCORE_STEPS f of its size. A score error of d
   changes each weight by a factor e^d, and so does the denominator: 2 d relative to A.
2. probabilities: u relative to A; below the dtype's smallest normal number, where p cannot keep its
   relative precision, an absolute error instead: the smallest normal itself, because AMD's CDNA2
   matrix units flush smaller operands to zero. The unnormalised p is at most 1, so that adds
   `smallest normal` * sum |v| / denominator.
3. accumulation: S additions of 2 f each in the numerator, S additions of f in the denominator, and
   for each tile of keys one rescaling of both (an exponential and a product, RESCALE f). A tile
   has at least 16 keys, the smallest matrix operand. Merging split keys rescales once more for each
   split, of which there are at most as many as tiles, and twice for none; a split's log-sum-exp is
   rounded once, at a size of at most the score's and ln S.
4. output: u relative to the result, after all of that; then the smallest subnormal of the dtype.

First-order terms only; the products of two such terms are below the slack of the worst-case sums.
A backend that dequantises an fp8 cache into the model dtype (rounding k * k_scale and v * v_scale,
as vLLM's does; ours keeps the scales in float32) adds u sum |q k| to 1 and u A to 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.oracle import Reference

F32 = 2.0**-24  # unit roundoff of float32
# Error of a hardware exponential in units of F32: 2 ulp (CUDA's ex2.approx, AMD's v_exp).
EXP2 = 4.0
SCORE_STEPS = 8.0  # scale, k_scale, cap's divide, tanh (exp, add, divide), product, base 2
RESCALE = 2 * (EXP2 + 2)  # the exponential and the product, in numerator and denominator
SMALLEST_TILE = 16  # keys


@dataclass(frozen=True, slots=True)
class Format:
    """A model dtype's figures: unit roundoff, smallest normal number, smallest subnormal number."""

    unit: float
    normal: float
    subnormal: float


FORMATS: dict[torch.dtype, Format] = {
    torch.float16: Format(2.0**-11, 2.0**-14, 2.0**-24),
    torch.bfloat16: Format(2.0**-8, 2.0**-126, 2.0**-133),
    torch.float32: Format(2.0**-24, 2.0**-126, 2.0**-149),
}


def output_bound(
    reference: Reference, dtype: torch.dtype, head_size: int, *, rounds_cache: bool = False
) -> torch.Tensor:
    """Return the largest error a correct kernel can make, [tokens, heads, value size] float64.

    Args:
        reference: what the oracle returned.
        dtype: the model dtype: of the query, the probabilities and the output.
        head_size: terms in a dot product.
        rounds_cache: the backend rounds a dequantised fp8 cache to the model dtype.
    """
    form = FORMATS[dtype]
    keys = reference.keys.to(torch.float64)[:, None, None]
    weights = 2 * _score_error(reference, form, head_size, rounds_cache)[:, :, None]
    rounding = form.unit * (2 if rounds_cache else 1)
    adding = (3 * keys + (2 * keys / SMALLEST_TILE + 2) * RESCALE) * F32
    error = (weights + rounding + adding) * reference.weighted + form.normal * reference.visible
    return error + form.unit * (reference.out.abs() + error) + form.subnormal


def lse_bound(
    reference: Reference, dtype: torch.dtype, head_size: int, *, rounds_cache: bool = False
) -> torch.Tensor:
    """Return the largest error of the log-sum-exp, [heads, tokens] float64: terms 1 and 3 above.

    The logarithm itself is float32 and adds EXP2 roundings of the result.
    """
    score = _score_error(reference, FORMATS[dtype], head_size, rounds_cache)
    keys = reference.keys.to(torch.float64)[:, None]
    adding = (keys + (2 * keys / SMALLEST_TILE + 2) * RESCALE) * F32
    finite = reference.lse.T.abs().nan_to_num(posinf=0.0)
    return (score + adding + EXP2 * F32 * (1 + finite)).T


def _score_error(
    reference: Reference, form: Format, head_size: int, rounds_cache: bool
) -> torch.Tensor:
    """Return the error of a score as the exponential sees it, [tokens, heads] float64."""
    product = 2 * head_size * F32 + (form.unit if rounds_cache else 0.0)
    # The running maximum is subtracted from the score, and with split keys the log-sum-exp of a
    # split from that of all: two more roundings of either.
    size = reference.score + reference.offset + reference.keys.clamp(min=1).log()[:, None]
    return product * reference.score + (SCORE_STEPS + 2) * F32 * size + EXP2 * F32
