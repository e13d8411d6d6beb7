"""Processes whose time is measured: one that fails is reported and not timed."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Mapping, Sequence


def run(
    command: Sequence[str],
    folder: str,
    *,
    environ: Mapping[str, str] | None = None,
    statuses: Collection[int] = (0,),
) -> str:
    """Run a command in a folder and return its standard output.

    Args:
        command: program and arguments.
        folder: working directory.
        environ: the environment; None: this process's.
        statuses: the exit statuses with which the command has done what is measured.

    Raises:
        SystemExit: it ended with another status; the message has its last words.
    """
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode not in statuses:
        words = (done.stdout + done.stderr)[-2000:]
        raise SystemExit(f"exit status {done.returncode} of {' '.join(command)}:\n{words}")
    return done.stdout
