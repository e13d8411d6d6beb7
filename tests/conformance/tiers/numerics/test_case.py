"""Reading numerics cases: what is varied, and what is refused in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_rocm_attn.conformance.tiers.numerics.case import Case, load, shipped
from pytest_rocm_attn.errors import CaseError

ROW = """
[[case]]
id = "a-case"
why = "to catch it"
kind = "attention"
request = {{ num_heads = 4 }}
lengths = [[1, 5], [0, 0]]
{more}
"""


def read(tmp_path: Path, text: str) -> tuple[Case, ...]:
    file = tmp_path / "cases.toml"
    file.write_text(text)
    return load(file)


def test_a_row_becomes_a_case(tmp_path: Path) -> None:
    (case,) = read(tmp_path, ROW.format(more=""))
    assert (case.id, case.kind, case.lengths) == ("a-case", "attention", ((1, 5), (0, 0)))
    assert case.request.num_heads == 4
    assert case.level == "required"


def test_every_combination_of_varied_values_is_a_case(tmp_path: Path) -> None:
    more = 'vary = { dtype = ["float16", "float32"], causal = [true, false] }'
    cases = read(tmp_path, ROW.format(more=more))
    assert [case.id for case in cases] == [
        "a-case-causal-float16",
        "a-case-not-causal-float16",
        "a-case-causal-float32",
        "a-case-not-causal-float32",
    ]
    assert [case.request.dtype for case in cases] == ["float16", "float16", "float32", "float32"]
    assert [case.causal for case in cases] == [True, False, True, False]


def test_a_case_survives_the_way_to_the_worker(tmp_path: Path) -> None:
    (case,) = read(
        tmp_path,
        ROW.format(
            more='fp8 = "e4m3fnuz"\nneeds = "gpu"\nspecial = "minus-inf"\nspecial_at = [[0, 3]]'
        ),
    )
    assert Case.from_json(case.to_json()) == case


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('kinds = "x"', "kinds: unknown key"),
        ('layout = "packed"', "layout"),
        ('special = "infinity"', "value 'infinity'; it must be one of nan"),
        ('special = "nan"', "special_at is missing"),
        ('special = "nan"\nspecial_at = [[0, 5]]', "special_at [0, 5] is outside"),
        ('special = "nan"\nspecial_at = [[1, 0]]', "special_at [1, 0] is outside"),
        ('special = "nan"\nspecial_in = "v_scale"', "v_scale needs an fp8 cache"),
        ('special = "nan"\nspecial_in = "sinks"', "sinks needs has_sink"),
        ("special_at = [[0, 1]]", "special_at without special"),
        ("score = 0.0", "score: Expected `float` > 0.0; it must be a positive number"),
        ('vary = { colour = ["red"] }', "vary.colour: unknown key"),
        ('vary = { layout = ["packed"] }', "vary.layout: Invalid enum value 'packed'; it must be"),
        ('vary = { causal = ["no"] }', "vary.causal: Expected `bool`, got `str`"),
        ("vary = { block_size = [] }", "vary.block_size: lists no value"),
        ("vary = { score = [-1.0] }", "vary.score: Expected `float` > 0.0"),
        ("vary = 3", "vary: Expected `object`, got `int`"),
        (
            "request = { head_sizes = 1 }",
            "request.head_sizes: unknown key. Did you mean 'head_size'",
        ),
        (
            'request = { head_size = "128" }',
            "request.head_size: head_size is '128'; it must be an int",
        ),
        ("request = 3", "request: Expected `object`, got `int`"),
        ('cache = "small"', "cache: unknown key"),
        ("vary = { block_size = [0] }", "block_size is 0"),
        ('level = "soon"', "level"),
    ],
)
def test_a_mistake_is_refused_with_its_place(tmp_path: Path, more: str, words: str) -> None:
    with pytest.raises(CaseError) as caught:
        row = re.sub("request *=.*", "", ROW) if more.startswith("request") else ROW
        read(tmp_path, row.format(more=more))
    message = str(caught.value)
    assert words in message
    assert "cases.toml: case 'a-case'" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("kind", "lengths"),
    [
        ("attention", "[[3, 2]]"),
        ("attention", "[[-1, 2]]"),
        ("mla-decode", "[[2, 5]]"),
        ("mla-prefill", "[[5, 2]]"),
    ],
)
def test_lengths_that_cannot_be_are_refused(tmp_path: Path, kind: str, lengths: str) -> None:
    text = ROW.format(more="").replace('"attention"', f'"{kind}"')
    with pytest.raises(CaseError, match="lengths"):
        read(tmp_path, text.replace("[[1, 5], [0, 0]]", lengths))


def test_an_id_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="taken by another case"):
        read(tmp_path, ROW.format(more="") * 2)


def test_an_id_that_is_no_sentence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="kebab-case"):
        read(tmp_path, ROW.format(more="").replace("a-case", "A case"))


def test_a_blank_reason_and_a_batch_of_nothing_are_refused(tmp_path: Path) -> None:
    text = ROW.format(more="")
    with pytest.raises(CaseError, match="lengths: lists no request"):
        read(tmp_path, text.replace("[[1, 5], [0, 0]]", "[]"))
    with pytest.raises(CaseError, match="why: is empty; give"):
        read(tmp_path, re.sub("why *= *.*", "why = ' '", text))


def test_the_shipped_cases_are_unique_and_say_why() -> None:
    cases = shipped()
    assert len({case.id for case in cases}) == len(cases)
    assert all(len(case.why) > 20 for case in cases)


def test_the_shipped_cases_cover_what_the_issue_names() -> None:
    cases = shipped()
    requests = [case.request for case in cases]
    assert {request.dtype for request in requests} == {"float16", "bfloat16", "float32"}
    assert {case.layout for case in cases} == {"dense", "strided", "heads-first"}
    assert {case.fp8 for case in cases} == {"e4m3fn", "e4m3fnuz"}
    for feature in ("has_sink", "alibi", "sliding_window", "logits_soft_cap"):
        assert any(getattr(request, feature) for request in requests)
    lengths = {total for case in cases for _, total in case.lengths}
    for edge in (16, 32, 64, 128):
        assert {edge - 1, edge, edge + 1} <= lengths
    assert {0, 1, 131072} <= lengths
