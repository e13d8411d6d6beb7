"""Record the shipped baselines from unpacked, unmodified vLLM releases. Not part of the package.

    python tools/record_baselines.py [RELEASE ...] [--releases FOLDER] [--output FOLDER]

FOLDER/RELEASE holds the unpacked wheel of a release, FOLDER/SHA256SUMS the checksums of the wheels.
The Python that runs this needs vLLM's light dependencies (docs/real-vllm-requirements.txt).
Recording a release again gives the same bytes.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from pytest_rocm_attn.conformance.baseline.baseline import render
from pytest_rocm_attn.conformance.baseline.recording import record, source_of
from pytest_rocm_attn.conformance.baseline.recording_command import subject_of, write
from pytest_rocm_attn.conformance.promise.grid.design import standard

RELEASES = (
    "0.11.2",
    "0.12.0",
    "0.13.0",
    "0.14.1",
    "0.16.0",
    "0.18.1",
    "0.22.1",
    "0.29.0",
    "0.33.0",
)
SELECTOR = "vllm.platforms.rocm:RocmPlatform"
SHIPPED = Path(__file__).parent.parent / "conformance" / "baselines"


def wheel_of(release: str, sums: Path) -> dict[str, str]:
    """Return {name of the wheel: "sha256:..."} as the file of checksums has it."""
    for line in sums.read_text("utf-8").splitlines():
        checksum, _, path = line.partition("  ")
        if Path(path).name.startswith(f"vllm-{release}-"):
            return {Path(path).name: f"sha256:{checksum}"}
    raise SystemExit(f"{sums}: no wheel of vLLM {release}; add its line")


def record_one(release: str, releases: Path, output: Path) -> None:
    """Record one release; the folder of its wheel is on the import path already."""
    grid = standard()
    found = record(
        subject_of(SELECTOR, timeout=120.0),
        grid,
        baseline_id=f"vllm-{release}",
        sources=wheel_of(release, releases / "SHA256SUMS") | source_of(SELECTOR),
    )
    if (found.distribution, found.version) != ("vllm", release):
        raise SystemExit(f"{releases / release} holds {found}, and not vllm {release}")
    write(output / f"{found.id}.json", render(found, grid))


def main() -> None:
    """Record the releases named, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("release", nargs="*", default=RELEASES)
    parser.add_argument("--releases", type=Path, default=Path("/work/vllm"))
    parser.add_argument("--output", type=Path, default=SHIPPED)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for release in arguments.release:
        if not re.fullmatch(r"\d+(\.\d+)+", release) or not (arguments.releases / release).is_dir():
            parser.error(f"{arguments.releases / release} is not the folder of an unpacked release")
        if arguments.here:
            record_one(release, arguments.releases, arguments.output)
            continue
        path = os.pathsep.join(
            [str(arguments.releases / release), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        command = [sys.executable, __file__, release, "--here", "--output", str(arguments.output)]
        command += ["--releases", str(arguments.releases)]
        subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=True)
        print(f"recorded vLLM {release}", flush=True)


if __name__ == "__main__":
    main()
