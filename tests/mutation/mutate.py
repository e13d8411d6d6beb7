"""Break the selector, the policy, the limits and the flags, one place at a time: does a test see it?

    python tests/mutation/mutate.py [--jobs N] [--list] [--policies] [WORD ...]

Each mutant is one change to one syntax tree. A forked process loads it in place of the module (no
file is changed) and runs the tests until one fails. A mutant that no test notices is a survivor;
EQUIVALENT lists those that cannot be noticed, each with its reason, and an entry that names no
surviving mutant is an error. Words select the mutants whose name contains one of them. --policies
breaks the policies of releases instead: a mutant that their tests do not notice is asked for the recorded
cells that one of these tests draws, in the forked process itself.

Exit code: 0 when every survivor is listed, 1 otherwise.
"""

from __future__ import annotations

import argparse
import ast
import gc
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SECONDS = 300  # per mutant; a mutant that loops for ever counts as noticed

REFERENCE = (
    "tests/backends/test_policy.py",
    "tests/backends/test_selector.py",
    "tests/backends/test_inverse.py",
)
POLICIES = ("tests/backends/test_declarations.py", "tests/backends/test_releases.py")
ALL = (*REFERENCE, *POLICIES)
# Module -> its file, and the tests that must notice a change in it.
MODULES = {
    "pytest_rocm_attn.flags": ("pytest_rocm_attn/flags.py", ("tests/plugin/test_flags.py",)),
    "pytest_rocm_attn.backends.selector": ("backends/selector.py", ALL),
    "pytest_rocm_attn.backends.policy": ("backends/policy.py", ALL),
    "pytest_rocm_attn.backends.capabilities": ("backends/capabilities.py", ALL),
    "pytest_rocm_attn.backends.inverse": ("backends/inverse.py", REFERENCE),
    "pytest_rocm_attn.backends.releases": ("backends/releases.py", POLICIES),
    "pytest_rocm_attn.backends.declarations": ("backends/declarations.py", POLICIES),
}

# Mutants that change nothing that can be seen, and why.
EQUIVALENT: dict[str, str] = {
    "inverse _leads_to: return False -> return None": "its one caller asks for its truth only",
}

_COMPARE: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
}
_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mod: ast.FloorDiv,
    ast.BitOr: ast.BitAnd,
}
# Words are data (names, values, texts that a variable can have); prose is not mutated.
_WORD = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Mutant:
    """One change: put `change` at `field` (and `index`, in a list) of `parent`."""

    name: str
    module: str
    parent: ast.AST
    field: str
    index: int | None
    change: ast.AST | None  # None takes the element out of its list

    def apply(self) -> None:
        if self.index is None:
            setattr(self.parent, self.field, self.change)
            return
        values = getattr(self.parent, self.field)
        values[self.index : self.index + 1] = [] if self.change is None else [self.change]


def mutants_of(module: str, tree: ast.Module) -> Iterator[Mutant]:
    """Yield every mutant of one module, with a name that does not depend on line numbers."""
    seen: Counter[str] = Counter()
    for scope, parent, field, index, node in places(tree, ()):
        for change in changes(parent, field, node):
            before, after = text_of(node), "(nothing)" if change is None else text_of(change)
            if before == after:
                continue
            name = f"{module.rpartition('.')[2]} {'.'.join(scope)}: {before} -> {after}"
            seen[name] += 1
            if seen[name] > 1:
                name += f" #{seen[name]}"
            yield Mutant(name, module, parent, field, index, change)


def places(
    node: ast.AST, scope: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], ast.AST, str, int | None, ast.AST]]:
    """Yield every node with where it hangs; not annotations, docstrings, imports for typing."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if not isinstance(child, ast.AST) or _is_docstring(child) or _is_for_typing(child):
                continue
            inner = scope
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                inner = (*scope, child.name)
            elif isinstance(child, (ast.Assign, ast.AnnAssign)) and not scope:
                target = child.targets[0] if isinstance(child, ast.Assign) else child.target
                inner = (ast.unparse(target),)
            yield inner, node, field, index, child
            yield from places(child, inner)


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_for_typing(node: ast.AST) -> bool:
    if isinstance(node, ast.AnnAssign):
        return ast.unparse(node.annotation) == "TypeAlias"
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def changes(parent: ast.AST, field: str, node: ast.AST) -> Iterator[ast.AST | None]:
    """Yield what could stand in a node's place; None takes it out of its list."""
    match node:
        case ast.Compare(left, [operator], right):
            for other in _COMPARE.get(type(operator), ()):
                yield ast.Compare(left, [other()], right)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
            yield from values
        case ast.UnaryOp(ast.Not(), operand):
            yield operand
        case ast.BinOp(left, operator, right) if type(operator) in _BINARY:
            yield ast.BinOp(left, _BINARY[type(operator)](), right)
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.Constant(str() as value) if _WORD.fullmatch(value) and not _in_text(parent):
            yield ast.Constant(value + "_X")
        case ast.Return(value) if value is not None:
            yield ast.Return(ast.Constant(None))
        case ast.Raise():
            yield ast.Pass()
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()
        case ast.Expr(ast.Call()) | ast.AugAssign():
            yield ast.Pass()
        case ast.Lambda(arguments, body):
            yield ast.Lambda(arguments, ast.UnaryOp(ast.Not(), body))
        case _:
            pass
    if field == "test" and isinstance(parent, (ast.If, ast.IfExp, ast.While)):
        yield ast.Constant(True)
        yield ast.Constant(False)
    is_element = field == "elts" and isinstance(parent, (ast.Tuple, ast.List, ast.Set))
    if (is_element and isinstance(getattr(parent, "ctx", ast.Load()), ast.Load)) or (
        field == "ifs" and isinstance(parent, ast.comprehension)
    ):
        yield None


def _in_text(parent: ast.AST) -> bool:
    return isinstance(parent, (ast.JoinedStr, ast.FormattedValue))


def text_of(node: ast.AST) -> str:
    """Return a node as source, cut in the middle where it is long."""
    text = " ".join(ast.unparse(ast.fix_missing_locations(node)).split())
    return text if len(text) <= 100 else f"{text[:60]}...{text[-37:]}"


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, tree: ast.Module) -> None:
        super().__init__(fullname, path)
        self.tree = tree

    def get_code(self, fullname: str) -> Any:
        return compile(self.tree, self.path, "exec")


class _Finder(MetaPathFinder):
    """Hand out one module from a syntax tree instead of from its file."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        self.module, self.tree = module, tree

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != self.module:
            return None
        file = str(ROOT / MODULES[fullname][0])
        return spec_from_file_location(fullname, file, loader=_Loader(fullname, file, self.tree))


@dataclass
class Drawn:
    """The questions of the sample of recorded cells, and what the releases decided.

    Attributes:
        asked: release -> (cell, environment, decision) of each cell.
    """

    asked: dict[str, list[tuple[Any, dict[str, str], str]]]

    @classmethod
    def read(cls) -> Drawn:
        """Draw them as tests/backends/test_releases.py does, in this process."""
        tests = _tests_of_policies()
        return cls({r: list(tests.questions(r, tests.STRIDE)) for r in tests.RECORDED})

    def differ(self) -> bool:
        """Say whether the policies of this process decide one of them otherwise."""
        from pytest_rocm_attn.backends import selector

        tests = _tests_of_policies()
        # The texts of refusals take most of the time. Other tests look at them.
        said: Any = selector
        names = ("_message", "_other_names", "_other_switches", "_other_flags", "nearest")
        own = {name: getattr(said, name) for name in names}
        for name in names:
            setattr(said, name, lambda *_: "")
        try:
            return any(
                not tests.agrees(tests.decision(policy, cell.request, cell.gpu, environ), decided)
                for policy, questions in (
                    (tests.policy_of(release), questions)
                    for release, questions in self.asked.items()
                )
                for cell, environ, decided in questions
            )
        finally:
            for name, function in own.items():
                setattr(said, name, function)


def _tests_of_policies() -> Any:
    """Import the tests of the policies from their file."""
    spec = spec_from_file_location("tests_of_policies", ROOT / POLICIES[-1])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _forget() -> None:
    """Make this process import the modules under test anew."""
    for name in [name for name in sys.modules if name.startswith("pytest_rocm_attn.backends")]:
        del sys.modules[name]


def _run_tests(module: str, tree: ast.Module, drawn: Drawn | None) -> int:
    """Run the module's tests against tree, in this process; return pytest's exit code."""
    import pytest

    devnull = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(devnull, stream)
    sys.meta_path.insert(0, _Finder(module, tree))
    os.chdir(ROOT)
    plugins = ("rocm_attn", "randomly", "xdist", "cacheprovider")
    code = pytest.main(
        [
            *(word for plugin in plugins for word in ("-p", f"no:{plugin}")),
            *("-x", "-q", "--assert=plain", "--tb=no"),
            *("-k", "not on_a_sample_of_the_grid"),  # that is what is drawn
            *MODULES[module][1],
        ]
    )
    return int(code) or int(drawn is not None and drawn.differ())


def _fork(module: str, tree: ast.Module, mutant: Mutant | None, drawn: Drawn | None = None) -> int:
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        if mutant is not None:
            mutant.apply()
        code = _run_tests(module, ast.fix_missing_locations(tree), drawn)
    finally:  # whatever was raised: the mutant was noticed, and the parent's stack is not ours
        os._exit(code)


def run(
    mutants: list[Mutant], trees: dict[str, ast.Module], jobs: int, drawn: Drawn | None = None
) -> list[Mutant]:
    """Return the mutants that no test noticed."""
    survivors: list[Mutant] = []
    running: dict[int, Mutant] = {}
    waiting = list(reversed(mutants))
    done = 0
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            running[_fork(mutant.module, trees[mutant.module], mutant, drawn)] = mutant
        pid, status = os.wait()
        mutant = running.pop(pid)
        done += 1
        if status == 0:
            survivors.append(mutant)
            print(f"[{done}/{len(mutants)}] survived: {mutant.name}", flush=True)
        elif done % 50 == 0:
            print(f"[{done}/{len(mutants)}]", flush=True)
    return survivors


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Mutation run over the reference selector.")
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="only mutants with one in the name"
    )
    parser.add_argument("--policies", action="store_true", help="those of the releases' policies")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the mutants, run nothing")
    arguments = parser.parse_args()
    trees = {
        module: ast.parse((ROOT / file).read_text("utf-8"))
        for module, (file, tests) in MODULES.items()
        if (tests == POLICIES) == arguments.policies
    }
    mutants = [mutant for module, tree in trees.items() for mutant in mutants_of(module, tree)]
    if arguments.words:
        mutants = [m for m in mutants if any(word in m.name for word in arguments.words)]
    if arguments.list:
        print("\n".join(mutant.name for mutant in mutants))
        return 0

    # What a forked process need not import again. The modules under test stay out.
    import hypothesis.strategies
    import pytest  # noqa: F401  imported for the forked processes

    # The same examples every time, and no search for a smaller one: to fail is enough.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile(
        "mutation", derandomize=True, database=None, deadline=None, phases=phases, max_examples=50
    )
    hypothesis.settings.load_profile("mutation")

    assert not [name for name in sys.modules if name.startswith("pytest_rocm_attn")]
    drawn = Drawn.read() if arguments.policies else None
    _forget()
    gc.freeze()  # what is there already is shared with every forked process: collecting would copy it
    start = time.monotonic()
    os.environ.pop("PYTEST_ADDOPTS", None)
    for module in {MODULES[mutant.module][1]: mutant.module for mutant in mutants}.values():
        if os.waitpid(_fork(module, trees[module], None, drawn), 0)[1]:
            print(f"the tests of {module} fail without any mutation; mend them first")
            return 1
    survivors = run(mutants, trees, arguments.jobs, drawn)
    listed = [mutant.name for mutant in survivors if mutant.name in EQUIVALENT]
    open_ = [mutant.name for mutant in survivors if mutant.name not in EQUIVALENT]
    modules = {module.rpartition(".")[2] for module in trees}
    of_these = {name for name in EQUIVALENT if name.partition(" ")[0] in modules}
    unused = [] if arguments.words else sorted(of_these - set(listed))
    noticed = len(mutants) - len(survivors)
    print(
        f"{len(mutants)} mutants: {noticed} noticed, {len(listed)} equivalent,"
        f" {len(open_)} survived, in {time.monotonic() - start:.0f} s"
    )
    for name in open_:
        print(f"survived: {name}")
    for name in unused:
        print(f"listed as equivalent, but it is noticed or gone: {name}")
    return 1 if open_ or unused else 0


if __name__ == "__main__":
    sys.exit(main())
