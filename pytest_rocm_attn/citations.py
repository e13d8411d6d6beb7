"""Citations: how sources write them, and the address that opens one.

- A fact of this project's reference: ``docs/reference/contract.md#a10, #g2``, a page and anchors of it.
- A file of vLLM: its path and, in the same part of the text, its tag: ``envs.py, the comments (v0.33.0)``.
  A path that does not start with a folder of the repository is one below ``vllm/``. A tag without a
  patch is the first one of that release.
- A pull request or an issue: ``vLLM PR #36702``, ``issue #46596``, ``ROCm/aiter#4329``; without a
  repository it is vLLM's.

Whoever reads a message or a report has neither repository at hand, so there ``linked`` makes addresses
of them. tests/docs/test_citations.py resolves every citation.
"""

from __future__ import annotations

import re

SITE = "https://pytest-rocm-attn.readthedocs.io/en/latest/"
VLLM = "https://github.com/vllm-project/vllm/"
_PAGE = re.compile(r"(?<![\w/.])docs/((?:[\w-]+/)*[\w-]+)\.md(?![\w/])")
_FILE = re.compile(r"https:\S+|(?<![\w/.:])(?:[\w.-]+/)*[\w-]+\.(?:py|md|cu|json|yaml)\b")
_TAG = re.compile(r"\((?:v[\d.]+ to )?v(\d+\.\d+)(\.\d+)?\)")
_TOP = ("docs/", "tests/", "csrc/", "recipes/", "examples/", "benchmarks/", "docker/", "vllm/")
_NUMBERS = re.compile(r"(?:vLLM )?\b(PR|issue)s? (#\d+(?:(?:, | and )#\d+)*)")
_ELSEWHERE = re.compile(r"(?<![\w/.])([A-Za-z][\w-]+/[\w.-]+)#(\d+)\b")


def linked(text: str) -> str:
    """Return a text in which every citation is an address that can be opened."""
    if "#" not in text and ".md" not in text and "(v" not in text:
        return text
    text = ";".join(_of_vllm(part) for part in text.split(";"))
    text = _ELSEWHERE.sub(r"https://github.com/\1/issues/\2", text)
    return pages_linked(_NUMBERS.sub(_numbers, text))


def pages_linked(text: str) -> str:
    """Return a text, perhaps another program's, in which every cited page of this project is an address."""
    return _PAGE.sub(rf"{SITE}\1/", text) if "docs/" in text else text


def is_upstream(part: str) -> bool:
    """Whether the files that a part of a source names, between semicolons, are vLLM's."""
    return _TAG.search(part) is not None


def _of_vllm(part: str) -> str:
    tag = _TAG.search(part)
    if tag is None:
        return part

    def address(file: re.Match[str]) -> str:
        if file[0].startswith("https:"):
            return file[0]
        path = file[0] if file[0].startswith(_TOP) else f"vllm/{file[0]}"
        return f"{VLLM}blob/v{tag[1]}{tag[2] or '.0'}/{path}"

    return _FILE.sub(address, part)


def _numbers(cited: re.Match[str]) -> str:
    kind = "pull" if cited[1] == "PR" else "issues"
    return re.sub(r"#(\d+)", rf"{VLLM}{kind}/\1", cited[2])
