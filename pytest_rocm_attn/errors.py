"""One error class per cause, all under RocmAttnError. Messages say what, where, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.citations import linked

if TYPE_CHECKING:
    from collections.abc import Iterable


class RocmAttnError(Exception):
    """Base of every error that this distribution raises on purpose.

    A document that the message cites becomes an address that can be opened.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(linked(arg) if isinstance(arg, str) else arg for arg in args))


class UnknownGpuError(RocmAttnError, ValueError):
    """A gfx target that hardware.toml does not describe."""


class FlagError(RocmAttnError, ValueError):
    """An environment variable that holds a value which its rule cannot parse."""


class FlagWarning(UserWarning):
    """An environment variable whose text does not mean what it suggests, such as "yes" for a flag."""


class GpuWarning(UserWarning):
    """A target that hardware.toml does not describe: its facts are those of the nearest one."""


class RequestError(RocmAttnError, ValueError):
    """A request with a field out of its legal range.

    Attributes:
        field: its name; "" if the error is not about one field.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class UnknownBackendError(RocmAttnError, ValueError):
    """A backend name that the registry does not list."""


class UnknownReleaseError(RocmAttnError, ValueError):
    """A release that no policy of the reference is of."""


class SelectionError(RocmAttnError, ValueError):
    """The reference selector refuses a request.

    Attributes:
        backend: the backend the refusal is about, or None when none was chosen yet.
        trace: the decision trace up to and including the refusal, as on a Selection.
    """

    def __init__(self, message: str, *, backend: str | None = None, trace: tuple[Any, ...] = ()):
        super().__init__(message)
        self.backend = backend
        self.trace = trace


class ContractError(RocmAttnError, ValueError):
    """A contract file that cannot be read, or that breaks its schema."""


class DeviationsError(RocmAttnError, ValueError):
    """A deviations file that cannot be read, or that breaks its schema."""


class BaselineError(RocmAttnError, ValueError):
    """A baseline that does not exist, cannot be read, was changed, or is over another grid."""


class CaseError(RocmAttnError, ValueError):
    """A file of numerics cases that cannot be read, or that breaks its schema."""


class BackendUnderTestError(RocmAttnError, ValueError):
    """A backend under test that cannot be found, imported, or recognised as a backend."""


class SelectorError(RocmAttnError, ValueError):
    """A selector under test that cannot be found, imported, or recognised as a selector."""


class UnfinishedError(RocmAttnError, RuntimeError):
    """A search that its time limit stopped before it found anything: it shows nothing."""


class ReportError(RocmAttnError, OSError):
    """A report that cannot be written where the user asked for it."""


class MockError(RocmAttnError, RuntimeError):
    """A mocked platform that cannot be entered, or was asked for what it does not know."""


class MockArgumentError(MockError, ValueError):
    """An argument of a mocked platform that no machine can have."""


class BackendLimitError(RocmAttnError, ValueError):
    """A reference backend does not support a request; it launched and wrote nothing."""


class BackendInputError(RocmAttnError, ValueError):
    """A reference backend was given inputs that disagree; nothing was launched or written."""


class CompileTimeoutError(RocmAttnError, TimeoutError):
    """A compilation that took longer than it may; names the kernel, the target and the limit."""


class UnwrittenTensorWarning(UserWarning):
    """A CPU tensor that a kernel would have written, and that a dry launch leaves as it was."""


class CodeObjectError(RocmAttnError, ValueError):
    """A file that is not an AMDGPU code object, or assembly that lacks the kernel asked for."""


class AiterError(RocmAttnError, RuntimeError):
    """AMD's aiter is absent, broken, too old or another package; says which, and what repairs it."""


class HipBuildError(RocmAttnError, RuntimeError):
    """The HIP kernels of ROCM_ATTN cannot be built on this machine; holds the compiler's words."""


class HipCompileError(RocmAttnError, RuntimeError):
    """No clang that knows the target, or a HIP source that it cannot compile."""


class EmulatorError(RocmAttnError, RuntimeError):
    """What the emulator does not do: an unknown instruction, operand, or kind of argument."""


class EmulationFault(RocmAttnError, RuntimeError):
    """What an emulated kernel did wrong: an access out of bounds, a race, uninitialised data."""


def nearest(word: object, known: Iterable[str]) -> str:
    """Return " Did you mean 'x' or 'y'?" for the closest known words, or "" when none is close."""
    import difflib

    upper = {name.upper(): name for name in known}
    close = difflib.get_close_matches(str(word).upper(), upper, n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(upper[name]) for name in close)}?" if close else ""
