"""Gpu: the facts of hardware.toml behind a name."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rocm_attn.errors import UnknownGpuError
from pytest_rocm_attn.gpu import Aiter, Amdsmi, Gpu, distinct_gpus, hardware, known_gpus


def test_the_targets_of_the_contract_and_of_rdna_are_known_in_order() -> None:
    assert known_gpus() == (
        "gfx906",
        "gfx908",
        "gfx90a",
        "gfx942",
        "gfx950",
        "gfx1030",
        "gfx1100",
        "gfx1101",
        "gfx1102",
        "gfx1103",
        "gfx1150",
        "gfx1151",
        "gfx1152",
        "gfx1153",
        "gfx1200",
        "gfx1201",
        "gfx1250",
    )


@pytest.mark.parametrize("gfx", known_gpus())
def test_gfx9_means_the_three_targets_of_the_contract(gfx: str) -> None:
    assert Gpu(gfx).is_gfx9 is (gfx in ("gfx90a", "gfx942", "gfx950"))


@pytest.mark.parametrize("gfx", known_gpus())
def test_every_target_has_the_facts_that_the_mock_and_the_kernels_ask_for(gfx: str) -> None:
    gpu = Gpu(gfx)
    assert gpu.family
    assert gpu.wavefront in (32, 64)
    assert gpu.lds_bytes % 1024 == 0
    major, minor = gpu.compute_capability
    assert gfx.startswith(f"gfx{major}{minor}")


@pytest.mark.parametrize(
    ("gfx", "family", "wavefront", "lds_kib", "capability", "fp8"),
    [
        ("gfx90a", "CDNA2", 64, 64, (9, 0), "float8_e4m3fn"),
        ("gfx942", "CDNA3", 64, 64, (9, 4), "float8_e4m3fnuz"),
        ("gfx950", "CDNA4", 64, 160, (9, 5), "float8_e4m3fn"),
        ("gfx1100", "RDNA3", 32, 64, (11, 0), "float8_e4m3fn"),
        ("gfx1201", "RDNA4", 32, 64, (12, 0), "float8_e4m3fn"),
    ],
)
def test_facts_of_well_known_targets(
    gfx: str, family: str, wavefront: int, lds_kib: int, capability: tuple[int, int], fp8: str
) -> None:
    gpu = Gpu(gfx)
    assert (gpu.family, gpu.wavefront, gpu.lds_bytes) == (family, wavefront, lds_kib * 1024)
    assert (gpu.compute_capability, gpu.fp8_dtype) == (capability, fp8)


def test_an_unknown_target_is_told_the_nearest_and_all() -> None:
    with pytest.raises(UnknownGpuError) as caught:
        Gpu("gfx94")
    assert str(caught.value) == (
        f"unknown GPU 'gfx94'. Did you mean 'gfx942' or 'gfx950'? Known: {', '.join(known_gpus())}"
    )


def test_aiter_is_there_unless_said_otherwise_and_its_state_is_checked() -> None:
    named: Any = str  # a caller without types gives the name
    assert Gpu("gfx942").aiter is Aiter.PRESENT
    assert Gpu("gfx942", named("impostor")).aiter is Aiter.IMPOSTOR
    assert [state.value for state in Aiter] == ["present", "absent", "broken", "impostor"]
    with pytest.raises(ValueError, match="'maybe' is not a valid Aiter"):
        Gpu("gfx942", named("maybe"))


def test_amdsmi_is_whole_unless_said_otherwise_and_its_state_is_checked() -> None:
    assert Gpu("gfx942").amdsmi is Amdsmi.WHOLE
    assert Gpu("gfx942", amdsmi="empty").amdsmi is Amdsmi.EMPTY  # type: ignore[arg-type]  # a caller may be untyped
    assert [state.value for state in Amdsmi] == ["whole", "empty", "broken", "absent"]
    with pytest.raises(ValueError, match="'maybe' is not a valid Amdsmi"):
        Gpu("gfx942", amdsmi="maybe")  # type: ignore[arg-type]  # as above


def test_gpus_are_equal_by_name_and_the_state_of_packages() -> None:
    assert Gpu("gfx942") == Gpu("gfx942", Aiter.PRESENT)
    assert len({Gpu("gfx942"), Gpu("gfx942"), Gpu("gfx950"), Gpu("gfx942", Aiter.ABSENT)}) == 3
    assert Gpu("gfx942") != Gpu("gfx942", amdsmi=Amdsmi.EMPTY)
    assert repr(Gpu("gfx942")) == (
        "Gpu(gfx='gfx942', aiter=<Aiter.PRESENT: 'present'>, amdsmi=<Amdsmi.WHOLE: 'whole'>)"
    )


def test_a_fact_that_is_not_recorded_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Gpu("gfx942").fact("colour")


def test_every_fact_has_a_source_that_is_declared() -> None:
    sources = set(hardware()["sources"])
    facts = [
        (target, name, fact)
        for target, table in hardware()["target"].items()
        for name, fact in table.items()
        if isinstance(fact, dict) and "v" in fact
    ]
    assert facts
    for target, name, fact in facts:
        cited = fact["s"] if isinstance(fact["s"], list) else [fact["s"]]
        assert set(cited) <= sources, (target, name)


@pytest.mark.parametrize("gfx", known_gpus())
def test_each_product_that_hardware_toml_lists_stands_for_its_target(gfx: str) -> None:
    for product in hardware()["target"][gfx].get("product", ()):
        assert Gpu(product["name"]) == Gpu(product["name"].partition(" (")[0]) == Gpu(gfx)


@pytest.mark.parametrize(
    ("name", "gfx"),
    [
        ("MI300X", "gfx942"),
        ("mi-355x", "gfx950"),
        ("AMD Instinct MI210", "gfx90a"),
        ("AMD_Instinct_MI300X", "gfx942"),
        ("RX 7900 XTX", "gfx1100"),
        ("7900xtx", "gfx1100"),
        ("Radeon 8060S", "gfx1151"),
        ("MI50", "gfx906"),
    ],
)
def test_a_product_is_known_by_the_names_that_people_write(name: str, gfx: str) -> None:
    assert Gpu(name).gfx == gfx


@pytest.mark.parametrize("name", ["32GB", "XT", "Radeon", "Instinct", "MI", "", "MI300", "gfx94"])
def test_what_is_no_name_of_one_target_is_refused(name: str) -> None:
    with pytest.raises(UnknownGpuError, match=f"^unknown GPU '{name}'.*Known: gfx906"):
        Gpu(name)


@pytest.mark.parametrize(
    ("product", "gfx", "family"),
    [
        ("RX 7600", "gfx1102", "RDNA3"),
        ("Radeon 780M", "gfx1103", "RDNA3"),
        ("Radeon 860M", "gfx1152", "RDNA3.5"),
        ("820M", "gfx1153", "RDNA3.5"),
    ],
)
def test_the_smaller_parts_of_a_generation_stand_for_themselves_and_answer_as_another(
    product: str, gfx: str, family: str
) -> None:
    gpu = Gpu(product)
    assert (gpu.gfx, gpu.family, gpu.note) == (gfx, family, "")
    assert gpu.stands_for in distinct_gpus()
    assert Gpu(gpu.stands_for).compute_capability == gpu.compute_capability
    # Without the larger register file (LLVM, Feature1_5xVGPRs) of gfx1100, gfx1101 and gfx1151.
    assert (gpu.fact("vgprs_per_simd_lane"), gpu.fact("vgpr_file_kib")) == (1024, 512)


def test_the_targets_that_releases_tell_apart_are_those_of_the_recorded_grid() -> None:
    assert set(known_gpus()) - set(distinct_gpus()) == {"gfx1102", "gfx1103", "gfx1152", "gfx1153"}


@pytest.mark.parametrize(
    ("gfx", "near", "like"),
    [
        ("gfx1104", "gfx1103", "gfx1101"),
        ("gfx1154", "gfx1153", "gfx1150"),
        ("gfx1202", "gfx1201", "gfx1201"),
        ("gfx1031", "gfx1030", "gfx1030"),
        ("gfx940", "gfx942", "gfx942"),
        ("gfx1251", "gfx1250", "gfx1250"),
    ],
)
def test_an_undescribed_target_of_a_known_generation_derives_from_its_nearest(
    gfx: str, near: str, like: str
) -> None:
    gpu = Gpu(gfx)
    assert (gpu.gfx, gpu.family, gpu.stands_for) == (gfx, Gpu(near).family, like)
    assert gpu.lds_bytes == Gpu(near).lds_bytes
    assert gpu.note.startswith(
        f"{gfx} is not described; what its generation shares is that of {near}"
    )
    for unknown in ("compute units", "memory", "caches"):
        assert unknown in gpu.note
    with pytest.raises(KeyError):
        gpu.fact("gcn_arch_name")


@pytest.mark.parametrize("name", ["gfx90c", "gfx1010", "gfx1300", "gfx94", "gfx1104:xnack-", "gfx"])
def test_a_target_whose_generation_is_not_known_or_not_one_is_refused(name: str) -> None:
    with pytest.raises(UnknownGpuError, match=f"unknown GPU {name!r}"):
        Gpu(name)
