"""What starting pytest costs where this plugin is installed: next to nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "triton", "hypothesis", "msgspec", "jinja2", "numpy")


@pytest.mark.parametrize("module", ["pytest_rocm_attn.plugin", "pytest_rocm_attn.fixtures"])
def test_importing_the_plugin_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_plugin_imports_only_what_pytest_itself_needs() -> None:
    code = "import sys, pytest; a = set(sys.modules); import pytest_rocm_attn.plugin; "
    code += "print(*sorted(set(sys.modules) - a))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = ("", ".fixtures", ".hookspecs", ".plugin")
    assert done.stdout.split() == [f"pytest_rocm_attn{name}" for name in modules]


def test_collecting_an_empty_folder_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    for name in HEAVY:
        pytester.makepyfile(**{name: "raise RuntimeError('imported at start-up')"})
    result = pytester.runpytest_subprocess(
        "--collect-only", "-p", "no:hypothesispytest", "-p", "no:randomly"
    )
    assert "imported at start-up" not in result.stdout.str() + result.stderr.str()


def test_the_plugin_can_be_switched_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(): pass")
    result = pytester.runpytest_subprocess("-p", "no:rocm_attn", "-p", "no:randomly")
    result.assert_outcomes(passed=1)
