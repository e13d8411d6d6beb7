"""The recorded signatures of closed kernels."""

from __future__ import annotations

import inspect

import pytest

from pytest_rocm_attn.conformance.adapters.closed import signatures


@pytest.mark.parametrize(
    ("release", "version", "exact"),
    [
        ("0.12.0", "59bd8ff2", True),
        ("0.25.1", "v0.1.16.post2", True),
        # A release whose own image is not recorded has that of the release before it.
        ("0.25.9", "v0.1.16.post2", False),
        ("", "v0.1.20.post1", False),
    ],
)
def test_a_release_has_the_aiter_that_its_image_builds(
    release: str, version: str, exact: bool
) -> None:
    """vllm-project/vllm, docker/Dockerfile.rocm_base at each tag."""
    found = signatures.aiter_of(release)
    assert (found.version, found.exact) == (version, exact)


def test_an_image_with_an_aiter_that_could_not_be_read_says_so() -> None:
    found = signatures.aiter_of("0.33.0")
    assert (found.pinned, found.exact) == ("v0.1.26", False)


def test_a_signature_is_that_of_the_version() -> None:
    """ROCm/aiter aiter/mla.py: page_size and nhead_kv came before sm_scale in v0.1.10.post2."""
    name = "aiter.mla.mla_decode_fwd"
    before, after = (
        signatures.function(name, version) for version in ("59bd8ff2", "v0.1.10.post3")
    )
    assert before is not None and after is not None
    eighth = [list(one.parameters)[8] for one in (before, after)]
    assert eighth == ["sm_scale", "page_size"]
    assert after.parameters["page_size"].default == 1
    assert before.parameters["q"].default is inspect.Parameter.empty


def test_a_function_that_a_version_does_not_have_has_no_signature() -> None:
    """ROCm/aiter: mla_gluon is there from v0.1.18 on."""
    name = "aiter.ops.triton.gluon.mla_gluon.mla_gluon"
    assert signatures.function(name, "v0.1.17") is None
    assert signatures.function(name, "v0.1.18") is not None


def test_operators_have_the_schemas_of_all_releases_newest_first() -> None:
    newest, oldest = signatures.schemas()["_rocm_C::paged_attention"]
    assert newest.endswith("bool use_interleaved_v_cache=False) -> ()")
    assert oldest.endswith("str mfma_type) -> ()")
