"""What a user is shown who uses a marker or a fixture wrongly: one line, at the test's own place."""

from __future__ import annotations

import pytest

MARKERS = {
    'rocm_attn_gpu("gfx94x")': "unknown GPU 'gfx94x'. Did you mean 'gfx942'",
    'rocm_gpu("gfx942", "RX 7")': "unknown GPU 'RX 7'",
    'rocm_attn_gpu(gfx="gfx942")': "takes gfx targets, not gfx='gfx942'",
    "rocm_attn_gpu(942)": "unknown GPU 942",
    'rocm_gpu("MI300X", "MI301X")': "unknown GPU 'MI301X'",
    'rocm_attn_gpu(["gfx942"])': "unknown GPU ['gfx942']",
    'rocm_attn_aiter("0.1.7")': "takes no arguments, got '0.1.7'",
    "rocm_attn_aiter(present=True)": "takes no arguments, got present=True",
    "rocm_attn_mock": "missing a required argument: 'gpu'; write rocm_attn_mock(\"gfx942\"",
    'rocm_attn_mock("gfx94x")': "unknown GPU 'gfx94x'",
    "rocm_attn_mock(None)": "unknown GPU None",
    'mock_rocm("gfx942", aiter="maybe")': "aiter='maybe' is not a state of aiter",
    'rocm_attn_mock("gfx942", amdsmi="")': "amdsmi='' is not a state of amdsmi",
    'rocm_attn_mock("gfx942", aitr=True)': "got an unexpected keyword argument 'aitr'",
    'rocm_attn_emulate("gfx94x")': "unknown GPU 'gfx94x'",
    'emulated_rocm("gfx942", aitr=True)': "got an unexpected keyword argument 'aitr'",
    'rocm_attn_mock("gfx942", True)': "too many positional arguments",
    'rocm_attn_mock("gfx942", count="2")': "1 to 64 GPUs, not count='2'",
    'rocm_attn_mock("gfx942", count=True)': "1 to 64 GPUs, not count=True",
    'rocm_attn_mock("gfx942", product="MI300")': "lists no product 'MI300' of gfx942",
    'rocm_attn_mock("gfx942", product=300)': "lists no product 300 of gfx942",
    'rocm_attn_mock("gfx942", rocm_version="new")': "rocm_version='new' is not a version",
    'rocm_attn_mock("gfx942", environ={"A": 1})': "environ has 'A': 1",
    'rocm_attn_mock("gfx942", environ="A=1")': "environ is 'A=1'; it must be a mapping",
    'rocm_attn_mock("gfx942", properties=["name"])': "properties is ['name']; it must be a mapping",
    'rocm_attn_mock("gfx942", flash_attn="no")': "flash_attn is 'no'; it must be True or False",
    'rocm_attn_mock("gfx942", real_aiter=True, aiter="absent")': "real_aiter=True contradicts",
    'rocm_attn_env("VLLM_ROCM_USE_AITER")': "takes NAME='value' pairs, not 'VLLM_ROCM_USE_AITER'",
    "rocm_attn_env": "takes NAME='value' pairs, not nothing",
    'rocm_env(VLLM_ROCM_USE_AITR="1")': "Did you mean 'VLLM_ROCM_USE_AITER'",
    'rocm_attn_env(VLLM_ATTENTION_BACKEND="TRITON")': "'TRITON' is not a valid value",
    'rocm_attn_env(VLLM_MLA_DISABLE="yes")': "VLLM_MLA_DISABLE='yes' is not an integer",
    "rocm_attn_env(VLLM_ROCM_USE_AITER=[1])": "VLLM_ROCM_USE_AITER=[1]; a value is text,",
    "rocm_attn_dry_launch": "takes one gfx target",
    'rocm_attn_dry_launch("gfx942", fast=True)': "takes one gfx target",
    'rocm_attn_dry_launch("gfx94x")': "unknown GPU 'gfx94x'",
    'rocm_attn_dry_launch(["gfx942"])': "unknown GPU ['gfx942']",
}
CALLS = {
    'mock_rocm("gfx94x")': "unknown GPU 'gfx94x'",
    "mock_rocm()": "missing a required argument: 'gpu'",
    'mock_rocm("gfx942", aitr=True)': "unexpected keyword argument 'aitr'",
    'mock_rocm("gfx942", aiter="maybe")': "aiter='maybe' is not a state of aiter",
    'mock_rocm("gfx942", count=0)': "1 to 64 GPUs, not count=0",
    'emulated_rocm("gfx94x")': "unknown GPU 'gfx94x'",
    "emulated_rocm()": "missing a required argument: 'gpu'",
    'rocm_env("VLLM_ROCM_USE_AITER")': "too many positional arguments",
    'rocm_env(VLLM_ROCM_USE_AITR="1")': "Did you mean 'VLLM_ROCM_USE_AITER'",
    'rocm_env(VLLM_MLA_DISABLE="yes")': "VLLM_MLA_DISABLE='yes' is not an integer",
    "dry_launch()": "dry_launch() has no GPU: name one",
    'dry_launch("gfx94x")': "unknown GPU 'gfx94x'",
    'dry_launch("gfx942", "gfx950")': "too many positional arguments",
    'rocm_select({}, gpu="gfx94x")': "unknown GPU 'gfx94x'",
    "rocm_select({})": "missing a required argument: 'gpu'",
    'rocm_select({}, gpu="gfx942", head_sizes=64)': "has no field 'head_sizes'",
    'rocm_select({"VLLM_ROCM_USE_AITR": "1"}, gpu="gfx942")': "'VLLM_ROCM_USE_AITER'",
}


def suite() -> tuple[str, dict[str, tuple[int, str, str]]]:
    """Return the suite, and for each of its tests its first line, its wrong words and the message."""
    text, tests = "import pytest\n", {}
    for number, (marker, words) in enumerate(MARKERS.items()):
        line = text.count("\n") + 1
        tests[f"test_marker_{number}"] = (line, marker, words)
        text += f"@pytest.mark.{marker}\ndef test_marker_{number}(): pass\n"
    for number, (call, words) in enumerate(CALLS.items()):
        line = text.count("\n") + 2
        tests[f"test_call_{number}"] = (line, call, words)
        text += f"def test_call_{number}({call.partition('(')[0]}):\n    {call}\n"
    # In a fixture of the user's, and as a mark of a class.
    line = text.count("\n") + 3
    tests["test_by_a_fixture"] = (line, "dry_launch('gfx1')", "unknown GPU 'gfx1'")
    text += "@pytest.fixture\ndef launches(dry_launch):\n    return dry_launch('gfx1')\n"
    text += "def test_by_a_fixture(launches): pass\n"
    line = text.count("\n") + 3
    tests["TestClass.test_it"] = (line, "rocm_attn_mock('gfx2')", "unknown GPU 'gfx2'")
    text += "@pytest.mark.rocm_attn_mock('gfx2')\nclass TestClass:\n    def test_it(self): pass\n"
    return text, tests


def test_each_mistake_is_shown_in_one_line_at_its_own_place_without_our_frames(
    pytester: pytest.Pytester,
) -> None:
    text, tests = suite()
    path = pytester.makepyfile(test_it=text)
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:xdist")
    wrong = len(tests)
    in_setup = sum(not name.startswith("test_call") for name in tests)
    assert result.parseoutcomes() == {"errors": in_setup, "failed": wrong - in_setup}
    shown = str(result.stdout)
    assert "pytest_rocm_attn/" not in shown
    assert "During handling" not in shown
    assert "direct cause" not in shown
    sections: dict[str, list[str]] = {}
    name = ""
    for row in shown.partition("short test summary info")[0].splitlines():
        if row.startswith("____"):
            name = row.strip("_ ").removeprefix("ERROR at setup of ")
        sections.setdefault(name, []).append(row)
    for name, (line, wrong_words, words) in tests.items():
        section = sections[name]
        assert sum(words in row for row in section) == 1, (wrong_words, section)
        assert any(f"{path.name}:{line}: " in row for row in section), (wrong_words, section)
        if name.startswith("test_marker"):
            assert len(section) == 2, (wrong_words, section)
