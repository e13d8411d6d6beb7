"""``rocm-attn export``: a contract's promises and the descriptions of servers as JSON, for suites in other languages.

docs/export.md says what the fields mean; docs/export.schema.json is the JSON Schema of Export.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from pytest_rocm_attn.citations import linked
from pytest_rocm_attn.conformance.promise import contract as contracts
from pytest_rocm_attn.conformance.promise import release, rows, servers_file
from pytest_rocm_attn.conformance.promise.naming import Named
from pytest_rocm_attn.conformance.promise.reasons import Reason
from pytest_rocm_attn.conformance.promise.release import FIRST, LAST, Release
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.promise import capability_table, history

SCHEMA: Literal[1] = 1
Version = Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+\.\d+$")]


class ExpectedBackend(msgspec.Struct, tag="backend", tag_field="kind", frozen=True):
    """The answer is this backend."""

    backend: str


class ExpectedRefusal(msgspec.Struct, tag="refusal", tag_field="kind", frozen=True):
    """The answer is a refusal whose message mentions each of these words, and gives these reasons."""

    mentions: tuple[str, ...]
    reasons: tuple[Reason, ...]


class ExpectedNever(msgspec.Struct, tag="never", tag_field="kind", frozen=True):
    """The answer is a refusal, or a backend that is not one of these."""

    backends: tuple[str, ...]


class ExpectedServed(msgspec.Struct, tag="served", tag_field="kind", frozen=True):
    """The answer is a backend, whichever it is."""


Expected = ExpectedBackend | ExpectedRefusal | ExpectedNever | ExpectedServed


class NamedFields(msgspec.Struct, frozen=True):
    """What the user names, and for what a backend is asked.

    ``backend`` is null if nothing is named; ``asks`` is as in docs/contracts.md.
    """

    backend: str | None
    per_kind: dict[str, str]
    asks: str
    model: str


class RowFields(msgspec.Struct, frozen=True):
    """A promise: what is set and asked, and what is expected, on each of some GPUs.

    ``env`` is all that is set; ``request`` has the fields that differ from ``request_defaults``;
    ``named`` is null in a contract that names backends by VLLM_ATTENTION_BACKEND. The row holds from
    the release ``since`` (null: from the first) up to and without ``until`` (null: to this day).
    """

    id: str
    source: str
    level: rows.Level
    gpus: tuple[str, ...]
    aiter: Literal["present", "absent", "impostor", "broken"]
    env: dict[str, str]
    named: NamedFields | None
    request: dict[str, Any]
    expect: Expected
    since: Version | None
    until: Version | None
    ended_by: str
    note: str


class CapabilityFields(msgspec.Struct, frozen=True):
    """What a backend takes, or refuses, of one limit; ``gpus`` is empty for all."""

    id: str
    source: str
    level: Literal["required", "advisory"]
    backend: str
    limit: str
    takes: tuple[Any, ...]
    refuses: tuple[Any, ...]
    request: dict[str, Any]
    gpus: tuple[str, ...]


class DefectFields(msgspec.Struct, frozen=True):
    """A known defect of releases: rows that match are answered by ``answers`` there."""

    id: str
    what: str
    link: str
    match: tuple[str, ...]
    answers: tuple[str, ...]
    mentions: tuple[str, ...]
    reasons: tuple[Reason, ...]
    since: Version | None
    until: Version | None


class LayerFields(msgspec.Struct, frozen=True):
    """Layers of a server that are alike; ``request`` as of a row."""

    name: str
    role: servers_file.Role
    request: dict[str, Any]


class ServerFields(msgspec.Struct, frozen=True):
    """A server as its user describes it (docs/server.md); ``gpus`` is empty for all."""

    id: str
    source: str
    layers: tuple[LayerFields, ...]
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


class Export(msgspec.Struct, frozen=True):
    """A contract, or what one release promises of it, and the descriptions of servers.

    ``release`` is null if rows of all releases are in it.
    """

    schema: Literal[1]
    contract: str
    title: str
    source: str
    release: Version | None
    request_defaults: dict[str, Any]
    rows: tuple[RowFields, ...]
    capabilities: tuple[CapabilityFields, ...]
    defects: tuple[DefectFields, ...]
    servers: tuple[ServerFields, ...]


def export(the_contract: contracts.Contract, servers: tuple[servers_file.Server, ...]) -> Export:
    """Return all that a contract holds, and descriptions of servers, as plain data."""
    upstream = the_contract.upstream
    return Export(
        SCHEMA,
        the_contract.id,
        the_contract.title,
        linked(the_contract.source),
        release.words(upstream.release) if upstream is not None else None,
        {name: value for name, value in asdict(Request()).items() if name not in _DERIVED},
        tuple(_row(row) for row in the_contract.rows),
        tuple(_capability(one) for one in the_contract.capabilities),
        tuple(_defect(one) for one in the_contract.defects),
        tuple(_server(one) for one in servers),
    )


def encoded(exported: Export) -> bytes:
    """Return it as the text of a JSON file."""
    return msgspec.json.format(msgspec.json.encode(exported), indent=1) + b"\n"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of what encoded() writes."""
    return msgspec.json.schema(Export)


# Fields whose default depends on others: an exported request always has them.
_DERIVED = ("head_size", "num_heads", "num_kv_heads")


def _request(request: Request) -> dict[str, Any]:
    return {name: getattr(request, name) for name in _DERIVED} | request.non_default()


def _version(when: Release) -> str | None:
    return None if when in (FIRST, LAST) else release.words(when)


def _named(named: Named | None) -> NamedFields | None:
    if named is None:
        return None
    return NamedFields(named.backend, dict(named.per_kind), named.asks, named.model)


def _expected(expect: rows.Expect) -> Expected:
    match expect:
        case rows.ExpectBackend(backend):
            return ExpectedBackend(backend)
        case rows.ExpectRefusal(mentions, reasons):
            return ExpectedRefusal(mentions, tuple(reasons))
        case rows.ExpectNever(backends):
            return ExpectedNever(backends)
        case rows.ExpectServed():
            return ExpectedServed()


def _row(row: rows.Row) -> RowFields:
    (aiter,) = {gpu.aiter for gpu in row.gpus}
    return RowFields(
        row.id,
        linked(row.source),
        row.level,
        tuple(gpu.gfx for gpu in row.gpus),
        aiter.value,
        dict(row.env),
        _named(row.named),
        _request(row.request),
        _expected(row.expect),
        _version(row.since),
        _version(row.until),
        linked(row.by),
        row.note,
    )


def _capability(one: capability_table.Promise) -> CapabilityFields:
    return CapabilityFields(
        *(one.id, linked(one.source), one.level, one.backend, one.limit),
        *(one.takes, one.refuses, _request(one.request), one.gpus),
    )


def _defect(one: history.KnownDefect) -> DefectFields:
    return DefectFields(
        *(one.id, one.what, linked(one.link), one.match, one.answers),
        *(one.mentions, tuple(one.reasons)),
        *(_version(one.since), _version(one.until)),
    )


def _server(one: servers_file.Server) -> ServerFields:
    fields = {name: getattr(one, name) for name in ServerFields.__struct_fields__}
    layers = tuple(
        LayerFields(layer.name, layer.role, _request(layer.request)) for layer in one.layers
    )
    return ServerFields(**fields | {"layers": layers, "source": linked(one.source)})
