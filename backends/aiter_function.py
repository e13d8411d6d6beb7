"""Functions of AMD's aiter, found where a release keeps them and called by the names they take.

Signatures differ between releases, and builds from git carry a development version, so what a
function takes is read off the function itself (docs/reference/aiter.md#functions and #releases).
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_rocm_attn import aiter_probe
from pytest_rocm_attn.errors import AiterError
from pytest_rocm_attn.gpu import Aiter

INSTALL = "pip install amd-aiter"
_MENDS = {
    Aiter.ABSENT: f"install it: {INSTALL}",
    Aiter.BROKEN: "install it again: pip install --force-reinstall amd-aiter",
    Aiter.IMPOSTOR: f"pip uninstall aiter, then {INSTALL}",
}


@dataclass(frozen=True)
class AiterFunction:
    """One function of aiter.

    Args:
        name: its name.
        places: modules that may hold it, newest first; "torch.ops.aiter" for a registered operator.
        source: where its meaning is written down.
        neutral: argument -> the value that means "not asked for": such an argument is left out
            where the installed function does not take it.
    """

    name: str
    places: tuple[str, ...]
    source: str
    neutral: Mapping[str, Any] = field(default_factory=dict)

    def call(self, backend: str, **arguments: Any) -> Any:
        """Call it with arguments by name, leaving out those that are neutral and unknown to it.

        The GPU that holds the tensors is the current one during the call.

        Raises:
            BackendInputError: the tensors are on several GPUs.
            AiterError: aiter is unusable, or this release's function lacks an argument that is
                needed, or wants one that this version does not know.
        """
        from pytest_rocm_attn.backends.current_device import on_gpu_of  # imports torch

        with on_gpu_of(arguments.values()):
            return self.find(backend)(**self.bound(backend, arguments))

    def bound(self, backend: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that the installed function takes. Raises AiterError as `call` does."""
        takes = parameters(self.find(backend))
        unknown = [
            name
            for name, value in arguments.items()
            if name not in takes and not self._is_neutral(name, value)
        ]
        if unknown:
            raise AiterError(
                f"{backend}: the installed aiter's {self.name} does not take {', '.join(unknown)}"
                f" ({self.source}); install a newer one: pip install --upgrade amd-aiter"
            )
        wanted = [name for name, needed in takes.items() if needed and name not in arguments]
        if wanted:
            raise AiterError(
                f"{backend}: the installed aiter's {self.name} requires {', '.join(wanted)}, which"
                f" this version of pytest-rocm-attn does not know ({self.source})"
            )
        return {name: value for name, value in arguments.items() if name in takes}

    def find(self, backend: str) -> Callable[..., Any]:
        """Return the function.

        Raises:
            AiterError: aiter is absent, broken, the unrelated package, or has no such function.
        """
        found = _find(self.name, self.places)
        if found is None:
            raise AiterError(f"{backend} needs AMD's aiter: {_why_not(self)}")
        return found

    def _is_neutral(self, name: str, value: Any) -> bool:
        # "is" first: a tensor is compared with nothing.
        return name in self.neutral and (
            value is self.neutral[name]
            or (isinstance(value, int | float | str | bool | tuple) and value == self.neutral[name])
        )


def parameters(function: Callable[..., Any]) -> dict[str, bool]:
    """Return the names that a function takes, and whether each must be given."""
    overload = getattr(function, "default", function)  # of an operator registered with torch
    schema = getattr(overload, "_schema", None)
    if schema is not None:
        return {argument.name: not argument.has_default_value() for argument in schema.arguments}
    return {
        parameter.name: parameter.default is parameter.empty
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


@functools.cache
def _find(name: str, places: tuple[str, ...]) -> Callable[..., Any] | None:
    """Import the first place that has the function; None when aiter is not AMD's or lacks it."""
    if aiter_probe.probe().state is not Aiter.PRESENT:
        return None
    for place in places:
        try:
            if place.startswith("torch.ops."):
                importlib.import_module("aiter")  # registers its operators
                namespace = getattr(importlib.import_module("torch").ops, place.rpartition(".")[2])
            else:
                namespace = importlib.import_module(place)
            found: Callable[..., Any] = getattr(namespace, name)
        except ModuleNotFoundError as error:
            if not f"{place}.".startswith(f"{error.name}."):
                raise AiterError(_unimportable(place, error)) from error
        except AttributeError:
            continue
        except (ImportError, RuntimeError, KeyError, AssertionError, OSError, SystemExit) as error:
            # What aiter's import is known to raise (docs/reference/aiter.md#import).
            raise AiterError(_unimportable(place, error)) from error
        else:
            return found
    return None


def _unimportable(place: str, error: BaseException) -> str:
    return (
        f"AMD's aiter cannot be imported ({place}): {type(error).__name__}: {error};"
        f" {_MENDS[Aiter.BROKEN]}"
    )


def _why_not(function: AiterFunction) -> str:
    probed = aiter_probe.probe()
    if probed.state in _MENDS:
        return f"{probed.reason}; {_MENDS[probed.state]}"
    return (
        f"{probed.reason} has no {function.name} in {' or '.join(function.places)}"
        f" ({function.source}); install a newer one: pip install --upgrade amd-aiter"
    )
