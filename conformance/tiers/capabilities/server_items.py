"""Items about what the server makes of the machine and of a choice, around the selection itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.tiers.capabilities import cases, views
from pytest_rocm_attn.conformance.tiers.capabilities.findings import Finding
from pytest_rocm_attn.conformance.tiers.capabilities.item import CapabilityItem
from pytest_rocm_attn.conformance.tiers.items import flags_words
from pytest_rocm_attn.gpu import Amdsmi, Gpu
from pytest_rocm_attn.registry import ROCM_BACKENDS
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_rocm_attn.conformance.isolation import Question

_SDPA, _TRITON = "TORCH_SDPA", "TRITON_ATTN"


def plan(gpu: Gpu) -> Iterator[tuple[str, type[CapabilityItem], dict[str, Any]]]:
    """Return the items on a GPU: name, class, and what they are made with."""
    yield "the-platform-imports-without-the-runtime", RuntimeItem, {"gpu": gpu}
    for state in Amdsmi:
        where = f"where-amdsmi-is-{state}"
        yield f"the-platform-is-found-{where}", PlatformItem, {"gpu": gpu, "state": state}
    for backend in ROCM_BACKENDS:
        words = backend.lower().replace("_", "-")
        common = {"gpu": gpu, "backend": backend}
        yield f"{words}-has-one-cache-block-however-chosen", CacheBlockItem, common
        if "AITER" in backend:
            yield f"{words}-finds-its-functions-with-aiter-off", NamesItem, common
    yield "rocm-attn-tells-its-kernels-apart", PredicateItem, {"gpu": gpu}
    yield "vision-takes-the-backend-that-is-named", VisionOverrideItem, {"gpu": gpu}
    yield "vision-by-default-is-supported", VisionDefaultItem, {"gpu": gpu}
    if gpu.family.startswith("RDNA"):
        yield "vision-by-default-is-no-sdpa-on-rdna", VisionSdpaItem, {"gpu": gpu}


class ServerItem(CapabilityItem):
    """An item that asks about the server."""

    def answer(self, question: Question) -> views.Answer:
        """Ask; see views.answer()."""
        return views.answer(question, self.plugin.observe)

    @property
    def on(self) -> Gpu:
        """The GPU that it is about."""
        assert self.gpu is not None
        return self.gpu


class RuntimeItem(ServerItem):
    """Importing the platform starts no device runtime, which would bar the server from forking."""

    expectation = "importing the platform asks nothing of the device's runtime"
    source = "known-regressions.md itf-cuda-init-on-import"

    def questions(self) -> list[Question]:
        return [views.question("runtime", self.on)]

    def find(self) -> Iterator[Finding]:
        answer = self.answer(self.questions()[0])
        if answer.trouble:
            yield Finding(f"the import cannot be told of: {answer.trouble}", deliberate=False)
        for call in answer.data.get("calls", ()):
            yield Finding(f"importing the platform starts the device's runtime: {call}")


class PlatformItem(ServerItem):
    """The fork finds the ROCm platform, whatever amdsmi says.

    Advisory but where amdsmi is whole: the contract says nothing of it.
    """

    source = "known-regressions.md itf-amdsmi-lists-nothing"

    def __init__(self, *, state: Amdsmi, **kwargs: Any) -> None:
        level = "required" if state is Amdsmi.WHOLE else "advisory"
        super().__init__(level=level, **kwargs)
        self.state = state
        self.expectation = f"the ROCm platform is found where amdsmi is {state}"

    def questions(self) -> list[Question]:
        return [views.question("platform", self._on(state)) for state in self._states()]

    def _states(self) -> tuple[Amdsmi, ...]:
        return (Amdsmi.WHOLE,) if self.state is Amdsmi.WHOLE else (Amdsmi.WHOLE, self.state)

    def _on(self, state: Amdsmi) -> Gpu:
        return Gpu(self.on.gfx, self.on.aiter, state)

    def find(self) -> Iterator[Finding]:
        if self.plugin.settings.subject.machine is not None:
            raise views.Inapplicable("nothing is mocked, and this machine's amdsmi is as it is")
        whole, *others = (self.answer(question) for question in self.questions())
        if self.state is Amdsmi.WHOLE:
            others = [whole]
        elif whole.trouble or not whole.data["is_rocm"]:
            raise views.Inapplicable("no ROCm platform is found where amdsmi is whole either")
        for answer in others:
            if answer.trouble:
                wrong = f"no platform can be found: {answer.trouble}"
                yield Finding(wrong, deliberate=answer.deliberate)
            elif not answer.data["is_rocm"]:
                yield Finding(f"the platform that is found is {answer.data['platform']}")


class CacheBlockItem(ServerItem):
    """The same backend, chosen in several ways, is given the same cache block."""

    source = "known-regressions.md cap-unified-cache-block-16"

    def __init__(self, *, backend: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backend = backend
        self.expectation = f"{backend} is given the same cache block however it is chosen"

    def questions(self) -> list[Question]:
        return [
            views.question("cache-block", self.on, environment.environ, request)
            for request, environment in cases.ways(self.backend)
        ]

    def find(self) -> Iterator[Finding]:
        given: dict[Any, list[Mapping[str, str]]] = {}
        for question in self.questions():
            answer = self.answer(question)
            environ = dict(question.environ)
            if answer.trouble and not answer.refused:
                # Another backend's may fail for reasons of its own.
                if environ.get(cases.EXPLICIT) == self.backend:
                    wrong = f"the configuration cannot be completed: {answer.trouble}"
                    yield Finding(wrong, question.request, environ, answer.deliberate)
            elif answer.data.get("backend") == self.backend:
                given.setdefault(answer.data["block_size"], []).append(environ)
        chosen = sum(len(ways) for ways in given.values())
        self.counts["chosen"] = chosen
        if chosen < 2:
            raise views.Inapplicable(f"{self.backend} is chosen in one way at most")
        if len(given) > 1:
            sizes = "; ".join(f"{size} with {flags_words(ways[0])}" for size, ways in given.items())
            yield Finding(f"{self.backend}'s cache blocks differ by how it is chosen: {sizes}")


class NamesItem(ServerItem):
    """A backend of AITER's that is named with the switch off finds what it calls with it on."""

    source = "known-regressions.md itf-explicit-aiter-without-switch"

    def __init__(self, *, backend: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backend = backend
        self.expectation = (
            f"{backend}, named with AITER off, finds the functions that it finds with AITER on"
        )

    @property
    def environ(self) -> Mapping[str, str]:
        return {cases.EXPLICIT: self.backend, cases.AITER: "0"}

    def questions(self) -> list[Question]:
        request = cases.plain(self.backend)
        return [
            views.question("names", self.on, {cases.AITER: switch}, request, self.backend)
            for switch in ("1", "0")
        ]

    def find(self) -> Iterator[Finding]:
        on, off = (self.answer(question) for question in self.questions())
        for answer, words in ((on, "on"), (off, "off")):
            if answer.trouble:
                # Whether it may be refused or fail is what other items are about.
                raise views.Inapplicable(
                    f"{self.backend} is not built with AITER {words}: {answer.trouble}"
                )
            if answer.data["backend"] != self.backend:
                raise views.Inapplicable(
                    f"{self.backend} gives way to {answer.data['backend']} with AITER {words}"
                )
        for name in off.data["missing"]:
            if name not in on.data["missing"]:
                wrong = f"{self.backend} refers to what is there only with AITER on"
                yield Finding(wrong, cases.plain(self.backend), self.environ, value=name)


class PredicateItem(ServerItem):
    """A predicate that chooses a kernel looks at whatever only one of the kernels is given."""

    expectation = "what only one of its kernels is given decides between them"
    source = "known-regressions.md itf-predicate-lacks-sinks"

    def questions(self) -> list[Question]:
        return [views.question("predicates", self.on)]

    def find(self) -> Iterator[Finding]:
        answer = self.answer(self.questions()[0])
        if answer.trouble:
            yield Finding(f"it cannot be asked: {answer.trouble}", deliberate=answer.deliberate)
            return
        found = answer.data["predicates"]
        if not any(told["callers"] for told in found.values()):
            raise views.Inapplicable("the fork has no predicate that chooses between two kernels")
        for told in found.values():
            for wrong in told["unheeded"]:
                yield Finding(wrong)


# --- vision ---------------------------------------------------------------------------------------

_HEADS = (64, 72, 80)  # of vision transformers


class VisionItem(ServerItem):
    """An item about the backend of vision attention."""

    source = "known-regressions.md vit-sdpa-on-gfx1151"

    def chosen(
        self, head_size: int, environ: Mapping[str, str] | None = None, override: str = ""
    ) -> views.Answer:
        """Ask for the backend of a vision layer."""
        request = Request(head_size=head_size, attn_type="encoder_only")
        return self.answer(views.question("vision", self.on, environ, request, override))

    def default(self, head_size: int) -> views.Answer:
        """Ask for the backend of a vision layer by default.

        Raises:
            views.Inapplicable: the fork does not say which backends it supports for vision.
        """
        answer = self.chosen(head_size)
        if not answer.trouble and answer.data["supported"] is None:
            raise views.Inapplicable("the platform does not list the backends for vision layers")
        return answer


class VisionOverrideItem(VisionItem):
    """The backend that is named for vision layers is taken, or refused."""

    expectation = "a backend that is named for vision layers is taken or refused, never replaced"
    source = "known-regressions.md vit-override-ignored"

    def find(self) -> Iterator[Finding]:
        supported = self.chosen(_HEADS[0]).data.get("supported")
        for override in supported if supported is not None else (_SDPA, "FLASH_ATTN"):
            for environ in ({}, {cases.AITER: "1"}):
                answer = self.chosen(_HEADS[0], environ, override)
                if answer.trouble and not answer.deliberate:
                    wrong = f"{override}, named for vision layers, is no refusal: {answer.trouble}"
                    yield Finding(wrong, environ=environ, deliberate=False)
                elif not answer.trouble and answer.data["backend"] != override:
                    wrong = f"{override}, named for vision layers, gives way to"
                    yield Finding(
                        f"{wrong} {answer.data['backend']}",
                        environ=environ,
                        value=flags_words(environ),
                    )


class VisionDefaultItem(VisionItem):
    """What vision layers are given by default is among what the platform says it supports."""

    expectation = "the default for vision layers is one that the platform says it supports"

    def find(self) -> Iterator[Finding]:
        for head_size in _HEADS:
            answer = self.default(head_size)
            value = f"head_size={head_size}"
            if answer.trouble:
                wrong = f"vision layers are given none: {answer.trouble}"
                yield Finding(wrong, deliberate=answer.deliberate, value=value)
            elif answer.data["backend"] not in answer.data["supported"]:
                wrong = f"vision layers are given {answer.data['backend']}, which is not listed"
                yield Finding(wrong, value=value)


class VisionSdpaItem(VisionItem):
    """On RDNA, torch's SDPA is not the default where TRITON_ATTN is supported. Advisory."""

    expectation = "TORCH_SDPA, which gives NaN on RDNA, is no default where TRITON_ATTN is listed"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(level="advisory", **kwargs)

    def find(self) -> Iterator[Finding]:
        for head_size in _HEADS:
            answer = self.default(head_size)
            if answer.trouble:
                raise views.Inapplicable(f"vision layers are given none: {answer.trouble}")
            if _TRITON not in answer.data["supported"]:
                raise views.Inapplicable("the platform lists no TRITON_ATTN for vision layers")
            if answer.data["backend"] == _SDPA:
                wrong = f"vision layers are given {_SDPA}, though {_TRITON} is listed"
                yield Finding(wrong, value=f"head_size={head_size}")
