"""One platform that is asked very many questions; see inside/cells.py."""

from __future__ import annotations

import contextlib
import queue
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.isolation.platforms import Platform, Platforms
from pytest_rocm_attn.conformance.isolation.processes import UnreadableError, WorkerError
from pytest_rocm_attn.conformance.isolation.refreshing import Trust
from pytest_rocm_attn.outcome import Crashed, Died, Outcome, TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_rocm_attn.gpu import Gpu

_LOOK = 0.1  # seconds between two looks at whether a process is stuck


class Bulk:
    """One platform, claimed by Pool.bulk. Has many cells asked at a time.

    Attributes:
        in_place: one process may answer for all environments, one after the other; else each needs
            one of its own.
    """

    def __init__(
        self, platforms: Platforms, gpu: Gpu, platform: Platform | None, trust: Trust
    ) -> None:
        self._platforms = platforms
        self._gpu = gpu
        self._platform = platform
        self._trust = trust
        self.in_place = trust is Trust.IN_PLACE

    @property
    def reads(self) -> frozenset[str]:
        """The variables that an import of the selector reads, where each needs one of its own."""
        if self._trust is not Trust.NONE or self._platform is None:
            return frozenset()
        return frozenset(self._platform.reads)

    def ask(
        self,
        cells: Mapping[str, Any],
        environ: Mapping[str, str] | None,
        *,
        heard: Callable[[dict[str, Any]], None],
        stuck: Callable[[int], bool],
    ) -> Outcome | None:
        """Have cells asked, in a process of their own where there is fork.

        Args:
            cells: what grid.cells.answer_cells takes.
            environ: the one environment that the cells are in; None where in_place.
            heard: is given each message that the process sends on the way.
            stuck: is asked ten times a second, with the process's number, whether it is to be killed.

        Returns:
            What became of the process, or of the import, before it had done all; else None.
        """
        platform = self._platform if environ is None else self._holding(environ)
        if not isinstance(platform, Platform):
            return platform
        if platform.process.ended:
            self._platforms.reopen(platform)
        subject = self._platforms.subject
        process = self._platforms.answering_process(platform)
        refresh = platform.refreshes and not subject.pure
        process.send(unset=list(platform.environ), refresh=refresh, cells=cells)
        try:
            while True:
                try:
                    message = process.next_message(_LOOK)
                except queue.Empty:
                    if not stuck(process.pid):
                        continue
                    process.end(kill=True)
                    return TimedOut(subject.timeout)
                if message is None:
                    return process.end(kill=False) or Died(None, 0)
                heard(message)
                if "done" in message:
                    if platform.forks:
                        process.end(kill=False)
                    return None
        except UnreadableError as error:
            process.end(kill=True)
            return Crashed(type(error).__name__, f"{type(error).__name__}: {error}")
        except BaseException:
            with contextlib.suppress(WorkerError):
                process.end(kill=True)
            raise

    def _holding(self, environ: Mapping[str, str]) -> Platform | Outcome:
        """Return a platform that an environment holds in, imports included."""
        if self._platform is not None and self._trust is not Trust.NONE:
            return self._platform
        return self._platforms.fitting_or_opened(self._gpu, environ)

    def release(self) -> None:
        """End the platform's processes: nothing more will be asked there."""
        self._platforms.release(self._gpu)
