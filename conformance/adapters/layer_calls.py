"""What a fork's attention layers use of the implementation that a backend gives them, and what of it does not fit.

Only code is judged that runs whenever its function does, so that what layers ask first does not matter: an
implementation without what the layers of its kind call fails in the first step (vllm-project/vllm#57248).
Runs in the worker.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters import allow_lists, interfaces

if TYPE_CHECKING:
    from collections.abc import Mapping

_HELD_BY = frozenset({"impl"})
_METADATA = frozenset({"attn_metadata"})
_SPARSE = ("is_sparse", "use_sparse", "is_sparse_impl")  # what layers call the fact


def kind(backend: Any) -> tuple[bool, bool]:
    """Return whether a backend is for latent attention, and whether it is for sparse attention.

    Its class may declare neither, as ROCMAiterMLASparseBackend to v0.17.1: then the classes of its implementation show it.
    """
    latent, sparse = (getattr(backend, name, bool) for name in ("is_mla", "is_sparse"))
    names = " ".join(base.__name__.lower() for base in backend.get_impl_cls().__mro__)
    return bool(latent()) or "mla" in names, bool(sparse()) or "sparse" in names


def misfits(
    backend: Any, layers: Mapping[str, str], everywhere: str, knows: Mapping[str, Any]
) -> dict[str, list[tuple[interfaces.Use, str]]]:
    """Return what the "implementation" and the "metadata" of its steps lack or do not take, each with the reason.

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
    used = interfaces.uses(trees, _HELD_BY, holds, surely=True)
    found = {"implementation": list(interfaces.misfits(used, impl, expected))}
    metadata = None
    with contextlib.suppress(AttributeError, NotImplementedError):  # a backend without a builder
        metadata = allow_lists.metadata_of(backend)
    if metadata is not None:
        holds |= dict.fromkeys(_METADATA, metadata)
        trees = {module: _layers_in(tree) for module, tree in trees.items()}
        used = interfaces.uses(trees, _METADATA, holds, surely=True)
        found["metadata"] = list(interfaces.misfits(used, metadata, expected))
    return found


def _layers_in(tree: ast.Module) -> ast.Module:
    """Return the classes of a module that call an implementation; implementations read metadata of their own."""
    classes = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any(isinstance(one, ast.Attribute) and one.attr in _HELD_BY for one in ast.walk(node))
    ]
    return ast.Module([*classes], [])
