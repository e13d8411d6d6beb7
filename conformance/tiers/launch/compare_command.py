"""``rocm-attn compare-kernels``: the main loops of several backends' kernels for a GPU, next to each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.tiers.launch.tier import shipped
from pytest_rocm_attn.conformance.tiers.numerics.lane import Lane
from pytest_rocm_attn.conformance.tiers.numerics.subjects import REFERENCES, parse
from pytest_rocm_attn.dry_launch.figures import tabulate
from pytest_rocm_attn.errors import BackendUnderTestError, nearest
from pytest_rocm_attn.gpu import Gpu

if TYPE_CHECKING:
    import argparse

    from pytest_rocm_attn.conformance.tiers.numerics.case import Case, Result

TIMEOUT = 600.0  # seconds that one family may take to compile
_ADAPTERS = "pytest_rocm_attn.conformance.adapters"
# Kernels of others that a short name stands for.
PEERS = {
    "VLLM": f"{_ADAPTERS}.vllm_unified:UnifiedAttention",
    "VLLM-MLA": f"{_ADAPTERS}.vllm_kernels:TritonMla",
    "VLLM-ROCM": f"{_ADAPTERS}.vllm_kernels:RocmAttn",
    "AITER": f"{_ADAPTERS}.aiter_unified:UnifiedAttention",
}


@dataclass(frozen=True, slots=True)
class KernelSubject:
    """A backend whose kernels are compared.

    Args:
        name: to be shown.
        spec: ``module:object`` or ``file.py:object``.
        tree: folder that holds the package it belongs to, before all others; "" for what is installed.
    """

    name: str
    spec: str
    tree: str = ""


def run(arguments: argparse.Namespace) -> list[str]:
    """Return the lines to print.

    Args:
        arguments: ``subjects``, ``gpu`` and ``family``, as the command line has them.

    Raises:
        BackendUnderTestError: a subject or family is not known, or a backend cannot be started.
        UnknownGpuError: hardware.toml describes no such target.
    """
    gpu = Gpu(arguments.gpu)
    subjects = read_subjects(arguments.subjects)
    families = [family(name) for name in arguments.family]
    results = {
        subject.name: examine(subject, families, gpu) for subject in subjects
    }  # one process after another
    lines = []
    for case in families:
        lines += ["", f"{case.id} on {gpu.gfx}: {case.words}"]
        found = {name: answers[case.id] for name, answers in results.items()}
        columns = dict(_columns(found))
        if columns:
            lines += tabulate(columns).splitlines()
        lines += [
            f"{name}: {result.kind}: {result.words}"
            for name, result in found.items()
            if result.kind != "right"
        ]
    return lines[1:]


def read_subjects(texts: Sequence[str]) -> list[KernelSubject]:
    """Return the backends of a command line: ``[NAME=]SPEC[@TREE]``.

    SPEC is ``module:object``, ``file.py:object``, one of PEERS or one of our own backends.

    Raises:
        BackendUnderTestError: a name is not known or stands twice, or a tree is not a folder.
    """
    ours = {one.name: one.compiled or one.spec for one in REFERENCES if one.compiled != ""}
    known = PEERS | ours
    found: dict[str, KernelSubject] = {}
    for text in texts:
        spec, at, tree = text.partition("@")
        if at and not Path(tree).is_dir():
            raise BackendUnderTestError(f"{text!r}: {tree!r} is not a folder")
        label, equals, rest = spec.partition("=")
        short = rest if equals else spec
        if ":" in short:
            (one,) = parse(spec)
            subject = KernelSubject(one.name, one.spec, tree)
        elif short in known:
            name = label if equals else f"{short} of {Path(tree).name}" if tree else short
            subject = KernelSubject(name, known[short], tree)
        else:
            raise BackendUnderTestError(
                f"no backend is called {short!r}.{nearest(short, known)} Known: {', '.join(known)}; or write"
                " module:object"
            )
        if subject.name in found:
            raise BackendUnderTestError(
                f"two backends are called {subject.name!r}; write NAME={text}"
            )
        found[subject.name] = subject
    return list(found.values())


def family(name: str) -> Case:
    """Return the launch tier's shape family of a name.

    Raises:
        BackendUnderTestError: there is none.
    """
    known = {case.id: case for case in shipped()}
    if name not in known:
        raise BackendUnderTestError(
            f"no shape family is called {name!r}.{nearest(name, known)} Known: {', '.join(known)}"
        )
    return known[name]


def examine(subject: KernelSubject, families: Sequence[Case], gpu: Gpu) -> dict[str, Result]:
    """Return the result of each family, by its id, from a process of the backend's own.

    Raises:
        BackendUnderTestError: it cannot be started.
    """
    path = [str(Path(subject.tree).resolve())] if subject.tree else []
    lane = Lane(subject.spec, TIMEOUT, "launch", gpu.gfx, path=path)
    try:
        return {case.id: lane.ask(case) for case in families}
    finally:
        lane.close()


def loops_of(result: Result) -> list[Mapping[str, Any]]:
    """Return the launches of a result that have a loop over keys: those with matrix instructions, else
    with a tile that is known."""
    launches = result.launches
    multiplying = [one for one in launches if one["figures"]["matrix"]]
    return list(multiplying or [one for one in launches if one["keys"] is not None])


def _columns(found: Mapping[str, Result]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, result in found.items():
        launches = loops_of(result)
        for number, launch in enumerate(launches, 1):
            yield (name if len(launches) == 1 else f"{name} {number}"), launch
