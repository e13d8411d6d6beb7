"""The checks of the server tier, on answers as a process gives them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.isolation import WorkerError
from pytest_rocm_attn.conformance.promise.servers_file import shipped
from pytest_rocm_attn.conformance.run.settings import read
from pytest_rocm_attn.conformance.tiers.capabilities.answers import Answer, Inapplicable
from pytest_rocm_attn.conformance.tiers.server import code, plugins, servers, steps
from pytest_rocm_attn.conformance.tiers.server.tier import ServerTier
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.outcome import Told

if TYPE_CHECKING:
    from collections.abc import Callable


GFX942, GFX950 = Gpu("gfx942"), Gpu("gfx950")
(WHISPER,) = (server for server in shipped() if server.id == "whisper-large-v3")


class Item:
    """An item whose questions all have one answer, or the answer that a function gives."""

    def __init__(self, data: Any, gpu: Gpu = GFX942) -> None:
        self.gpu = gpu
        self.counts: dict[str, int] = {}
        self._data = data

    def ask(self, question: Any) -> Answer:
        data = self._data(question) if callable(self._data) else self._data
        return Answer(question, Told(data), data)


def came(*faults: dict[str, Any], unasked: tuple[str, ...] = ()) -> dict[str, Any]:
    backends = {"decoder": "ROCM_ATTN", "cross": "TRITON_ATTN"}
    return {
        "backends": backends,
        "faults": [*faults],
        "unasked": [*unasked],
        "not_filled": [],
        "left_out": [],
    }


def found(find: Callable[..., Any], item: Any, **arguments: Any) -> list[str]:
    return [defect.wrong for defect in find(item, **arguments)]


def test_every_server_is_started_with_every_set_of_flags_on_every_gpu(
    pytestconfig: pytest.Config,
) -> None:
    of_this_run = read(pytestconfig)
    settings = dataclasses.replace(
        of_this_run,
        subject=dataclasses.replace(of_this_run.subject, pure=False),
        cells=tuple(
            dataclasses.replace(of_this_run.cells[0], gpu=gpu) for gpu in (GFX942, GFX950, GFX942)
        ),
        servers=tuple(shipped()),
    )
    planned = list(ServerTier.plan(settings))
    names = [one.name for one in planned]
    assert len(names) == len(set(names))
    starts = [name for name in names if "-starts-" in name and "[gfx942]" in name]
    assert len(starts) == len(shipped()) * len(servers.FLAGS)
    assert "whisper-large-v3-starts-with-aiter-on[gfx950]" in names
    assert "use-kv-connector-reaches-the-selector[gfx942]" in names


def test_a_fault_names_each_layer_and_what_it_was_given() -> None:
    fault = {"layers": ["decoder", "cross"], "doing": "viewing the cache", "words": "they overlap"}
    (wrong,) = found(servers.starts.find, Item(came(fault)), server=WHISPER, flags="by-default")
    assert wrong == "decoder (ROCM_ATTN) and cross (TRITON_ATTN): viewing the cache: they overlap"


def raised(**more: Any) -> dict[str, Any]:
    error = {"error": "ValueError", "message": "not valid\nat all", "deliberate": True}
    return {"layers": ["decoder"], "doing": "selecting a backend", **error, **more}


def test_a_refusal_of_the_selector_is_counted_and_is_not_a_finding() -> None:
    item = Item(came(raised()))
    assert found(servers.starts.find, item, server=WHISPER, flags="by-default") == []
    assert item.counts == {"selected": 2, "parts left out": 0, "refused": 1}


def test_a_package_that_is_not_there_is_why_a_server_takes_no_step() -> None:
    for missing, why in (
        (["numba", "numba"], "as these packages are not there: numba$"),
        ([], "whisper-large-v3-starts-by-default says why"),
    ):
        data: dict[str, Any] = {"backends": {}, "missing": missing, "steps": None}
        with pytest.raises(Inapplicable, match=why):
            found(steps.takes_its_first_steps.find, Item(data), server=WHISPER, flags="by-default")


@pytest.mark.parametrize(
    "fault",
    [raised(deliberate=False), raised(doing="building ROCM_ATTN"), raised(words="for another's")],
)
def test_a_crash_and_a_refusal_after_the_selection_are_findings(fault: dict[str, Any]) -> None:
    if "words" in fault:  # a refusal for what another layer needs comes without an error
        fault = {name: fault[name] for name in ("layers", "doing", "words")}
    (wrong,) = found(servers.starts.find, Item(came(fault)), server=WHISPER, flags="by-default")
    assert "\n" not in wrong
    assert "decoder (ROCM_ATTN)" in wrong


def test_what_our_own_stand_ins_lack_is_never_the_forks_fault() -> None:
    item = Item(came(raised(ours=True)))
    with pytest.raises(WorkerError, match="cannot tell: selecting a backend: not valid"):
        found(servers.starts.find, item, server=WHISPER, flags="by-default")


def test_a_need_that_no_field_carries_is_a_finding_for_each_server_that_has_it() -> None:
    check = servers.reaches_the_selector.find
    item: Any = Item(came(unasked=("use_dcp",)))
    defects = list(check(item, need="use_dcp", servers=shipped()))
    assert {defect.wrong for defect in defects} == {
        "the selector chooses without being asked about use_dcp"
    }
    needing = {s.id for s in shipped() if s.decode_context_parallel > 1}
    assert {defect.value for defect in defects} == needing
    assert found(check, Item(came()), need="use_dcp", servers=shipped()) == []


def test_a_need_that_no_server_with_a_backend_has_is_not_applicable() -> None:
    nothing = {**came(), "backends": {}}
    with pytest.raises(Inapplicable, match="no server that needs use_dcp"):
        found(servers.reaches_the_selector.find, Item(nothing), need="use_dcp", servers=shipped())


def test_a_layer_that_its_backends_kernel_refuses_is_a_finding_of_its_server() -> None:
    joins = [{"layers": ["decoder"], "doing": "", "words": "use_custom is false"}]
    check = servers.runs_its_own_kernel.find
    item: Any = Item({**came(), "joins": joins})
    (defect,) = check(item, flags="by-default", servers=[WHISPER])
    assert (defect.wrong, defect.value) == ("decoder (ROCM_ATTN): use_custom is false", WHISPER.id)
    assert found(check, Item({**came(), "joins": []}), flags="by-default", servers=[WHISPER]) == []


def test_a_question_that_cannot_be_asked_is_the_only_defect() -> None:
    class Raising(Item):
        def ask(self, question: Any) -> Answer:
            return Answer(question, Told({}), trouble="KeyError: 'gfx'", deliberate=False)

    item: Any = Raising({})
    (defect,) = code.means_the_visible_device.find(item, variables="rocr")
    assert defect.wrong == "it cannot be asked: KeyError: 'gfx'"
    assert defect.environ == {"ROCR_VISIBLE_DEVICES": "2,3"}
    assert not defect.deliberate


def test_a_switch_that_leaves_a_plugin_on_is_a_finding() -> None:
    def told(question: Any) -> dict[str, Any]:
        on = dict(question.environ) == {"ATOMIC_DISABLE_PLUGIN": "1"}
        return {"answers": {"a plain layer": "ATOMIC" if on else "ROCM_ATTN", "sinks": "same"}}

    item: Any = Item(told)
    find = plugins.change_nothing_if_off.find
    (defect,) = find(item, switches=("ATOMIC_DISABLE_PLUGIN",))
    assert defect.wrong == (
        "under ATOMIC_DISABLE_PLUGIN=1 the answer is ATOMIC, and ROCM_ATTN without the plugins"
    )
    assert defect.value == "a plain layer"
    assert list(find(item, switches=())) == []


def test_a_device_that_the_platform_confuses_is_a_finding() -> None:
    same = {"device": 0, "is": "2", "said": "2"}
    check = code.means_the_visible_device.find
    (wrong,) = found(check, Item({"devices": [same, same | {"said": "0"}]}), variables="rocr")
    assert wrong == "device 0 is number 2 of the machine, and the platform says 0"


def test_a_predicate_that_says_yes_to_what_the_gpu_lacks_is_a_finding() -> None:
    said = {"vllm._aiter_ops.ops.is_fp4bmm_enabled": {"": "True"}, "vllm.on_mi3xx": {"": "True"}}
    data = {"predicates": said, "twins": []}
    check = code.predicates_know_the_gpu.find
    (wrong,) = found(check, Item(data), flags="by-default")
    assert wrong.startswith(
        "vllm._aiter_ops.ops.is_fp4bmm_enabled() is true, and the GPU lacks 4-bit floating point"
    )
    assert found(check, Item(data, GFX950), flags="by-default") == []
    said["vllm._aiter_ops.ops.is_fp4bmm_enabled"][""] = "False"
    assert found(check, Item(data), flags="by-default") == []


def test_a_twin_call_is_named_with_its_line_and_its_twins() -> None:
    twin = {"module": "vllm.x", "callee": "gather", "line": 7, "other": 9, "words": "lacks y"}
    (wrong,) = found(code.twin_calls_heed_the_same.find, Item({"predicates": {}, "twins": [twin]}))
    assert wrong == "vllm.x:7 calls gather with other care than line 9: lacks y"
