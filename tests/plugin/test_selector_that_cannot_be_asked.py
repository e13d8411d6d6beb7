"""A selector that cannot be asked is one line before any row; one that ends when asked is a result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

without_torch = pytest.mark.usefixtures("without_torch")

CONTRACT = """
id = "two-gpus"
title = "t"
source = "this test"
""" + "".join(
    f"""
[[case]]
id = "on-{gfx}"
source = "s"
level = "required"
platform = {{ gfx = "{gfx}" }}
expect = {{ backend = "TRITON_ATTN" }}
"""
    for gfx in ("gfx1201", "gfx942")
)


def run(pytester: pytest.Pytester, source: str, *options: str) -> pytest.RunResult:
    pytester.makefile(".toml", contract=CONTRACT)
    pytester.makepyfile(selector=source)
    return pytester.runpytest_subprocess(
        "--rocm-attn-conformance",
        "--rocm-attn-contract=contract.toml",
        "--rocm-attn-selector=selector.py:select",
        "--rocm-attn-report=report.json",
        *options,
    )


def verdicts(folder: Path) -> dict[str, Any]:
    rows = json.loads((folder / "report.json").read_text())["rows"]
    return {row["gpu"]["gfx"]: (row["verdict"], row["message"]) for row in rows}


@without_torch
def test_a_missing_package_is_named_once_before_any_row(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def select(request): import gone_package")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line]
    assert line.startswith("ERROR: selector 'selector.py:select' cannot be asked: ")
    assert line.endswith("(selector imports it): `pip install gone_package`")
    assert verdicts(pytester.path) == {}
    result.stdout.fnmatch_lines(["2 items: 2 not run (*"])


@without_torch
def test_a_name_that_a_module_lacks_is_a_crash_of_each_row(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def select(request): from json import of_the_past")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    found = verdicts(pytester.path)
    assert found.keys() == {"gfx942", "gfx1201"}
    assert {verdict for verdict, _ in found.values()} == {"crash"}
    assert all(
        "ImportError: cannot import name 'of_the_past'" in text for _, text in found.values()
    )


@without_torch
def test_a_package_that_one_gpu_lacks_and_a_selector_that_ends_are_results(
    pytester: pytest.Pytester,
) -> None:
    source = """
    import os
    def needs_a_package():
        try:
            import gone_package.part
        except ImportError:
            raise RuntimeError("no backend")
    def select(gpu):
        if gpu.gfx == "gfx1201":
            {}
        return "TRITON_ATTN"
    """
    remedy = (
        "no backend; install the package that has gone_package (selector imports it): `pip install"
    )
    for fails, kind, words in (
        ("needs_a_package()", "a crash (RuntimeError on importing gone_package)", remedy),
        ("os._exit(0)", "the end of its process", "status 0"),
    ):
        result = run(pytester, source.format(fails))
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        found = verdicts(pytester.path)
        assert found["gfx942"] == ("pass", "")
        verdict, message = found["gfx1201"]
        assert verdict == "crash"
        assert words in message
        result.stdout.fnmatch_lines([f"CRASH *: TRITON_ATTN -> {kind}, on gfx1201. *"])
        why = next(line for line in result.outlines if line.startswith("  why "))
        assert (words in why) == (words is remedy)


# A platform of vLLM's form is called once before any row, for the imports that its first call costs.
PLATFORM = """
import os

class select:
    @classmethod
    def get_attn_backend_cls(
        cls, selected_backend, head_size, dtype, kv_cache_dtype, block_size, use_v1, use_mla
    ):
        os._exit(0)
"""


def test_a_platform_that_ends_at_its_first_call_is_a_result_of_each_row(
    pytester: pytest.Pytester,
) -> None:
    pytest.importorskip("torch")
    result = run(pytester, PLATFORM)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    crash = ("crash", "expected TRITON_ATTN, got the process exited with status 0")
    assert verdicts(pytester.path) == {"gfx942": crash, "gfx1201": crash}


@without_torch
def test_the_selector_that_the_grid_is_compared_with_is_looked_at_as_well(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(other="import gone_package")
    options = ("--rocm-attn-tier=grid", "--rocm-attn-against=other.py:select")
    result = run(pytester, "def select(request): return 'TRITON_ATTN'", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line]
    assert line.startswith("ERROR: selector 'other.py:select' cannot be imported: ")
    assert line.endswith("`pip install gone_package`")
