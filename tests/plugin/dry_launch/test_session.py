"""dry_launch: anyone's kernels are compiled and checked, and not run."""

# Kernels are written in Triton's language, whose decorators and values have no types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, misc"

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources

from pytest_rocm_attn import compile_watch
from pytest_rocm_attn.dry_launch import dry_launch, storageless
from pytest_rocm_attn.errors import (
    CompileTimeoutError,
    MockArgumentError,
    MockError,
    UnknownGpuError,
    UnwrittenTensorWarning,
)
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.mock import MockRocm
from pytest_rocm_attn.mock.triton_driver import activate, current_gpu

# Most launches here are of small CPU tensors, whose contents say nothing.
pytestmark = pytest.mark.filterwarnings("ignore::pytest_rocm_attn.errors.UnwrittenTensorWarning")

GATHERED = 32768  # tl.gather keeps its source in LDS: 32768 fp32 are 131072 bytes


@triton.jit
def scale(x):
    return x * 2


@triton.jit
def double(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + offsets, scale(tl.load(x_ptr + offsets, offsets < n)), offsets < n)


@triton.jit
def gather(x_ptr, index_ptr, y_ptr, SIZE: tl.constexpr):
    offsets = tl.arange(0, SIZE)
    y = tl.gather(tl.load(x_ptr + offsets), tl.load(index_ptr + offsets), 0)
    tl.store(y_ptr + offsets, y)


@triton.autotune([triton.Config({"SIZE": 256}), triton.Config({"SIZE": GATHERED})], key=[])
@triton.jit
def tuned_gather(x_ptr, index_ptr, y_ptr, SIZE: tl.constexpr):
    offsets = tl.arange(0, SIZE)
    y = tl.gather(tl.load(x_ptr + offsets), tl.load(index_ptr + offsets), 0)
    tl.store(y_ptr + offsets, y)


@triton.autotune([triton.Config({"BLOCK": 16}), triton.Config({"BLOCK": 32})], key=["n"])
@triton.jit
def picky(x_ptr, n, BLOCK: tl.constexpr):
    tl.static_assert(BLOCK >= 32)
    tl.store(x_ptr + tl.arange(0, BLOCK), n)


@triton.heuristics({"EVEN": lambda args: args["n"] % 2 == 0})
@triton.jit
def guess(x_ptr, n, EVEN: tl.constexpr):
    tl.store(x_ptr, n + EVEN)


@triton.jit
def broken(x_ptr):
    tl.store(x_ptr, tl.no_such_function())


def gather_arguments() -> tuple[Any, Any, Any]:
    x = storageless([GATHERED], torch.float32)
    return x, storageless([GATHERED], torch.int32), x


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """One entry per compilation that Triton is asked for: whether its disk cache had it."""
    hits: list[bool] = []
    monkeypatch.setattr(
        triton.knobs.compilation, "listener", lambda *, cache_hit, **_: hits.append(cache_hit)
    )
    yield hits


def test_a_launch_is_recorded_and_not_executed() -> None:
    x, y = torch.ones(1000), torch.zeros(1000)

    with dry_launch("gfx942") as launches:
        double[(4,)](x, y, 1000, BLOCK=256, num_warps=2, waves_per_eu=3)

    (launch,) = launches
    assert not y.any()
    assert (launch.name, launch.gfx, launch.kind) == ("double", "gfx942", "launch")
    assert launch.compiler == f"Triton {triton.__version__}"
    assert launch.grid == (4, 1, 1)
    assert launch.num_warps == 2
    assert launch.options["waves_per_eu"] == 3
    assert launch.constexprs == {"BLOCK": 256}
    assert launch.signature == {
        "x_ptr": "*fp32",
        "y_ptr": "*fp32",
        "n": "i32",
        "BLOCK": "constexpr",
    }
    assert launch.lds_bytes == 0 and launch.lds_limit == 65536
    assert launch.spills == 0 and launch.matrix_instructions == {}
    launches.assert_fits(spills=0, scratch_bytes=0)


def test_what_triton_specialises_is_among_the_constexprs() -> None:
    with dry_launch("gfx942") as launches:
        double[(1,)](torch.ones(16), torch.ones(16), 1, BLOCK=16)
    assert launches[0].constexprs == {"n": 1, "BLOCK": 16}


def test_a_callable_grid_gets_the_arguments() -> None:
    x = torch.ones(1000)
    with dry_launch("gfx942") as launches:
        double[lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]), 2)](x, x, 1000, BLOCK=256)
    assert launches[0].grid == (4, 2, 1)


def test_a_cache_of_100_gib_needs_no_memory() -> None:
    cache = storageless([100, 2**30], torch.uint8)
    with dry_launch("gfx942") as launches:
        double[(1,)](cache, cache[3], 16, BLOCK=16)
    assert launches[0].signature["x_ptr"] == "*u8"


@pytest.mark.parametrize("make", [torch.empty, storageless], ids=["cpu", "storageless"])
def test_the_alignment_of_a_view_counts(make: Any) -> None:
    x = make([1024], dtype=torch.float32)
    with dry_launch("gfx942") as launches:
        double[(1,)](x, x[4:], 512, BLOCK=512)
        double[(1,)](x, x[1:], 512, BLOCK=512)
    aligned, odd = launches
    assert aligned.code_bytes < odd.code_bytes  # odd addresses cannot be stored to four at a time


@pytest.mark.slow  # torch imports most of itself for the first operation on a fake tensor
def test_fake_tensors_are_arguments_too() -> None:
    with FakeTensorMode():
        x = torch.empty(1024)
        with dry_launch("gfx942") as launches:
            double[lambda meta: (meta["x_ptr"].numel(),)](x, x[1:], 512, BLOCK=512)
            double[(1,)](x, y_ptr=x[4:], n=512, BLOCK=512)
    odd, aligned = launches
    assert odd.grid == (1024, 1, 1)
    assert aligned.code_bytes < odd.code_bytes


def test_heuristics_are_asked() -> None:
    with dry_launch("gfx942") as launches:
        guess[(1,)](torch.zeros(1), 4)
        guess[(1,)](torch.zeros(1), 5)
    assert [launch.constexprs["EVEN"] for launch in launches] == [True, False]


def test_a_warmup_is_recorded_as_such() -> None:
    with dry_launch("gfx942") as launches:
        compiled = double.warmup(torch.float32, torch.float32, 64, BLOCK=64, grid=(1,))
        compiled[(7, 1, 1)](torch.ones(64), torch.ones(64), 64, 64)
    assert [(launch.kind, launch.grid) for launch in launches] == [
        ("warmup", None),
        ("launch", (7, 1, 1)),
    ]


def test_a_kernel_over_the_lds_limit_raises_tritons_own_error_and_fits_a_larger_gpu() -> None:
    with dry_launch("gfx1201") as refused, pytest.raises(OutOfResources) as caught:
        gather[(1,)](*gather_arguments(), SIZE=GATHERED, num_warps=8)
    with dry_launch("gfx950") as launches:
        gather[(1,)](*gather_arguments(), SIZE=GATHERED, num_warps=8)

    assert str(caught.value) == str(OutOfResources(131072, 65536, "shared memory"))
    assert str(caught.value).startswith(
        "out of resource: shared memory, Required: 131072, Hardware limit: 65536."
    )
    assert list(refused) == []
    (rejection,) = refused.rejected
    assert rejection.launch is not None
    assert (rejection.launch.lds_bytes, rejection.launch.lds_limit) == (131072, 65536)
    assert rejection.launch.grid == (1, 1, 1) and not rejection.launch.fits
    assert rejection.error == f"OutOfResources: {caught.value}"
    assert rejection.config == {"SIZE": GATHERED, "num_warps": 8}
    assert [launch.lds_bytes for launch in launches] == [131072]
    launches.assert_fits()


def test_a_refusal_names_kernel_and_target_beside_tritons_own_words() -> None:
    with dry_launch("gfx1201"), pytest.raises(OutOfResources) as caught:
        gather[(1,)](*gather_arguments(), SIZE=GATHERED, num_warps=8)
    error = caught.value
    assert type(error) is OutOfResources
    assert str(error) == str(OutOfResources(131072, 65536, "shared memory"))
    note = "kernel gather for gfx1201 with SIZE=32768, num_warps=8, by dry launch"
    assert error.__notes__ == [note]
    with dry_launch("gfx942"), pytest.raises(CompilationError) as failed:
        broken[(1,)](storageless([1], torch.float32))
    assert failed.value.__notes__ == ["kernel broken for gfx942, by dry launch"]


@pytest.mark.filterwarnings("error")
def test_a_cpu_tensor_that_stays_unwritten_is_said_at_the_launch() -> None:
    x, y = torch.ones(64), torch.zeros(64)
    nowhere = storageless([64], torch.float32)
    with dry_launch("gfx942"):
        with pytest.warns(UnwrittenTensorWarning) as caught:
            double[(1,)](x, y, 64, BLOCK=64)
        line = sys._getframe().f_lineno - 1
        double[(1,)](x, nowhere, 64, BLOCK=64)  # what is only read needs no word
        double.warmup(x, y, 64, BLOCK=64, grid=(1,))
    (warning,) = caught
    assert str(warning.message).startswith(
        "double was compiled for gfx942 and not run: y_ptr still holds what it would overwrite;"
    )
    assert (warning.filename, warning.lineno) == (__file__, line)


@pytest.fixture
def slow_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's compiler takes 20 seconds longer."""
    monkeypatch.setattr(triton.knobs.runtime, "jit_cache_hook", lambda **_: time.sleep(20))


@pytest.mark.usefixtures("slow_compiler")
def test_a_compilation_that_takes_too_long_is_ended_and_says_what_it_was() -> None:
    start = time.monotonic()
    with dry_launch("gfx950", compile_timeout=0.2) as launches:
        with pytest.raises(
            CompileTimeoutError, match=r"^compiling double for gfx950 with BLOCK=32"
        ):
            double[(1,)](storageless([64], torch.float32), torch.ones(64), 64, BLOCK=32)
        with dry_launch("gfx942"), pytest.raises(CompileTimeoutError, match="the limit of 0.2 s"):
            double[(1,)](storageless([64], torch.float32), torch.ones(64), 64, BLOCK=32)
    assert time.monotonic() - start < 20
    assert [rejection.gfx for rejection in launches.rejected] == ["gfx950", "gfx942"]
    assert compile_watch.limit() is None


def test_a_compilation_within_its_time_is_as_without_a_limit() -> None:
    with dry_launch("gfx950", compile_timeout=300) as launches:
        double[(1,)](storageless([64], torch.float32), torch.ones(64), 64, BLOCK=128)
        with pytest.raises(CompilationError, match="no_such_function"):
            broken[(1,)](storageless([1], torch.float32))
    assert [launch.name for launch in launches] == ["double"]
    for wrong in (0, -1, float("nan"), "5"):
        with (
            pytest.raises(MockArgumentError, match="positive number of seconds"),
            dry_launch("gfx950", compile_timeout=wrong),  # type: ignore[arg-type]  # a caller may be untyped
        ):
            pass


def test_a_repeated_refusal_is_recorded_again() -> None:
    with dry_launch("gfx1201") as launches:
        for _ in range(2):
            with pytest.raises(OutOfResources):
                gather[lambda meta: (3,)](*gather_arguments(), SIZE=GATHERED, num_warps=8)
    assert [rejection.launch.grid for rejection in launches.rejected if rejection.launch] == [
        (3, 1, 1),
        (3, 1, 1),
    ]


def test_too_many_threads_raise_tritons_own_error() -> None:
    with dry_launch("gfx942"), pytest.raises(OutOfResources, match="threads, Required: 2048"):
        double[(1,)](torch.ones(64), torch.ones(64), 64, BLOCK=64, num_warps=32)


def test_every_configuration_of_an_autotuned_kernel_is_compiled() -> None:
    with dry_launch("gfx1201") as launches:
        tuned_gather[(1,)](*gather_arguments())

    assert [launch.constexprs["SIZE"] for launch in launches.candidates] == [256]
    (rejection,) = launches.rejected
    assert rejection.config["SIZE"] == GATHERED
    assert "Required: 131072, Hardware limit: 65536" in rejection.error
    assert [launch.constexprs["SIZE"] for launch in launches] == [256]  # the first that fits
    with pytest.raises(AssertionError, match=r"gather on gfx1201 .*SIZE=32768.*Required: 131072"):
        launches.assert_fits()


def test_an_autotuner_asked_again_tries_nothing_again(compilations: list[bool]) -> None:
    with dry_launch("gfx942") as launches:
        tuned_gather[(1,)](*gather_arguments())
        first = len(compilations)
        tuned_gather[(1,)](*gather_arguments())
    assert first == 2 and len(compilations) == 2
    assert len(launches) == 2 and len(launches.candidates) == 1


def test_a_configuration_that_does_not_compile_is_reported() -> None:
    with dry_launch("gfx942") as launches:
        picky[(1,)](torch.zeros(64), 3)
    (rejection,) = launches.rejected
    assert rejection.launch is None
    assert rejection.config["BLOCK"] == 16
    assert rejection.error.startswith("CompileTimeAssertionFailure")
    assert [launch.constexprs["BLOCK"] for launch in launches] == [32]


def test_a_benchmark_of_the_users_own_is_not_run() -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("the benchmark ran")

    tuner = triton.autotune(
        [triton.Config({"BLOCK": 16}), triton.Config({"BLOCK": 32})], key=["n"], do_bench=never
    )(double)
    with dry_launch("gfx942") as launches:
        tuner[(1,)](torch.ones(64), torch.ones(64), 64)
    assert len(launches.candidates) == 2 and len(launches) == 1


def test_no_invented_timing_reaches_the_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))
    monkeypatch.setenv("TRITON_CACHE_AUTOTUNING", "1")
    tuner = triton.autotune(
        [triton.Config({"BLOCK": 16}), triton.Config({"BLOCK": 32})], key=["n"], cache_results=True
    )(double)
    with dry_launch("gfx942"):
        tuner[(1,)](torch.ones(64), torch.ones(64), 64)
    assert list(cache.rglob("*.hsaco"))
    assert not list(cache.rglob("*.autotune.json"))
    assert tuner.cache_results


def test_a_kernel_that_does_not_compile_raises_and_is_reported() -> None:
    with dry_launch("gfx942") as launches, pytest.raises(triton.CompilationError):
        broken[(1,)](torch.zeros(1))
    (rejection,) = launches.rejected
    assert rejection.name == "broken" and rejection.error.startswith("CompilationError")


def test_an_identical_launch_comes_from_memory_then_from_disk(compilations: list[bool]) -> None:
    x = torch.ones(48)
    with dry_launch("gfx942") as launches:
        double[(1,)](x, x, 48, BLOCK=64)
        double[(1,)](x, x, 48, BLOCK=64)
    assert len(launches) == 2 and len(compilations) == 1
    with dry_launch("gfx942") as again:
        double[(1,)](x, x, 48, BLOCK=64)
    assert compilations[1:] == [True]
    assert again[0] == launches[0]


def test_blocks_of_different_gpus_nest() -> None:
    x = torch.ones(64)
    with dry_launch("gfx942") as outer:
        double[(1,)](x, x, 64, BLOCK=64)
        with dry_launch("gfx1201") as inner:
            double[(1,)](x, x, 64, BLOCK=64)
        double[(1,)](x, x, 64, BLOCK=64)
    assert [launch.gfx for launch in outer] == ["gfx942", "gfx1201", "gfx942"]
    assert [launch.gfx for launch in inner] == ["gfx1201"]
    # and each was compiled for its own target, not taken from the other's cache
    assert outer[0].code_bytes == outer[2].code_bytes != inner[0].code_bytes


def test_activations_may_end_in_any_order() -> None:
    x = torch.ones(64)
    first, second = activate(Gpu("gfx942")), activate(Gpu("gfx1201"))
    first()
    with dry_launch() as launches:
        double[(1,)](x, x, 64, BLOCK=64)
    assert current_gpu() == Gpu("gfx1201")
    second()
    second()
    assert current_gpu() is None
    assert [launch.gfx for launch in launches] == ["gfx1201"]


def state() -> dict[str, Any]:
    """What of Triton a dry launch touches."""
    return {
        "driver": dict(vars(triton.runtime.driver)),
        "run": triton.runtime.jit.JITFunction.run,
        "tune": triton.runtime.autotuner.Autotuner.run,
        "handles": triton.compiler.CompiledKernel._init_handles,
        "limit": triton.compiler.compiler.max_shared_mem,
        "kernels": [
            dict(kernel.device_caches) for kernel in (double, gather, tuned_gather.fn, picky.fn)
        ],
        "tuners": [
            {name: value for name, value in vars(tuner).items()} for tuner in (tuned_gather, picky)
        ],
        "modules": set(sys.modules),
    }


def test_nothing_stays_behind_also_when_the_body_raises() -> None:
    with dry_launch("gfx942"):
        picky[(1,)](torch.zeros(64), 3)  # whatever is imported on first use
    before = state()

    with pytest.raises(KeyError), dry_launch("gfx942"):
        double[(1,)](torch.ones(64), torch.ones(64), 64, BLOCK=64)
        picky[(1,)](torch.zeros(64), 3)
        with dry_launch("gfx1201"):
            tuned_gather[(1,)](*gather_arguments())
            double[(1,)](torch.ones(64), torch.ones(64), 64, BLOCK=64)
            raise KeyError

    gc.collect()  # newer Triton unloads modules when a kernel is collected
    assert state() == before
    assert not {"best_config", "configs_timings", "do_bench"} & vars(picky).keys()


def test_a_compiled_kernel_does_not_outlive_its_gpu() -> None:
    with dry_launch("gfx942"):
        compiled = double[(1,)](torch.ones(64), torch.ones(64), 64, BLOCK=64)
    with pytest.raises(MockError, match="double was compiled for a mocked gfx942, and that mock"):
        compiled.run(1, 1, 1, 0, None, None, None, None, None)


def test_launch_hooks_are_called_with_tritons_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    knobs = triton.knobs.runtime
    monkeypatch.setattr(knobs, "launch_enter_hook", lambda data: seen.append(data.get()["name"]))
    monkeypatch.setattr(knobs, "launch_exit_hook", lambda data: seen.append("done"))
    with dry_launch("gfx942"):
        double[(1,)](torch.ones(64), torch.ones(64), 64, BLOCK=64)
    assert seen == ["double", "done"]


def test_the_driver_answers_what_downstream_code_asks() -> None:
    with dry_launch("gfx942"):
        driver = triton.runtime.driver.active
        target = driver.get_current_target()
        assert (target.backend, target.arch, target.warp_size) == ("hip", "gfx942", 64)
        assert driver.get_device_capability() == (9, 4)
        properties = driver.utils.get_device_properties(driver.get_current_device())
        assert properties["max_shared_mem"] == 65536
        assert properties["multiprocessor_count"] == 304
        with pytest.raises(MockError, match="does not know the device property 'sm_clock_rate'"):
            properties["sm_clock_rate"]
        assert not hasattr(driver, "no_such_member")
        with pytest.raises(MockError, match=r"driver\.active\.no_such_member"):
            _ = driver.no_such_member
        triton.runtime.driver.reset_active()
        assert triton.runtime.driver.active is driver
    with dry_launch("gfx1201"):
        properties = triton.runtime.driver.active.utils.get_device_properties(0)
        assert properties["multiprocessor_count"] == 32  # work-group processors of 64 CUs


def test_without_a_gpu_it_takes_the_mocked_one() -> None:
    with pytest.raises(MockError, match=r"name one, as in dry_launch\('gfx942'\)"), dry_launch():
        pass
    with dry_launch("gfx950"), dry_launch() as launches:
        double[(1,)](torch.ones(64), torch.ones(64), 64, BLOCK=64)
    assert launches[0].gfx == "gfx950"


def test_inside_a_mocked_platform_it_takes_the_platforms_gpu() -> None:
    x = torch.ones(64)
    with MockRocm("gfx1151") as machine:
        double[(1,)](x, x, 64, BLOCK=64)  # compiled and not executed without dry_launch, too
        with dry_launch() as launches:
            double[(1,)](x, x, 64, BLOCK=64)
        assert current_gpu() == machine.gpu
    assert current_gpu() is None
    assert [launch.gfx for launch in launches] == ["gfx1151"]
    assert x.eq(1).all()


def test_many_blocks_leave_the_memory_flat() -> None:
    def objects() -> int:
        for _ in range(10):
            with dry_launch("gfx942"), dry_launch("gfx1201"):
                pass
        gc.collect()
        return len(gc.get_objects())

    objects()
    before = objects()
    assert objects() - before < 10  # of 20 blocks


def test_an_unknown_gpu_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownGpuError, match="Did you mean 'gfx942'"), dry_launch("gfx94x"):
        pass


def test_without_triton_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(MockError, match="needs Triton .*install"), dry_launch("gfx942"):
        pass


def test_a_triton_that_calls_launchers_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = storageless([64], torch.float32)
    compiled = triton.compiler.compiler.CompiledKernel
    run = compiled.run
    # A release that gives one argument more, before all others of its kind.
    monkeypatch.setattr(
        compiled,
        "run",
        property(lambda self: lambda *args: run.fget(self)(*args[:3], 0, *args[3:])),
    )
    words = rf"this Triton \({triton.__version__}\) gives launchers other arguments than 3.6.0 to"
    with dry_launch("gfx942"), pytest.raises(MockError, match=words):
        double[(1,)](x, x, 64, BLOCK=64)


def test_a_triton_without_the_amd_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(triton.backends.backends, "amd")
    with pytest.raises(MockError, match="without the AMD backend .it has: nvidia"):
        activate(Gpu("gfx942"))
    assert triton.runtime.driver._active is None


def test_the_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(MockError, match="TRITON_INTERPRET=1"), dry_launch("gfx942"):
        pass
    assert current_gpu() is None


def test_an_override_of_the_target_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_OVERRIDE_ARCH", "gfx90a")
    with pytest.raises(MockError, match="TRITON_OVERRIDE_ARCH=gfx90a"), dry_launch("gfx942"):
        pass


def test_a_triton_of_another_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(triton.compiler.CompiledKernel, "_init_handles")
    with pytest.raises(MockError, match=r"has no CompiledKernel\._init_handles"):
        activate(Gpu("gfx942"))
