"""Build the implementation of a vLLM-style backend for one request, on the CPU, without weights.

It is built with the arguments that vLLM's attention layers pass, matched by name against the fork's
own interface: the abstract constructors that its implementations derive from. The runner's calls to
the class (cache shape and the like) are made as the runner makes them. Runs in the worker.
"""

from __future__ import annotations

import enum
import inspect
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters.declarations import kernel_block_size
from pytest_rocm_attn.errors import SelectorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_rocm_attn.request import Request

# DeepSeek V2, V3 and R1 (docs/reference/backends.md#mla); the latent head is kv_lora_rank + rope.
_Q_LORA_RANK = 1536
_NOPE, _ROPE, _V_HEAD = 128, 64, 128
TOPK = (
    2048  # tokens that a sparse layer attends to (docs/reference/backends.md#rocm-aiter-mla-sparse)
)
DEFAULT_BLOCK_SIZE = (
    16  # what an unset block size becomes on ROCm (docs/reference/backends.md#inputs)
)
_BLOCKS = 8  # how many cache blocks the runner is assumed to have


class Stage(StrEnum):
    """What a step belongs to."""

    IMPORT = enum.auto()
    CONSTRUCT = enum.auto()  # the call of the implementation's constructor
    USE = enum.auto()  # what the server asks of the class besides


class Step(str):
    """What was being done when an exception was raised, as a note on it."""

    __slots__ = ("doing", "stage")

    doing: str
    stage: Stage

    @classmethod
    def of(cls, stage: Stage, doing: str) -> Step:
        """Return the note for a step, which is given in words."""
        made = cls(f"rocm-attn step: {doing}")
        made.doing, made.stage = doing, stage
        return made


@contextmanager
def step(stage: Stage, doing: str) -> Iterator[None]:
    """Note, on whatever is raised inside, what was being done."""
    try:
        yield
    except BaseException as error:  # whatever it is, it goes on to the caller
        if step_of(error) is None:
            error.add_note(Step.of(stage, doing))
        raise


def step_of(error: BaseException) -> Step | None:
    """Return what was being done when an exception was raised, if it was noted."""
    notes = getattr(error, "__notes__", ())
    return next((note for note in notes if isinstance(note, Step)), None)


def build(
    backend_class: Callable[[], Any],
    names: frozenset[str],
    request: Request,
    *,
    none_for_sinks: bool,
) -> Any:
    """Import a backend, build its implementation for a request, and ask it what the runner asks.

    Args:
        backend_class: imports and returns the backend's class.
        names: the registry's names, in which a dense layer looks up the backend's own.
        request: what the layer needs.
        none_for_sinks: the layer passes ``sinks=None``, as models do whose sinks are optional.

    Returns: the implementation.

    Raises:
        SelectorError: the constructor wants something that no layer of vLLM is known to pass.
        BaseException: whatever the fork raises; step_of() says where.
    """
    with step(Stage.IMPORT, "importing its module"):
        cls = backend_class()
    with step(Stage.USE, "calling get_impl_cls()"):
        impl = cls.get_impl_cls()
    arguments = _arguments(cls, impl, request, none_for_sinks=none_for_sinks)
    with step(Stage.CONSTRUCT, f"building {impl.__name__}"):
        built = impl(**arguments)
    with step(Stage.USE, "calling get_name()"):
        name = cls.get_name()
        # vLLM's dense layer then looks its backend up by that name.
        if not request.use_mla and names and name not in names:
            raise KeyError(
                f"get_name() says {name!r}, which the registry of backends does not have"
            )
    with step(Stage.USE, "calling get_builder_cls()"):
        cls.get_builder_cls()
    if request.attn_type in ("decoder", "encoder_decoder"):  # encoder layers have no cache
        _ask_for_cache(cls, request)
    return built


def _ask_for_cache(cls: Any, request: Request) -> None:
    """Call the class's static methods as the runner does when it makes the cache."""
    block_size = request.block_size or DEFAULT_BLOCK_SIZE
    if hasattr(cls, "get_supported_kernel_block_sizes") or hasattr(
        cls, "supported_kernel_block_sizes"
    ):
        with step(Stage.USE, "choosing a kernel block size"):
            kernel_block = kernel_block_size(cls, block_size)
            if kernel_block is None:
                raise ValueError("no kernel block size that it declares divides the cache block")
    else:
        kernel_block = block_size
    if not hasattr(cls, "get_kv_cache_shape"):
        return  # later releases lay caches out themselves
    with step(Stage.USE, "calling get_kv_cache_shape() as the runner does"):
        shape = cls.get_kv_cache_shape(
            _BLOCKS * (block_size // kernel_block),
            kernel_block,
            request.num_kv_heads,
            request.head_size,
            cache_dtype_str=request.kv_cache_dtype,
        )
    with step(Stage.USE, "calling get_kv_cache_stride_order()"):
        try:
            order = cls.get_kv_cache_stride_order()
        except (AttributeError, NotImplementedError):
            return  # the runner then takes the shape as it is
        if sorted(order) != list(range(len(shape))):
            raise ValueError(f"stride order {order} is not a permutation of a shape {shape}")


# --- arguments ------------------------------------------------------------------------------------


def _arguments(cls: Any, impl: type, request: Request, *, none_for_sinks: bool) -> dict[str, Any]:
    """Return what vLLM's layer passes to the constructor of an implementation.

    Raises:
        SelectorError: the fork's interface, or the constructor, requires something else.
    """
    known = _common(request) | (_latent(request) if request.use_mla else {})
    interface = _interface(impl)
    own = inspect.signature(impl).parameters
    passed = {name: known[name] for name in interface or own if name in known}
    if request.use_mla:
        # Passed through the layer's own keyword arguments in some releases.
        passed |= {name: known[name] for name in ("indexer", *_LATENT_EXTRAS) if name in own}
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
            passed |= {name: value for name, value in _latent(request).items() if name in _LATENT}
    if request.has_sink:
        import torch

        passed["sinks"] = torch.zeros(request.num_heads, dtype=torch.float32)
    elif none_for_sinks:
        passed["sinks"] = None
    if callable(asks := getattr(cls, "supports_alibi_sqrt", None)) and asks():
        passed["use_alibi_sqrt"] = False
    unknown = [
        name
        for name, parameter in {**interface, **own}.items()
        if name not in passed
        and parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if unknown:
        raise SelectorError(
            f"{impl.__qualname__} requires {', '.join(unknown)}, which no known attention layer of"
            " vLLM passes; define construct() in the selector's adapter, see docs/adapters.md"
        )
    return passed


def _interface(impl: type) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of the abstract constructors that an implementation derives from."""
    found: dict[str, inspect.Parameter] = {}
    for base in reversed(impl.__mro__):
        constructor = vars(base).get("__init__")
        if constructor is not None and getattr(constructor, "__isabstractmethod__", False):
            parameters = list(inspect.signature(constructor).parameters.items())[1:]
            found |= dict(parameters)
    return found


def _common(request: Request) -> dict[str, Any]:
    slopes = [2.0 ** (-8.0 * (head + 1) / request.num_heads) for head in range(request.num_heads)]
    return {
        "num_heads": request.num_heads,
        "head_size": request.head_size,
        "scale": request.head_size**-0.5,
        "num_kv_heads": request.num_kv_heads,
        "alibi_slopes": slopes if request.alibi else None,
        "sliding_window": request.sliding_window,
        "kv_cache_dtype": request.kv_cache_dtype,
        "logits_soft_cap": request.logits_soft_cap,
        "attn_type": request.attn_type,
        "kv_sharing_target_layer_name": None,
    }


_LATENT = (
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "qk_head_dim",
    "v_head_dim",
    "kv_b_proj",
    "indexer",
)
_LATENT_EXTRAS = ("topk_indices_buffer",)


def latent_sizes(request: Request) -> dict[str, int]:
    """Return the sizes of an MLA layer, by the names of its constructor's arguments."""
    return {
        "q_lora_rank": _Q_LORA_RANK,
        "kv_lora_rank": request.head_size - _ROPE,
        "qk_nope_head_dim": _NOPE,
        "qk_rope_head_dim": _ROPE,
        "qk_head_dim": _NOPE + _ROPE,
        "v_head_dim": _V_HEAD,
    }


def _latent(request: Request) -> dict[str, Any]:
    """Return the arguments that an MLA layer passes besides the common ones."""
    import torch

    sizes = latent_sizes(request)
    rank = sizes["kv_lora_rank"]
    topk = torch.zeros(1, TOPK, dtype=torch.int32) if request.use_sparse else None
    return {
        **sizes,
        "scale": sizes["qk_head_dim"] ** -0.5,
        # On the meta device: a shape and a dtype, and no weights.
        "kv_b_proj": torch.nn.Linear(
            rank, request.num_heads * (_NOPE + _V_HEAD), bias=False, device="meta"
        ),
        "indexer": Indexer(topk) if topk is not None else None,
        "topk_indices_buffer": topk,
    }


class Indexer:
    """What a sparse implementation reads of its layer's indexer."""

    topk_tokens = TOPK

    def __init__(self, topk_indices_buffer: Any) -> None:
        self.topk_indices_buffer = topk_indices_buffer


class ModelConfig:
    """What implementations read of the model's configuration; anything else is a loud error.

    Args:
        request: the layer's needs, which the model is made of.
        dtype: the torch.dtype of the request.
    """

    max_model_len = 8192
    is_mm_prefix_lm = False
    is_hybrid = False
    multimodal_config: Any = None

    def __init__(self, request: Request, dtype: Any) -> None:
        self.dtype = dtype
        self.use_mla = request.use_mla
        self._request = request
        self.hf_config = self.hf_text_config = _HfConfig()

    def get_num_attention_heads(self, parallel_config: Any) -> int:
        """Return the query heads per rank."""
        return self._request.num_heads

    def get_num_kv_heads(self, parallel_config: Any) -> int:
        """Return the KV heads per rank."""
        return self._request.num_kv_heads

    def get_head_size(self) -> int:
        """Return the head size."""
        return self._request.head_size

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise SelectorError(
            f"the implementation reads model_config.{name}, which the stand-in for a model of"
            " pytest-rocm-attn does not have; add it to conformance/adapters/construct.py"
        )


class _HfConfig:
    index_topk = TOPK
    # DeepSeek-R1's, by which MLA prefill backends are chosen.
    qk_nope_head_dim = 128
    qk_rope_head_dim = 64
    v_head_dim = 128
