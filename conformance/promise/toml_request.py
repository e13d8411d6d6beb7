"""Read requests, and regions of requests, from TOML tables."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.errors import RequestError
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.conformance.promise.toml_file import Place

FIELDS = tuple(field.name for field in fields(Request))
_MAY_BE_UNSET = tuple(field.name for field in fields(Request) if "None" in str(field.type))


def request_from(table: Mapping[str, Any], place: Place, inside: str = "request") -> Request:
    """Return the request that a table describes.

    Args:
        table: field -> value.
        place: where the table stands, for the message.
        inside: the key that holds it.

    Raises:
        place.error: an unknown field, or a value of the wrong type or out of range.
    """
    place.check_keys(table, FIELDS, inside)
    # TOML has no null: the text "unset" stands for None in the fields that may be None.
    values: dict[str, Any] = {
        name: None if value == "unset" and name in _MAY_BE_UNSET else value
        for name, value in table.items()
    }
    try:
        return Request(**values)
    except RequestError as error:
        wrong = str(error).removeprefix("request: ")
        place.fail(f"{inside}.{error.field}", wrong, "correct the value")


def region_from(table: Mapping[str, Any], place: Place, inside: str = "request") -> dict[str, Any]:
    """Return a region of requests: field -> the values that it may have, as requests hold them.

    Args:
        table: field -> a value, or a list of alternatives.
        place: where the table stands, for the message.
        inside: the key that holds it.

    Raises:
        place.error: as request_from(), or a list without alternatives.
    """
    region = {}
    for name, value in table.items():
        values = value if isinstance(value, list) else [value]
        if not values:
            place.fail(f"{inside}.{name}", "lists no value", "list one, or leave the field out")
        # A request is asked for with as many heads as KV heads, which is legal.
        names = ("num_heads", name) if name == "num_kv_heads" else (name,)
        region[name] = tuple(
            getattr(request_from(dict.fromkeys(names, each), place, inside), name)
            for each in values
        )
    return region
