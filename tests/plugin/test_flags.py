"""Parsing of every declared variable.

The rules: docs/reference/environment.md#parse-rules, #variables and #truth-table.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rocm_attn.errors import FlagError
from pytest_rocm_attn.flags import (
    NEIGHBOURS,
    VARIABLES,
    Flags,
    Kind,
    Variable,
    check_name,
    doubts,
    variable,
)
from pytest_rocm_attn.registry import CLASS_PATHS

BOOL = {  # name -> default
    "VLLM_ROCM_USE_AITER": False,
    "VLLM_ROCM_USE_AITER_MHA": True,
    "VLLM_ROCM_USE_AITER_MLA": True,
    "VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION": False,
    "VLLM_ROCM_USE_AITER_PAGED_ATTN": False,
    "VLLM_V1_USE_PREFILL_DECODE_ATTENTION": False,
    "VLLM_ROCM_CUSTOM_PAGED_ATTN": True,
    "VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT": False,
    "VLLM_ROCM_USE_AITER_FP8BMM": True,
    "VLLM_ROCM_USE_AITER_FP4BMM": True,
    "VLLM_ROCM_USE_AITER_TRITON_ROPE": False,
    "VLLM_ROCM_USE_AITER_TRITON_SPARSE_MLA": False,
}
INT_BOOL = ("VLLM_ROCM_FP8_MFMA_PAGE_ATTN", "VLLM_MLA_DISABLE", "VLLM_BATCH_INVARIANT")
INT = {
    "VLLM_FLASH_ATTN_VERSION": None,
    "Q_SCALE_CONSTANT": 200,
    "K_SCALE_CONSTANT": 200,
    "V_SCALE_CONSTANT": 100,
}
TRI = ("VLLM_TRITON_ATTN_USE_TD", "VLLM_TRITON_USE_TD")
LAYOUTS = ("NHD", "HND", "LBNHC", "LBHNC", "LHBNC", "BLHNC", "BLNHC", "BHLNC")
OTHERS = {
    "VLLM_ATTENTION_BACKEND": None,
    "VLLM_KV_CACHE_LAYOUT": None,
    "VLLM_ROCM_AITER_MLA_ASM_PADDING": "auto",
    "FLASH_ATTENTION_TRITON_AMD_ENABLE": False,
}


def test_every_variable_of_the_table_is_declared_with_its_default() -> None:
    unset: dict[str, Any] = {**BOOL, **dict.fromkeys(INT_BOOL, False), **INT, **OTHERS}
    unset |= dict.fromkeys(TRI)
    assert {name: Flags()[name] for name in VARIABLES} == unset
    for name, declared in VARIABLES.items():
        assert declared.name == name
        assert declared.effect
        assert declared.source == "docs/reference/environment.md#variables"


@pytest.mark.parametrize("name", BOOL)
@pytest.mark.parametrize("text", ["1", "true", "True", "TRUE", "tRuE"])
def test_a_boolean_is_on_for_one_and_for_true_in_any_case(name: str, text: str) -> None:
    assert Flags({name: text})[name] is True


@pytest.mark.parametrize("name", BOOL)
@pytest.mark.parametrize(
    "text",
    ["0", "false", "no", "off", "", "yes", "on", "2", " 1", "1 ", "TRUE ", "true1", "t", "11"],
)
def test_a_boolean_is_off_for_everything_else(name: str, text: str) -> None:
    assert Flags({name: text})[name] is False


@pytest.mark.parametrize("name", INT_BOOL)
def test_an_integer_boolean_is_on_for_every_integer_but_zero(name: str) -> None:
    for text, value in (("0", False), ("00", False), ("1", True), ("2", True), ("-1", True)):
        assert Flags({name: text})[name] is value


@pytest.mark.parametrize("name", INT_BOOL)
@pytest.mark.parametrize("text", ["true", "", "on", "1.0"])
def test_an_integer_boolean_refuses_what_is_no_integer(name: str, text: str) -> None:
    with pytest.raises(FlagError) as caught:
        Flags({name: text})
    assert str(caught.value) == (
        f"{name}={text!r} is not an integer; set it to 0 or 1, or unset it"
    )


@pytest.mark.parametrize("name", INT)
def test_an_integer_is_parsed_or_refused(name: str) -> None:
    assert Flags({name: "3"})[name] == 3
    assert Flags({name: " -7 "})[name] == -7
    for text in ("", "three", "2.5"):
        with pytest.raises(FlagError) as caught:
            Flags({name: text})
        assert str(caught.value) == (
            f"{name}={text!r} is not an integer; set a number, or unset it"
        )


@pytest.mark.parametrize("name", TRI)
@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), (" 1 ", True), ("0", False), ("0\t", False), ("", None), ("2", None)],
)
def test_a_three_valued_variable_is_on_off_or_unset(name: str, text: str, value: object) -> None:
    assert Flags({name: text})[name] is value
    assert Flags({name: "true"})[name] is None


@pytest.mark.parametrize("name", CLASS_PATHS)
def test_every_backend_of_the_registry_can_be_named(name: str) -> None:
    assert Flags({"VLLM_ATTENTION_BACKEND": name})["VLLM_ATTENTION_BACKEND"] == name


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("triton_attn", " Did you mean 'TRITON_ATTN'"),
        ("TRITON_ATTN_VLLM_V1", " Did you mean 'TRITON_ATTN'"),
        ("ROCM_AITER_FLASH", " Did you mean 'ROCM_AITER_FA'"),
        (" TRITON_ATTN", " Did you mean 'TRITON_ATTN'"),
        ("", ""),
        ("XFORMERS", ""),
    ],
)
def test_a_name_that_the_registry_does_not_list_is_refused(
    text: str, hint: str
) -> None:  # Q22, Q23
    with pytest.raises(FlagError) as caught:
        Flags({"VLLM_ATTENTION_BACKEND": text})
    message = str(caught.value)
    assert message.startswith(f"VLLM_ATTENTION_BACKEND={text!r} is not a valid value.{hint}")
    assert message.endswith(f" Valid: {', '.join(CLASS_PATHS)}")


def test_a_layout_is_one_of_the_list_in_its_case() -> None:
    for text in LAYOUTS:
        assert Flags({"VLLM_KV_CACHE_LAYOUT": text})["VLLM_KV_CACHE_LAYOUT"] == text
    for text in ("nhd", "", "NDH"):
        with pytest.raises(FlagError, match=f"Valid: {', '.join(LAYOUTS)}"):
            Flags({"VLLM_KV_CACHE_LAYOUT": text})


def test_the_padding_of_small_head_mla_is_named_in_any_case() -> None:
    name = "VLLM_ROCM_AITER_MLA_ASM_PADDING"
    for text, value in (("auto", "auto"), ("Gluon", "gluon"), ("ASM", "asm")):
        assert Flags({name: text})[name] == value
    for text in ("", "triton"):
        with pytest.raises(FlagError, match="Valid: auto, gluon, asm"):
            Flags({name: text})


def test_the_triton_build_of_flash_attn_is_on_for_one_text_only() -> None:
    name = "FLASH_ATTENTION_TRITON_AMD_ENABLE"
    for text in ("TRUE", "true", "1", "", "TRUE "):
        assert Flags({name: text})[name] is (text == "TRUE")


@pytest.mark.parametrize(
    "text_of_default",
    [
        *((name, "1" if default else "0") for name, default in BOOL.items()),
        *((name, "0") for name in INT_BOOL),
        ("Q_SCALE_CONSTANT", "200"),
        ("V_SCALE_CONSTANT", "100"),
        ("VLLM_TRITON_USE_TD", "neither"),
        ("VLLM_ROCM_AITER_MLA_ASM_PADDING", "AUTO"),
        ("FLASH_ATTENTION_TRITON_AMD_ENABLE", "1"),
    ],
)
def test_set_to_its_default_is_the_same_as_unset(text_of_default: tuple[str, str]) -> None:
    flags = Flags(dict([text_of_default]))
    assert flags == Flags() == Flags({})
    assert hash(flags) == hash(Flags())
    assert list(flags.non_default()) == []
    assert repr(flags) == "Flags({})"


def test_variables_that_are_not_declared_are_not_looked_at() -> None:
    environ = {"PATH": "/bin", "VLLM_USE_AITER_UNIFIED_ATTENTION": "1", "VLLM_USE_V1": "?"}
    assert Flags(environ) == Flags()
    with pytest.raises(FlagError):
        Flags(environ)["VLLM_USE_V1"]


def test_flags_show_what_was_changed_by_name() -> None:
    flags = Flags({"VLLM_ROCM_USE_AITER_MHA": "0", "VLLM_ROCM_USE_AITER": "1"})
    changed = [("VLLM_ROCM_USE_AITER", True), ("VLLM_ROCM_USE_AITER_MHA", False)]
    assert list(flags.non_default()) == changed
    assert repr(flags) == f"Flags({dict(changed)!r})"
    assert flags != Flags({"VLLM_ROCM_USE_AITER": "1"})
    assert flags != dict(changed)
    assert (
        len({flags, Flags({"VLLM_ROCM_USE_AITER": "true", "VLLM_ROCM_USE_AITER_MHA": "no"})}) == 1
    )


def test_but_changes_one_variable_and_leaves_the_flags_alone() -> None:
    flags = Flags({"VLLM_ROCM_USE_AITER": "1", "VLLM_MLA_DISABLE": "1"})
    off = flags.but("VLLM_ROCM_USE_AITER", "0")
    assert off == Flags({"VLLM_MLA_DISABLE": "1"})
    assert flags["VLLM_ROCM_USE_AITER"] is True
    assert flags.but("Q_SCALE_CONSTANT", "7") == Flags(
        {"VLLM_ROCM_USE_AITER": "1", "VLLM_MLA_DISABLE": "1", "Q_SCALE_CONSTANT": "7"}
    )
    with pytest.raises(FlagError, match="VLLM_MLA_DISABLE='x' is not an integer"):
        flags.but("VLLM_MLA_DISABLE", "x")


def test_an_undeclared_name_is_an_error_with_the_nearest() -> None:
    assert variable("VLLM_ROCM_USE_AITER") is VARIABLES["VLLM_ROCM_USE_AITER"]
    for ask in (variable, lambda name: Flags()[name]):
        with pytest.raises(FlagError) as caught:
            ask("VLLM_ROCM_USE_AITTER")
        message = str(caught.value)
        assert message.startswith(
            "VLLM_ROCM_USE_AITTER is not a variable that ROCm attention reads."
            " Did you mean 'VLLM_ROCM_USE_AITER'"
        )
        assert message.endswith(f" Known: {', '.join(VARIABLES)}")


def test_a_variable_can_be_declared_for_a_test() -> None:
    assert Variable("X", Kind.EXACT, False, "", choices=("yes", "ja")).parse("ja") is True


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(VARIABLES)), st.text(max_size=6)))
def test_every_environment_parses_or_names_the_variable_and_its_value(
    environ: dict[str, str],
) -> None:
    try:
        flags = Flags(environ)
    except FlagError as error:
        assert any(f"{name}={text!r}" in str(error) for name, text in environ.items())
    else:
        assert {name for name, _ in flags.non_default()} <= set(environ)
        for name, text in environ.items():
            assert flags[name] == VARIABLES[name].parse(text)


SWITCHES = [
    name for name, one in VARIABLES.items() if one.kind in (Kind.BOOL, Kind.EXACT, Kind.TRI)
]


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("text", ["yes", "on", "y", "2", " 1", "True ", "enabled", "1.0"])
def test_a_text_that_looks_on_and_reads_as_off_is_doubtful(name: str, text: str) -> None:
    variable = VARIABLES[name]
    if variable.parse(text):  # TRI strips its text
        assert variable.doubt(text) == ""
        return
    reads = "unset" if variable.kind is Kind.TRI else "off"
    assert variable.doubt(text).startswith(f"{name}={text!r} reads as {reads}; only ")
    assert doubts({"OTHER": text, name: text}) == [variable.doubt(text)]


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("text", ["0", "1", ""])
def test_plain_texts_are_not_doubtful(name: str, text: str) -> None:
    variable = VARIABLES[name]
    try:
        value = variable.parse(text)
    except FlagError:
        assert doubts({name: text}) == []  # it is an error already
        return
    # An empty text switches off what is on by default, which few who write it mean.
    meant = value == bool(int(text)) if text else value == variable.default
    assert bool(variable.doubt(text)) != meant or variable.kind not in (Kind.BOOL, Kind.EXACT)


@pytest.mark.parametrize("text", ["true", "TRUE", "False", "no", "OFF"])
def test_words_that_read_as_they_look_are_not_doubtful(text: str) -> None:
    assert VARIABLES["VLLM_ROCM_USE_AITER"].doubt(text) == ""


@pytest.mark.parametrize(
    "name",
    ["VLLM_ROCM_USE_AITR", "VLLM_ROCM_NO_SUCH", "VLLM_ATTENTION_BACKENDS", "VLLM_MLA_DISABEL"],
)
def test_a_misspelt_name_is_refused(name: str) -> None:
    with pytest.raises(FlagError, match=f"{name} is not a variable that ROCm attention reads"):
        check_name(name)


@pytest.mark.parametrize(
    "name",
    [*VARIABLES, *sorted(NEIGHBOURS), "HIP_VISIBLE_DEVICES", "VLLM_LOGGING_LEVEL", "MY_FORK"],
)
def test_other_names_pass(name: str) -> None:
    check_name(name)
