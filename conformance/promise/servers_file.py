"""Descriptions of whole servers: hand-written TOML, checked on reading.

A server is a model's layers and the flags that it was started with. What a fork's selector is asked
follows from both, so that a description says what a user says, and no field of a selector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pytest_rocm_attn.conformance.promise.toml_file import Place, convert, entries, read_toml
from pytest_rocm_attn.conformance.promise.toml_request import request_from
from pytest_rocm_attn.errors import RocmAttnError, UnknownGpuError
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHIPPED = Path(__file__).parent / "servers"

Role = Literal["target", "drafter"]


class ServersError(RocmAttnError, ValueError):
    """A file of server descriptions is wrong; says where, and what to do."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Layers of a server that are alike.

    Args:
        name: unique in the server.
        role: "drafter" for a layer of the model that speculates.
        request: what the layer needs, as far as its model says it.
    """

    name: str
    role: Role
    request: Request


@dataclass(frozen=True, slots=True)
class Server:
    """A server as its user describes it.

    Args:
        id: kebab-case, unique.
        source: the model's configuration, recipe or report that it was written from.
        layers: its attention layers.
        environ: variables that it is started with.
        kv_cache_dtype: --kv-cache-dtype.
        block_size: --block-size; None if the user does not give one.
        decode_context_parallel, prefill_context_parallel: sizes; 1 for none.
        connector: the KV connector, or "".
        method: the method of speculation, or "".
        speculative_tokens: how many tokens the drafter proposes.
        encoder_decoder: the model is an encoder-decoder.
        architecture: the model's class, by whose name forks find what they change for a model; "" for none.
        config: fields of the model's configuration that forks read for it.
        gpus: the targets that it runs on; () for all.
    """

    id: str
    source: str
    layers: tuple[Layer, ...]
    environ: dict[str, str]
    kv_cache_dtype: str
    block_size: int | None
    decode_context_parallel: int
    prefill_context_parallel: int
    connector: str
    method: str
    speculative_tokens: int
    encoder_decoder: bool
    architecture: str
    config: dict[str, Any]
    gpus: tuple[str, ...]


class _Layer(msgspec.Struct):
    name: str
    request: dict[str, object]
    role: Role = "target"


class _Drafting(msgspec.Struct):
    method: str
    tokens: int


class _Server(msgspec.Struct):
    id: str
    source: str
    layer: list[dict[str, object]]
    environ: dict[str, str] = {}
    kv_cache_dtype: str = "auto"
    block_size: int | None = None
    decode_context_parallel: int = 1
    prefill_context_parallel: int = 1
    connector: str = ""
    speculation: _Drafting | None = None
    encoder_decoder: bool = False
    architecture: str = ""
    config: dict[str, Any] = {}
    gpus: list[str] = []


_FIELDS = {
    "id": "a name in kebab-case, such as 'whisper-large-v3'",
    "source": "the model's configuration or recipe, as text",
    "layer": "a list of tables; write [[server.layer]] above each",
    "environ": "a table of variables, each with a text",
    "kv_cache_dtype": "a cache dtype as text, such as 'fp8'",
    "block_size": "a number of tokens",
    "decode_context_parallel": "a number of ranks",
    "prefill_context_parallel": "a number of ranks",
    "connector": "the name of a KV connector as text",
    "speculation": "a table with method and tokens",
    "speculation.method": "a method of speculation as text, such as 'eagle3'",
    "speculation.tokens": "a number of tokens",
    "encoder_decoder": "true or false",
    "architecture": "the name of a model's class as text",
    "config": "a table of fields of the model's configuration",
    "gpus": "a list of gfx targets",
    "layer.name": "a text that no other layer of the server has",
    "layer.request": "a table of request fields",
    "layer.role": "'target' or 'drafter'",
}
_LAYER_FIELDS = {name.removeprefix("layer."): words for name, words in _FIELDS.items()}


def read_servers(paths: Iterable[Path]) -> list[Server]:
    """Return the descriptions that files hold, in the order of the files.

    Args:
        paths: the files; ids are unique over all of them.

    Raises:
        ServersError: a mistake, in one line that names file, entry, field and remedy.
    """
    taken: dict[str, Path] = {}
    found = []
    for path in paths:
        place = Place(ServersError, path)
        _, table = read_toml(place)
        place.check_keys(table, ("server",), "")
        for entry, here in entries(
            table, "server", _Server, _FIELDS, place, word="server", taken=taken
        ):
            found.append(_server(entry, here))
    return found


def shipped() -> list[Server]:
    """Return the descriptions that come with the package."""
    return read_servers(sorted(SHIPPED.glob("*.toml")))


def described(file: str | None) -> tuple[Server, ...]:
    """Return the shipped descriptions and those of a file.

    Raises:
        ServersError: a mistake in the file, such as an id that a shipped one has.
    """
    further = [Path(file)] if file else []
    return tuple(read_servers([*sorted(SHIPPED.glob("*.toml")), *further]))


def _server(entry: _Server, place: Place) -> Server:
    if not entry.layer:
        place.fail("layer", "is empty", "describe one layer at least")
    for name in ("decode_context_parallel", "prefill_context_parallel", "block_size"):
        value = getattr(entry, name)
        if value is not None and value < 1:
            place.fail(name, f"is {value}", "give a positive number")
    layers: list[Layer] = []
    for number, table in enumerate(entry.layer, start=1):
        inside = f"layer {number}"
        layer = _layer(entry, table, place, inside)
        if layer.name in [other.name for other in layers]:
            place.fail(f"{inside}.name", f"{layer.name!r} is taken", "give it another name")
        layers.append(layer)
    drafts = any(layer.role == "drafter" for layer in layers)
    if drafts and entry.speculation is None:
        place.fail("speculation", "missing, and a layer is a drafter", "say how it speculates")
    if entry.speculation is not None and entry.speculation.tokens < 1:
        place.fail("speculation.tokens", "is not positive", "give a positive number")
    for gfx in entry.gpus:
        try:
            Gpu(gfx)
        except UnknownGpuError as error:
            place.fail("gpus", str(error), "use one of these")
    return Server(
        id=entry.id,
        source=entry.source,
        layers=tuple(layers),
        environ=entry.environ,
        kv_cache_dtype=entry.kv_cache_dtype,
        block_size=entry.block_size,
        decode_context_parallel=entry.decode_context_parallel,
        prefill_context_parallel=entry.prefill_context_parallel,
        connector=entry.connector,
        method=entry.speculation.method if entry.speculation else "",
        speculative_tokens=entry.speculation.tokens if entry.speculation else 0,
        encoder_decoder=entry.encoder_decoder,
        architecture=entry.architecture,
        config=entry.config,
        gpus=tuple(entry.gpus),
    )


# What a server says of all its layers: a layer must not say it again, and differently.
_SAID_BY_SERVER = (
    *("block_size", "use_kv_connector", "use_dcp", "use_pcp", "use_batch_invariant"),
    *("encoder_decoder_model", "run_kv_cache_dtype"),
)


def _layer(entry: _Server, table: Mapping[str, Any], place: Place, inside: str) -> Layer:
    place.check_keys(table, ("name", "request", "role"), inside)
    read = convert(table, _Layer, _LAYER_FIELDS, place)
    for name in _SAID_BY_SERVER:
        if name in read.request:
            place.fail(
                f"{inside}.request.{name}",
                "holds for the whole server",
                "give it there and remove it here",
            )
    own = {"kv_cache_dtype": entry.kv_cache_dtype, **read.request}
    request = request_from(own, place, f"{inside}.request")
    differs = request.kv_cache_dtype != entry.kv_cache_dtype
    request = replace(
        request,
        block_size=entry.block_size,
        use_kv_connector=bool(entry.connector),
        use_dcp=entry.decode_context_parallel > 1,
        use_pcp=entry.prefill_context_parallel > 1,
        use_batch_invariant=entry.environ.get("VLLM_BATCH_INVARIANT") == "1",
        encoder_decoder_model=entry.encoder_decoder,
        run_kv_cache_dtype=entry.kv_cache_dtype if differs else "",
    )
    return Layer(read.name, read.role, request)
