"""The records of compiled kernels and dry launches, and how they are shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self, overload

from pytest_rocm_attn.columns import aligned
from pytest_rocm_attn.dry_launch.estimate import Estimate, estimate
from pytest_rocm_attn.dry_launch.figures import over_budget
from pytest_rocm_attn.dry_launch.loops import Loop, innermost_loops, main_loop, whole_kernel
from pytest_rocm_attn.dry_launch.occupancy import waves_per_simd
from pytest_rocm_attn.gpu import Gpu

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.dry_launch.code_object import CodeObjectKernel

SCHEMA = 1  # of the JSON form


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One kernel compiled for one target, and what it takes of that target.

    Attributes:
        name: the kernel's symbol.
        gfx: target it was compiled for.
        compiler: the compiler and its version; figures differ between versions.
        lds_bytes: LDS of one workgroup, static and dynamic.
        lds_limit: LDS that a workgroup can have on the target.
        vgprs: vector registers that a wave allocates; where the register file is unified (CDNA2
            and later CDNA) the accumulation registers are included.
        agprs: accumulation registers among them.
        sgprs: scalar registers per wave.
        vgpr_spills, sgpr_spills: registers that did not fit and went to memory.
        scratch_bytes: private memory per work-item.
        occupancy: waves that one SIMD can hold (dry_launch/occupancy.py has the formula); None
            when hardware.toml lacks a figure of the target.
        matrix_instructions: how often each matrix instruction stands in the code; None when the
            compiler kept no assembly.
        code_bytes: size of the machine code.
        wavefront: lanes of a wave, as compiled.
        waves: of the largest workgroup.
        loops: figures of each innermost loop; None when the compiler kept no assembly.
        whole: figures of the kernel if each loop is run once; None likewise.
        rows, keys: what one iteration of the loop over the keys covers, as a workgroup: query rows, and
            keys of the cache. None if they are not known, as of a kernel without such a loop.
    """

    name: str
    gfx: str
    compiler: str
    lds_bytes: int
    lds_limit: int
    vgprs: int
    agprs: int
    sgprs: int
    vgpr_spills: int
    sgpr_spills: int
    scratch_bytes: int
    occupancy: int | None
    matrix_instructions: Mapping[str, int] | None
    code_bytes: int
    wavefront: int
    waves: int
    loops: tuple[Loop, ...] | None = None
    whole: Loop | None = None
    rows: int | None = None
    keys: int | None = None

    @classmethod
    def measure(
        cls,
        gpu: Gpu,
        kernel: CodeObjectKernel,
        *,
        compiler: str,
        matrix_instructions: Mapping[str, int] | None,
        assembly: str | None,
        dynamic_lds: int = 0,
        **more: Any,
    ) -> Self:
        """Build the record of a kernel from its code object.

        Args:
            gpu: the target.
            kernel: what the code object says.
            compiler: name and version.
            matrix_instructions: counts by mnemonic, or None when there is no assembly to count in.
            assembly: LLVM's, which holds the kernel; None when the compiler kept none.
            dynamic_lds: LDS that the launch adds to the kernel's own, in bytes.
            more: the fields of a subclass.
        """
        lds_bytes = kernel.lds_bytes + dynamic_lds
        return cls(
            name=kernel.name,
            gfx=gpu.gfx,
            compiler=compiler,
            lds_bytes=lds_bytes,
            lds_limit=gpu.lds_bytes,
            vgprs=kernel.vgprs,
            agprs=kernel.agprs,
            sgprs=kernel.sgprs,
            vgpr_spills=kernel.vgpr_spills,
            sgpr_spills=kernel.sgpr_spills,
            scratch_bytes=kernel.scratch_bytes,
            occupancy=waves_per_simd(gpu, kernel, lds_bytes),
            matrix_instructions=matrix_instructions,
            code_bytes=kernel.code_bytes,
            wavefront=kernel.wavefront,
            waves=-(-kernel.max_workgroup // kernel.wavefront),
            loops=None if assembly is None else innermost_loops(assembly, kernel.name),
            whole=None if assembly is None else whole_kernel(assembly, kernel.name),
            **more,
        )

    @property
    def spills(self) -> int:
        """Registers of both kinds that went to memory."""
        return self.vgpr_spills + self.sgpr_spills

    @property
    def main_loop(self) -> Loop | None:
        """The loop that decides the time, by loops.main_loop; None without loops.

        If all matrix instructions are outside of loops, it is the whole kernel: a loop that was
        unrolled completely.
        """
        main = main_loop(self.loops or ())
        if (
            self.whole is not None
            and self.whole.multiply_adds
            and not (main and main.multiply_adds)
        ):
            return self.whole
        return main

    def estimate(self, loop: Loop | None = None) -> Estimate | None:
        """Return the estimate of a loop's clocks (dry_launch/estimate.py); None without a loop.

        Args:
            loop: one of `loops`; None takes the main loop.
        """
        loop = loop or self.main_loop
        if loop is None:
            return None
        return estimate(loop, Gpu(self.gfx), wavefront=self.wavefront, waves=self.occupancy)

    @property
    def fits(self) -> bool:
        """Whether one workgroup has the LDS and the registers that it needs."""
        return self.lds_bytes <= self.lds_limit and self.occupancy != 0

    def assert_fits(
        self,
        *,
        lds_bytes: int | None = None,
        vgprs: int | None = None,
        agprs: int | None = None,
        sgprs: int | None = None,
        spills: int | None = None,
        vgpr_spills: int | None = None,
        sgpr_spills: int | None = None,
        scratch_bytes: int | None = None,
        code_bytes: int | None = None,
        occupancy: int | None = None,
    ) -> None:
        """Assert that the kernel fits the target and keeps to the budgets given.

        Args:
            occupancy: the fewest waves per SIMD.
            lds_bytes, vgprs, agprs, sgprs, spills, vgpr_spills, sgpr_spills, scratch_bytes,
                code_bytes: the most of each; None asks nothing.

        Raises:
            AssertionError: all that is wrong, with kernel, target and compiler.
        """
        __tracebackhide__ = True
        most = {
            "lds_bytes": lds_bytes,
            "vgprs": vgprs,
            "agprs": agprs,
            "sgprs": sgprs,
            "spills": spills,
            "vgpr_spills": vgpr_spills,
            "sgpr_spills": sgpr_spills,
            "scratch_bytes": scratch_bytes,
            "code_bytes": code_bytes,
        }
        faults = [
            f"{name} is {getattr(self, name)}, the budget is at most {budget}"
            for name, budget in most.items()
            if budget is not None and getattr(self, name) > budget
        ]
        if self.lds_bytes > self.lds_limit:
            faults.insert(0, f"it needs {self.lds_bytes} bytes of LDS of {self.lds_limit}")
        if self.occupancy == 0:
            faults.insert(0, "not even one workgroup fits on the target")
        elif occupancy is not None and (self.occupancy is None or self.occupancy < occupancy):
            faults.append(
                f"occupancy is {_text(self.occupancy)} waves per SIMD, "
                f"the budget is at least {occupancy}"
            )
        if faults:
            raise AssertionError(f"{self}: {'; '.join(faults)}")

    def assert_budget(self, **budgets: float) -> None:
        """Assert that the kernel's main loop keeps to budgets.

        Args:
            budgets: by the names of dry_launch.figures.FIGURES, such as ``vector_per_score=10``,
                ``narrow_lds=0`` or ``clocks_per_score=12``: the most of each; of ``occupancy``,
                ``rows`` and ``keys`` the fewest.

        Raises:
            AssertionError: all figures over their budgets, with kernel, target and compiler.
            MockArgumentError: there is no figure of such a name.
        """
        __tracebackhide__ = True
        if faults := over_budget(self, budgets):
            raise AssertionError(f"{self}: {'; '.join(faults)}")

    def as_json(self) -> dict[str, Any]:
        """Return the record as a dict of JSON values, with ``fits``."""
        record = {item.name: _json(getattr(self, item.name)) for item in fields(self)}
        return record | {"fits": self.fits}

    def __str__(self) -> str:
        return f"{self.name} on {self.gfx} ({self.compiler})"


@dataclass(frozen=True, kw_only=True)
class Launch(Kernel):
    """One launch of a Triton kernel that was compiled and checked, but not executed.

    Attributes:
        kind: "launch"; "warmup" for ``kernel.warmup(...)``, which compiles only; "candidate" for a
            configuration that an autotuner tried.
        grid: number of programs along each axis; None for a warmup.
        num_warps, num_stages: launch options.
        options: the other options of the backend that affect speed, by name.
        constexprs: value of each compile-time argument, those that Triton specialised included.
        signature: Triton's type of each argument.
        attributes: what Triton assumes of each argument that it specialised, by the compiler's names:
            ``tt.divisibility`` 16, and ``tt.pointer_range`` 32 of a storage of at most 2 GiB.
    """

    kind: str
    grid: tuple[int, int, int] | None
    num_warps: int
    num_stages: int
    options: Mapping[str, Any] = field(default_factory=dict)
    constexprs: Mapping[str, Any] = field(default_factory=dict)
    signature: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A launch that Triton refused: it does not fit the target, or does not compile.

    Attributes:
        name: the kernel's function.
        gfx, compiler: as in Kernel.
        kind: as in Launch.
        config: the constexprs and options of the call, by name.
        error: type and text of Triton's own exception.
        launch: the kernel's figures, or None when it did not compile.
    """

    name: str
    gfx: str
    compiler: str
    kind: str
    config: Mapping[str, Any]
    error: str
    launch: Launch | None

    def as_json(self) -> dict[str, Any]:
        """Return the record as a dict of JSON values."""
        return {
            "name": self.name,
            "gfx": self.gfx,
            "compiler": self.compiler,
            "kind": self.kind,
            "config": _json(self.config),
            "error": self.error,
            "launch": None if self.launch is None else self.launch.as_json(),
        }

    def __str__(self) -> str:
        config = ", ".join(f"{name}={value}" for name, value in self.config.items())
        return f"{self.name} on {self.gfx} ({self.compiler}) with {config}: {self.error}"


class Launches(Sequence[Launch]):
    """The launches of one ``dry_launch`` block, in order.

    Args:
        gfx: the target, for messages.

    Attributes:
        candidates: configurations that an autotuner tried and that fit.
        rejected: launches and candidates that Triton refused.
    """

    def __init__(self, gfx: str) -> None:
        self._gfx = gfx
        self._launches: list[Launch] = []
        self.candidates: list[Launch] = []
        self.rejected: list[Rejection] = []

    def add(self, record: Launch | Rejection) -> None:
        """Append one record to the list that it belongs to."""
        if isinstance(record, Rejection):
            self.rejected.append(record)
        elif record.kind == "candidate":
            self.candidates.append(record)
        else:
            self._launches.append(record)

    @overload
    def __getitem__(self, index: int) -> Launch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Launch]: ...
    def __getitem__(self, index: int | slice) -> Launch | list[Launch]:
        return self._launches[index]

    def __len__(self) -> int:
        return len(self._launches)

    def assert_fits(self, **budgets: int) -> None:
        """Assert that there were launches, none was refused, and each keeps to the budgets.

        Args:
            budgets: as for ``Kernel.assert_fits``, applied to each launch.

        Raises:
            AssertionError: there was no launch; or the refusals; or the first launch over its
                budget.
        """
        __tracebackhide__ = True
        if self.rejected:
            raise AssertionError("\n".join(str(rejection) for rejection in self.rejected))
        if not self:
            raise AssertionError(
                f"no Triton kernel was launched on {self._gfx}, so none was checked; launch it inside"
                " the dry_launch block"
            )
        for launch in self:
            launch.assert_fits(**budgets)

    assert_fit = assert_fits  # its name until 0.1.0

    def as_json(self) -> dict[str, Any]:
        """Return everything as a dict of JSON values, ``schema`` included."""
        return {
            "schema": SCHEMA,
            "launches": [launch.as_json() for launch in self],
            "candidates": [launch.as_json() for launch in self.candidates],
            "rejected": [rejection.as_json() for rejection in self.rejected],
        }

    def json(self) -> str:
        """Return ``as_json()`` as text."""
        return json.dumps(self.as_json(), indent=2)

    def table(self) -> str:
        """Return a table for the terminal: a row per launch, then what was refused and why."""
        lines = [table([*self, *self.candidates])]
        lines += [f"refused: {rejection}" for rejection in self.rejected]
        return "\n".join(lines)

    __str__ = table

    def __repr__(self) -> str:
        return f"<Launches: {[str(launch) for launch in self]}, {len(self.rejected)} refused>"


def table(kernels: Sequence[Kernel]) -> str:
    """Return a table of kernels or launches for the terminal, one row each."""
    return "\n".join(aligned([COLUMNS, *map(_row, kernels)]))


COLUMNS = (
    "kernel",
    "gfx",
    "kind",
    "grid",
    "warps",
    "stages",
    "LDS",
    "VGPR",
    "AGPR",
    "SGPR",
    "spills",
    "scratch",
    "waves/SIMD",
    "matrix",
    "code",
    "compiler",
)


def _row(kernel: Kernel) -> tuple[str, ...]:
    launch = kernel if isinstance(kernel, Launch) else None
    matrix = kernel.matrix_instructions
    return (
        kernel.name,
        kernel.gfx,
        launch.kind if launch else "-",
        "x".join(map(str, launch.grid)) if launch and launch.grid else "-",
        str(launch.num_warps) if launch else "-",
        str(launch.num_stages) if launch else "-",
        f"{kernel.lds_bytes}/{kernel.lds_limit}",
        str(kernel.vgprs),
        str(kernel.agprs),
        str(kernel.sgprs),
        str(kernel.spills),
        str(kernel.scratch_bytes),
        _text(kernel.occupancy),
        _text(None if matrix is None else sum(matrix.values())),
        str(kernel.code_bytes),
        kernel.compiler,
    )


def _text(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _json(value: Any) -> Any:
    """Return value as JSON can hold it; what it cannot hold becomes its repr."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Loop):
        return value.as_json()
    if isinstance(value, dict):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return repr(value)
