"""A trial of honesty: what was accepted stays accepted, and what breaks afterwards is red.

tests/acceptance/test_honesty.py is the same with real releases of vLLM.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.promise import contract, deviations
from pytest_rocm_attn.conformance.run import session

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("without_torch")

_KEPT = (contract, deviations, session)  # see test_conformance_run.py
DECLARED = "rocm-attn-deviations.toml"
HEAD = 'id = "mini"\ntitle = "a few rows"\nsource = "this test"\n'
AITER, SPLIT = "VLLM_ROCM_USE_AITER", "VLLM_V1_USE_PREFILL_DECODE_ATTENTION"
NAMED = "VLLM_ATTENTION_BACKEND"
REFUSES = 'rejects = true, mentions = ["TRITON_MLA", "block size"]'
ROWS = {  # id -> environment, request, expectation
    "triton-is-the-default": ("", "", 'backend = "TRITON_ATTN"'),
    "aiter-gives-fa": (f'{AITER} = "1"', "", 'backend = "ROCM_AITER_FA"'),
    "split-flag-gives-rocm-attn": (f'{SPLIT} = "1"', "", 'backend = "ROCM_ATTN"'),
    **{
        f"mla-refuses-block-size-{size}": (
            f'{NAMED} = "TRITON_MLA"',
            f"use_mla = true, block_size = {size}",
            REFUSES,
        )
        for size in (1, 2)
    },
    **{
        f"a-named-{name.lower().replace('_', '-')}-is-taken": (
            f'{NAMED} = "{name}"',
            "",
            f'backend = "{name}"',
        )
        for name in ("FLEX_ATTENTION", "ROCM_ATTN", "TRITON_ATTN")
    },
}
# Its default differs from the contract's, it does not refuse block size 2, and it lacks two backends.
FORK = """
def select(request, environ, gpu):
    named = environ.get("VLLM_ATTENTION_BACKEND")
    if named:
        if request.block_size == 1:
            raise ValueError(f"{named} does not support this block_size: {request.block_size}")
        if named == "FLEX_ATTENTION":
            raise ValueError("FLEX_ATTENTION is not installed")
        if named == "ROCM_ATTN":
            raise ValueError("ROCM_ATTN needs another GPU")
        return named
    if environ.get("VLLM_ROCM_USE_AITER") == "1":
        return "ROCM_AITER_FA"
    if environ.get("VLLM_V1_USE_PREFILL_DECODE_ATTENTION") == "1":
        return "ROCM_ATTN"
    for backend in ("ROCM_AITER_UNIFIED_ATTN", "TRITON_ATTN"):
        return backend
"""
# Changes to the fork, each with the row that it turns red, the verdict, and words of the message.
MUTATIONS: dict[str, tuple[str, str, str, str, str]] = {
    "two priorities swapped": (
        '("ROCM_AITER_UNIFIED_ATTN", "TRITON_ATTN")',
        '("TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN")',
        "triton-is-the-default",
        "stale",
        "the row holds, but",
    ),
    "a flag ignored": (
        '"VLLM_V1_USE_PREFILL_DECODE_ATTENTION") == "1"',
        '"VLLM_V1_USE_PREFILL_DECODE_ATTENTION") == "on"',
        "split-flag-gives-rocm-attn",
        "fail",
        "expected ROCM_ATTN, got TRITON_ATTN",
    ),
    "explicit choices not validated": (
        "if request.block_size == 1:",
        "if False:",
        "mla-refuses-block-size-1",
        "fail",
        "expected a refusal that mentions 'TRITON_MLA', 'block size', got TRITON_MLA",
    ),
    "another backend than the accepted one": (
        "        return named\n",
        "        return 'ROCM_AITER_MLA' if request.block_size == 2 else named\n",
        "mla-refuses-block-size-2",
        "fail",
        "got ROCM_AITER_MLA; the answer of a deviation changed:",
    ),
    "a refusal for another reason": (
        "FLEX_ATTENTION is not installed",
        "FLEX_ATTENTION lacks this dtype",
        "a-named-flex-attention-is-taken",
        "fail",
        "declares a deliberate refusal that mentions 'FLEX_ATTENTION', 'install' (ours), but the result",
    ),
    "a crash in place of a refusal": (
        'raise ValueError("ROCM_ATTN needs another GPU")',
        'raise TypeError("ROCM_ATTN needs another GPU")',
        "a-named-rocm-attn-is-taken",
        "crash",
        "declares a deliberate refusal that mentions 'GPU', 'ROCM_ATTN' (ours), but the result is a crash",
    ),
}


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[..., list[dict[str, Any]]]:
    """A function that runs a fork's text, with more options, and returns the rows of its report."""
    rows = [
        f'[[case]]\nid = "{name}"\nsource = "s"\nlevel = "required"\n'
        f'platform = {{ gfx = "gfx942" }}\nenv = {{ {env} }}\n'
        f"request = {{ {request} }}\nexpect = {{ {expect} }}\n"
        for name, (env, request, expect) in ROWS.items()
    ]
    pytester.makefile(".toml", mini="".join([HEAD, *rows]))

    def run(fork: str, *options: str) -> list[dict[str, Any]]:
        (pytester.path / "fork.py").write_text(fork)
        result = pytester.runpytest_inprocess(
            *("--rocm-attn-conformance", "--rocm-attn-contract=mini.toml", "-p", "no:randomly"),
            *("--rocm-attn-selector=fork.py:select", "--rocm-attn-report=rep.json"),
            *options,
        )
        found: list[dict[str, Any]] = json.loads((pytester.path / "rep.json").read_text())["rows"]
        red = any(row["verdict"] not in ("pass", "advisory", "deviation") for row in found)
        assert result.ret == (pytest.ExitCode.TESTS_FAILED if red else pytest.ExitCode.OK)
        return found

    return run


def test_a_fork_is_green_under_what_was_drafted_for_it_and_red_where_it_is_broken(
    run: Callable[..., list[dict[str, Any]]], pytester: pytest.Pytester
) -> None:
    file = pytester.path / DECLARED
    file.write_text("# what our fork does otherwise\n")
    run(FORK, f"--rocm-attn-deviations-draft={DECLARED}")
    text = file.read_text().replace('reason = ""', 'reason = "ours"')
    assert text.count("[[deviation]]") == 4
    file.write_text(text.replace('link   = ""', 'link   = "#1"'))

    verdicts = [row["verdict"] for row in run(FORK) if row["tier"] == "documented"]
    assert sorted(verdicts) == ["deviation"] * 4 + ["pass"] * (len(ROWS) - 4)

    broken = FORK
    for old, new, *_ in MUTATIONS.values():
        assert broken.count(old) == 1
        broken = broken.replace(old, new)
    rows = {row["id"]: row for row in run(broken)}
    for name, (_, _, row_id, verdict, words) in MUTATIONS.items():
        assert rows[row_id]["verdict"] == verdict, name
        assert words in rows[row_id]["message"], name
    untouched = ROWS.keys() - {row_id for _, _, row_id, *_ in MUTATIONS.values()}
    assert {rows[row_id]["verdict"] for row_id in untouched} == {"pass"}
