"""What the command line says of a run: which items it names, and how to repeat it."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rocm_attn import options
from pytest_rocm_attn.conformance.run import settings
from pytest_rocm_attn.conformance.tiers.base import ROOT

_IDS = "rocm_attn_ids"
_COMMAND = "rocm_attn_command"


class CommandLine:
    """The command line of a run; an xdist worker has that of its controller.

    Attributes:
        ids: the node ids of the matrix that it names; none: all are meant.
    """

    def __init__(self, config: pytest.Config) -> None:
        """Read the command line, and take the node ids of the matrix out of pytest's arguments."""
        args = list(config.args)
        self.ids = [arg for arg in args if arg == ROOT or arg.startswith(f"{ROOT}::")]
        named_paths = config.args_source is pytest.Config.ArgsSource.ARGS
        # An empty list keeps pytest from adding a path of its own.
        config.args[:] = [arg for arg in args if arg not in self.ids] if named_paths else []
        if (sent := getattr(config, "workerinput", None)) is not None:
            self.ids = list(sent[_IDS])
            self._pytest_words, self._given = sent[_COMMAND]
        else:
            self._pytest_words = options.pytest_words(
                config, paths=named_paths and bool(config.args)
            )
            self._given = settings.repeated(config)

    def send(self, to: dict[str, Any]) -> None:
        """Put it into the input of an xdist worker."""
        to[_IDS] = self.ids
        to[_COMMAND] = self._pytest_words, self._given

    def again(self, **own: Any) -> list[str]:
        """Return the command that repeats the run, with options of one item in place of the run's."""
        given = self._given | {name.replace("_", "-"): value for name, value in own.items()}
        start = ["python", "-m", "pytest", "--rocm-attn-conformance"]
        return [*start, *self._pytest_words, *options.words(given)]

    def names(self, nodeid: str) -> bool:
        """Whether it names an item, as it does all if it names none."""
        return not self.ids or any(selects(wanted, nodeid) for wanted in self.ids)


def selects(wanted: str, nodeid: str) -> bool:
    """Whether a node id is another one, or lies below it."""
    return nodeid == wanted or nodeid.startswith((f"{wanted}::", f"{wanted}["))
