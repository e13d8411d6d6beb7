"""Break a vLLM release's own selector, one place at a time: does the suite see it?

    PYTHONPATH=VLLM_FOLDER python tests/mutation/vllm_mutants.py GFX AITER [--list | --only FILE]

The mutants are made from the release that is imported, by mutate.py's rules for comparisons and
conditions and by rules of our own for backends and errors; no line of vLLM is kept here. vLLM is
imported once, under the mocked platform; a forked process puts the changed function in place of
``RocmPlatform.get_attn_backend_cls`` and runs the suite's judgements in itself, tier by tier, until
one sees a shortfall that the unchanged function does not have.

Prints a JSON line per mutant: its name, and which tier saw it, by what; or null.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import inspect
import itertools
import json
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance import adapters
from pytest_rocm_attn.conformance.isolation import Observation, Question
from pytest_rocm_attn.conformance.isolation.inside.environment import (
    neutral_environment,
    set_environment,
)
from pytest_rocm_attn.conformance.isolation.inside.outcomes import ask
from pytest_rocm_attn.conformance.promise import contract
from pytest_rocm_attn.conformance.promise.grid.design import standard
from pytest_rocm_attn.conformance.promise.grid.outcomes import behaviour
from pytest_rocm_attn.conformance.promise.verdict import shortfall_of
from pytest_rocm_attn.conformance.tiers.effort import Effort
from pytest_rocm_attn.conformance.tiers.invariants.laws import LAWS
from pytest_rocm_attn.conformance.tiers.invariants.switches import SWITCH_LAWS
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.mock import mock_rocm
from pytest_rocm_attn.registry import ROCM_BACKENDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

sys.path.insert(0, str(Path(__file__).parent))
mutate: Any = importlib.import_module("mutate")  # beside this file, which is no package

SELECTOR = "vllm.platforms.rocm:RocmPlatform"
FUNCTION = "get_attn_backend_cls"
SECONDS = 300  # per mutant; one that loops for ever counts as seen
GRID_SAMPLE = 2000
_ENUM = "AttentionBackendEnum"


# --- mutants --------------------------------------------------------------------------------------


def mutants_of(function: ast.FunctionDef) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield (name, changed function): each comparison, condition, backend and error altered."""
    seen: dict[str, int] = {}
    places = list(mutate.places(function, ()))
    for number, (_, parent, field, _, node) in enumerate(places):
        for order, change in enumerate(_changes(parent, field, node)):
            name = f"{mutate.text_of(node)} -> {mutate.text_of(change)}"
            seen[name] = seen.get(name, 0) + 1
            if seen[name] > 1:
                name += f" #{seen[name]}"
            yield name, _changed(function, number, order)


def _changed(function: ast.FunctionDef, number: int, order: int) -> ast.FunctionDef:
    """Return a copy of the function with one change made in it."""
    copied = copy.deepcopy(function)
    _, parent, field, index, node = next(itertools.islice(mutate.places(copied, ()), number, None))
    change = next(itertools.islice(_changes(parent, field, node), order, None))
    mutate.Mutant("", "", parent, field, index, change).apply()
    return ast.fix_missing_locations(copied)


def _changes(parent: ast.AST, field: str, node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Attribute(ast.Name(id=name), attr=backend) if name == _ENUM:
            others = [other for other in ROCM_BACKENDS if other != backend]
            start = ROCM_BACKENDS.index(backend) % len(others)
            yield ast.Attribute(ast.Name(_ENUM, ast.Load()), others[start], ast.Load())
        case ast.Raise(exc=ast.Call() as call):
            yield ast.Pass()
            yield ast.Raise(replace_class(call), None)
        case ast.Assert(test):
            yield ast.Pass()
            yield ast.Assert(ast.UnaryOp(ast.Not(), test), node.msg)
        case ast.Return(value) if value is not None:
            yield ast.Return(ast.Constant(None))
        case ast.Call(ast.Attribute(_, "startswith" | "is_mla_enabled")) | ast.Call(ast.Name()):
            if isinstance(parent, (ast.If, ast.IfExp, ast.BoolOp)):
                yield ast.UnaryOp(ast.Not(), node)
        case ast.Compare() | ast.BoolOp():
            yield from (c for c in mutate.changes(parent, "", node) if c is not None)
        case _:
            pass
    if field == "test" and isinstance(parent, (ast.If, ast.IfExp)):
        yield ast.Constant(True)
        yield ast.Constant(False)


def replace_class(call: ast.Call) -> ast.Call:
    """Return the making of an error as that of another class, which is no refusal."""
    return ast.Call(ast.Name("TypeError", ast.Load()), call.args, call.keywords)


# --- the suite, in this process -------------------------------------------------------------------


class Suite:
    """The judgements of three tiers on one platform."""

    def __init__(self, adapter: adapters.Adapter, gpu: Gpu) -> None:
        self._adapter = adapter
        self._gpu = gpu
        self._base = neutral_environment(os.environ)
        self._cells = [
            cell
            for row in contract.load("pr-26980").rows
            for cell in row.cells()
            if cell.gpu == gpu
        ]
        self._sample = _grid_sample(gpu)
        self.before: dict[str, Any] = {}

    def use(self, adapter: Any) -> None:
        """Put questions to another adapter from now on."""
        self._adapter = adapter

    def __call__(self, *questions: Question) -> list[Observation]:
        """Answer as an invariants Asker does; there is one platform, so it stands for the others."""
        return [self._ask(replace(question, gpu=self._gpu)) for question in questions]

    def _ask(self, question: Question) -> Observation:
        environ = dict(question.environ)
        set_environment(self._base | environ)
        self._adapter.refresh()
        return Observation(ask(self._adapter, question.request, environ, question.gpu))

    def documented(self) -> Iterator[str]:
        """Yield the rows that fall short."""
        for cell in self._cells:
            seen = self._ask(Question.of(cell.gpu, cell.row.env, cell.row.request))
            if shortfall_of(cell.row.expect, seen.outcome):
                yield cell.row.id

    def invariants(self) -> Iterator[str]:
        """Yield the laws that are broken."""
        for law in LAWS:
            search = law.search(self._gpu.gfx, self, Effort(examples=150))
            if search.found is not None:
                yield law.id
        for switch in SWITCH_LAWS:
            if switch.change([self._gpu], self, is_over=lambda: False).change is None:
                yield switch.id

    def grid(self) -> Iterator[str]:
        """Yield how cells of the sample answer: number and behaviour."""
        for number, question in enumerate(self._sample):
            yield f"{number}: {behaviour(self._ask(question).outcome)}"

    def remember(self) -> None:
        """Note what there is to see before anything is changed."""
        for tier in (self.documented, self.invariants, self.grid):
            self.before[tier.__name__] = set(tier())

    def seen(self) -> tuple[str, str] | None:
        """Return the tier that sees a change, and by what; None when none does."""
        for tier in (self.documented, self.invariants, self.grid):
            for found in tier():
                if found not in self.before[tier.__name__]:
                    return tier.__name__, found
        return None


def _grid_sample(gpu: Gpu) -> list[Question]:
    slices = [part for part in standard().slices if part.gfx == gpu.gfx]
    step = max(1, sum(part.cells for part in slices) // GRID_SAMPLE) | 1  # odd: meets every axis
    sample = []
    for part in slices:
        for number in range(0, part.cells, step):
            cell = part.cell(number)
            if cell.gpu == gpu:
                sample.append(Question(gpu, tuple(cell.environ.items()), cell.request))
    return sample


# --- running --------------------------------------------------------------------------------------


def _in_a_fork(work: Callable[[], Any]) -> Any:
    """Return what work returns in a forked process; "the end of its process" if it has none."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            os.close(read)
            devnull = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(devnull, standard)
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        data = stream.read()
    os.waitpid(child, 0)
    return json.loads(data) if data else ["documented", "the end of its process"]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Mutation run over vLLM's own selector.")
    parser.add_argument("gfx")
    parser.add_argument("aiter", choices=[state.value for state in Aiter])
    parser.add_argument("--only", help="a file with a JSON list of names: only these mutants")
    parser.add_argument("--list", action="store_true", help="print the mutants, run nothing")
    arguments = parser.parse_args()
    gpu = Gpu(arguments.gfx, Aiter(arguments.aiter))
    mock_rocm(gpu).enter()
    platform: Any = adapters.load(SELECTOR)
    adapter = adapters.adapt(platform, SELECTOR)
    adapter.prepare(gpu)
    module = sys.modules[platform.__module__]
    tree = ast.parse(inspect.getsource(module))
    (function,) = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == FUNCTION
    ]
    only = json.loads(Path(arguments.only).read_text("utf-8")) if arguments.only else None
    suite = Suite(adapter, gpu)
    if not arguments.list:
        suite.remember()

    def try_out(changed: ast.FunctionDef) -> tuple[str, str] | None:
        code = compile(ast.Module([changed], []), "<mutant>", "exec")
        made: dict[str, Any] = {}
        exec(code, vars(module), made)  # noqa: S102  the changed function is ours to run
        setattr(platform, FUNCTION, made[FUNCTION])
        suite.use(adapters.adapt(platform, SELECTOR))  # the former one holds the former function
        return suite.seen()

    for name, changed in mutants_of(function):
        if only is not None and name not in only:
            continue
        seen = None if arguments.list else _in_a_fork(partial(try_out, changed))
        print(json.dumps({"name": name, "seen": seen}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
