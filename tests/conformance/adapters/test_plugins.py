"""Plugins of a fork: found among what is installed, hidden, and asked for with their switches."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.adapters import plugins
from pytest_rocm_attn.conformance.tiers.server import plugins as checks

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The top-level package of a fork that has a plugin, of a distribution with a switch."""
    folder = tmp_path / "atomic-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: atomic\nVersion: 1.0\n")
    (folder / "RECORD").write_text("atomic.py,,\natomic-1.0.dist-info/METADATA,,\n")
    (folder / "entry_points.txt").write_text(
        "[servy.general_plugins]\natomic = atomic:load\nown = servy.own:load\n[else.general_plugins]\nother = atomic:load\n"
    )
    (tmp_path / "atomic.py").write_text(
        "import os\noff = os.environ.get('ATOMIC_DISABLE_PLUGIN')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    # hide() replaces it; this gives it back.
    monkeypatch.setattr(importlib.metadata, "entry_points", importlib.metadata.entry_points)
    return "servy"


def test_plugins_and_their_switches_are_found_by_what_is_installed(planted: str) -> None:
    assert [one.name for one in plugins.installed(planted)] == ["atomic"]
    assert plugins.switches(planted) == ["ATOMIC_DISABLE_PLUGIN"]
    assert plugins.installed("nobody") == plugins.switches("nobody") == []


def test_hidden_plugins_are_those_of_the_fork_alone(planted: str) -> None:
    plugins.hide(planted)
    assert plugins.installed(planted) == []
    (own,) = importlib.metadata.entry_points(group="servy.general_plugins")
    assert own.name == "own"  # what the fork brings itself stays
    assert [one.name for one in plugins.installed("else")] == ["other"]
    assert importlib.metadata.entry_points()  # that of all groups together is left alone


def test_an_answer_may_be_an_exception() -> None:
    def select(request: Any) -> str:
        if request.use_mla:
            raise ValueError("no backend")
        return "ROCM_ATTN"

    said = dict(plugins.answers(object(), select))
    assert said["the platform"] == "builtins.object"
    assert said["a plain layer"] == "ROCM_ATTN"
    assert said["latent attention"] == "ValueError: no backend"


def test_a_fork_without_plugins_has_no_item_and_one_with_plugins_has_one_with_its_switches(
    planted: str,
) -> None:
    assert checks.checks_of("nobody") == ()
    (check,) = checks.checks_of(planted)
    gpu: Any = None  # which is not looked at
    assert list(check.over(gpu)) == [{"switches": ("ATOMIC_DISABLE_PLUGIN",)}]
