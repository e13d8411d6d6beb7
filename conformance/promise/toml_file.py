"""Read a TOML file of entries against a typed schema; every mistake is one line with a remedy.

Contracts, their rules about the grid, deviations and cases share this: they are written by hand, by people who did not write
the loader, so a mistake must say which file, which entry, which field, what is wrong, what to do.
"""

from __future__ import annotations

import functools
import re
import tomllib
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import msgspec

from pytest_rocm_attn.errors import RocmAttnError, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

T = TypeVar("T", bound=msgspec.Struct)


class Place:
    """The loader's place in a file, and the error class that a mistake there raises.

    Args:
        error: such as ContractError or DeviationsError.
        file: the path as the user gave it.
        entry: the row or the deviation, such as "case 3 'triton-is-the-default'"; "" at the top.
    """

    def __init__(self, error: type[RocmAttnError], file: Path, entry: str = "") -> None:
        self.error = error
        self.file = file
        self.entry = entry

    def within(self, entry: str) -> Place:
        """Return the place of one entry of this file."""
        return Place(self.error, self.file, entry)

    def fail(self, field: str, wrong: str, remedy: str) -> NoReturn:
        """Raise the mistake as one line: file, entry, field, what is wrong, what to do."""
        parts = ": ".join(part for part in (str(self.file), self.entry, field, wrong) if part)
        # A quoted key or a file name may hold a line break; the message stays one line.
        raise self.error("\\n".join(f"{parts}; {remedy}".splitlines())) from None

    def check_keys(self, table: Mapping[str, object], known: Collection[str], inside: str) -> None:
        """Refuse keys that the schema lacks. `inside` is the table's field, "" for the top."""
        for key in table:
            if key not in known:
                name = key or '""'
                self.fail(
                    f"{inside}.{name}" if inside else name,
                    f"unknown key.{nearest(key, known)}",
                    f"known here: {', '.join(known)}",
                )


def read_toml(place: Place) -> tuple[str, dict[str, Any]]:
    """Return the text of place's file and the table it holds.

    Raises:
        place.error: the file cannot be read, is not UTF-8, or is not TOML.
    """
    try:
        text = place.file.read_bytes().decode("utf-8")
        return text, tomllib.loads(text)
    except OSError as error:
        place.fail("", f"cannot be read ({error.strerror})", "check the path and its permissions")
    except UnicodeDecodeError as error:
        place.fail("", f"is not UTF-8 (byte {error.start})", "save it as UTF-8")
    except tomllib.TOMLDecodeError as error:
        place.fail("", f"is not TOML ({error})", "correct that line")


def tables(table: Mapping[str, object], key: str, place: Place) -> list[dict[str, object]]:
    """Return the entries of a file, the tables under its ``[[key]]`` headers; none if it has none.

    Raises:
        place.error: the key holds something else, such as one table under ``[key]``.
    """
    found = table.get(key, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        place.fail(key, "is not a list of tables", f"write [[{key}]] above each entry")
    return found


def entries(
    table: Mapping[str, object],
    key: str,
    schema: type[T],
    remedies: Mapping[str, str],
    place: Place,
    *,
    word: str,
    taken: dict[str, Path] | None,
) -> Iterator[tuple[T, Place]]:
    """Return the checked entries of a file, each with its place for further messages.

    Every entry has an id in kebab-case that no other entry has. A ``source`` and a ``why`` say
    something.

    Args:
        table: the file's table.
        key: the header of its entries, such as "case".
        schema: the shape of an entry, a msgspec Struct with an ``id``.
        remedies: see convert().
        place: the file.
        word: what an entry is called in a message, such as "row".
        taken: id -> file, of the entries so far; those of this file are added. None: an id may be
            taken again.

    Raises:
        place.error: a mistake, in one line that names file, entry, field, what is wrong and the
            remedy.
    """
    for number, entry in enumerate(tables(table, key, place), start=1):
        name = entry.get("id")
        named = isinstance(name, str) and name
        here = place.within(f"{word} {name!r}" if named else f"{word} {number}")
        value = convert(entry, schema, remedies, here)
        own_id: str = value.id  # type: ignore[attr-defined]  # every schema has one
        _check_id(own_id, remedies["id"], here)
        if taken is not None:
            if own_id in taken:
                other = f"is taken by another {word}, in {taken[own_id]}"
                here.fail("id", other, "give one of them another id")
            taken[own_id] = place.file
        for field in ("source", "why"):
            if not str(getattr(value, field, "said")).strip():
                here.fail(field, "is empty", f"give {remedies[field]}")
        yield value, here


_KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LONGEST_ID = 80


def _check_id(name: str, remedy: str, place: Place) -> None:
    if not _KEBAB.fullmatch(name):
        place.fail("id", f"{name!r} is not kebab-case", f"write {remedy}")
    if len(name) > _LONGEST_ID:
        place.fail("id", f"has {len(name)} characters", f"shorten it to {_LONGEST_ID} at most")
    if "should" in name.split("-"):
        place.fail("id", "says 'should'", "state what happens: 'triton-is-the-default'")


def convert(
    table: Mapping[str, object],
    schema: type[T],
    remedies: Mapping[str, str],
    place: Place,
    inside: str = "",
) -> T:
    """Return table as an instance of schema, a msgspec Struct.

    Args:
        table: one TOML table.
        schema: its shape; nested structs are nested tables.
        remedies: dotted field name -> what that field must hold, in words.
        place: where the table stands, for the message.
        inside: the field that holds the table; "" at the top.

    Raises:
        place.error: a key is unknown or missing, or a value has the wrong type.
    """
    fields = _fields(schema)
    place.check_keys(table, fields, inside)
    values = {}
    for name, field in fields.items():
        dotted = f"{inside}.{name}".lstrip(".")
        if name in table:
            values[field.name] = value_of(table[name], field.type, dotted, remedies, place)
        elif field.required:
            place.fail(dotted, "missing", f"add it: {remedies[dotted]}")
    return schema(**values)


@functools.cache
def _fields(schema: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    """Return the fields of a schema by their names in TOML."""
    return {field.encode_name: field for field in msgspec.structs.fields(schema)}


def value_of(
    value: object, kind: Any, field: str, remedies: Mapping[str, str], place: Place
) -> Any:
    """Return the value of one field as the type that its schema gives it.

    Raises:
        place.error: it is of another type.
    """
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if not isinstance(value, dict):
            place.fail(field, "is not a table", f"it must be {remedies[field]}")
        return convert(value, kind, remedies, place, field)
    try:
        # Dates are TOML's own; without this, msgspec would read text that looks like one.
        return msgspec.convert(value, kind, builtin_types=(date, datetime))
    except msgspec.ValidationError as error:
        place.fail(field, str(error), f"it must be {remedies[field]}")
