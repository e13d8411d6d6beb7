"""Record the shipped baselines from unpacked, unmodified vLLM releases. Not part of the package.

    python tools/record_baselines.py [RELEASE ...] [--releases FOLDER] [--output FOLDER]

FOLDER/RELEASE holds the unpacked wheel of a release, FOLDER/SHA256SUMS the checksums of the wheels.
The Python that runs this needs vLLM's light dependencies (docs/real-vllm-requirements.txt).
Recording a release again gives the same bytes. With --only, the other families are taken from the
file that exists, if the grid still has them as they were recorded: for a grid that has grown.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rocm_attn.backends.releases import RELEASES
from pytest_rocm_attn.conformance.baseline.baseline import Baseline, load, render
from pytest_rocm_attn.conformance.baseline.recording import record, source_of
from pytest_rocm_attn.conformance.baseline.recording_command import subject_of, write
from pytest_rocm_attn.conformance.promise.grid.design import standard
from pytest_rocm_attn.conformance.promise.grid.space import Grid

if TYPE_CHECKING:
    from collections.abc import Collection

    from pytest_rocm_attn.conformance.promise.grid.outcomes import Table

SELECTOR = "vllm.platforms.rocm:RocmPlatform"
SHIPPED = Path(__file__).parent.parent / "conformance" / "baselines"


def wheel_of(release: str, sums: Path) -> dict[str, str]:
    """Return {name of the wheel: "sha256:..."} as the file of checksums has it."""
    for line in sums.read_text("utf-8").splitlines():
        checksum, _, path = line.partition("  ")
        if Path(path).name.startswith(f"vllm-{release}-"):
            return {Path(path).name: f"sha256:{checksum}"}
    raise SystemExit(f"{sums}: no wheel of vLLM {release}; add its line")


def earlier(file: Path, grid: Grid) -> Baseline:
    """Return a recording of the families that this grid had at that time, unchanged since."""
    names = json.loads(file.read_bytes())["families"]
    then = Grid(grid.name, tuple(family for family in grid.families if family.name in names))
    found = load(str(file), then)
    found.require(then)  # by its digest: the families are those that were recorded
    return found


def record_one(release: str, releases: Path, output: Path, only: Collection[str] = ()) -> None:
    """Record one release; the folder of its wheel is on the import path already."""
    grid = standard()
    file = output / f"vllm-{release}.json"
    there: dict[str, Table] = {}
    if only:
        before = earlier(file, grid)
        there = {name: table for name, table in before.tables.items() if name not in only}
        sources = before.sources
        if not source_of(SELECTOR).items() <= sources.items():
            raise SystemExit(f"{releases / release} is not what {file} was recorded from")
    else:
        sources = wheel_of(release, releases / "SHA256SUMS") | source_of(SELECTOR)
    found = record(
        subject_of(SELECTOR, timeout=120.0),
        Grid(grid.name, tuple(one for one in grid.families if one.name not in there)),
        baseline_id=file.stem,
        sources=sources,
    )
    found = replace(found, tables={**there, **found.tables})
    if (found.distribution, found.version) != ("vllm", release):
        raise SystemExit(f"{releases / release} holds {found}, and not vllm {release}")
    write(file, render(found, grid))


def main() -> None:
    """Record the releases named, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("release", nargs="*", default=tuple(RELEASES))
    parser.add_argument("--releases", type=Path, default=Path("/work/vllm"))
    parser.add_argument("--output", type=Path, default=SHIPPED)
    parser.add_argument("--only", nargs="*", default=[], help="families of the grid to record")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for release in arguments.release:
        if not re.fullmatch(r"\d+(\.\d+)+", release) or not (arguments.releases / release).is_dir():
            parser.error(f"{arguments.releases / release} is not the folder of an unpacked release")
        if arguments.here:
            record_one(release, arguments.releases, arguments.output, arguments.only)
            continue
        path = os.pathsep.join(
            [str(arguments.releases / release), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        command = [sys.executable, __file__, release, "--here", "--output", str(arguments.output)]
        command += ["--releases", str(arguments.releases), "--only", *arguments.only]
        subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=True)
        print(f"recorded vLLM {release}", flush=True)


if __name__ == "__main__":
    main()
