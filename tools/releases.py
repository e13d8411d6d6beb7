"""Releases of vLLM: fetch their Python files, and find those that the suite does not know.

    python tools/releases.py fetch VERSION... FOLDER    unpack each into FOLDER/VERSION
    python tools/releases.py fetch --all FOLDER         the same for every release of backends/releases.py
    python tools/releases.py unknown [--index FILE]     print each minor release that it does not list

`fetch` takes wheels from the index that pip is set up for, and leaves out compiled files; its exit status is
75 if pip cannot download one. `unknown` reads https://pypi.org/pypi/vllm/json, or a file with such content.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

INDEX = "https://pypi.org/pypi/vllm/json"
UNREACHED = 75  # EX_TEMPFAIL of sysexits.h: .ci/run counts such a step as skipped
_FINAL = re.compile(r"\d+\.\d+\.\d+")


def known() -> tuple[str, ...]:
    """Return the releases that the suite knows: the newest patch of each minor version."""
    from pytest_rocm_attn.backends.releases import RELEASES

    return RELEASES


def _minor(release: str) -> tuple[int, int]:
    major, minor, *_ = release.split(".")
    return int(major), int(minor)


def unknown(index: dict[str, object], releases: tuple[str, ...]) -> list[str]:
    """Return the newest release of each minor version that comes after all known ones.

    Args:
        index: the content of the index's JSON page.
        releases: those that are known.
    """
    listed = index["releases"]
    assert isinstance(listed, dict)
    last = max(map(_minor, releases))
    newest: dict[tuple[int, int], str] = {}
    for release, files in listed.items():
        yanked = all(file.get("yanked") for file in files)
        if _FINAL.fullmatch(release) and not yanked and _minor(release) > last:
            order = [int(part) for part in release.split(".")]
            before = newest.get(_minor(release))
            if before is None or order > [int(part) for part in before.split(".")]:
                newest[_minor(release)] = release
    return [newest[minor] for minor in sorted(newest)]


def fetch(release: str, folder: Path) -> Path:
    """Unpack the Python files of a release into FOLDER/RELEASE, unless they are there; return it.

    Raises:
        subprocess.CalledProcessError: pip did not find its wheel.
    """
    target = folder / release
    if (target / "vllm").is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", cache, f"vllm=={release}"]
        subprocess.run(command, check=True)
        [wheel] = Path(cache).glob("*.whl")
        unpacked = Path(cache, release)
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if not name.endswith(".so")]
            archive.extractall(unpacked, names)
        unpacked.replace(target)  # whole, or not at all
    return target


def main(words: list[str]) -> int:
    """Do what the command line asks; return the exit code."""
    parser = argparse.ArgumentParser(description="Releases of vLLM.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetching = commands.add_parser("fetch", help="unpack releases")
    fetching.add_argument("releases", nargs="*", metavar="VERSION")
    fetching.add_argument("folder", type=Path, metavar="FOLDER")
    fetching.add_argument("--all", action="store_true", help="every release that is known")
    finding = commands.add_parser("unknown", help="print minor releases that are not known")
    finding.add_argument("--index", type=Path, metavar="FILE")
    arguments = parser.parse_args(words)
    if arguments.command == "fetch":
        for release in (*arguments.releases, *(known() if arguments.all else ())):
            try:
                print(fetch(release, arguments.folder), flush=True)
            except subprocess.CalledProcessError:
                print(
                    f"SKIPPED: pip cannot download vllm=={release}; is the package index reachable?",
                    file=sys.stderr,
                )
                return UNREACHED
        return 0
    if arguments.index is not None:
        content = arguments.index.read_bytes()
    else:
        with urllib.request.urlopen(INDEX, timeout=60) as page:
            content = page.read()
    for release in unknown(json.loads(content), known()):
        print(release)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
