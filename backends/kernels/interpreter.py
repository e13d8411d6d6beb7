"""What Triton's CPU interpreter needs before it can run our kernels."""

from __future__ import annotations

from typing import Any

import triton


def repair_scalars() -> None:
    """Let the interpreter use a loaded scalar as a loop bound on any NumPy.

    Triton 3.6 holds a scalar as an array of one element and calls int() on it, which NumPy refuses
    since 2.4 ("only 0-dimensional arrays can be converted to Python scalars").
    """
    if not triton.knobs.runtime.interpret:
        return
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor
    if getattr(patch, "accepts_one_element", False):
        return

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    patch_lang_tensor.accepts_one_element = True  # type: ignore[attr-defined]
    interpreter._patch_lang_tensor = patch_lang_tensor
