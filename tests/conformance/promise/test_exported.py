"""The exported promises: every row, defect and server, as the schema in the documents says."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_rocm_attn.cli import main
from pytest_rocm_attn.conformance.promise import contract, exported, servers_file, upstream
from pytest_rocm_attn.request import Request

SCHEMA = Path(__file__).parents[3] / "docs" / "export.schema.json"


def exported_by(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["export", *words]) == 0
    text = capsys.readouterr().out
    # Strictly: what the schema does not have is an error.
    msgspec.json.decode(text, type=exported.Export)
    data: dict[str, Any] = json.loads(text)
    return data


def rebuilt(request: dict[str, Any], defaults: dict[str, Any]) -> Request:
    return Request(**{**defaults, **request})


@pytest.mark.parametrize("name", contract.shipped())
def test_every_row_of_a_contract_is_there_with_what_is_asked_and_expected(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = exported_by(capsys, name)
    rows = contract.load(name).rows
    assert len(data["rows"]) == len(rows) > 0
    for row, told in zip(rows, data["rows"], strict=True):
        assert told["id"] == row.id
        assert told["level"] == row.level
        assert told["env"] == row.env
        assert {(gfx, told["aiter"]) for gfx in told["gpus"]} == {
            (gpu.gfx, gpu.aiter.value) for gpu in row.gpus
        }
        assert rebuilt(told["request"], data["request_defaults"]) == row.request
        wanted = {
            key: list(v) if isinstance(v, tuple) else v for key, v in asdict(row.expect).items()
        }
        assert {key: value for key, value in told["expect"].items() if key != "kind"} == wanted
        assert (told["named"] is None) == (row.named is None)
        if row.named is not None:
            assert told["named"]["backend"] == row.named.backend
            assert told["named"]["asks"] == row.named.asks
            assert tuple(told["named"]["per_kind"].items()) == row.named.per_kind


def test_a_release_has_its_own_rows_and_defects_and_the_ageless_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = exported_by(capsys, "--release", "0.25.1")
    whole = contract.load("vllm")
    meant = whole.at(upstream.given("0.25.1"))
    assert data["release"] == "0.25.1"
    assert [row["id"] for row in data["rows"]] == [row.id for row in meant.rows]
    assert [one["id"] for one in data["defects"]] == [one.id for one in meant.defects]
    assert 0 < len(data["rows"]) < len(whole.rows)
    ageless = [row for row in data["rows"] if row["since"] is None and row["until"] is None]
    assert "the-name-rocm-attn-is-never-replaced-0" in [row["id"] for row in ageless]


def test_every_server_is_there_with_its_layers(capsys: pytest.CaptureFixture[str]) -> None:
    data = exported_by(capsys, "pr-26980")
    servers = servers_file.shipped()
    assert [one["id"] for one in data["servers"]] == [one.id for one in servers]
    for server, told in zip(servers, data["servers"], strict=True):
        assert [layer["name"] for layer in told["layers"]] == [one.name for one in server.layers]
        for layer, fields in zip(server.layers, told["layers"], strict=True):
            assert rebuilt(fields["request"], data["request_defaults"]) == layer.request


def test_every_source_is_an_address_or_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    rows = exported_by(capsys, "--release", "0.33.0")["rows"]
    assert not [row["source"] for row in rows if "docs/reference" in row["source"]]


def test_the_schema_in_the_documents_is_that_of_the_export() -> None:
    assert json.loads(SCHEMA.read_text("utf-8")) == exported.json_schema()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["pr-26980", "--release", "0.33.0"], ["--release 0.33.0", "pr-26980", "leave"]),
        (["--release", "newest"], ["--release", "'newest'"]),
        (["no-such-contract"], ["no contract 'no-such-contract'"]),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(part in said for part in parts), said


def test_a_file_is_written_whole_and_says_what_is_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.json"
    assert main(["export", "pr-26980", "--output", str(file)]) == 0
    rows = len(json.loads(file.read_text())["rows"])
    assert f"{file}: {rows} rows" in capsys.readouterr().out
