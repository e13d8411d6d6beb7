"""LLVM's AMDGPU assembly, read: instructions with their source lines, kernels, constant data.

Source of the syntax: LLVM, "User Guide for AMDGPU Backend" (directives, metadata) and "Syntax of
AMDGPU Instruction Modifiers". Only what compilers print is read; there is no macro language.
"""

from __future__ import annotations

import ctypes
import functools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Beyond any address of this process: code is fetched, never loaded. Negative, as gfx12 extends the sign of 48 bits.
CODE_BASE = -1 << 47
CODE_STEP = 8  # bytes per instruction, as s_getpc sees them

MODIFIERS = re.compile(
    r"\b(quad_perm|row_shr|row_shl|row_ror|row_bcast|row_newbcast|row_share|row_xmask|row_mask"
    r"|bank_mask|bound_ctrl|fi|dpp8|offset0|offset1|offset|op_sel_hi|op_sel|neg_lo|neg_hi"
    r"|dst_sel|dst_unused|src0_sel|src1_sel|cbsz|abid|blgp|mul|div|format|bitop3|scope|th"
    r"|wait_exp|wait_va_vdst|wait_vm_vsrc|byte_sel)(?::(\[[^\]]*\]|\w+\([^)]*\)|-?\w+))"
)
FLAGS = frozenset(
    [
        "offen",
        "idxen",
        "lds",
        "sc0",
        "sc1",
        "nt",
        "clamp",
        "glc",
        "slc",
        "dlc",
        "gds",
        "row_mirror",
        "row_half_mirror",
    ]
)
_OPERAND = re.compile(
    r"(?:-|neg\()?\|[^|]*\|\)?|\([^()]*\)[&>][&>]?\d+"
    r"|(?:neg|abs|sext|lit|gpr_idx|vmcnt|lgkmcnt|expcnt|hwreg|sendmsg)\((?:[^()]|\([^)]*\))*\)"
    r"|[^\s,\[]+(?:\[[^\]]*\])?"
)
_NAMED = re.compile(r"[a-z]\w*:[^:]")  # what may be a modifier with a value; registers are v[0:1]
_LABEL = re.compile(r"([.\w$]+):")
_ENCODING = re.compile(r"_(e64_dpp|e32|e64|dpp|sdwa)$")
_LOC = re.compile(r"\.loc\s+(\d+)\s+(\d+)\s+(\d+)([^;]*)(?:;\s*(.*))?")
_FILE = re.compile(r'\.file\s+(\d+)\s+(?:"([^"]*)"\s+)?"([^"]*)"')
_INDEXED = {"SRC0": 1, "SRC1": 2, "SRC2": 4, "DST": 8}  # operands, as bits 12 to 15 of M0
_DATA = {".byte": 1, ".short": 2, ".long": 4, ".quad": 8}


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the kernel's source.

    Attributes:
        file: as the compiler names it.
        line: 1 for the first; 0 if the compiler names none.
        chain: the place and the calls that inlined it, in the compiler's words.
    """

    file: str
    line: int
    chain: str

    def __str__(self) -> str:
        callers = re.findall(r"@\[ (\S+?:\d+)", self.chain)
        return f"{self.file}:{self.line}" + "".join(f", called from {one}" for one in callers)


@dataclass(slots=True)
class Instruction:
    """One instruction.

    Attributes:
        index: its number in the program.
        name: mnemonic without the encoding's suffix.
        encoding: "e32", "e64", "dpp", "sdwa", "e64_dpp" or "".
        operands: texts, in order.
        modifiers: by name; a flag is True. Instructions of one text share both: never change them.
        text: the whole, as printed.
        line: of the assembly, 1 for the first.
        place: line of the source, or None.
    """

    index: int
    name: str
    encoding: str
    operands: list[str]
    modifiers: dict[str, Any]
    text: str
    line: int
    place: Place | None

    def __str__(self) -> str:
        where = f" ({self.place})" if self.place is not None else ""
        return f"{self.text!r}, line {self.line} of the assembly{where}"


@dataclass(frozen=True, slots=True)
class Argument:
    """One kernel argument: where it lies in the argument segment, and its kind in the metadata."""

    offset: int
    size: int
    kind: str


@dataclass(slots=True)
class Kernel:
    """One kernel of a program.

    Attributes:
        name: its symbol.
        entry: index of its first instruction.
        directives: ``.amdhsa_*`` by name without the prefix.
        arguments: in order, hidden ones last.
    """

    name: str
    entry: int
    directives: dict[str, int]
    arguments: list[Argument] = field(default_factory=list)


@dataclass
class Program:
    """An assembled file.

    Attributes:
        gfx: target.
        instructions: all, in order.
        labels: index of the instruction that each code label stands before.
        kernels: by name.
        data: bytes of the constant sections.
        symbols: offset of each data label in ``data``.
    """

    gfx: str
    instructions: list[Instruction]
    labels: dict[str, int]
    kernels: dict[str, Kernel]
    data: bytes
    symbols: dict[str, int]

    @functools.cached_property
    def constants(self) -> ctypes.Array[ctypes.c_char]:
        """The data at the place where kernels find it, a multiple of 256."""
        room = ctypes.create_string_buffer(len(self.data) + 256)
        placed = (ctypes.c_char * len(self.data)).from_buffer(room, -ctypes.addressof(room) % 256)
        placed.raw = self.data
        return placed

    def address(self, label: str) -> int | None:
        """Return the address of code, as s_getpc would see it, or of data; None for an unknown label."""
        if (index := self.labels.get(label)) is not None:
            return CODE_BASE + CODE_STEP * index
        offset = self.symbols.get(label)
        return None if offset is None else ctypes.addressof(self.constants) + offset


_GENERATIONS = ("gfx9", "gfx10", "gfx11", "gfx12")


def read_assembly(text: str) -> Program:
    """Return the program of LLVM's AMDGPU assembly.

    Raises:
        EmulatorError: it names no target or an unknown one, or a directive of a kernel cannot be read.
    """
    return _Reader(text).program()


class _Reader:
    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.files: dict[str, str] = {}
        self.instructions: list[Instruction] = []
        self.labels: dict[str, int] = {}
        self.directives: dict[str, dict[str, int]] = {}
        self.data = bytearray()
        self.symbols: dict[str, int] = {}
        self.constants: dict[str, int] = {}
        self.section = ".text"
        self.place: Place | None = None
        self.places: dict[str, Place] = {}  # by the line that names it
        self.gfx = ""
        self.indexed: Instruction | None = None  # the s_set_gpr_idx_on that is in force

    def program(self) -> Program:
        described: str | None = None
        for number, line in enumerate(self.lines, 1):
            stripped = line.strip()
            if not stripped or stripped[0] == ";":
                continue
            if stripped[0] != "." and described is None:  # most lines
                self._line(stripped, number)
            elif stripped.startswith((".loc\t", ".loc ")):
                self._loc(stripped)
            elif stripped.startswith(".amdhsa_kernel "):
                described = stripped.split()[1]
                self.directives[described] = {}
            elif stripped == ".end_amdhsa_kernel":
                described = None
            elif described is not None:
                self._describe(described, stripped)
            elif stripped.startswith(".amdgpu_metadata"):
                break
            else:
                self._line(stripped, number)
        if not self.gfx:
            raise EmulatorError("the assembly has no .amdgcn_target: it is not LLVM's for AMDGPU")
        arguments = dict(_arguments(self.lines))
        kernels = {
            name: Kernel(name, self.labels[name], directives, arguments.get(name, []))
            for name, directives in self.directives.items()
        }
        return Program(
            self.gfx, self.instructions, self.labels, kernels, bytes(self.data), self.symbols
        )

    def _describe(self, kernel: str, line: str) -> None:
        words = line.split(";")[0].split(None, 1)
        if len(words) != 2 or not words[0].startswith(".amdhsa_"):
            return
        name = words[0].removeprefix(".amdhsa_")
        self.directives[kernel][name] = self._value(words[1])

    def _value(self, text: str) -> int:
        """Return a number: literal, or an expression over ``.set`` symbols, which may follow."""
        if re.fullmatch(r"-?\w+", text.strip()) and text.strip().lstrip("-")[0].isdigit():
            return int(text, 0)
        return -1  # what the emulator needs is printed as a number

    def _line(self, line: str, number: int) -> None:
        if label := _LABEL.match(line):
            self._label(label[1])
            line = line[label.end() :].strip()
        if not line or line.startswith(";"):
            return
        if line.startswith("."):
            self._directive(line)
        elif self.section == ".text":
            self._instruction(line, number)

    def _label(self, name: str) -> None:
        if self.section == ".text":
            self._leaves_indexing(name)
            self.labels[name] = len(self.instructions)
        elif _is_data(self.section):
            self.symbols[name] = len(self.data)

    def _directive(self, line: str) -> None:
        word = line.split(None, 1)[0]
        if word in _DATA and not _is_data(self.section):  # most are of the sections for debuggers
            return
        rest = line[len(word) :].split(";")[0].strip()
        if word == ".amdgcn_target":
            self.gfx = _processor(rest.strip('"'))
        elif word == ".text":
            self.section = ".text"
        elif word == ".section":
            name = rest.split(",")[0].strip('"')
            self.section = ".text" if name.startswith(".text") else name
        elif word == ".file":
            if match := _FILE.match(line):
                folder = f"{match[2]}/" if match[2] and not match[3].startswith("/") else ""
                self.files[match[1]] = folder + match[3]
        elif _is_data(self.section):
            self._data(word, rest)

    def _loc(self, line: str) -> None:
        place = self.places.get(line)
        if place is None:
            match = _LOC.match(line)
            if match is None or match[2] == "0":  # the compiler's own, which stays where it was
                return
            file = self.files.get(match[1], "?")
            place = self.places[line] = Place(file, int(match[2]), (match[5] or "").strip())
        self.place = place

    def _data(self, word: str, rest: str) -> None:
        if word in _DATA:
            for item in rest.split(","):
                value = int(item, 0)
                self.data += (value & (1 << 8 * _DATA[word]) - 1).to_bytes(_DATA[word], "little")
        elif word in (".zero", ".skip"):
            self.data += bytes(int(rest.split(",")[0], 0))
        elif word in (".ascii", ".asciz", ".string"):
            body = rest.strip()[1:-1].encode().decode("unicode_escape").encode("latin-1")
            self.data += body + (b"" if word == ".ascii" else b"\0")
        elif word in (".p2align", ".p2alignl"):
            self.data += bytes(-len(self.data) % (1 << int(rest.split(",")[0], 0)))

    def _instruction(self, line: str, number: int) -> None:
        name, encoding, operands, modifiers, text = _parts(line)
        if self.indexed is not None:
            if name.startswith("v_"):
                modifiers = modifiers | {"gpr_idx": moved(self.indexed)}
            elif name.startswith(("s_branch", "s_cbranch", "s_setpc", "s_swappc", "s_endpgm")):
                self._leaves_indexing(text)
        read = Instruction(
            len(self.instructions),
            name,
            encoding,
            operands,
            modifiers,
            text,
            number,
            self.place,
        )
        self.instructions.append(read)
        if name.startswith("s_set_gpr_idx_o"):
            self.indexed = read if name.endswith("on") else None

    def _leaves_indexing(self, where: str) -> None:
        if self.indexed is not None:
            raise EmulatorError(
                f"the emulator cannot run {self.indexed} on {self.gfx}: {where!r} stands before the"
                " s_set_gpr_idx_off that ends it"
            )


def moved(switch: Instruction) -> int:
    """Return which operands s_set_gpr_idx_on moves, of ``gpr_idx(SRC0,DST)`` or a number, as bits.

    Raises:
        EmulatorError: it names another operand.
    """
    text = switch.operands[-1]
    if not text.startswith("gpr_idx("):
        return int(text, 0)
    names = set(text[len("gpr_idx(") : -1].replace(",", " ").split())
    if not _INDEXED.keys() >= names:
        raise EmulatorError(f"operand {text!r}")
    return sum(_INDEXED[name] for name in names)


@functools.lru_cache(maxsize=65_536)
def _parts(line: str) -> tuple[str, str, list[str], dict[str, Any], str]:
    """Return name, encoding, operands, modifiers and text of an instruction; lines that are alike share them."""
    text = " ".join(line.partition(";")[0].partition("//")[0].split())
    mnemonic, _, rest = text.partition(" ")
    suffix = _ENCODING.search(mnemonic)
    name = mnemonic[: suffix.start()] if suffix else mnemonic
    modifiers: dict[str, Any] = {}
    if _NAMED.search(rest):
        modifiers = {key: _modifier(value) for key, value in MODIFIERS.findall(rest)}
        rest = MODIFIERS.sub("", rest)
    plain = "(" not in rest and "|" not in rest
    operands = []
    for token in rest.replace(",", " ").split() if plain else _OPERAND.findall(rest):
        if token in FLAGS:
            modifiers[token] = True
        elif token not in ("&", "|"):
            operands.append(token)
    return name, suffix[1] if suffix else "", operands, modifiers, text


def _is_data(section: str) -> bool:
    return section.startswith((".rodata", ".data", ".bss"))


def _modifier(text: str) -> Any:
    if text.startswith("["):
        return [int(item, 0) for item in text[1:-1].split(",")]
    return int(text, 0) if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)", text) else text


def _processor(target: str) -> str:
    """Return the processor of a target: ``amdgcn-amd-amdhsa--gfx942:xnack-`` of LLVM 22 and before,
    ``amdgpu9.42-amd-amdhsa-unknown-gfx942:xnack-`` since.

    Raises:
        EmulatorError: none of a generation that the emulator knows.
    """
    # Architecture, vendor, system and environment precede it; it may have hyphens itself (gfx9-4-generic).
    processor = target.split("-", 4)[-1].partition(":")[0]
    if not processor.startswith(_GENERATIONS):
        raise EmulatorError(
            f"the emulator knows no processor in the assembly's target {target!r}; it runs code for "
            + ", ".join(f"{name}*" for name in _GENERATIONS)
        )
    return processor


def _arguments(lines: list[str]) -> Iterator[tuple[str, list[Argument]]]:
    """Yield each kernel's symbol and its arguments, from the metadata's YAML as LLVM prints it."""
    found: list[dict[str, str]] = []
    inside = in_arguments = False
    for line in lines:
        if line.strip() == ".amdgpu_metadata":
            inside = True
        elif line.strip() == ".end_amdgpu_metadata":
            return
        if not inside:
            continue
        match = re.match(r"^( *)(- )?\.(\w+):\s*(.*)$", line)
        if match is None:
            continue
        depth, key, value = len(match[1]) + len(match[2] or ""), match[3], match[4]
        if depth == 4:  # a field of the kernel
            in_arguments = key == "args"
            if match[2]:
                found = []
            if key == "symbol":
                name = value.strip("'\"").removesuffix(".kd")
                yield name, [_argument(entry) for entry in found]
        elif in_arguments:
            if match[2]:
                found.append({})
            found[-1][key] = value


def _argument(entry: Mapping[str, str]) -> Argument:
    return Argument(int(entry["offset"]), int(entry["size"]), entry["value_kind"])
