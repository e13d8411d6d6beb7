"""Triton's active driver for a GPU that is not there: kernels are compiled and checked.

While an activation lasts, an unmodified ``kernel[grid](...)`` compiles for the mocked target and
runs Triton's own checks against the target's limits; where the stock driver would put the kernel on
the GPU, this one tells whoever listens (``listen``), and hands the launch to an emulator if the activation
has one. The driver's members are those of
docs/reference/mock-surface.md#triton-driver.

While the driver is active, four methods of Triton and one cache are wrapped, because Triton keys what it caches by
the number of the device and not by its architecture: ``JITFunction.run`` and ``Autotuner.run``, so
that each kernel and autotuner has caches of its own per activation (and no timing of a kernel that
never ran reaches the disk), ``JITFunction._do_compile``, so that a long compilation is named and
bounded, ``CompiledKernel._init_handles``, so that a refused kernel is known, and
``max_shared_mem``. Nothing else of Triton is replaced.
"""

from __future__ import annotations

import contextvars
import functools
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_rocm_attn import compile_watch
from pytest_rocm_attn.caller import warn_the_caller
from pytest_rocm_attn.errors import CompileTimeoutError, MockError, UnwrittenTensorWarning
from pytest_rocm_attn.mock.errors import unknown

if TYPE_CHECKING:
    from pytest_rocm_attn.dry_launch.code_object import CodeObjectKernel
    from pytest_rocm_attn.gpu import Gpu

Grid = tuple[int, int, int]
_MADE_FOR = "3.6.0 to 3.9.0"
Execute = Callable[["Gpu", Any, Grid, tuple[object, ...]], None]
_ABSENT: Any = object()


@dataclass(frozen=True)
class Event:
    """A launch that Triton carried out up to the hardware, or refused.

    Attributes:
        gpu: the mocked GPU.
        kind: "launch", "warmup" (compiled only) or "candidate" (tried by an autotuner).
        name: the kernel's function.
        config: the constexprs and options of the call; empty when a compiled kernel was launched.
        grid: programs along each axis, or None for a warmup.
        compiled: Triton's CompiledKernel, or None when it did not compile.
        error: what Triton raised, or None.
    """

    gpu: Gpu
    kind: str
    name: str
    config: Mapping[str, Any]
    grid: Grid | None
    compiled: Any
    error: Exception | None = None


Listener = Callable[[Event], None]


def activate(gpu: Gpu, execute: Execute | None = None) -> Callable[[], None]:
    """Make a driver for gpu Triton's active one; return what undoes it.

    Args:
        execute: runs what is launched, given (gpu, compiled kernel, grid, arguments); None runs
            nothing.

    Activations nest: the innermost one counts. They may end in any order; when the last has ended,
    Triton's driver, methods and caches are what they were before the first.

    Raises:
        MockError: Triton is not installed, has no AMD backend, is of a shape that this driver does
            not know, or TRITON_OVERRIDE_ARCH made it compile for another target.
    """
    _check_triton(gpu)
    activation = _Activation(gpu, execute)
    if not _stack:
        _triton.install()
    _stack.append(activation)
    _triton.point(activation.driver)

    def undo() -> None:
        if activation not in _stack:
            return
        _stack.remove(activation)
        activation.give_back()
        if _stack:
            _triton.point(_stack[-1].driver)
        else:
            _triton.uninstall()

    return undo


def current_gpu() -> Gpu | None:
    """Return the GPU of the innermost activation, or None outside of all."""
    return _stack[-1].gpu if _stack else None


def listen(listener: Listener) -> Callable[[], None]:
    """Call listener with every Event from now on; return a function that stops this."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


class DryDriver:
    """The object that ``triton.runtime.driver.active`` is, for one mocked GPU."""

    def __init__(self, activation: _Activation) -> None:
        self._gpu = activation.gpu
        self._device = 0
        self.utils = _Utils(activation.gpu)
        self.launcher_cls = activation.launcher
        self.emulation = activation.execute
        self.emulates = activation.execute is not None

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("hip", self._gpu.gfx, self._gpu.wavefront)

    def get_current_device(self) -> int:
        return self._device

    def set_current_device(self, device: int) -> None:
        self._device = device

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_device_capability(self, device: int | None = None) -> tuple[int, int]:
        return self._gpu.compute_capability

    def get_active_torch_device(self) -> Any:
        """Return torch's CPU: that is where tensors of a dry launch live, if anywhere."""
        import torch

        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        import torch

        return torch.cuda

    def map_python_to_cpp_type(self, ty: str) -> str:
        from triton.backends.amd.driver import ty_to_cpp

        return str(ty_to_cpp(ty))

    def get_benchmarker(self) -> Callable[..., Any]:
        return compile_instead_of_timing

    def get_empty_cache_for_benchmark(self) -> None:
        return None

    def clear_cache(self, cache: object) -> None:
        return None

    def __getattr__(self, name: str) -> NoReturn:
        __tracebackhide__ = True
        raise unknown("triton.runtime.driver.active", name, f"add it to DryDriver in {__file__}")


class _Utils:
    """The driver's ``utils``: device properties and the loader of binaries."""

    def __init__(self, gpu: Gpu) -> None:
        self._properties = _Properties(
            max_shared_mem=gpu.lds_bytes,
            warpSize=gpu.wavefront,
            arch=gpu.gfx,
            multiprocessor_count=_multiprocessors(gpu),
        )

    def get_device_properties(self, device: int) -> dict[str, Any]:
        return self._properties

    def load_binary(
        self, name: str, binary: bytes, shared: int, device: int
    ) -> tuple[None, CodeObjectKernel, int, int, int]:
        """Return (module, function, registers, spills, most threads), as the stock driver does.

        There is no module: newer Triton unloads it when the kernel is collected, through whatever
        driver is active by then. The figures are those that the stock driver asks HIP for, which
        reads them from the same metadata: VGPRs, scratch in registers, largest workgroup.
        """
        from pytest_rocm_attn.dry_launch.code_object import read_code_object

        (kernel,) = (found for found in read_code_object(binary) if found.name == name)
        return None, kernel, kernel.vgprs, kernel.scratch_bytes // 4, kernel.max_workgroup

    def unload_module(self, module: object) -> None:
        return None

    def set_printf_fifo_size(self, size: int) -> None:
        return None


class _Properties(dict[str, Any]):
    def __missing__(self, name: str) -> NoReturn:
        raise MockError(
            f"the mocked Triton driver does not know the device property {name!r}; known: "
            f"{', '.join(self)}. Add it with its source to hardware.toml and to _Utils in "
            "pytest_rocm_attn/mock/triton_driver.py"
        )


def _multiprocessors(gpu: Gpu) -> int | None:
    """Return what HIP calls multiprocessors on the target's first product (CUs, on RDNA pairs).

    Source: hardware.toml, rule multi_processor_count; None when it lists no product with CUs.
    """
    from pytest_rocm_attn.gpu import target_facts

    for product in target_facts(gpu.gfx).get("product", ()):
        for key in ("cu_per_device", "cu"):
            if key in product:
                per_processor = 2 if gpu.family.startswith("RDNA") else 1
                return int(product[key]["v"]) // per_processor
    return None


def compile_instead_of_timing(
    kernel_call: Callable[[], object], *args: object, quantiles: Any = None, **kwargs: object
) -> Any:
    """Stand in for an autotuner's benchmark: launch each candidate once, dry, and prefer none."""
    token = _kind.set("candidate")
    try:
        kernel_call()
    finally:
        _kind.reset(token)
    return 1.0 if quantiles is None else [1.0] * len(quantiles)


class _Launcher:
    """What Triton calls in the stock launcher's place, with the same arguments."""

    def __init__(self, activation: _Activation, compiled: Any) -> None:
        self._activation = activation
        self._compiled = compiled

    def __call__(
        self,
        grid_x: int,
        grid_y: int,
        grid_z: int,
        stream: object,
        function: object,
        packed_metadata: object,
        launch_metadata: object,
        enter_hook: Callable[[object], object] | None,
        exit_hook: Callable[[object], object] | None,
        *args: object,
    ) -> None:
        __tracebackhide__ = True
        gpu, name = self._activation.gpu, self._compiled.name
        if self._activation not in _stack:
            raise MockError(
                f"{name} was compiled for a mocked {gpu.gfx}, and that mock has ended; compile it "
                "again for the GPU at hand"
            )
        hooks = (enter_hook, exit_hook)
        if not isinstance(function, _code_object_kernel()) or not all(
            hook is None or callable(hook) for hook in hooks
        ):
            raise MockError(
                f"this Triton ({_version()}) gives launchers other arguments than {_MADE_FOR} do; use"
                " one of those, or teach pytest_rocm_attn/mock/triton_driver.py"
            )
        if enter_hook is not None:
            enter_hook(launch_metadata)
        # An autotuner's choice is launched after its candidates.
        if self._activation.execute is None and _kind.get() == "launch":
            self._warn_of_unwritten(args)
        call = _call.get()
        config = {} if call is None else call.config
        grid = (int(grid_x), int(grid_y), int(grid_z))
        _tell(Event(gpu, _kind.get(), name, config, grid, self._compiled))
        if self._activation.execute is not None:
            self._activation.execute(gpu, self._compiled, grid, args)
        if exit_hook is not None:
            exit_hook(launch_metadata)

    @functools.cached_property
    def _written(self) -> frozenset[int] | None:
        from pytest_rocm_attn.dry_launch.written import written_arguments

        return written_arguments(self._compiled.asm.get("ttir", ""))

    def _warn_of_unwritten(self, values: tuple[object, ...]) -> None:
        """Warn the user's code of CPU tensors that the kernel would write: they stay as they are."""
        from pytest_rocm_attn.dry_launch.written import runtime_arguments

        arguments = enumerate(runtime_arguments(self._compiled.src.signature, values))
        tensors = {n: name for n, (name, value) in arguments if _is_cpu_tensor(value)}
        if not tensors:
            return
        written = self._written
        names = [name for n, name in tensors.items() if written is None or n in written]
        if names:
            may = "would" if written is not None else "may"
            warn_the_caller(
                f"{self._compiled.name} was compiled for {self._activation.gpu.gfx} and not run:"
                f" {', '.join(names)} still hold{'s' * (len(names) == 1)} what it {may} overwrite;"
                " give it storageless() tensors where the contents do not matter",
                UnwrittenTensorWarning,
                "triton",
            )


def _code_object_kernel() -> type:
    from pytest_rocm_attn.dry_launch.code_object import CodeObjectKernel

    return CodeObjectKernel


def _version() -> str:
    from triton import __version__

    return str(__version__)


def _is_cpu_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")
    return (
        torch is not None
        and isinstance(value, torch.Tensor)
        and value.device.type == "cpu"
        and not isinstance(value, _WithAddress)
    )


@dataclass
class _Call:
    """One ``JITFunction.run`` under way."""

    config: Mapping[str, Any]
    grid: Any
    refused: Any = None  # the CompiledKernel that Triton's own checks turned down

    def ask_grid(self, arguments: object) -> Any:
        """Stand in for a callable grid, and keep its answer."""
        self.grid = self.grid(arguments)
        return self.grid


@dataclass(eq=False)
class _Activation:
    """One mocked GPU in force, and what Triton caches for it."""

    gpu: Gpu
    execute: Execute | None = None
    driver: DryDriver = field(init=False)
    # By id, as hashing a JITFunction parses its source. No id is used twice while it matters: the
    # caches lent to a JITFunction hold its kernels, and those keep it alive.
    own: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.driver = DryDriver(self)

    def launcher(self, source: Any, metadata: Any) -> _Launcher:
        return _Launcher(self, _initialising.get())

    def lend(self, owner: Any, fresh: Callable[[], dict[str, Any]], *volatile: str) -> None:
        """Give owner this activation's values of some attributes until ``give_back``.

        Args:
            owner: a JITFunction or an Autotuner.
            fresh: makes the values for an owner that this activation has not seen.
            volatile: further attributes that owner may set in the meantime and that must not stay.
        """
        loan = _loans.get(id(owner))
        if loan is not None and loan.holder is self:
            return
        own = self.own.setdefault(id(owner), fresh())
        if loan is None:
            names = (*own, *volatile)
            loan = _Loan(owner, {name: vars(owner).get(name, _ABSENT) for name in names})
            _loans[id(owner)] = loan
        loan.holder = self
        vars(owner).update(own)

    def give_back(self) -> None:
        for key, loan in list(_loans.items()):
            if loan.holder is self:
                _restore(vars(loan.owner), loan.originals)
                del _loans[key]


@dataclass
class _Loan:
    """An object whose caches one activation uses until it ends."""

    owner: Any
    originals: Mapping[str, Any]
    holder: _Activation | None = None


_stack: list[_Activation] = []
_loans: dict[int, _Loan] = {}
_listeners: list[Listener] = []
_kind: contextvars.ContextVar[str] = contextvars.ContextVar("kind", default="launch")
_call: contextvars.ContextVar[_Call | None] = contextvars.ContextVar("call", default=None)
_initialising: contextvars.ContextVar[Any] = contextvars.ContextVar("initialising", default=None)


def _tell(event: Event) -> None:
    for listener in _listeners:
        listener(event)


def _restore(namespace: dict[str, Any], originals: Mapping[str, Any]) -> None:
    for name, value in originals.items():
        if value is _ABSENT:
            namespace.pop(name, None)
        else:
            namespace[name] = value


class _Triton:
    """What is changed in Triton while at least one activation lasts."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def install(self) -> None:
        from triton import runtime
        from triton.compiler import compiler
        from triton.runtime import autotuner, jit

        driver = vars(runtime.driver)
        originals = {name: driver[name] for name in ("_active", "_default")}
        self._undo = [lambda: _restore(driver, originals)]
        self._replace(jit.JITFunction, "run", _run_kernel)
        self._replace(jit.JITFunction, "_do_compile", _compile)
        self._replace(autotuner.Autotuner, "run", _run_autotuner)
        self._replace(compiler.CompiledKernel, "_init_handles", _init_handles)
        self._replace(compiler, "max_shared_mem", lambda cached: cached.__wrapped__)

    def uninstall(self) -> None:
        while self._undo:
            self._undo.pop()()

    def point(self, driver: DryDriver) -> None:
        from triton import runtime

        vars(runtime.driver).update(_active=driver, _default=driver)

    def _replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        original = getattr(owner, name)
        setattr(owner, name, make(original))
        self._undo.append(lambda: setattr(owner, name, original))


_triton = _Triton()


def _run_kernel(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``JITFunction.run``: the innermost activation's caches, and word of a refusal."""

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if not _stack:
            return original(self, *args, grid=grid, warmup=warmup, **kwargs)
        activation = _stack[-1]
        make_caches = self.device_caches.default_factory
        activation.lend(self, lambda: {"device_caches": defaultdict(make_caches)})
        call = _Call(_config(self, args, kwargs), grid)
        kind = "warmup" if warmup else _kind.get()
        token = _call.set(call)
        try:
            compiled = original(
                self,
                *map(_with_address, args),
                grid=call.ask_grid if callable(grid) else grid,
                warmup=warmup,
                **{name: _with_address(value) for name, value in kwargs.items()},
            )
        except Exception as error:  # whatever it is, it goes on to the caller
            grid = None if callable(call.grid) or warmup else _three(call.grid)
            name = self.__name__
            how = "by dry launch" if activation.execute is None else "emulated"
            error.add_note(f"kernel {_described(name, activation.gpu, call.config)}, {how}")
            _tell(Event(activation.gpu, kind, name, call.config, grid, call.refused, error))
            raise
        finally:
            _call.reset(token)
        if warmup and compiled is not None and _listeners:
            # an AsyncCompileMode hands out futures
            finished = compiled.result() if hasattr(compiled, "result") else compiled
            _tell(Event(activation.gpu, kind, finished.name, call.config, None, finished))
        return compiled

    return run


def _compile(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``JITFunction._do_compile``: what takes long is named, and what takes too long ended."""

    def compile(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = _call.get()
        config = {} if call is None else call.config
        what = _described(self.__name__, _stack[-1].gpu, config) if _stack else self.__name__
        limit = compile_watch.limit()
        with compile_watch.named(what):
            if limit is not None and not compile_watch.ends_within(
                limit, lambda: original(self, *args, **kwargs)
            ):
                raise CompileTimeoutError(
                    f"compiling {what} takes longer than the limit of {limit:g} s"
                    " (--rocm-attn-compile-timeout, or dry_launch(..., compile_timeout=))"
                )
            return original(self, *args, **kwargs)

    return compile


def _described(name: str, gpu: Gpu, config: Mapping[str, Any]) -> str:
    """Return a kernel, its target and its compile-time arguments in words."""
    given = ", ".join(f"{key}={value}" for key, value in config.items())
    return f"{name} for {gpu.gfx}" + (f" with {given}" if given else "")


def _run_autotuner(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``Autotuner.run``: every candidate is tried, none is timed, no choice is kept."""

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _stack:
            _stack[-1].lend(
                self,
                lambda: {
                    "cache": {},
                    "cache_results": False,
                    "do_bench": compile_instead_of_timing,
                },
                "best_config",
                "bench_time",
                "configs_timings",
                "nargs",
            )
        return original(self, *args, **kwargs)

    return run


def _init_handles(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """Wrap ``CompiledKernel._init_handles``: the launcher learns its kernel, we of a refusal."""

    def init_handles(self: Any) -> None:
        token = _initialising.set(self)
        try:
            original(self)
        except Exception:  # whatever it is, it goes on to the caller
            if _stack:
                self._run = None  # else Triton repeats the refusal from here, unseen by us
            if (call := _call.get()) is not None:
                call.refused = self
            raise
        finally:
            _initialising.reset(token)

    return init_handles


def _config(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the compile-time arguments and the options of a call, by name."""
    given = {**dict(zip(function.arg_names, args, strict=False)), **kwargs}
    runtime_arguments = {param.name for param in function.params if not param.is_constexpr}
    return {name: value for name, value in given.items() if name not in runtime_arguments}


def _three(grid: Any) -> Grid:
    x, y, z = (*grid, 1, 1)[:3]
    return int(x), int(y), int(z)


class _WithAddress:
    """A FakeTensor as a kernel argument: torch refuses its address, and Triton asks for it.

    The address is that of a view into storage at a multiple of 16, as HIP allocates.
    """

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor
        self.dtype = tensor.dtype

    def data_ptr(self) -> int:
        return int(self._tensor.storage_offset() * self._tensor.element_size())

    def ptr_range(self) -> int:
        return int(self._tensor.untyped_storage().nbytes())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tensor, name)


def _with_address(argument: Any) -> Any:
    fakes = sys.modules.get("torch._subclasses.fake_tensor")
    if fakes is not None and isinstance(argument, fakes.FakeTensor):
        return _WithAddress(argument)
    return argument


def _check_triton(gpu: Gpu) -> None:
    try:
        from triton import __version__, knobs, runtime
        from triton.backends import backends
        from triton.backends.compiler import GPUTarget
        from triton.compiler import compiler
        from triton.runtime import autotuner, jit
    except ImportError as error:
        raise MockError(
            f"dry launch needs Triton ({error}); install pytest-rocm-attn[kernels]"
        ) from error
    target = GPUTarget("hip", gpu.gfx, gpu.wavefront)
    if not any(backend.compiler.supports_target(target) for backend in backends.values()):
        raise MockError(
            f"this Triton ({__version__}) was built without the AMD backend (it has: "
            f"{', '.join(backends) or 'none'}), so it cannot compile for {gpu.gfx}; install "
            "triton from PyPI, or build it with the amd backend"
        )
    if (override := knobs.runtime.override_arch) not in (None, "", gpu.gfx):
        raise MockError(
            f"TRITON_OVERRIDE_ARCH={override} makes Triton compile for {override} instead of "
            f"{gpu.gfx}; unset it"
        )
    wanted = {
        "JITFunction.run": hasattr(jit.JITFunction, "run"),
        "JITFunction._do_compile": hasattr(jit.JITFunction, "_do_compile"),
        "Autotuner.run": hasattr(autotuner.Autotuner, "run"),
        "CompiledKernel._init_handles": hasattr(compiler.CompiledKernel, "_init_handles"),
        "compiler.max_shared_mem": hasattr(getattr(compiler, "max_shared_mem", None), "__wrapped__")
        or bool(_stack),
        "driver._active and ._default": vars(runtime.driver).keys() >= {"_active", "_default"},
    }
    if missing := [name for name, found in wanted.items() if not found]:
        raise MockError(
            f"this Triton ({__version__}) has no {', '.join(missing)}; dry launch was made for "
            f"{_MADE_FOR}: use one of those, or teach pytest_rocm_attn/mock/triton_driver.py"
        )
