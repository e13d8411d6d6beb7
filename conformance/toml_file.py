"""Read a TOML file of entries against a typed schema; every mistake is one line with a remedy.

Contracts and deviations files share this: they are written by hand, by people who did not write
the loader, so a mistake must say which file, which entry, which field, what is wrong, what to do.
"""

from __future__ import annotations

import re
import tomllib
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import msgspec

from pytest_rocm_attn.errors import RocmAttnError, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

T = TypeVar("T")


class Place:
    """Where in which file the loader is, and the error class that a mistake there raises.

    Args:
        error: ContractError or DeviationsError.
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
        """Refuse keys that the schema does not have; inside is the table's field, "" for the top."""
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


_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_AT = re.compile(r"(?P<wrong>.*) - at `\$\.?(?P<path>.*)`", re.DOTALL)


def convert(
    table: Mapping[str, object], schema: type[T], remedies: Mapping[str, str], place: Place
) -> T:
    """Return table as an instance of schema, a msgspec Struct.

    Args:
        table: one TOML table.
        schema: its shape; nested structs are nested tables.
        remedies: dotted field name -> what that field must hold, in words.
        place: where the table stands, for the message.

    Raises:
        place.error: a key is unknown or missing, or a value has the wrong type.
    """
    try:
        # Dates are TOML's own; without this, msgspec would read text that looks like one.
        return msgspec.convert(table, schema, builtin_types=(date, datetime))
    except msgspec.ValidationError as error:
        wrong, path = str(error), ""
        if at := _AT.fullmatch(wrong):
            wrong, path = at["wrong"], at["path"]
        if match := _MISSING.fullmatch(wrong):
            field = f"{path}.{match['name']}".lstrip(".")
            place.fail(field, "missing", f"add it: {remedies[field]}")
        if match := _UNKNOWN.fullmatch(wrong):
            # The siblings of an unknown key are the fields that the remedies name beside it.
            prefix = f"{path}." if path else ""
            siblings = [
                name.removeprefix(prefix)
                for name in remedies
                if name.startswith(prefix) and "." not in name.removeprefix(prefix)
            ]
            place.check_keys({match["name"]: None}, siblings, path)
        field = path.partition("[")[0]  # not which element of a list: the whole list is at fault
        place.fail(field, wrong, f"it must be {remedies[field]}")
