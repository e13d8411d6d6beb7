"""Compilations that take long: named on the terminal while they run, and bounded.

A compiler works in machine code that nothing in this process can interrupt. So a bounded compilation
is tried in a forked process first, which leaves its result in Triton's cache on disk and can be ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLOW = 5.0  # seconds after which a compilation is named, and again each time that it has doubled
_POLL = 0.02  # seconds
_limits: list[float] = []


class CpuSeconds(float):
    """A limit that counts the compiler's own time, so that a loaded machine does not shorten it."""


def limit() -> float | None:
    """Return how many seconds a compilation may take in this process; None: any."""
    return _limits[-1] if _limits else None


def set_limit(seconds: float) -> Callable[[], None]:
    """Limit each compilation from now on; return a function that removes the limit. The last limit applies."""
    _limits.append(seconds)
    return lambda: _limits.remove(seconds)


@contextlib.contextmanager
def named(what: str) -> Iterator[None]:
    """Say on the terminal what is being compiled, for as long as the block takes.

    Args:
        what: the kernel and its target, in words.
    """
    over = threading.Event()

    def watch() -> None:
        start, wait = time.monotonic(), SLOW
        while not over.wait(wait):
            passed = time.monotonic() - start
            say(f"rocm-attn: still compiling {what}, for {passed:.0f} s so far")
            wait = passed

    thread = threading.Thread(target=watch, name="rocm-attn compile watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def ends_within(seconds: float, work: Callable[[], object]) -> bool:
    """Do work in a forked process; return whether it ended in time, in whatever way.

    Args:
        seconds: by the clock, or CpuSeconds.
        work: what is done.
    """
    with warnings.catch_warnings():
        # Python 3.12 warns of other threads: the child compiles, and touches nothing that they use.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        # What it prints, and what it raises, this process says when it compiles for itself.
        with contextlib.suppress(BaseException), open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)
            work()
        os._exit(0)
    start = time.monotonic()
    try:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            passed = time.monotonic() - start
            if isinstance(seconds, CpuSeconds):
                passed = _cpu_seconds(child)
            if passed > seconds:
                return False
            time.sleep(_POLL)
        child = 0
        return True
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _cpu_seconds(pid: int) -> float:
    """Return how long the processors have worked for a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def say(line: str) -> None:
    """Print a line on the terminal of the pytest run in this process, past its capturing.

    Outside of such a run, and in a process without a terminal, it goes to stderr.
    """
    plugin = sys.modules.get("pytest_rocm_attn.plugin")
    config = plugin.running() if plugin is not None else None
    manager = config.pluginmanager if config is not None else None
    capture = manager.getplugin("capturemanager") if manager else None
    reporter = manager.getplugin("terminalreporter") if manager else None
    if hasattr(config, "workerinput"):  # xdist's: its terminal goes nowhere, its stderr is ours
        reporter = None
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        if reporter is None:
            print(line, file=sys.stderr, flush=True)
        else:
            reporter.ensure_newline()
            reporter.write_line(line)
