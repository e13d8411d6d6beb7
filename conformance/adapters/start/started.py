"""How far a server got and what went wrong on the way, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

# What a server needs of a backend besides what its layers are -> the name that vLLM's selector gives it, and
# the method by which a backend says whether it has it (vllm/v1/attention/backend.py, v0.33.0).
NEEDS = {
    "use_batch_invariant": "supports_batch_invariance",
    "use_kv_connector": "supports_kv_connector",
    "use_dcp": "supports_dcp",
    "use_pcp": "supports_pcp",
    "use_non_causal": "supports_non_causal",
}
# The same for what only comes up if a layer needs several things at once.
TOGETHER = {"supports_non_causal_dcp": ("use_mla", "use_non_causal", "use_dcp")}


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that keeps a server from starting, or lets it compute nonsense.

    Args:
        layers: the names of those that it is about.
        doing: what was being done.
        words: what is wrong; "" if the error says it.
        error: what was raised, if anything was.
    """

    layers: tuple[str, ...]
    doing: str
    words: str = ""
    error: BaseException | None = None


@dataclass(slots=True)
class Steps:
    """The result of a server's first steps.

    Args:
        backends: layer -> its backend, of those whose steps were tried.
        faults: what went wrong.
        declined: what could not be taken here, each with the reason as its words.
        taken: how many steps were, over all layers.
        launches: how many launches of Triton's kernels were compiled and fit.
        calls: the closed kernels that were called, in order.
    """

    backends: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    declined: list[Fault] = field(default_factory=list)
    taken: int = 0
    launches: int = 0
    calls: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Started:
    """How far a server came.

    Args:
        backends: layer -> the backend that it was given.
        asked: layer -> the fields that the platform was asked with, as text.
        faults: what went wrong, in order.
        left_out: what this release has no function for, or a module that is not there.
        missing: packages whose lack leaves something out.
        unasked: the server's needs that are not among the fields of the selector's question.
        not_filled: fields of the selector's question that a request says nothing about: who asks
            the platform without a server leaves them at their defaults.
        joins: layers whose backend refuses them by its own predicate and runs another kernel.
        steps: the first steps, if they were asked for and the server came so far.
    """

    backends: dict[str, str] = field(default_factory=dict)
    asked: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
    not_filled: list[str] = field(default_factory=list)
    joins: list[Fault] = field(default_factory=list)
    steps: Steps | None = None
