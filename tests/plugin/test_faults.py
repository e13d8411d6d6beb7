"""However an item ends, every report has it: each tier, with a fault at each stage of a run."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

# One copy for all in-process runs; see test_conformance_run.py.
from pytest_rocm_attn.conformance.promise import contract, deviations
from pytest_rocm_attn.conformance.run import session

_KEPT = (contract, deviations, session)
HERE = Path(__file__).parent
STAGES = ("setup", "call", "teardown")  # where an item of each tier fails
SELECTOR = """
class Fork:
    def select(self, request, environ, gpu):
        return environ.get("VLLM_ATTENTION_BACKEND") or "TRITON_ATTN"

fork = Fork()
"""
BACKEND = """
class Mine:
    def attend(self, problem):
        raise NotImplementedError("only on Tuesdays")
"""
CASE = """
[[case]]
id = "row-{number}"
source = "s"
level = "required"
platform = {{ gfx = "gfx942" }}
request = {{ head_size = 6{number} }}
expect = {{ backend = "TRITON_ATTN" }}
"""
DEVIATION = """
[[deviation]]
match = "grid::mla[gfx{}]"
answer = "refusal"
reason = "ours"
link = "#1"
"""
# Four items of each tier: one for each stage, and one without a fault.
ITEMS = {
    "documented": [f"row-{number}[gfx942]" for number in range(4)],
    "grid": [f"attention-types[gfx{gfx}]" for gfx in ("90a", "942", "950", "1201")],
    "invariants": [
        f"{law}[gfx942]"
        for law in (
            "unset-equals-default",
            "every-legal-question-is-answered",
            "selecting-writes-nothing-to-the-environment",
            "an-mla-layer-gets-an-mla-backend-and-no-other-layer-does",
        )
    ],
    "numerics": [f"MINE::{case}" for case in ("chunked-prefill", "sinks-float16")]
    + ["MINE::drawn-attention", "MINE::sinks-bfloat16"],
    "launch": [f"MINE::prefill-head-size-{size}[gfx942]" for size in (64, 80, 128, 256)],
    "capabilities": [
        f"{name}[gfx942]"
        for name in (
            "triton-attn-imports",
            "rocm-attn-imports",
            "spec-decode-needs-no-aiter",
            "sinks-build-by-default",
        )
    ],
    "deviations": [f"line-{line}" for line in (2, 8, 14, 20)],
}


def node(tier: str, name: str) -> str:
    return f"rocm-attn::{tier}::{name}"


class Reports:
    """What a nested run left behind, in each format: node id -> what it says of the item."""

    def __init__(self, folder: Path, done: pytest.RunResult) -> None:
        self.status, self.output = int(done.ret), f"{done.stdout}\n{done.stderr}"
        assert "INTERNALERROR" not in self.output, self.output
        assert (folder / "r.json").exists(), self.output
        self.json: dict[str, Any] = json.loads((folder / "r.json").read_text())
        self.markdown = (folder / "r.md").read_text()
        # A name may break at <wbr>, which a reader does not see.
        self.html = (folder / "r.html").read_text().replace("<wbr>", "")
        self.junit = folder / "junit.xml"

    @functools.cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Each row by its node id; no two are about one item."""
        found: dict[str, dict[str, Any]] = {}
        for row in self.json["rows"]:
            gfx = f"[{row['gpu']['gfx']}]" if row["gpu"] else ""
            name = node(row["tier"], row["id"] + gfx)
            assert name not in found
            found[name] = row
        return found

    @functools.cached_property
    def page(self) -> list[dict[str, str]]:
        (text,) = re.findall(r'id="data">(.*?)</script>', self.html)
        data = json.loads(text)
        width = len(data["fields"])
        return [
            dict(
                zip(data["fields"], (data["strings"][n] for n in row[:width]), strict=True),
            )
            for row in data["rows"]
        ]

    def assert_has(self, nodeid: str, verdict: str, words: str) -> None:
        """Check that each format has the item with this verdict, and with these words of why."""
        row = self.rows[nodeid]
        assert (row["verdict"], words in row["message"]) == (verdict, True), row
        assert "\n" not in row["message"]
        assert nodeid in row["again"]
        shown = [r for r in self.page if (r["tier"], r["id"]) == (row["tier"], row["id"])]
        assert any(r["verdict"] == verdict and words in r["message"] + r["got"] for r in shown)
        listed = rf"^\| `{re.escape(row['id'])}` \|.*\b{verdict}\b"
        assert re.search(listed, self.markdown, re.MULTILINE), self.markdown
        heading = rf"### {verdict}: `{re.escape(row['id'])}`\n.*?\n```"
        stories = re.findall(heading, self.markdown, re.DOTALL)
        # A summary has a limit of size; what it leaves out it counts.
        assert any(words in s for s in stories) or "items in full" in self.markdown, self.markdown
        # With -v the terminal has a block for each cause.
        cause = rf"^{verdict.upper()} .*{re.escape(words)}"
        assert re.search(cause, self.output, re.MULTILINE), self.output
        cases = [
            case
            for case in ElementTree.parse(self.junit).getroot().iter("testcase")
            if f"{case.get('classname')}.{case.get('name')}" == nodeid.replace("::", ".")
        ]
        told = [
            item.get("value")
            for case in cases
            for item in case.iter("property")
            if item.get("name") == "rocm_attn_verdict"
        ]
        assert len(told) == len(cases), (nodeid, told)
        assert told[-1] == verdict, (
            nodeid,
            told,
        )  # a fault after a failure has a testcase of its own
        assert any(child.tag in ("error", "failure") for case in cases for child in case)

    def assert_adds_up(self, selected: int) -> None:
        """Check that each item that was selected is counted once, and that the result is bad."""
        done = self.json
        parts = [done["rows"], done["declined"], done["not_run"]]
        assert done["selected"] == selected == sum(map(len, parts))
        assert sum(done["totals"].values()) == len(done["rows"])
        counts = ", ".join(
            f"{number} {name}"
            for name, number in (
                ("pass", done["totals"].get("pass", 0)),
                *(
                    (v, done["totals"].get(v, 0))
                    for v in ("error", "crash", "fail", "stale", "deviation", "advisory")
                ),
                ("declined", sum(bool(entry["backend"]) for entry in done["declined"])),
                ("skipped", sum(not entry["backend"] for entry in done["declined"])),
                ("not run", len(done["not_run"])),
            )
            if number
        )
        headline = f"{selected} items: {counts}"
        assert headline in self.output, (headline, self.output)
        assert headline in self.markdown.partition("\n")[0]
        assert f'<p class="result bad">{headline}</p>' in self.html
        assert self.status != pytest.ExitCode.OK


class Run:
    """Runs the items of some tiers with faults."""

    def __init__(self, pytester: pytest.Pytester, request: pytest.FixtureRequest) -> None:
        self.folder = pytester.path
        self._pytester = pytester
        self._request = request

    def __call__(self, tiers: tuple[str, ...], faults: dict[str, str], *options: str) -> Reports:
        """Run them with these faults, and return the reports."""
        patch = self._pytester._monkeypatch
        if NEED_TORCH & set(tiers):
            if not HAS_TORCH:
                pytest.skip("needs torch")
        else:
            self._request.getfixturevalue("without_torch")
        patch.syspath_prepend(str(HERE))
        patch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)  # of xdist's workers
        patch.setenv("FAULTS", json.dumps(faults))
        (self.folder / "ours.py").write_text(SELECTOR + BACKEND)
        head = 'id = "mini"\ntitle = "t"\nsource = "this test"\n'
        (self.folder / "contract.toml").write_text(
            head + "".join(CASE.format(number=number) for number in range(4))
        )
        gpus = ("90a", "942", "950", "1201")
        (self.folder / "dev.toml").write_text("".join(map(DEVIATION.format, gpus)))
        words = (
            *("-p", "faults", "-p", "no:randomly", "--rootdir=."),
            *("-v", "-p", "no:cacheprovider", "--rocm-attn-conformance"),
            f"--rocm-attn-tier={','.join(tier for tier in tiers if tier != 'deviations')}",
            *("--rocm-attn-contract=contract.toml", "--rocm-attn-selector=ours.py:fork"),
            *("--rocm-attn-backends=MINE=ours.py:Mine", "--rocm-attn-deviations=dev.toml"),
            *(("--rocm-attn-cell=0",) if "grid" in tiers else ()),
            *("--rocm-attn-examples=3", "--junitxml=junit.xml"),
            *(f"--rocm-attn-report=r.{suffix}" for suffix in ("json", "md", "html")),
            *(node(tier, name) for tier in tiers for name in ITEMS[tier]),
            *options,
        )
        # Workers of xdist get the path that the test process had when it began.
        if "-n" in options:
            done = self._pytester.runpytest_subprocess(*words)
        else:
            done = self._pytester.runpytest_inprocess(*words, no_reraise_ctrlc=True)
        return Reports(self.folder, done)


@pytest.fixture
def run(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> Run:
    return Run(pytester, request)


SOME = pytest.param(("documented", "deviations"), id="two tiers")
ALL = pytest.param(tuple(ITEMS), id="all tiers", marks=pytest.mark.slow)
HAS_TORCH = importlib.util.find_spec("torch") is not None
NEED_TORCH = {"numerics", "launch", "capabilities"}


def assert_has_all(reports: Reports, faults: dict[str, str]) -> None:
    """Check that each format has each item that failed, with the stage and the cause."""
    for nodeid, stage in faults.items():
        match stage:
            case "call":
                words = "RuntimeError: a fault at call of "
            case "lost":
                words = f"crashed while running {nodeid!r}"
            case _:
                words = f"{stage} failed: RuntimeError: a fault at {stage} of "
        reports.assert_has(nodeid, "error", words)


@pytest.mark.parametrize("tiers", [SOME, ALL])
def test_every_report_has_an_item_that_failed_at_any_stage_before_ctrl_c(
    run: Run, tiers: tuple[str, ...]
) -> None:
    last = node("documented", ITEMS["documented"][3])
    faults = {node(t, ITEMS[t][n]): stage for t in tiers for n, stage in enumerate(STAGES)}
    reports = run(tiers, faults | {last: "interrupt"})
    assert_has_all(reports, faults)
    assert sorted(reports.json["not_run"]) == sorted(node(t, ITEMS[t][3]) for t in tiers)
    assert reports.json["totals"] == {"error": 3 * len(tiers)}
    reports.assert_adds_up(4 * len(tiers))
    assert reports.status == pytest.ExitCode.INTERRUPTED


@pytest.mark.parametrize("tiers", [("documented",), ALL])
def test_a_fault_in_what_an_item_asks_ahead_is_an_error_of_that_item_alone(
    run: Run, tiers: tuple[str, ...]
) -> None:
    tiers = tuple(tier for tier in tiers if tier != "deviations")  # its items ask nothing
    stages = ("questions", "ahead")
    faults = {node(t, ITEMS[t][n]): stage for t in tiers for n, stage in enumerate(stages)}
    reports = run(tiers, faults)
    for nodeid, stage in faults.items():
        reports.assert_has(nodeid, "error", f"RuntimeError: a fault at {stage} of ")
    assert reports.json["totals"]["error"] == len(faults)
    reports.assert_adds_up(4 * len(tiers))
    assert reports.json["not_run"] == []
    assert reports.status == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("tiers", [SOME, ALL])
def test_every_report_has_an_item_whose_xdist_worker_was_lost(
    run: Run, tiers: tuple[str, ...]
) -> None:
    stages = (*STAGES, "lost")
    faults = {node(t, ITEMS[t][n]): stage for t in tiers for n, stage in enumerate(stages)}
    reports = run(tiers, faults, "-n", "2")
    assert_has_all(reports, faults)
    assert reports.json["totals"] == {"error": 4 * len(tiers)}
    reports.assert_adds_up(4 * len(tiers))
    assert reports.status == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(
    ("stop", "options", "status"),
    [
        ("call", ("-x",), pytest.ExitCode.TESTS_FAILED),
        ("stop", (), pytest.ExitCode.INTERRUPTED),
        ("exit", (), pytest.ExitCode.TESTS_FAILED),  # though it asks for 0: items were not run
        ("lost", ("-n", "1", "--max-worker-restart=0"), pytest.ExitCode.TESTS_FAILED),
    ],
    ids=["-x", "shouldstop", "pytest.exit", "no worker left"],
)
def test_what_a_stopped_run_did_not_reach_is_counted_and_the_result_is_not_good(
    run: Run, stop: str, options: tuple[str, ...], status: int
) -> None:
    first = node("documented", ITEMS["documented"][2])
    reports = run(("documented",), {first: stop}, *options)
    reports.assert_adds_up(4)
    assert reports.json["not_run"]
    for nodeid in reports.json["not_run"]:
        assert nodeid in reports.html
        assert nodeid in reports.markdown
    number = len(reports.json["not_run"])
    assert f"not run [{number}] the run ended before them: rocm-attn::" in reports.output
    assert reports.status == status


def test_a_tier_that_cannot_be_collected_is_not_run_and_its_cause_is_noted(run: Run) -> None:
    reports = run(
        ("documented", "deviations"),
        {"rocm-attn::deviations": "collect"},
        "--continue-on-collection-errors",
    )
    assert reports.json["totals"] == {"pass": 4}
    assert reports.json["not_run"] == sorted(node("deviations", n) for n in ITEMS["deviations"])
    reports.assert_adds_up(8)
    for text in (reports.markdown, reports.html, reports.output):
        assert "rocm-attn::deviations cannot be collected: " in text
        assert "ZeroDivisionError" in text


def test_a_fault_in_closing_costs_no_report(run: Run) -> None:
    reports = run(("documented",), {"the session": "close"})
    assert "a fault in closing" in reports.output
    assert reports.json["totals"] == {"pass": 4}
    assert "4 items: 4 pass" in reports.markdown
    assert reports.status != pytest.ExitCode.OK


# As a bug or a broken machine would end them: nothing is injected.
ENDS_ITS_WORKER = """
import os, signal

def select(request, environ, gpu):
    if request.head_size in (61, 62, 63):  # not what is asked before anything runs
        print("about to end", flush=True)
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    return "TRITON_ATTN"
"""


def test_a_worker_that_ends_and_a_backend_that_cannot_be_imported_are_errors(
    run: Run,
) -> None:
    (run.folder / "killer.py").write_text(ENDS_ITS_WORKER)
    tiers = ("documented", "numerics")
    reports = run(
        tiers,
        {},
        "--rocm-attn-selector=killer.py:select",
        "--rocm-attn-timeout=3",
        "--rocm-attn-backends=MINE=no_such_module:Mine",
        "--rocm-attn-deviations=",
        "--tb=short",
    )
    for name in ITEMS["documented"][1:]:
        words = "a worker process of pytest-rocm-attn ended"
        reports.assert_has(node("documented", name), "error", words)
    for name in ITEMS["numerics"]:
        words = "backend no_such_module:Mine cannot be imported: ModuleNotFoundError"
        reports.assert_has(node("numerics", name), "error", words)
    assert "about to end" in reports.output  # and not in the rows
    assert "about to end" not in reports.markdown
    assert {row["evidence"] for row in reports.json["rows"]} == {"mock", ""}
    reports.assert_adds_up(8)
    assert reports.status == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_a_selector_that_cannot_be_imported_leaves_no_report_of_an_earlier_run_standing(
    run: Run, options: tuple[str, ...]
) -> None:
    (run.folder / "r.html").write_text("of an earlier run")
    selector = "--rocm-attn-selector=no_such_module_x:select"
    reports = run(("documented",), {}, selector, *options)
    assert reports.json["not_run"] == sorted(node("documented", n) for n in ITEMS["documented"])
    assert reports.json["selected"] == 4
    (note,) = reports.json["notes"]
    assert "cannot be imported: ModuleNotFoundError" in note
    for text in (reports.markdown, reports.html):
        assert "4 items: 4 not run" in text
        assert "cannot be imported: ModuleNotFoundError" in text
    assert 'class="result bad"' in reports.html
    assert len(re.findall("^ERROR: .*cannot be imported", reports.output, re.MULTILINE)) == 1
    assert reports.status == pytest.ExitCode.USAGE_ERROR


CONFTEST = """
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        if "row-0" in item.name:
            item.add_marker(pytest.mark.xfail)
        if "row-1" in item.name:
            item.add_marker(pytest.mark.skip(reason="not now"))
"""


def test_neither_a_mark_of_a_conftest_nor_a_later_fault_hides_a_result(run: Run) -> None:
    (run.folder / "conftest.py").write_text(CONFTEST)
    (run.folder / "wrong.py").write_text("def select(request):\n    return 'FLEX_ATTENTION'\n")
    reports = run(
        ("documented",),
        {node("documented", "row-2[gfx942]"): "teardown"},
        "--rocm-attn-selector=wrong.py:select",
        "-k=row-0 or row-1 or row-2",
        "--rocm-attn-deviations=",
    )
    assert reports.rows[node("documented", "row-0[gfx942]")]["verdict"] == "fail"
    (skipped,) = reports.json["declined"]
    assert (skipped["id"], skipped["reason"], skipped["backend"]) == ("row-1", "not now", "")
    for text in (reports.markdown, reports.html, reports.output):
        assert re.search("skipped.*not now", text)
    words = "a fault at teardown of row-2[gfx942]; before that, fail: expected TRITON_ATTN, got"
    reports.assert_has(node("documented", "row-2[gfx942]"), "error", words)
    reports.assert_adds_up(3)
    assert reports.status == pytest.ExitCode.TESTS_FAILED
