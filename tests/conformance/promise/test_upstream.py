"""Which release a selector is judged by."""

from __future__ import annotations

import pytest

from pytest_rocm_attn.conformance.promise import release, upstream
from pytest_rocm_attn.conformance.promise.release import Release

KNOWN = upstream.shapes()
NEWEST = max(KNOWN)


@pytest.mark.parametrize("one", KNOWN, ids=release.words)
def test_an_unmodified_release_is_itself_whatever_it_says(one: Release) -> None:
    assert upstream.found(KNOWN[one], release.words(one), KNOWN).release == one
    for wrong in ("0.1.dev7+gabc", "", "0.99.0" if one < (0, 20, 0) else "0.12.0"):
        found = upstream.found(KNOWN[one], wrong, KNOWN).release
        assert KNOWN[found] == KNOWN[one]


def test_a_fork_with_a_few_features_of_its_own_is_its_releases() -> None:
    own = KNOWN[0, 25, 1] | {"variable:VLLM_OUR_ATTN", "backend:OURS"}
    assert upstream.found(own, "0.25.1.post3+rocm", KNOWN).release == (0, 25, 1)
    assert upstream.found(own, "7.2", KNOWN).release == (0, 25, 1)


def test_a_version_decides_between_releases_of_one_shape_or_nearly_so() -> None:
    assert upstream.found(KNOWN[0, 18, 1], "0.19.0", KNOWN).release == (0, 18, 1)
    assert upstream.found(KNOWN[0, 18, 1], "0.19.1", KNOWN).release == (0, 19, 1)
    assert upstream.found(KNOWN[0, 20, 0], "0.20.0", KNOWN).release == (0, 20, 0)


def test_a_later_version_is_the_newest_that_is_known() -> None:
    later = KNOWN[NEWEST] | {"asked:use_tomorrow"}
    assert upstream.found(later, "0.99.0", KNOWN).release == NEWEST


def test_what_was_chosen_is_said_with_the_reason() -> None:
    lying = upstream.found(KNOWN[NEWEST], "0.12.0", KNOWN)
    assert "its version says 0.12.0, which its shape contradicts" in lying.why
    assert str(lying) == f"vLLM {release.words(NEWEST)}"


def test_the_version_of_an_earlier_patch_does_not_contradict_its_shape() -> None:
    earlier = upstream.found(KNOWN[0, 19, 1], "0.19.0", KNOWN)
    assert earlier == upstream.Upstream(
        (0, 19, 1), "its version says 0.19.0, and its shape is that of 0.19.1"
    )
    fork = upstream.found(KNOWN[0, 11, 2] | {"backend:OURS"}, "0.11.1+ours", KNOWN)
    assert fork.release == (0, 11, 2)
    assert "0.11.1+ours, and its shape differs from that of 0.11.2 in 1 feature" in fork.why


def test_a_minor_release_alone_is_its_newest_patch() -> None:
    assert upstream.given("0.25").release == (0, 25, 1)
    assert upstream.given("0.20.0").release == (0, 20, 0)
    with pytest.raises(ValueError, match="'newest' is not a release"):
        upstream.given("newest")
