"""A contract's rules about the grid: which cells they decide, and what they let pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rocm_attn import Request
from pytest_rocm_attn.conformance import contract
from pytest_rocm_attn.conformance.grid import rules
from pytest_rocm_attn.conformance.grid.outcomes import Behaviour
from pytest_rocm_attn.conformance.grid.rules import Expect, Rule, applied
from pytest_rocm_attn.conformance.grid.space import Axis, Family, Slice
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("expect = { backend = 'TRITON_ATN' }", "expect.backend.*'TRITON_ATN' is unknown"),
        ("expect = {}", "expect.*allows nothing"),
        ("expect = { rejects = true }\nnamed = ['X']", "named.*'X' is unknown"),
        ("expect = { rejects = true }\ngpu = ['gfx1']", "gpu.*'gfx1' is unknown"),
        ("expect = { rejects = true }\nflags = { VLLM_X = true }", "flags.VLLM_X.*unknown key"),
        ("expect = { rejects = true }\nrequest = 'plain'", r"no table \[request.plain\]"),
        ("expect = { rejects = true }\nrequest = { heads = 1 }", "request.heads.*unknown key"),
        ("expect = { rejects = true }\nwhen = 1", "when.*unknown key"),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(f"[[rule]]\nid = 'r'\nsource = 's'\nlevel = 'required'\n{text}\n")
    with pytest.raises(ContractError, match=words) as caught:
        rules.load(path)
    assert "\n" not in str(caught.value)
    assert "rule 'r'" in str(caught.value)


def test_every_shipped_rule_decides_some_cell_of_the_standard_grid() -> None:
    from pytest_rocm_attn.conformance.grid.design import standard

    given = shipped()
    decided: set[str] = set()
    for part in standard().slices:
        if part.gfx == "gfx942":
            decided |= {given[number - 1].id for number in set(applied(given, part)) if number}
    assert decided == {rule.id for rule in given}
