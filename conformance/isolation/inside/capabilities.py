"""The worker's side of the questions that this tier asks, beside "select".

    construct   select; then build what was selected, for that very request
    declare     import one backend, and read what its class declares
    import      import one module of the fork
    runtime     what importing the selector asked of the device's runtime
    platform    which platform the fork's own detection comes to
    cache-block select; then complete the server's configuration
    names       select and build; then look up the names that the backend's code refers to
    predicates  what the predicates that decide between kernels do not look at
    vision      choose for a vision layer

Each answers with Told, or with what the selection came to where nothing was selected. What the fork
raises is an answer; what we ourselves cannot do is told as "ours", and is never the fork's fault.
"""

from __future__ import annotations

import json
import os
import re
import traceback
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters import Constructs, Declares, Serves
from pytest_rocm_attn.conformance.adapters.construct import step_of
from pytest_rocm_attn.conformance.isolation.inside import startup
from pytest_rocm_attn.conformance.isolation.inside.neutral import STAND_INS
from pytest_rocm_attn.conformance.isolation.inside.outcomes import ask
from pytest_rocm_attn.conformance.isolation.inside.refusal import is_refusal
from pytest_rocm_attn.conformance.promise.grid.design import CHOICE
from pytest_rocm_attn.errors import MockError, SelectorError
from pytest_rocm_attn.gpu import Aiter
from pytest_rocm_attn.outcome import Crashed, Outcome, Rejected, Selected, Told

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_rocm_attn.conformance.adapters import Adapter
    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.request import Request

SINKS_IS_NONE = "sinks=None"  # detail of "construct": the layer passes that
_LONGEST = 2000  # characters of a message or traceback
# What differs from one run to the next: addresses, and the folder that the mock's packages lie in.
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
_MOCK_FOLDER = re.compile(r"/[^\s\"']*pytest-rocm-attn-mock-[^/\s]+(/tmp[^/\s]+)?")
# What torch says where a tensor is to live on the GPU that is not there.
_NEEDS_DEVICE = ("'CUDA' backend", "not compiled with CUDA", "No HIP GPUs", "no NVIDIA driver")


def construct(
    adapter: Adapter, request: Request, environ: Mapping[str, str], gpu: Gpu, detail: str
) -> Outcome:
    """Select, then build. Told: "backend", "built", and where that is false what went wrong."""
    optional_sinks = detail == SINKS_IS_NONE
    if not isinstance(adapter, Constructs) or (
        optional_sinks and not isinstance(adapter, Declares)
    ):
        return Told({"inapplicable": "the selector has no construct() (docs/adapters.md)"})
    outcome = _selection(adapter, request, environ, gpu)
    if not isinstance(outcome, Selected):
        return outcome
    try:
        adapter.construct(request, outcome.backend, environ, gpu, none_for_sinks=optional_sinks)
    except BaseException as error:  # noqa: BLE001  SystemExit is an answer of its too
        return Told({"backend": outcome.backend, "built": False, **raised(error, gpu)})
    return Told({"backend": outcome.backend, "built": True})


def _selection(adapter: Adapter, request: Request, environ: Mapping[str, str], gpu: Gpu) -> Outcome:
    """Return what a selection comes to, in words that are the same in every process."""
    outcome = ask(adapter, request, environ, gpu)
    if isinstance(outcome, Crashed):
        return Crashed(outcome.error, _lasting(outcome.traceback))
    if isinstance(outcome, Rejected):
        return Rejected(outcome.error, _lasting(outcome.message))
    return outcome


def declare(
    adapter: Adapter, request: Request, environ: Mapping[str, str], gpu: Gpu, detail: str
) -> Outcome:
    """Import a backend, and read its class. Told: see vllm_backends.Backends.declare()."""
    if not isinstance(adapter, Declares):
        return Told({"inapplicable": "the selector's adapter knows no backend classes"})
    asked = json.loads(detail)
    try:
        return Told(adapter.declare(asked["backend"], asked["values"]))
    except KeyError as error:
        if error.args == (asked["backend"],):
            return Told({"inapplicable": f"the fork has no backend {asked['backend']}"})
        return Told(raised(error, gpu))
    except BaseException as error:  # noqa: BLE001  its import may raise anything, SystemExit too
        return Told(raised(error, gpu))


def import_module(
    adapter: Adapter, request: Request, environ: Mapping[str, str], gpu: Gpu, detail: str
) -> Outcome:
    """Import one module of the fork. Told: nothing, or what was raised."""
    if not isinstance(adapter, Declares):
        return Told({"inapplicable": "the selector's adapter knows no modules"})
    try:
        adapter.import_module(detail)
    except BaseException as error:  # noqa: BLE001  its import may raise anything, SystemExit too
        return Told(raised(error, gpu))
    return Told({})


def runtime(
    adapter: Adapter, request: Request, environ: Mapping[str, str], gpu: Gpu, detail: str
) -> Outcome:
    """Told: "calls", in words, that would have started the device's runtime during the import."""
    if startup.runtime_calls is None:
        return Told({"inapplicable": "nothing is mocked, so that no call is counted"})
    return Told({"calls": [_lasting(call) for call in startup.runtime_calls]})


def _serving(
    adapter: Adapter, gpu: Gpu, ask_it: Callable[[Serves], dict[str, Any]], lacks: str
) -> Outcome:
    """Ask an adapter about its server; KeyError(lacks) is its way to say that it has no such thing."""
    if not isinstance(adapter, Serves):
        return Told({"inapplicable": "the selector's adapter knows no server"})
    try:
        return Told(ask_it(adapter))
    except BaseException as error:  # noqa: BLE001  foreign code: SystemExit is an answer of its too
        if isinstance(error, KeyError) and error.args == (lacks,):
            return Told({"inapplicable": f"the fork has no {lacks}"})
        return Told(raised(error, gpu))


def platform(
    adapter: Adapter, request: Request, environ: Mapping[str, str], gpu: Gpu, detail: str
) -> Outcome:
    """Told: what Serves.platform_found() gives."""
    return _serving(adapter, gpu, lambda server: server.platform_found(), "")


def cache_block(
    adapter: Adapter, request: Request, environ: Mapping[str, str], gpu: Gpu, detail: str
) -> Outcome:
    """Select, then complete the configuration. Told: "backend", "block_size"."""
    return _selected(
        adapter,
        request,
        environ,
        gpu,
        lambda server, backend: {"block_size": server.cache_block(request, backend, environ, gpu)},
    )


def unresolved_names(
    adapter: Adapter, request: Request, environ: Mapping[str, str], gpu: Gpu, detail: str
) -> Outcome:
    """Select and build, then look names up. Told: "backend", "missing".

    The detail is the backend that is named: not part of the environment, so that all backends are
    asked in the two processes that differ in what else is set.
    """
    environ = {**environ, CHOICE: detail}
    os.environ[CHOICE] = detail  # who answers puts back what was written
    try:
        adapter.refresh()  # forgets what was selected for another name
    except BaseException as error:  # noqa: BLE001  foreign code
        return Told(raised(error, gpu))
    return _selected(
        adapter,
        request,
        environ,
        gpu,
        lambda server, backend: {"missing": server.unresolved(request, backend, environ, gpu)},
    )


def _selected(
    adapter: Adapter,
    request: Request,
    environ: Mapping[str, str],
    gpu: Gpu,
    ask_it: Callable[[Serves, str], dict[str, Any]],
) -> Outcome:
    """Select, then ask the server about what was selected."""
    if not isinstance(adapter, Serves):
        return Told({"inapplicable": "the selector's adapter knows no server"})
    outcome = _selection(adapter, request, environ, gpu)
    if not isinstance(outcome, Selected):
        return outcome
    backend = outcome.backend
    return _serving(
        adapter, gpu, lambda server: {"backend": backend, **ask_it(server, backend)}, ""
    )


def predicates(
    adapter: Adapter, request: Request, environ: Mapping[str, str], gpu: Gpu, detail: str
) -> Outcome:
    """Told: "predicates", as Serves.unheeded() gives them."""
    return _serving(adapter, gpu, lambda server: {"predicates": server.unheeded()}, "")


def vision(
    adapter: Adapter, request: Request, environ: Mapping[str, str], gpu: Gpu, detail: str
) -> Outcome:
    """Told: what Serves.vision() gives; the detail is the backend that is named for vision layers."""
    lacks = detail or "get_vit_attn_backend"
    return _serving(adapter, gpu, lambda server: server.vision(request, detail), lacks)


ANSWERS: dict[str, Callable[[Adapter, Request, Mapping[str, str], Gpu, str], Outcome]] = {
    "construct": construct,
    "declare": declare,
    "import": import_module,
    "runtime": runtime,
    "platform": platform,
    "cache-block": cache_block,
    "names": unresolved_names,
    "predicates": predicates,
    "vision": vision,
}


def raised(error: BaseException, gpu: Gpu) -> dict[str, Any]:
    """Return an exception as plain data, the same in every process.

    "deliberate" says that it is a refusal (conformance/isolation/inside/refusal.py); "ours" that it is no doing of
    the fork's.
    """
    blame = _our_doing(error, gpu)
    step = step_of(error)
    data: dict[str, Any] = {
        "step": step.doing if step else "",
        "stage": step.stage if step else "",
        "error": type(error).__name__,
        "message": _lasting(blame or str(error))[:_LONGEST],
        "deliberate": is_refusal(error),
        "traceback": _lasting("".join(traceback.format_exception(error)))[-_LONGEST:],
    }
    if blame:
        data["ours"] = True
    return data


def _lasting(text: str) -> str:
    return _MOCK_FOLDER.sub("(mock)", _ADDRESS.sub("0x...", text))


def _our_doing(error: BaseException, gpu: Gpu) -> str:
    """Return why an exception says nothing of the fork: what our stand-ins lack; "" when it does."""
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
