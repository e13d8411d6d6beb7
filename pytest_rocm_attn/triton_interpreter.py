"""What Triton's CPU interpreter needs before attention kernels, ours or anybody's, compute right in it.

The interpreter (Triton 3.6) is NumPy, which has no bfloat16: it keeps the bits as uint16 and then
multiplies and compares those integers. Its conversion to bfloat16 drops bits where every GPU rounds to
nearest even; its conversions to fp8 lose the carry into the exponent (7.73 becomes 4 as e5m2), truncate
subnormal numbers and break ties upward. It has no bfloat16 constants, and no name for the fp8 types of gfx942.
And it cannot use a loaded scalar as a loop bound on NumPy 2.4. Triton 3.9's refuses masks that it has made itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def repair() -> None:
    """Make the interpreter compute with bfloat16, fp8, loaded loop bounds and masks, once per process.

    Does nothing unless TRITON_INTERPRET is on, which Triton reads where a kernel is defined: set it
    before the first import of triton.
    """
    import triton

    if not triton.knobs.runtime.interpret:
        return
    from triton.runtime import interpreter

    builder: Any = interpreter.InterpreterBuilder
    if getattr(builder, "rocm_attn_repaired", False):
        return
    builder.rocm_attn_repaired = True
    _accept_one_element_as_index(interpreter)
    _name_the_fnuz_types(interpreter)
    _round_to_bfloat16(builder, interpreter.TensorHandle)
    _round_to_fp8(interpreter)
    _compute_in_float32(builder, interpreter.TensorHandle)
    _sum_in_float32(interpreter)
    _take_integers_as_masks(builder, interpreter.TensorHandle)
    _patch_once_per_launch(interpreter)


def _take_integers_as_masks(builder: Any, handle: Any) -> None:
    """Accept integers as masks: Triton 3.9 makes them when it broadcasts a comparison, and then refuses them."""
    import triton.language as tl

    load, store = builder.create_masked_load, builder.create_masked_store

    def truth(mask: Any) -> Any:
        return mask if mask.data.dtype == bool else handle(mask.data != 0, tl.int1)

    def create_masked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        return load(self, pointers, truth(mask), *rest)

    def create_masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        return store(self, pointers, value, truth(mask), *rest)

    builder.create_masked_load, builder.create_masked_store = (
        create_masked_load,
        create_masked_store,
    )


def _patch_once_per_launch(interpreter: Any) -> None:
    """Replace a module's functions of triton.language once in a launch.

    Triton does so again for each call of a device function, which changes nothing and takes a third of the time.
    """
    patch, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    patched: set[int] = set()

    def patch_lang(fn: Any) -> Any:
        module = id(fn.__globals__)
        if module in patched:
            return interpreter._LangPatchScope()  # with nothing to restore
        patched.add(module)
        return patch(fn)

    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        patched.clear()  # the launch before has restored them
        launch(self, *args, **kwargs)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch_lang, call


def _accept_one_element_as_index(interpreter: Any) -> None:
    """Let an array of one element be a loop bound: NumPy 2.4 refuses int() of it, Triton calls it."""
    patch = interpreter._patch_lang_tensor

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_lang_tensor


def _name_the_fnuz_types(interpreter: Any) -> None:
    """Let e4m3fnuz and e5m2fnuz be a kernel's types: the interpreter computes with them, unnamed."""
    patch = interpreter._patch_lang_core

    def patch_lang_core(lang: Any, scope: Any) -> None:
        patch(lang, scope)
        to_ir = lang.dtype.to_ir

        def new_to_ir(self: Any, builder: Any) -> Any:
            if self.name in ("fp8e4b8", "fp8e5b16"):
                return getattr(builder, f"get_{self.name}_ty")()
            return to_ir(self, builder)

        scope.set_attr(lang.dtype, "to_ir", new_to_ir)

    interpreter._patch_lang_core = patch_lang_core


def _round_to_bfloat16(builder: Any, handle: Any) -> None:
    import numpy as np
    import triton.language as tl

    cast, convert = builder.cast_impl, builder.create_fp_to_fp

    def converted(src: Any, dst_type: Any) -> Any:
        """Return src between float32 and bfloat16, or None for any other pair of types."""
        pair = (src.dtype.scalar, dst_type.scalar)
        if pair == (tl.float32, tl.bfloat16):
            return handle(_encode(src.data), dst_type.scalar)
        if pair == (tl.bfloat16, tl.float32):
            return handle(_decode(src.data), dst_type.scalar)
        return None

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        result = converted(src, dst_type)
        return cast(self, src, dst_type) if result is None else result  # a handle of 0 is false

    def create_fp_to_fp(self: Any, src: Any, dst_type: Any, rounding: Any) -> Any:
        result = converted(src, dst_type)
        return convert(self, src, dst_type, rounding) if result is None else result

    def get_bf16(self: Any, value: float) -> Any:
        """Return a constant, which Triton has for float16 and float32 alone."""
        return handle(_encode(np.array([value], dtype=np.float32)), tl.bfloat16)

    builder.cast_impl, builder.create_fp_to_fp = cast_impl, create_fp_to_fp
    builder.get_bf16 = get_bf16


def _round_to_fp8(interpreter: Any) -> None:
    """Convert to fp8 as GPUs do: to nearest even, and larger numbers to the largest one."""
    import torch
    import triton.language as tl

    convert, towards_zero = interpreter._convert_float, interpreter._ir.ROUNDING_MODE.RTZ
    types = {
        tl.float8e4nv: torch.float8_e4m3fn,
        tl.float8e4b8: torch.float8_e4m3fnuz,
        tl.float8e5: torch.float8_e5m2,
        tl.float8e5b16: torch.float8_e5m2fnuz,
    }

    def convert_float(data: Any, given: Any, wanted: Any, rounding: Any) -> Any:
        if wanted not in types or given.primitive_bitwidth < 16 or rounding == towards_zero:
            return convert(data, given, wanted, rounding)
        numbers = torch.from_numpy(_decode(data) if given == tl.bfloat16 else data).float()
        largest = torch.finfo(types[wanted]).max
        bounded = torch.where(numbers.isinf(), numbers, numbers.clamp(-largest, largest))
        rounded = bounded.to(types[wanted])
        return rounded.view(torch.uint8).numpy()

    interpreter._convert_float = convert_float


def _compute_in_float32(builder: Any, handle: Any) -> None:
    import triton.language as tl

    dot, binary = builder.create_dot, builder.binary_op

    def widened(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        return handle(_decode(operand.data), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, widened(a), widened(b), *rest)

    def binary_op(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        if lhs.dtype.scalar != tl.bfloat16:
            return binary(self, lhs, rhs, op)
        result = binary(self, widened(lhs), widened(rhs), op).data
        return handle(result if result.dtype == bool else _encode(result), tl.bfloat16)

    builder.create_dot, builder.binary_op = create_dot, binary_op


def _sum_in_float32(interpreter: Any) -> None:
    """Sum bfloat16 numbers, not their bits; the largest and the smallest are found in float32 already."""
    import numpy as np
    import triton.language as tl

    add = interpreter.ReduceOps.sum

    def sum_of(self: Any, given: Any) -> Any:
        if given.dtype.scalar != tl.bfloat16:
            return add(self, given)
        numbers = np.sum(_decode(given.handle.data), axis=self.axis, keepdims=self.keep_dims)
        return self.to_tensor(_encode(numbers).reshape(numbers.shape), given.dtype)

    interpreter.ReduceOps.sum = sum_of


def _decode(bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the float32 numbers whose upper halves are given."""
    import numpy as np

    return (bits.astype(np.uint32) << 16).view(np.float32)


def _encode(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return float32 numbers rounded to bfloat16, to nearest even, as uint16; NaN stays NaN."""
    import numpy as np

    bits = np.ascontiguousarray(numbers, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(numbers), np.uint16(0x7FC0), rounded)
