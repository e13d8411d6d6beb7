"""How a selector reached its answer, if it reports that: the ``trace`` of what it returned or raised.

docs/adapters.md has the shape: each step an object with ``rule``, ``answer``, ``reason`` and
``source``, or such a tuple, or one text.
"""

from __future__ import annotations

from itertools import islice

from pytest_rocm_attn.citations import linked

Step = tuple[str, str, str, str]

_STEPS = 200
_TEXT = 1_000  # characters


def steps_of(told: object) -> tuple[Step, ...]:
    """Return the steps that an answer, or an exception, brings along; () if it brings none.

    Args:
        told: what a selector returned or raised: anything at all.
    """
    try:
        trace = getattr(told, "trace", None)
        if trace is None or isinstance(trace, str) or callable(trace):
            return ()
        return tuple(_step(step) for step in islice(trace, _STEPS))
    except Exception:  # noqa: BLE001  foreign code runs here, and a trace is not part of the answer
        return ()


def _step(step: object) -> Step:
    if isinstance(step, str):
        parts: tuple[object, ...] = (step,)
    elif isinstance(step, tuple | list):
        parts = tuple(step[:4])
    else:
        parts = tuple(getattr(step, name, "") for name in ("rule", "answer", "reason", "source"))
    rule, answer, reason, source = (str(part)[:_TEXT] for part in (*parts, "", "", "", "")[:4])
    return rule, answer, reason, linked(source)
