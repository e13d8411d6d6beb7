"""The contract's table of capabilities: what is read, and what is refused with one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_rocm_attn import Aiter, Gpu, Request
from pytest_rocm_attn.conformance.promise import contract
from pytest_rocm_attn.errors import ContractError
from pytest_rocm_attn.registry import ROCM_BACKENDS

ROW = """
[[case]]
id = "triton-is-the-default"
source = "s"
level = "required"
platform = { gfx = "gfx942" }
expect = { backend = "TRITON_ATTN" }
"""
ENTRY = """
[[capability]]
id = "{id}"
source = "s"
level = "required"
backend = "{backend}"
limit = "{limit}"
{values}
"""


def load(tmp_path: Path, *entries: str) -> contract.Contract:
    path = tmp_path / "c.toml"
    path.write_text(ROW + "".join(entries))
    return contract.load(str(path))


def entry(
    values: str,
    limit: str = "head_size",
    backend: str = "ROCM_ATTN",
    id: str = "x-takes-y",
) -> str:
    return ENTRY.format(values=values, limit=limit, backend=backend, id=id)


def test_a_promise_is_asked_on_its_gpus_and_nowhere_else(tmp_path: Path) -> None:
    (promise,) = load(tmp_path, entry('takes = [64, 80]\ngpus = ["gfx942"]')).capabilities
    assert promise.asked_on("gfx942") == (64, 80)
    assert promise.asked_on("gfx1201") == ()
    assert promise.cell("gfx942", 80) == (Gpu("gfx942"), Request(head_size=80))


def test_limits_of_the_machine_choose_the_machine(tmp_path: Path) -> None:
    by_gpu, by_aiter = load(
        tmp_path,
        entry('takes = ["gfx942", "gfx950"]', "gfx"),
        entry('refuses = ["absent"]', "aiter", id="x-refuses-z"),
    ).capabilities
    assert by_gpu.asked_on("gfx950") == ("gfx950",)
    assert by_gpu.asked_on("gfx1201") == ()
    assert by_aiter.cell("gfx942", "absent") == (Gpu("gfx942", Aiter.ABSENT), Request())


def test_kv_heads_follow_heads(tmp_path: Path) -> None:
    (promise,) = load(
        tmp_path, entry("takes = [4, 128]\nrequest = { use_mla = true }", "num_heads")
    ).capabilities
    assert promise.cell("gfx942", 4)[1] == Request(use_mla=True, num_heads=4, num_kv_heads=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            entry("takes = [64]", "headsize"),
            "limit: 'headsize' is unknown. Did you mean 'head_size'",
        ),
        (entry("takes = [64]", backend="ROCM_ATN"), "unknown attention backend 'ROCM_ATN'"),
        (entry("takes = [64]\nrefuses = [80]"), "takes: there is both takes and refuses"),
        (entry("takes = []"), "takes: there is neither takes nor refuses"),
        (entry("takes = [64, 64]"), "takes: lists 64 twice"),
        (entry("takes = [-1]"), "takes: -1 cannot be asked"),
        (entry('takes = ["big"]'), "takes: 'big' cannot be asked"),
        (entry('refuses = ["gfx94x"]', "gfx"), "refuses: 'gfx94x' cannot be asked"),
        (entry('takes = ["gone"]', "aiter"), "takes: 'gone' cannot be asked"),
        (entry('takes = [64]\ngpus = ["gfx94x"]'), "gpus: unknown GPU 'gfx94x'"),
        (
            entry('takes = ["gfx942"]\ngpus = ["gfx942"]', "gfx"),
            "gpus: has no meaning for the limit 'gfx'",
        ),
        (
            entry("takes = [64]\nrequest = { head_sizes = 1 }"),
            "request.head_sizes: unknown key. Did you mean 'head_size'",
        ),
        (entry("takes = [64]\nrequest = { dtype = 'int4' }"), "request.dtype: dtype is 'int4'"),
        (entry("takes = [64]\nbackends = 1"), "backends: unknown key. Did you mean 'backend'"),
        (entry("takes = [64]", id="Not Kebab"), "id: 'Not Kebab' is not kebab-case"),
        (entry("takes = [64]") * 2, "id: is taken by another capability"),
        ("capability = 1\n" + ROW, "capability: is not a list of tables"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_entry_and_field(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text if text.startswith("capability") else ROW + text)
    with pytest.raises(ContractError) as caught:
        contract.load(str(path))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert words in message


def test_the_shipped_table_speaks_of_every_rocm_backend_and_cites_a_place() -> None:
    promises = contract.load("pr-26980").capabilities
    assert {promise.backend for promise in promises} == set(ROCM_BACKENDS)
    assert all(
        re.search(r"docs/reference/(backends|known-regressions)\.md#", p.source) for p in promises
    )
    assert all(Path(promise.file).name == "capabilities.toml" for promise in promises)


def test_the_shipped_table_never_promises_both_of_one_value() -> None:
    promises = contract.load("pr-26980").capabilities
    taken = {(p.backend, p.limit, value) for p in promises for value in p.takes}
    refused = {(p.backend, p.limit, value) for p in promises for value in p.refuses}
    assert taken
    assert refused
    assert not taken & refused
