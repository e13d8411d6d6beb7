"""The ``dry_launch`` block: compile what is launched inside it, record it, execute nothing."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn import compile_watch
from pytest_rocm_attn.dry_launch.code_object import count_matrix_instructions, read_code_object
from pytest_rocm_attn.dry_launch.covered import covered
from pytest_rocm_attn.dry_launch.record import Launch, Launches, Rejection
from pytest_rocm_attn.errors import MockArgumentError, MockError
from pytest_rocm_attn.gpu import Gpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_rocm_attn.mock.triton_driver import Event

# Options of Triton's AMD backend that affect a kernel's figures, if the installed Triton has them.
OPTIONS = ("num_ctas", "waves_per_eu", "matrix_instr_nonkdim", "kpack", "schedule_hint")


@contextlib.contextmanager
def dry_launch(
    gpu: str | Gpu | None = None, *, compile_timeout: float | None = None
) -> Iterator[Launches]:
    """Compile, check and record every Triton kernel launched inside; execute none.

    A kernel that does not fit raises Triton's own OutOfResources, as on the hardware, with a note
    that names kernel and target. Tensors may be CPU tensors or storage-less ones (``storageless``).
    A CPU tensor that a kernel would write stays as it is, which gives an UnwrittenTensorWarning.

    Args:
        gpu: target to compile for; None takes the GPU of the mock that is in force.
        compile_timeout: seconds that one compilation may take, which is then tried in a forked
            process first; longer ones raise CompileTimeoutError. None: the bound that is in force,
            such as that of ``--rocm-attn-compile-timeout``, else none.

    Yields: the launches so far. Blocks nest; an outer one sees what an inner one sees.

    Raises:
        UnknownGpuError: hardware.toml does not describe the target.
        ValueError: compile_timeout is not a positive number.
        MockError: no target is given and none mocked; Triton is not installed, has no AMD
            backend, or interprets kernels (TRITON_INTERPRET=1).
    """
    from pytest_rocm_attn.mock import triton_driver

    if gpu is None:
        gpu = triton_driver.current_gpu()
        if gpu is None:
            raise MockError(
                "dry_launch() has no GPU: name one, as in dry_launch('gfx942'), or use it inside "
                "a mocked ROCm platform"
            )
    if compile_timeout is not None and not (
        isinstance(compile_timeout, int | float) and compile_timeout > 0
    ):
        raise MockArgumentError(
            f"compile_timeout is {compile_timeout!r}; it must be a positive number of seconds"
        )
    with contextlib.ExitStack() as stack:
        if compile_timeout is not None:
            stack.callback(compile_watch.set_limit(compile_timeout))
        stack.callback(triton_driver.activate(Gpu(gpu) if isinstance(gpu, str) else gpu))
        _refuse_the_interpreter()
        launches = Launches(gpu if isinstance(gpu, str) else gpu.gfx)
        stack.callback(triton_driver.listen(lambda event: launches.add(record(event))))
        yield launches


def storageless(shape: Sequence[int], dtype: Any) -> Any:
    """Return a contiguous tensor without memory, of any size, to launch kernels on.

    It has shape, strides and dtype, takes views and slices, and its address behaves like that of a
    GPU allocation: 16-byte aligned, a view's by its offset. Reading or writing it moves no data.

    Args:
        shape: sizes.
        dtype: a torch dtype.
    """
    import torch

    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def record(event: Event) -> Launch | Rejection:
    """Return the record of one event of the mocked driver."""
    from triton import __version__

    compiler = f"Triton {__version__}"
    launch = None if event.compiled is None else _launch(event, compiler)
    if event.error is None and launch is not None:
        return launch
    error = event.error
    return Rejection(
        name=event.name,
        gfx=event.gpu.gfx,
        compiler=compiler,
        kind=event.kind,
        config=event.config,
        error=f"{type(error).__name__}: {error}",
        launch=launch,
    )


def _launch(event: Event, compiler: str) -> Launch:
    compiled, metadata = event.compiled, event.compiled.metadata
    assembly = compiled.asm.get("amdgcn")  # absent with TRITON_STORE_BINARY_ONLY=1
    kernels = {kernel.name: kernel for kernel in read_code_object(compiled.kernel)}
    constexprs, signature, attributes = _arguments(compiled.src)
    rows, keys = covered(constexprs)
    return Launch.measure(
        event.gpu,
        kernels[compiled.name],
        compiler=compiler,
        matrix_instructions=None if assembly is None else count_matrix_instructions(assembly),
        assembly=assembly,
        dynamic_lds=metadata.shared,
        kind=event.kind,
        grid=event.grid,
        num_warps=metadata.num_warps,
        num_stages=metadata.num_stages,
        options={name: getattr(metadata, name) for name in OPTIONS if hasattr(metadata, name)},
        constexprs=constexprs,
        signature=signature,
        attributes=attributes,
        rows=rows,
        keys=keys,
    )


def _arguments(
    source: Any,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the values of the compile-time arguments, the types and the attributes of all, by name."""
    names = list(source.signature)

    def name_of(path: tuple[int, ...]) -> str:
        return ".".join([names[path[0]], *map(str, path[1:])])

    constexprs = {name_of(path): value for path, value in getattr(source, "constants", {}).items()}
    signature = {str(name): kind for name, kind in source.signature.items()}
    attributes = {name_of(path): dict(pairs) for path, pairs in source.attrs.items() if pairs}
    return constexprs, signature, attributes


def _refuse_the_interpreter() -> None:
    from triton import knobs

    if knobs.runtime.interpret:
        raise MockError(
            "TRITON_INTERPRET=1 makes Triton run kernels on the CPU instead of compiling them; "
            "unset it before the kernels are imported, or leave dry_launch out"
        )
