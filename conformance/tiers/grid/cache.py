"""Answers of an interrupted run, kept in pytest's cache so that the next run goes on from there.

A file per part, under a name that depends on everything an answer may depend on: the grid, this
tool, the Python that runs, the selector's own source, every installed distribution, the variables
of the shell. Whatever of these changes, the answers are not found. A file that is damaged, or that
does not fit, counts as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import sys
import zlib
from array import array
from base64 import b85decode, b85encode
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pytest_rocm_attn.conformance.isolation.inside.cells import UNANSWERED
from pytest_rocm_attn.conformance.isolation.inside.environment import neutral_environment
from pytest_rocm_attn.conformance.report import whole_file
from pytest_rocm_attn.conformance.tiers.grid.parts import PartTable
from pytest_rocm_attn.outcome import from_wire, to_wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from pytest_rocm_attn.conformance.isolation import Subject
    from pytest_rocm_attn.conformance.tiers.grid.parts import Part

_SCHEMA = 1
_MOST_FILES = 20_000  # of a selector whose source is larger, nothing is kept
# Variables that affect what a selector answers or what is imported; a shell holds many others.
_PREFIXES = (
    *("VLLM_", "SGLANG_", "AITER_", "ROCM_", "HIP_", "HSA_", "TRITON_", "TORCH", "PYTORCH_"),
    *("PYTHONPATH", "FLASH_ATTENTION_", "LD_"),
)


class _Kept(msgspec.Struct):
    """The content of a file."""

    schema: int
    codes: str
    outcomes: list[list[Any]]
    seconds: float
    written: list[str]


class AnswerCache:
    """What one selector answered so far.

    Args:
        folder: the directory of the files; the first answer that is stored creates it.
        key: what the answers depend on, from fingerprint().
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder / key

    def load(self, part: Part) -> PartTable | None:
        """Return the stored answers of a part, or None."""
        try:
            kept = msgspec.json.decode(self.file(part).read_bytes(), type=_Kept)
            codes = array("H", zlib.decompress(b85decode(kept.codes)))
            outcomes = list(map(from_wire, kept.outcomes))
        except (OSError, ValueError, KeyError, TypeError, zlib.error):
            return None
        fits = all(code == UNANSWERED or code < len(outcomes) for code in set(codes))
        if kept.schema != _SCHEMA or len(codes) != part.cells or not fits:
            return None
        return PartTable(codes, outcomes, kept.seconds, set(kept.written))

    def save(self, part: Part, table: PartTable) -> None:
        """Keep what there is of a part. If it cannot be kept, the next run asks again."""
        if table.unanswered == len(table.codes):
            return
        kept = _Kept(
            _SCHEMA,
            b85encode(zlib.compress(table.codes.tobytes())).decode(),
            [to_wire(outcome) for outcome in table.outcomes],
            table.seconds,
            sorted(table.written),
        )
        file = self.file(part)
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            whole_file.write(file, msgspec.json.encode(kept))

    def file(self, part: Part) -> Path:
        """Return where a part is kept, or would be."""
        return self._folder / f"{part.id}.json"


def fingerprint(subject: Subject, grid: str, apart: Iterable[Path] = ()) -> str | None:
    """Return what a selector's answers depend on, as hexadecimal; None if that is not known.

    Args:
        subject: the selector, and how it is run.
        grid: the grid's digest.
        apart: files that are not a source, wherever they lie, such as this run's own reports.
    """
    no_source = {path.resolve() for path in apart}
    source = _source_digest(subject.selector, no_source)
    own = _source_digest("pytest_rocm_attn:", no_source)
    if source is None or own is None:
        return None
    installed = sorted(f"{d.name}=={d.version}" for d in metadata.distributions())
    shell = neutral_environment(os.environ)
    parts = {
        "schema": _SCHEMA,
        "grid": grid,
        "selector": subject.selector,
        "pure": subject.pure,
        "fork": subject.fork,
        "timeout": subject.timeout,
        "source": source,
        "tool": own,
        "installed": installed,
        "python": sys.version,
        "path": sys.path,
        "shell": {n: text for n, text in sorted(shell.items()) if n.startswith(_PREFIXES)},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _source_digest(selector: str, apart: AbstractSet[Path]) -> str | None:
    """Return a digest of all source that belongs to a selector: its package, or its folder."""
    place = selector.rpartition(":")[0]
    digest = hashlib.sha256()
    count = 0
    for root in _roots(place):
        for path in _sources(root):
            if path.resolve() in apart:
                continue
            count += 1
            if count > _MOST_FILES:
                return None
            try:
                content = path.read_bytes()
            except OSError:
                return None
            digest.update(f"{path}:{len(content)}:".encode())
            digest.update(content)
    return digest.hexdigest() if count else None


def _roots(place: str) -> list[Path]:
    if place.endswith(".py"):
        return [Path(place).resolve().parent]
    top = place.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    roots = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if top == "pytest_rocm_attn":
        for name in ("pytest_rocm_attn.backends", "pytest_rocm_attn.conformance"):
            inner = importlib.util.find_spec(name)
            roots += [Path(f) for f in (inner.submodule_search_locations if inner else None) or ()]
    if not roots and spec.origin:
        # A module next to others, which it may import.
        roots = [Path(spec.origin).parent]
    return list(dict.fromkeys(roots))


def _sources(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if f != "__pycache__" and not f.startswith("."))
        for name in sorted(files):
            if name.endswith((".py", ".so", ".toml", ".json")):
                yield Path(folder) / name
