"""Every instruction of AMD's machine-readable ISA description, as tinygrad's wheel carries it, as a line of assembly.

The description names each operand, its width and its kind of register; so each instruction has one plain
form: whole registers, no modifiers but those that the assembler demands.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

# Family of tinygrad's tables -> the target that stands for it, and the lanes of its waves.
FAMILIES = {"cdna": ("gfx950", 64), "rdna3": ("gfx1100", 32), "rdna4": ("gfx1201", 32)}
# First register of each operand, vector or scalar: far enough apart for the widest (16 registers).
VECTORS = {"vdst": 16, "src0": 48, "src1": 64, "src2": 80, "address": 8, "data": 48, "data1": 64}
SCALARS = {"sdst": 16, "src0": 40, "src1": 48, "src2": 56, "base": 32, "offset": 44}
TABLE = 0xCA  # of v_bitop3: the first source chooses between the others
# What makes an atomic return the old value.
RETURNS = {"cdna": " sc0", "rdna3": " glc", "rdna4": " th:TH_ATOMIC_RETURN"}
_SUFFIX = re.compile(r"_(E32|E64)$")
_NOT_COMPUTE = ("IMAGE_", "TBUFFER_", "EXP", "DS_GWS", "V_INTERP", "LDS_", "DS_PARAM", "DS_DIRECT")


@dataclass(frozen=True)
class Described:
    """One instruction of one family.

    Attributes:
        family: "cdna", "rdna3" or "rdna4".
        encoding: AMD's name of its encoding, as VOP3.
        name: mnemonic, without a suffix of the encoding.
        text: its line of assembly.
        code: its pseudo-code, "" if there is none.
        widths: bits of each operand, by field.
        kinds: kind of register of each operand, by field.
        formats: format of each operand, by field.
    """

    family: str
    encoding: str
    name: str
    text: str
    code: str
    widths: dict[str, int]
    kinds: dict[str, str]
    formats: dict[str, str]

    def __str__(self) -> str:
        return f"{self.family} {self.text}"


def described(family: str) -> Iterator[Described]:
    """Yield each instruction of a family that a compute kernel can have."""
    root = f"tinygrad.runtime.autogen.amd.{family}"
    operands: dict[Any, Any] = importlib.import_module(f"{root}.operands").OPERANDS
    codes: dict[Any, str] = importlib.import_module(f"{root}.str_pcode").PCODE
    by_name: dict[str, str] = {}
    for key, code in codes.items():
        by_name.setdefault(_SUFFIX.sub("", key.name), code)
    for key, fields in operands.items():
        if key.name.startswith(_NOT_COMPUTE):
            continue
        encoding = (
            type(key)
            .__name__.removesuffix("Op")
            .removeprefix(
                "V" if family == "rdna4" and not type(key).__name__.startswith("VOP") else ""
            )
        )
        widths = {_field(name): width for name, (_, width, _) in fields.items()}
        kinds = {_field(name): kind.name for name, (_, _, kind) in fields.items()}
        formats = {_field(name): form.name for name, (form, _, _) in fields.items()}
        mnemonic = key.name.lower()
        if re.fullmatch(r"v_accvgpr_(read|write)", mnemonic):
            mnemonic += "_b32"
        name = _SUFFIX.sub("", mnemonic.upper()).lower()
        text = _text(family, encoding, mnemonic, widths, kinds)
        if not text:
            continue
        if re.match(r"v_dot\d_i32_iu", name):  # the first factor has signs, the second has none
            text += " neg_lo:[1,0,0]"
        code = codes.get(key, by_name.get(name.upper(), ""))
        one = Described(family, encoding, name, text, code, widths, kinds, formats)
        if "atomic" in name:
            yield replace(one, text=text + RETURNS[family])
            if "vdst" in widths:  # the form that returns nothing has no destination
                short = text.replace(vector(VECTORS["vdst"], widths["vdst"]) + ", ", "", 1)
                one = replace(
                    one, text=short, widths={k: v for k, v in widths.items() if k != "vdst"}
                )
        yield one


def _field(name: str) -> str:
    return {"vsrc0": "src0", "vsrc1": "src1", "ssrc0": "src0", "ssrc1": "src1", "vsrc": "data",
            "data0": "data", "vaddr": "addr", "sbase": "saddr", "rsrc": "srsrc"}.get(name, name)  # fmt: skip


def vector(first: int, bits: int) -> str:
    count = max(1, bits // 32)
    return f"v{first}" if count == 1 else f"v[{first}:{first + count - 1}]"


def scalar(first: int, bits: int) -> str:
    count = max(1, bits // 32)
    return f"s{first}" if count == 1 else f"s[{first}:{first + count - 1}]"


def _text(
    family: str, encoding: str, name: str, widths: dict[str, int], kinds: dict[str, str]
) -> str:
    wave = FAMILIES[family][1]
    parts: list[str] = []

    def operand(field: str) -> str:
        if field not in widths:
            return ""
        width = (
            wave
            if kinds[field].startswith("OPR_SREG")
            and widths[field] == 64
            and encoding in ("VOPC", "VOP3", "VOP3SD")
            else widths[field]
        )
        if field == "simm16":
            return "0x1234"
        if kinds[field] == "OPR_SIMM4":
            return "9"
        if encoding.startswith("SO") or kinds[field].startswith(
            ("OPR_SREG", "OPR_SSRC", "OPR_SDST")
        ):
            return scalar(SCALARS["sdst" if "dst" in field else field], width)
        return vector(VECTORS[field], width)

    vcc = "vcc" if wave == 64 else "vcc_lo"
    if encoding in ("SOP1", "SOP2", "SOPC"):
        parts = [operand(one) for one in ("sdst", "src0", "src1")]
        if "fmamk" in name or "fmaak" in name:
            parts.insert(2 if "fmamk" in name else 3, "0x40490fdb")
    elif encoding == "SOPK":
        parts = [operand(one) for one in ("sdst", "simm16")]
    elif encoding == "SOPP":
        return f"{name} 0x3" if widths else name
    elif encoding in ("VOP1", "VOP2", "VOP3", "VOP3SD", "VOP3P"):
        parts = [operand(one) for one in ("vdst", "sdst", "src0", "src1", "src2")]
        base = _SUFFIX.sub("", name.upper()).lower()
        if base.startswith("v_bitop3"):
            parts[-1] += f" bitop3:{TABLE:#x}"
        if base.startswith("v_cmpx") and family != "cdna":
            parts[0] = ""
        carries = re.search(r"_co_|addc|subb|_ci_", base) and encoding == "VOP2"
        if carries:
            parts = [parts[0], vcc, *parts[1:]]
        if (
            (encoding == "VOP2" and re.search(r"addc|subb|_ci_", base))
            or base.startswith("v_cndmask")
            and encoding == "VOP2"
        ):
            parts.append(vcc)
        if re.search(r"fmamk|madmk", base):
            parts.insert(3, "0x40490fdb")
        if re.search(r"fmaak|madak", base):
            parts.append("0x40490fdb")
    elif encoding == "VOPC":
        implied = "cmpx" in name and family != "cdna"
        parts = ["" if implied else vcc, operand("src0"), operand("src1")]
    elif encoding == "DS":
        if name == "ds_swizzle_b32":
            return f"{name} v16, v8 offset:0xc8"
        parts = [
            vector(VECTORS["vdst"], widths["vdst"]) if "vdst" in widths else "",
            vector(VECTORS["address"], 32) if "addr" in widths else "",
            vector(VECTORS["data"], widths["data"]) if "data" in widths else "",
            vector(VECTORS["data1"], widths["data1"]) if "data1" in widths else "",
        ]
    elif encoding in ("GLOBAL", "FLAT"):
        address = vector(VECTORS["address"], 64)
        data = vector(VECTORS["data"], widths["data"]) if "data" in widths else ""
        target = vector(VECTORS["vdst"], widths["vdst"]) if "vdst" in widths else ""
        parts = [target, address, data] if target else [address, data]
        if encoding == "GLOBAL":
            parts.append("off")
    elif encoding == "SCRATCH":
        address = vector(VECTORS["address"], 32)
        data = vector(VECTORS["data"], widths["data"]) if "data" in widths else ""
        parts = (
            [vector(VECTORS["vdst"], widths["vdst"]), address, "off"]
            if "vdst" in widths
            else [address, data, "off"]
        )
    elif encoding in ("MUBUF", "BUFFER"):
        if "vdata" not in widths:
            return name
        parts = [
            vector(VECTORS["data"], widths["vdata"]),
            vector(VECTORS["address"], 32),
            scalar(32, 128),
            "s44",
        ]
        return f"{name} {', '.join(parts)} offen"
    elif encoding == "SMEM":
        if "sdata" not in widths or "saddr" not in widths:
            return name
        parts = [scalar(SCALARS["sdst"], widths["sdata"]), scalar(32, widths["saddr"]), "0x8"]
    else:
        return ""
    return f"{name} {', '.join(one for one in parts if one)}"
