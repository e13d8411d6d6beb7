"""The rocm-attn command: its answers, exit codes, and one line for every mistake."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_rocm_attn import aiter_probe, hardware
from pytest_rocm_attn.aiter_probe import Probe
from pytest_rocm_attn.citations import SITE
from pytest_rocm_attn.cli import main
from pytest_rocm_attn.gpu import Aiter

Capture = pytest.CaptureFixture[str]


def ask(capsys: Capture, line: str) -> tuple[int, str, str]:
    """Run one command line; return exit code, stdout, stderr."""
    try:
        code: object = main(line.split())
    except SystemExit as stop:
        code = stop.code
    output = capsys.readouterr()
    assert isinstance(code, int)
    return code, output.out, output.err


def test_explain_prints_the_way_to_a_backend(capsys: Capture) -> None:
    line = "explain VLLM_ROCM_USE_AITER=1 --gpu gfx942 --mla --block-size 1 --release pr-26980"
    code, out, err = ask(capsys, line)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == (
        "ROCM_AITER_MLA  (vllm.v1.attention.backends.mla.rocm_aiter_mla.AiterMLABackend)"
    )
    assert lines[1] == (
        "for VLLM_ROCM_USE_AITER=1, gfx942, aiter present, block_size 1, use_mla True,"
        " by the rules of vLLM pull request #26980 (--release)"
    )
    assert lines[-2:] == ["", f"docs/PAGE.md#ROW is {SITE}PAGE/#ROW"]
    steps = lines[3:-2]
    rules = [line.split()[0] for line in steps]
    assert rules[:4] == ["sparse-mla", "mla", "named", "aiter-mla"]
    assert rules[-1] == "decision"
    assert len({line.index("  [") for line in steps}) > 1  # the sources are not padded out
    starts = {len(line) - len(line[18:].lstrip()) for line in steps}
    assert len(starts) == 1  # the answers stand in one column


def test_how_to_get_prints_the_smallest_environments(capsys: Capture) -> None:
    assert ask(capsys, "how-to-get ROCM_AITER_FA --gpu gfx942 --release 0.12") == (
        0,
        (
            "VLLM_ATTENTION_BACKEND=ROCM_AITER_FA\n"
            "VLLM_ROCM_USE_AITER=1\n"
            "for gfx942, aiter present, an ordinary request,"
            " by the rules of vLLM 0.12.0 (--release)\n"
        ),
        "",
    )
    code, out, _ = ask(capsys, "how-to-get TRITON_MLA --gpu gfx1100 --mla")
    assert (code, out.splitlines()[0]) == (0, "(set nothing)")


def test_a_refusal_is_an_answer_with_exit_code_1(capsys: Capture) -> None:
    code, out, err = ask(capsys, "how-to-get ROCM_AITER_FA --gpu gfx1100 --release pr-26980")
    assert (code, err) == (1, "")
    # Nobody named it, and naming another backend would not be what was asked for.
    assert out.startswith("no variables lead to ROCM_AITER_FA: ROCM_AITER_FA is only supported on")
    assert "VLLM_ATTENTION_BACKEND" not in out
    line = (
        "explain VLLM_ATTENTION_BACKEND=TRITON_MLA --gpu gfx942 --mla --block-size 8"
        " --release pr-26980"
    )
    code, out, err = ask(capsys, line)
    assert (code, err) == (1, "")
    assert out.startswith("refused: TRITON_MLA (named by VLLM_ATTENTION_BACKEND) does not support")
    assert out.splitlines()[-3].split()[:2] == ["decision", "refused"]


def test_explain_as_json(capsys: Capture) -> None:
    code, out, _ = ask(
        capsys,
        "explain --json VLLM_ROCM_USE_AITER=1 --gpu gfx942 --aiter impostor --head-size 64"
        " --release pr-26980",
    )
    answer = json.loads(out)
    assert code == 1
    assert answer["schema"] == 1
    assert (answer["backend"], answer["class_path"]) == ("ROCM_AITER_FA", None)
    assert "pip uninstall aiter && pip install amd-aiter" in answer["refused"]
    assert answer["environment"] == {"VLLM_ROCM_USE_AITER": "1"}
    assert answer["gpu"] == {"gfx": "gfx942", "aiter": "impostor"}
    assert answer["request"] == {"head_size": 64}
    assert answer["note"] is None
    assert set(answer["trace"][0]) == {"rule", "answer", "reason", "source"}
    assert answer["trace"][-1]["answer"] == "refused"

    code, out, _ = ask(capsys, "explain --json --gpu gfx942 --release pr-26980")
    answer = json.loads(out)
    assert (code, answer["backend"], answer["refused"]) == (0, "TRITON_ATTN", None)
    assert answer["class_path"].endswith("TritonAttentionBackend")


@pytest.mark.parametrize("text", ["yes", "on", " 1"])
def test_a_value_that_reads_as_off_is_noted(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("VLLM_ROCM_USE_AITER", text)
    doubt = f"VLLM_ROCM_USE_AITER={text!r} reads as off; only 1 and true turn it on"
    code, out, _ = ask(capsys, "explain --environment --gpu gfx942")
    assert (code, out.splitlines()[1]) == (0, f"note: {doubt}")
    _, out, _ = ask(capsys, "explain --environment --gpu gfx942 --json")
    assert json.loads(out)["doubts"] == [doubt]
    code, out, _ = ask(capsys, "doctor")
    assert code == 1
    assert doubt in out
    _, out, _ = ask(capsys, "explain VLLM_ROCM_USE_AITER=1 --gpu gfx942 --json")
    assert json.loads(out)["doubts"] == []


def test_how_to_get_as_json(capsys: Capture) -> None:
    code, out, _ = ask(capsys, "how-to-get ROCM_ATTN --gpu gfx1201 --json --release pr-26980")
    assert (code, json.loads(out)) == (
        0,
        {
            "schema": 1,
            "backend": "ROCM_ATTN",
            "ways": [
                {"VLLM_ATTENTION_BACKEND": "ROCM_ATTN"},
                {"VLLM_V1_USE_PREFILL_DECODE_ATTENTION": "1"},
            ],
            "refused": None,
            "release": "vLLM pull request #26980",
            "gpu": {"gfx": "gfx1201", "aiter": "present"},
            "request": {},
        },
    )
    code, out, _ = ask(capsys, "how-to-get ROCM_AITER_FA --gpu gfx1201 --json --release pr-26980")
    assert (code, json.loads(out)["ways"]) == (1, [])
    assert "only supported on gfx9" in json.loads(out)["refused"]


def test_every_field_of_a_request_can_be_given(capsys: Capture) -> None:
    options = (
        "--mla --sparse --block-size none --head-size 96 --dtype fp16 --kv-cache-dtype fp8"
        " --attn-type encoder --num-heads 8 --num-kv-heads 4 --sliding-window 128"
        " --logits-soft-cap 30 --sinks --alibi --mm-prefix"
    )
    _, out, _ = ask(capsys, f"explain --gpu gfx942 --json {options}")
    assert json.loads(out)["request"] == {
        "head_size": 96,
        "dtype": "float16",
        "kv_cache_dtype": "fp8",
        "block_size": None,
        "use_mla": True,
        "use_sparse": True,
        "has_sink": True,
        "attn_type": "encoder",
        "sliding_window": 128,
        "num_heads": 8,
        "num_kv_heads": 4,
        "logits_soft_cap": 30.0,
        "alibi": True,
        "use_mm_prefix": True,
    }


@pytest.mark.parametrize(
    "line",
    [
        "explain --gpu gfx942 VLLM_ROCM_USE_AITER=1 VLLM_ROCM_USE_AITER_MHA=0",
        "explain VLLM_ROCM_USE_AITER=1 --gpu gfx942 VLLM_ROCM_USE_AITER_MHA=0",
        "explain VLLM_ROCM_USE_AITER=1 VLLM_ROCM_USE_AITER_MHA=0 --gpu gfx942",
    ],
)
def test_variables_may_stand_anywhere(capsys: Capture, line: str) -> None:
    code, out, _ = ask(capsys, f"{line} --release 0.12")
    assert code == 0
    assert out.startswith("TRITON_ATTN ")
    assert "for VLLM_ROCM_USE_AITER=1 VLLM_ROCM_USE_AITER_MHA=0, gfx942" in out


def test_a_variable_with_odd_text_is_quoted_for_the_shell(capsys: Capture) -> None:
    code = main(["explain", "VLLM_ROCM_USE_AITER= 1", "--gpu", "gfx942", "--release=0.12"])
    out = capsys.readouterr().out
    assert code == 0
    assert out.startswith("TRITON_ATTN ")  # " 1" is not on
    assert "for VLLM_ROCM_USE_AITER=' 1', gfx942" in out


def test_the_shells_variables_are_looked_at_only_when_asked_for(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ROCM_USE_AITER", "1")
    assert ask(capsys, "explain --gpu gfx942 --release 0.12")[1].startswith("TRITON_ATTN ")
    on = "explain --environment --gpu gfx942 --release 0.12"
    assert ask(capsys, on)[1].startswith("ROCM_AITER_FA ")
    off = "explain --environment VLLM_ROCM_USE_AITER=0 --gpu gfx942 --release 0.12"
    assert ask(capsys, off)[1].startswith("TRITON_ATTN ")


def test_a_disabled_mla_model_is_explained_as_ordinary_attention(capsys: Capture) -> None:
    code, out, _ = ask(capsys, "explain VLLM_MLA_DISABLE=1 --gpu gfx942 --mla --release 0.12")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("TRITON_ATTN ")
    assert lines[1] == "VLLM_MLA_DISABLE is on: the MLA model runs as ordinary attention"
    assert "head_size 192, num_heads 16, num_kv_heads 16, by the rules" in lines[2]
    _, out, _ = ask(
        capsys,
        "explain VLLM_MLA_DISABLE=1 --gpu gfx942 --mla --head-size 256 --num-heads 8"
        " --num-kv-heads 2 --json",
    )
    answer = json.loads(out)
    assert answer["request"] == {"head_size": 256, "num_heads": 8, "num_kv_heads": 2}
    assert answer["note"].startswith("VLLM_MLA_DISABLE is on")
    for line in ("VLLM_MLA_DISABLE=0 --mla", "VLLM_MLA_DISABLE=1"):
        _, out, _ = ask(capsys, f"explain {line} --gpu gfx942 --json")
        assert json.loads(out)["note"] is None


def test_without_a_gpu_option_this_machine_is_taken(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = hardware.Detection((hardware.DetectedGpu(0, "gfx950", "MI350X"),), "")
    monkeypatch.setattr(hardware, "detect", lambda: found)
    monkeypatch.setattr(aiter_probe, "probe", lambda: Probe(Aiter.BROKEN, ""))
    _, out, _ = ask(capsys, "explain --json")
    assert json.loads(out)["gpu"] == {"gfx": "gfx950", "aiter": "broken"}
    _, out, _ = ask(capsys, "explain --json --aiter present")
    assert json.loads(out)["gpu"] == {"gfx": "gfx950", "aiter": "present"}
    _, out, _ = ask(capsys, "explain --json --gpu gfx1100")
    assert json.loads(out)["gpu"] == {"gfx": "gfx1100", "aiter": "present"}


def test_variables_are_given_as_to_docker_and_env(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ROCM_USE_AITER_MHA", "0")
    line = "explain -e VLLM_ROCM_USE_AITER=1 --json --env VLLM_ROCM_USE_AITER_MHA --gpu gfx942"
    _, out, _ = ask(capsys, f"{line} VLLM_ROCM_CUSTOM_PAGED_ATTN=0")
    assert json.loads(out)["environment"] == {
        "VLLM_ROCM_USE_AITER": "1",
        "VLLM_ROCM_USE_AITER_MHA": "0",
        "VLLM_ROCM_CUSTOM_PAGED_ATTN": "0",
    }
    line = "explain -e VLLM_ROCM_USE_AITER=1 --gpu gfx942 --json"
    assert ask(capsys, line) == ask(capsys, line.replace("-e ", ""))


@pytest.mark.parametrize(
    ("backend", "machine", "words"),
    [
        ("ROCM_AITER_FA", "--gpu gfx942 --block-size 8", "Remedy: set --block-size to a multiple"),
        ("ROCM_AITER_FA", "--gpu gfx942 --aiter absent", "Remedy: run `pip install amd-aiter`"),
        ("TRITON_ATTN", "--gpu gfx942 --mla", "TRITON_ATTN is not MLA type"),
        ("TRITON_MLA", "--gpu gfx942", "is not supported on ROCm for an ordinary"),
    ],
)
def test_why_no_variables_lead_to_a_backend_is_about_the_backend(
    capsys: Capture, backend: str, machine: str, words: str
) -> None:
    code, out, _ = ask(capsys, f"how-to-get {backend} {machine} --release pr-26980")
    assert code == 1
    assert words in out
    assert "VLLM_ATTENTION_BACKEND" not in out


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "detect", lambda: hardware.Detection((), "no driver"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "rocm-attn: the following arguments are required: COMMAND; see `rocm-attn --help`"),
        ("expalin", "rocm-attn: argument COMMAND: invalid choice: 'expalin'"),
        ("--frob", "rocm-attn: the following arguments are required: COMMAND"),
        ("explain --gpu gfx942 --frob", "rocm-attn: unrecognized arguments: --frob"),
        ("explain --gpu gfx942 -x A=1", "rocm-attn: unrecognized arguments: -x"),
        ("explain --gpu", "rocm-attn explain: argument --gpu: expected one argument"),
        (
            "explain",
            "rocm-attn: give --gpu, such as --gpu gfx942: this machine has no AMD GPU that can be used;",
        ),
        ("explain --gpu gfx942 -e", "rocm-attn explain: argument -e/--env: expected one argument"),
        ("explain --gpu gfx942 -e NOT_SET", "rocm-attn: -e NOT_SET: it is not set in this shell"),
        (
            "explain --gpu gfx942 -e VLLM_ROCM_USE_AITER=1 VLLM_ROCM_USE_AITER=0",
            "rocm-attn: VLLM_ROCM_USE_AITER is given twice, as '1' and '0'",
        ),
        ("how-to-get TRITON_ATTN --gpu gfx942 -e A=1", "rocm-attn: unrecognized arguments: -e"),
        (
            "record m:o --output f --timeout nan",
            "rocm-attn record: argument --timeout: 'nan' is not a positive number of seconds",
        ),
        (
            "diff a b --limit -1",
            "rocm-attn diff: argument --limit: '-1' is not a whole number, 0 or more",
        ),
        ("explain --gpu MI301X", "rocm-attn: unknown GPU 'MI301X'. Did you mean 'MI3"),
        ("explain --gpu gfx94", "rocm-attn: unknown GPU 'gfx94'. Did you mean 'gfx942'"),
        (
            "explain --gpu gfx942 --aiter gone",
            "rocm-attn explain: argument --aiter: invalid choice: 'gone'",
        ),
        ("explain --gpu gfx942 AITER", "rocm-attn: 'AITER' is not of the form NAME=value"),
        (
            "explain --gpu gfx942 VLLM_ROCM_USE_AITTER=1",
            "rocm-attn: VLLM_ROCM_USE_AITTER is not a variable that ROCm attention reads. Did you",
        ),
        (
            "explain --gpu gfx942 VLLM_MLA_DISABLE=yes",
            "rocm-attn: VLLM_MLA_DISABLE='yes' is not an integer",
        ),
        (
            "explain --gpu gfx942 --release 0.12 VLLM_ATTENTION_BACKEND=triton_attn",
            "rocm-attn: VLLM_ATTENTION_BACKEND='triton_attn' is not a valid value. Did you mean",
        ),
        (
            "explain --gpu gfx942 --block-size many",
            "rocm-attn explain: argument --block-size: 'many' is neither a number nor none",
        ),
        (
            "explain --gpu gfx942 --block-size 0",
            "rocm-attn: request: block_size is 0; it must be a positive number of tokens",
        ),
        (
            "explain --gpu gfx942 --head-size 1.5",
            "rocm-attn explain: argument --head-size: invalid int value: '1.5'",
        ),
        (
            "explain --gpu gfx942 --dtype int3",
            "rocm-attn: request: dtype is 'int3'; it must be one of float16, bfloat16, float32",
        ),
        ("how-to-get", "rocm-attn how-to-get: the following arguments are required: BACKEND"),
        (
            "how-to-get TRITON_ATN --gpu gfx942",
            "rocm-attn: unknown attention backend 'TRITON_ATN'. Did you mean 'TRITON_ATTN'",
        ),
        (
            "how-to-get TRITON_ATTN A=1 --gpu gfx942",
            "rocm-attn: unrecognized arguments: A=1",
        ),
        ("doctor now", "rocm-attn: unrecognized arguments: now"),
    ],
)
@pytest.mark.usefixtures("no_gpu")
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(
    capsys: Capture, line: str, message: str
) -> None:
    code, out, err = ask(capsys, line)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "line", ["--help", "explain -h", "how-to-get -h", "doctor -h", "matrix -h"]
)
def test_help_is_help(capsys: Capture, line: str) -> None:
    code, out, err = ask(capsys, line)
    assert (code, err) == (0, "")
    assert out.startswith("usage: rocm-attn")


def test_the_version_is_the_distributions(capsys: Capture) -> None:
    from pytest_rocm_attn import __version__

    assert ask(capsys, "--version") == (0, f"rocm-attn {__version__}\n", "")


@pytest.mark.usefixtures("no_gpu")
def test_doctor_prints_a_line_per_subject(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_rocm_attn.doctor.probe", lambda: Probe(Aiter.ABSENT, "none"))
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        monkeypatch.delenv(name)
    code, out, err = ask(capsys, "doctor")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == [
        "python",
        "torch",
        "triton",
        "aiter",
        "GPU",
    ]
    assert out.splitlines()[-1].split() == ["GPU", "none:", "no", "driver"]

    monkeypatch.setenv("VLLM_MLA_DISABLE", "yes")
    code, out, err = ask(capsys, "doctor")
    assert (code, err) == (1, "")
    assert out.splitlines()[-1].split()[:3] == ["variable", "!", "VLLM_MLA_DISABLE='yes'"]
    code, out, err = ask(capsys, "doctor --json")
    assert code == 1
    assert json.loads(out)["findings"][-1] == {
        "subject": "variable",
        "text": "VLLM_MLA_DISABLE='yes' is not an integer; set it to 0 or 1, or unset it",
        "trouble": True,
    }


@pytest.mark.usefixtures("no_gpu")
def test_doctor_imports_aiter_only_when_asked_to(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = Probe(Aiter.PRESENT, "its import works")
    monkeypatch.setattr("pytest_rocm_attn.doctor.try_import", lambda: works)
    assert "its import works" in ask(capsys, "doctor --import-aiter")[1]
    assert "its import works" not in ask(capsys, "doctor")[1]


def test_matrix_is_pytest_with_the_conformance_option(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    def fake(arguments: list[str]) -> pytest.ExitCode:
        called.append(arguments)
        return pytest.ExitCode.TESTS_FAILED

    monkeypatch.setattr(pytest, "main", fake)
    assert main(["matrix", "-k", "a or b", "--rocm-attn-gpu=gfx942", "-x"]) == 1
    assert called == [["--rocm-attn-conformance", "-k", "a or b", "--rocm-attn-gpu=gfx942", "-x"]]


def run(*words: str, code: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(("-c", code) if code else ("-m", "pytest_rocm_attn")), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_package_can_be_run_as_a_module() -> None:
    done = run("how-to-get", "TRITON_ATTN", "--gpu", "gfx942", "--release", "0.12")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("(set nothing)\n")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    words = ["explain", "--gpu", "gfx942"]
    end, start = os.pipe()
    os.close(end)
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_rocm_attn", *words], stdout=start, stderr=subprocess.PIPE
    )
    os.close(start)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")


def test_explain_asks_by_the_newest_release_and_says_so(capsys: Capture) -> None:
    code, out, _ = ask(capsys, "explain --gpu MI355X --attention-backend rocm_aiter_fa")
    lines = out.splitlines()
    assert (code, lines[0].split()[0]) == (0, "ROCM_AITER_FA")
    asked = "by the rules of vLLM 0.33.0 (the newest known; --release gives another)"
    assert lines[1] == (
        f"for --attention-backend=rocm_aiter_fa, gfx950, aiter present, an ordinary request, {asked}"
    )
    code, out, _ = ask(capsys, "explain --json --gpu gfx942 --release v0.18.1")
    answer = json.loads(out)
    assert (code, answer["release"], answer["backend"]) == (0, "vLLM 0.18.1", "TRITON_ATTN")
    assert answer["selector"] is None
    code, _, err = ask(capsys, "explain --gpu gfx942 --release 0.34")
    assert code == 2
    assert err.startswith("rocm-attn: there is no policy of vLLM '0.34'. Did you mean '0.33'")


def test_a_variable_that_changes_nothing_in_the_release_is_noted(capsys: Capture) -> None:
    flags = "VLLM_ATTENTION_BACKEND=nonsense VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION=1"
    code, out, _ = ask(capsys, f"explain --gpu gfx942 VLLM_ROCM_USE_AITER=1 {flags}")
    lines = out.splitlines()
    assert (code, lines[0].split()[0]) == (0, "ROCM_ATTN")
    gone = "vLLM 0.33.0 does not read VLLM_ATTENTION_BACKEND"
    assert lines[1:3] == [
        f"note: {gone}: removed by PR #32812; use --attention-backend",
        "note: VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION does not change what vLLM 0.33.0 selects",
    ]
    known = "--release 0.12 --json VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION=1"
    code, out, _ = ask(capsys, f"explain --gpu gfx942 {known}")
    assert json.loads(out)["doubts"] == []


@pytest.mark.usefixtures("without_torch")
def test_explain_sets_the_rules_beside_an_installed_selector(
    capsys: Capture, tmp_path: Path
) -> None:
    fork = tmp_path / "fork.py"
    fork.write_text(
        "import os\n"
        "def select(request, environ):\n"
        "    if request.has_sink: raise ValueError('TRITON_ATTN: no sinks')\n"
        "    return environ.get('VLLM_ATTENTION_BACKEND') or 'TRITON_ATTN'\n"
    )
    line = f"explain --selector {fork}:select --gpu MI300X"
    code, out, _ = ask(capsys, line)
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == f"{fork}:select: TRITON_ATTN"
    assert lines[1].startswith("vLLM 0.33.0: ROCM_ATTN  (vllm.v1.")
    assert lines[2] == "not the same"
    assert "rocm-attn  " in out  # the rule by that name is among the reasons
    _, out, _ = ask(capsys, f"{line} --attention-backend ROCM_ATTN")
    assert out.splitlines()[2] == "the same"
    code, out, _ = ask(capsys, f"{line} --sinks --json")
    answer = json.loads(out)
    assert (code, answer["backend"]) == (1, "ROCM_AITER_UNIFIED_ATTN")
    assert answer["selector"] == {
        "name": f"{fork}:select",
        "outcome": "rejected",
        "backend": None,
        "text": "ValueError: TRITON_ATTN: no sinks",
    }
    code, _, err = ask(capsys, "explain --selector not_there.mod:thing --gpu gfx942")
    assert code == 2
    assert err.startswith("rocm-attn: ")
    assert err.count("\n") == 1


def test_the_command_imports_the_reference_only_to_ask_it() -> None:
    shown = (
        "import sys; from pytest_rocm_attn import cli; code = cli.main(sys.argv[1:]);"
        "names = ('torch', 'triton', 'pytest', 'msgspec', 'hypothesis', 'pytest_rocm_attn.backends');"
        "print(*[name for name in names if name in sys.modules], file=sys.stderr)"
    )
    assert run("doctor", code=shown).stderr == "\n"
    assert run("explain", "--gpu", "gfx942", code=shown).stderr == "pytest_rocm_attn.backends\n"


DOCS = Path(__file__).parents[2] / "docs"


def examples() -> list[tuple[str, str]]:
    """Return the guides' command lines that do not depend on the machine, with their output."""
    text = "".join((DOCS / page).read_text() for page in ("cli.md", "start.md"))
    blocks = re.findall(r"```console\n\$ rocm-attn (.*?)\n(.*?)```", text, re.DOTALL)
    return [
        (line, output)
        for line, output in blocks
        if not line.startswith(("doctor", "init", "predicates"))
    ]


@pytest.mark.parametrize(("line", "output"), examples())
def test_the_examples_of_the_documentation_print_what_it_says(
    capsys: Capture, line: str, output: str
) -> None:
    assert ask(capsys, line)[1] == output


def test_the_documentation_has_examples() -> None:
    assert len(examples()) == 4


def test_the_python_example_of_the_documentation_answers_what_it_says() -> None:
    text = (DOCS / "selection.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  (our own documentation)
    said = dict(re.findall(r"^selection\.(\w+) +# \"(.*)\"$", code, re.MULTILINE))
    assert set(said) == {"backend", "class_path"}
    assert said == {name: getattr(names["selection"], name) for name in said}
    call, answer = re.findall(r"^(how_to_get\(.*\))\n# (.*)$", code, re.MULTILINE)[0]
    assert eval(call, names) == eval(answer)


def test_report_makes_the_other_formats_from_a_json_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "r.json", tmp_path / "r.md"
    source.write_text('{"schema": 1, "rows": [{"id": "a", "tier": "b", "verdict": "fail"}]}')
    assert main(["report", str(source), str(target)]) == 0
    assert "1 item: 1 fail" in target.read_text()
    source.write_text('{"schema": 99, "rows": []}')
    assert main(["report", str(source), str(target)]) == 2
    assert main(["report", str(source), str(tmp_path / "r.pdf")]) == 2
    schema, suffix = capsys.readouterr().err.splitlines()
    assert "schema 99" in schema
    assert "'.pdf' is unknown; use .json" in suffix


def test_diff_of_what_is_no_baseline_is_one_line(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    code, out, err = ask(capsys, f"diff {tmp_path / 'other.json'} vllm-nightly")
    assert (code, out) == (2, "")
    assert err.startswith(
        f"rocm-attn: baseline {tmp_path / 'other.json'}: is not a baseline; give a"
    )
    assert err.count("\n") == 1
    code, out, err = ask(capsys, "diff vllm-nightly vllm-nightly")
    assert (code, out) == (2, "")
    assert err.startswith("rocm-attn: no baseline 'vllm-nightly'.")


@pytest.mark.parametrize(
    ("target", "wrong"),
    [
        ("atlas.md", r"the suffix chooses the format, and '\.md' is unknown; use \.html"),
        ("no-such-folder/atlas.html", "no-such-folder is not a folder"),
    ],
)
def test_an_atlas_that_cannot_be_written_is_refused_before_it_is_made(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, wrong: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = ask(capsys, f"atlas {target}")
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"rocm-attn: {target}: {wrong}\n", err)
    assert list(tmp_path.iterdir()) == []
