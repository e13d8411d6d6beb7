"""What kernels print, and the assertions that fail: on each target, and with C's library beside."""

# Kernels are written in Triton's language, whose decorators and values have no types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, misc"

from __future__ import annotations

import ctypes
import inspect
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from pytest_rocm_attn.emulator.hostcalls import Host, printed
from pytest_rocm_attn.emulator.triton_launch import Emulation
from pytest_rocm_attn.errors import EmulationFault, EmulatorError
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.mock.triton_driver import activate


@triton.jit
def says(x_ptr, y_ptr, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x, y = tl.load(x_ptr + offsets), tl.load(y_ptr + offsets)
    tl.device_print("of 100%%", x, y)
    tl.store(x_ptr + offsets, x + 1)


@triton.jit
def says_once(x_ptr):
    tl.device_print("starts")
    tl.device_print("x", tl.load(x_ptr), hex=True)


@triton.jit
def small(x, limit):
    tl.device_assert(x < limit, "not small")


@triton.jit
def asserts_twice(x_ptr, BLOCK: tl.constexpr):
    x = tl.load(x_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))
    tl.device_assert(x >= 0, "negative")
    small(x, 300)


@pytest.fixture(params=["gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201"])
def gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    """A target on which launches are executed."""
    gpu = Gpu(request.param)
    undo = activate(gpu, Emulation(limit=200_000))
    yield gpu
    undo()


def test_each_lane_of_each_wave_and_program_prints_its_operands(
    gpu: Gpu, capsys: pytest.CaptureFixture[str]
) -> None:
    x = torch.arange(256, dtype=torch.int32) - 100
    y = torch.arange(256) / 8
    y[7], y[8] = -torch.inf, torch.nan
    before = x.tolist()
    says[(2,)](x, y, BLOCK=128, num_warps=128 // gpu.wavefront)  # an element a lane
    assert x.tolist() == [one + 1 for one in before]
    assert capsys.readouterr().out.splitlines() == [
        f"pid ({place // 128}, 0, 0) idx ({place % 128:3}) of 100%: (operand {number}) {text}"
        for number, texts in enumerate(
            ([str(one) for one in before], [f"{one:f}" for one in y.tolist()])
        )
        for place, text in enumerate(texts)
    ]


def test_a_text_and_a_scalar_are_printed_by_every_lane(
    gpu: Gpu, capsys: pytest.CaptureFixture[str]
) -> None:
    says_once[(1,)](torch.full((1,), 0xBEEF, dtype=torch.int32), num_warps=1)
    lines = [line.split(")", 1)[1].strip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["starts"] * gpu.wavefront + ["idx () x: 0x0000beef"] * gpu.wavefront


def test_what_is_printed_and_who_asserts_is_the_same_for_waves_in_turn(
    capsys: pytest.CaptureFixture[str],
) -> None:
    undo = activate(Gpu("gfx1100"), Emulation(seed=1, limit=200_000))
    try:
        says[(1,)](torch.zeros(64, dtype=torch.int32), torch.zeros(64), BLOCK=64, num_warps=2)
    finally:
        undo()
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == sorted(
        f"pid (0, 0, 0) idx ({lane:2}) of 100%: (operand {number}) {zero}"
        for lane in range(64)
        for number, zero in enumerate(("0", "0.000000"))
    )


def test_an_assertion_that_fails_in_one_wave_names_its_text_and_line(gpu: Gpu) -> None:
    x = torch.arange(512, dtype=torch.int32) % 256
    launch = asserts_twice[(2,)]
    launch(x, BLOCK=256, num_warps=4, debug=True)
    lines, first = inspect.getsourcelines(small.fn)
    line = next(first + at for at, text in enumerate(lines) if "device_assert" in text)
    x[300] = 301
    with pytest.raises(EmulationFault) as fault:
        launch(x, BLOCK=256, num_warps=4, debug=True)
    assert "asserts_twice on gfx" in str(fault.value)
    assert "device_assert failed in lane " in str(fault.value)
    assert "'not small'" in str(fault.value)
    assert f"{__file__}:{line}" in str(fault.value)
    assert "negative" not in str(fault.value)


def test_a_trap_is_a_fault(execute: Callable[..., Any]) -> None:
    with pytest.raises(EmulationFault, match=r"the kernel gives up, by 's_trap 2'"):
        execute("\ts_trap 2")


def test_an_interrupt_without_a_buffer_is_a_fault(execute: Callable[..., Any]) -> None:
    with pytest.raises(EmulationFault, match="takes no buffer for messages"):
        execute("\ts_sendmsg sendmsg(MSG_INTERRUPT)")
    assert execute("\ts_sendmsg sendmsg(MSG_DEALLOC_VGPRS)").instructions == 2


def send(host: Host, lanes: dict[int, list[int]], service: int = 2) -> list[int]:
    """Send a packet as a wave does; return the first word of each lane's answer."""
    buffer = (ctypes.c_uint64 * 6).from_address(host.address)
    packet = buffer[3]
    number = packet & buffer[5]
    header = (ctypes.c_uint64 * 3).from_address(buffer[0] + 24 * number)
    slots = (ctypes.c_uint64 * 512).from_address(buffer[1] + 4096 * number)
    buffer[3], header[0] = header[0], buffer[4]
    buffer[4] = packet
    header[1], header[2] = sum(1 << lane for lane in lanes), service | 1 << 32
    for lane, words in lanes.items():
        for place, word in enumerate(words, 8 * lane):
            slots[place] = word
    host.answer()
    assert header[2] == service  # and no longer the mark of a packet without an answer
    header[0], buffer[3] = buffer[3], packet
    return [slots[8 * lane] for lane in lanes]


def words(text: str) -> list[int]:
    data = text.encode() + bytes(8 - len(text.encode()) % 8)
    return list(struct.unpack(f"<{len(data) // 8}Q", data))


def test_a_message_of_several_packets_is_one_text(capsys: pytest.CaptureFixture[str]) -> None:
    host = Host(3)
    begun = send(host, {1: [1 | 1 << 5, 0], 40: [1 | 1 << 5, 0]})
    first, second = (number & ~(7 << 5) for number in begun)  # without the length
    assert first != second
    for lane, number in ((40, second), (1, first)):  # each keeps its own words
        text = words(f"{lane}: %s %d\n")
        send(host, {lane: [number | len(text) << 5, *text]})
    assert capsys.readouterr().out == ""
    more = [*words("ten"), 10]
    length = send(host, {lane: [n | 2 | 2 << 5, *more] for lane, n in ((1, first), (40, second))})
    assert capsys.readouterr().out == "1: ten 10\n40: ten 10\n"
    assert length == [len("1: ten 10\n"), len("40: ten 10\n")]


@pytest.mark.parametrize("waves", [1, 2, 3, 4, 512, 513])
def test_each_wave_finds_a_free_packet_of_its_own(waves: int) -> None:
    host = Host(waves)
    buffer = (ctypes.c_uint64 * 6).from_address(host.address)
    taken = set()
    for _ in range(waves):  # 0 would be the end of a stack
        assert buffer[3] != 0
        taken.add(buffer[3] & buffer[5])
        buffer[3] = ctypes.c_uint64.from_address(buffer[0] + 24 * (buffer[3] & buffer[5])).value
    assert len(taken) == waves


@pytest.mark.parametrize("service", [1, 3, 4])
def test_another_service_is_refused_by_its_number(service: int) -> None:
    with pytest.raises(EmulatorError, match=f"service {service};"):
        send(Host(1), {0: [0]}, service)


def test_another_stream_is_refused() -> None:
    with pytest.raises(EmulatorError, match="stream 2;"):
        send(Host(1), {0: [3 | 1 << 5, 2]})


INTEGERS = (0, 1, 200, 40_000, (1 << 31) + 5, (1 << 63) + 7, (1 << 64) - 1)
DOUBLES = (0.0, -0.0, 1.5, -1e300, 3.1415926535, 1e-7, float("inf"), float("-inf"))


@pytest.mark.parametrize(
    "form",
    ["%d", "%i", "%5d|", "%-5i|", "%05d", "%+d", "% d", "%hhd", "%hd", "%ld", "%lld", "%jd", "%zi"]
    + ["%u", "%hhu", "%hu", "%llu", "%x", "%X", "0x%08x", "0x%016llx", "%.3d", "%10.4u|"],
)
def test_integers_are_printed_as_c_does(form: str) -> None:
    for value in INTEGERS:
        buffer = ctypes.create_string_buffer(100)
        ctypes.CDLL(None).snprintf(buffer, 100, form.encode(), ctypes.c_uint64(value))
        assert printed([*words(form), value]) == buffer.value.decode()


@pytest.mark.parametrize("form", ["%f", "%12.3f|", "%-12.3F|", "%e", "%.0E", "%g", "%G", "%+.2f"])
def test_floats_are_printed_as_c_does(form: str) -> None:
    for value in DOUBLES:
        buffer = ctypes.create_string_buffer(1000)
        ctypes.CDLL(None).snprintf(buffer, 1000, form.encode(), ctypes.c_double(value))
        assert printed([*words(form), *struct.unpack("<Q", struct.pack("<d", value))]) == (
            buffer.value.decode()
        )


def test_other_arguments_and_what_has_none() -> None:
    minus = (1 << 64) - 3
    assert printed([*words("%*d|%-*.*s|%p%%"), 4, 7, 9, 2, *words("strings"), 255]) == (
        "   7|st       |0xff%"
    )
    assert printed([*words("%c%*d|"), ord("x"), minus, 1]) == "x1  |"
    assert printed([*words("%s%s."), *words("a text of more than a word"), *words("")]) == (
        "a text of more than a word."
    )
    assert printed(words("100% of %d is left")) == "100% of %d is left"
    assert printed([*words("%*d"), 4]) == "%*d"


@pytest.mark.parametrize("form", ["%n", "%a", "%o", "%ls", "%lc", "%#x", "%:", "%"])
def test_an_unknown_directive_is_refused(form: str) -> None:
    with pytest.raises(EmulatorError, match=f"directive '{form[:2]}"):
        printed([*words(form), 1])
