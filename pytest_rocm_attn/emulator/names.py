"""What later targets call gfx9's instructions.

Source: LLVM, "Syntax of GFX11 Instructions" and its kin; AMD's ISA guides for RDNA3 and RDNA4,
"Instruction name changes".
"""

from __future__ import annotations

import functools
import re

_RENAMED = {
    "v_add_nc_u32": "v_add_u32",
    "v_sub_nc_u32": "v_sub_u32",
    "v_subrev_nc_u32": "v_subrev_u32",
    "v_add_nc_i32": "v_add_i32",
    "v_sub_nc_i32": "v_sub_i32",
    "v_add_nc_u16": "v_add_u16",
    "v_sub_nc_u16": "v_sub_u16",
    "v_add_nc_i16": "v_add_i16",
    "v_sub_nc_i16": "v_sub_i16",
    "v_add_co_ci_u32": "v_addc_co_u32",
    "v_sub_co_ci_u32": "v_subb_co_u32",
    "v_subrev_co_ci_u32": "v_subbrev_co_u32",
    "v_mad_co_u64_u32": "v_mad_u64_u32",
    "v_mad_co_i64_i32": "v_mad_i64_i32",
    "v_cvt_pk_rtz_f16_f32": "v_cvt_pkrtz_f16_f32",
    "v_cvt_floor_i32_f32": "v_cvt_flr_i32_f32",
    "v_cvt_nearest_i32_f32": "v_cvt_rpi_i32_f32",
    "v_cls_i32": "v_ffbh_i32",
    "v_clz_i32_u32": "v_ffbh_u32",
    "v_ctz_i32_b32": "v_ffbl_b32",
    "v_mad_legacy_u16": "v_mad_u16",
    "v_mad_legacy_i16": "v_mad_i16",
    "v_mul_dx9_zero_f32": "v_mul_legacy_f32",
    "s_addk_co_i32": "s_addk_i32",
    "s_add_co_i32": "s_add_i32",
    "s_sub_co_i32": "s_sub_i32",
    "s_add_co_u32": "s_add_u32",
    "s_sub_co_u32": "s_sub_u32",
    "s_add_co_ci_u32": "s_addc_u32",
    "s_sub_co_ci_u32": "s_subb_u32",
    "s_ctz_i32_b32": "s_ff1_i32_b32",
    "s_ctz_i32_b64": "s_ff1_i32_b64",
    "s_clz_i32_u32": "s_flbit_i32_b32",
    "s_clz_i32_u64": "s_flbit_i32_b64",
    "s_cls_i32": "s_flbit_i32",
    "s_cls_i32_i64": "s_flbit_i32_i64",
}
_WIDTH = {
    "b8": "byte",
    "b16": "short",
    "b32": "dword",
    "b64": "dwordx2",
    "b96": "dwordx3",
    "b128": "dwordx4",
    "u8": "ubyte",
    "i8": "sbyte",
    "u16": "ushort",
    "i16": "sshort",
}
_MEMORY = re.compile(r"(buffer|global|scratch|flat)_(load|store)_(d16_)?(hi_)?([bui]\d+)")
_SCALAR_LOAD = re.compile(r"s_(buffer_)?load_b(\d+)")
_LDS = re.compile(r"ds_(load|store)_(2addr_)?(stride64_)?(\w+)")


@functools.cache
def renamed(name: str) -> str:
    """Return gfx9's name of an instruction of any target."""
    if name in _RENAMED:
        return _RENAMED[name]
    if match := _MEMORY.fullmatch(name):
        where, what, d16, high, kind = match.groups()
        width = _WIDTH["u16" if what == "load" and kind == "b16" else kind]
        return f"{where}_{what}_{width}" + ("_d16" if d16 else "") + ("_hi" if high else "")
    if match := _SCALAR_LOAD.fullmatch(name):
        words = int(match[2]) // 32
        return f"s_{match[1] or ''}load_dword" + (f"x{words}" if words > 1 else "")
    if match := _LDS.fullmatch(name):
        what = "read" if match[1] == "load" else "write"
        kind = match[4]
        return f"ds_{what}{'2' if match[2] else ''}{'st64' if match[3] else ''}_{kind}"
    name = re.sub(r"_(max|min|max3|min3|med3|maxmin|minmax)_num_(f\d+)$", r"_\1_\2", name)
    name = re.sub(r"^s_(and|or)_not1_(.*)$", r"s_\1n2_\2", name)
    return re.sub(r"^s_(and|or)_not0_(.*)$", r"s_\1n1_\2", name)
