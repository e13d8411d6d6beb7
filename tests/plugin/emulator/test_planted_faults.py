"""Faults planted in what Triton compiled, or in the kernel itself: each is found, with the right line."""

# Kernels are written in Triton's language, whose decorators and values have no types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, misc"

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from pytest_rocm_attn.emulator.triton_launch import Emulation
from pytest_rocm_attn.errors import EmulationFault
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.mock.triton_driver import activate

TARGETS = ("gfx942", "gfx1201")


@triton.jit
def normalise(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    mask = offsets < n
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0)
    total = tl.sum(x, 0)
    tl.store(out_ptr + offsets, x / total, mask=mask)


@triton.jit
def forgets_its_mask(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets)
    tl.store(out_ptr + offsets, x, mask=offsets < n)


class Captured:
    """A kernel's launch, to be repeated with another assembly."""

    def __init__(
        self,
        gfx: str,
        kernel: Any,
        n: int,
        block: int,
        *,
        x: torch.Tensor | None = None,
        out: tuple[int, ...] = (),
    ) -> None:
        self.gpu, self.kernel, self.n = Gpu(gfx), kernel, n
        self.x = torch.rand(n) + 1 if x is None else x
        self.out = torch.full(out or (n,), torch.nan)
        self.launched: list[Any] = []
        undo = activate(self.gpu, lambda *launch: self.launched.append(launch))
        try:
            kernel[(1,)](self.x, self.out, n, BLOCK=block, num_warps=4)
        finally:
            undo()

    @property
    def assembly(self) -> str:
        text: str = self.launched[0][1].asm["amdgcn"]
        return text

    def run(self, assembly: str) -> None:
        """Launch what was captured, with an assembly of ours."""
        gpu, compiled, grid, arguments = self.launched[0]
        inner = SimpleNamespace(
            name=compiled.name,
            metadata=compiled.metadata,
            src=compiled.src,
            asm={"amdgcn": assembly},
        )
        Emulation(limit=20_000)(gpu, inner, grid, arguments)


def line_of(kernel: Any, words: str) -> str:
    """Return file:line of a line of a kernel."""
    lines, first = inspect.getsourcelines(kernel.fn)
    (number,) = (first + i for i, line in enumerate(lines) if words in line)
    return f"test_planted_faults.py:{number}"


@pytest.fixture(scope="module", params=TARGETS)
def normalised(request: pytest.FixtureRequest) -> Iterator[Captured]:
    """The kernel as it is, captured, and right."""
    captured = Captured(request.param, normalise, 200, 256)
    captured.run(captured.assembly)
    torch.testing.assert_close(captured.out, captured.x / captured.x.sum())
    yield captured


def without(assembly: str, pattern: str) -> Iterator[tuple[int, str]]:
    """Yield the assembly without each line that matches, one at a time, with the line's number."""
    lines = assembly.splitlines()
    for number, line in enumerate(lines):
        if re.match(rf"\s+{pattern}", line):
            yield number + 1, "\n".join([*lines[:number], "\ts_nop 0", *lines[number + 1 :]])


def test_each_barrier_that_is_removed_is_a_race(normalised: Captured) -> None:
    found = 0
    for _, assembly in without(normalised.assembly, r"s_barrier(_wait)?\b"):
        with pytest.raises(EmulationFault, match="race: wave") as fault:
            normalised.run(assembly)
        assert line_of(normalise, "tl.sum") in str(fault.value)
        found += 1
    assert found


def test_each_wait_that_is_removed_is_noticed(normalised: Captured) -> None:
    pattern = r"s_wait(cnt|_loadcnt|_kmcnt|_dscnt)"
    lines = ("def normalise", "offsets < n", "tl.load", "tl.sum", "x / total")
    uses = [line_of(normalise, words) for words in lines]
    kinds = set()
    for _, assembly in without(normalised.assembly, pattern):
        with pytest.raises(EmulationFault, match="before it has arrived|race") as fault:
            normalised.run(assembly)
        assert any(line in str(fault.value) for line in uses), str(fault.value)
        kinds.add("race" if "race" in str(fault.value) else "wait")
    assert kinds == {"race", "wait"}


def test_each_lds_offset_that_is_off_by_one_is_noticed(normalised: Captured) -> None:
    """The address register of each access is moved on by one before it."""
    lines = normalised.assembly.splitlines()
    add = "v_add_u32_e32" if normalised.gpu.gfx == "gfx942" else "v_add_nc_u32_e32"
    tried = 0
    for number, line in enumerate(lines):
        match = re.match(r"\s+ds_(?:read|write|load|store)_b32 (.*)", line)
        if match is None:
            continue
        operands = match[1].split(", ")
        address = operands[0] if "write" in line or "store" in line else operands[1]
        moved = [*lines[:number], f"\t{add} v40, 1, {address}", line.replace(address, "v40")]
        moved = [one.replace("next_free_vgpr ", "next_free_vgpr 4") for one in moved]
        rest = [one.replace("next_free_vgpr ", "next_free_vgpr 4") for one in lines[number + 1 :]]
        normalised.out.fill_(torch.nan)
        try:
            normalised.run("\n".join([*moved, *rest]))
        except EmulationFault as fault:
            assert line_of(normalise, "tl.sum") in str(fault)
        else:
            assert not torch.allclose(normalised.out, normalised.x / normalised.x.sum())
        tried += 1
    assert tried >= 2


@pytest.mark.parametrize("gfx", TARGETS)
def test_a_forgotten_mask_reads_beyond_the_tensor(gfx: str) -> None:
    captured = Captured(gfx, forgets_its_mask, 200, 256)
    with pytest.raises(EmulationFault, match=r"element 200 of x_ptr \(float32\[200\]\)") as fault:
        captured.run(captured.assembly)
    assert line_of(forgets_its_mask, "tl.load") in str(fault.value)


def test_a_wave_of_64_that_is_assumed_is_a_race_where_waves_have_32(execute: Any) -> None:
    """A workgroup of 64 exchanges through LDS without a barrier: its only wave runs in step."""
    bodies: dict[str, tuple[str, ...]] = {
        "gfx942": ("v_xor_b32_e32 v3, 0x80, v1", "ds_write_b32 v1, v0", "s_waitcnt lgkmcnt(0)",
                   "ds_read_b32 v2, v3", "s_waitcnt lgkmcnt(0)"),
        "gfx1201": ("v_xor_b32_e32 v3, 0x80, v1", "ds_store_b32 v1, v0", "s_wait_dscnt 0x0",
                    ".loc 1 7 3", "ds_load_b32 v2, v3", "s_wait_dscnt 0x0"),
    }  # fmt: skip
    begin = "\tv_lshlrev_b32_e32 v1, 2, v0\n\t"
    run: Callable[..., Any] = execute
    run(begin + "\n\t".join(bodies["gfx942"]), "gfx942", threads=64, lds=256)
    with pytest.raises(EmulationFault, match=r"race: wave \d reads.*kernel.py:7"):
        run(begin + "\n\t".join(bodies["gfx1201"]), "gfx1201", threads=64, lds=256)


@triton.jit
def pipelined(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """Multiply [16, n] by its transpose."""
    rows, columns = tl.arange(0, 16)[:, None], tl.arange(0, BLOCK)
    total = tl.zeros((16, 16), tl.float32)
    for start in range(0, n, BLOCK):
        x = tl.load(x_ptr + rows * n + start + columns[None, :])
        total = tl.dot(x, tl.trans(x), total)
    tl.store(out_ptr + rows * 16 + tl.arange(0, 16)[None, :], total)


@pytest.mark.parametrize("pattern", [r"s_waitcnt vmcnt", "s_barrier"])
def test_what_a_load_into_lds_lacks_is_noticed(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton.knobs.amd, "use_async_copy", True)
    captured = Captured("gfx950", pipelined, 256, 64, x=torch.rand(16, 256).half(), out=(16, 16))
    assert re.search(r"\blds\n", captured.assembly)
    captured.run(captured.assembly)
    torch.testing.assert_close(captured.out, captured.x.float() @ captured.x.float().T)
    noticed = 0
    for _, assembly in without(captured.assembly, pattern):
        captured.out.fill_(torch.nan)
        with pytest.raises(EmulationFault, match="before it has arrived|race: wave"):
            captured.run(assembly)
        noticed += 1
    assert noticed >= 2
