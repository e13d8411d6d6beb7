"""A contract's rules about the grid: which cells they decide, and what they let pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rocm_attn import Request
from pytest_rocm_attn.conformance.promise import contract
from pytest_rocm_attn.conformance.promise.grid import rules
from pytest_rocm_attn.conformance.promise.grid.design import standard
from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour
from pytest_rocm_attn.conformance.promise.grid.rules import Expect, Rule, applied
from pytest_rocm_attn.conformance.promise.grid.space import Axis, Family, Slice
from pytest_rocm_attn.errors import ContractError

NAME, FLAG, MHA = "VLLM_ATTENTION_BACKEND", "VLLM_ROCM_USE_AITER", "VLLM_ROCM_USE_AITER_MHA"
TRITON, FA = Behaviour("Selected", "TRITON_ATTN"), Behaviour("Selected", "ROCM_AITER_FA")
REFUSED, CRASHED = Behaviour("Rejected"), Behaviour("Crashed", "KeyError")


def shipped() -> tuple[Rule, ...]:
    folder = contract.load("pr-26980").folder
    assert folder is not None
    return rules.load(folder / contract.GRID_FILE)


def small(*axes: Axis, request: tuple[Request, ...] = (Request(),)) -> Slice:
    family = Family(
        "small",
        "",
        (
            Axis("gfx", ("gfx942",)),
            Axis("aiter", ("present", "absent")),
            *axes,
            Axis("request", request),
        ),
    )
    return next(family.slices())


def deciding(to: Slice, given: tuple[Rule, ...]) -> list[str]:
    """Return the id of the rule that decides each cell, or ""."""
    return ["" if not number else given[number - 1].id for number in applied(given, to)]


def test_a_rule_is_about_meanings_and_not_spellings() -> None:
    to = small(Axis(FLAG, (None, "0", "yes", "true", "1")), Axis(MHA, (None, "TRUE")))
    default, on = "triton-attn-is-the-default", "aiter-gives-aiter-fa"
    assert deciding(to, shipped()) == [default] * 6 + [on] * 4 + [""] * 10


def test_a_variable_that_the_slice_does_not_have_is_at_its_default() -> None:
    assert deciding(small(Axis(FLAG, ("1",))), shipped())[0] == "aiter-gives-aiter-fa"
    off = Rule("r", "s", "required", Expect(rejects=True), None, {MHA: False}, (), (), {})
    assert deciding(small(Axis(FLAG, ("1",))), (off,)) == ["", ""]


def test_further_variables_count_as_well() -> None:
    also = Axis("also", ((), ((MHA, "0"),), (("K_SCALE_CONSTANT", "many"),)))
    decided = deciding(small(Axis(FLAG, ("1",)), also), shipped())
    assert decided[:3] == ["aiter-gives-aiter-fa", "aiter-without-mha-gives-triton-attn", ""]


def test_the_first_rule_that_a_cell_meets_decides_it() -> None:
    requests = (Request(), Request(has_sink=True), Request(use_mla=True, block_size=8))
    to = small(Axis(NAME, (None, "TRITON_ATTN", "TRITON_MLA", "FLASH_ATTN")), request=requests)
    assert deciding(to, shipped())[:12] == [
        *("triton-attn-is-the-default", "", ""),
        *("explicit-choice-beats-flags", "explicit-choice-is-never-replaced", ""),
        *("", "", "triton-mla-needs-block-size-16"),
        *("", "", ""),
    ]


def test_a_rule_about_some_gpus_decides_nothing_on_others() -> None:
    elsewhere = Rule("r", "s", "required", Expect(rejects=True), None, {}, ("gfx1201",), (), {})
    assert set(applied((elsewhere,), small())) == {0}


@pytest.mark.parametrize(
    ("expect", "name", "allowed"),
    [
        (Expect(backend="TRITON_ATTN"), None, {TRITON}),
        (Expect(named=True), "ROCM_AITER_FA", {FA}),
        (Expect(named=True), None, set()),
        (Expect(named=True, rejects=True), "TRITON_ATTN", {TRITON, REFUSED}),
        (Expect(rejects=True), "TRITON_ATTN", {REFUSED}),
        (Expect(never=("ROCM_AITER_FA",)), None, {TRITON, REFUSED}),
    ],
)
def test_what_a_rule_lets_pass(expect: Expect, name: str | None, allowed: set[Behaviour]) -> None:
    answers = {TRITON, FA, REFUSED, CRASHED, Behaviour("TimedOut"), Behaviour("Unrecognised")}
    assert {answer for answer in answers if expect.allows(answer, name)} == allowed


RULE = "[[rule]]\nid = 'a-rule'\nsource = 's'\nlevel = 'required'\n"
REJECTS = "expect = { rejects = true }\n"
MISTAKES = [
    (
        "expect = { backend = 'TRITON_ATN' }",
        "expect.backend: 'TRITON_ATN' is unknown. Did you mean",
    ),
    ("expect = { never = ['X'] }", "expect.never: 'X' is unknown"),
    ("expect = {}", "expect: allows nothing; write { backend"),
    ("expect = { rejects = false }", "expect: allows nothing; write { backend"),
    ("expect = 3", "expect: is not a table; it must be { backend"),
    ("expect = { refuses = true }", "expect.refuses: unknown key"),
    ("expect = { named = 'yes' }", "expect.named: Expected `bool`, got `str`"),
    (
        "expect = { backend = 'TRITON_ATTN', never = ['ROCM_ATTN'] }",
        "expect: says backend and never at once; write",
    ),
    ("expect = { backend = 'TRITON_ATTN', rejects = true }", "says backend and rejects at once"),
    ("expect = { named = true, never = ['ROCM_ATTN'] }", "says named and never at once"),
    ("expect = { named = true }\nnamed = []", "expect.named: cannot hold where `named` is []"),
    (REJECTS + "named = ['X']", "named: 'X' is unknown"),
    (REJECTS + "named = ['ROCM_ATTN', 'ROCM_ATTN']", "named: lists 'ROCM_ATTN' twice; remove"),
    (REJECTS + "gpu = ['gfx94']", "gpu: 'gfx94' is unknown. Did you mean 'gfx942'"),
    (REJECTS + "gpu = []", "gpu: is empty; leave it out for all"),
    (REJECTS + "gpu = 'gfx942'", "gpu: Expected `array | null`, got `str`; it must be a list"),
    (REJECTS + "aiter = ['gone']", "aiter: 'gone' is unknown"),
    (REJECTS + "flags = { VLLM_X = true }", "flags.VLLM_X: unknown key"),
    (REJECTS + "flags = { VLLM_ROCM_USE_AITER = '1' }", "flags: Expected `bool`, got `str`"),
    (
        REJECTS + "flags = { VLLM_ATTENTION_BACKEND = true }",
        "VLLM_ATTENTION_BACKEND: is not a switch",
    ),
    (REJECTS + "request = 'plain'", "request: there is no table [request.plain]; write one"),
    (REJECTS + "request = 3", "request: Expected `str | object`, got `int`"),
    (REJECTS + "request = { heads = 1 }", "request.heads: unknown key"),
    (REJECTS + "request = { head_size = '128' }", "request.head_size: head_size is '128'; it must"),
    (REJECTS + "request = { block_size = [16, '32'] }", "block_size is '32'; it must be an int"),
    (REJECTS + "request = { dtype = 'int4' }", "request.dtype: dtype is 'int4'; it must be one of"),
    (REJECTS + "request = { head_size = [] }", "request.head_size: lists no value; list one"),
    (
        REJECTS + "request = { use_mla = 'unset' }",
        "request.use_mla: use_mla is 'unset'; it must be",
    ),
    (REJECTS + "where = { sinks = true }", "where.sinks: unknown key"),
    (REJECTS + "when = 1", "when: unknown key"),
    ("", "expect: missing; add it: { backend"),
]


def refusal(folder: Path, text: str) -> str:
    path = folder / "grid.toml"
    path.write_text(text)
    with pytest.raises(ContractError) as caught:
        rules.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(("text", "words"), MISTAKES)
def test_a_mistake_is_one_line_that_names_file_rule_and_field(
    tmp_path: Path, text: str, words: str
) -> None:
    message = refusal(tmp_path, RULE + text)
    assert message.startswith("rule 'a-rule': ")
    assert words in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[rule]\nid = 'a-rule'\n", "rule: is not a list of tables; write [[rule]] above each"),
        ("rule = 3\n", "rule: is not a list of tables"),
        ("rule = [3]\n", "rule: is not a list of tables"),
        ("request = 3\n", "request: is not a table of tables; write [request.NAME]"),
        ("[request]\nhead_size = 3\n", "request: is not a table of tables"),
        ("[request.plain]\nhead_sizes = 3\n", "request.plain.head_sizes: unknown key"),
        ("[request.plain]\nhead_size = '3'\n", "request.plain.head_size: head_size is '3'"),
        ("[[rules]]\n", "rules: unknown key. Did you mean 'rule'"),
        (2 * (RULE + REJECTS), "rule 'a-rule': id: is taken by another rule"),
        (RULE.replace("a-rule", "A rule") + REJECTS, "id: 'A rule' is not kebab-case"),
        (RULE.replace("'s'", "' '") + REJECTS, "rule 'a-rule': source: is empty; give"),
        (RULE.replace("'required'", "'must'") + REJECTS, "level: Invalid enum value 'must'"),
        (RULE.replace("id = 'a-rule'\n", "") + REJECTS, "rule 1: id: missing; add it"),
    ],
)
def test_a_file_of_another_shape_is_refused_in_one_line(
    tmp_path: Path, text: str, words: str
) -> None:
    assert words in refusal(tmp_path, text)


def test_values_are_held_as_requests_hold_them(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    table = "request = { dtype = 'bf16', sliding_window = 'unset', num_kv_heads = [3, 4] }\n"
    path.write_text(RULE + REJECTS + table)
    (rule,) = rules.load(path)
    assert rule.request == {
        "dtype": ("bfloat16",),
        "sliding_window": (None,),
        "num_kv_heads": (3, 4),
    }


def test_more_rules_than_a_byte_can_number_decide_their_cells() -> None:
    idle = Rule("idle", "s", "required", Expect(rejects=True), None, {}, ("gfx1201",), (), {})
    last = Rule("last", "s", "required", Expect(rejects=True), None, {}, (), ("absent",), {})
    for number in (254, 255, 300, 600):
        given = (*[idle] * number, last)
        assert list(applied(given, small())) == [0, number + 1]


def test_a_rule_that_decides_no_cell_is_refused_by_its_id(tmp_path: Path) -> None:
    def rule(name: str, request: dict[str, tuple[object, ...]]) -> Rule:
        return Rule(name, "s", "required", Expect(rejects=True), None, {}, (), (), request)

    every, sizes = rule("every-cell", {}), rule("small-heads", {"head_size": (8,)})
    file = tmp_path / "grid.toml"
    rules.check_each_decides((every,), [small()], file)
    for given, name in (((sizes, every), "small-heads"), ((every, sizes), "small-heads")):
        with pytest.raises(ContractError) as caught:
            rules.check_each_decides(given, [small()], file)
        assert str(caught.value).startswith(f"{file}: rule '{name}': decides no cell of the grid;")


def test_every_shipped_rule_decides_some_cell_of_the_standard_grid() -> None:
    rules.check_each_decides(shipped(), standard().slices, Path("grid.toml"))
    assert len(shipped()) > 1


def test_a_product_stands_for_its_target(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(RULE + REJECTS + "gpu = ['MI355X', 'gfx942']")
    (rule,) = rules.load(path)
    assert rule.gpus == ("gfx950", "gfx942")
    assert "lists 'gfx950' twice" in refusal(
        tmp_path, RULE + REJECTS + "gpu = ['gfx950', 'MI350X']"
    )
