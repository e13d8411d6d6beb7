"""The process's side of the questions that tier capabilities asks, besides "select".

    construct   select; then build what was selected, for that very request
    build       build one backend directly, with each of some values
    declare     import one backend, and read what its class declares
    import      import one module of the fork
    runtime     what importing the selector asked of the device's runtime
    platform    which platform the fork's own detection finds
    cache-block select; then complete the server's configuration
    names       select and build; then look up the names that the backend's code refers to
    predicates  what the predicates that decide between kernels do not look at
    vision      choose for a vision layer
    server      start a server that is described
    steps       start one, and take its first steps
    capability  which answers change under an impossible compute capability
    code        the predicates and the twin calls of the fork's code
    interfaces  what the server uses of its platform and of backend classes, and what does not fit
    devices     which device the platform means by each ordinal

Each answers with Told, or with the selection's outcome if nothing was selected. What the fork raises
is an answer; what we ourselves cannot do is marked "ours", and is never the fork's fault.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from pytest_rocm_attn.conformance.adapters import Constructs, Declares, LacksError, Serves, Starts
from pytest_rocm_attn.conformance.adapters.construct import step_of
from pytest_rocm_attn.conformance.isolation.inside import startup
from pytest_rocm_attn.conformance.isolation.inside.neutral import STAND_INS
from pytest_rocm_attn.conformance.isolation.inside.outcomes import ask, remedy
from pytest_rocm_attn.conformance.isolation.inside.refusal import is_refusal, text_of
from pytest_rocm_attn.conformance.promise.capability_table import with_value
from pytest_rocm_attn.conformance.promise.servers_file import Server
from pytest_rocm_attn.errors import MockError, SelectorError
from pytest_rocm_attn.flags import EXPLICIT
from pytest_rocm_attn.gpu import Aiter
from pytest_rocm_attn.outcome import Crashed, Outcome, Rejected, Selected, Told

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.conformance.adapters import Adapter
    from pytest_rocm_attn.conformance.adapters.start.started import Fault
    from pytest_rocm_attn.conformance.isolation.question import Question
    from pytest_rocm_attn.gpu import Gpu

SINKS_IS_NONE = "sinks=None"  # detail of "construct": the layer passes that
_LONGEST = 2000  # characters of a message or traceback
# What differs from one run to the next: addresses, and the folder that the mock's packages lie in.
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
_MOCK_FOLDER = re.compile(r"/[^\s\"']*pytest-rocm-attn-mock-[^/\s]+(/tmp[^/\s]+)?")
# What torch says where a tensor is to live on the GPU that is not there.
_NEEDS_DEVICE = ("'CUDA' backend", "not compiled with CUDA", "No HIP GPUs", "no NVIDIA driver")


@dataclass(frozen=True)
class _QuestionKind:
    """How one kind of question is answered.

    Args:
        find: returns the answer, given adapter, question and the backend that was selected; it
            raises LacksError if the fork has nothing that the question is about.
        needs: the protocol that the adapter must have.
        lacks: what an adapter is without it.
        selects: a selection comes first.
    """

    find: Callable[[Any, Question, str], dict[str, Any]]
    needs: Any = object
    lacks: str = ""
    selects: bool = False


def answer(adapter: Adapter, question: Question) -> Outcome:
    """Answer a question of one of the kinds above.

    Told: "backend" if one was selected, and what the kind's function below returns; or what was
    raised, see raised(); or "inapplicable".
    """
    kind = _KINDS[question.kind]
    needs = Declares if question.detail == SINKS_IS_NONE else kind.needs
    if not isinstance(adapter, needs):
        return Told({"inapplicable": kind.lacks})
    told: dict[str, Any] = {}
    try:
        if question.kind == "names":
            question = _naming(question)
            adapter.refresh()  # forgets what was selected for another name
        if kind.selects:
            outcome = _selection(adapter, question)
            if not isinstance(outcome, Selected):
                return outcome
            told["backend"] = outcome.backend
        told |= kind.find(adapter, question, told.get("backend", ""))
    except LacksError as error:
        return Told({"inapplicable": str(error)})
    except BaseException as error:  # noqa: BLE001  foreign code: even SystemExit is its answer
        told |= raised(error, question.gpu)
    return Told(told)


def _selection(adapter: Adapter, question: Question) -> Outcome:
    """Return the outcome of a selection, in words that are the same in every process."""
    outcome = ask(adapter, question.request, dict(question.environ), question.gpu)
    if isinstance(outcome, Crashed):
        return Crashed(outcome.error, _lasting(outcome.traceback))
    if isinstance(outcome, Rejected):
        return Rejected(outcome.error, _lasting(outcome.message))
    return outcome


def _naming(question: Question) -> Question:
    """Return the question with its detail, a backend, named in the environment.

    It is not part of the environment from the start, so that all backends are asked in the two
    processes that differ in what else is set.
    """
    os.environ[EXPLICIT] = question.detail  # who answers puts back what was written
    environ = (*question.environ, (EXPLICIT, question.detail))
    return msgspec.structs.replace(question, environ=environ)


def _construct(adapter: Constructs, asked: Question, backend: str) -> dict[str, Any]:
    none_for_sinks = asked.detail == SINKS_IS_NONE
    adapter.construct(
        asked.request, backend, dict(asked.environ), asked.gpu, none_for_sinks=none_for_sinks
    )
    return {}


def _build(adapter: Constructs, asked: Question, backend: str) -> dict[str, Any]:
    """Build a backend directly for the request with each value of each limit in the detail.

    Returns: "results": [limit, value, what was raised or None] of each.
    """
    detail = json.loads(asked.detail)
    results: list[tuple[str, Any, dict[str, Any] | None]] = []
    for limit, values in detail["values"].items():
        for value in values:
            error: dict[str, Any] | None = None
            try:
                request = with_value(asked.request, limit, value)
                adapter.construct(request, detail["backend"], dict(asked.environ), asked.gpu)
            except BaseException as error_raised:  # noqa: BLE001  foreign code: it is the result
                error = raised(error_raised, asked.gpu)
            results.append((limit, value, error))
    return {"results": results}


def _declare(adapter: Declares, asked: Question, backend: str) -> dict[str, Any]:
    detail = json.loads(asked.detail)
    return adapter.declare(detail["backend"], detail["values"])


def _import(adapter: Declares, asked: Question, backend: str) -> dict[str, Any]:
    adapter.import_module(asked.detail)
    return {}


def _runtime(adapter: Adapter, asked: Question, backend: str) -> dict[str, Any]:
    """Return the "calls", in words, that would have started the device's runtime in the import."""
    if startup.runtime_calls is None:
        raise LacksError("nothing is mocked, so calls are not counted")
    return {"calls": [_lasting(call) for call in startup.runtime_calls]}


def _before_workers(adapter: Serves, asked: Question, backend: str) -> dict[str, Any]:
    """Return what the server asks its platform before it starts workers, and what started the runtime.

    Returns: "asked": the questions; "started": question -> calls that would have started it.
    """
    if startup.calls_by_now is None:
        raise LacksError("nothing is mocked, so calls are not counted")
    names, started = [], {}
    for name, question in adapter.asked_before_workers():
        names.append(name)
        before = len(startup.calls_by_now())
        with contextlib.suppress(Exception):  # what fails is another item's finding
            question()
        if calls := startup.calls_by_now()[before:]:
            started[name] = [_lasting(call) for call in calls]
    return {"asked": names, "started": started}


def _cache_block(adapter: Serves, asked: Question, backend: str) -> dict[str, Any]:
    block = adapter.cache_block(asked.request, backend, dict(asked.environ), asked.gpu)
    return {"block_size": block}


def _names(adapter: Serves, asked: Question, backend: str) -> dict[str, Any]:
    names = adapter.unresolved(asked.request, backend, dict(asked.environ), asked.gpu)
    return {"missing": names}


def _server(adapter: Starts, asked: Question, backend: str) -> dict[str, Any]:
    """Return how far a server got, by the names of the fields of Started; "steps" are left out."""
    server = msgspec.json.decode(asked.detail, type=Server)
    started = adapter.start(server, dict(asked.environ))
    return {
        "backends": started.backends,
        "asked": started.asked,
        "left_out": started.left_out,
        "unasked": started.unasked,
        "not_filled": started.not_filled,
        "joins": [_fault(one, asked.gpu) for one in started.joins],
        "faults": [_fault(one, asked.gpu) for one in started.faults],
    }


def _steps(adapter: Starts, asked: Question, backend: str) -> dict[str, Any]:
    """Return the result of a server's first steps: "backends", and "steps", None if it does not start."""
    server = msgspec.json.decode(asked.detail, type=Server)
    started = adapter.start(server, dict(asked.environ), asked.gpu)
    steps = started.steps
    if steps is None:
        return {"backends": started.backends, "missing": started.missing, "steps": None}
    return {
        "backends": started.backends,
        "steps": {
            "taken": steps.taken,
            "launches": steps.launches,
            "calls": steps.calls,
            "faults": [_fault(one, asked.gpu) for one in steps.faults],
            "declined": [_fault(one, asked.gpu) for one in steps.declined],
        },
    }


def _fault(fault: Fault, gpu: Gpu) -> dict[str, Any]:
    said: dict[str, Any] = {"layers": list(fault.layers), "doing": fault.doing}
    if fault.error is not None:
        return said | raised(fault.error, gpu)
    return said | {"words": _lasting(fault.words)}


def _capability(adapter: Starts, asked: Question, backend: str) -> dict[str, Any]:
    return {"changes": adapter.capability_changes(dict(asked.environ), asked.gpu)}


def _plugins(adapter: Starts, asked: Question, backend: str) -> dict[str, Any]:
    answers = adapter.answers_with_plugins(dict(asked.environ), asked.gpu)
    return {"answers": {words: _lasting(said) for words, said in answers.items()}}


_NO_CLASSES = "the selector's adapter does not know backend classes"
_NO_SERVER = "the selector's adapter does not know a server"
_KINDS = {
    "construct": _QuestionKind(
        _construct, Constructs, "the selector has no construct() (docs/adapters.md)", selects=True
    ),
    "build": _QuestionKind(
        _build, Constructs, "the selector has no construct() (docs/adapters.md)"
    ),
    "declare": _QuestionKind(_declare, Declares, _NO_CLASSES),
    "import": _QuestionKind(_import, Declares, "the selector's adapter does not know modules"),
    "runtime": _QuestionKind(_runtime),
    "before-workers": _QuestionKind(_before_workers, Serves, _NO_SERVER),
    "platform": _QuestionKind(lambda server, *_: server.platform_found(), Serves, _NO_SERVER),
    "cache-block": _QuestionKind(_cache_block, Serves, _NO_SERVER, selects=True),
    "names": _QuestionKind(_names, Serves, _NO_SERVER, selects=True),
    "predicates": _QuestionKind(
        lambda server, *_: {"predicates": server.unheeded()}, Serves, _NO_SERVER
    ),
    "server": _QuestionKind(_server, Starts, _NO_SERVER),
    "steps": _QuestionKind(_steps, Starts, _NO_SERVER),
    "capability": _QuestionKind(_capability, Starts, _NO_SERVER),
    "code": _QuestionKind(lambda server, *_: server.read_code(), Starts, _NO_SERVER),
    "interfaces": _QuestionKind(
        lambda server, *_: {"misfits": server.misfits()}, Starts, _NO_SERVER
    ),
    "devices": _QuestionKind(lambda server, *_: {"devices": server.devices()}, Starts, _NO_SERVER),
    "plugins": _QuestionKind(_plugins, Starts, _NO_SERVER),
    "vision": _QuestionKind(
        lambda server, asked, _: server.vision(asked.request, asked.detail), Serves, _NO_SERVER
    ),
}


def raised(error: BaseException, gpu: Gpu) -> dict[str, Any]:
    """Return an exception as plain data, the same in every process.

    "deliberate" says that it is a refusal (conformance/isolation/inside/refusal.py); "ours" that it
    is not caused by the fork's.
    """
    blame = _our_doing(error, gpu)
    step = step_of(error)
    data: dict[str, Any] = {
        "step": step.doing if step else "",
        "stage": step.stage if step else "",
        "error": type(error).__name__,
        "message": _lasting(blame or _message(error))[:_LONGEST],
        "deliberate": is_refusal(error),
        "traceback": _lasting("".join(traceback.format_exception(error)))[-_LONGEST:],
    }
    if blame:
        data["ours"] = True
    return data


def _message(error: BaseException) -> str:
    """Return an exception's message, with what to do about a failed import after its first line."""
    first, line_end, rest = text_of(error).strip().partition("\n")
    return f"{first}{remedy(error)}{line_end}{rest}"


def _lasting(text: str) -> str:
    return _MOCK_FOLDER.sub("(mock)", _ADDRESS.sub("0x...", text))


def _our_doing(error: BaseException, gpu: Gpu) -> str:
    """Return why an exception does not show anything about the fork: what our stand-ins lack; "" when it does."""
    for one in (error, error.__cause__):
        if isinstance(one, MockError | SelectorError):
            return str(one)
    package = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if package in STAND_INS and gpu.aiter is Aiter.PRESENT:
        # "from aiter import name" turns the mock's own error into an ImportError.
        return f"{error}: the mocked platform's {package} lacks it; report that to pytest-rocm-attn"
    if any(words in str(error) for words in _NEEDS_DEVICE):
        return f"{error}: building needs a GPU, so nothing can be said without one"
    return ""
