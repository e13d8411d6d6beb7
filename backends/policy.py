"""Selection policies: the ordered rules of a release, as data for the selector.

PR_26980 is the contract of vLLM pull request #26980, completed by what vLLM 0.12.0 does where the
contract is silent. The sources below cite the rows of docs/reference/contract.md, which
docs/selection.md repeats. The policies of releases are tables of the same form: releases.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_rocm_attn.backends.capabilities import LIMITS_0_12_0, Limit, Limits, steps
from pytest_rocm_attn.backends.trace import DECISION, Step
from pytest_rocm_attn.flags import Flags
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.registry import CLASS_PATHS
from pytest_rocm_attn.request import Request

NAMED = "VLLM_ATTENTION_BACKEND"
_ABSENT = Aiter.ABSENT  # bound once: an access through the class is slow on Python 3.11


@dataclass(frozen=True, slots=True, eq=False)
class Predicate:
    """One question about request, flags and GPU, with both answers in words.

    Args:
        holds: the question.
        yes: words for a positive answer.
        no: words for a negative one.
        variable: the environment variable it reads, or "".
    """

    holds: Callable[[Request, Flags, Gpu], bool]
    yes: str
    no: str
    variable: str = ""


def flag(name: str) -> Predicate:
    """Return the question whether a boolean variable is on."""
    return Predicate(
        lambda request, flags, gpu: flags[name], f"{name} is on", f"{name} is off", name
    )


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """Choose backend when every predicate holds; no predicate at all means always.

    Args:
        name: short name for the trace.
        backend: registry name of what it chooses.
        when: the predicates, all of which must hold.
        source: where the rule comes from.
        otherwise: what gives another backend where the rule depends on more than variables.
    """

    name: str
    backend: str
    when: tuple[Predicate, ...]
    source: str
    otherwise: str = ""
    # Built once: the step of "yes", and one "no" per predicate that can fail.
    applies: Step = field(init=False)
    asks: tuple[tuple[Callable[[Request, Flags, Gpu], bool], Step], ...] = field(init=False)

    def __post_init__(self) -> None:
        yes = " and ".join(p.yes for p in self.when) or "nothing else was asked for"
        object.__setattr__(self, "applies", Step(self.name, "yes", yes, self.source))
        asks = tuple((p.holds, Step(self.name, "no", p.no, self.source)) for p in self.when)
        object.__setattr__(self, "asks", asks)


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """One kind of request, and how its backend is chosen.

    Args:
        name: short name for the trace.
        takes: whether a request is of this kind.
        yes: words for "it is".
        no: words for "it is not".
        named: backends that may be named; empty where a name is not looked at.
        not_named: words about any other name; follows it in a message.
        named_source: where the meaning of an explicit choice comes from.
        rules: the automatic choice, in order; the last one always applies.
        source: where the kind comes from.
        named_by: the variables and options that name a backend; the first that is set counts.
        names: every name that the release's registry has.
        tries_next: a backend that cannot serve the request is passed over, and the next rule asked.
        unnamed: why there is no explicit choice where `named` is empty.
        refuses: words about every request of this kind; "" if the rules decide.
    """

    name: str
    takes: Callable[[Request], bool]
    yes: str
    no: str
    named: tuple[str, ...]
    not_named: str
    named_source: str
    rules: tuple[Rule, ...]
    source: str
    named_by: tuple[str, ...] = (NAMED,)
    names: tuple[str, ...] = tuple(CLASS_PATHS)
    tries_next: bool = False
    unnamed: str = f"there is one backend for it, so {NAMED} is not looked at"
    refuses: str = ""
    entered: Step = field(init=False)
    passed: Step = field(init=False)
    explicit: dict[tuple[str, str], Step] = field(init=False)
    automatic: Step = field(init=False)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "entered", Step(self.name, "yes", self.yes, self.source))
        set_(self, "passed", Step(self.name, "no", self.no, self.source))
        unnamed = f"{' and '.join(self.named_by)} names no backend" if self.named else self.unnamed
        set_(self, "automatic", Step("named", "no", unnamed, self.named_source))
        set_(
            self,
            "explicit",
            {
                (by, name): Step(
                    "named",
                    "yes",
                    f"{by} names {name}, which is taken or refused, never replaced",
                    self.named_source,
                )
                for by in self.named_by
                for name in self.names
            },
        )


@dataclass(frozen=True, slots=True, eq=False)
class GivesWay:
    """When a named backend that cannot serve a request gives way to the automatic choice.

    Args:
        when: whether a request is one for which it may.
        why: the same in words.
        alone: the limits that it gives way to, each only if no other is unmet; empty: to all.
    """

    when: Callable[[Request], bool]
    why: str
    alone: tuple[str, ...] = ()

    def applies(self, request: Request, beyond: Sequence[Limit]) -> bool:
        """Say whether a backend gives way that does not meet these limits."""
        fits = not self.alone or [limit.rule in self.alone for limit in beyond] == [True]
        return fits and self.when(request)


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """The selection of one release.

    Args:
        name: what it is the policy of.
        branches: kinds of request, asked in order; the last one takes everything.
        limits: what each backend cannot serve.
        class_paths: backend -> its class.
        sets: (variable, field): a variable that is on sets a field of every request; "" if the release only
            reads it, so that a value of another kind is an error.
        when_named: further limits of a backend that is named.
        gives_way: when a named backend that cannot serve gives way to the automatic choice; None
            for never.
        ignored: variable -> why the release does not read it.
    """

    name: str
    branches: tuple[Branch, ...]
    limits: dict[str, Limits]
    class_paths: Mapping[str, str] = field(default_factory=lambda: CLASS_PATHS)
    sets: tuple[tuple[str, str], ...] = ()
    when_named: Mapping[str, Limits] = field(default_factory=dict)
    gives_way: GivesWay | None = None
    ignored: Mapping[str, str] = field(default_factory=dict)
    # Backend -> the end of a trace in which it serves the request: every limit met, the decision.
    served: dict[str, tuple[Step, ...]] = field(init=False)

    def __post_init__(self) -> None:
        served = {
            name: (
                *steps(limits),
                Step(DECISION, name, f"{name} serves the request", self.class_paths[name]),
            )
            for name, limits in self.limits.items()
        }
        object.__setattr__(self, "served", served)

    @property
    def reads(self) -> tuple[str, ...]:
        """The variables and options that can change an answer, what names a backend first."""
        naming = [by for branch in self.branches if branch.named for by in branch.named_by]
        variables = [
            predicate.variable
            for branch in self.branches
            for rule in branch.rules
            for predicate in rule.when
            if predicate.variable
        ]
        setting = [variable for variable, _ in self.sets]
        return tuple(dict.fromkeys([*naming, *variables, *setting]))


AITER = flag("VLLM_ROCM_USE_AITER")
MHA = flag("VLLM_ROCM_USE_AITER_MHA")
MLA = flag("VLLM_ROCM_USE_AITER_MLA")
UNIFIED = flag("VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION")
PREFILL_DECODE = flag("VLLM_V1_USE_PREFILL_DECODE_ATTENTION")
GFX9 = Predicate(
    lambda request, flags, gpu: gpu.is_gfx9,
    "the GPU is gfx9 (gfx90a, gfx942, gfx950)",
    "the GPU is not gfx9 (gfx90a, gfx942, gfx950)",
)
# 0.12.0 asks whether any module of that name can be found, so a broken aiter and the impostor pass
# (docs/reference/aiter.md#which-aiter); the limits of the backend then refuse them.
AITER_FOUND = Predicate(
    lambda request, flags, gpu: gpu.aiter is not _ABSENT,
    "a package named aiter is installed",
    "no package named aiter is installed",
)
BLOCK_SIZE_IS_1 = Predicate(
    lambda request, flags, gpu: request.block_size == 1,
    "the block size is 1",
    "the block size is not 1",
)

SPARSE_MLA = Branch(
    name="sparse-mla",
    takes=lambda request: request.use_sparse,
    yes="the layer is sparse",
    no="the layer is not sparse",
    named=(),
    not_named="",
    named_source="docs/reference/contract.md#q21",
    rules=(Rule("sparse-default", "ROCM_AITER_MLA_SPARSE", (), "docs/reference/contract.md#q21"),),
    source="docs/reference/contract.md#q21",
)

MLA_MODEL = Branch(
    name="mla",
    takes=lambda request: request.use_mla,
    yes="the model is an MLA model",
    no="the model is not an MLA model",
    named=("TRITON_MLA", "ROCM_AITER_MLA", "ROCM_AITER_TRITON_MLA"),
    not_named="is not MLA type, and the model needs an MLA backend",
    named_source="docs/reference/contract.md#g1, #g3, #q19, #q20",
    rules=(
        Rule(
            "aiter-mla",
            "ROCM_AITER_MLA",
            (AITER, MLA, GFX9, AITER_FOUND),
            "docs/reference/contract.md#r3, #mla",
        ),
        Rule(
            "block-size-1-mla",
            "ROCM_AITER_MLA",
            (BLOCK_SIZE_IS_1,),
            "docs/reference/contract.md#q6, #q7",
            otherwise="set --block-size to 16 or more, which gives TRITON_MLA",
        ),
        Rule("mla-default", "TRITON_MLA", (), "docs/reference/contract.md#q6, #mla"),
    ),
    source="docs/reference/contract.md#procedure",
)

ORDINARY = Branch(
    name="ordinary",
    takes=lambda request: True,
    yes="the layer is ordinary attention",
    no="",
    named=(
        "TRITON_ATTN",
        "ROCM_ATTN",
        "ROCM_AITER_FA",
        "ROCM_AITER_UNIFIED_ATTN",
        "FLEX_ATTENTION",
    ),
    not_named="is not supported on ROCm for an ordinary (not MLA, not sparse) layer",
    named_source="docs/reference/contract.md#g1, #g3, #i1, #i2, #r8, #q18",
    rules=(
        Rule(
            "aiter-unified",
            "ROCM_AITER_UNIFIED_ATTN",
            (AITER, UNIFIED),
            "docs/reference/contract.md#a13, #q9, #q17",
        ),
        Rule(
            "aiter-flash-attention",
            "ROCM_AITER_FA",
            (AITER, MHA, GFX9),
            "docs/reference/contract.md#a10, #i3a, #q17",
        ),
        Rule(
            "prefill-decode",
            "ROCM_ATTN",
            (PREFILL_DECODE,),
            "docs/reference/contract.md#a8, #q11, #q17",
        ),
        Rule("default", "TRITON_ATTN", (), "docs/reference/contract.md#s1, #a1"),
    ),
    source="docs/reference/contract.md#procedure",
)

PR_26980 = Policy("vLLM pull request #26980", (SPARSE_MLA, MLA_MODEL, ORDINARY), LIMITS_0_12_0)
