"""The atlas as its reader meets it, in headless Chromium: slow; skipped where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn import Gpu, Request
from pytest_rocm_attn.backends import how_to_get
from pytest_rocm_attn.backends.releases import RELEASES, policy_of
from pytest_rocm_attn.cli import main
from pytest_rocm_attn.conformance.baseline.baseline import load
from pytest_rocm_attn.conformance.promise import contract
from pytest_rocm_attn.conformance.promise.got import Got
from pytest_rocm_attn.conformance.promise.grid.design import standard
from pytest_rocm_attn.conformance.promise.grid.outcomes import behaviour
from pytest_rocm_attn.conformance.promise.rows import Row
from pytest_rocm_attn.errors import RequestError, SelectionError
from pytest_rocm_attn.flags import ATTENTION_BACKEND, EXPLICIT
from pytest_rocm_attn.registry import EVERY_NAME

if TYPE_CHECKING:
    from playwright.sync_api import Page

    Open = Callable[..., Page]
    Check = Callable[[Page], list[str]]

pytestmark = pytest.mark.slow

Draw = Callable[[int, int], list[dict[str, Any]]]
PLAIN = {"gpu": "gfx942", "aiter": "present", "environ": {}, "request": {}}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page as the command writes it."""
    path = tmp_path_factory.mktemp("atlas") / "atlas.html"
    assert main(["atlas", str(path)]) == 0
    return path


@pytest.fixture
def show(open_page: Open, written: Path) -> Open:
    """A function that opens the page at a fragment."""
    return lambda fragment="", **options: open_page(written, fragment, **options)


def explained(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return what `rocm-attn explain --json` answers to a command line of the page."""
    assert words[:2] == ["rocm-attn", "explain"]
    main([*words[1:], "--json"])
    output = capsys.readouterr()
    assert output.err == ""
    found = json.loads(output.out)
    return {name: found[name] for name in ("backend", "class_path", "refused", "trace", "note", "doubts")}  # fmt: skip


@pytest.fixture
def thousand(draw: Draw) -> list[dict[str, Any]]:
    """The questions that the page and the command have to answer alike."""
    return draw(1000, 20261130)


# What each would be like if the page forgot it: a text of page/select.js, and another.
FAULTS = {
    "a named backend gives way": ("if (way === null) return false;", "return false;"),
    "it does so for one reason only": ("rules.length === 1 && way.alone", "way.alone"),
    "the layout is asked last": ("others.length ? others : all", "all"),
    "a name has limits of its own": ("(policy.when_named[named] || [])", "[]"),
    "a variable sets a need": ("of policy.sets)", "of [])"),
    "the first variable that names counts": ("named_by.find((each)", "named_by.findLast((each)"),
    "a remedy may be a switch": ("...otherSwitches(branch, asked, policy)", ""),
    "a remedy may switch a rule off": ("...(rule ? otherFlags(rule, asked, policy) : [])", ""),
    "auto names nothing": ('text.toLowerCase() === "auto" ? null : ', ""),
    "a disabled MLA model is ordinary": ("layer.use_mla && flags[MLA_DISABLE]", "false"),
    "None is written as Python does": ('return "None"', 'return "null"'),
    "texts are quoted as Python does": ("quoted && typeof", "false && typeof"),
    "a misspelt name has a neighbour": ('data.nearest[branch.names][named] ?? ""', '""'),
}


def test_the_questions_show_each_fault_of_the_page(
    show: Open, open_page: Open, written: Path, tmp_path: Path, thousand: list[dict[str, Any]]
) -> None:
    """Proves that the comparison below would fail."""
    ask = "questions => questions.map((asked) => JSON.stringify(atlas.answer(asked)))"
    intact, text = show().evaluate(ask, thousand), written.read_text("utf-8")
    unseen = []
    for meaning, (right, wrong) in FAULTS.items():
        assert text.count(right) == 1, meaning
        faulty = tmp_path / "faulty.html"
        faulty.write_text(text.replace(right, wrong), "utf-8")
        page = open_page(faulty, bypass_csp=True)
        if page.evaluate(ask, thousand) == intact:
            unseen.append(meaning)
    assert unseen == []


def test_a_thousand_drawn_questions_are_answered_as_explain_answers_them(
    show: Open, thousand: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = show().evaluate(
        "questions => questions.map((asked) => [atlas.answer(asked), atlas.command(asked)])",
        thousand,
    )
    kinds = set()
    for asked, (answer, command) in zip(thousand, found, strict=True):
        expected = explained(command, capsys)
        assert answer == expected, asked
        kinds.add((asked["release"], answer["refused"] is None))
    every = {(one, served) for one in (*RELEASES, "pr-26980") for served in (True, False)}
    assert kinds == every


def test_what_leads_elsewhere_is_what_how_to_get_says(show: Open, draw: Draw) -> None:
    questions = [
        asked for asked in draw(240, 5) if not {"VLLM_MLA_DISABLE"} & set(asked["environ"])
    ]
    found = show().evaluate("questions => questions.map(atlas.howToGet)", questions)
    reached = refused = 0
    for asked, by_backend in zip(questions, found, strict=True):
        gpu, policy = Gpu(asked["gpu"], asked["aiter"]), policy_of(asked["release"])
        for backend, how in by_backend.items():
            try:
                ways = list(how_to_get(backend, Request(**asked["request"]), gpu, policy))
                assert how == {"ways": ways, "refused": None}, (asked, backend)
                reached += 1
            except SelectionError as error:
                assert how == {"ways": [], "refused": str(error)}, (asked, backend)
                refused += 1
    assert min(reached, refused) > 200


@pytest.mark.parametrize(
    "request_",
    [
        {"head_size": 0, "num_heads": 0},
        {"num_heads": 8, "num_kv_heads": 3},
        {"block_size": 0},
        {"sliding_window": 0},
        {"logits_soft_cap": 0.0},
    ],
)
def test_a_layer_that_cannot_be_is_refused_in_the_words_of_the_command(
    show: Open, request_: dict[str, Any]
) -> None:
    asked = {**PLAIN, "release": "0.33.0", "request": request_}
    words = show().evaluate(
        "asked => { try { return [atlas.answer(asked).refused, null]; }"
        " catch (error) { return [null, error.message]; } }",
        asked,
    )
    try:
        Request(**request_)
    except RequestError as error:
        assert words == [None, str(error)]
    else:
        assert words[1] is None


def name_in(row: Row) -> str:
    """Return what a row names, as the page's menu has it; "" for nothing."""
    name = (row.named and row.named.backend) or ""
    return name if name.lower() == "auto" else name.upper()


def is_asked(row: Row) -> bool:
    """Whether the page can ask the question of a row: one layer, known names, two switches."""
    return (
        row.named is not None
        and row.named.asks == "layer"
        and not row.named.per_kind
        and row.named.backend != ""
        and name_in(row) in {"", "auto", *EVERY_NAME}
        and set(row.env) <= {"VLLM_ROCM_USE_AITER", "VLLM_ROCM_USE_AITER_MHA"}
    )


def test_promises_and_recordings_are_those_of_the_contract_and_the_baselines(show: Open) -> None:
    """Every row about one layer is found for its own question; a sample of cells is as recorded."""
    promised = {
        one: [row for row in contract.load("vllm").rows if row.holds_in(version) and is_asked(row)]
        for one, version in (("0.12.0", (0, 12, 0)), ("0.33.0", (0, 33, 0)))
    }
    page = show()
    for one, rows in promised.items():
        by = ATTENTION_BACKEND if one == "0.33.0" else EXPLICIT
        questions = [
            {
                "release": one,
                "gpu": row.gpus[0].gfx,
                "aiter": row.gpus[0].aiter.value,
                "environ": dict(row.env) | ({by: name} if (name := name_in(row)) else {}),
                "request": row.request.non_default(),
            }
            for row in rows
        ]
        found = page.evaluate("questions => questions.map(atlas.evidence)", questions)
        assert len(rows) > 50
        for row, shown in zip(rows, found, strict=True):
            assert row.id in {promise["id"] for promise in shown["promises"]}
            broken = [one for one in shown["broken"] if one["level"] == "required"]
            assert not broken or shown["defects"], (row, broken)
    for name in ("0.12.0", "0.33.0"):
        by = ATTENTION_BACKEND if name == "0.33.0" else EXPLICIT
        baseline = load(f"vllm-{name}")
        family = standard().family("mla")
        numbers = range(0, family.cells, 211)
        cells = [family.cell(number) for number in numbers]
        questions = [
            {
                "release": name,
                "gpu": cell.gpu.gfx,
                "aiter": cell.gpu.aiter.value,
                "environ": {(by if n == EXPLICIT else n): text for n, text in cell.environ.items()},
                "request": cell.request.non_default(),
            }
            for cell in cells
        ]
        found = page.evaluate(
            "questions => questions.map((asked) => atlas.evidence(asked).recorded?.words)",
            questions,
        )
        table = baseline.tables["mla"]
        assert found == [str(behaviour(table.outcomes[table.codes[n]])) for n in numbers]


def test_a_recording_shown_next_to_an_answer_agrees_with_it(
    show: Open, thousand: list[dict[str, Any]]
) -> None:
    """The policies agree with the recordings, so one that differs is of another question."""
    found = show().evaluate(
        "questions => questions.map((asked) => [atlas.answer(asked), atlas.evidence(asked).recorded])",
        thousand,
    )
    pairs = [(answer, recorded) for answer, recorded in found if recorded and recorded["answer"]]
    assert len(pairs) > 100
    for answer, recorded in pairs:
        assert recorded["words"] == ("a refusal" if answer["refused"] else answer["backend"])


def test_a_known_defect_is_shown_with_a_link_where_the_contract_says_so(show: Open) -> None:
    fragment = (
        "#VLLM_ROCM_USE_AITER=1&VLLM_ROCM_USE_AITER_MHA=0&VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION=1"
    )
    page = show(fragment)
    note = page.locator(".note.defect")
    (defect,) = (
        one for one in contract.load("vllm").defects if one.id == "the-unified-switch-is-dead"
    )
    assert defect.explains("unified-flag-takes-over-from-mha-switched-off-for-fp16", "gfx942", Got("ROCM_ATTN"))  # fmt: skip
    assert defect.what in note.inner_text()
    link = note.get_by_role("link")
    assert link.get_attribute("href") == "https://github.com/vllm-project/vllm/issues/56021"
    show("#VLLM_ROCM_USE_AITER=1").locator(".note", has_text="Observed.").wait_for()
    assert show("#release=0.18&" + fragment[1:]).locator(".note.defect").count() == 0


def test_the_address_holds_the_question_and_a_product_is_understood(show: Open) -> None:
    page = show(
        "#release=0.32&gpu=7900-xtx&VLLM_ROCM_USE_AITER=1&has_sink=1&block_size=none&use_mla=1&bogus=1"
    )
    assert page.get_by_label("vLLM", exact=True).input_value() == "0.32.0"
    assert page.get_by_label("GPU", exact=True).input_value() == "Radeon RX 7900 XTX"
    assert page.get_by_label("VLLM_ROCM_USE_AITER", exact=True).input_value() == "1"
    assert page.get_by_label("Kind").input_value() == "use_mla"
    assert page.get_by_label("Block size").input_value() == "none"
    assert page.get_by_label("Attention sinks").is_checked()
    assert "bogus=1" in page.locator(".note").all_inner_texts()[-1]
    page.get_by_label("Attention sinks").uncheck()
    fragment = page.evaluate("location.hash")
    assert "has_sink" not in fragment
    again = show(fragment)
    assert again.locator("#details").inner_text() == page.locator("#details").inner_text()
    again.evaluate("location.hash = '#release=0.12.0&VLLM_ATTENTION_BACKEND=TREE_ATTN'")
    again.locator("#answer", has_text="Refused: TREE_ATTN").wait_for()


def test_the_keyboard_alone_changes_the_question_and_the_answer_is_announced(show: Open) -> None:
    page = show()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "why"
    status = page.get_by_role("status")
    assert status.get_attribute("aria-live") == "polite"
    page.get_by_label("Attention sinks").focus()
    page.keyboard.press("Space")
    assert "ROCM_AITER_UNIFIED_ATTN" in status.inner_text()
    page.get_by_label("Head size").focus()
    page.keyboard.type("abc")
    assert "head_size: abc is not a whole number" in status.inner_text()
    assert page.get_by_label("Head size").get_attribute("aria-invalid") == "true"
    assert page.locator("#details").is_hidden()
    page.keyboard.press("Control+A")
    page.keyboard.type("64")
    assert "ROCM_AITER_UNIFIED_ATTN" in status.inner_text()
    older = page.locator("#releases").get_by_role("button", name="0.18.1")
    older.focus()
    page.keyboard.press("Enter")
    assert "vLLM 0.18.1 on gfx942" in status.inner_text()
    assert page.evaluate("document.activeElement.textContent") == "0.18.1"
    page.get_by_role("button", name="Ask a plain question").click()
    assert page.evaluate("location.hash") == "#release=0.18.1"


def test_releases_and_gpus_are_grouped_by_what_they_answer(
    show: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    page = show("#has_sink=1")
    for place, option in (("#releases", "--release"), ("#gpus", "--gpu")):
        groups = page.locator(f"{place} dl").evaluate(
            "list => [...list.querySelectorAll('dt')].map((term) => [term.querySelector('code').textContent,"
            " [...term.nextElementSibling.children].map((button) => button.dataset.value)])"
        )
        asked = {"--release": "0.33.0", "--gpu": "gfx942"}
        for answer, members in groups:
            for member in members:
                words = [word for pair in (asked | {option: member}).items() for word in pair]
                found = explained(
                    ["rocm-attn", "explain", "--sinks", "--aiter", "present", *words], capsys
                )
                assert answer == ("refused" if found["refused"] else found["backend"]), member
        assert sum(len(members) for _, members in groups) in (17, len(RELEASES) + 1)


def test_every_link_leads_to_an_address_that_opens_in_a_tab(show: Open) -> None:
    page = show("#block_size=8&release=0.33.0")
    links = page.locator("main a:not([href^='#'])").evaluate_all(
        "all => all.map((link) => [link.href, link.target, link.rel])"
    )
    assert len(links) > 20
    for href, target, rel in links:
        assert href.startswith(("https://github.com/", "https://pytest-rocm-attn.readthedocs.io/"))
        assert (target, rel) == ("_blank", "noopener noreferrer")


FRAGMENTS = (
    "",
    "#block_size=8&VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION=1",
    "#VLLM_ROCM_USE_AITER=1&VLLM_ROCM_USE_AITER_MHA=0&VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION=1",
    "#release=0.12&VLLM_ATTENTION_BACKEND=ROCM_AITER_FA&use_mla=1&gpu=gfx1100",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window_and_no_word_is_broken(
    show: Open, broken_words: Check, width: int, scheme: str
) -> None:
    for fragment in FRAGMENTS:
        page = show(fragment, viewport={"width": width, "height": 800}, color_scheme=scheme)
        for summary in page.locator("details summary").all():
            summary.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert broken_words(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(show: Open, violations: Check, width: int, scheme: str) -> None:
    for fragment in FRAGMENTS:
        window = {"width": width, "height": 800}
        page = show(fragment, viewport=window, color_scheme=scheme, bypass_csp=True)
        assert violations(page) == []


def test_the_page_is_small(show: Open, written: Path) -> None:
    assert written.stat().st_size < 5_000_000
    ready = [show().evaluate("Number(document.documentElement.dataset.ready)") for _ in range(3)]
    print(f"{written.stat().st_size:,} bytes, ready after {sorted(ready)} ms")
