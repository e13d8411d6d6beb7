"""How long a process may take for one answer, however busy the machine is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from time import monotonic as _now

WALL = 10  # on the clock, an answer may take this many times its limit
_LOOK = 0.1  # seconds between two looks at a process
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_ASLEEP = (
    "SIZXx"  # states of /proc: sleeping, idle, ended; not: running, stopped, waiting for a disk
)


@dataclass(frozen=True, slots=True)
class Activity:
    """What a process and its descendants have been doing up to now.

    Attributes:
        cpu: processor time that they used so far, in seconds.
        asleep: none of their threads wants a processor, waits for a disk, or is stopped.
    """

    cpu: float
    asleep: bool


class Patience:
    """The limit of one answer. It starts to count when it is made.

    What counts is the time that the process and its descendants compute, and the time in which all
    of them sleep. The time in which they wait for a processor or a disk, or are stopped, does not
    count: it says something about the machine only. After WALL times the limit on the clock it is
    over in any case. Without Linux's /proc, the time on the clock counts.

    Args:
        pid: the process.
        limit: in seconds.
    """

    def __init__(self, pid: int, limit: float) -> None:
        self._pid = pid
        self._limit = limit
        self._spent = 0.0
        self._start = self._looked = _now()
        self._before = activity(pid)

    def is_over(self) -> bool:
        """Look at the process; return whether its time is over."""
        now, current = _now(), activity(self._pid)
        passed, self._looked = now - self._looked, now
        before, self._before = self._before, current
        if before is None or current is None:
            self._spent += passed
        else:
            used = current.cpu - before.cpu
            sleeps = used <= 0 and before.asleep and current.asleep
            # Several processors at a time count as one.
            self._spent += passed if sleeps else min(max(0.0, used), passed)
        return self._spent >= self._limit or now - self._start >= WALL * self._limit


def pause(limit: float) -> float:
    """Return the seconds until the next look is worth it."""
    return min(_LOOK, limit / 4)


def activity(pid: int) -> Activity | None:
    """Return what a process and its descendants have been doing; None if that is not known."""
    cpu, asleep, found = 0.0, True, False
    waiting = [pid]
    while waiting:
        process = waiting.pop()
        try:
            tasks = list(Path(f"/proc/{process}/task").glob("[0-9]*"))
        except OSError:  # it ends while its tasks are listed
            continue
        own = _fields(Path(f"/proc/{process}/stat"))
        if own is None:
            continue  # it has ended, or there is no /proc
        found = True
        cpu += sum(map(int, own[11:15])) / _TICKS  # its own, and that of children that have ended
        for task in tasks:
            fields = _fields(task / "stat")
            asleep = asleep and (fields is None or fields[0] in _ASLEEP)
            try:
                waiting += map(int, (task / "children").read_text().split())
            except OSError:
                continue
    return Activity(cpu, asleep) if found else None


def _fields(stat: Path) -> list[str] | None:
    """Return the fields of a stat file from the state on; a name before it may hold anything."""
    try:
        return stat.read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
