"""What is read off a fork's source: lists of metadata classes, predicates, twin calls."""

from __future__ import annotations

import importlib
import re
import sys
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.adapters import allow_lists, interfaces, predicate_table
from pytest_rocm_attn.conformance.adapters.kernel_needs import FEATURES
from pytest_rocm_attn.conformance.adapters.twin_calls import twins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytest.importorskip("torch", reason="predicates are asked with torch dtypes; install kernels")

METADATA = """
    from typing import Generic, TypeVar
    M = TypeVar("M")
    class Builder(Generic[M]): ...
    class TritonMetadata: ...
    class LatentMetadata: ...
    class AiterLatentMetadata(LatentMetadata): ...
    class OtherMetadata: ...
    class TritonBuilder(Builder[TritonMetadata]): ...
    L = TypeVar("L", bound=LatentMetadata)
    class LatentBuilder(Builder[L]): ...
    class AiterBuilder(LatentBuilder[AiterLatentMetadata]): ...
    class OtherBuilder(Builder[OtherMetadata]): ...
    class Untyped: ...
"""
PROPOSER = """
    from ready.metadata import TritonMetadata
    class Proposer:
        def __init__(self):
            self.allowed = None
            if True:
                from ready.metadata import LatentMetadata as Latent
                types = [TritonMetadata]
                try:
                    from ready.nowhere import Missing
                    types.append(Missing)
                except ImportError:
                    pass
                types.append(Latent)
                self.allowed = tuple(types)
        def propose(self, metadata):
            if self.allowed is not None and not isinstance(metadata, self.allowed):
                raise ValueError("unsupported")
            if isinstance(metadata, self.other):
                return None
"""


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """A function that writes a package ``ready`` with these modules, and imports one of them."""
    monkeypatch.syspath_prepend(tmp_path)

    def ready(imported: str, **modules: str) -> Any:
        for name, text in {"metadata": METADATA, **modules}.items():
            path = tmp_path / "ready" / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
        for folder in [tmp_path / "ready", *(tmp_path / "ready").rglob("*/")]:
            (folder / "__init__.py").touch()
        return importlib.import_module(f"ready.{imported}")

    yield ready
    for name in [name for name in sys.modules if name.partition(".")[0] == "ready"]:
        del sys.modules[name]


# --- lists of metadata ----------------------------------------------------------------------------


def test_a_list_that_is_put_together_step_by_step_is_read(ready: Callable[..., Any]) -> None:
    package = ready("drafts", drafts__proposer=PROPOSER)
    (found,) = allow_lists.of(package)
    assert found.place == "ready.drafts.proposer.allowed"
    assert [cls.__name__ for cls in found.classes] == ["TritonMetadata", "LatentMetadata"]


def test_what_is_listed_is_taken_with_its_subclasses_and_nothing_else(
    ready: Callable[..., Any],
) -> None:
    package = ready("drafts", drafts__proposer=PROPOSER)
    (found,) = allow_lists.of(package)
    metadata = sys.modules["ready.metadata"]
    assert found.takes(metadata.AiterLatentMetadata)
    assert not found.takes(metadata.OtherMetadata)


def test_a_test_that_raises_nothing_is_not_a_list(ready: Callable[..., Any]) -> None:
    harmless = PROPOSER.replace('raise ValueError("unsupported")', "return None")
    assert allow_lists.of(ready("drafts", drafts__proposer=harmless)) == []


@pytest.mark.parametrize(
    ("builder", "metadata"),
    [
        ("TritonBuilder", "TritonMetadata"),
        ("LatentBuilder", "LatentMetadata"),  # the bound of its type variable
        ("AiterBuilder", "AiterLatentMetadata"),
        ("Untyped", None),
    ],
)
def test_the_metadata_of_a_backend_is_that_of_its_builders_type(
    ready: Callable[..., Any], builder: str, metadata: str | None
) -> None:
    module = ready("metadata")

    class Backend:
        @staticmethod
        def get_builder_cls() -> Any:
            return getattr(module, builder)

    found = allow_lists.metadata_of(Backend)
    assert (found and found.__name__) == metadata


# --- predicates -----------------------------------------------------------------------------------


def test_predicates_whose_parameters_are_known_are_asked_and_others_are_not(
    ready: Callable[..., Any],
) -> None:
    ready(
        "rocm",
        rocm="""
            from ready.metadata import Builder as is_imported
            def on_gfx950() -> bool: return False
            def is_large(num_heads: int) -> bool: return num_heads > 8
            def is_tuned(n: int, k: int) -> bool: return True
            def is_anything(): return True
            def use_the_source() -> bool: raise OSError("no source")
            def size() -> bool: return True
            class Ops:
                @classmethod
                def is_fp4_enabled(cls) -> bool: return True
                def is_bound(self) -> bool: return True
        """,
    )
    assert predicate_table.table(["ready.rocm", "ready.absent"]) == {
        "ready.rocm.on_gfx950": {"": "False"},
        "ready.rocm.is_large": {"num_heads=8": "False", "num_heads=16": "True"},
        "ready.rocm.use_the_source": {"": "OSError"},
        "ready.rocm.Ops.is_fp4_enabled": {"": "True"},
    }


@pytest.mark.parametrize(
    ("name", "feature"),
    [
        ("vllm._aiter_ops.rocm_aiter_ops.is_fp4bmm_enabled", "4-bit floating point"),
        ("vllm._aiter_ops.rocm_aiter_ops.is_asm_fp4_gemm_supported", "4-bit floating point"),
        ("x.is_nvfp4_cache_supported", None),
        ("x.is_fp8bmm_enabled", None),
        ("x.mla.rocm_aiter_mla.AiterMLAHelper.use_gluon_decode", "AITER's Gluon kernel for MLA"),
        ("x.is_kda_gluon_decode_available", None),
    ],
)
def test_a_predicates_name_says_which_feature_it_is_about(name: str, feature: str | None) -> None:
    found = [one.name for one in FEATURES if re.search(one.pattern, name)]
    assert found == ([feature] if feature else [])


# --- twin calls -----------------------------------------------------------------------------------


def forgotten(source: str) -> list[tuple[int, str]]:
    return [(twin.line, twin.words) for twin in twins(dedent(source))]


def test_a_literal_that_a_twin_chooses_by_a_switch_is_found() -> None:
    source = """
        def windowed(cache):
            gather(cache=cache, layout="NHD")
        def chunked(cache):
            gather(cache=cache, layout="SHUFFLE" if ops.is_shuffled() else "NHD")
    """
    words = "layout='NHD', where the other call chooses by ops.is_shuffled()"
    assert forgotten(source) == [(3, words)]


@pytest.mark.parametrize(
    "other",
    [
        'gather(cache=cache, layout="HND")',  # something else altogether
        "gather(cache=cache, layout=chosen)",
        'gather(cache=cache, layout="SHUFFLE" if ops.is_shuffled() else "NHD")',
        'scatter(cache=cache, layout="NHD")',  # another function
    ],
)
def test_a_call_that_may_differ_is_no_twin_that_forgets(other: str) -> None:
    choice = 'gather(cache=cache, layout="SHUFFLE" if ops.is_shuffled() else "NHD")'
    assert forgotten(f"{choice}\n{other}") == []


REASONS = """
def reasons(cls, gpu, asked, *, tq, uq=False): ...
def named(cls, gpu, asked, tq, uq):
    return reasons(cls, gpu, asked, tq=tq, uq=uq)
def automatic(cls, gpu, asked, tq):
    return reasons(cls, gpu, asked, tq=tq)
"""


def test_an_argument_that_one_of_two_like_calls_lacks_is_found() -> None:
    assert forgotten(REASONS) == [(6, "lacks uq, which the other call passes")]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("uq=False", "uq=None, more=0"),  # still found: a constant default
        ("uq=uq)", "uq=other)"),
        ("return reasons(cls, gpu, asked, tq=tq)", "return reasons(x, y, z, tq=tq)"),
        ("def reasons", "def elsewhere"),  # not a function of this module
    ],
)
def test_only_like_calls_of_an_own_function_are_held_against_each_other(old: str, new: str) -> None:
    found = forgotten(REASONS.replace(old, new))
    assert bool(found) is (old == "uq=False")


# --- interfaces -----------------------------------------------------------------------------------


class Root:
    @staticmethod
    def shape(blocks: int, size: int, cache_dtype: str = "auto") -> None: ...

    @classmethod
    def choose(cls, head_size: int, dtype: object) -> None: ...


class Fits(Root):
    @staticmethod
    def shape(blocks: int, size: int, cache_dtype: str = "auto", more: int = 0) -> None: ...


class Lacks(Root):
    @staticmethod
    def shape(blocks: int, size: int) -> None: ...  # type: ignore[override]  # that is the fault


class Shifts(Root):
    @classmethod
    def choose(cls, dtype: object, head_size: int) -> None: ...  # type: ignore[override]  # as above


SERVER = """
def run(group, current_platform):
    group.backend.shape(1, 2, cache_dtype="fp8")
    group.backend.shape(*group.sizes)
    attn_backend.choose(64, dtype)
    backend.unknown(1)
    group.other.shape(1, 2, cache_dtype="fp8")
    current_platform.shape(1)
"""


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (Root, []),
        (Fits, []),
        (Lacks, [("server:3", "got an unexpected keyword argument 'cache_dtype'")]),
        (
            Shifts,
            [("server:5", "it takes argument 1 for dtype, and its root for head_size")],
        ),
    ],
)
def test_calls_that_a_class_does_not_take_as_its_root_does_are_found(
    cls: type, expected: list[tuple[str, str]]
) -> None:
    made = used(SERVER, interfaces.BACKEND, cls)
    assert [use.place for use in made] == [f"server:{line}" for line in (3, 4, 5, 6)]
    found = interfaces.misfits(made, cls, lambda name: False)
    assert [(use.place, reason) for use, reason in found] == expected


def used(source: str, held_by: frozenset[str], owner: object) -> list[interfaces.Use]:
    modules = interfaces.trees({"server": source}, held_by)
    return list(interfaces.uses(modules, held_by, dict.fromkeys(held_by, owner)))


class Rocm(Root):
    device_type: str = "cuda"

    def is_cuda(self) -> bool:
        return False

    def copies(self, blocks: int) -> None: ...


COPIES = """
def run(current_platform):
    copy = current_platform.insert_blocks
    if current_platform.is_cuda():
        current_platform.runtime_major()
    if hasattr(current_platform, "pack"):
        current_platform.pack(1)
    current_platform.copies(1, to="cpu")
    current_platform.others_alone()
    return current_platform.device_type, copy
"""


def test_what_the_server_uses_and_the_platform_lacks_is_found_where_it_runs() -> None:
    """Such as insert_blocks_to_device, which only vLLM's platform for CUDA had (vllm-project/vllm#36845)."""
    made = used(COPIES, interfaces.PLATFORM, Rocm())
    found = list(interfaces.misfits(made, Rocm(), lambda name: name != "others_alone"))
    assert [(use.place, use.name, reason) for use, reason in found] == [
        ("server:3", "insert_blocks", "it has no such attribute"),
        ("server:8", "copies", "got an unexpected keyword argument 'to'"),
    ]


def test_the_names_that_a_modules_classes_define_are_read() -> None:
    source = """
        class Platform:
            name = "x"
            kind: str
            def method(self):
                self.other = local = 1
        def function(): ...
    """
    assert interfaces.defined(dedent(source)) == {"name", "kind", "method"}


OPERATIONS = """
    class Fits:
        def forward_cuda(self, q, *, gate=None): ...
        def forward_hip(self, q, gate=None): ...
    class TakesAll:
        def forward_cuda(self, q, gate): ...
        def forward_hip(self, *args, **kwargs): ...
    class Forgets:
        def forward_cuda(self, q, *, gate=None, pool=1): ...
        def forward_hip(self, q): ...
    class Alone:
        def forward_hip(self): ...
"""


def test_a_platforms_own_way_that_does_not_take_what_callers_give_is_found() -> None:
    found = list(interfaces.other_ways(dedent(OPERATIONS), "forward_hip", "forward_cuda"))
    assert found == [(10, "Forgets.forward_hip: it lacks gate, pool, which forward_cuda takes")]
