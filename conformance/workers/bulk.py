"""One platform that is asked very many questions; see grid/cells.py."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.workers.platforms import Platform, Platforms
from pytest_rocm_attn.conformance.workers.refreshing import Trust
from pytest_rocm_attn.outcome import Died, Outcome, TimedOut

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
        stuck: Callable[[], bool],
    ) -> Outcome | None:
        """Have cells asked, in a process of their own where there is fork.

        Args:
            cells: what grid.cells.answer_cells takes.
            environ: the one environment that the cells are in; None where in_place.
            heard: is given each message that the process sends on the way.
            stuck: is asked ten times a second whether it is to be killed.

        Returns:
            What became of the process, or of the import, before it had done all; else None.
        """
        platform = self._platform if environ is None else self._holding(environ)
        if not isinstance(platform, Platform):
            return platform
        subject = self._platforms.subject
        process = platform.answering_process()
        refresh = platform.refreshes and not subject.pure
        process.send(unset=list(platform.environ), refresh=refresh, cells=cells)
        failure: Outcome
        while True:
            try:
                message = process.receive(_LOOK)
            except queue.Empty:
                if not stuck():
                    continue
                process.end(kill=True)
                failure = TimedOut(subject.timeout)
                break
            if message is None:
                failure = process.end(kill=False) or Died(None, 0)
                break
            heard(message)
            if "done" in message:
                if platform.forks:
                    process.end(kill=False)
                return None
        self._platforms.reopen(platform)
        return failure

    def _holding(self, environ: Mapping[str, str]) -> Platform | Outcome:
        """Return a platform that an environment holds in, imports included."""
        if self._platform is not None and self._trust is not Trust.NONE:
            return self._platform
        return self._platforms.fitting_or_opened(self._gpu, environ)

    def release(self) -> None:
        """End the platform's processes: nothing more will be asked there."""
        self._platforms.release(self._gpu)
