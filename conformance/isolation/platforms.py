"""Imported selectors, one for each platform that is worked on; a few are kept at a time."""

from __future__ import annotations

import contextlib
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.isolation import wire
from pytest_rocm_attn.conformance.isolation.inside.environment import DEVICE_LISTS, NOT_REFRESHED
from pytest_rocm_attn.conformance.isolation.processes import Process, WorkerError
from pytest_rocm_attn.conformance.isolation.question import Observation
from pytest_rocm_attn.errors import SelectorError
from pytest_rocm_attn.outcome import Crashed, Died, TimedOut

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_rocm_attn.conformance.isolation.launcher import Launcher
    from pytest_rocm_attn.conformance.isolation.question import Subject
    from pytest_rocm_attn.gpu import Gpu

_OPEN_PLATFORMS = 4  # imported selectors kept at a time; vLLM takes about 400 MB, mostly shared


@dataclass(eq=False)
class Platform:
    """A process that has imported the selector on one platform, and can be asked.

    Attributes:
        gpu: the platform; for a pure selector, that of the first question.
        environ: what it was imported under.
        reads: the variables that its imports read, with the values they saw.
        refreshes: whether the adapter can refresh the selector in place.
        prepared: the adapter was to prepare it.
        process: which imported it. Without fork, it answers as well.
        interviews: open ones, for which it has to stay.
        answered: its process, which is kept without fork, has answered something.
    """

    gpu: Gpu
    environ: dict[str, str]
    reads: dict[str, str | None]
    refreshes: bool
    prepared: bool
    process: Process
    interviews: int = 0
    answered: bool = False

    def end(self) -> None:
        self.process.end(kill=True)

    def serves(self, environ: Mapping[str, str]) -> bool:
        """Whether its imports would have run the same under another environment."""
        return all(environ.get(name) == self.environ.get(name) for name in self._relevant(environ))

    def distance(self, environ: Mapping[str, str]) -> int:
        """How many variables that its imports read differ in another environment."""
        return sum(environ.get(name) != self.environ.get(name) for name in self._relevant(environ))

    def _relevant(self, environ: Mapping[str, str]) -> set[str]:
        # A list of devices is read by torch and by the mock, below what records reads.
        return (environ.keys() | self.environ.keys()) & (self.reads.keys() | DEVICE_LISTS)


class Platforms:
    """Opens platforms, and keeps the ones used last.

    Args:
        subject: the selector under test.
        launcher: starts its processes.

    Attributes:
        busy: what is being worked on, each by one lane or caller; changes under `changed`.
        changed: is notified when a platform is free again.
        unusable: why what was named is not a selector, wherever it is imported; "" if it is one.
    """

    def __init__(self, subject: Subject, launcher: Launcher, notes: list[str]) -> None:
        self.subject = subject
        self._notes = notes
        self.launcher = launcher
        self.busy: set[Gpu] = set()
        self.changed = threading.Condition()
        self.unusable = ""
        self._kept: list[Platform] = []  # least recently used first
        # Imports that failed: GPU and environment, or GPU and None if it hung.
        self._failed: dict[tuple[Gpu, tuple[tuple[str, str], ...] | None], Observation] = {}

    @contextlib.contextmanager
    def claimed(self, gpu: Gpu) -> Iterator[None]:
        """Keep everybody else off one platform while the block runs."""
        with self.changed:
            self.changed.wait_for(lambda: gpu not in self.busy)
            self.busy.add(gpu)
        try:
            yield
        finally:
            self.free(gpu)

    def free(self, gpu: Gpu) -> None:
        with self.changed:
            self.busy.discard(gpu)
            self.changed.notify_all()

    @property
    def imported(self) -> set[Gpu]:
        """The platforms that have an imported selector."""
        return {platform.gpu for platform in self._kept}

    # --- opening ----------------------------------------------------------------------------------

    def open(
        self, gpu: Gpu, environ: Mapping[str, str], *, prepare: bool
    ) -> Platform | Observation:
        """Import the selector on a platform under an environment, for the caller alone.

        An import that failed is not tried again under the same environment; one that hung is not
        tried again on the platform.

        Args:
            gpu: the platform.
            environ: what holds while it is imported.
            prepare: have the adapter prepare it, so that what forks from it need not.

        Returns:
            The platform, for the caller to end; or the result of an import that failed.
        """
        keys = (gpu, None), (gpu, tuple(sorted(environ.items())))
        for key in keys:
            if key in self._failed:
                return self._failed[key]
        opened, imported = self._import(gpu, environ, prepare=prepare, refresh=True)
        if imported and not isinstance(opened, Platform):
            # Preparing it takes the process down, so it is left out.
            opened, _ = self._import(gpu, environ, prepare=False, refresh=False)
            if isinstance(opened, Platform):
                opened.prepared = prepare
        if not isinstance(opened, Platform):
            self._failed[keys[not isinstance(opened.outcome, TimedOut)]] = opened
        return opened

    def open_and_keep(
        self, gpu: Gpu, environ: Mapping[str, str], *, prepare: bool = True
    ) -> Platform | Observation:
        """Import the selector on a platform, and keep it for the questions to come; see open()."""
        opened = self.open(gpu, environ, prepare=prepare)
        return self.keep(opened) if isinstance(opened, Platform) else opened

    def reopen(self, platform: Platform) -> None:
        """Import the selector again where the process that did has ended.

        Raises:
            WorkerError: it could be imported before, and now cannot.
        """
        reopened = self.open(platform.gpu, platform.environ, prepare=True)
        if not isinstance(reopened, Platform):
            raise WorkerError(f"the selector's process could not be restarted: {reopened.outcome}")
        platform.process, platform.prepared = reopened.process, True

    def answering_process(self, platform: Platform) -> Process:
        """Return a process to put questions to: a fork of the one that imported, or that itself.

        Raises:
            WorkerError: the process that imported has ended and cannot be replaced.
        """
        if not platform.process.forks:
            return platform.process
        try:
            return platform.process.fork()
        except WorkerError:
            # Something that the selector left behind has ended it.
            with contextlib.suppress(WorkerError):
                platform.end()
            self.reopen(platform)
        return platform.process.fork()

    def _import(
        self, gpu: Gpu, environ: Mapping[str, str], *, prepare: bool, refresh: bool
    ) -> tuple[Platform | Observation, bool]:
        """Import the selector once; also return whether the process got as far as to import it."""
        subject, limit = self.subject, self.launcher.import_limit
        if subject.machine not in (None, gpu) and not subject.pure:
            raise WorkerError(
                f"{gpu.gfx} with aiter {gpu.aiter} was asked about, unmocked, on a real"
                f" {subject.machine.gfx} with aiter {subject.machine.aiter}"
            )
        process = self.launcher.start()
        process.send(
            wire.Open(gpu, dict(environ), subject.evidence, subject.selector, prepare, refresh)
        )
        imported = False
        try:
            while isinstance(reply := process.receive(limit), wire.Imported):
                imported = True
        except WorkerError:
            process.end(kill=True)
            raise
        except queue.Empty:
            process.end(kill=True)
            return Observation(TimedOut(limit)), imported
        if isinstance(reply, wire.Ready):
            self.launcher.preload(reply.neutral)
            self._note(reply.unfilled)
            read = reply.reads
            return Platform(gpu, dict(environ), read, reply.refreshes, prepare, process), True
        died = process.end(kill=reply is not None)
        if isinstance(reply, wire.Unusable):
            self.unusable = reply.why
            name = SelectorError.__name__
            return Observation(Crashed(name, f"{name}: {reply.why}")), imported
        if isinstance(reply, Observation):
            return reply, imported
        return Observation(died or Died(None, 0)), imported

    def _note(self, unfilled: Sequence[str]) -> None:
        """Note once what a selector can be asked that nothing asks it."""
        if not unfilled:
            return
        note = (
            f"the selector can be asked for {', '.join(unfilled)}, which this version of"
            " pytest-rocm-attn does not know; each keeps its default"
        )
        with self.changed:
            if note not in self._notes:
                self._notes.append(note)

    # --- keeping ----------------------------------------------------------------------------------

    def find(self, gpu: Gpu) -> Platform | None:
        """Return the one of those kept whose environment is smallest, if others can be made from it."""
        with self.changed:
            mine = [p for p in self._kept if p.gpu == gpu and not NOT_REFRESHED & p.environ.keys()]
        found = min(mine, key=lambda platform: len(platform.environ), default=None)
        return self.keep(found) if found else None

    def fitting(self, gpu: Gpu, environ: Mapping[str, str]) -> Platform | None:
        """Return a kept one whose imports would have run the same under the environment."""
        with self.changed:
            mine = [platform for platform in self._kept if platform.gpu == gpu]
        found = next((p for p in mine if self.subject.pure or p.serves(environ)), None)
        return self.keep(found) if found else None

    def fitting_or_opened(self, gpu: Gpu, environ: Mapping[str, str]) -> Platform | Observation:
        """Return a platform that an environment holds in, imports included."""
        return self.fitting(gpu, environ) or self.open_and_keep(gpu, environ)

    def imported_under(self, gpu: Gpu, environ: Mapping[str, str]) -> Platform | Observation:
        """Return a prepared one of exactly this environment, of which a process has answered nothing."""
        with self.changed:
            mine = [
                platform for platform in self._kept if platform.gpu == gpu and platform.prepared
            ]
        found = next((p for p in mine if p.environ == environ and not p.answered), None)
        return self.keep(found) if found else self.open_and_keep(gpu, environ)

    def keep(self, platform: Platform) -> Platform:
        """Keep a platform as the one used last, and end the ones longest unused when there are too many."""
        with self.changed:
            if platform in self._kept:
                self._kept.remove(platform)
            self._kept.append(platform)
            spare = [p for p in self._kept if p.gpu not in self.busy or p.gpu == platform.gpu]
            spare = [p for p in spare[:-1] if not p.interviews]
            excess = spare[: max(0, len(self._kept) - _OPEN_PLATFORMS)]
            for old in excess:
                self._kept.remove(old)
        for old in excess:
            old.end()
        return platform

    def release(self, gpu: Gpu) -> None:
        """End what is kept of a platform: nothing more will be asked there."""
        with self.changed:
            mine = [p for p in self._kept if p.gpu == gpu and not p.interviews]
            self._kept = [p for p in self._kept if p not in mine]
        for platform in mine:
            platform.end()

    def close(self) -> None:
        """Let go of what is kept; the processes have been killed."""
        with contextlib.ExitStack() as steps:  # each is run, whatever the others raise
            for platform in self._kept:
                steps.callback(platform.process.close)
