"""Select, then construct; and declarations: asked of a tiny fork, in a worker, under the mock."""

from __future__ import annotations

import ast
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn import Aiter, Died, Gpu, Rejected, Request, TimedOut
from pytest_rocm_attn.conformance.isolation import Pool, Question, Subject, WorkerError
from pytest_rocm_attn.conformance.tiers.capabilities import answers, cases
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pytest_rocm_attn.conformance.isolation import Observation

pytest.importorskip("torch")
GPU = Gpu("gfx942")
MLA = {"use_mla": True}


@pytest.fixture(scope="module")
def observe(
    tmp_path_factory: pytest.TempPathFactory, write_tiny_fork: Callable[[Path], str]
) -> Iterator[Callable[[Question], Observation]]:
    """A function that asks one question of the tiny fork."""
    folder = tmp_path_factory.mktemp("fork")
    selector = write_tiny_fork(folder)
    sys.path.insert(0, str(folder))
    pool = Pool(Subject(selector, timeout=5.0), lanes=1)

    def ask(question: Question) -> Observation:
        (future,) = pool.submit([question])
        return future.result(timeout=120)

    yield ask
    pool.close()
    sys.path.remove(str(folder))


Observe = Any


def build(
    observe: Observe, environ: Mapping[str, str], *, none: bool = False, **fields: Any
) -> answers.Answer:
    question = answers.construct_question(GPU, environ, Request(**fields), none_for_sinks=none)
    return answers.construction(question, observe)


def named(backend: str) -> dict[str, str]:
    return {EXPLICIT: backend}


def declared(observe: Observe, backend: str) -> answers.Answer:
    values = {name: list(found) for name, found in cases.DECLARABLE.items()}
    return answers.told(answers.declare_question(GPU, backend, values), observe)


def test_what_is_selected_is_built(observe: Observe) -> None:
    answer = build(observe, {}, head_size=64)
    assert (answer.backend, answer.built) == ("TRITON_ATTN", True)


def test_a_refused_selection_builds_nothing_and_is_no_trouble(observe: Observe) -> None:
    answer = build(observe, {}, head_size=512)
    assert answer.outcome == Rejected("ValueError", "no backend for head size 512")
    assert not answer.built
    assert not answer.trouble


def test_a_selection_that_crashes_is_told_in_words_that_last(observe: Observe) -> None:
    impostor = Gpu("gfx942", Aiter.IMPOSTOR)
    question = answers.construct_question(impostor, {}, Request(head_size=224))
    answer = answers.construction(question, observe)
    assert answer.stumbled
    assert "from 'aiter' ((mock)/aiter/__init__.py)" in str(answer.outcome)


def test_the_constructor_gets_what_the_layer_passes(observe: Observe) -> None:
    answer = build(
        observe,
        {},
        head_size=72,
        dtype="float16",
        kv_cache_dtype="fp8",
        block_size=32,
        has_sink=True,
        attn_type="encoder_only",
        sliding_window=128,
        num_heads=12,
        num_kv_heads=4,
        logits_soft_cap=30.0,
        alibi=True,
    )
    _, _, told = answer.trouble.partition("ValueError: ")
    assert ast.literal_eval(told) == (
        *(12, True, 4, 12, 128, "fp8", 30.0, "encoder_only", (12,), "torch.float16", True, 32),
    )


def test_a_plain_layer_passes_no_sinks_and_no_slopes(observe: Observe) -> None:
    told = build(observe, {}, head_size=72).trouble.partition("ValueError: ")[2]
    assert ast.literal_eval(told) == (
        *(32, True, 8, None, None, "auto", None, "decoder", False, "torch.bfloat16", True, 16),
    )


def test_sinks_that_the_constructor_does_not_take_are_a_crash(observe: Observe) -> None:
    answer = build(observe, {USE_AITER: "1"}, has_sink=True)
    assert answer.backend == "ROCM_AITER_FA"
    assert answer.trouble.startswith("building NoSinksImpl: TypeError: ")
    assert "sinks" in answer.trouble
    assert not answer.deliberate


def test_optional_sinks_are_passed_as_none(observe: Observe) -> None:
    assert build(observe, {}, none=True).built
    answer = build(observe, {USE_AITER: "1"}, none=True)
    assert "unexpected keyword argument 'sinks'" in answer.trouble


def test_the_dense_layer_looks_its_backend_up_by_the_name_it_says(observe: Observe) -> None:
    answer = build(observe, named("ROCM_AITER_FA"))
    assert answer.trouble.startswith("calling get_name(): KeyError: ")
    assert "FLASH_ATTN" in answer.trouble


def test_the_cache_shape_is_asked_for_as_the_runner_does(observe: Observe) -> None:
    answer = build(observe, named("ROCM_AITER_MLA"), block_size=8, **MLA)
    assert answer.trouble.startswith("choosing a kernel block size: ValueError: ")
    assert build(observe, named("ROCM_AITER_MLA"), block_size=32, **MLA).built
    answer = build(observe, named("ROCM_ATTN"), block_size=8)
    assert answer.trouble == (
        "calling get_kv_cache_shape() as the runner does:"
        " ValueError: Block size must be a multiple of 16."
    )
    assert answer.deliberate


def test_encoders_have_no_cache_to_ask_for(observe: Observe) -> None:
    assert build(observe, named("ROCM_ATTN"), block_size=8, attn_type="encoder_only").built


def test_a_backend_that_cannot_be_imported_is_a_crash_of_that_backend(observe: Observe) -> None:
    answer = build(observe, named("ROCM_AITER_UNIFIED_ATTN"))
    cause, _, remedy = answer.trouble.partition("; ")
    assert cause == "importing its module: ModuleNotFoundError: No module named 'no_such_module'"
    assert remedy.startswith("install the package that has no_such_module (")
    assert not answer.deliberate
    assert declared(observe, "ROCM_AITER_UNIFIED_ATTN").trouble.startswith("ModuleNotFoundError")


@pytest.mark.parametrize(
    ("head_size", "trouble"),
    [
        (32, "building MoodyImpl: SystemExit: 3"),
        (64, f"building it: {Died(None, 5)}"),
        (80, f"building it: {TimedOut(5.0)}"),
    ],
)
def test_an_implementation_that_ends_its_process_is_named(
    observe: Observe, head_size: int, trouble: str
) -> None:
    answer = build(observe, named("FLEX_ATTENTION"), head_size=head_size)
    assert (answer.backend, answer.trouble) == ("FLEX_ATTENTION", trouble)
    assert not answer.deliberate
    assert build(observe, named("FLEX_ATTENTION")).built  # the next one is none the worse


def test_a_refusal_is_told_from_a_crash(observe: Observe) -> None:
    answer = build(observe, named("FLEX_ATTENTION"), head_size=96)
    assert answer.trouble == "building MoodyImpl: NotImplementedError: no head size 96"
    assert answer.deliberate


def test_what_the_mock_lacks_is_no_finding(observe: Observe) -> None:
    with pytest.raises(WorkerError, match="no_such_name.*the mocked platform's aiter lacks it"):
        build(observe, named("FLEX_ATTENTION"), head_size=160)


def test_a_parameter_that_no_layer_fills_is_loud(observe: Observe) -> None:
    with pytest.raises(WorkerError, match="LatentImpl requires unheard_of, which no known"):
        build(observe, {}, **MLA)


def test_a_latent_layer_passes_its_dimensions(observe: Observe) -> None:
    assert build(observe, named("ROCM_AITER_MLA"), num_heads=16, **MLA).built
    assert build(observe, named("ROCM_AITER_MLA"), head_size=320, **MLA).built
    answer = build(observe, named("ROCM_AITER_MLA"), num_heads=8, **MLA)
    assert "AssertionError: only 16 or 128 heads, not 8" in answer.trouble


def test_a_sparse_layer_passes_its_indexer(observe: Observe) -> None:
    assert build(observe, {}, use_sparse=True, **MLA).backend == "ROCM_AITER_MLA_SPARSE"
    assert build(observe, {}, use_sparse=True, **MLA).built


# --- declarations ---------------------------------------------------------------------------------


def test_a_class_is_asked_what_it_declares(observe: Observe) -> None:
    good = declared(observe, "TRITON_ATTN")
    assert good.says("head_size", 64) is True
    assert good.says("head_size", 80) is False
    assert good.says("has_sink", True) is True
    assert good.says("block_size", 8) is False
    assert good.says("block_size", 544) is True
    assert good.says("attn_type", "decoder") is None  # it has no accessor for that


def test_what_is_inherited_is_undeclared_unless_somebody_decides_by_it(observe: Observe) -> None:
    inheriting = declared(observe, "ROCM_ATTN")
    assert inheriting.says("has_sink", True) is None
    assert inheriting.says("block_size", 8) is True  # the runner decides by it


def test_declared_blocks_that_the_cache_cannot_have_are_told(observe: Observe) -> None:
    refused = declared(observe, "ROCM_ATTN").data["cache_refuses"]
    assert refused == dict.fromkeys(("1", "8"), "ValueError: Block size must be a multiple of 16.")
    assert declared(observe, "TRITON_ATTN").data["cache_refuses"] == {}


def test_the_kernels_that_a_module_calls_are_told(observe: Observe) -> None:
    assert declared(observe, "ROCM_AITER_MLA_SPARSE").data["kernels"] == ["mla_decode_fwd"]
    assert declared(observe, "TRITON_ATTN").data["kernels"] == []


def test_a_backend_that_the_fork_lacks_says_nothing(observe: Observe) -> None:
    with pytest.raises(answers.Inapplicable, match="the fork has no backend ROCM_AITER_TRITON_MLA"):
        declared(observe, "ROCM_AITER_TRITON_MLA")


@pytest.mark.parametrize(("state", "fails"), [(Aiter.PRESENT, False), (Aiter.ABSENT, True)])
def test_a_module_is_imported_under_each_state_of_aiter(
    observe: Observe, state: Aiter, fails: bool
) -> None:
    question = Question.of(Gpu("gfx942", state), {}, Request(), "import", "v1.spec_decode.eagle")
    assert bool(answers.told(question, observe).trouble) is fails


def test_a_module_that_a_broken_aiter_breaks_does_not_end_the_worker(observe: Observe) -> None:
    broken = Gpu("gfx942", Aiter.BROKEN)
    question = answers.construct_question(broken, {}, Request(head_size=64))
    assert answers.construction(question, observe).built
