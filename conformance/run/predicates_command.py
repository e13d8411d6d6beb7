"""``rocm-attn predicates``: what a fork's predicates answer, from GPU to GPU and from release to release."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.isolation import Pool, Question, Subject
from pytest_rocm_attn.conformance.report import whole_file
from pytest_rocm_attn.errors import RocmAttnError
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.outcome import Told
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Mapping

# GPU -> a predicate with its arguments -> what it answers.
Tables = dict[str, dict[str, str]]

_NOTHING = "-"  # in the table of a GPU or a release that has no such predicate


class PredicatesError(RocmAttnError, ValueError):
    """The predicates cannot be asked, written or compared; says which."""


def run(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of what the arguments ask for; write the tables if they name a file.

    Raises:
        PredicatesError: the selector has no such code, or a file cannot be read or written.
        SelectorError: the selector cannot be imported, or is not one.
    """
    gpus = [Gpu(name).gfx for name in arguments.gpu]
    found = tables(arguments.selector, gpus, dict(arguments.environ), arguments.timeout)
    if arguments.output is not None:
        try:
            text = json.dumps(found, indent=1, sort_keys=True)
            whole_file.write(arguments.output, text.encode())
        except OSError as error:
            raise PredicatesError(
                f"--output {arguments.output}: cannot be written ({error.strerror}); choose another place"
            ) from None
    if arguments.against is not None:
        return changes(read(arguments.against), found)
    return differences(found)


def tables(
    selector: str, gpus: Iterable[str], environ: Mapping[str, str], timeout: float
) -> Tables:
    """Return the answers of a selector's predicates on each of some GPUs.

    Raises:
        PredicatesError: the selector's adapter does not know its fork's code.
    """
    asked = {gfx: Question.of(Gpu(gfx), environ, Request(), "code") for gfx in gpus}
    found: Tables = {}
    with contextlib.closing(Pool(Subject(selector, timeout=timeout), lanes=1)) as pool:
        for gfx, future in zip(asked, pool.submit(asked.values()), strict=True):
            outcome = future.result().outcome
            if not isinstance(outcome, Told) or "predicates" not in outcome.data:
                data = outcome.data if isinstance(outcome, Told) else {}
                why = data.get("inapplicable") or data.get("message") or outcome
                raise PredicatesError(f"{selector} on {gfx}: its predicates cannot be asked: {why}")
            found[gfx] = {
                f"{predicate}({words})": said
                for predicate, answers in outcome.data["predicates"].items()
                for words, said in answers.items()
            }
    return found


def read(path: Path) -> Tables:
    """Return the tables of a file.

    Raises:
        PredicatesError: it cannot be read, or does not hold any.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise PredicatesError(
            f"--against {path}: cannot be read ({error.strerror}); check the path"
        ) from None
    except ValueError as error:
        raise PredicatesError(
            f"--against {path}: is not JSON ({error}); name a file that this command wrote"
        ) from None
    is_one = isinstance(found, dict) and all(
        isinstance(table, dict) and all(isinstance(said, str) for said in table.values())
        for table in found.values()
    )
    if not is_one:
        raise PredicatesError(f"--against {path}: holds no predicates; write it with --output")
    return dict(found)


def differences(found: Tables) -> Iterator[str]:
    """Yield a line for each predicate that answers differently on two of the GPUs."""
    for name in sorted({name for table in found.values() for name in table}):
        by_answer: dict[str, list[str]] = {}
        for gfx, table in found.items():
            by_answer.setdefault(table.get(name, _NOTHING), []).append(gfx)
        if len(by_answer) > 1:
            said = "; ".join(f"{answer}: {', '.join(on)}" for answer, on in by_answer.items())
            yield f"{name}  {said}"


def changes(before: Tables, after: Tables) -> Iterator[str]:
    """Yield a line for each predicate that answers differently than before, with the GPUs.

    Says if there is none, and on which GPUs nothing was asked before.
    """
    changed: dict[tuple[str, str, str], list[str]] = {}
    for gfx in (gfx for gfx in after if gfx in before):
        for name in sorted(before[gfx].keys() | after[gfx].keys()):
            pair = before[gfx].get(name, _NOTHING), after[gfx].get(name, _NOTHING)
            if pair[0] != pair[1]:
                changed.setdefault((name, *pair), []).append(gfx)
    for (name, old, new), gpus in sorted(changed.items()):
        yield f"{name}  {old} -> {new}  on {', '.join(gpus)}"
    if not changed:
        yield "no predicate answers differently than before"
    if new_gpus := [gfx for gfx in after if gfx not in before]:
        yield f"not compared, because the file has no answers for them: {', '.join(new_gpus)}"
