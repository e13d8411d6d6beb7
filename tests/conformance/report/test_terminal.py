"""The end of the terminal output, whole: of a failing run, of a green one, and with -v and -vv."""

from __future__ import annotations

from typing import Any

from pytest_rocm_attn.conformance.report import terminal
from pytest_rocm_attn.request import Request

AGAIN = "python -m pytest --rocm-attn-conformance 'rocm-attn::documented::x[gfx942]'"


class Terminal:
    """As much of pytest's reporter as the end of the output uses."""

    def __init__(self, verbosity: int) -> None:
        self.verbosity = verbosity
        self.text = ""

    def section(self, title: str, **_: Any) -> None:
        self.text += f"== {title}\n"

    def write(self, text: str, **_: Any) -> None:
        self.text += text

    def write_line(self, text: str, **_: Any) -> None:
        self.text += f"{text}\n"


def written(done: dict[str, Any], verbosity: int = 0) -> str:
    out = Terminal(verbosity)
    reporter: Any = out  # as much of one as is used
    terminal.write(reporter, {"declined": []} | done)
    return out.text


def run(record: Any, report: Any) -> dict[str, Any]:
    """Return a run in which the default is another backend on two GPUs, and a switch crashes."""
    rows = []
    for gfx in ("gfx942", "gfx1201"):
        gpu = {"gfx": gfx, "aiter": "present"}
        flex = {"kind": "selected", "words": "FLEX_ATTENTION", "backend": "FLEX_ATTENTION"}
        rows.append(record(id="the-default", gpu=gpu, verdict="fail", outcome=flex))
        rows.append(
            record(
                id="the-default-with-sinks",
                gpu=gpu,
                verdict="fail",
                outcome=flex,
                request=vars_of(Request(has_sink=True)),
            )
        )
        rows.append(
            record(
                id="aiter-on",
                gpu=gpu,
                level="advisory",
                verdict="advisory",
                env={"VLLM_ROCM_USE_AITER": "1"},
                outcome={"kind": "crashed", "words": "crash: KeyError: 'x'", "error": "KeyError"},
            )
        )
        rows.append(record(id="mla", gpu=gpu, request=vars_of(Request(use_mla=True))))
    return dict(report(*sorted(rows, key=lambda row: str(row["id"])), summaries=[]))


def vars_of(request: Request) -> dict[str, Any]:
    return {name: getattr(request, name) for name in Request.__dataclass_fields__}


FAILING = f"""\
== ROCm attention conformance
8 items: 2 pass, 4 fail, 2 advisory (contract ours, selector ours.pick:select (ours 4.5))
FAIL      Default for ordinary layers: TRITON_ATTN -> FLEX_ATTENTION, on every GPU. [4 items, 2 GPUs]
  where  no variables; gfx942, aiter present; a plain layer
  why    the-default: expected TRITON_ATTN (the handbook, page 3)
  show   {AGAIN}
ADVISORY  AITER=1: TRITON_ATTN -> a crash (KeyError). [2 items, 2 GPUs]
  show   {AGAIN}
"""


def test_a_failing_run_ends_in_its_causes(record: Any, report: Any) -> None:
    assert written(run(record, report)) == FAILING


def test_more_of_it_is_asked_for(record: Any, report: Any) -> None:
    done = run(record, report)
    items = written(done, 1).removeprefix(FAILING).splitlines()
    assert items[0] == "== what fell short"
    assert [line.split("[")[0].split() for line in items[1:]] == [
        *(["FAIL", name] for name in ("the-default", "the-default-with-sinks")),
        ["ADVISORY", "aiter-on"],
    ]
    assert items[1] == (
        "FAIL      the-default[gfx942, gfx1201] | no variables | gfx942, aiter present | a plain layer | expected"
        f" TRITON_ATTN | got FLEX_ATTENTION | the handbook, page 3 | {AGAIN}"
    )
    matrix = written(done, 2).removeprefix(FAILING).partition("== what fell short")[0]
    assert matrix.splitlines()[:3] == [
        "gfx942  gfx1201  required rows",
        "  .        .     mla",
        "  F        F     the-default",
    ]


def test_a_green_run_ends_in_a_line_for_each_family(record: Any, report: Any) -> None:
    rows = [
        record(id="a"),
        record(id="b", request=vars_of(Request(use_mla=True))),
        record(id="c", verdict="pass", request=vars_of(Request(has_sink=True))),
    ]
    assert written(dict(report(*rows, summaries=[]))) == (
        "== ROCm attention conformance\n"
        "3 items: 3 pass (contract ours, selector ours.pick:select (ours 4.5))\n"
        "ordinary  1 pass\nMLA       1 pass\nsinks     1 pass\n"
    )


def test_no_more_than_a_screen_of_causes_is_shown_unasked(record: Any, report: Any) -> None:
    rows = [
        record(
            id=f"row-{number}", tier="capabilities", verdict="fail", expect={"words": "no error"}
        )
        for number in range(40)
    ]
    text = written(dict(report(*rows, summaries=[])))
    assert len(text.splitlines()) < 60
    assert "28 more causes of 28 items, 28 of them failing: -v or a report" in text
    assert len(written(dict(report(*rows, summaries=[])), 1).splitlines()) > 160


def test_an_item_without_a_judgement_is_a_cause_besides_those_of_its_tier(
    record: Any, report: Any, summary: dict[str, Any]
) -> None:
    rows = [
        record(id="slice", tier="grid", verdict="fail"),
        record(id="other-slice", tier="grid", verdict="error", outcome={"words": "no worker"}),
    ]
    lines = written(dict(report(*rows, summaries=[summary]))).splitlines()
    causes = [line.split()[0] for line in lines if line[:1].isupper() and "[" in line]
    assert causes == ["FAIL", "ERROR", "ADVISORY"]
    assert any("other-slice: no worker" in line for line in lines)
    assert summary["told"][0] in lines
