"""Causes and conditions as plain data, for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.causes import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rocm_attn.conformance.causes.cause import Cause
    from pytest_rocm_attn.conformance.causes.conditions import Condition, Given


def condition(of: Condition) -> dict[str, Any]:
    """Return a condition: exactly where it holds, and what differs."""
    return {
        "where": _given(of.where),
        "sentence": words.condition_words(of),
        "level": of.change.level,
        "rule": of.change.rule,
        "declared": of.change.declared,
        "expected": words.expected_words(of.change),
        "got": str(of.change.got),
        "default": of.at_defaults,
        "overrides": of.overrides,
        "cells": of.cells,
    }


def cause(of: Cause, families: Sequence[str]) -> dict[str, Any]:
    """Return a cause; its conditions are positions in the list of all conditions.

    Args:
        of: the cause.
        families: the names of all families, in order.
    """
    expected, got = words.answers_of(of)
    return {
        "sentence": words.sentence(of),
        "level": of.change.level,
        "rule": of.change.rule,
        "declared": of.change.declared,
        "expected": expected,
        "got": got,
        "decided_by": of.theme,
        "where": _given(of.where),
        "except": _given(of.exceptions),
        "precision": round(of.precision, 3),
        "met": of.met,
        "cells": of.cells,
        "gpus": list(of.gpus),
        "backends": list(of.backends),
        "families": [families[number] for number in of.families],
        "conditions": list(of.conditions),
        "parts": [cause(part, families) for part in of.parts],
    }


def _given(all_of: Sequence[Given]) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "values": list(one.values), "others": list(one.others)} for one in all_of
    ]
