"""The contract's own table of what backends can do: hand-written TOML, checked on reading."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pytest_rocm_attn.conformance.promise.toml_file import entries
from pytest_rocm_attn.conformance.promise.toml_request import request_from
from pytest_rocm_attn.errors import RequestError, UnknownBackendError, UnknownGpuError, nearest
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.registry import check_name
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_rocm_attn.conformance.promise.toml_file import Place

# Fields of a request that a limit may be about; "gfx" and "aiter" are about the machine.
REQUEST_LIMITS = (
    "head_size",
    "dtype",
    "kv_cache_dtype",
    "block_size",
    "attn_type",
    "has_sink",
    "num_heads",
    "sliding_window",
    "logits_soft_cap",
    "alibi",
)
LIMITS = (*REQUEST_LIMITS, "gfx", "aiter")


@dataclass(frozen=True, slots=True)
class Promise:
    """What the contract says of one backend and one limit.

    Args:
        id: kebab-case, unique in the contract.
        source: the clause it was written from.
        level: "required", or "advisory".
        backend: its name in vLLM's registry.
        limit: one of LIMITS.
        takes: values that the backend takes; () for a promise about what it refuses.
        refuses: values that it must not take as if nothing were wrong; () for the other kind.
        request: the layer, except the limit.
        gpus: the targets it is promised on; () for all. For the limit "gfx", the values say it.
        file: the file that holds it.
    """

    id: str
    source: str
    level: Literal["required", "advisory"]
    backend: str
    limit: str
    takes: tuple[Any, ...]
    refuses: tuple[Any, ...]
    request: Request
    gpus: tuple[str, ...]
    file: str

    @property
    def values(self) -> tuple[Any, ...]:
        """The values that the promise is about."""
        return self.takes or self.refuses

    def __str__(self) -> str:
        verb = "takes" if self.takes else "does not take"
        return f"{self.backend} {verb} {self.limit} {', '.join(map(str, self.values))}"

    def asked_on(self, gfx: str) -> tuple[Any, ...]:
        """Return the values that are asked about on a target; () where it promises nothing."""
        if self.limit == "gfx":
            return tuple(value for value in self.values if value == gfx)
        return self.values if not self.gpus or gfx in self.gpus else ()

    def cell(self, gfx: str, value: Any) -> tuple[Gpu, Request]:
        """Return the platform and the request to ask about a value with."""
        if self.limit == "gfx":
            return Gpu(value), self.request
        if self.limit == "aiter":
            return Gpu(gfx, Aiter(value)), self.request
        return Gpu(gfx), with_value(self.request, self.limit, value)


def with_value(request: Request, limit: str, value: Any) -> Request:
    """Return a request with one field changed; its KV heads follow its heads.

    Raises:
        RequestError: the value is out of range.
    """
    if limit == "num_heads":
        return replace(request, num_heads=value, num_kv_heads=0)
    return replace(request, **{limit: value})


class _Capability(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    source: str
    level: Literal["required", "advisory"]
    backend: str
    limit: str
    takes: list[Any] = []
    refuses: list[Any] = []
    request: dict[str, object] = {}
    gpus: list[str] = []


_FIELDS = {
    "id": "a sentence in kebab-case, such as 'rocm-attn-takes-fp8-caches'",
    "source": "the clause that it was written from, as text",
    "level": "'required' or 'advisory'",
    "backend": "a backend's name as text",
    "limit": f"one of {', '.join(LIMITS)}",
    "takes": "a list of values",
    "refuses": "a list of values",
    "request": "a table of request fields",
    "gpus": "a list of gfx targets",
}


def read(table: Mapping[str, Any], place: Place, taken: dict[str, Path]) -> Iterator[Promise]:
    """Return the promises of a file's [[capability]] entries.

    Args:
        table: the file's table.
        place: the file.
        taken: id -> file, of the entries of other files; those of this one are added.

    Raises:
        place.error: a mistake, in one line that names file, entry, field and remedy.
    """
    found = entries(
        table, "capability", _Capability, _FIELDS, place, word="capability", taken=taken
    )
    for entry, here in found:
        yield _promise(entry, here)


def _promise(entry: _Capability, place: Place) -> Promise:
    if bool(entry.takes) == bool(entry.refuses):
        count = "both takes and refuses" if entry.takes else "neither takes nor refuses"
        place.fail("takes", f"there is {count}", "give one of the two a value at least")
    if entry.limit not in LIMITS:
        place.fail(
            "limit",
            f"{entry.limit!r} is unknown.{nearest(entry.limit, LIMITS)}",
            f"it must be {_FIELDS['limit']}",
        )
    try:
        check_name(entry.backend)
    except UnknownBackendError as error:
        place.fail("backend", str(error), "use one of these")
    promise = Promise(
        id=entry.id,
        source=entry.source,
        level=entry.level,
        backend=entry.backend,
        limit=entry.limit,
        takes=tuple(entry.takes),
        refuses=tuple(entry.refuses),
        request=request_from(entry.request, place),
        gpus=tuple(entry.gpus),
        file=str(place.file),
    )
    _check_values(promise, place)
    return promise


def _check_values(promise: Promise, place: Place) -> None:
    """Refuse values that no question could be asked with."""
    field = "takes" if promise.takes else "refuses"
    for number, value in enumerate(promise.values):
        if value in promise.values[:number]:
            place.fail(field, f"lists {value!r} twice", "remove one of them")
    for gfx in promise.gpus:
        try:
            Gpu(gfx)
        except UnknownGpuError as error:
            place.fail("gpus", str(error), "use one of these")
    if promise.limit == "gfx" and promise.gpus:
        place.fail("gpus", "has no meaning for the limit 'gfx'", "remove it: the values say which")
    for value in promise.values:
        try:
            promise.cell("gfx942", value)
        except (RequestError, UnknownGpuError, ValueError, TypeError) as error:
            place.fail(field, f"{value!r} cannot be asked ({error})", "correct the value")
