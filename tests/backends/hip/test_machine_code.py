"""The HIP decode as clang's machine code, on the emulator: numerics cases on each target."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

SUBJECTS = Path(__file__).with_name("machine_code_backend.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("clang-22") is None, reason="no clang-22 on PATH"),
]


@pytest.mark.parametrize(
    ("gfx", "name"),
    [
        *((gfx, "Matrix") for gfx in ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")),
        ("gfx942", "Plain"),
    ],
)
def test_every_case_that_the_hip_kernel_serves_is_right(
    pytester: pytest.Pytester, gfx: str, name: str
) -> None:
    pytester.runpytest_subprocess(
        *("--rocm-attn-conformance", "--rocm-attn-tier=numerics", "--rocm-attn-report=r.json"),
        f"--rocm-attn-backends={name}={SUBJECTS}:{name}",
        *(f"--rocm-attn-emulate={gfx}", "-k", "not drawn and not large and not huge"),
    )
    report = json.loads((pytester.path / "r.json").read_text())
    rows = report["rows"]
    assert {row["evidence"] for row in rows} == {"emulated"}
    assert len(rows) > 25
    assert {row["id"]: row["message"] for row in rows if row["verdict"] != "pass"} == {}
