"""Break a vLLM release's own selector, one place at a time: does the suite see it?

    python tests/mutation/vllm_mutants.py FOLDER [--platform GFX:AITER ...] [--share I/N]
                                          [--output FILE] [--list | --only FILE]

FOLDER holds an unpacked release. The mutants are made from it, by mutate.py's rules for comparisons
and conditions and by rules of our own for backends, lists of them and errors; no line of vLLM is
kept here. They are those of ``RocmPlatform.get_attn_backend_cls``, of every ``validate_configuration``
if the platform asks for one, and of what these call in their own module or class.

For each platform in turn, vLLM is imported once, under the mock; a forked process puts the changed
function in the place of the release's and runs the suite's judgements in itself, tier by tier, until
one sees a shortfall that the unchanged release does not have. What no platform's judgements see is a
survivor. Rows are those that the default contract has for the release.

Prints a JSON object per mutant as it is settled: its "name", and "seen": the platform, the tier, the
row, cell or law, and the verdict; or null. --output FILE has all of them as one list.
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
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from pytest_rocm_attn.conformance import adapters
from pytest_rocm_attn.conformance.adapters import shape
from pytest_rocm_attn.conformance.isolation import Observation, Question
from pytest_rocm_attn.conformance.isolation.inside import naming
from pytest_rocm_attn.conformance.isolation.inside.environment import (
    neutral_environment,
    set_environment,
)
from pytest_rocm_attn.conformance.isolation.inside.outcomes import ask
from pytest_rocm_attn.conformance.promise import contract, upstream
from pytest_rocm_attn.conformance.promise.grid.design import standard
from pytest_rocm_attn.conformance.promise.grid.outcomes import behaviour
from pytest_rocm_attn.conformance.promise.rows import RowOnGpu
from pytest_rocm_attn.conformance.promise.verdict import Verdict, judge
from pytest_rocm_attn.conformance.tiers.effort import Effort
from pytest_rocm_attn.conformance.tiers.invariants.laws import LAWS
from pytest_rocm_attn.conformance.tiers.invariants.switches import SWITCH_LAWS
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.mock import mock_rocm
from pytest_rocm_attn.outcome import Told
from pytest_rocm_attn.registry import EVERY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

sys.path.insert(0, str(Path(__file__).parent))
mutate: Any = importlib.import_module("mutate")  # beside this file, which is no package

SELECTOR = "vllm.platforms.rocm:RocmPlatform"
ENTRY, VALIDATES = "get_attn_backend_cls", "validate_configuration"
# The first sees most of what is to be seen; the others, what the release does by GPU or without aiter.
PLATFORMS = (
    *("gfx942:present", "gfx1201:present", "gfx942:absent", "gfx90a:present"),
    "gfx950:present",
)
SECONDS = 300  # per mutant; one that loops for ever counts as seen
GRID_SAMPLE = 3000
_ENUM = "AttentionBackendEnum"
_GIVEN = ("get_device_capability",)  # what a choice starts from
_LISTED = (
    "append",
    "insert",
    "remove",
    "extend",
)  # calls that change a list of backends or reasons


# --- mutants --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A function that is broken.

    Attributes:
        owner: the class or module that has it.
        name: its name there.
        tree: its definition.
    """

    owner: Any
    name: str
    tree: ast.FunctionDef

    @property
    def title(self) -> str:
        """How mutants name it: a method of the platform or a function by its name alone."""
        of_class = isinstance(self.owner, type) and self.name == VALIDATES
        return f"{self.owner.__name__}.{self.name}" if of_class else self.name

    def replace(self, changed: ast.FunctionDef) -> None:
        """Put a changed definition in its place."""
        owner = self.owner if isinstance(self.owner, type) else None
        # A function around it stands for the class, whose name super() looks for.
        around = ast.parse("def around(__class__):\n    pass").body[0]
        assert isinstance(around, ast.FunctionDef)
        around.body = [changed, ast.Return(ast.Name(changed.name, ast.Load()))]
        tree = ast.fix_missing_locations(ast.Module([around], []))
        made: dict[str, Any] = {}
        module = sys.modules[self.owner.__module__ if owner else self.owner.__name__]
        exec(compile(tree, "<mutant>", "exec"), vars(module), made)  # noqa: S102  ours to run
        setattr(self.owner, self.name, made["around"](owner))


def targets(platform: Any, backends: Sequence[type]) -> list[Target]:
    """Return what decides: the platform's own function, what it calls in its module, validation."""
    found = list(_reached(platform, ENTRY))
    if any(_mentions(target.tree, VALIDATES) for target in found):
        owners = dict.fromkeys(
            owner for backend in backends for owner in backend.__mro__ if VALIDATES in vars(owner)
        )
        for owner in owners:
            found += _reached(owner, VALIDATES)
    return found


def _reached(owner: type, name: str) -> Iterator[Target]:
    """Yield a method, and the functions of its class and module that it calls, directly or not."""
    module = sys.modules[owner.__module__]
    functions: dict[tuple[bool, str], ast.FunctionDef] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef):
            functions[False, node.name] = node
        if isinstance(node, ast.ClassDef) and node.name == owner.__name__:
            functions |= {(True, n.name): n for n in node.body if isinstance(n, ast.FunctionDef)}
    waiting, seen = [(True, name)], set()
    while waiting:
        key = waiting.pop(0)
        if key in seen or key not in functions or key[1] in _GIVEN:
            continue
        seen.add(key)
        yield Target(owner if key[0] else module, key[1], functions[key])
        for inner in ast.walk(functions[key]):
            match inner:
                case ast.Call(ast.Name(id=called)):
                    waiting.append((False, called))
                case ast.Call(ast.Attribute(ast.Name(id="cls"), attr=called)):
                    waiting.append((True, called))


def _mentions(tree: ast.AST, attribute: str) -> bool:
    return any(isinstance(n, ast.Attribute) and n.attr == attribute for n in ast.walk(tree))


def mutants_of(target: Target) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield (name, changed function): each comparison, condition, backend and error altered."""
    seen: dict[str, int] = {}
    logged = _logged(target.tree)
    for number, (_, parent, field, _, node) in enumerate(mutate.places(target.tree, ())):
        if id(node) in logged:
            continue
        for order, change in enumerate(_changes(parent, field, node)):
            after = "(nothing)" if change is None else mutate.text_of(change)
            name = f"{target.title}: {mutate.text_of(node)} -> {after}"
            seen[name] = seen.get(name, 0) + 1
            if seen[name] > 1:
                name += f" #{seen[name]}"
            yield name, _changed(target.tree, number, order)


def _logged(function: ast.FunctionDef) -> set[int]:
    """Return the nodes whose only use is a message: arguments of a logger, texts in braces."""
    found: set[int] = set()
    for node in ast.walk(function):
        match node:
            case ast.Call(ast.Attribute(ast.Name(id="logger"))) | ast.JoinedStr():
                found |= {id(inner) for inner in ast.walk(node)}
    return found


def _changed(function: ast.FunctionDef, number: int, order: int) -> ast.FunctionDef:
    """Return a copy of the function with one change made in it."""
    copied = copy.deepcopy(function)
    _, parent, field, index, node = next(itertools.islice(mutate.places(copied, ()), number, None))
    change = next(itertools.islice(_changes(parent, field, node), order, None))
    mutate.Mutant("", "", parent, field, index, change).apply()
    return ast.fix_missing_locations(copied)


def _changes(parent: ast.AST, field: str, node: ast.AST) -> Iterator[ast.AST | None]:
    match node:
        case ast.Attribute(ast.Name(id=name), attr=backend) if name == _ENUM:
            others = [other for other in _OTHERS if other != backend]
            start = _OTHERS.index(backend) if backend in _OTHERS else 0
            other = others[start % len(others)]
            yield ast.Attribute(ast.Name(_ENUM, ast.Load()), other, ast.Load())
            if field == "elts" and len(getattr(parent, "elts", ())) > 1:
                yield None
        case ast.List(elts) if len(elts) > 1:  # an order of preference
            yield ast.List(elts[::-1], ast.Load())
        case ast.Expr(ast.Call(ast.Attribute(_, attr))) if attr in _LISTED:
            yield ast.Pass()
            if attr == "insert":
                call = node.value
                assert isinstance(call, ast.Call)
                assert isinstance(call.func, ast.Attribute)
                at_the_end = ast.Attribute(call.func.value, "append", ast.Load())
                yield ast.Expr(ast.Call(at_the_end, call.args[1:], []))
        case ast.Raise(exc=ast.Call() as call):
            yield ast.Pass()
            yield ast.Raise(replace_class(call), None)
        case ast.Assert(test):
            yield ast.Pass()
            yield ast.Assert(ast.UnaryOp(ast.Not(), test), node.msg)
        case ast.Return(ast.Constant(bool() as value)):
            yield ast.Return(ast.Constant(not value))
        case ast.Return(value) if value is not None and not _is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Call(ast.Attribute(_, "startswith" | "is_mla_enabled")) | ast.Call(ast.Name()):
            if isinstance(parent, (ast.If, ast.IfExp, ast.BoolOp)):
                yield ast.UnaryOp(ast.Not(), node)
        case ast.Compare() | ast.BoolOp() | ast.UnaryOp(ast.Not()) | ast.BinOp():
            yield from (c for c in mutate.changes(parent, "", node) if c is not None)
        case ast.Constant(str()) if isinstance(parent, (ast.Compare, ast.Call)):
            yield from mutate.changes(parent, "", node)
        case _:
            pass
    if field == "test" and isinstance(parent, (ast.If, ast.IfExp)):
        yield ast.Constant(True)
        yield ast.Constant(False)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


# What a backend is replaced by: the next in this order, which is of its kind, or nearly so.
_OTHERS = [name for name in EVERY_NAME if name.startswith(("TRITON_", "ROCM_", "FLEX_"))]


def replace_class(call: ast.Call) -> ast.Call:
    """Return the making of an error as that of another class, which is no refusal."""
    return ast.Call(ast.Name("TypeError", ast.Load()), call.args, call.keywords)


# --- the suite, in this process -------------------------------------------------------------------


class Suite:
    """The judgements of three tiers on one platform."""

    def __init__(self, adapter: adapters.Adapter, gpu: Gpu, rules: contract.Contract) -> None:
        self._adapter = adapter
        self._gpu = gpu
        self._base = neutral_environment(os.environ)
        self._rules = rules
        self._cells = [cell for row in rules.rows for cell in row.cells() if cell.gpu == gpu]
        self._sample = _grid_sample(gpu)
        self.before: dict[str, dict[str, str]] = {}

    def use(self, adapter: Any) -> None:
        """Put questions to another adapter from now on."""
        self._adapter = adapter

    def __call__(self, *questions: Question) -> list[Observation]:
        """Answer as an invariants Asker does; there is one platform, so it stands for the others."""
        return [self._ask(structs.replace(question, gpu=self._gpu)) for question in questions]

    def _ask(self, question: Question) -> Observation:
        environ = dict(question.environ)
        set_environment(self._base | environ)
        self._adapter.refresh()
        if question.kind == "named":
            return Observation(naming.answer(self._adapter, question)[0])
        return Observation(ask(self._adapter, question.request, environ, question.gpu))

    def documented(self) -> Iterator[tuple[str, str]]:
        """Yield each row with its verdict."""
        for cell in self._cells:
            outcome = self._ask(_question(cell)).outcome
            if not isinstance(outcome, Told):
                judged = judge(cell.row, outcome, defects=self._rules.defects, gfx=cell.gpu.gfx)
                yield cell.id, judged.verdict.value

    def grid(self) -> Iterator[tuple[str, str]]:
        """Yield how cells of the sample answer: number and behaviour."""
        for number, question in enumerate(self._sample):
            yield f"cell {number} of the sample", str(behaviour(self._ask(question).outcome))

    def invariants(self) -> Iterator[tuple[str, str]]:
        """Yield the laws, and whether they are broken."""
        for law in LAWS:
            search = law.search(self._gpu.gfx, self, Effort(examples=150))
            yield law.id, "held" if search.found is None else "broken"
        for switch in SWITCH_LAWS:
            change = switch.change([self._gpu], self, is_over=lambda: False).change
            yield switch.id, "held" if change is not None else "broken"

    @cached_property
    def tiers(self) -> list[Callable[[], Iterator[tuple[str, str]]]]:
        """What is judged, in the order in which a run shows it."""
        return [self.documented, self.grid, self.invariants]

    def remember(self) -> None:
        """Note what there is to see before anything is changed.

        An answer that the second pass does not repeat depends on what was asked before, and shows nothing.
        """
        for tier in self.tiers:
            first = dict(tier())
            self.before[tier.__name__] = {
                what: now for what, now in tier() if first.get(what) == now
            }

    def seen(self) -> tuple[str, str, str] | None:
        """Return the tier that sees a change, by what, and the verdict; None when none does.

        A row that fails comes before one whose verdict only changes.
        """
        mild = None
        for tier in self.tiers:
            for what, now in tier():
                if now == self.before[tier.__name__].get(what, now):
                    continue
                if tier.__name__ != "documented" or Verdict(now).fails:
                    return tier.__name__, what, now
                mild = mild or (tier.__name__, what, now)
            if mild is not None:
                return mild
        return None


def _question(cell: RowOnGpu) -> Question:
    row = cell.row
    if row.named is None:
        return Question.of(cell.gpu, row.env, row.request)
    return Question.of(cell.gpu, row.env, row.request, "named", row.named.to_text())


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


def _forked(work: Callable[[], Iterator[Any]], *, seconds: int = 0) -> Iterator[Any]:
    """Yield what work yields in a forked process.

    Args:
        work: yields plain data.
        seconds: after which it is ended; then, what it prints and how it ends do not matter.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)
            os.close(read)
            if seconds:
                devnull = os.open(os.devnull, os.O_RDWR)
                for standard_stream in (0, 1, 2):
                    os.dup2(devnull, standard_stream)
            with os.fdopen(write, "w") as stream:
                for found in work():
                    print(json.dumps(found), file=stream, flush=True)
        except BaseException:  # noqa: BLE001  shown, and then this process is over
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        for line in stream:
            yield json.loads(line)
    if os.waitpid(child, 0)[1] and not seconds:
        raise SystemExit("the release itself could not be judged; see above")


class Release:
    """An unpacked release, on a platform of this process."""

    def __init__(self, gpu: Gpu) -> None:
        mock_rocm(gpu).enter()
        self.platform: Any = adapters.load(SELECTOR)
        self.adapter: Any = adapters.adapt(self.platform, SELECTOR)
        self.adapter.prepare(gpu)
        found = shape.of_spec(SELECTOR)
        assert found is not None
        meant = upstream.found(found.features, found.version, upstream.shapes())
        self.suite = Suite(self.adapter, gpu, contract.load("vllm").at(meant))

    def mutants(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield (name, what puts it in place)."""
        for target in targets(self.platform, list(self._backends())):
            for name, changed in mutants_of(target):
                yield name, partial(target.replace, changed)

    def _backends(self) -> Iterator[type]:
        for member in self.adapter.fork.registry.__members__.values():
            try:
                yield member.get_class()
            except Exception:  # noqa: BLE001, S112  foreign code: a backend of another platform
                continue

    def try_out(self, put: Callable[[], None]) -> Iterator[tuple[str, str, str] | None]:
        """Yield what sees a mutant."""
        put()
        self.suite.use(adapters.adapt(self.platform, SELECTOR))  # the former has what was there
        yield self.suite.seen()


def run(
    gpu: Gpu, wanted: Callable[[int, str], bool], *, try_them: bool
) -> Iterator[tuple[str, list[str] | None]]:
    """Yield each wanted mutant with what sees it on one platform."""
    release = Release(gpu)
    if try_them:
        release.suite.remember()
    for number, (name, put) in enumerate(release.mutants()):
        if not wanted(number, name):
            continue
        seen = None
        if try_them:
            answers = list(_forked(partial(release.try_out, put), seconds=SECONDS))
            seen = answers[0] if answers else ["documented", "the end of its process", "crash"]
        yield name, seen and [f"{gpu.gfx}:{gpu.aiter.value}", *seen]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Mutation run over vLLM's own selector.")
    parser.add_argument("folder", type=Path, help="an unpacked release")
    parser.add_argument("--platform", nargs="+", default=PLATFORMS, metavar="GFX:AITER")
    parser.add_argument(
        "--share", default="1/1", metavar="I/N", help="each N-th mutant from the I-th"
    )
    parser.add_argument("--only", type=Path, help="a file with a JSON list of names: only these")
    parser.add_argument("--output", type=Path, help="a file for the results, as a JSON list")
    parser.add_argument("--list", action="store_true", help="print the mutants, run nothing")
    arguments = parser.parse_args()
    part, _, parts = arguments.share.partition("/")
    share, of = int(part), int(parts)
    only = json.loads(arguments.only.read_text("utf-8")) if arguments.only else None
    gpus = [
        Gpu(gfx, Aiter(aiter)) for gfx, _, aiter in (p.partition(":") for p in arguments.platform)
    ]
    sys.path.insert(0, str(arguments.folder.resolve()))

    settled: dict[str, list[str] | None] = {}

    def wanted(number: int, name: str) -> bool:
        if settled:
            return name in settled and settled[name] is None
        return number % of == share - 1 and (only is None or name in only)

    for gpu in gpus[:1] if arguments.list else gpus:
        found = _forked(partial(run, gpu, wanted, try_them=not arguments.list))
        for name, seen in found:
            settled[name] = seen
            if seen or arguments.list:
                print(json.dumps({"name": name, "seen": seen}), flush=True)
        if not arguments.list and None not in settled.values():
            break
    results = [{"name": name, "seen": seen} for name, seen in settled.items()]
    for result in results if not arguments.list else ():
        if result["seen"] is None:
            print(json.dumps(result), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
