"""Which of a fork's answers depend on the device's compute capability.

The number is CUDA's: 9.0 is Hopper there, while AMD's GPUs have 9.4 or 11.0 for reasons of their own. So what is
answered differently for a capability that no GPU has was decided by a comparison with a number of CUDA's. Runs in
the worker, under the mock.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_rocm_attn.conformance.adapters import predicate_table
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_rocm_attn.outcome import Selected, Unrecognised

Answers = TypeVar("Answers")
IMPOSSIBLE = ((0, 0), (99, 0))
_SETTLES = 3  # times that answers are asked again, at most

_DENSE: dict[str, dict[str, Any]] = {
    "a plain layer": {},
    "a layer of head size 64": {"head_size": 64},
    "a layer of head size 512": {"head_size": 512},
    "a float16 layer": {"dtype": "float16"},
    "a layer with an fp8 cache": {"kv_cache_dtype": "fp8"},
    "a layer with sinks": {"has_sink": True, "head_size": 64},
    "a layer with a window": {"sliding_window": 128},
    "a layer with a multimodal prefix": {"use_mm_prefix": True},
    "a layer that is not causal": {"use_non_causal": True},
    "a layer of an encoder": {"attn_type": "encoder_only"},
    "cross attention": {"attn_type": "encoder_decoder"},
    "blocks of 544": {"block_size": 544},
}
_LATENT: dict[str, dict[str, Any]] = {
    "latent attention": {},
    "latent attention with an fp8 cache": {"kv_cache_dtype": "fp8"},
    "latent attention with blocks of one": {"block_size": 1},
    "latent attention of 8 heads": {"num_heads": 8},
    "sparse latent attention": {"use_sparse": True},
}
REQUESTS: dict[str, Request] = {
    **{words: Request(**fields) for words, fields in _DENSE.items()},
    **{words: Request(use_mla=True, head_size=576, **fields) for words, fields in _LATENT.items()},
}


def changes(
    platform: Any,
    modules: Iterable[str],
    select: Callable[[Request], Selected | Unrecognised],
    forget: Callable[[], object],
) -> Iterator[dict[str, str]]:
    """Yield what is answered differently under an impossible capability.

    Args:
        platform: the class that is asked for the device's capability.
        modules: names of imported modules whose predicates are asked.
        select: asks the selector.
        forget: makes the fork forget what it has answered.

    Yields: "asked", the answer "is", and what it "becomes" under which "capability", in words.
    """
    modules = list(modules)

    def answers() -> dict[str, str]:
        forget()
        said = {f"selecting for {words}": _selected(select, one) for words, one in REQUESTS.items()}
        for predicate, table in predicate_table.table(modules).items():
            said |= {f"{predicate}({values})": answer for values, answer in table.items()}
        return said

    plain = settled(answers)
    seen: set[str] = set()
    for numbers in IMPOSSIBLE:
        with _answering(platform, numbers):
            poisoned = settled(answers)
        for asked, now in poisoned.items():
            if plain.get(asked, now) != now and asked not in seen:
                seen.add(asked)
                capability = ".".join(map(str, numbers))
                yield {"asked": asked, "is": plain[asked], "becomes": now, "capability": capability}
    forget()


def settled(answers: Callable[[], Answers]) -> Answers:
    """Return what is answered once the answers repeat, as in a server that has asked them before.

    A fork may answer otherwise at first: a package whose import fails leaves its modules behind, and the next
    import of one of them succeeds (FlashAttentionBackend.supports_mm_prefix of vLLM, v0.33.0, on a GPU of AMD's).
    """
    said = answers()
    for _ in range(_SETTLES):
        if (again := answers()) == said:
            break
        said = again
    return said


def _selected(select: Callable[[Request], Any], request: Request) -> str:
    try:
        answer = select(request)
    except Exception as error:  # noqa: BLE001  foreign code: a refusal is an answer
        return f"a refusal ({type(error).__name__})"
    return str(getattr(answer, "backend", answer))


@contextlib.contextmanager
def _answering(platform: Any, numbers: tuple[int, int]) -> Iterator[None]:
    """Have a platform and torch say that the device has a capability."""
    import torch

    kind = type(platform.get_device_capability())
    made = kind(*numbers) if kind is not tuple else numbers
    with contextlib.ExitStack() as stack:
        for owner, name, value in (
            (platform, "get_device_capability", classmethod(lambda cls, device_id=0: made)),
            (torch.cuda, "get_device_capability", lambda device=None: numbers),
        ):
            own = vars(owner).get(name)
            setattr(owner, name, value)
            stack.callback(_put_back, owner, name, own)
        yield


def _put_back(owner: Any, name: str, own: Any) -> None:
    if own is None:
        delattr(owner, name)
    else:
        setattr(owner, name, own)


def caches_of(modules: Iterable[Any]) -> Iterator[Callable[[], object]]:
    """Yield what clears each cached function of modules and of the classes in them."""
    for module in modules:
        owned = [value for value in vars(module).values() if isinstance(value, type)]
        for owner in itertools.chain([module], owned):
            for name in list(vars(owner)):
                raw = vars(owner)[name]
                clear = None
                # A stand-in of the fork's for a package that is not there raises on any attribute.
                with contextlib.suppress(ImportError):
                    clear = getattr(getattr(raw, "__func__", raw), "cache_clear", None)
                if callable(clear):
                    yield clear
