"""What the server makes of machine and choice: asked of the tiny fork, in a worker, under the mock."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn import Amdsmi, Gpu, Request
from pytest_rocm_attn.conformance.isolation import Pool, Question, Subject
from pytest_rocm_attn.conformance.tiers.capabilities import answers, cases
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

pytest.importorskip("torch")
GPU = Gpu("gfx942")
Ask = Any


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, write_tiny_fork: Callable[[Path], str]
) -> Iterator[Path]:
    """Where the tiny fork lies, on the path."""
    folder = tmp_path_factory.mktemp("fork")
    write_tiny_fork(folder)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@contextlib.contextmanager
def asked(selector: str) -> Iterator[Ask]:
    """Yield a function that asks a selector's server."""
    pool = Pool(Subject(selector, timeout=20.0), lanes=1)

    def observe(question: Any) -> Any:
        (future,) = pool.submit([question])
        return future.result(timeout=120)

    def ask(
        kind: str,
        environ: Mapping[str, str] | None = None,
        *,
        gpu: Gpu = GPU,
        detail: str = "",
        **fields: Any,
    ) -> answers.Answer:
        question = Question.of(gpu, environ or {}, Request(**fields), kind, detail)
        return answers.told(question, observe)

    yield ask
    pool.close()


@pytest.fixture(scope="module")
def ask(folder: Path) -> Iterator[Ask]:
    """A function that asks the tiny fork's server."""
    with asked("tinyfork.platforms.rocm:RocmPlatform") as ask:
        yield ask


def test_the_cache_block_is_what_the_completed_configuration_holds(ask: Ask) -> None:
    def block(environ: Mapping[str, str]) -> tuple[str, int]:
        data = ask("cache-block", environ, block_size=None).data
        return data["backend"], data["block_size"]

    assert block({}) == ("TRITON_ATTN", 16)
    assert block({USE_AITER: "1"}) == ("ROCM_AITER_FA", 64)
    assert block({EXPLICIT: "ROCM_AITER_FA", USE_AITER: "1"}) == ("ROCM_AITER_FA", 16)


def test_a_platform_that_asks_its_layers_finds_one_of_the_backend_that_was_selected(
    ask: Ask,
) -> None:
    data = ask("cache-block", {EXPLICIT: "FLEX_ATTENTION"}, block_size=None).data
    assert data == {"backend": "FLEX_ATTENTION", "block_size": 128}


def test_a_refused_selection_is_told_as_such(ask: Ask) -> None:
    answer = ask("cache-block", head_size=512, block_size=None)
    assert answer.refused
    assert not answer.data


@pytest.mark.parametrize(
    ("state", "is_rocm"),
    [(Amdsmi.WHOLE, True), (Amdsmi.EMPTY, False), (Amdsmi.ABSENT, True)],
)
def test_the_platform_is_the_one_that_the_forks_own_detection_finds(
    ask: Ask, state: Amdsmi, is_rocm: bool
) -> None:
    name = "rocm.RocmPlatform" if is_rocm else "Unspecified"
    data = ask("platform", gpu=Gpu("gfx942", amdsmi=state)).data
    assert data == {"platform": f"tinyfork.platforms.{name}", "is_rocm": is_rocm}


def test_a_detection_that_raises_is_told_in_words(ask: Ask) -> None:
    answer = ask("platform", gpu=Gpu("gfx942", amdsmi=Amdsmi.BROKEN))
    assert "AmdSmiLibraryException" in answer.trouble
    assert not answer.deliberate


def test_importing_a_fork_that_asks_nothing_of_the_runtime_is_told_so(ask: Ask) -> None:
    assert ask("runtime").data == {"calls": []}


def test_what_the_server_asks_before_its_workers_is_asked_and_what_starts_the_runtime_is_named(
    ask: Ask,
) -> None:
    """Questions only, and only those without arguments: setting a device is not one."""
    data = ask("before-workers").data
    assert data["asked"] == ["get_device_total_memory", "is_rocm"]
    assert list(data["started"]) == ["get_device_total_memory"]
    (call,) = data["started"]["get_device_total_memory"]
    assert call.startswith("torch.cuda.get_device_properties()")


def test_names_that_are_there_only_with_aiter_on_are_missing_with_it_off(ask: Ask) -> None:
    def missing(switch: str) -> list[str]:
        backend = "ROCM_AITER_MLA_SPARSE"
        request = cases.plain(backend).non_default()
        told = ask("names", {USE_AITER: switch}, detail=backend, **request).data
        assert told["backend"] == backend
        found: list[str] = told["missing"]
        return found

    place = "v1.attention.backends.sparse.SparseImpl.decode"
    assert missing("0") == [f"rocm_aiter_ops.sparse_decode in {place}"]
    assert missing("1") == []


def test_what_only_one_kernel_is_given_must_decide_between_them(ask: Ask) -> None:
    (told,) = ask("predicates").data["predicates"].values()
    assert told["callers"] == ["tinyfork.v1.attention.ops.decode.decode"]
    words = [one.partition(",")[0] for one in told["unheeded"]]
    assert words == [
        "use_rocm_custom_paged_attention does not receive it: sinks",
        "use_rocm_custom_paged_attention is true with it all the same: sliding_window",
    ]


def test_a_vision_layer_is_chosen_for_with_and_without_a_name(ask: Ask) -> None:
    listed = ["TRITON_ATTN", "FLEX_ATTENTION", "TORCH_SDPA"]
    plain = ask("vision", head_size=64)
    assert plain.data == {"backend": "TRITON_ATTN", "supported": listed}
    assert ask("vision", head_size=80).data["backend"] == "ROCM_ATTN"
    assert ask("vision", detail="FLEX_ATTENTION").data["backend"] == "FLEX_ATTENTION"
    replaced = ask("vision", {USE_AITER: "1"}, detail="FLEX_ATTENTION")
    assert replaced.data["backend"] == "ROCM_AITER_FA"
    rdna = ask("vision", gpu=Gpu("gfx1100"), head_size=64)
    assert rdna.data["backend"] == "TORCH_SDPA"


def test_a_name_that_the_fork_lacks_says_nothing(ask: Ask) -> None:
    with pytest.raises(answers.Inapplicable, match="the fork has no TREE_ATTN"):
        ask("vision", detail="TREE_ATTN")


def test_a_class_that_derives_from_the_forks_platform_is_the_one_that_is_judged(
    folder: Path,
) -> None:
    (folder / "derived.py").write_text(
        "from tinyfork.platforms import rocm\n"
        "class Derived(rocm.RocmPlatform):\n"
        "    __module__ = rocm.__name__\n"
        "    @classmethod\n"
        "    def get_vit_attn_backend(cls, head_size):\n"
        "        return rocm.AttentionBackendEnum.FLEX_ATTENTION\n"
    )
    with asked(f"{folder}/derived.py:Derived") as ask:
        assert ask("vision", head_size=64).data["backend"] == "FLEX_ATTENTION"
        assert ask("platform").data["platform"] == "tinyfork.platforms.rocm.RocmPlatform"
