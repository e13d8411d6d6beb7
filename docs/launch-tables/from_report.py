"""Tabulate the launch tier's report: what each kernel takes of each target.

python -m pytest --rocm-attn-conformance --rocm-attn-tier=launch --rocm-attn-report=launch.json
python docs/launch-tables/from_report.py launch.json > docs/launch-tables/reference-triton-3.6.0.md

Several reports, of a part of the targets or backends each, make one table.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COLUMNS = {
    "tile": lambda launch: _tile(launch["constexprs"]),
    "warps": lambda launch: launch["num_warps"],
    "stages": lambda launch: launch["num_stages"],
    "LDS": lambda launch: f"{launch['lds_bytes']:,} of {launch['lds_limit']:,}",
    "VGPRs": lambda launch: launch["vgprs"],
    "of them AGPRs": lambda launch: launch["agprs"],
    "VGPR spills": lambda launch: launch["vgpr_spills"],
    "SGPR spills": lambda launch: launch["sgpr_spills"],
    "scratch": lambda launch: launch["scratch_bytes"],
    "waves/SIMD": lambda launch: "?" if launch["occupancy"] is None else launch["occupancy"],
    "matrix instructions": lambda launch: _matrix(launch["matrix_instructions"] or {}),
    "beyond 2 GiB": lambda launch: beyond_2_gib(launch),
}
HEAD = """\
# Launch table of the launch tier: {backends}

{compiler}, {date}. From the launch tier's report (`docs/launch-tables/from_report.py`). Evidence:
launch: compiled and checked under the mocked platform, not executed; no AMD GPU was there. LDS and
scratch in bytes, scratch per work-item; a spilled SGPR goes to a lane of a vector register, not to
memory. VGPRs as allocated, AGPRs included where the register file is unified. Beyond 2 GiB: the
pointers whose storage is larger, which Triton's AMD backend addresses with 64 bits.
"""


def _tile(constants: dict[str, Any]) -> str:
    """Return the block sizes, largest dimension names first, as the kernel calls them."""
    blocks = {name: size for name, size in constants.items() if name.startswith("BLOCK_")}
    return " ".join(f"{name.removeprefix('BLOCK_')}={size}" for name, size in blocks.items())


def _matrix(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def beyond_2_gib(launch: dict[str, Any]) -> str:
    """Return the pointers that were compiled without the promise of a storage of at most 2 GiB."""
    pointers = [name for name, kind in launch["signature"].items() if str(kind).startswith("*")]
    known = launch["attributes"]
    large = [name for name in pointers if "tt.pointer_range" not in known.get(name, {})]
    return ", ".join(f"`{name}`" for name in large) or "none"


def document(*reports: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the page; a cell that several reports hold is shown as the last has it."""
    found = {
        (row["id"], row["gpu"]["gfx"]): row
        for report in reports
        for row in report["rows"]
        if row["tier"] == "launch"
    }
    rows = [found[key] for key in sorted(found)]
    if not rows:
        raise SystemExit("the report holds no row of the launch tier; run --rocm-attn-tier=launch")
    launches = [launch for row in rows for launch in row["details"]["launches"]]
    yield HEAD.format(
        backends=", ".join(sorted({row["details"]["backend"]["name"] for row in rows})),
        compiler=", ".join(sorted({launch["compiler"] for launch in launches})),
        date=datetime.datetime.now(datetime.UTC).date(),
    )
    for name in dict.fromkeys(row["id"] for row in rows):
        mine = [row for row in rows if row["id"] == name]
        yield f"## {name.replace('::', ', ')}\n"
        yield f"| gfx | kernel | {' | '.join(COLUMNS)} |"
        yield f"| --- | --- |{' --- |' * len(COLUMNS)}"
        for row in mine:
            for launch in row["details"]["launches"]:
                cells = [str(cell(launch)) for cell in COLUMNS.values()]
                yield f"| {row['gpu']['gfx']} | `{launch['name']}` | {' | '.join(cells)} |"
        for row in mine:
            if row["verdict"] != "pass":
                yield f"\n{row['gpu']['gfx']}, {row['verdict']}: {row['message']}"
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, nargs="+", help="JSON report with the launch tier")
    reports = (json.loads(path.read_text()) for path in parser.parse_args().report)
    print("\n".join(document(*reports)).rstrip("\n"))


if __name__ == "__main__":
    main()
