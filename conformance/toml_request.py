"""Read a request from a TOML table, as contracts spell it."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import msgspec

from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.conformance.toml_file import Place

_FIELDS = tuple(field.name for field in fields(Request))
_MAY_BE_UNSET = tuple(field.name for field in fields(Request) if "None" in str(field.type))


def request_from(table: Mapping[str, object], place: Place) -> Request:
    """Return the request that a ``request`` table describes.

    Raises:
        place.error: an unknown field, or a value out of range.
    """
    place.check_keys(table, _FIELDS, "request")
    # TOML has no null: the text "unset" stands for None in the fields that may be None.
    values = {
        name: None if value == "unset" and name in _MAY_BE_UNSET else value
        for name, value in table.items()
    }
    try:
        return msgspec.convert(values, Request)
    except msgspec.ValidationError as error:
        # msgspec wraps a RequestError, too, whose text begins with "request: <field> is ...".
        wrong, _, path = str(error).removeprefix("request: ").partition(" - at `$.")
        field = path.rstrip("`") or wrong.partition(" ")[0]
        place.fail(f"request.{field}", wrong, "correct the value")
