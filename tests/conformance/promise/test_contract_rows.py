"""The rows of the shipped contract as data: complete, distinct, free of contradictions."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest

from pytest_rocm_attn.conformance.promise import contract
from pytest_rocm_attn.conformance.promise.contract import Contract
from pytest_rocm_attn.conformance.promise.rows import ExpectBackend, RowOnGpu
from pytest_rocm_attn.errors import FlagError
from pytest_rocm_attn.flags import VARIABLES, Flags
from pytest_rocm_attn.registry import ROCM_BACKENDS

# The clauses of docs/reference/contract.md, counted by hand. R5 is not among
# them: it is about a stray diff, and the contract says itself that it promises nothing.
CLAUSES = [
    *("G1", "G2", "G3"),
    *("I1", "I2", "I3a", "I3b"),
    *(f"A{number}" for number in range(1, 19)),
    *(f"S{number}" for number in range(1, 8)),
    *("R1", "R2", "R3", "R4", "R6", "R7", "R8"),
]
# The silences, less what no selection can show: the signature and the error classes (Q25, Q32), forced
# and memoised results (Q26, Q27), ViT (Q28), which kernel decodes (Q29), and labels of commands that
# rows of the Appendix carry in a note (Q2, Q3).
SILENCES = [f"Q{number}" for number in range(1, 34) if number not in (2, 3, 25, 26, 27, 28, 29, 32)]
GPUS = {"gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201"}


@pytest.fixture(scope="module")
def shipped() -> Contract:
    return contract.load("pr-26980")


def cells_of(shipped: Contract) -> list[RowOnGpu]:
    return [cell for row in shipped.rows for cell in row.cells()]


def clauses(source: str) -> set[str]:
    """Return the clause ids that a source cites: "A13", "I3b"."""
    return {row[0].upper() + row[1:] for row in re.findall(r"#([giasrqtme]\d+[ab]?)\b", source)}


def test_no_row_was_lost(shipped: Contract) -> None:
    """A row that is added or taken out on purpose changes these numbers with it."""
    assert Counter(row.level for row in shipped.rows) == {"required": 116, "advisory": 106}
    cells = Counter(cell.row.level for cell in cells_of(shipped))
    assert cells == {"required": 421, "advisory": 201}


@pytest.mark.parametrize("clause", CLAUSES)
def test_every_clause_of_the_text_has_a_required_row(shipped: Contract, clause: str) -> None:
    assert any(row.level == "required" and clause in clauses(row.source) for row in shipped.rows)


@pytest.mark.parametrize("clause", SILENCES)
def test_every_silence_that_shows_has_an_advisory_row(shipped: Contract, clause: str) -> None:
    assert any(row.level == "advisory" and clause in clauses(row.source) for row in shipped.rows)


def test_each_appendix_command_is_a_row_of_its_own(shipped: Contract) -> None:
    first = [
        re.findall(r"#(a\d+)\b", row.source)[0].upper()
        for row in shipped.rows
        if row.file.endswith("appendix.toml")
    ]
    assert first == [f"A{number}" for number in range(1, 19)]


def test_the_three_backends_that_aiter_overrode_each_have_a_row(shipped: Contract) -> None:
    named = {
        row.env.get("VLLM_ATTENTION_BACKEND")
        for row in shipped.rows
        if "I2" in clauses(row.source) and row.level == "required"
    }
    assert named == {"TRITON_ATTN", "ROCM_ATTN", "ROCM_AITER_UNIFIED_ATTN"}


def test_required_rows_cite_the_text_and_the_section_of_the_pull_request(
    shipped: Contract,
) -> None:
    for row in shipped.rows:
        if row.level == "required":
            assert clauses(row.source) & set(CLAUSES), row.id
            assert re.match(r"docs/reference/contract\.md#.*\(PR 26980, [^)]+\)", row.source), (
                row.id
            )


def test_advisory_rows_cite_a_silence_a_release_or_another_facts_file(shipped: Contract) -> None:
    for row in shipped.rows:
        if row.level == "advisory":
            assert re.search(
                r"#[qtme]\d+\b|#(procedure|automatic|mla)\b|(environment|backends)\.md", row.source
            ), row.id


def test_required_rows_hold_on_five_targets_of_both_families(shipped: Contract) -> None:
    assert {cell.gpu.gfx for cell in cells_of(shipped) if cell.row.level == "required"} == GPUS


def test_what_the_text_does_not_know_is_never_required(shipped: Contract) -> None:
    """Off gfx9 (Q15): ROCM_AITER_FA, ROCM_AITER_MLA and AITER by a flag. Anywhere (Q16): no aiter."""
    for cell in cells_of(shipped):
        if cell.row.level == "required":
            assert cell.gpu.aiter == "present", cell.id
            if not cell.gpu.is_gfx9:
                expected = str(cell.row.expect)
                assert expected not in ("ROCM_AITER_FA", "ROCM_AITER_MLA"), cell.id
                named = cell.row.env.get("VLLM_ATTENTION_BACKEND")
                assert named == expected or not expected.startswith("ROCM_AITER"), cell.id


def test_every_state_of_aiter_has_rows(shipped: Contract) -> None:
    states = {str(cell.gpu.aiter) for cell in cells_of(shipped)}
    assert states == {"present", "absent", "impostor", "broken"}


def test_every_rocm_backend_is_expected_by_some_row(shipped: Contract) -> None:
    assert {str(row.expect) for row in shipped.rows} >= set(ROCM_BACKENDS)


def test_triton_mla_is_never_expected_below_block_size_16(shipped: Contract) -> None:
    for row in shipped.rows:
        if str(row.expect) == "TRITON_MLA":
            assert row.request.block_size is None or row.request.block_size >= 16, row.id


def test_an_explicit_name_is_honoured_or_refused_and_sparse_is_the_one_exception(
    shipped: Contract,
) -> None:
    for row in shipped.rows:
        named = row.env.get("VLLM_ATTENTION_BACKEND")
        if named and isinstance(row.expect, ExpectBackend) and not row.request.use_sparse:
            assert row.expect.backend == named, row.id


def test_no_two_rows_are_the_same(shipped: Contract) -> None:
    seen: dict[object, str] = {}
    for row in shipped.rows:
        key = (tuple(sorted(row.env.items())), row.gpus, row.request)
        assert seen.setdefault(key, row.id) == row.id


def test_cells_that_mean_the_same_expect_the_same(shipped: Contract) -> None:
    """Unset and default-valued variables, and the spellings of one value, mean the same."""
    expected = defaultdict(set)
    for cell in cells_of(shipped):
        try:
            meaning = Flags(cell.row.env)
        except FlagError:
            continue  # the row is about that value
        other = frozenset(item for item in cell.row.env.items() if item[0] not in VARIABLES)
        expected[meaning, other, cell.gpu, cell.row.request].add(cell.row.expect)
    assert [meaning for meaning, answers in expected.items() if len(answers) > 1] == []
