"""The reports of a run, as pytest writes them: under xdist, in any order, and when something fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

CONTRACT = r"""
id = "mini"
title = "a contract | with <markup>"
source = "this test"
[[case]]
id = "triton-is-the-default"
source = "<script>alert(1)</script> | `x` \u001b[31m"
level = "required"
platform = { gfx = ["gfx942", "gfx1201"] }
expect = { backend = "TRITON_ATTN" }
[[case]]
id = "everything-is-refused"
source = "<script>alert(1)</script> | `x` \u001b[31m"
level = "required"
platform = { gfx = ["gfx942", "gfx1201"] }
env = { VLLM_ROCM_USE_AITER = "1" }
expect = { rejects = true, mentions = ["never"] }
[[case]]
id = "fp16-is-flex"
source = "s"
level = "advisory"
platform = { gfx = "gfx942" }
request = { dtype = "fp16" }
expect = { backend = "FLEX_ATTENTION" }
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders with all reports of the same run: under xdist, and in one process otherwise."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "contract.toml").write_text(CONTRACT)
    words = ["-m", "pytest", "--rocm-attn-conformance", "--rocm-attn-contract=contract.toml"]
    words += ["-p", "no:cacheprovider", "--rootdir=."]
    made = []
    for name, options in (("xdist", ["-n", "2"]), ("one", ["--randomly-seed=7"])):
        made.append(folder / name)
        made[-1].mkdir()
        reports = [f"--rocm-attn-report={name}/r{suffix}" for suffix in (".json", ".html", ".md")]
        options += [*reports, f"--junitxml={name}/junit.xml"]
        done = subprocess.run(
            [sys.executable, *words, *options],
            cwd=folder,
            env=os.environ | {"PYTEST_ADDOPTS": ""},  # pytest-randomly shuffles the items
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert "2 failed, 2 passed, 1 advisory" in done.stdout, done.stdout + done.stderr
    return made


def test_the_same_run_gives_the_same_reports_in_any_order_and_under_xdist(
    folders: list[Path],
) -> None:
    texts = [
        [(f / f"r{suffix}").read_text() for suffix in (".json", ".html", ".md")] for f in folders
    ]
    (json_one, html_one, md_one), (json_two, html_two, md_two) = texts
    seconds = re.compile(r'"seconds": [\d.e-]+')
    assert len(seconds.findall(json_one)) == 5
    assert seconds.sub("", json_one) == seconds.sub("", json_two)
    times = re.compile(r'"\d\.\d{6}"')  # seconds, among the page's strings
    assert _without_times(html_one, times) == _without_times(html_two, times)
    assert md_one == md_two
    assert "<code>" not in md_one
    assert "alert(1)" in md_one


def _without_times(page: str, times: re.Pattern[str]) -> list[object]:
    """Return a page's parts, with its texts in place of their numbers, which times shift."""
    before, data, after = re.split(r'(?<=id="data">)(.*?)(?=</script>)', page, maxsplit=1)
    content = json.loads(data)
    assert times.search(data)
    texts = ["" if times.fullmatch(f'"{text}"') else text for text in content.pop("strings")]
    rows = [[texts[n] if isinstance(n, int) else n for n in row] for row in content.pop("rows")]
    assert all(isinstance(text, str) for row in rows for text in row[:-3])
    return [before, content, [row[:-3] for row in rows], after]


@pytest.mark.parametrize("number", [0, 1], ids=["xdist", "one process"])
def test_junit_says_of_each_cell_what_it_is_and_how_to_repeat_it(
    folders: list[Path], number: int
) -> None:
    cases = ElementTree.parse(folders[number] / "junit.xml").getroot().iter("testcase")
    told = {
        case.attrib["name"]: {
            item.attrib["name"].removeprefix("rocm_attn_"): item.attrib["value"]
            for item in case.iter("property")
        }
        | {"outcome": [child.tag for child in case if child.tag != "properties"]}
        for case in cases
    }
    assert len(told) == 5
    assert told["triton-is-the-default[gfx1201]"] == {
        "tier": "documented",
        "gpu": "gfx1201",
        "level": "required",
        "verdict": "pass",
        "again": told["triton-is-the-default[gfx1201]"]["again"],
        "outcome": [],
    }
    failed = told["everything-is-refused[gfx942]"]
    assert (failed["verdict"], failed["outcome"]) == ("fail", ["failure"])
    assert "'rocm-attn::documented::everything-is-refused[gfx942]'" in failed["again"]
    assert told["fp16-is-flex[gfx942]"]["outcome"] == ["skipped"]


def test_a_report_lost_after_the_run_turns_it_red_and_says_where_the_results_are(
    pytester: pytest.Pytester,
) -> None:
    (pytester.path / "full.json").symlink_to("/dev/full")
    result = pytester.runpytest_subprocess(
        "--rocm-attn-conformance", "--rocm-attn-report=full.json", "-k", "flex-attention"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (line,) = (line for line in result.outlines if line.startswith("ERROR: report"))
    found = re.search(r"full.json cannot be written: No space left on device; .* from (\S+)$", line)
    assert found
    rescued = Path(found[1])
    assert json.loads(rescued.read_text())["totals"] == {"pass": result.parseoutcomes()["passed"]}
    rescued.unlink()
