"""The hardware tests on a machine without an AMD GPU: they collect, cover, are skipped, and can fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_rocm_attn import hardware
from pytest_rocm_attn.conformance.tiers.numerics.case import Result, shipped
from pytest_rocm_attn.conformance.tiers.numerics.lane import Lane
from pytest_rocm_attn.conformance.tiers.numerics.subjects import BY_KERNEL, OVER_AITER, REFERENCES
from pytest_rocm_attn.markers import HARDWARE_MARKERS

HAS_GPU = bool(hardware.detect().gpus)
FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
# README and issue 6: the systems that the contract names.
BACKENDS = (
    *("triton_attn", "rocm_attn", "flex_attention", "triton_mla"),
    *("rocm_aiter_unified_attn", "rocm_aiter_fa", "rocm_aiter_mla"),
)
CASES = {case.id: case for case in shipped()}
REQUIRED, ADVISORY = CASES["sinks-float16"], CASES["both-directions"]
# With these, a run of all tests has those of this folder, but for this file's.
UNASKED = [
    f"--ignore={path}"
    for path in (Path(__file__), *FOLDER.parent.iterdir())
    if path != FOLDER and (path.is_dir() or path.name.startswith("test_"))
]
ON_MI300X = {"evidence": "rocm", "arch": "gfx942:sramecc+:xnack-", "target": "gfx942"}
RIGHT = Result("right", "largest error is 0.4 of its bound", 0.4)
WRONG = Result("wrong", "error 0.7 is 214 times its bound", 214.0)
DECLINED = Result("declined", "ROCM_ATTN does not support head size 33")
CRASHED = Result("crashed", "raised RuntimeError: HIP error", traceback="Traceback ...")
FAKE = """
from pytest_rocm_attn import aiter_probe, hardware
from pytest_rocm_attn.gpu import Aiter

gpu = hardware.DetectedGpu(0, "gfx942", "AMD Instinct MI300X")
hardware.detect = lambda *_: hardware.Detection((gpu,), "")
aiter_probe.probe = lambda: aiter_probe.Probe(Aiter.PRESENT, "faked")
"""

# A test is given the backends that its function names, and those of its parameters.
NOTE_USES = """
import json
from pathlib import Path
from pytest_rocm_attn.conformance.tiers.numerics.subjects import BackendUnderTest

def backends_of(item):
    values = [vars(item.module).get(name) for name in item.function.__code__.co_names]
    values += item.callspec.params.values() if hasattr(item, "callspec") else []
    return [value.name for value in values if isinstance(value, BackendUnderTest)]

def pytest_collection_finish(session):
    found = {{item.nodeid: backends_of(item) for item in session.items}}
    Path({file!r}).write_text(json.dumps({{node: names for node, names in found.items() if names}}))
"""


def run(
    *options: str, path: Path | None = None, folder: Path = FOLDER, marker: str = "rocm_attn_gpu"
) -> subprocess.CompletedProcess[str]:
    """Run pytest on a folder in a process of its own; path is where further plugins are."""
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", "-q"]
    return subprocess.run(
        [*command, "-m", marker, *options, str(folder), f"--rootdir={ROOT}"],
        cwd=ROOT,
        env=os.environ | ({"PYTHONPATH": str(path)} if path else {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def uses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run of ``skipping`` writes which of our backends each hardware test is given."""
    return tmp_path_factory.mktemp("uses") / "uses.json"


@pytest.fixture(scope="module")
def skipping(uses: Path) -> str:
    """What ``python -m pytest -m rocm_attn_gpu -v`` prints; where there is a GPU, what it would run."""
    (uses.parent / "note_uses.py").write_text(NOTE_USES.format(file=str(uses)))
    show = "--collect-only" if HAS_GPU else "-vv"  # of which -q takes one
    done = run(show, "-p", "note_uses", path=uses.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def collected(skipping: str) -> list[str]:
    """The node ids that ``python -m pytest -m rocm_attn_gpu`` selects."""
    return [line.partition(" SKIPPED")[0] for line in skipping.splitlines() if "::" in line]


def test_every_backend_of_the_contract_has_its_cases_among_them(collected: list[str]) -> None:
    for backend in BACKENDS:
        cases = [
            node
            for node in collected
            if f"hardware/test_{backend}.py::test_a_case_is_right" in node
        ]
        assert len(cases) > 9, backend
    assert (
        sum("hip/test_paged_decode.py::test_a_matrix_kernel_is_right" in n for n in collected) == 96
    )
    for part in ("test_cache.py", "test_refusals.py", "test_selection.py", "hip/test_build.py"):
        assert any(f"hardware/{part}::" in node for node in collected), part
    for backend in ("triton_attn", "rocm_attn", "triton_mla", "rocm_aiter_unified_attn"):
        replayed = f"hardware/test_{backend}.py::test_a_replayed_graph"
        assert any(replayed in node for node in collected), backend
    for backend in ("triton_attn", "triton_mla"):
        alone = f"hardware/test_{backend}.py::test_each_request_is_computed_as_if_alone"
        assert any(alone in node for node in collected), backend


def test_every_numerics_case_is_put_to_some_backend_there(collected: list[str]) -> None:
    found = {node.partition("[")[2].removesuffix("]") for node in collected}
    assert set(CASES) <= found


def test_every_backend_of_ours_is_given_to_some_test(collected: list[str], uses: Path) -> None:
    used = json.loads(uses.read_text())
    assert set(used) <= set(collected)
    given = {name for names in used.values() for name in names}
    assert given >= {backend.name for backend in (*REFERENCES, *OVER_AITER, *BY_KERNEL)}


@pytest.mark.skipif(HAS_GPU, reason="this machine has an AMD GPU: they run")
def test_without_a_gpu_none_runs_unasked_and_the_summary_says_so(collected: list[str]) -> None:
    done = run("--collect-only", *UNASKED, folder=FOLDER.parent, marker="")
    assert done.returncode == 0, done.stdout + done.stderr
    nodes = {line for line in done.stdout.splitlines() if "hardware/" in line and "::" in line}
    assert nodes  # those that judge the others
    assert nodes.isdisjoint(collected)
    assert f"{len(collected)} deselected" in done.stdout
    assert "hardware tests were deselected: no AMD GPU here" in done.stdout


def test_a_path_a_marker_or_a_gpu_lets_them_run(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    conftest: Any = request.config.pluginmanager.getplugin(str(FOLDER.parent / "conftest.py"))

    def leaves_out(*arguments: str, marker: str = "not slow") -> bool:
        option = SimpleNamespace(markexpr=marker)
        params = SimpleNamespace(dir=ROOT)
        config = SimpleNamespace(option=option, invocation_params=params, args=list(arguments))
        found: bool = conftest.leaves_out_hardware(config)
        return found

    monkeypatch.setattr(hardware, "detect", lambda: hardware.Detection((), "no GPU"))
    assert leaves_out("tests")
    assert leaves_out("tests/plugin", "tests/hardware_report.py")
    assert not leaves_out("tests/plugin", "tests/hardware/test_cache.py::test_one")
    assert not leaves_out(str(FOLDER))
    assert not leaves_out("tests", marker=f"{HARDWARE_MARKERS[0]} and not slow")
    gpu = hardware.DetectedGpu(0, "gfx942", "AMD Instinct MI300X")
    monkeypatch.setattr(hardware, "detect", lambda: hardware.Detection((gpu,), ""))
    assert not leaves_out("tests")


@pytest.mark.skipif(HAS_GPU, reason="this machine has an AMD GPU: they run")
def test_without_a_gpu_all_are_skipped_and_none_passes(skipping: str) -> None:
    last = skipping.splitlines()[-1]
    assert "skipped" in last
    assert "passed" not in last
    assert "hardware tests did not run: needs a real ROCm GPU" in skipping


@pytest.mark.skipif(HAS_GPU, reason="this machine has an AMD GPU")
@pytest.mark.parametrize(
    "which",
    [
        pytest.param(
            "(test_triton_attn and test_a_case and sinks-float16)"
            " or (test_cache and SPLIT and float16 and not bfloat16)",
            id="some",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "elsewhere or sinks-float16 or mla-decode-with-block-size-64 or block-size-32 or NHD"
            " or test_refusals or test_selection or test_build",
            id="more",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_where_the_gpu_is_only_claimed_nothing_passes(tmp_path: Path, which: str) -> None:
    """With detection faked, every kind of test runs into the CPU that is there, and says so."""
    (tmp_path / "fake_gpu.py").write_text(FAKE)
    done = run("-p", "fake_gpu", "-k", which, path=tmp_path)
    last = done.stdout.splitlines()[-1]
    assert "passed" not in last, done.stdout[-3000:]
    assert "failed" in last, done.stdout[-3000:]
    assert "install torch for ROCm" in done.stdout


def test_a_right_result_on_the_gpu_passes(judge: Any) -> None:
    judge(RIGHT, REQUIRED, **ON_MI300X)
    judge(DECLINED, REQUIRED, **ON_MI300X, refusal="head size 33")


@pytest.mark.parametrize("finding", [WRONG, CRASHED, DECLINED], ids=lambda finding: finding.kind)
def test_anything_else_fails_with_its_words(judge: Any, finding: Result) -> None:
    with pytest.raises(pytest.fail.Exception) as caught:
        judge(finding, REQUIRED, **ON_MI300X)
    assert finding.words in str(caught.value)


def test_a_right_result_of_the_emulator_passes_in_an_emulated_run(judge: Any) -> None:
    emulated = {"evidence": "emulated", "arch": "gfx942", "target": "gfx942"}
    judge(RIGHT, REQUIRED, **emulated, wanted="emulated")
    with pytest.raises(pytest.fail.Exception, match="ran as rocm"):
        judge(RIGHT, REQUIRED, **ON_MI300X, wanted="emulated")


@pytest.mark.slow
@pytest.mark.skipif(HAS_GPU, reason="the GPU of this machine would be meant")
def test_hardware_tests_run_on_an_emulated_gpu() -> None:
    chosen = "(triton_attn and sliding-window-16) or test_cache or (refus and flex)"
    done = run("--rocm-attn-emulate=gfx942", "-k", chosen)
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) > 20, done.stdout[-500:]


def test_an_advisory_case_is_only_expected_to_fail(judge: Any) -> None:
    with pytest.raises(pytest.xfail.Exception, match="214 times"):
        judge(WRONG, ADVISORY, **ON_MI300X)


@pytest.mark.parametrize("finding", [RIGHT, WRONG], ids=lambda finding: finding.kind)
def test_a_case_that_must_be_declined_and_is_not_fails(judge: Any, finding: Result) -> None:
    with pytest.raises(pytest.fail.Exception, match="must be declined because of 'float32'"):
        judge(finding, REQUIRED, **ON_MI300X, refusal="float32")


def test_a_case_that_is_declined_for_another_reason_fails(judge: Any) -> None:
    with pytest.raises(pytest.fail.Exception, match="head size 33"):
        judge(DECLINED, REQUIRED, **ON_MI300X, refusal="float32")


@pytest.mark.parametrize("evidence", ["interpreter", "cuda", "emulated", ""])
def test_a_right_result_elsewhere_than_on_the_gpu_fails(judge: Any, evidence: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="not on the AMD GPU"):
        judge(RIGHT, REQUIRED, **ON_MI300X | {"evidence": evidence})


def test_a_right_result_on_another_gpu_than_the_detected_one_fails(judge: Any) -> None:
    with pytest.raises(pytest.fail.Exception, match="ran on gfx1100"):
        judge(RIGHT, REQUIRED, **ON_MI300X | {"arch": "gfx1100"})


SUBJECTS = """
from dataclasses import replace
from pytest_rocm_attn.conformance.tiers.numerics.judge import reference_of

class Wrong:
    graphs = True
    evidence = "rocm"  # claimed, so that nothing but its numbers speaks against it
    def attend(self, problem):
        problem.out.copy_(reference_of(replace(problem, sinks=None)).out)
"""


def test_a_backend_that_forgets_sinks_is_found_in_its_own_process(
    judge: Any, tmp_path: Path
) -> None:
    file = tmp_path / "subjects.py"
    file.write_text(SUBJECTS)
    with closing(Lane(f"{file}:Wrong", 120.0)) as lane:
        finding = lane.ask(REQUIRED)
    assert finding.kind == "wrong"
    with pytest.raises(pytest.fail.Exception, match="times its bound"):
        judge(finding, REQUIRED, evidence=lane.evidence, arch="gfx942", target="gfx942")


def test_the_check_of_a_process_can_be_replaying(tmp_path: Path) -> None:
    file = tmp_path / "subjects.py"
    file.write_text(SUBJECTS)
    replay = f"{FOLDER / 'replay.py'}:examine_replayed"
    with closing(Lane(f"{file}:Wrong", 120.0, "run", replay)) as lane:
        finding = lane.ask(REQUIRED)
    assert (finding.kind, finding.words) == ("declined", "graphs are captured on a GPU")
