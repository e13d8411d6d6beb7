"""A pytest plugin for nested runs, given with ``-p faults``: has named items end in a named way.

FAULTS in the environment is a JSON table: node id -> stage. Items without a fault run last, so that a
fault that stops the session leaves all of them unreached.
"""

from __future__ import annotations

import functools
import json
import os
import signal

import pytest

FAULTS: dict[str, str] = json.loads(os.environ.get("FAULTS", "{}"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (stage := FAULTS.get(item.nodeid, "")) in ("questions", "ahead"):
            vars(item)[stage] = functools.partial(_fail_at, stage, item)
    stops = ("stop", "interrupt", "exit")
    items.sort(key=lambda item: (item.nodeid not in FAULTS, FAULTS.get(item.nodeid) in stops))


@pytest.hookimpl(tryfirst=True)
def pytest_make_collect_report(collector: pytest.Collector) -> None:
    if FAULTS.get(collector.nodeid) == "collect":
        vars(collector)["collect"] = lambda: 1 / 0


def pytest_runtestloop(session: pytest.Session) -> None:
    if FAULTS.get("the session") == "close":
        plugin = session.config.pluginmanager.getplugin("rocm_attn_matrix")
        plugin.shared(Stuck, Stuck)


class Stuck:
    """What a tier's items share, and cannot be closed."""

    def close(self, **_: object) -> None:
        raise RuntimeError("a fault in closing")


def _fail_at(stage: str, item: pytest.Item) -> None:
    if FAULTS.get(item.nodeid) == stage:
        raise RuntimeError(f"a fault at {stage} of {item.name}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    _fail_at("setup", item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    match FAULTS.get(item.nodeid):
        case "call":  # as a bug of a tier would
            vars(item)["judge"] = lambda: _fail_at("call", item)
        case "lost":
            os.kill(os.getpid(), signal.SIGKILL)
        case "interrupt":
            raise KeyboardInterrupt
        case "exit":
            pytest.exit("a fault ends the session", returncode=0)
        case "stop":
            item.session.shouldstop = "a fault stops the session"


@pytest.hookimpl(trylast=True)  # or pytest's own teardown is left out
def pytest_runtest_teardown(item: pytest.Item) -> None:
    _fail_at("teardown", item)
