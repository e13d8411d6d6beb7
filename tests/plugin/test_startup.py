"""What starting pytest costs where this plugin is installed: next to nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec

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
    modules = ("", ".fixtures", ".hookspecs", ".options", ".plugin")
    assert done.stdout.split() == [f"pytest_rocm_attn{name}" for name in modules]


def test_collecting_an_empty_folder_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    for name in HEAVY:
        pytester.makepyfile(**{name: "raise RuntimeError('imported at start-up')"})
    result = pytester.runpytest_subprocess(
        "--collect-only", "-p", "no:hypothesispytest", "-p", "no:randomly"
    )
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED, result.stderr.str()
    assert "imported at start-up" not in result.stdout.str() + result.stderr.str()
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.skipif(find_spec("torch") is None, reason="no torch")
@pytest.mark.parametrize("option", ["mock", "emulate"])
def test_a_mocked_gpu_does_not_import_torch_before_a_test_does(
    pytester: pytest.Pytester, option: str
) -> None:
    pytester.makepyfile(
        "import sys\ndef test_one(): assert not {'torch', 'triton'} & set(sys.modules)"
    )
    result = pytester.runpytest_subprocess(
        f"--rocm-attn-{option}=gfx942", "-p", "no:hypothesispytest", "-p", "no:randomly"
    )
    result.assert_outcomes(passed=1)


def test_the_plugin_can_be_switched_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(): pass")
    result = pytester.runpytest_subprocess("-p", "no:rocm_attn", "-p", "no:randomly")
    result.assert_outcomes(passed=1)


def test_a_normal_run_looks_the_same_with_the_plugin_and_without(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile("def test_one(): pass\ndef test_two(): assert False")
    told = []
    for options in ([], ["-p", "no:rocm_attn"]):
        result = pytester.runpytest_subprocess("-p", "no:randomly", *options)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        lines = [line for line in result.outlines if not line.startswith("plugins: ")]
        told.append([re.sub(r"\d+\.\d\ds", "", line) for line in lines])
    assert told[0] == told[1]


COUNTING = """
import sys
from pathlib import Path

import pytest_rocm_attn.plugin

HERE = str(Path(pytest_rocm_attn.plugin.__file__).parent)
calls = 0

def count(frame, event, argument):
    global calls
    if event == "call" and frame.f_code.co_filename.startswith(HERE):
        calls += 1

def pytest_collection(session):
    sys.setprofile(count)

def pytest_sessionfinish(session):
    sys.setprofile(None)
    ours = [name for name in sys.modules if name.startswith("pytest_rocm_attn")]
    print(f"\\ncalls: {calls}, modules: {len(ours)}")
"""


def test_a_test_without_our_markers_costs_two_calls_of_ours(pytester: pytest.Pytester) -> None:
    """One look at its markers when it is collected, one at those that came later when it is run."""
    pytester.makeconftest(COUNTING)
    pytester.makepyfile(
        test_few="import pytest\n@pytest.mark.parametrize('n', range(10))\ndef test_it(n): pass\n",
        test_many="def test_it(): pass\n" + "".join(f"def test_{n}(): pass\n" for n in range(109)),
    )
    counted = []
    for name in ("test_few.py", "test_many.py"):
        result = pytester.runpytest_subprocess("-s", "-p", "no:randomly", "-p", "no:xdist", name)
        assert result.ret == pytest.ExitCode.OK
        (line,) = (line for line in result.outlines if line.startswith("calls: "))
        calls, modules = (int(word.split()[1]) for word in line.split(", "))
        assert modules == 5  # as in the test above
        counted.append(calls)
    assert counted[1] - counted[0] <= 2 * 100


def test_our_markers_pass_strict_markers_and_are_unknown_without_the_plugin(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.rocm_attn_gpu
        def test_any(): pass
        @pytest.mark.rocm_gpu("gfx942", "gfx950")
        def test_one_of_two(): pass
        @pytest.mark.rocm_attn_aiter
        def test_with_aiter(): pass
        """
    )
    strict = ["--strict-markers", "--collect-only", "-q"]
    result = pytester.runpytest_subprocess(*strict)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["3 tests collected*"])
    without = pytester.runpytest_subprocess(*strict, "-p", "no:rocm_attn")
    assert without.ret == pytest.ExitCode.INTERRUPTED
    without.stdout.fnmatch_lines(["*'rocm_attn_gpu' not found in `markers` configuration option*"])
