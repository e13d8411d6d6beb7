"""What the mock answers when it is asked for what it does not know."""

from __future__ import annotations

from pytest_rocm_attn.errors import MockError


class MockAttributeError(MockError, AttributeError):
    """An attribute that the mock does not know.

    An AttributeError too, so that hasattr(), getattr() with a default and "from x import y" see an
    absent name, as they would see one on the real thing.
    """


def unknown(owner: str, name: str, how_to_add: str) -> MockAttributeError:
    """Return the error for owner.name, saying what to do about it.

    Args:
        owner: dotted name of the mocked object.
        name: the attribute asked for.
        how_to_add: where its value can be given, as an imperative clause.
    """
    return MockAttributeError(
        f"the mocked ROCm platform has no {owner}.{name}; if the code under test needs it,"
        f" {how_to_add}"
    )


def needs_device(what: str, gfx: str) -> MockError:
    """Return the error for something that only a real GPU can do."""
    return MockError(
        f"{what} needs a real GPU: this {gfx} is mocked (pytest_rocm_attn.mock). Use CPU tensors"
        " under the mock, leave it, or run the test on hardware (marker rocm_attn_gpu)"
    )
