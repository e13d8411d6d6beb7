"""The origin of the selector under test: distribution, version, commit and date.

Read off files next to its code, so that nothing is imported; git is asked about a checkout.
"""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

_COMMIT = re.compile(r"^__commit_id__ = .*'g?([0-9a-f]{7,40})'", re.MULTILINE)  # setuptools-scm
_GIT_LIMIT = 5  # seconds


def of(spec: str) -> dict[str, Any]:
    """Return what is under test, as the report's ``selector``; None for what is not known.

    Args:
        spec: ``module:object`` or ``file.py:object``.

    Returns: name, distribution, version, commit, and date: of the commit, or if there is no
        checkout, when the distribution was installed.
    """
    place = spec.rpartition(":")[0]
    folder = Path(place).resolve().parent if place.endswith(".py") else _package(place)
    found = _distribution(place.partition(".")[0], folder) if not place.endswith(".py") else None
    commit, date = _checkout(folder) if folder is not None else (None, None)
    if commit is None and folder is not None:
        commit = _built_from(folder)
    return {
        "name": spec,
        "distribution": found.name if found is not None else None,
        "version": found.version if found is not None else None,
        "commit": commit,
        "date": date or (_installed(found) if found is not None else None),
    }


def _package(module: str) -> Path | None:
    """Return the folder of a module's package, or that which a lone module is in."""
    spec = PathFinder.find_spec(module.partition(".")[0])
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin).parent if spec.origin else None


def _distribution(top: str, folder: Path | None) -> metadata.Distribution | None:
    """Return the distribution that a package is of: one next to it, else any that lists it."""
    if folder is not None:
        nearby = list(metadata.distributions(path=[str(folder.parent)]))
        alike = [one for one in nearby if _plain(one.name) == _plain(top)]
        listing = (one for one in nearby if top in (one.read_text("top_level.txt") or "").split())
        if found := next(iter(alike), None) or next(listing, None):
            return found
    try:  # an editable install lies elsewhere
        return metadata.distribution(top)
    except metadata.PackageNotFoundError:
        owners = metadata.packages_distributions().get(top, [])
        return metadata.distribution(owners[0]) if owners else None


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _checkout(folder: Path) -> tuple[str | None, str | None]:
    """Return the commit and its date if the code is part of a git checkout."""
    code = next(iter(sorted(folder.glob("*.py"))), None)
    if code is None or not _git(folder, "ls-files", "--error-unmatch", code.name):
        return None, None
    commit, _, date = _git(folder, "log", "-1", "--format=%H %cs").strip().partition(" ")
    return commit or None, date or None


def _git(folder: Path, *command: str) -> str:
    """Return what git says; "" if there is none, or nothing to say."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *command],
            capture_output=True,
            text=True,
            timeout=_GIT_LIMIT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _built_from(folder: Path) -> str | None:
    """Return the commit that setuptools-scm wrote into a package when it was built."""
    try:
        found = _COMMIT.search((folder / "_version.py").read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return found[1] if found else None


def _installed(of_: metadata.Distribution) -> str | None:
    record = of_.locate_file("")
    folder = Path(str(record))
    infos = [*folder.glob(f"{of_.name.replace('-', '_')}-*.dist-info/METADATA")]
    if not infos:
        return None
    return datetime.fromtimestamp(infos[0].stat().st_mtime, UTC).date().isoformat()
