"""What every file that people write by hand shares: mistakes of shape are one line with a remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_rocm_attn.conformance.promise import contract, deviations
from pytest_rocm_attn.conformance.tiers.numerics import case
from pytest_rocm_attn.errors import RocmAttnError


class Format(NamedTuple):
    """A file format.

    Attributes:
        load: reads a file.
        header: of an entry.
    """

    load: Callable[[Path], Any]
    header: str


FORMATS = {
    "contract": Format(lambda file: contract.load(str(file)), "case"),
    "deviations": Format(deviations.load, "deviation"),
    "numerics cases": Format(case.load, "case"),
}
WRITE = "is not a list of tables; write [[{0}]] above each entry"
MISTAKES = {
    "not TOML": (b"[[{0}]]\nid = \n", "mine.toml: is not TOML ("),
    "not UTF-8": (b"# \xe9\n", "mine.toml: is not UTF-8 (byte 2); save it as UTF-8"),
    "unknown table": (b"[[{0}s]]\nid = 'x'\n", "mine.toml: {0}s: unknown key. Did you mean '{0}'?"),
    "one table": (b"[{0}]\nid = 'x'\n", f"mine.toml: {{0}}: {WRITE}"),
    "a number": (b"{0} = 3\n", f"mine.toml: {{0}}: {WRITE}"),
    "a list of numbers": (b"{0} = [3]\n", f"mine.toml: {{0}}: {WRITE}"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_another_shape_is_refused_in_one_line(
    tmp_path: Path, name: str, mistake: str
) -> None:
    text, words = MISTAKES[mistake]
    file = tmp_path / "mine.toml"
    file.write_bytes(text.replace(b"{0}", FORMATS[name].header.encode()))
    with pytest.raises(RocmAttnError) as caught:
        FORMATS[name].load(file)
    message = str(caught.value)
    assert words.format(FORMATS[name].header) in message
    assert "\n" not in message


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_does_not_exist_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(RocmAttnError, match=r"nowhere\.toml: cannot be read \(No such file"):
        FORMATS[name].load(tmp_path / "nowhere.toml")
