"""Records: budgets, tables, JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_rocm_attn.dry_launch import Kernel, Launch, Launches, Rejection, table

FIGURES: dict[str, Any] = {
    "name": "attention",
    "gfx": "gfx1201",
    "compiler": "Triton 3.6.0",
    "lds_bytes": 32768,
    "lds_limit": 65536,
    "vgprs": 200,
    "agprs": 0,
    "sgprs": 40,
    "vgpr_spills": 3,
    "sgpr_spills": 1,
    "scratch_bytes": 16,
    "occupancy": 6,
    "matrix_instructions": {"v_wmma_f32_16x16x16_f16": 24},
    "code_bytes": 4096,
    "wavefront": 32,
    "waves": 4,
}


def launch(**changes: Any) -> Launch:
    own = {"kind": "launch", "grid": (8, 4, 1), "num_warps": 4, "num_stages": 2}
    return Launch(**{**FIGURES, **own, **changes})


def rejection(launched: Launch | None) -> Rejection:
    return Rejection(
        name="attention",
        gfx="gfx1201",
        compiler="Triton 3.6.0",
        kind="candidate",
        config={"BLOCK": 256, "num_warps": 8},
        error="OutOfResources: too much",
        launch=launched,
    )


def test_a_kernel_within_its_budgets_fits() -> None:
    launch().assert_fits()
    launch().assert_fits(
        lds_bytes=32768,
        vgprs=200,
        agprs=0,
        sgprs=40,
        spills=4,
        vgpr_spills=3,
        sgpr_spills=1,
        scratch_bytes=16,
        code_bytes=4096,
        occupancy=6,
    )


@pytest.mark.parametrize(
    ("budget", "value"),
    [
        ("lds_bytes", 32768),
        ("vgprs", 200),
        ("sgprs", 40),
        ("spills", 4),
        ("vgpr_spills", 3),
        ("sgpr_spills", 1),
        ("scratch_bytes", 16),
        ("code_bytes", 4096),
    ],
)
def test_one_over_a_budget_is_told_with_kernel_target_and_compiler(budget: str, value: int) -> None:
    with pytest.raises(AssertionError) as caught:
        launch().assert_fits(**{budget: value - 1})
    assert str(caught.value) == (
        f"attention on gfx1201 (Triton 3.6.0): {budget} is {value}, "
        f"the budget is at most {value - 1}"
    )


def test_agprs_have_a_budget_too() -> None:
    with pytest.raises(AssertionError, match="agprs is 32, the budget is at most 0"):
        launch(agprs=32).assert_fits(agprs=0)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(AssertionError) as caught:
        launch(lds_bytes=65792).assert_fits(vgprs=128, occupancy=8)
    assert str(caught.value) == (
        "attention on gfx1201 (Triton 3.6.0): it needs 65792 bytes of LDS of 65536; "
        "vgprs is 200, the budget is at most 128; "
        "occupancy is 6 waves per SIMD, the budget is at least 8"
    )


def test_an_unknown_occupancy_meets_no_budget() -> None:
    launch(occupancy=None).assert_fits()
    with pytest.raises(AssertionError, match="occupancy is unknown waves per SIMD"):
        launch(occupancy=None).assert_fits(occupancy=1)


def test_a_workgroup_that_finds_no_room_does_not_fit() -> None:
    assert launch().fits
    assert not launch(occupancy=0).fits
    assert not launch(lds_bytes=65537).fits
    with pytest.raises(AssertionError, match="not even one workgroup fits on the target$"):
        launch(occupancy=0).assert_fits()


def test_launches_are_a_sequence_without_candidates_and_refusals() -> None:
    launches = Launches("gfx942")
    for record in (launch(), launch(kind="candidate"), launch(kind="warmup"), rejection(None)):
        launches.add(record)
    assert [record.kind for record in launches] == ["launch", "warmup"]
    assert launches[-1].kind == "warmup" and len(launches[:1]) == 1
    assert [record.kind for record in launches.candidates] == ["candidate"]
    assert len(launches.rejected) == 1


def test_without_a_launch_nothing_fits() -> None:
    launches = Launches("gfx942")
    for check in (launches.assert_fits, launches.assert_fit):
        with pytest.raises(AssertionError, match="^no Triton kernel was launched on gfx942"):
            check(spills=0)
    launches.add(launch(kind="candidate"))
    with pytest.raises(AssertionError, match="no Triton kernel was launched"):
        launches.assert_fits()
    launches.add(launch(kind="warmup"))
    launches.assert_fits()


def test_a_refusal_fails_the_whole_block() -> None:
    launches = Launches("gfx942")
    launches.add(launch())
    launches.assert_fits(spills=4)
    with pytest.raises(AssertionError, match="spills is 4"):
        launches.assert_fits(spills=0)
    launches.add(rejection(None))
    with pytest.raises(AssertionError) as caught:
        launches.assert_fits()
    assert str(caught.value) == (
        "attention on gfx1201 (Triton 3.6.0) with BLOCK=256, num_warps=8: OutOfResources: too much"
    )


def test_the_table_has_a_row_per_launch_and_says_what_was_refused() -> None:
    launches = Launches("gfx942")
    launches.add(launch())
    launches.add(launch(kind="candidate", occupancy=None, matrix_instructions=None))
    launches.add(rejection(launch()))
    head, first, second, refused = launches.table().splitlines()
    assert head.split() == [
        "kernel",
        "gfx",
        "kind",
        "grid",
        "warps",
        "stages",
        "LDS",
        "VGPR",
        "AGPR",
        "SGPR",
        "spills",
        "scratch",
        "waves/SIMD",
        "matrix",
        "code",
        "compiler",
    ]
    assert first.split() == [
        "attention",
        "gfx1201",
        "launch",
        "8x4x1",
        "4",
        "2",
        "32768/65536",
        "200",
        "0",
        "40",
        "4",
        "16",
        "6",
        "24",
        "4096",
        "Triton",
        "3.6.0",
    ]
    assert second.split()[12:14] == ["unknown", "unknown"]
    assert refused == f"refused: {rejection(None)}"
    assert str(launches) == launches.table()


def test_kernels_that_were_never_launched_have_a_table_too() -> None:
    text = table([Kernel(**{**FIGURES, "compiler": "clang 22.1.8"})])
    assert text.splitlines()[1].split()[:6] == ["attention", "gfx1201", "-", "-", "-", "-"]
    assert text.endswith("clang 22.1.8")


def test_the_json_holds_every_field_and_survives_any_constexpr() -> None:
    launches = Launches("gfx942")
    launches.add(launch(constexprs={"BLOCK": 64, "DTYPE": complex(1, 2), "PAIR": (1, "a")}))
    launches.add(launch(kind="candidate"))
    launches.add(rejection(launch()))
    launches.add(rejection(None))

    read = json.loads(launches.json())

    assert read["schema"] == 1
    (first,) = read["launches"]
    assert {name: first[name] for name in FIGURES} == FIGURES
    assert first["fits"] is True and first["grid"] == [8, 4, 1]
    assert first["constexprs"] == {"BLOCK": 64, "DTYPE": "(1+2j)", "PAIR": [1, "a"]}
    assert [record["kind"] for record in read["candidates"]] == ["candidate"]
    assert read["rejected"][0]["config"] == {"BLOCK": 256, "num_warps": 8}
    assert read["rejected"][0]["launch"]["vgprs"] == 200
    assert read["rejected"][1]["launch"] is None
