"""Adapters: one way to ask any selector one question.

An adapter has one method, ``select(request, environ, gpu) -> Outcome-or-answer``; see Adapter. What
a user names on the command line becomes an adapter by its shape, never by its version.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pytest_rocm_attn.errors import RocmAttnError, SelectorError, nearest
from pytest_rocm_attn.flags import Flags
from pytest_rocm_attn.outcome import Selected, Unrecognised
from pytest_rocm_attn.registry import CLASS_PATHS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_rocm_attn.conformance.adapters.start.started import Started
    from pytest_rocm_attn.conformance.promise.naming import Named
    from pytest_rocm_attn.conformance.promise.servers_file import Server
    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.request import Request

REFERENCE = "pytest_rocm_attn.backends:select"
FILE_MODULE = "_rocm_attn_selector_"  # begins the name of a module that a file became


class LacksError(RocmAttnError, LookupError):
    """A fork has nothing that a question is about, or an adapter cannot tell; says which."""


class Adapter(Protocol):
    """What the worker asks of a selector under test."""

    def select(
        self, request: Request, environ: Mapping[str, str], gpu: Gpu
    ) -> Selected | Unrecognised:
        """Ask the selector. Whatever it raises is judged by the worker, not here."""

    def prepare(self, gpu: Gpu) -> None:
        """Do once, before the worker forks, what every question would do again."""

    def refresh(self) -> bool:
        """Make the imported selector see the present os.environ; False when it cannot be done."""


@runtime_checkable
class Names(Protocol):
    """An adapter that knows how its fork's users name backends."""

    def named_by_variable(self, named: Named) -> bool:
        """Say whether that is named by VLLM_ATTENTION_BACKEND; then select() is asked with it set."""

    def select_named(
        self, request: Request, environ: Mapping[str, str], gpu: Gpu, named: Named
    ) -> Selected | Unrecognised:
        """Ask the selector, with what is named put into the fork's configuration.

        Raises:
            LacksError: the fork has nothing that could be asked.
        """


@runtime_checkable
class Constructs(Protocol):
    """An adapter that can also build what was selected."""

    def construct(
        self,
        request: Request,
        backend: str,
        environ: Mapping[str, str],
        gpu: Gpu,
        *,
        none_for_sinks: bool = False,
    ) -> None:
        """Import a backend and build its implementation for a request, on the CPU.

        Whatever it raises is judged by the worker. With none_for_sinks, the layer passes
        ``sinks=None`` as models do whose sinks are optional.
        """


@runtime_checkable
class Fills(Protocol):
    """An adapter that says which fields of a request its fork can receive."""

    def not_asked(self, request: Request) -> tuple[str, ...]:
        """Return the fields in which a request is special and which the fork cannot be asked."""

    def unfilled(self) -> tuple[str, ...]:
        """Return what the fork can be asked besides, and is left at its default, by name."""


@runtime_checkable
class Declares(Protocol):
    """An adapter that knows what its fork's backend classes declare."""

    def declare(self, backend: str, asked: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Import a backend, and return what its class declares, as plain data.

        Args:
            backend: its name in the fork's registry.
            asked: for each limit, the values to ask about.
        """

    def import_module(self, name: str) -> None:
        """Import a module, named below the fork's package."""


@runtime_checkable
class Serves(Protocol):
    """An adapter that knows what its fork's server makes of a machine and of a choice."""

    def platform_found(self) -> dict[str, Any]:
        """Return the "platform" that the fork's own detection finds, and whether it "is_rocm"."""

    def asked_before_workers(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield what the server asks its platform before it starts workers, by name, to be called."""

    def cache_block(
        self, request: Request, backend: str, environ: Mapping[str, str], gpu: Gpu
    ) -> int | None:
        """Return the cache block that the server's configuration gives a selected backend."""

    def unresolved(
        self, request: Request, backend: str, environ: Mapping[str, str], gpu: Gpu
    ) -> list[str]:
        """Build a backend, and return the names that its code refers to and that are not there."""

    def unheeded(self) -> dict[str, Any]:
        """Return, by predicate that decides between kernels, what it does not look at."""

    def vision(self, request: Request, override: str) -> dict[str, Any]:
        """Return what vision attention is given: "backend", and "supported" backends or None."""


@runtime_checkable
class Starts(Protocol):
    """An adapter that can start its fork's server, as far as that goes without a device."""

    def start(self, server: Server, environ: Mapping[str, str], gpu: Gpu | None = None) -> Started:
        """Return how far a described server got, with what the fork raised on the way.

        With a GPU, the mocked one, its first steps are taken too.
        """

    def capability_changes(self, environ: Mapping[str, str], gpu: Gpu) -> list[dict[str, str]]:
        """Return the answers that change under an impossible compute capability."""

    def read_code(self) -> dict[str, Any]:
        """Return the "predicates" and the "twins" of the code that chooses and of what it chooses."""

    def misfits(self) -> list[dict[str, str]]:
        """Return what the server uses of its platform and of backend classes, and what does not fit."""

    def devices(self) -> list[dict[str, Any]]:
        """Return which device the platform means by each ordinal, next to the runtime's."""

    def answers_with_plugins(self, environ: Mapping[str, str], gpu: Gpu) -> dict[str, str]:
        """Return what is answered once the fork's plugins are loaded, by what is asked (plugins.py)."""


class CallableAdapter:
    """Any callable that takes, by name, some of: request, flags, environ, gpu.

    It answers with a backend's name, its class path, its enum member, its class, or an object whose
    ``backend`` is one of these. The names are those of vLLM's registry, or what the selector's ``names`` holds.
    """

    def __init__(
        self, function: Callable[..., object], accepts: frozenset[str], found: object = None
    ) -> None:
        self._function = function
        self._accepts = accepts
        self._found = found
        self.answered: object = None  # the last answer, as it came: it may bring a trace

    def select(
        self, request: Request, environ: Mapping[str, str], gpu: Gpu
    ) -> Selected | Unrecognised:
        offered: dict[str, object] = {"request": request, "environ": environ, "gpu": gpu}
        if "flags" in self._accepts:
            offered["flags"] = Flags(environ)
        self.answered = self._function(**{name: offered[name] for name in self._accepts})
        return recognise(self.answered, self._known)

    @functools.cached_property
    def _known(self) -> Mapping[str, str]:
        """The names of backends: those that the selector has, else those of vLLM's registry."""
        return dict.fromkeys(getattr(self._found, "names", ()), "") or CLASS_PATHS

    def prepare(self, gpu: Gpu) -> None:
        """Call the selector's own ``prepare()``, if it has one; else leave it alone."""
        if callable(prepare := getattr(self._found, "prepare", None)):
            prepare()

    def refresh(self) -> bool:
        return False


class ConstructingAdapter(CallableAdapter):
    """A selector object that also has ``construct``, taking by name some of: request, backend..."""

    def __init__(
        self,
        function: Callable[..., object],
        accepts: frozenset[str],
        build: Callable[..., object],
        spec: str,
        found: object = None,
    ) -> None:
        super().__init__(function, accepts, found)
        self._build = build
        self._build_accepts = _accepted(
            build, spec, _OFFERED_TO_CONSTRUCT, "without a usable construct()"
        )

    def construct(
        self,
        request: Request,
        backend: str,
        environ: Mapping[str, str],
        gpu: Gpu,
        *,
        none_for_sinks: bool = False,
    ) -> None:
        offered = {"request": request, "backend": backend, "environ": environ, "gpu": gpu}
        self._build(**{name: offered[name] for name in self._build_accepts})


_OFFERED = frozenset({"request", "flags", "environ", "gpu"})
_OFFERED_TO_CONSTRUCT = frozenset({"request", "backend", "environ", "gpu"})


def recognise(answer: object, class_paths: Mapping[str, str]) -> Selected | Unrecognised:
    """Return which backend an answer names: a name, a class path, an enum member, a class...

    Args:
        answer: what the selector returned.
        class_paths: backend name -> class path, for answers that are paths or classes.
    """
    candidate = getattr(answer, "backend", answer)
    if isinstance(candidate, type):
        candidate = f"{candidate.__module__}.{candidate.__qualname__}"
    elif not isinstance(candidate, str):
        candidate = getattr(candidate, "name", None)
    if isinstance(candidate, str) and candidate:
        if candidate in class_paths:
            return Selected(candidate)
        for name, path in class_paths.items():
            if path == candidate:
                return Selected(name)
    return Unrecognised(_short(answer))


def recognise_class_path(answer: object, class_paths: Mapping[str, str]) -> Selected | Unrecognised:
    """Return which backend a class path names; anything else is invalid.

    For selectors whose caller resolves the answer as a qualified name, as vLLM does: a backend's
    bare name or its enum member would fail there, so it is not taken here either.
    """
    if isinstance(answer, str):
        for name, path in class_paths.items():
            if path and path == answer:
                return Selected(name)
    return Unrecognised(_short(answer))


def _short(answer: object) -> str:
    try:
        text = repr(answer)
    except Exception as error:  # noqa: BLE001  foreign code: its repr may do anything
        text = f"<{type(answer).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= 200 else text[:197] + "..."


def load(spec: str) -> object:
    """Import what ``module:object`` or ``path/to/file.py:object`` names.

    Raises:
        SelectorError: the spec has no colon, or the object is not there. Whatever the import itself
            raises passes through: it is the selector's own doing.
    """
    place, _, attribute = spec.rpartition(":")
    if not place or not attribute:
        raise SelectorError(
            f"selector {spec!r} is not of the form module:object or file.py:object,"
            " such as vllm.platforms.rocm:RocmPlatform"
        )
    module = _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            names = [name for name in dir(found) if not name.startswith("_")]
            raise SelectorError(
                f"selector {spec!r}: {place} has no {attribute!r}.{nearest(part, names)}"
            ) from None
    return found


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise SelectorError(f"selector file {str(path)!r} does not exist")
    name = f"{FILE_MODULE}{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SelectorError(f"selector file {str(path)!r} is not a Python source file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def adapt(found: object, spec: str) -> Adapter:
    """Return the adapter for an object, found by its shape.

    Raises:
        SelectorError: the object is not a selector; the message describes one.
    """
    from pytest_rocm_attn.conformance.adapters import vllm

    if callable(getattr(found, "get_attn_backend_cls", None)):
        return vllm.PlatformAdapter(found)
    if vllm.is_full_chain(found):
        return vllm.ChainAdapter(found)
    if isinstance(found, type) and callable(getattr(found, "select", None)):
        found = _construct(found, spec)
    if callable(method := getattr(found, "select", None)):
        accepted = _accepted(method, f"{spec}.select")
        if callable(build := getattr(found, "construct", None)):
            adapter: CallableAdapter = ConstructingAdapter(method, accepted, build, spec, found)
        else:
            adapter = CallableAdapter(method, accepted, found)
        if callable(refresh := getattr(found, "refresh", None)):
            vars(adapter)["refresh"] = refresh  # in the place of the method
        return adapter
    if callable(found) and not isinstance(found, type):
        return CallableAdapter(found, _accepted(found, spec))
    raise SelectorError(
        f"selector {spec!r} is {_short(found)}, which is not a selector: it must have"
        " get_attn_backend_cls, or select(request, environ, gpu), or be such a function"
    )


def _construct(cls: type, spec: str) -> object:
    try:
        inspect.signature(cls).bind()
    except TypeError as error:
        raise SelectorError(
            f"selector {spec!r} is a class that cannot be made without arguments ({error});"
            " name an instance, or give every argument a default"
        ) from None
    return cls()


def _accepted(
    function: Callable[..., object],
    spec: str,
    offered: frozenset[str] = _OFFERED,
    what: str = "not a selector",
) -> frozenset[str]:
    """Return which of the offered names the function takes."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise SelectorError(
            f"selector {spec!r} has no readable signature; wrap it in a function that takes, by"
            f" name, some of {', '.join(sorted(offered))}"
        ) from None
    accepted = frozenset(
        parameter.name
        for parameter in parameters
        if parameter.kind is not parameter.POSITIONAL_ONLY and parameter.name in offered
    )
    unknown = [
        parameter.name
        for parameter in parameters
        if parameter.name not in accepted
        and parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        accepted = offered
    if unknown or not accepted:
        wants = f"it requires {', '.join(unknown)}" if unknown else "it takes none of these"
        raise SelectorError(
            f"selector {spec!r} is {what}: one takes, by name, some of"
            f" {', '.join(sorted(offered))}; {wants}"
        )
    return accepted
