"""The fixtures and markers in a suite of their own: what they do, and what they say."""

from __future__ import annotations

import pytest

OURS = ("-p", "no:randomly", "-p", "no:xdist", "-p", "no:cacheprovider")


def test_markers_act_whatever_they_are_put_on_and_end_with_their_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ROCM_USE_AITER", "1")
    monkeypatch.setenv("VLLM_MLA_DISABLE", "1")
    pytester.makeconftest(
        """
        import pytest

        @pytest.hookimpl(trylast=True)
        def pytest_collection_modifyitems(items):
            for item in items:
                if "collected" in item.name:
                    item.add_marker(pytest.mark.rocm_attn_env(VLLM_ROCM_USE_AITER="0"))
        """
    )
    pytester.makepyfile(
        """
        import os
        import subprocess
        import unittest
        import pytest

        mock, env = pytest.mark.rocm_attn_mock, pytest.mark.rocm_attn_env
        pytestmark = env(VLLM_ROCM_USE_AITER_MHA="0")

        def variables():
            names = ("VLLM_ROCM_USE_AITER", "VLLM_ROCM_USE_AITER_MHA", "VLLM_MLA_DISABLE")
            return [os.environ.get(name) for name in names]

        def arch():
            path = os.environ["ROCM_PATH"] + "/bin/rocm_agent_enumerator"
            return subprocess.check_output(path, text=True).split()[1:]

        def test_of_a_module():
            assert variables() == [None, "0", None]

        @env(VLLM_ROCM_USE_AITER="1", VLLM_ROCM_USE_AITER_MHA=None)
        class TestClass:
            @env(VLLM_ROCM_USE_AITER=False)
            def test_the_closest_wins(self):
                assert variables() == ["0", None, None]

        @pytest.mark.parametrize("n", [
            pytest.param(0, marks=mock("gfx942")), pytest.param(1, marks=mock("gfx1201", count=2)), 2,
        ])
        def test_of_a_variant(n):
            if n == 2:
                assert "pytest-rocm-attn" not in os.environ["PATH"]
            else:
                assert arch() == [["gfx942"], ["gfx1201", "gfx1201"]][n]

        @mock("gfx950")
        @mock("gfx942")
        def test_the_closest_is_in_force():
            assert arch() == ["gfx942"]

        @mock("gfx942")
        class TestUnittest(unittest.TestCase):
            def test_it(self):
                assert arch() == ["gfx942"]

        @mock("gfx942")
        def test_beside_the_fixtures(mock_rocm, rocm_env):
            assert arch() == ["gfx942"]
            assert variables() == [None, "0", None]
            mock_rocm("gfx950")
            assert arch() == ["gfx950"]

        @mock("gfx942")
        class TestOwnFixture:
            @pytest.fixture
            def mock_rocm(self):
                return "mine"

            def test_of_the_name(self, mock_rocm):
                assert (mock_rocm, arch()) == ("mine", ["gfx942"])

        @pytest.fixture(scope="module")
        def of_module():
            return os.environ.get("ROCM_PATH", "none")

        @pytest.fixture(autouse=True)
        def of_function():
            return os.environ.get("ROCM_PATH", "none")

        @mock("gfx942")
        def test_wider_fixtures_come_before_it_and_others_after(of_module, of_function):
            assert (of_module, of_function != "none") == ("none", True)

        def test_collected():
            assert variables() == ["0", "0", None]

        @pytest.mark.mock_rocm("gfx942")
        @pytest.mark.rocm_env(VLLM_ROCM_USE_AITER="1")
        def test_short_forms():
            assert (arch(), variables()) == (["gfx942"], ["1", "0", None])
        """
    )
    monkeypatch.delenv("ROCM_PATH", raising=False)
    result = pytester.runpytest_subprocess(*OURS, "--strict-markers", "-W", "error")
    result.assert_outcomes(passed=12)


def test_a_marker_that_comes_after_collection_acts_or_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        MARKS = {
            "test_gpu": pytest.mark.rocm_attn_gpu("gfx942"),
            "test_mock": pytest.mark.rocm_attn_mock("gfx942"),
            "test_env": pytest.mark.rocm_attn_env(VLLM_ROCM_USE_AITER="1"),
            "test_wrong": pytest.mark.rocm_attn_gpu("gfx94x"),
        }

        def pytest_runtest_setup(item):
            item.add_marker(MARKS[item.name])
        """
    )
    pytester.makepyfile(
        test_it="""
        from pytest_rocm_attn import hardware
        hardware.detect = lambda: hardware.Detection((), "none here")
        def test_gpu(): raise AssertionError("runs without the GPU")
        def test_mock(): pass
        def test_env(): pass
        def test_wrong(): pass
        """
    )
    result = pytester.runpytest_subprocess(*OURS, "-rs")
    result.assert_outcomes(skipped=1, failed=3)
    late = "the marker {} was added after collection, too late to act; add it in"
    result.stdout.fnmatch_lines(
        [
            "test_it.py:4: " + late.format("rocm_attn_mock") + "*fixture mock_rocm",
            "test_it.py:5: " + late.format("rocm_attn_env") + "*fixture rocm_env",
            "test_it.py:6: the rocm_attn_gpu marker: unknown GPU 'gfx94x'*",
            "SKIPPED * test_it.py:3: rocm-attn: needs a real gfx942: none here",
        ]
    )
    result.stdout.no_fnmatch_line("*pytest_rocm_attn/*")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "--rocm-attn-mock='' is invalid; expected a GPU"),
        ("gfx94x", "unknown GPU 'gfx94x'. Did you mean 'gfx942'"),
        ("gfx942,aiter,aiter=absent", "'aiter' is given twice"),
        ("gfx942,", "'' in 'gfx942,' is not known"),
        ("gfx942,count=65", "1 to 64 GPUs, not count=65"),
    ],
)
def test_a_wrong_mock_option_is_one_line_before_anything_runs(
    pytester: pytest.Pytester, given: str, words: str
) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess(*OURS, f"--rocm-attn-mock={given}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line]
    assert line.startswith("ERROR: --rocm-attn-mock=")
    assert words in line


@pytest.mark.parametrize(
    ("given", "machine"),
    [
        ("gfx942", "gfx942 (AMD Instinct MI300X), aiter absent"),
        (
            "gfx1201,aiter=broken,amdsmi=empty,count=2",
            "2 x gfx1201 (AMD Radeon RX 9070 XT), aiter broken, amdsmi empty",
        ),
    ],
)
def test_the_header_says_that_the_platform_is_mocked(
    pytester: pytest.Pytester, given: str, machine: str
) -> None:
    pytester.makepyfile("def test_it(): pass")
    by_option = pytester.runpytest_subprocess(*OURS, f"--rocm-attn-mock={given}")
    pytester.makeini(f"[pytest]\nrocm_attn_mock = {given}\n")
    for result in (by_option, pytester.runpytest_subprocess(*OURS)):
        result.assert_outcomes(passed=1)
        assert f"rocm-attn: mocked platform: {machine} (--rocm-attn-mock)" in result.outlines


@pytest.mark.usefixtures("with_torch")
def test_what_the_mock_refuses_is_shown_at_the_line_that_asked(pytester: pytest.Pytester) -> None:
    calls = (
        "torch.empty(1, device='cuda')",
        "torch.cuda.get_device_properties(0).clock_rate",
        "torch.cuda.cudart().cudaHostRegister",
        "torch._C._cuda_no_such",
        "amdsmi.amdsmi_no_such",
        "aiter.flash_attn_func()",
    )
    text = "import pytest, torch\npytestmark = pytest.mark.rocm_attn_mock('gfx942', aiter=True)\n"
    for number, call in enumerate(calls):
        text += f"def test_{number}():\n    import aiter, amdsmi\n    {call}\n"
    pytester.makepyfile(test_it=text)
    result = pytester.runpytest_inprocess(*OURS)
    result.assert_outcomes(failed=len(calls))
    shown = str(result.stdout)
    assert "pytest_rocm_attn/" not in shown
    for number, call in enumerate(calls):
        assert f">       {call}\n" in shown
        assert f"test_it.py:{3 * number + 5}: Mock" in shown, call


def test_a_text_that_reads_as_off_is_said_where_it_is_written(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest

        def test_fixture(rocm_env):
            rocm_env(VLLM_ROCM_USE_AITER="yes")

        @pytest.mark.rocm_attn_env(VLLM_ROCM_USE_AITER_MHA="enabled")
        def test_marker(): pass

        def test_selection(rocm_select):
            env = {"FLASH_ATTENTION_TRITON_AMD_ENABLE": "1"}
            assert str(rocm_select(env, gpu="gfx942")) == "TRITON_ATTN"
        """
    )
    said = (
        "VLLM_ROCM_USE_AITER='yes' reads as off; only 1 and true turn it on",
        "VLLM_ROCM_USE_AITER_MHA='enabled' reads as off; only 1 and true turn it on",
        "FLASH_ATTENTION_TRITON_AMD_ENABLE='1' reads as off; only TRUE turns it on",
    )
    result = pytester.runpytest_subprocess(*OURS)
    result.assert_outcomes(passed=3, warnings=3)
    shown = str(result.stdout)
    for place, words in zip(("test_it.py:4", "test_it.py:6", "test_it.py:11"), said, strict=True):
        assert shown.count(words) == 1
        assert f"{place}: FlagWarning: {words}" in shown, shown
    assert "pytest_rocm_attn/" not in shown
    strict = pytester.runpytest_subprocess(*OURS, "-W", "error")
    strict.assert_outcomes(failed=2, errors=1)
    strict.stdout.no_fnmatch_line("*pytest_rocm_attn/*")
    strict.stdout.no_fnmatch_line("*During handling*")
