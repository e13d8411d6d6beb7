"""The environment variables that affect ROCm attention: declared once, parsed exactly.

Source of every row and rule: docs/reference/environment.md#parse-rules and #variables (vLLM's
envs.py and the modules that use the values).
"""

from __future__ import annotations

import contextlib
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.errors import FlagError, nearest
from pytest_rocm_attn.registry import CLASS_PATHS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The variables that selection is about, as VARIABLES declares them below.
EXPLICIT = "VLLM_ATTENTION_BACKEND"
USE_AITER = "VLLM_ROCM_USE_AITER"
MHA = "VLLM_ROCM_USE_AITER_MHA"
MLA = "VLLM_ROCM_USE_AITER_MLA"
UNIFIED = "VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION"
PREFILL_DECODE = "VLLM_V1_USE_PREFILL_DECODE_ATTENTION"
SPARSE = "VLLM_ROCM_USE_AITER_TRITON_SPARSE_MLA"


class Kind(enum.Enum):
    """The parse rules of docs/reference/environment.md#parse-rules."""

    BOOL = enum.auto()  # "true" in any case, or "1"; everything else is False
    INT_BOOL = enum.auto()  # bool(int(text))
    INT = enum.auto()  # int(text)
    CHOICE = enum.auto()  # one of the listed names, case-sensitive; "" counts as set
    CHOICE_ANY_CASE = enum.auto()
    TRI = enum.auto()  # stripped "1" is True, "0" is False, anything else None
    EXACT = enum.auto()  # True only for the one listed text
    BACKEND = enum.auto()  # a backend's name in any case; "auto" is None


@dataclass(frozen=True, slots=True)
class Variable:
    """One declared environment variable.

    Args:
        name: its name in the environment.
        kind: its parse rule.
        default: its value when unset.
        effect: what it does, in a few words.
        source: where the rule was read.
        choices: the legal texts of a choice; the one true text of an exact variable.
    """

    name: str
    kind: Kind
    default: Any
    effect: str
    source: str = "docs/reference/environment.md#variables"
    choices: tuple[str, ...] = ()

    def parse(self, text: str) -> Any:
        """Return the value that text means.

        Raises:
            FlagError: the rule cannot parse it; the message names variable, value and legal values.
        """
        match self.kind:
            case Kind.BOOL:
                return text.lower() in ("true", "1")
            case Kind.EXACT:
                return text in self.choices
            case Kind.BACKEND:
                return None if text.lower() == "auto" else text.upper()
            case Kind.TRI:
                return {"1": True, "0": False}.get(text.strip())
            case Kind.INT | Kind.INT_BOOL:
                try:
                    number = int(text)
                except ValueError:
                    raise FlagError(
                        f"{self.name}={text!r} is not an integer; set it to 0 or 1, or unset it"
                        if self.kind is Kind.INT_BOOL
                        else f"{self.name}={text!r} is not an integer; set a number, or unset it"
                    ) from None
                return bool(number) if self.kind is Kind.INT_BOOL else number
            case Kind.CHOICE | Kind.CHOICE_ANY_CASE:
                word = text.lower() if self.kind is Kind.CHOICE_ANY_CASE else text
                if word not in self.choices:
                    raise FlagError(
                        f"{self.name}={text!r} is not a valid value."
                        f"{nearest(text, self.choices)} Valid: {', '.join(self.choices)}"
                    )
                return word

    def doubt(self, text: str) -> str:
        """Return a sentence if text does not mean what it suggests, such as "yes" as off; else "".

        Raises:
            FlagError: as parse.
        """
        value = self.parse(text)
        match self.kind:
            case Kind.BOOL if not value and text.lower() not in _OFF:
                reads, on = "off", "1 and true turn it on"
            case Kind.EXACT if not value and text.lower() not in _OFF:
                reads, on = "off", f"{' and '.join(self.choices)} turns it on"
            case Kind.TRI if value is None and text.strip():
                reads, on = "unset", "1 turns it on and 0 off"
            case _:
                return ""
        if not text and self.default is False:
            return ""
        return f"{self.name}={text!r} reads as {reads}; only {on}"


_OFF = ("0", "false", "no", "off")  # texts that mean off to whoever writes them
VARIABLES: dict[str, Variable] = {
    variable.name: variable
    for variable in (
        Variable(
            EXPLICIT,
            Kind.CHOICE,
            None,
            "names the backend",
            choices=tuple(CLASS_PATHS),
        ),
        Variable(USE_AITER, Kind.BOOL, False, "master switch of AITER"),
        Variable(MHA, Kind.BOOL, True, "allows ROCM_AITER_FA by itself"),
        Variable(MLA, Kind.BOOL, True, "allows ROCM_AITER_MLA by itself"),
        Variable(
            UNIFIED,
            Kind.BOOL,
            False,
            "with AITER on, ROCM_AITER_UNIFIED_ATTN first",
        ),
        Variable(
            "VLLM_ROCM_USE_AITER_PAGED_ATTN",
            Kind.BOOL,
            False,
            "with AITER on, ROCM_ATTN decodes by Triton instead of HIP",
        ),
        Variable(
            PREFILL_DECODE,
            Kind.BOOL,
            False,
            "ROCM_ATTN instead of TRITON_ATTN",
        ),
        Variable("VLLM_ROCM_CUSTOM_PAGED_ATTN", Kind.BOOL, True, "allows HIP paged attention"),
        Variable("VLLM_ROCM_FP8_MFMA_PAGE_ATTN", Kind.INT_BOOL, False, "fp8 MFMA in HIP decode"),
        Variable("VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT", Kind.BOOL, False, "shuffled KV cache"),
        Variable("VLLM_ROCM_USE_AITER_FP8BMM", Kind.BOOL, True, "fp8 projections in MLA"),
        Variable("VLLM_ROCM_USE_AITER_FP4BMM", Kind.BOOL, True, "fp4 projections in MLA"),
        Variable("VLLM_ROCM_USE_AITER_TRITON_ROPE", Kind.BOOL, False, "AITER rotary embedding"),
        Variable(SPARSE, Kind.BOOL, False, "Triton path of sparse MLA"),
        Variable(
            "VLLM_ROCM_AITER_MLA_ASM_PADDING",
            Kind.CHOICE_ANY_CASE,
            "auto",
            "small-head MLA decode",
            choices=("auto", "gluon", "asm"),
        ),
        Variable("VLLM_TRITON_ATTN_USE_TD", Kind.TRI, None, "tensor descriptors in Triton"),
        Variable("VLLM_TRITON_USE_TD", Kind.TRI, None, "tensor descriptors in Triton"),
        Variable("VLLM_MLA_DISABLE", Kind.INT_BOOL, False, "MLA models run as ordinary attention"),
        Variable(
            "VLLM_KV_CACHE_LAYOUT",
            Kind.CHOICE,
            None,
            "physical layout for backends that honour it",
            choices=("NHD", "HND", "LBNHC", "LBHNC", "LHBNC", "BLHNC", "BLNHC", "BHLNC"),
        ),
        Variable("VLLM_FLASH_ATTN_VERSION", Kind.INT, None, "CUDA only; no effect on ROCm"),
        Variable("VLLM_BATCH_INVARIANT", Kind.INT_BOOL, False, "results independent of the batch"),
        Variable("Q_SCALE_CONSTANT", Kind.INT, 200, "divisor of calculated query scales"),
        Variable("K_SCALE_CONSTANT", Kind.INT, 200, "divisor of calculated key scales"),
        Variable("V_SCALE_CONSTANT", Kind.INT, 100, "divisor of calculated value scales"),
        Variable(
            "FLASH_ATTENTION_TRITON_AMD_ENABLE",
            Kind.EXACT,
            False,
            "flash_attn's Triton build",
            choices=("TRUE",),
        ),
    )
}

ATTENTION_BACKEND = "--attention-backend"
USE_PREFILL_DECODE = "--attention-config.use_prefill_decode_attention"
# Options of the server that took the place of a variable; Flags takes them together with the variables.
OPTIONS: dict[str, Variable] = {
    option.name: option
    for option in (
        Variable(
            ATTENTION_BACKEND,
            Kind.BACKEND,
            None,
            "names the backend",
            "vllm/config/attention.py, AttentionConfig.backend (v0.13.0 on; PR #26315)",
        ),
        Variable(
            USE_PREFILL_DECODE,
            Kind.BOOL,
            False,
            "ROCM_ATTN instead of TRITON_ATTN",
            "vllm/config/attention.py, use_prefill_decode_attention (v0.15.0 to v0.18.1)",
        ),
    )
}

# Read by some release of vLLM from 0.11.2 to 0.33.0, without an effect on the attention backend.
NEIGHBOURS = frozenset(
    f"VLLM_ROCM_{name}"
    for name in (
        "AITER_MLA_DCP_VERIFY",
        "AITER_MOE_DISPATCH_POLICY",
        "FP8_PADDING",
        "MOE_PADDING",
        "MUSE_MOE_ONLINE_QUANT",
        "MUSE_MOE_REDUCE_DTYPE",
        "QUICK_REDUCE_CAST_BF16_TO_FP16",
        "QUICK_REDUCE_MAX_SIZE_BYTES_MB",
        "QUICK_REDUCE_MIN_SIZE_BYTES_MB",
        "QUICK_REDUCE_QUANTIZATION",
        "QUICK_REDUCE_QUANTIZATION_MIN_SIZE_KB",
        "SLEEP_MEM_CHUNK_SIZE",
        "USE_AITER_CUSTOM_AR",
        "USE_AITER_FP4_ASM_GEMM",
        "USE_AITER_FUSION_SHARED_EXPERTS",
        "USE_AITER_LINEAR",
        "USE_AITER_LINEAR_HIPBMM",
        "USE_AITER_MOE",
        "USE_AITER_MOE_A4W4_DSV4",
        "USE_AITER_MOE_SITUV2",
        "USE_AITER_MOE_SITUV2_A8W4",
        "USE_AITER_RMSNORM",
        "USE_AITER_TRITON_GEMM",
        "USE_SKINNY_GEMM",
    )
)
_DECLARED = {**VARIABLES, **OPTIONS}
_DEFAULTS = {name: variable.default for name, variable in _DECLARED.items()}


class Flags:
    """The declared variables of an environment, and the server's options among them, parsed.

    Two environments with the same meaning are equal: unset and default-valued are the same by
    construction, and variables that are not declared here are not looked at.
    """

    __slots__ = ("_set",)
    _set: dict[str, Any]  # only what differs from the default

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """Parse the declared variables of environ, and what it has by the name of an option.

        Raises:
            FlagError: a value that its rule cannot parse; the message names variable and value.
        """
        self._set = {}
        for name, text in (environ or {}).items():
            variable = _DECLARED.get(name)
            if variable is not None and (value := variable.parse(text)) != variable.default:
                self._set[name] = value

    def __getitem__(self, name: str) -> Any:
        values = self._set if name in self._set else _DEFAULTS
        try:
            return values[name]
        except KeyError:
            raise _undeclared(name) from None

    def but(self, name: str, text: str) -> Flags:
        """Return these flags with one variable set to a text. Raises FlagError if the text is invalid."""
        changed = Flags({name: text})
        changed._set = {
            **{other: value for other, value in self._set.items() if other != name},
            **changed._set,
        }
        return changed

    def non_default(self) -> Iterator[tuple[str, Any]]:
        """Yield (name, value) of each variable that is not at its default, by name."""
        yield from sorted(self._set.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Flags) and self._set == other._set

    def __hash__(self) -> int:
        return hash(frozenset(self._set.items()))

    def __repr__(self) -> str:
        return f"Flags({dict(self.non_default())!r})"


def variable(name: str) -> Variable:
    """Return the declaration of one variable, or option of the server.

    Raises:
        FlagError: nothing of that name is declared; the message offers the nearest.
    """
    if name not in _DECLARED:
        raise _undeclared(name)
    return _DECLARED[name]


def check_name(name: str) -> None:
    """Check that setting a variable can have an effect, as far as its name shows.

    Variables of others pass: a fork may read any. A misspelt name that is declared here does not,
    as it would test nothing.

    Raises:
        FlagError: no release reads the name, and it begins with VLLM_ROCM_ or is nearly one that
            is declared.
    """
    if name in VARIABLES or name in NEIGHBOURS:
        return
    import difflib

    if name.startswith("VLLM_ROCM_") or difflib.get_close_matches(name, VARIABLES, 1, _MISSPELT):
        raise _undeclared(name)


def doubts(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence for each declared variable whose text does not mean what it suggests.

    Texts that cannot be parsed are passed over: parsing them is an error of its own.
    """
    found = []
    for name, text in environ.items():
        if name in VARIABLES:
            with contextlib.suppress(FlagError):
                found.append(VARIABLES[name].doubt(text))
    return list(filter(None, found))


_MISSPELT = 0.9  # similarity, as difflib has it; no variable of vLLM 0.11.2 to 0.33.0 is so near


def _undeclared(name: str) -> FlagError:
    return FlagError(
        f"{name} is not a variable that ROCm attention reads.{nearest(name, VARIABLES)}"
        f" Known: {', '.join(VARIABLES)}"
    )
