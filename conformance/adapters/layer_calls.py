"""What a fork's attention layers use of the implementation that a backend gives them, and what of it does not fit.

Only code is judged that runs whenever its function does, so that what layers ask first does not matter: an
implementation without what the layers of its kind call fails in the first step (vllm-project/vllm#57248).
Runs in the worker.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters import interfaces

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HELD_BY = frozenset({"impl"})
_SPARSE = ("is_sparse", "use_sparse", "is_sparse_impl")  # what layers call the fact


def kind(backend: Any) -> tuple[bool, bool]:
    """Return whether a backend's class declares latent attention, and whether it declares sparse attention."""
    latent, sparse = (getattr(backend, name, bool) for name in ("is_mla", "is_sparse"))
    return bool(latent()), bool(sparse())


def misfits(
    backend: Any, layers: Mapping[str, str], everywhere: str, knows: Mapping[str, Any]
) -> Iterator[tuple[interfaces.Use, str]]:
    """Yield what an implementation lacks or does not take, each with the reason.

    Args:
        backend: the class.
        layers: module -> source, of the layers of its kind.
        everywhere: the source of all classes of attention: what none of them has is set by others.
        knows: names, each with the object that it holds, by which tests in the code are answered.
    """
    impl = backend.get_impl_cls()
    own = ""
    for base in impl.__mro__[:-1]:
        with contextlib.suppress(OSError, TypeError):  # without source
            own += inspect.getsource(base)

    def expected(name: str) -> bool:
        """Whether some class has it, and this one does not set it."""
        has = re.search(rf"^    (def {name}\(|{name}\s*[:=])", everywhere, re.MULTILINE)
        return has is not None and not re.search(rf"\bself\.{name}\b\s*[:=,)]", own)

    holds = {**knows, **dict.fromkeys(_HELD_BY, impl), **dict.fromkeys(_SPARSE, kind(backend)[1])}
    trees = interfaces.trees(layers, _HELD_BY)
    yield from interfaces.misfits(
        interfaces.uses(trees, _HELD_BY, holds, surely=True), impl, expected
    )
