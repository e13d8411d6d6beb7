"""Models that choose their attention backend themselves: whether they look at what the user named.

Read from the model's sources: building such a model needs weights and several ranks.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def unheeded(folder: Path, model: str) -> str | None:
    """Return how a model passes over the backend that is named; "" if it looks at it.

    It looks at it if a function that reads ``attention_config.backend`` can also refuse it.

    Args:
        folder: of the fork's package.
        model: below it: a package, or a module without its suffix.

    Returns:
        None if the fork has no such model.
    """
    module = (folder / model).with_suffix(".py")
    files = [module] if module.is_file() else sorted((folder / model).rglob("*.py"))
    if not files:
        return None
    functions = [
        node
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and any(map(_reads, ast.walk(node)))
    ]
    if not functions:
        return f"{model} never reads attention_config.backend"
    if not any(isinstance(node, ast.Raise) for one in functions for node in ast.walk(one)):
        return f"{model} reads attention_config.backend and refuses no name"
    return ""


def _reads(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "backend"
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "attention_config"
    )
