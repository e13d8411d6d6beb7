"""The contract loader: what it returns, and that each mistake is one line that helps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_rocm_attn.conformance.promise import contract
from pytest_rocm_attn.conformance.promise.rows import ExpectBackend, ExpectRefusal
from pytest_rocm_attn.errors import ContractError
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.request import Request

ROW = """
[[case]]
id       = "triton-is-the-default"
source   = "our handbook, page 3"
level    = "required"
platform = { gfx = ["gfx90a", "gfx1201"], aiter = false }
env      = { VLLM_ROCM_USE_AITER = "0" }
request  = { dtype = "fp16", head_size = 64, block_size = "unset" }
expect   = { backend = "TRITON_ATTN" }
note     = "the page before it explains why"
"""
MINIMAL = """
[[case]]
id       = "flash-attn-is-refused"
source   = "our handbook, page 4"
level    = "advisory"
platform = { gfx = "gfx942" }
expect   = { rejects = true, mentions = ["FLASH_ATTN", "ROCm"] }
"""


def load_text(folder: Path, text: str) -> contract.Contract:
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return contract.load(str(file))


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ContractError) as caught:
        load_text(folder, text)
    return str(caught.value)


# --- what it returns ------------------------------------------------------------------------------


def test_a_row_holds_what_the_file_says(tmp_path: Path) -> None:
    (row,) = load_text(tmp_path, ROW).rows
    assert row.id == "triton-is-the-default"
    assert row.source == "our handbook, page 3"
    assert row.level == "required"
    assert row.env == {"VLLM_ROCM_USE_AITER": "0"}
    assert row.gpus == (Gpu("gfx90a", Aiter.ABSENT), Gpu("gfx1201", Aiter.ABSENT))
    assert row.request == Request(dtype="float16", head_size=64, block_size=None)
    assert row.expect == ExpectBackend("TRITON_ATTN")
    assert row.file == str(tmp_path / "mine.toml")
    assert row.note == "the page before it explains why"


def test_what_a_row_leaves_out_is_plain(tmp_path: Path) -> None:
    (row,) = load_text(tmp_path, MINIMAL).rows
    assert row.env == {}
    assert row.gpus == (Gpu("gfx942", Aiter.PRESENT),)
    assert row.request == Request()
    assert row.expect == ExpectRefusal(("FLASH_ATTN", "ROCm"))
    assert row.note == ""


def test_a_row_has_one_cell_per_gpu_named_after_both(tmp_path: Path) -> None:
    (row,) = load_text(tmp_path, ROW).rows
    assert [cell.id for cell in row.cells()] == [
        "triton-is-the-default[gfx90a]",
        "triton-is-the-default[gfx1201]",
    ]
    assert [cell.gpu for cell in row.cells()] == list(row.gpus)
    assert all(cell.row is row for cell in row.cells())


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("true", Aiter.PRESENT),
        ("false", Aiter.ABSENT),
        ('"impostor"', Aiter.IMPOSTOR),
        ('"broken"', Aiter.BROKEN),
    ],
)
def test_aiter_has_four_states(tmp_path: Path, text: str, state: Aiter) -> None:
    (row,) = load_text(tmp_path, ROW.replace("aiter = false", f"aiter = {text}")).rows
    assert {gpu.aiter for gpu in row.gpus} == {state}


def test_an_undeclared_variable_is_let_through_when_it_is_listed(tmp_path: Path) -> None:
    text = MINIMAL + 'env = { VLLM_USE_V1 = "1" }\nundeclared = ["VLLM_USE_V1"]\n'
    assert load_text(tmp_path, text).rows[0].env == {"VLLM_USE_V1": "1"}


def test_a_value_that_cannot_be_parsed_is_let_through_when_a_refusal_is_expected(
    tmp_path: Path,
) -> None:
    text = MINIMAL + 'env = { VLLM_ATTENTION_BACKEND = "" }\n'
    assert load_text(tmp_path, text).rows[0].env == {"VLLM_ATTENTION_BACKEND": ""}


def test_a_single_file_is_named_after_itself(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, MINIMAL)
    assert (loaded.id, loaded.title, loaded.source) == ("mine", "mine", "mine.toml")


def test_a_single_file_may_name_its_contract(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, 'id = "ours"\ntitle = "Our promises"\nsource = "us"\n' + MINIMAL)
    assert (loaded.id, loaded.title, loaded.source) == ("ours", "Our promises", "us")


def folder_contract(tmp_path: Path, **files: str) -> Path:
    head = {"contract": 'id = "ours"\ntitle = "Our promises"\nsource = "our handbook"\n'}
    for name, text in (head | files).items():
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_folder_is_read_file_by_file_in_order_of_their_names(tmp_path: Path) -> None:
    loaded = contract.load(str(folder_contract(tmp_path, b=ROW, a=MINIMAL)))
    assert (loaded.id, loaded.title, loaded.source) == ("ours", "Our promises", "our handbook")
    assert [row.id for row in loaded.rows] == ["flash-attn-is-refused", "triton-is-the-default"]
    assert loaded.rows[0].file == str(tmp_path / "a.toml")


def test_a_shipped_contract_is_found_by_its_id() -> None:
    assert "pr-26980" in contract.shipped()
    assert contract.load("pr-26980").id == "pr-26980"


# --- mistakes in rows -----------------------------------------------------------------------------

# (what to replace in ROW, with what, the field, and words of what is wrong and of the remedy)
MISTAKES = {
    "an unknown key": (
        "note ",
        "nota ",
        "nota",
        "Did you mean 'note'?; known here: id, source, level, platform, expect, env,",
    ),
    "an unknown key of the platform": (
        "gfx =",
        "gxf =",
        "platform.gxf",
        "Did you mean 'gfx'?; known here: gfx, aiter",
    ),
    "an unknown key of the expectation": (
        "{ backend",
        "{ backends",
        "expect.backends",
        "Did you mean 'backend'?",
    ),
    "an unknown field of the request": (
        "head_size",
        "headsize",
        "request.headsize",
        "Did you mean 'head_size'",
    ),
    "an unknown key with a line break": ("note ", '"no\\nte" ', "no\\nte", "unknown key."),
    "a missing key": (
        'source   = "our handbook, page 3"\n',
        "",
        "source",
        "missing; add it: the clause",
    ),
    "a missing target": (
        'gfx = ["gfx90a", "gfx1201"], ',
        "",
        "platform.gfx",
        "missing; add it: a gfx target",
    ),
    "an id that is a number": ('"triton-is-the-default"', "7", "id", "Expected `str`, got `int`"),
    "a level that does not exist": ('"required"', '"must"', "level", "'required' or 'advisory'"),
    "an environment that is no table": (
        '{ VLLM_ROCM_USE_AITER = "0" }',
        "0",
        "env",
        "a table of variable",
    ),
    "a value that is no text": (
        '"0" }',
        "0 }",
        "env.VLLM_ROCM_USE_AITER",
        "put it in quotes: VLLM_ROCM_USE_AITER = '0'",
    ),
    "an undeclared variable": (
        "VLLM_ROCM_USE_AITER =",
        "VLLM_ROCM_USE_ITER =",
        "env.VLLM_ROCM_USE_ITER",
        "Did you mean 'VLLM_ROCM_USE_AITER'",
    ),
    "a value that cannot be parsed": (
        'VLLM_ROCM_USE_AITER = "0"',
        'VLLM_MLA_DISABLE = "no"',
        "env.VLLM_MLA_DISABLE",
        "VLLM_MLA_DISABLE='no' is not an integer",
    ),
    "a declared variable listed as undeclared": (
        "request",
        'undeclared = ["VLLM_ROCM_USE_AITER"]\nrequest',
        "undeclared",
        "VLLM_ROCM_USE_AITER is a declared variable; remove it",
    ),
    "an undeclared variable that is not set": (
        "request",
        'undeclared = ["VLLM_USE_V1"]\nrequest',
        "undeclared",
        "VLLM_USE_V1 is not set in env; set it there",
    ),
    "an unknown target": ("gfx1201", "gfx942x", "platform.gfx", "Did you mean 'gfx942'"),
    "a target listed twice": (
        '"gfx1201"',
        '"gfx90a"',
        "platform.gfx",
        "lists 'gfx90a' twice; remove",
    ),
    "no target": ('["gfx90a", "gfx1201"]', "[]", "platform.gfx", "names no target; list at least"),
    "a target that is a number": (
        '["gfx90a", "gfx1201"]',
        "[942]",
        "platform.gfx",
        "a gfx target, or a list",
    ),
    "an unknown state of aiter": (
        "aiter = false",
        'aiter = "gone"',
        "platform.aiter",
        "'impostor' or 'broken'",
    ),
    "an unknown backend": (
        '"TRITON_ATTN"',
        '"TRITON_ATTEN"',
        "expect.backend",
        "Did you mean 'TRITON_ATTN'",
    ),
    "a backend and a refusal": (
        '{ backend = "TRITON_ATTN" }',
        '{ backend = "TRITON_ATTN", rejects = true, mentions = ["x"] }',
        "expect",
        "both of backend and rejects; write { backend",
    ),
    "neither a backend nor a refusal": (
        '{ backend = "TRITON_ATTN" }',
        "{}",
        "expect",
        "neither of backend and rejects; write { backend",
    ),
    "words of a refusal beside a backend": (
        '"TRITON_ATTN" }',
        '"TRITON_ATTN", mentions = ["x"] }',
        "expect.mentions",
        "belongs to a refusal; remove it",
    ),
    "a refusal that says false": (
        'backend = "TRITON_ATTN"',
        'rejects = false, mentions = ["x"]',
        "expect.rejects",
        "is false; write true",
    ),
    "a refusal without words": (
        'backend = "TRITON_ATTN"',
        "rejects = true",
        "expect.mentions",
        "names no words; list the words",
    ),
    "a reason that there is not": (
        'backend = "TRITON_ATTN"',
        'rejects = true, reasons = ["headsize"]',
        "expect.reasons",
        "'headsize' is not a reason. Did you mean 'head-size'?; use ",
    ),
    "reasons beside a backend": (
        '"TRITON_ATTN" }',
        '"TRITON_ATTN", reasons = ["dtype"] }',
        "expect.reasons",
        "belongs to a refusal; remove it",
    ),
    "a refusal with an empty word": (
        'backend = "TRITON_ATTN"',
        'rejects = true, mentions = ["x", " "]',
        "expect.mentions",
        "holds an empty word; list the words",
    ),
    "a request out of range": ("64", "-1", "request.head_size", "a positive number of elements"),
    "a request of the wrong type": (
        "64",
        "true",
        "request.head_size",
        "head_size is True; it must be an int",
    ),
    "a dtype that does not exist": ('"fp16"', '"fp17"', "request.dtype", "one of float16"),
    "unset where nothing may be unset": ('"fp16"', '"unset"', "request.dtype", "one of float16"),
    "an empty source": ('"our handbook, page 3"', '" "', "source", "is empty; give the clause"),
    "an id with capitals": ("triton-is", "Triton-is", "id", "is not kebab-case; write a sentence"),
    "an id with a blank": ("triton-is", "triton is", "id", "is not kebab-case; write a sentence"),
    "an id that is too long": ("triton", "t" * 80, "id", "has 95 characters; shorten it to 80"),
    "an id that says should": ("-is-the", "-should-be-the", "id", "says 'should'; state what"),
}


@pytest.mark.parametrize(("old", "new", "field", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_with_file_row_field_and_remedy(
    tmp_path: Path, old: str, new: str, field: str, words: str
) -> None:
    assert ROW.count(old) == 1
    message = refusal(tmp_path, ROW.replace(old, new))
    where = f"{tmp_path / 'mine.toml'}: row "
    assert message.startswith(where)
    named, _, rest = message.removeprefix(where).partition(f": {field}: ")
    assert named[0] == "'" or named == "1", "a row is named by its id, or else by its number"
    assert words in rest
    assert "; " in rest, "a remedy follows"
    assert "\n" not in message


def test_a_row_without_an_id_is_named_by_its_number(tmp_path: Path) -> None:
    text = MINIMAL + ROW.replace('id       = "triton-is-the-default"\n', "")
    assert f"{tmp_path / 'mine.toml'}: row 2: id: missing; add it" in refusal(tmp_path, text)


def test_an_id_is_taken_once_in_a_file(tmp_path: Path) -> None:
    message = refusal(tmp_path, MINIMAL + MINIMAL)
    assert "row 'flash-attn-is-refused': id: is taken by another row" in message


def test_an_id_is_taken_once_in_a_folder_and_both_files_are_named(tmp_path: Path) -> None:
    folder = folder_contract(tmp_path, a=MINIMAL, b=MINIMAL)
    with pytest.raises(ContractError) as caught:
        contract.load(str(folder))
    assert str(caught.value).startswith(f"{folder / 'b.toml'}: row 'flash-attn-is-refused': id: ")
    assert str(folder / "a.toml") in str(caught.value)


# --- mistakes in files ----------------------------------------------------------------------------


def test_a_name_that_is_neither_id_nor_path_gets_the_shipped_ids_and_the_nearest() -> None:
    with pytest.raises(ContractError) as caught:
        contract.load("pr-26890")
    message = str(caught.value)
    assert (
        "no contract 'pr-26890'. Did you mean 'pr-26980'? Shipped: known-regressions, pr-26980"
        in message
    )
    assert "give the path" in message


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    assert "case: the contract holds no rows; write" in refusal(tmp_path, "# nothing yet\n")


def test_a_folder_without_its_head_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(MINIMAL)
    with pytest.raises(ContractError, match=r"contract\.toml: cannot be read"):
        contract.load(str(tmp_path))


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"case: the contract holds no rows"):
        contract.load(str(folder_contract(tmp_path)))


def test_a_head_without_title_is_refused(tmp_path: Path) -> None:
    folder = folder_contract(tmp_path, contract='id = "ours"\nsource = "us"\n', a=MINIMAL)
    with pytest.raises(ContractError, match=r"contract\.toml: title: missing; add it: one line"):
        contract.load(str(folder))


def test_a_head_among_the_rows_of_a_folder_is_refused(tmp_path: Path) -> None:
    folder = folder_contract(tmp_path, a='title = "x"\n' + MINIMAL)
    with pytest.raises(ContractError, match=r"a\.toml: title: unknown key"):
        contract.load(str(folder))


# --- the documentation's examples -----------------------------------------------------------------


def test_the_examples_of_the_documentation_load(tmp_path: Path) -> None:
    page = Path(__file__).parents[3] / "docs" / "contracts.md"
    blocks = re.findall(r"```toml\n# (\S+)\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    (tmp_path / "folder").mkdir()
    for name, text in blocks:
        (tmp_path / name).write_text(text, encoding="utf-8")
    single = contract.load(str(tmp_path / "ours.toml"))
    assert (single.id, len(single.rows)) == ("ours", 4)
    folder = contract.load(str(tmp_path / "folder"))
    assert [cell.id for row in folder.rows for cell in row.cells()] == [
        "aiter-gives-aiter-fa[gfx942]",
        "aiter-gives-aiter-fa[gfx950]",
    ]


def test_the_documentation_lists_every_key_of_a_row_and_every_field_of_a_request() -> None:
    page = (Path(__file__).parents[3] / "docs" / "contracts.md").read_text("utf-8")
    keys = ("id", "source", "level", "env", "undeclared", "platform", "request", "expect", "note")
    assert [key for key in keys if f"| `{key}` |" not in page] == []
    assert [name for name in Request.__dataclass_fields__ if f"`{name}`" not in page] == []


def test_an_unknown_key_of_the_head_is_refused(tmp_path: Path) -> None:
    head = 'id = "ours"\ntitle = "x"\nsource = "us"\nauthor = "me"\n'
    with pytest.raises(ContractError, match=r"contract\.toml: author: unknown key"):
        contract.load(str(folder_contract(tmp_path, contract=head, a=MINIMAL)))


# --- another server's own words -------------------------------------------------------------------

OTHERS = """
backends  = ["fast", "slow"]
variables = ["OUR_SWITCH"]

[[case]]
id       = "the-switch-gives-the-fast-one"
source   = "our handbook, page 5"
level    = "required"
platform = { gfx = "gfx942" }
env      = { OUR_SWITCH = "1" }
expect   = { backend = "fast" }
"""


def test_a_contract_brings_the_names_and_variables_of_its_own_server(tmp_path: Path) -> None:
    (row,) = load_text(tmp_path, OTHERS).rows
    assert row.env == {"OUR_SWITCH": "1"}
    assert row.expect == ExpectBackend("fast")


@pytest.mark.parametrize(
    ("good", "bad", "parts"),
    [
        ('backend = "fast"', 'backend = "fasst"', ["expect.backend", "'fast'"]),
        ('backend = "fast"', 'backend = "TRITON_ATTN"', ["expect.backend", "fast, slow"]),
        ('{ OUR_SWITCH = "1" }', '{ OUR_SWICH = "1" }', ["env.OUR_SWICH", "'OUR_SWITCH'"]),
    ],
)
def test_a_word_that_the_server_does_not_have_is_refused(
    tmp_path: Path, good: str, bad: str, parts: list[str]
) -> None:
    said = refusal(tmp_path, OTHERS.replace(good, bad))
    assert all(part in said for part in parts), said
