"""Descriptions of servers: what ships, and what a mistake in one says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.conformance.promise.servers_file import (
    ServersError,
    described,
    read_servers,
    shipped,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_rocm_attn.conformance.promise.servers_file import Server

HEAD = '[[server]]\nid = "one"\nsource = "a test"\n'
LAYER = '[[server.layer]]\nname = "attention"\nrequest = { head_size = 64 }\n'


def read(tmp_path: Path, text: str) -> list[Server]:
    file = tmp_path / "servers.toml"
    file.write_text(text)
    return read_servers([file])


def test_the_kinds_of_servers_that_users_start_are_described() -> None:
    servers = shipped()
    assert len(servers) >= 24
    layers = [layer.request for server in servers for layer in server.layers]
    assert {64, 80, 96, 128, 256, 512, 576} <= {one.head_size for one in layers}
    assert {"decoder", "encoder", "encoder_only", "encoder_decoder"} <= {
        one.attn_type for one in layers
    }
    assert {272, 544, 784, 2048} <= {server.block_size for server in servers}
    for need in (
        *("has_sink", "use_mm_prefix", "use_sparse", "use_dcp", "use_kv_connector"),
        *("use_non_causal", "use_batch_invariant"),
    ):
        assert any(getattr(one, need) for one in layers), need


def test_what_the_server_says_holds_for_its_layers(tmp_path: Path) -> None:
    text = HEAD + (
        'decode_context_parallel = 2\nconnector = "Any"\nkv_cache_dtype = "fp8"\nblock_size = 32\n'
        'environ = { VLLM_BATCH_INVARIANT = "1" }\n'
    )
    boundary = LAYER.replace("attention", "boundary").replace(
        "64 }", '64, kv_cache_dtype = "auto" }'
    )
    (server,) = read(tmp_path, text + LAYER + boundary)
    inner, outer = (layer.request for layer in server.layers)
    assert inner.use_dcp and inner.use_kv_connector and inner.use_batch_invariant
    assert (inner.block_size, inner.kv_cache_dtype, inner.run_kv_cache_dtype) == (32, "fp8", "")
    assert (outer.kv_cache_dtype, outer.run_kv_cache_dtype) == ("auto", "fp8")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD, "layer: missing"),
        (HEAD + "layer = []\n", "layer: is empty"),
        (HEAD + LAYER + LAYER, "layer 2.name: 'attention' is taken"),
        (HEAD + LAYER.replace("head_size", "headsize"), "headsize: unknown key"),
        (
            HEAD + LAYER.replace("64 }", "64, use_dcp = true }"),
            "use_dcp: holds for the whole server",
        ),
        (HEAD + "block_size = 0\n" + LAYER, "block_size: is 0"),
        (HEAD + 'gpus = ["gfx1"]\n' + LAYER, "gpus: "),
        (HEAD + LAYER + 'role = "drafter"\n', "speculation: missing, and a layer is a drafter"),
        (HEAD + LAYER + 'role = "judge"\n', "role: "),
        ("[[server]]\n" + LAYER, "id: missing"),
        ("[[servers]]\n" + LAYER, "servers: unknown key"),
    ],
)
def test_a_mistake_says_in_one_line_where_it_is_and_what_to_do(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(ServersError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert ";" in message  # the remedy


def test_a_file_adds_to_what_ships_and_may_not_take_its_ids(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(HEAD + LAYER)
    assert [server.id for server in described(str(file))] == [*(s.id for s in shipped()), "one"]
    assert described(None) == tuple(shipped())
    file.write_text(HEAD.replace('"one"', f'"{shipped()[0].id}"') + LAYER)
    with pytest.raises(ServersError, match="is taken by another server"):
        described(str(file))
