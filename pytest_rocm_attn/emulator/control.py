"""Instructions that change the flow, wait, or do nothing that can be seen.

Source: AMD's ISA guides, "Program Flow Control" and "SOPP Instructions".
"""

from __future__ import annotations

import numpy as np

from pytest_rocm_attn.emulator.assembly import CODE_BASE, CODE_STEP
from pytest_rocm_attn.emulator.machine import EXEC, SCALAR_KEY, SCC_KEY, VCC, Array, Machine, Waves
from pytest_rocm_attn.emulator.step import Context, Shadows, Step
from pytest_rocm_attn.emulator.waits import waited

# Hints, caches, traps that are off, and modes that the directives set already.
IDLE = frozenset(
    [
        "s_nop",
        "s_sleep",
        "s_setprio",
        "s_sethalt",
        "s_code_end",
        "s_delay_alu",
        "s_clause",
        "s_sendmsg",  # except an interrupt of the host
        "s_version",
        "s_wait_alu",
        "s_waitcnt_depctr",
        "s_set_inst_prefetch_distance",
        "s_icache_inv",
        "s_ttracedata",
        "s_round_mode",
        "s_denorm_mode",
        "s_setreg_b32",
        "s_setreg_imm32_b32",
        "v_nop",
        "s_prefetch_inst",
        "s_prefetch_data",
        "s_inst_prefetch",
        "s_set_gpr_idx_off",  # the reader of the assembly heeds it
        "s_incperflevel",
        "s_decperflevel",
    ]
)
# What depends on its place in the program, besides what its text says.
PLACED = frozenset({"s_getpc_b64", "s_swappc_b64"})
# gfx12 splits a barrier: a wave signals that it has come, and waits for the others later.
_BARRIERS = {"s_barrier": "barrier", "s_barrier_signal": "signal", "s_barrier_wait": "wait"}
_CONDITIONS = {
    "s_cbranch_scc0": ("scc", False),
    "s_cbranch_scc1": ("scc", True),
    "s_cbranch_vccz": ("vcc", False),
    "s_cbranch_vccnz": ("vcc", True),
    "s_cbranch_execz": ("exec", False),
    "s_cbranch_execnz": ("exec", True),
}


def _idle(machine: Machine, waves: Waves) -> None:
    """Nothing."""


def _interrupt(machine: Machine, waves: Waves) -> None:
    """Have the host answer the messages that wait for it."""
    if machine.host is None:
        raise machine.fault("interrupts the host, though the kernel takes no buffer for messages")
    machine.host.answer()


def _trap(machine: Machine, waves: Waves) -> None:
    raise machine.fault("the kernel gives up")


def build(context: Context) -> Step | None:
    """Return the step of one of these instructions, or None."""
    name = context.name
    if name == "s_sendmsg" and "MSG_INTERRUPT" in context.instruction.text:
        return Step(_interrupt)
    if name == "s_trap":
        return Step(_trap)
    if name in IDLE:
        return Step(_idle)
    if name == "s_endpgm":
        return Step(_idle, control="end")
    if name in _BARRIERS:
        return Step(_idle, control=_BARRIERS[name])
    if name == "s_branch":
        return Step(_idle, control="always")
    if name in _CONDITIONS:
        return _branch(context, *_CONDITIONS[name])
    if name in ("s_setpc_b64", "s_swappc_b64"):
        return _jump(context)
    if name == "s_getpc_b64":
        return _here(context)
    if name == "s_waitcnt" or name.startswith(("s_wait_", "s_waitcnt_")):
        return _wait(context)
    return None


def _wait(context: Context) -> Step:
    targets = waited(context.instruction.name, context.instruction.operands)

    def run(m: Machine, w: Waves) -> None:
        for counter, most in targets.items():
            m.waits.wait(counter, most, w)

    return Step(run)


def _branch(context: Context, what: str, wanted: bool) -> Step:
    width = context.lanes // 32
    register = VCC if what == "vcc" else EXEC
    if what == "scc":
        keys: tuple[int, ...] = (SCC_KEY,)
    else:
        keys = tuple(SCALAR_KEY + register + word for word in range(width))

    def taint(m: Machine, w: Waves) -> Shadows:
        if what == "scc":
            m.demand("a branch", m.scc_shadow(w))
            return []
        unsure = m.mask_shadow(register, w)
        known = np.asarray((m.mask(register, w) & ~unsure).any(axis=1))  # one that is set decides
        m.demand("a branch", np.asarray(unsure.any(axis=1)) & ~known)
        return []

    def taken(m: Machine, w: Waves) -> Array:
        if what == "scc":
            result: Array = m.scc[w] == wanted
            return result
        words = m.scalar[register, w]
        if width == 2:
            words = words | m.scalar[register + 1, w]
        return (words != 0) == wanted

    return Step(_idle, keys, (), taint, control="branch", decide=taken)


def _jump(context: Context) -> Step:
    """s_setpc jumps; s_swappc, a call, also leaves the address that follows it."""
    *saved, register = (one.index for one in context.operands())
    keys = (SCALAR_KEY + register, SCALAR_KEY + register + 1)
    written = tuple(SCALAR_KEY + one + word for one in saved for word in (0, 1))
    following = _following(context)

    def taint(m: Machine, w: Waves) -> Shadows:
        m.demand("a jump", m.scalar_shadow(register, w) | m.scalar_shadow(register + 1, w))
        return []

    def target(m: Machine, w: Waves) -> Array:
        distance = m.scalar64(register, w).view(np.int64) - CODE_BASE
        for one in saved:
            m.set_scalar64(one, w, following)
        for key in written:
            m.define(key, None, everywhere=True)
        return np.where(distance % CODE_STEP, -1, distance // CODE_STEP)

    return Step(_idle, keys, written, taint, control="jump", decide=target)


def _here(context: Context) -> Step:
    register, following = context.operand(0).index, _following(context)

    def run(m: Machine, w: Waves) -> None:
        m.set_scalar64(register, w, following)

    return Step(run, (), (SCALAR_KEY + register, SCALAR_KEY + register + 1))


def _following(context: Context) -> Array:
    """Return the address of the next instruction."""
    return np.array([CODE_BASE + CODE_STEP * (context.instruction.index + 1)]).view(np.uint64)
