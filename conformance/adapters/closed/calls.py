"""Calls into closed kernels: answered by stand-ins of their real signatures, and recorded.

AITER's and flash_attn's functions are those of the mocked packages; operators that a release registers in C++,
which its Python files lack, are registered with the release's own schemas while a block runs. Operators that the
fork registers in Python for the device run as they are.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters.closed import signatures
from pytest_rocm_attn.conformance.adapters.closed.kernels import FACTS, RETURNS
from pytest_rocm_attn.errors import RocmAttnError
from pytest_rocm_attn.mock import device_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_rocm_attn.conformance.adapters.closed.signatures import Aiter


_PACKAGES = ("aiter", "flash_attn")
# Namespaces of torch's own operators.
_TORCHS = ("aten::", "prim::", "prims::", "c10d", "_c10d", "quantized", "torch", "inductor")


class UnknownKernelError(RocmAttnError):
    """What a closed kernel returns is not known, so that a step cannot go on."""


@dataclass(frozen=True)
class KernelCall:
    """A call of a closed kernel.

    Attributes:
        kernel: module and function, or namespace and operator.
        facts: what the call says of the kernel's work, by the names of closed/kernels.py.
        misfit: why the kernel's signature does not take the call; "" if it does.
    """

    kernel: str
    facts: dict[str, Any] = field(default_factory=dict)
    misfit: str = ""

    @property
    def name(self) -> str:
        """The function's name alone."""
        return self.kernel.rpartition(".")[2].rpartition("::")[2]


class Recorder:
    """Answers calls of closed kernels, and keeps them.

    Args:
        aiter: the AITER whose signatures hold.
    """

    def __init__(self, aiter: Aiter) -> None:
        self.aiter = aiter
        self.calls: list[KernelCall] = []

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Answer while the block runs."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(device_calls.answered_by(self._of_package))
            for owner, name, value in (*self._signed(), *self._aiters_operators()):
                stack.enter_context(_set(owner, name, value))
            self._register(stack)
            yield

    # --- packages ---------------------------------------------------------------------------------

    def _of_package(
        self, module: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return self._answer(f"{module}.{name}", self._signature(module, name), args, kwargs)

    def _signature(self, module: str, name: str) -> inspect.Signature | None:
        """Return the signature of a function of AITER, under whichever of its homes it is recorded."""
        homes = (module, module.replace(".attention.", "."), module.partition(".flash_attn_")[0])
        for home in dict.fromkeys(homes):
            if (found := signatures.function(f"{home}.{name}", self.aiter.version)) is not None:
                return found
        return None

    def _signed(self) -> Iterator[tuple[Any, str, Any]]:
        """Yield each function of the mocked packages with the signature that it really has."""
        for module in [m for n, m in list(sys.modules.items()) if n.partition(".")[0] in _PACKAGES]:
            for name, value in list(getattr(module, "__dict__", {}).items()):
                if inspect.isfunction(value) and value.__name__ == name:
                    signature = self._signature(value.__module__, name)
                    if signature is not None:
                        yield value, "__signature__", signature

    def _aiters_operators(self) -> Iterator[tuple[Any, str, Any]]:
        """Yield the functions that AITER registers as operators when it is imported."""
        import torch

        for name in ("paged_attention_v1",):
            signature = self._signature("torch.ops.aiter", name)
            if signature is not None and not hasattr(torch.ops.aiter, name):

                def operator(*args: Any, _name: str = name, **kwargs: Any) -> Any:
                    return self._of_package("torch.ops.aiter", _name, args, kwargs)

                vars(operator)["__signature__"] = signature
                yield torch.ops.aiter, name, operator

    def _answer(
        self,
        kernel: str,
        signature: inspect.Signature | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        name = kernel.rpartition(".")[2]
        returns = RETURNS.get(kernel) or RETURNS.get(name)
        if returns is None:
            self.calls.append(KernelCall(kernel))
            raise UnknownKernelError(f"the result of {kernel} is not known")
        if signature is None:
            self.calls.append(KernelCall(kernel))
            raise UnknownKernelError(
                f"the parameters of {kernel} in AITER {self.aiter.version} are not known"
            )
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            self.calls.append(KernelCall(kernel, misfit=str(error)))
            raise
        bound.apply_defaults()
        facts = FACTS.get(name)
        self.calls.append(KernelCall(kernel, facts(bound.arguments) if facts else {}))
        return returns(bound.arguments)

    # --- operators --------------------------------------------------------------------------------

    def _register(self, stack: contextlib.ExitStack) -> None:
        """Register the operators of C++, and have those of Python run on tensors of the CPU."""
        import torch

        scoped = torch.library._scoped_library
        for full, variants in signatures.schemas().items():
            namespace, _, name = full.partition("::")
            if hasattr(getattr(torch.ops, namespace), name):
                continue  # the release's own library is loaded
            library = stack.enter_context(scoped(namespace, "FRAGMENT"))
            for number, schema in enumerate(variants):
                # Which release the fork is like is not asked: the call shows which of them it means.
                overload = f"variant{number}"
                library.define(schema.replace("(", f".{overload}(", 1))
                names = [one.name for one in torch._C.parse_schema(schema).arguments]
                kernel = self._operator(full, names)
                library.impl(f"{name}.{overload}", kernel, "CompositeExplicitAutograd")
        for full in _of_the_device():
            namespace, _, name = full.partition("::")
            library = stack.enter_context(scoped(namespace, "IMPL"))
            library.impl(name, _as_on_the_device(namespace, name), "CPU")

    def _operator(self, full: str, names: list[str]) -> Callable[..., None]:
        facts = FACTS.get(full.partition("::")[2])

        def operator(*args: Any, **kwargs: Any) -> None:
            known = dict(zip(names, args, strict=False)) | kwargs
            self.calls.append(KernelCall(full, facts(known) if facts else {}))

        return operator


def _of_the_device() -> Iterator[str]:
    """Yield the operators that Python code has registered for the device, and for it alone."""
    import torch

    for full in torch._C._dispatch_get_all_op_names():
        name = full.partition(".")[0]
        if full != name or name.startswith(_TORCHS):
            continue
        has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
        if has_kernel(name, "CUDA") and not has_kernel(name, "CPU"):
            yield name


def _as_on_the_device(namespace: str, name: str) -> Callable[..., Any]:
    import torch

    overload = getattr(getattr(torch.ops, namespace), name).default
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)

    def run(*args: Any, **kwargs: Any) -> Any:
        return overload.redispatch(keys, *args, **kwargs)

    return run


@contextlib.contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute while the block runs."""
    had, before = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
