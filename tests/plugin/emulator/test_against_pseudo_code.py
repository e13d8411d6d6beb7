"""Handlers against AMD's own pseudo-code, which tinygrad's wheel carries, on random bits and edges.

tinygrad is a test-only dependency; without it these tests are skipped.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pytest_rocm_attn.emulator.alu import ALU
from pytest_rocm_attn.emulator.compare import RELATIONS
from pytest_rocm_attn.emulator.names import renamed
from pytest_rocm_attn.emulator.scalar import SALU

spec = importlib.util.find_spec("tinygrad")
if spec is None:
    pytest.skip("needs tinygrad, for AMD's pseudo-code", allow_module_level=True)
_interpreter = importlib.util.spec_from_file_location(
    "pseudo_code", Path(__file__).with_name("pseudo_code.py")
)
assert _interpreter is not None and _interpreter.loader is not None
pseudo_code: Any = importlib.util.module_from_spec(_interpreter)
import sys

sys.modules["pseudo_code"] = pseudo_code
_interpreter.loader.exec_module(pseudo_code)

FAMILIES = ("cdna", "rdna3", "rdna4")
EDGES = {
    "16": [0, 1, 0x8000, 0x7FFF, 0xFFFF, 0x3C00, 0xBC00, 0x7C00, 0xFC00, 0x7E00, 0x03FF, 0x0400, 17],
    "32": [0, 1, 0x80000000, 0x7FFFFFFF, 0xFFFFFFFF, 31, 32, 33, 0x3F800000, 0xBF800000, 0x7F800000,
           0xFF800000, 0x7FC00000, 0x007FFFFF, 0x00800000, 0x4F000000, 0xCF000000, 0x0000FF00],
    "64": [0, 1, 1 << 63, (1 << 63) - 1, (1 << 64) - 1, 63, 0x3FF0000000000000, 0x7FF0000000000000,
           0x7FF8000000000000, 0xBFE0000000000000, 1 << 32, 0x000FFFFFFFFFFFFF],
}  # fmt: skip
# Where the guide's text is known to be at odds with the hardware or with itself, and why.
EXCEPT = {
    **dict.fromkeys(("v_ldexp_f32", "v_ldexp_f16", "v_ldexp_f64"), "2.0 ** S1 overflows there"),
    **dict.fromkeys(("v_sin_f32", "v_cos_f32"), "their argument is not reduced to one turn there"),
    "v_frexp_exp_i32_f32": "the exponent of zero and of denormals is not defined there",
    "v_pack_b32_f16": "the interpreter of pseudo-code keeps no payload of a NaN",
    "s_cvt_f16_f32": "the interpreter of pseudo-code keeps no payload of a NaN",
    **dict.fromkeys(
        ("v_rndne_f32", "v_rndne_f16", "v_rndne_f64", "s_rndne_f32"),
        "the sign of a zero is lost there",
    ),
    "s_movk_i32": "its immediate has been sign-extended when the operation sees it",
}


@functools.cache
def codes(family: str) -> dict[str, str]:
    """Return the pseudo-code of a family's instructions, by gfx9's mnemonic."""
    module = importlib.import_module(f"tinygrad.runtime.autogen.amd.{family}.str_pcode")
    found: dict[str, str] = {}
    for table in (value for value in vars(module).values() if isinstance(value, dict)):
        for key, text in table.items():
            name = re.sub(r"_e32$|_e64$|_dpp$|_sdwa$", "", str(getattr(key, "name", key)).lower())
            found.setdefault(renamed(name), text)
    return found


def samples(kinds: tuple[str, ...], seed: int) -> Iterator[tuple[int, ...]]:
    """Yield bits for each source: edges against edges in turn, then random ones."""
    random = np.random.default_rng(seed)
    edges = [EDGES[kind[1:]] for kind in kinds]
    for number in range(40):
        yield tuple(
            edge[(number * (3 * place + 1) + place * (number // 7)) % len(edge)]
            for place, edge in enumerate(edges)
        )
    for _ in range(30):
        yield tuple(int(random.integers(0, 1 << int(kind[1:]), dtype=np.uint64)) if kind[1:] != "64"
                    else int(random.integers(0, (1 << 64) - 1, dtype=np.uint64, endpoint=True))
                    for kind in kinds)  # fmt: skip


def computed(operation: Any, bits: tuple[int, ...]) -> tuple[int, Any]:
    """Return what a handler makes of the bits of its sources."""
    arrays = []
    for value, kind in zip(bits, operation.sources, strict=True):
        width = int(kind[1:]) // 8
        raw = np.array([[value]], f"u{width}")
        arrays.append(raw.view(f"{kind[0]}{width}"))
    with np.errstate(all="ignore"):
        result = np.asarray(operation.compute(*arrays))
        width = int(operation.result[1:]) // 8
        result = result.astype(f"{operation.result[0]}{width}")
        scc = None
        if getattr(operation, "scc", None) is not None:
            scc = bool(np.asarray(operation.scc(result, *arrays)).ravel()[0])
        return int(result.view(f"u{width}").ravel()[0]), scc


def expected(text: str, bits: tuple[int, ...], operation: Any, accumulates: bool) -> Any:
    """Return D0's bits and SCC by the pseudo-code."""
    variables = {}
    names = [f"S{i}" for i in range(len(bits))]
    if accumulates:
        names[-1] = "D0"
    if "SIMM32" in text:
        last = re.search(r",\s*SIMM32[.\w]*\s*\)", text) is not None
        names = ["S0", "S1", "SIMM32"] if last else ["S0", "SIMM32", "S1"]
    for name, value, kind in zip(names, bits, operation.sources, strict=True):
        variables[name] = pseudo_code.Value(value, "b", max(32, int(kind[1:])))
    variables["SCC"] = pseudo_code.FALSE
    after = pseudo_code.run(text, variables)
    width = int(operation.result[1:])
    return after["D0"].bits & (1 << width) - 1, bool(after["SCC"])


def same(got: int, wanted: int, kind: str) -> bool:
    """Whether two results are the same: NaN is NaN; an elementary function may be an ulp off."""
    if got == wanted:
        return True
    if kind[0] != "f":
        return False
    form = {"f16": "<e", "f32": "<f", "f64": "<d"}[kind]
    x, y = (
        struct.unpack(form, bits.to_bytes(int(kind[1:]) // 8, "little"))[0]
        for bits in (got, wanted)
    )
    if math.isnan(x) and math.isnan(y):
        return True
    return abs(got - wanted) <= 1 and x != 0 and y != 0


def test_every_arithmetic_handler_does_what_the_guides_say() -> None:
    """All at once: what agrees, what the interpreter of pseudo-code cannot read, what differs."""
    agree: set[str] = set()
    unread: dict[str, str] = {}
    differ: list[str] = []
    tables: dict[str, Any] = {**ALU, **SALU}
    for name, operation in tables.items():
        texts = {family: codes(family)[name] for family in FAMILIES if name in codes(family)}
        for family, text in texts.items():
            try:
                for bits in samples(operation.sources, seed=len(name)):
                    wanted, scc = expected(
                        text, bits, operation, getattr(operation, "accumulates", False)
                    )
                    got, got_scc = computed(operation, bits)
                    right = same(got, wanted, operation.result)
                    right = right and (got_scc is None or got_scc == scc)
                    if not right and name not in EXCEPT:
                        sources = [hex(one) for one in bits]
                        differ.append(
                            f"{name} on {family} of {sources}: {got:#x} {got_scc}, wanted"
                            f" {wanted:#x} {scc}"
                        )
                        break
                else:
                    agree.add(name)
            except (pseudo_code.Unreadable, KeyError, ZeroDivisionError, OverflowError) as error:
                unread.setdefault(name, f"{type(error).__name__}: {error}")
    assert not differ, "\n".join(differ)
    tried = agree | set(EXCEPT)
    assert len(tried) > 0.95 * len(tables), {name: unread.get(name) for name in set(tables) - tried}


def test_every_comparison_does_what_the_guides_say() -> None:
    tried = 0
    for family in FAMILIES:
        for name, text in codes(family).items():
            match = re.fullmatch(r"v_cmp_(\w+?)_([uif](?:16|32|64))", name)
            if match is None or match[1] not in RELATIONS:
                continue
            width = int(match[2][1:])
            for bits in samples((match[2], match[2]), seed=width):
                variables = {
                    "S0": pseudo_code.Value(bits[0], "b", width),
                    "S1": pseudo_code.Value(bits[1], "b", width),
                    "D0": pseudo_code.Value(0, "b", 64),
                    "laneId": pseudo_code.Value(0, "i", 32),
                }
                wanted = bool(pseudo_code.run(text, variables)["D0"].bits & 1)
                pair = [
                    np.array([one], f"u{width // 8}").view(f"{match[2][0]}{width // 8}")
                    for one in bits
                ]
                got = bool(RELATIONS[match[1]](*pair)[0])
                assert got == wanted, (family, name, [hex(one) for one in bits])
            tried += 1
    assert tried > 100


# Instructions that are more than a function of arrays, as text: they write v[10:11], read v[2:3] and on.
# (text, what the pseudo-code calls it, type of each source, bits of the result)
EXECUTED = [
    *((f"v_pk_{name} v10, v2, v4", f"v_pk_{name}", ("u32", "u32"), 32)
      for name in ("add_u16", "sub_u16", "mul_lo_u16", "max_u16", "min_u16", "max_i16", "min_i16",
                   "lshlrev_b16", "lshrrev_b16", "ashrrev_i16", "add_f16", "mul_f16")),
    ("v_pk_mad_u16 v10, v2, v4, v6", "v_pk_mad_u16", ("u32",) * 3, 32),
    ("v_pk_fma_f16 v10, v2, v4, v6", "v_pk_fma_f16", ("u32",) * 3, 32),
    ("v_pk_add_f32 v[10:11], v[2:3], v[4:5]", "v_pk_add_f32", ("u64", "u64"), 64),
    ("v_pk_mul_f32 v[10:11], v[2:3], v[4:5]", "v_pk_mul_f32", ("u64", "u64"), 64),
    ("v_pk_fma_f32 v[10:11], v[2:3], v[4:5], v[6:7]", "v_pk_fma_f32", ("u64",) * 3, 64),
    ("v_add_co_u32_e32 v10, vcc, v2, v4", "v_add_co_u32", ("u32", "u32"), 32),
    ("v_sub_co_u32_e32 v10, vcc, v2, v4", "v_sub_co_u32", ("u32", "u32"), 32),
    ("v_subrev_co_u32_e32 v10, vcc, v2, v4", "v_subrev_co_u32", ("u32", "u32"), 32),
    ("v_mbcnt_lo_u32_b32 v10, v2, v4", "v_mbcnt_lo_u32_b32", ("u32", "u32"), 32),
    ("v_dot2_f32_f16 v10, v2, v4, v6", "v_dot2_f32_f16", ("u32",) * 3, 32),
    ("v_cmp_class_f32_e64 s[10:11], v2, v4\\n\\tv_cndmask_b32_e64 v10, 0, 1, s[10:11]",
     "v_cmp_class_f32", ("u32", "u32"), 32),
]  # fmt: skip


def ran(execute: Any, instruction: str, bits: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """Return v10 and v11 of each lane after an instruction, with v2 and on from 64 x 3 values."""
    source = torch.from_numpy(bits.astype(np.uint64).view(np.int32).reshape(64, 6).copy())
    result = torch.zeros((64, 2), dtype=torch.int32)
    execute(
        f"""
	s_load_dwordx4 s[4:7], s[0:1], 0x0
	v_mul_u32_u24_e32 v1, 24, v0
	v_lshlrev_b32_e32 v8, 3, v0
	v_mov_b32_e32 v10, 0
	v_mov_b32_e32 v11, 0
	s_waitcnt lgkmcnt(0)
	global_load_dwordx4 v[2:5], v1, s[4:5]
	global_load_dwordx2 v[6:7], v1, s[4:5] offset:16
	s_waitcnt vmcnt(0)
	{instruction}
	global_store_dwordx2 v8, v[10:11], s[6:7]
""",
        tensors={"x": source, "y": result},
    )
    return [(int(low) & 0xFFFFFFFF, int(high) & 0xFFFFFFFF) for low, high in result.tolist()]


@pytest.mark.parametrize(("text", "name", "kinds", "width"), EXECUTED, ids=lambda value: str(value))
def test_an_instruction_does_in_a_program_what_the_guide_says(
    execute: Any, text: str, name: str, kinds: tuple[str, ...], width: int
) -> None:
    values = list(samples(kinds, seed=width))[:64]
    bits = np.zeros((64, 3), np.uint64)
    for row, sources in enumerate(values):
        bits[row, : len(sources)] = sources
    got = ran(execute, text.replace("\\n\\t", "\n\t"), bits)
    code = codes("cdna").get(name) or codes("rdna3")[name]
    for lane, sources in enumerate(values):
        variables = {
            f"S{i}": pseudo_code.Value(value, "b", max(64, int(kind[1:])))
            for i, (value, kind) in enumerate(zip(sources, kinds, strict=True))
        }
        variables |= {
            "laneId": pseudo_code.Value(lane, "i", 32),
            "VCC": pseudo_code.Value(0, "b", 64),
            "D0": pseudo_code.Value(0, "b", 64),
        }
        after = pseudo_code.run(code, variables)["D0"].bits
        if name.startswith("v_cmp"):
            after = after >> lane & 1
        low, high = got[lane]
        form = name[-3:] if name[-3:] in ("f16", "f32") else "u32"
        pairs = [(low, after & 0xFFFFFFFF)]
        if width == 64:
            pairs.append((high, after >> 32 & 0xFFFFFFFF))
        if form == "f16" and name.startswith("v_pk"):
            pairs = [(x >> s & 0xFFFF, y >> s & 0xFFFF) for x, y in pairs for s in (0, 16)]
        else:
            form = "f32" if form == "f16" else form
        assert all(same(x, y, form) for x, y in pairs), (lane, [hex(one) for one in sources], pairs)
