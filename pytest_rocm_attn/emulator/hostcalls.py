"""Messages of a kernel to its host: what it prints, and the assertions that fail.

A wave takes a packet from a stack of free ones, fills in up to 7 words for each lane and puts it on a stack of those
that are ready. It then rings a doorbell, interrupts the host and waits for the packet's answer. A text takes several packets.
Source: ROCm-Device-Libs, rocm-6.0.2, ockl/src/hostcall_impl.cl and services.cl, ockl/inc/amd_hsa_signal.h; what the
host does: ROCm/clr, rocm-6.0.2, rocclr/device/devhostcall.cpp, devhcmessages.cpp and devhcprintf.cpp.
"""

from __future__ import annotations

import itertools
import re
import struct
import sys
from typing import TYPE_CHECKING

import numpy as np

from pytest_rocm_attn.emulator.memory import Region
from pytest_rocm_attn.errors import EmulationFault, EmulatorError

if TYPE_CHECKING:
    from collections.abc import Sequence

# All in words of 64 bits: the buffer (headers, payloads, doorbell, free and ready stack, mask of a packet's number),
# the doorbell (a signal of HSA, with its mailbox), the headers (next, lanes, service and control), the payloads.
_HEADERS, _PAYLOADS, _DOORBELL, _FREE, _READY, _MASK = range(6)
_SIGNAL, _BOX, _FIRST, _HEADER, _SLOT = 8, 16, 24, 3, 8
_PACKET = 64 * _SLOT
_PRINTS = 2  # the service that prints; others call functions of the host, or allocate memory
_ASKED = np.uint64(1 << 32)  # of a header's last word: the packet has no answer yet
_BEGINS, _ENDS = 1, 2  # of a message's first word, its descriptor

_DIRECTIVE = re.compile(
    r"%(?P<form>[-+ 0]*(?:\*|\d+)?(?:\.(?:\*|\d+)?)?)(?P<length>hh|ll|[hljztL]|)(?P<kind>.?)",
    re.DOTALL,
)
_BITS = {"hh": 8, "h": 16, "": 32}  # of an integer; the others have 64


class Host:
    """The buffer through which a launch's kernel sends messages, and who answers them.

    Args:
        waves: that may each have sent one.
    """

    def __init__(self, waves: int) -> None:
        packets = 1 << max(1, (waves - 1).bit_length())
        payloads = -(-(_FIRST + _HEADER * packets) // 8) * 8
        room = np.zeros(payloads + _PACKET * packets + 8, np.uint64)
        self._words = words = room[-(room.ctypes.data // 8) % 8 :]
        self.address = start = words.ctypes.data
        words[_HEADERS], words[_PAYLOADS] = start + 8 * _FIRST, start + 8 * payloads
        words[_DOORBELL], words[_SIGNAL + 2] = start + 8 * _SIGNAL, start + 8 * _BOX
        words[_FREE], words[_MASK] = packets - 1, packets - 1
        # A packet's number has a tag above, so that it is never 0, which ends a stack.
        self._headers = words[_FIRST : _FIRST + _HEADER * packets].reshape(packets, _HEADER)
        self._headers[1:, 0] = [packets, *range(1, packets - 1)]
        self._payloads = words[payloads : payloads + _PACKET * packets].reshape(packets, 64, _SLOT)
        end = start + 8 * (payloads + _PACKET * packets)
        self.region = Region(start, end, "the buffer for messages to the host", 8)
        self._messages: dict[int, list[int]] = {}
        self._numbers = itertools.count()

    def answer(self) -> None:
        """Answer the packets that are ready, the oldest first, and in each the lowest lane first.

        Raises:
            EmulationFault: an assertion failed.
            EmulatorError: the kernel asks for something else than to print.
        """
        top, self._words[_READY] = int(self._words[_READY]), 0
        ready = []
        while top:
            ready.append(top & int(self._words[_MASK]))
            top = int(self._headers[ready[-1], 0])
        for packet in reversed(ready):
            _, lanes, service = self._headers[packet]
            if int(service) & 0xFFFFFFFF != _PRINTS:
                raise EmulatorError(
                    f"the kernel asks its host for service {int(service) & 0xFFFFFFFF}; the emulator knows only"
                    f" {_PRINTS}, which prints"
                )
            failed = {}
            for lane in range(64):
                if int(lanes) >> lane & 1 and (text := self._take(self._payloads[packet, lane])):
                    failed[lane] = text
            if failed:
                raise EmulationFault(f"device_assert failed {_whose(failed)}")
            self._headers[packet, 2] &= ~_ASKED

    def _take(self, slot: np.ndarray) -> str:
        """Take a lane's part of a message; return the text of one that is whole and goes to stderr."""
        descriptor, *words = slot.tolist()
        number = next(self._numbers) if descriptor & _BEGINS else descriptor >> 8
        message = self._messages.setdefault(number, [])
        message += words[: descriptor >> 5 & 7]
        slot[0] = number << 8 | descriptor & 0xFE
        if not descriptor & _ENDS:
            return ""
        stream, *message = self._messages.pop(number)
        if stream > 1:
            raise EmulatorError(f"the kernel prints to stream {stream}; there are 0 and 1")
        text = printed(message)
        slot[0] = len(text.encode())
        if stream:
            return text
        sys.stdout.write(text)
        return ""


def _whose(failed: dict[int, str]) -> str:
    """Return the lanes and the texts of an assertion that failed in a wave."""
    lanes = sorted(failed)
    where = f"lane {lanes[0]}" + (f" and {len(lanes) - 1} more of its wave" if lanes[1:] else "")
    return f"in {where}: " + "; ".join(dict.fromkeys(text.strip() for text in failed.values()))


def printed(words: Sequence[int]) -> str:
    """Return what printf makes of a format and its arguments; a directive without an argument stays as it is.

    Args:
        words: strings, the format among them, end with a zero and fill whole words.

    Raises:
        EmulatorError: a directive is not known.
    """
    left = list(words)

    def number(bits: int = 64, *, signed: bool = False) -> int:
        value = left.pop(0) & (1 << bits) - 1
        return value - (value >> bits - 1 << bits) if signed else value

    def string() -> str:
        data = struct.pack(f"<{len(left)}Q", *left)
        end = data.find(0) % (len(data) + 1)
        del left[: end // 8 + 1]
        return data[:end].decode(errors="replace")

    def directive(match: re.Match[str]) -> str:
        form, length, kind = match.groups()
        if kind == "%":
            return "%"
        if len(left) <= form.count("*"):
            return match[0]
        given: list[object] = [number(32, signed=True) for _ in range(form.count("*"))]
        if kind in ("d", "i"):
            given.append(number(_BITS.get(length, 64), signed=True))
        elif kind in ("u", "x", "X"):
            given.append(number(_BITS.get(length, 64)))
        elif kind in ("e", "E", "f", "F", "g", "G"):
            given += struct.unpack("<d", struct.pack("<Q", number()))
        elif kind == "c" and not length:
            given.append(number(8))
        elif kind == "s" and not length:
            given.append(string())
        elif kind == "p":
            given, kind = [*given, f"{number():#x}"], "s"
        else:
            raise EmulatorError(
                f"the kernel prints with the directive {match[0]!r}, which the emulator does not know; a per cent sign"
                " is written as %%"
            )
        return f"%{form}{kind}" % tuple(given)

    return _DIRECTIVE.sub(directive, string())
