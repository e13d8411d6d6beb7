"""What fell short in one item, and in words: one sentence for each thing that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.promise.got import CRASH, WRONG, Got

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rocm_attn.request import Request

_SHOWN = 6  # values or requests that a sentence lists


@dataclass(frozen=True, slots=True)
class Finding:
    """One request or value that fell short.

    Attributes:
        wrong: what is wrong, the same words for the same thing.
        request: what was asked, or None.
        environ: under which environment.
        deliberate: it is a refusal, no crash.
        traceback: where there is one.
        value: what it is about, where that is less than the request.
        answer: the result as a deviation pins it (got.py); "" for a crash, or if neither a refusal
            nor a backend is what is wrong.
    """

    wrong: str
    request: Request | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    deliberate: bool = True
    traceback: str = ""
    value: str = ""
    answer: str = ""

    @property
    def got(self) -> Got:
        """The result as a deviation pins it."""
        return Got(self.answer or (WRONG if self.deliberate else CRASH), self.wrong)

    @property
    def about(self) -> str:
        """What it is about, in words."""
        if self.value or self.request is None:
            return self.value
        fields = self.request.non_default()
        return " ".join(f"{name}={value}" for name, value in fields.items()) or "a plain layer"

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data for the report."""
        return {
            "wrong": self.wrong,
            "about": self.about,
            "env": dict(self.environ),
            "request": asdict(self.request) if self.request else None,
        }


def summary(findings: Sequence[Finding]) -> str:
    """Return the findings in words, those of the same thing together; "" for none."""
    together: dict[str, list[str]] = {}
    for finding in findings:
        about = together.setdefault(finding.wrong, [])
        if finding.about and finding.about not in about:
            about.append(finding.about)
    return "; ".join(wrong + _listed(about) for wrong, about in together.items())


def _listed(about: Sequence[str]) -> str:
    if not about:
        return ""
    more = f", and {len(about) - _SHOWN} more" if len(about) > _SHOWN else ""
    return f" (for {', '.join(about[:_SHOWN])}{more})"
