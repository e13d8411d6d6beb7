"""What a user names: backends of layers, of MLA's prefill, of a vision encoder.

A row says what is named; an adapter says it as its fork does: by VLLM_ATTENTION_BACKEND, or by the
configuration that ``--attention-backend`` and ``--attention-config`` fill, which the fork parses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Asked: TypeAlias = Literal[
    "layer",
    "boundary-layer",
    "mla-prefill",
    "vision",
    "model",
    "environment",
    "draft",
    "gdn-prefill",
]
# Kernels of linear attention, which no registry of backends has (engine/arg_utils.py, v0.33.0).
GDN_PREFILL = ("triton", "flashinfer", "cutedsl", "aiter_flydsl", "sycl")
ASKED: tuple[str, ...] = get_args(Asked)


@dataclass(frozen=True, slots=True)
class Named:
    """What is named, and for whom a backend is asked.

    Attributes:
        backend: as the user writes it, in any case, or "auto"; None: nothing is named.
        per_kind: kind of layer -> backend, as pairs, as ``backend_per_kind`` has them.
        asks: "layer"; "boundary-layer": a layer that a run with a packed cache keeps at the model's
            own dtype, which has to share a cache layout with the others; "mla-prefill"; "vision";
            "model": one that chooses for itself, which is asked whether it looks at what is named;
            "environment": whether the server refuses it (--fail-on-environ-validation); "draft": a
            layer of a speculative draft; "gdn-prefill": the prefill of gated delta networks.
        model: which, below the fork's package: "models/deepseek_v4/amd".
        target: what is named for the model whose draft is asked about; "" for nothing.
    """

    backend: str | None = None
    per_kind: tuple[tuple[str, str], ...] = ()
    asks: Asked = "layer"
    model: str = ""
    target: str = ""

    def to_text(self) -> str:
        """Return it as text, for a question's detail."""
        return json.dumps([self.backend, self.per_kind, self.asks, self.model, self.target])

    @classmethod
    def from_text(cls, text: str) -> Named:
        """Return what to_text() made text of."""
        backend, per_kind, *rest = json.loads(text)
        return cls(backend, tuple((kind, name) for kind, name in per_kind), *rest)

    def __str__(self) -> str:
        about = self.model or self.asks.replace("-", " ")
        parts = [] if self.asks == "layer" else [f"for {about}"]
        if self.backend is not None:
            parts.append(f"{self.backend!r} named")
        parts += [f"{name!r} named for {kind}" for kind, name in self.per_kind]
        parts += [f"{self.target!r} named for the target"] if self.target else []
        return ", ".join(parts)
