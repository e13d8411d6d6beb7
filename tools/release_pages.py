"""Write docs/releases/: a page a release, from the contract by age. Not part of the package.

python tools/release_pages.py           # write them
python tools/release_pages.py --check   # exit status 1 if they differ
"""

from __future__ import annotations

import sys
from pathlib import Path

from pytest_rocm_attn.conformance.promise import contract, release, upstream
from pytest_rocm_attn.conformance.promise.release import FIRST, Release
from pytest_rocm_attn.conformance.promise.rows import ExpectBackend, Row
from pytest_rocm_attn.gpu import known_gpus

FOLDER = Path(__file__).parents[1] / "docs" / "releases"
# Whose rows say what a user gets without naming a backend.
_FILES = (
    *("pr-26980/appendix.toml", "vllm/automatic.toml", "vllm/mla.toml", "vllm/environment.toml"),
    "vllm/server.toml",
)
_CODE = " (the code alone)"  # how the source of such a row ends
_INDEX = """# What each release promises

A page for each release of vLLM: which backend an AMD user gets for what, from which source; what is broken; and what changed
since the release before. The pages are made of the contract `vllm` (`tools/release_pages.py`); [Judging a fork by its upstream
release](../upstream.md) says how a run uses it.

"""


def pages() -> dict[str, str]:
    """Return name -> text of each page."""
    known = list(upstream.shapes())
    whole = contract.load("vllm")
    found = {}
    for before, one in zip([None, *known[:-1]], known, strict=True):
        found[f"{release.words(one)}.md"] = _page(whole, one, before)
    links = "".join(f"- [{name.removesuffix('.md')}]({name})\n" for name in reversed(found))
    return {"README.md": _INDEX + links, **found}


def _page(whole: contract.Contract, one: Release, before: Release | None) -> str:
    name = release.words(one)
    promised = whole.at(upstream.Upstream(one, ""))
    lines = [f"# vLLM {name} on AMD GPUs", "", "## What is selected", ""]
    lines += [
        "With nothing named. Unless a row says otherwise: AMD's aiter is installed, a decoder layer with heads of 128, bfloat16,",
        "blocks of 16, an unquantised cache.",
        "",
        "| what is set and asked | GPUs | backend | source |",
        "| --- | --- | --- | --- |",
    ]
    shown = [row for row in promised.rows if _is_shown(row)]
    if any(_file(row) == "vllm/automatic.toml" and row.since > FIRST for row in shown):
        shown = [row for row in shown if _file(row) != _FILES[0]]  # its rows say it again
    gpus: dict[tuple[str, str, str], list[str]] = {}
    for row in shown:
        key = _asked(row), str(row.expect), row.source
        gpus.setdefault(key, []).extend(gpu.gfx for gpu in row.gpus)
    alike: dict[tuple[str, str, str], tuple[list[str], dict[str, None]]] = {}
    for (asked, backend, source), targets in gpus.items():
        where = ", ".join(gfx for gfx in known_gpus() if gfx in targets)
        # What only the code says is not a promise: one line for all that gets the same there.
        apart = _CODE if source.endswith(_CODE) else source
        questions, sources = alike.setdefault((where, backend, apart), ([], {}))
        questions.append(asked)
        sources[source.removesuffix(_CODE)] = None
    lines += [
        f"| {'; or '.join(questions)} | {where} | {backend} |"
        f" {'; '.join(sources)}{_CODE if apart == _CODE else ''} |"
        for (where, backend, apart), (questions, sources) in alike.items()
    ]
    lines += ["", "## What is broken", ""]
    lines += [f"- {one.story}" for one in promised.defects] or ["Nothing that is known."]
    ended = [row for row in promised.ended if before is not None and row.until > before]
    required = [row for row in ended if row.level == "required"]
    if required:
        causes: dict[tuple[str, str], int] = {}
        for row in required:
            causes[row.by, row.why] = causes.get((row.by, row.why), 0) + 1
        lines += ["", f"## What changed since {release.words(before or one)}", ""]
        lines += [
            f"- {by}: {why + ' ' if why else ''}{count} earlier promise{'s' * (count > 1)} ended."
            for (by, why), count in causes.items()
        ]
    advice = [row for row in promised.rows if row.level == "advice"]
    if advice:
        lines += ["", "## What upstream has found to be better", ""]
        lines += [f"- {_asked(row)}: {row.expect}. Source: {row.source}." for row in advice]
    return "\n".join(lines) + "\n"


def _is_shown(row: Row) -> bool:
    named = row.named is not None and (row.named.backend is not None or row.named.per_kind)
    shown = _file(row) in _FILES and not named
    return shown and row.level != "advice" and isinstance(row.expect, ExpectBackend)


def _file(row: Row) -> str:
    return "/".join(Path(row.file).parts[-2:])


def _asked(row: Row) -> str:
    parts = [f"`{name}={text}`" for name, text in row.env.items()]
    if row.gpus[0].aiter.value != "present":
        parts.append(f"aiter {row.gpus[0].aiter.value}")
    if row.named is not None and str(row.named):
        parts.append(str(row.named))
    parts += [f"{name}={value}" for name, value in row.request.non_default().items()]
    return ", ".join(parts) or "a plain layer"


def main() -> int:
    """Write the pages, or compare them; return the exit status."""
    made = pages()
    if "--check" in sys.argv[1:]:
        there = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.md")}
        if there != made:
            print("docs/releases/ differs; run tools/release_pages.py")
        return int(there != made)
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.md"):
        path.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
