"""Pools for the source of a selector, closed when the test is over."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Protocol

import pytest

from pytest_rocm_attn.conformance.isolation import Pool, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class MakePool(Protocol):
    def __call__(
        self, source: str, *, timeout: float = 20.0, fork: bool = True, pure: bool = False
    ) -> Pool: ...


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[MakePool]:
    """A function that makes a pool for a selector's source."""
    pools: list[Pool] = []

    def make(source: str, *, timeout: float = 20.0, fork: bool = True, pure: bool = False) -> Pool:
        path = tmp_path / f"selector{len(pools)}.py"
        path.write_text(textwrap.dedent(source))
        selector = f"{path}:select"
        subject = Subject(selector, pure=pure, preload=(), timeout=timeout, fork=fork)
        pools.append(Pool(subject, lanes=1))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
