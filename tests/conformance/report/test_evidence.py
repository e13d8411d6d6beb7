"""The table of backends by kinds of evidence, and that every format shows it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pytest_rocm_attn.conformance.report import evidence, html_page, json_file, markdown, terminal

H100 = {"name": "NVIDIA H100", "arch": "sm_90", "torch": "2.11.0", "cuda": "13.0"}


def kernel(record: Any, backend: str, kind: str, verdict: str = "pass", **fields: Any) -> Any:
    details = {"backend": {"name": backend, "spec": "m:o"}}
    return record(
        tier="numerics", gpu=None, evidence=kind, verdict=verdict, details=details, **fields
    )


def rows(record: Any) -> list[Any]:
    return [
        kernel(record, "OURS", "interpreter", id="OURS::a"),
        kernel(record, "OURS", "interpreter", "fail", id="OURS::b"),
        kernel(record, "OURS", "cuda", id="OURS::a"),
        kernel(record, "THEIRS", "launch", id="THEIRS::a"),
        kernel(record, "THEIRS", "launch", id="THEIRS::b"),
        record(),  # a selection is about no backend's kernels
    ]


DECLINED = [
    {"id": "OURS::c", "tier": "numerics", "backend": "OURS", "evidence": "cuda", "reason": "no"},
    {"id": "NEW::c", "tier": "numerics", "backend": "NEW", "evidence": "rocm", "reason": "no"},
]
WANTED = [
    (
        "OURS",
        [
            "1 pass, 1 fail",
            "not tried",
            "not tried",
            "not tried",
            "1 pass, 1 declined",
            "not tried",
        ],
    ),
    ("THEIRS", ["not tried", "2 pass", "not tried", "not tried", "not tried", "not tried"]),
    ("NEW", ["not tried", "not tried", "not tried", "not tried", "not tried", "1 declined"]),
]


def test_each_backend_has_a_cell_for_each_kind_of_evidence(record: Any) -> None:
    assert evidence.COLUMNS == (
        "interpreter",
        "launch",
        "source-emulated",
        "emulated",
        "cuda",
        "rocm",
    )
    assert evidence.table(rows(record), DECLINED) == WANTED


def test_without_a_kernel_there_is_no_table(record: Any, report: Any) -> None:
    assert evidence.table([record()]) == []
    assert "Backends by evidence" not in markdown.render(report(record()))
    assert "Backends by evidence" not in html_page.render(report(record()))


def test_markdown_shows_the_table_and_the_device(record: Any, report: Any) -> None:
    host = {"kind": "pure", "devices": [H100]}
    text = markdown.render(report(*rows(record), declined=DECLINED, host=host))
    assert "| backend | interpreter | launch | source-emulated | emulated | cuda | rocm |" in text
    for name, cells in WANTED:
        assert f"| `{name}` | {' | '.join(cells)} |" in text
    assert "- Kernels ran on `NVIDIA H100 (sm_90), torch 2.11.0, cuda 13.0`." in text


def test_the_page_shows_the_table_and_the_device(record: Any, report: Any) -> None:
    host = {"kind": "pure", "devices": [H100]}
    text = html_page.render(report(*rows(record), declined=DECLINED, host=host))
    for name, cells in WANTED:
        shown = "".join(f"<td>{cell}</td>" for cell in cells)
        assert f'<tr><th scope="row">{name}</th>{shown}</tr>' in text
    assert "<dt>Devices</dt><dd>NVIDIA H100 (sm_90), torch 2.11.0, cuda 13.0</dd>" in text


def test_a_backends_name_cannot_break_out_of_the_page(record: Any, report: Any) -> None:
    page = html_page.render(report(kernel(record, "<script>alert(1)</script>", "cuda")))
    assert "<script>alert" not in page
    assert '<th scope="row">&lt;script&gt;alert(1)&lt;/script&gt;</th>' in page


def test_the_terminal_shows_the_table_and_the_device(record: Any, report: Any) -> None:
    lines: list[str] = []
    out: Any = SimpleNamespace(
        section=lambda title, **_: lines.append(title),
        write_line=lambda text, **_: lines.append(text),
    )
    done = report(*rows(record), declined=DECLINED, host={"devices": [H100]})
    terminal.write_evidence(out, done)
    start = lines.index("backends by evidence")
    assert [line.split() for line in lines[start + 1 : start + 5]] == [
        list(evidence.COLUMNS),
        *([name, *" ".join(cells).split()] for name, cells in WANTED),
    ]
    # each column stands under its head
    assert lines[start + 1].index("interpreter") == max(len(name) for name, _ in WANTED) + 2
    assert lines[start + 5] == "on NVIDIA H100 (sm_90), torch 2.11.0, cuda 13.0"


def test_a_saved_report_keeps_what_was_declined(record: Any, report: Any, tmp_path: Any) -> None:

    file = tmp_path / "r.json"
    file.write_text(json_file.render(report(*rows(record), declined=DECLINED)))
    loaded = json_file.load(file)
    assert evidence.table(loaded["rows"], loaded["declined"]) == WANTED
