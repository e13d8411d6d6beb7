"""Which backends the numerics tier runs: the option, else the fork's conftest, else our own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import pytest

from pytest_rocm_attn.errors import BackendUnderTestError

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.tiers.numerics.case import Case


@dataclass(frozen=True, slots=True)
class BackendUnderTest:
    """One backend under test.

    Args:
        name: in node ids and reports.
        spec: ``module:object`` or ``file.py:object``, imported in a worker process.
        kinds: the kinds of case to give it; empty for all, of which it declines what it lacks.
        invariant: whether it gets the batch-invariance cases, or nothing but them; None: all.
        compiled: what the launch tier imports in spec's place, where a backend's host code would do
            there what no dry launch can; "" if it has no Triton kernel of its own; None: spec.
        ieee: it promises what IEEE arithmetic gives for a NaN or an infinity that a token sees, and
            that those which no token sees change nothing.
    """

    name: str
    spec: str
    kinds: tuple[str, ...] = ()
    invariant: bool | None = None
    compiled: str | None = None
    ieee: bool = False

    def level(self, case: Case) -> Literal["required", "advisory"]:
        """Return how binding a case is for the backend."""
        return "advisory" if case.special and not self.ieee else case.level

    def takes(self, case: Case) -> bool:
        """Whether the backend gets the case at all."""
        if self.kinds and case.kind not in self.kinds:
            return False
        return self.invariant is None or self.invariant == case.batch_invariant


def _ieee(*subjects: BackendUnderTest) -> tuple[BackendUnderTest, ...]:
    return tuple(replace(subject, ieee=True) for subject in subjects)


_OURS = "pytest_rocm_attn.backends.under_test"
REFERENCES = _ieee(
    BackendUnderTest("TRITON_ATTN", f"{_OURS}:TritonAttn", ("attention",), False),
    BackendUnderTest(
        "TRITON_ATTN-batch-invariant", f"{_OURS}:TritonAttnInvariant", ("attention",), True
    ),
    BackendUnderTest(
        "ROCM_ATTN",
        f"{_OURS}:RocmAttn",
        ("attention",),
        False,
        compiled=f"{_OURS}:RocmAttnTriton",  # its HIP decode is built by another compiler
    ),
    # torch.compile makes its kernels, for a GPU that exists.
    BackendUnderTest("FLEX_ATTENTION", f"{_OURS}:FlexAttn", ("attention",), False, compiled=""),
    BackendUnderTest("TRITON_MLA", f"{_OURS}:TritonMla", ("mla-decode", "mla-prefill"), False),
    BackendUnderTest(
        "TRITON_MLA-batch-invariant", f"{_OURS}:TritonMlaInvariant", ("mla-decode",), True
    ),
)
# Besides them, if AMD's aiter is installed.
OVER_AITER = (
    # aiter's kernels, or its assembly: docs/launch-tables/generate.py compiles the former.
    BackendUnderTest(
        "ROCM_AITER_UNIFIED_ATTN",
        f"{_OURS}:RocmAiterUnifiedAttn",
        ("attention",),
        False,
        compiled="",
    ),
    BackendUnderTest("ROCM_AITER_FA", f"{_OURS}:RocmAiterFa", ("attention",), False, compiled=""),
    BackendUnderTest(
        "ROCM_AITER_MLA", f"{_OURS}:RocmAiterMla", ("mla-decode",), False, compiled=""
    ),
)
# ROCM_ATTN by one of its kernels alone: for tests on hardware, which must know what they tested.
BY_KERNEL = _ieee(
    BackendUnderTest("ROCM_ATTN-hip", f"{_OURS}:RocmAttnHip", ("attention",), False),
    BackendUnderTest("ROCM_ATTN-plain-hip", f"{_OURS}:RocmAttnPlainHip", ("attention",), False),
    BackendUnderTest("ROCM_ATTN-triton", f"{_OURS}:RocmAttnTriton", ("attention",), False),
)


def named(name: str) -> BackendUnderTest:
    """Return one of our own backends. Raises KeyError if none has that name."""
    return {one.name: one for one in (*REFERENCES, *OVER_AITER, *BY_KERNEL)}[name]


def references() -> tuple[BackendUnderTest, ...]:
    """Return our own backends, as far as they can be run here."""
    from pytest_rocm_attn.aiter_probe import probe
    from pytest_rocm_attn.gpu import Aiter

    return REFERENCES + (OVER_AITER if probe().state is Aiter.PRESENT else ())


def parse(text: str) -> tuple[BackendUnderTest, ...]:
    """Read ``NAME=module:object,...``; without ``NAME=``, the object's own name is the name.

    Raises:
        BackendUnderTestError: an entry is of another form, or a name stands twice.
    """
    found: dict[str, BackendUnderTest] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, equals, spec = entry.partition("=")
        if not equals:
            name, spec = entry.rpartition(":")[2], entry
        if not name or not all(spec.rpartition(":")[::2]):
            raise BackendUnderTestError(
                f"{entry!r} is not of the form [NAME=]module:object or [NAME=]file.py:object"
            )
        if name in found:
            raise BackendUnderTestError(
                f"two backends are called {name!r}; write NAME=module:object"
            )
        found[name] = BackendUnderTest(name, spec)
    return tuple(found.values())


def from_hook(config: pytest.Config) -> tuple[BackendUnderTest, ...]:
    """Return what the conftest files of a fork name; each may name some.

    Raises:
        pytest.UsageError: an answer is of another form.
    """
    entries: list[str] = []
    for answer in config.hook.pytest_rocm_attn_backends(config=config):
        if isinstance(answer, str):
            entries.append(answer)
        elif isinstance(answer, Mapping):
            entries += [f"{name}={spec}" for name, spec in answer.items()]
        elif isinstance(answer, Iterable):
            entries += map(str, answer)
        else:
            raise pytest.UsageError(
                f"pytest_rocm_attn_backends returned {answer!r}; return a mapping of names to"
                " 'module:object', or a list of such texts"
            )
    try:
        return parse(",".join(entries))
    except BackendUnderTestError as error:
        raise pytest.UsageError(f"pytest_rocm_attn_backends: {error}") from None
