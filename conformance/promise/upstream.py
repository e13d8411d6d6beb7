"""Which release of vLLM a selector is judged by: its shape says which can be meant, its version which is.

contracts/vllm/shapes.json holds what tools/record_shapes.py read of the releases' sources.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.promise import release
from pytest_rocm_attn.conformance.promise.release import Release

if TYPE_CHECKING:
    from collections.abc import Mapping

# Beyond as many differences again as the nearest release has, and this many, a release is not meant.
_SLACK = 3
# What has no shape of vLLM's, the reference among it, is asked for what the first contract fixed.
ORIGINAL: Release = (0, 12, 0)


@dataclass(frozen=True)
class Upstream:
    """The release that a run judges by.

    Attributes:
        release: the release.
        why: how it was chosen, in words.
        inherited: the selector is of a package that branched from it, with its known defects.
    """

    release: Release
    why: str
    inherited: bool = True

    def __str__(self) -> str:
        return f"vLLM {release.words(self.release)}"


def shapes() -> dict[Release, frozenset[str]]:
    """Return the features of each release that is known, in order."""
    file = files("pytest_rocm_attn.conformance.promise.contracts") / "vllm" / "shapes.json"
    data = json.loads(file.read_text("utf-8"))
    known = [release.parse(text) for text in data["releases"]]
    found: dict[Release, set[str]] = {one: set() for one in known}
    for feature, spans in data["features"].items():
        for first, last in spans:
            for one in known:
                if release.parse(first) <= one <= release.parse(last):
                    found[one].add(feature)
    return {one: frozenset(features) for one, features in found.items()}


def given(text: str) -> Upstream:
    """Return the release that a user names: the newest known patch for "0.25" alone.

    Raises:
        ValueError: it is not a release.
    """
    named = release.parse(text)
    if text.strip().lstrip("v").count(".") == 1:
        named = max((one for one in shapes() if one[:2] == named[:2]), default=named)
    return Upstream(named, "as --rocm-attn-upstream says")


def found(
    features: frozenset[str], version: str, known: Mapping[Release, frozenset[str]]
) -> Upstream:
    """Return the release that a package branched from.

    Args:
        features: its shape.
        version: what it says of itself, or "".
        known: the features of each release.
    """
    distances = {one: len(features ^ theirs) for one, theirs in known.items()}
    nearest = min(distances.values())
    possible = [one for one, far in distances.items() if far <= 2 * nearest + _SLACK]
    alike = max(one for one, far in distances.items() if far == nearest)
    try:
        said = release.parse(version)
    except ValueError:
        said = None
    if said is not None:
        # A version between two releases, as of a branch, belongs to the one before it.
        meant = max((one for one in known if one <= said), default=None)
        if meant in possible and (said[:2] == meant[:2] or said > max(known)):
            return Upstream(
                meant, f"its version says {version}, and {_shape(meant, distances[meant])}"
            )
        if said[:2] == alike[:2]:  # an earlier patch than those that are known
            return Upstream(alike, f"its version says {version}, and {_shape(alike, nearest)}")
    says = "nothing" if said is None else f"{version}, which its shape contradicts"
    return Upstream(alike, f"nearest in shape, with {nearest} differences; its version says {says}")


def _shape(one: Release, far: int) -> str:
    theirs = f"that of {release.words(one)}"
    plural = "" if far == 1 else "s"
    return (
        f"its shape differs from {theirs} in {far} feature{plural}"
        if far
        else f"its shape is {theirs}"
    )
