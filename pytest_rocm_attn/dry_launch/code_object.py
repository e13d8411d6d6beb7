"""What a compiled AMDGPU code object says of its kernels, and its assembly of matrix instructions.

Registers, spills, scratch and LDS come from the metadata note that the HIP runtime itself reads
(LLVM, "User Guide for AMDGPU Backend", section "Code Object Metadata"), the code size from the
symbol table. Nothing is guessed from comments in the assembly.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.errors import CodeObjectError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SHT_SYMTAB, SHT_NOTE, SHT_DYNSYM = 2, 7, 11
STT_FUNC = 2
NT_AMDGPU_METADATA = 32
MATRIX_INSTRUCTION = re.compile(r"^\s+(v_(?:mfma|smfmac|wmma|swmmac)_\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CodeObjectKernel:
    """One kernel of a code object, as its metadata note describes it.

    Attributes:
        name: symbol of the kernel's code.
        lds_bytes: LDS that is allocated at compile time; a launch may add dynamic LDS.
        scratch_bytes: private segment per work-item.
        vgprs: vector registers per lane that a wave allocates. If the register file is unified
            (CDNA2 and later), accumulation registers are included.
        agprs: accumulation registers among them; 0 if the target has none.
        sgprs: scalar registers per wave.
        vgpr_spills, sgpr_spills: registers that did not fit and went to memory.
        wavefront: lanes per wave that the kernel was compiled for.
        max_workgroup: largest workgroup, in work-items, that the kernel was compiled for.
        wgp_mode: True when a workgroup spreads over both CUs of an RDNA work-group processor.
        code_bytes: size of the machine code.
    """

    name: str
    lds_bytes: int
    scratch_bytes: int
    vgprs: int
    agprs: int
    sgprs: int
    vgpr_spills: int
    sgpr_spills: int
    wavefront: int
    max_workgroup: int
    wgp_mode: bool
    code_bytes: int


def read_code_object(binary: bytes) -> tuple[CodeObjectKernel, ...]:
    """Return the kernels of an ELF code object (hsaco, or what clang leaves before linking).

    Raises:
        CodeObjectError: binary is not a 64-bit little-endian ELF file, or has no kernel metadata.
    """
    if binary[:6] != b"\x7fELF\x02\x01":
        raise CodeObjectError(
            f"not an AMDGPU code object: it starts with {binary[:6]!r}, expected a 64-bit ELF header"
        )
    sections = tuple(_sections(binary))
    sizes = dict(_function_sizes(binary, sections))
    return tuple(_kernel(entry, sizes) for entry in _metadata(binary, sections)["amdhsa.kernels"])


def count_matrix_instructions(assembly: str) -> dict[str, int]:
    """Return how often each matrix instruction (MFMA, SMFMAC, WMMA, SWMMAC) stands in assembly."""
    return dict(sorted(Counter(MATRIX_INSTRUCTION.findall(assembly)).items()))


def function_body(assembly: str, name: str) -> str:
    """Return the lines of one function of LLVM's AMDGPU assembly, without its epilogue.

    Raises:
        CodeObjectError: assembly has no function of that name.
    """
    body = re.search(rf"^{re.escape(name)}:.*?^\.Lfunc_end\d+:", assembly, re.MULTILINE | re.DOTALL)
    if body is None:
        raise CodeObjectError(f"the assembly has no function {name!r}")
    return body.group()


@dataclass(frozen=True, slots=True)
class _Section:
    kind: int
    offset: int
    size: int
    link: int


def _sections(binary: bytes) -> Iterator[_Section]:
    (start,) = struct.unpack_from("<Q", binary, 40)
    entry_bytes, count = struct.unpack_from("<HH", binary, 58)
    for index in range(count):
        _, kind, _, _, offset, size, link = struct.unpack_from(
            "<IIQQQQI", binary, start + index * entry_bytes
        )
        yield _Section(kind, offset, size, link)


def _metadata(binary: bytes, sections: tuple[_Section, ...]) -> Mapping[str, Any]:
    import msgspec

    for section in sections:
        if section.kind != SHT_NOTE:
            continue
        position = section.offset
        while position < section.offset + section.size:
            name_bytes, descriptor_bytes, kind = struct.unpack_from("<III", binary, position)
            name = position + 12
            descriptor = name + -(-name_bytes // 4) * 4
            if kind == NT_AMDGPU_METADATA and binary[name : name + 6] == b"AMDGPU":
                note = msgspec.msgpack.decode(binary[descriptor : descriptor + descriptor_bytes])
                if "amdhsa.kernels" in note:
                    return dict(note)
            position = descriptor + -(-descriptor_bytes // 4) * 4
    raise CodeObjectError("the ELF file has no AMDGPU metadata note with kernels in it")


def _function_sizes(binary: bytes, sections: tuple[_Section, ...]) -> Iterator[tuple[str, int]]:
    for section in sections:
        if section.kind not in (SHT_SYMTAB, SHT_DYNSYM):
            continue
        names = sections[section.link].offset
        for position in range(section.offset, section.offset + section.size, 24):
            name, info, _, _, _, size = struct.unpack_from("<IBBHQQ", binary, position)
            if info & 0xF == STT_FUNC:
                start = names + name
                yield binary[start : binary.index(b"\0", start)].decode(), size


def _kernel(entry: Mapping[str, Any], sizes: Mapping[str, int]) -> CodeObjectKernel:
    name = entry[".symbol"].removesuffix(".kd")
    return CodeObjectKernel(
        name=name,
        lds_bytes=entry[".group_segment_fixed_size"],
        scratch_bytes=entry[".private_segment_fixed_size"],
        vgprs=entry[".vgpr_count"],
        agprs=entry.get(".agpr_count", 0),
        sgprs=entry[".sgpr_count"],
        vgpr_spills=entry[".vgpr_spill_count"],
        sgpr_spills=entry[".sgpr_spill_count"],
        wavefront=entry[".wavefront_size"],
        max_workgroup=entry[".max_flat_workgroup_size"],
        wgp_mode=bool(entry.get(".workgroup_processor_mode", 0)),
        code_bytes=sizes[name],
    )
