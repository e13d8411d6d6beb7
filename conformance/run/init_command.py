"""``rocm-attn init``: a fork's checkout set up, without losing anything that exists."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters import checkout, shape
from pytest_rocm_attn.conformance.promise import upstream
from pytest_rocm_attn.conformance.report import explained, json_file, progress, whole_file, words
from pytest_rocm_attn.errors import RocmAttnError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

SETTING = "rocm_attn_selector"
WORKFLOW = Path(".github/workflows/rocm-attn.yml")
DEVIATIONS = Path("rocm-attn-deviations.toml")
REQUIREMENTS = Path("rocm-attn-requirements.txt")
_MODEL = "vllm.platforms.rocm:RocmPlatform"  # the selector in the workflow that is copied
_MOST_CAUSES = 6


class InitError(RocmAttnError, ValueError):
    """A checkout cannot be set up; says why and what to do."""


@dataclass(frozen=True)
class File:
    """A file that the command is about.

    Attributes:
        path: relative to the checkout.
        content: what it will hold; None if it is left as it is.
        what: what is done to it, or why nothing is, in words.
    """

    path: Path
    content: str | None
    what: str


def run(arguments: argparse.Namespace, say: Callable[[str], None]) -> bool:
    """Set a checkout up; return whether the run that follows found nothing that fails.

    Args:
        arguments: of the command line.
        say: is given the lines to print, one at a time.

    Raises:
        InitError: there is no selector, or a file cannot be read or written.
    """
    folder: Path = arguments.folder
    if not folder.is_dir():
        raise InitError(f"{folder}: is not a folder; name a checkout of the fork")
    found = checkout.find(folder)
    spec = arguments.selector or (found.spec if found else None)
    if spec is None:
        raise InitError(
            f"{folder}: it contains no */{shape.PLATFORM} with a class that has {checkout.SELECTS}; name the"
            " selector with --selector MODULE:OBJECT or FILE.py:OBJECT"
        )
    root = found.root if found else checkout.root_of(folder, spec) or folder
    say(f"selector: {spec}{_place(folder, root, spec)}")
    if found is not None and spec == found.spec:
        package = shape.of_folder(found.package)
        based = upstream.found(package.features, package.version, upstream.shapes())
        say(f"release: {based} ({based.why})")
    written = "would write" if arguments.dry_run else "wrote"
    for file in planned(folder, spec):
        if file.content is not None and not arguments.dry_run:
            _write(folder / file.path, file.content)
        say(f"{written if file.content is not None else 'left'} {file.path}: {file.what}")
    if root != folder:
        say(f"note: the package lies in {root}; install it, or set pythonpath there for pytest")
    if arguments.dry_run or arguments.no_run:
        say(f"not run: python -m pytest --rocm-attn-conformance, in {folder}")
        return True
    return _judged(folder, root, spec, say)


def _place(folder: Path, root: Path, spec: str) -> str:
    place = checkout.place_of(root, spec)
    if place is None:
        return ""
    file, line = place
    return f" ({file.relative_to(folder)}, line {line})"


def planned(folder: Path, spec: str) -> Iterator[File]:
    """Yield the files of a set-up: what each will hold, or that it is left."""
    yield _settings(folder, spec)
    starters = {
        DEVIATIONS: "empty: declare in it what the fork changes on purpose",
        REQUIREMENTS: "what the workflow installs",
        WORKFLOW: "runs the matrix on every pull request, and says what that changes",
    }
    for path, what in starters.items():
        if (folder / path).exists():
            yield File(path, None, "it exists already")
        else:
            text = (files("pytest_rocm_attn.conformance.run") / "starter" / path.name).read_text()
            yield File(path, text.replace(_MODEL, spec), what)


# --- pytest's settings ----------------------------------------------------------------------------

# The files that pytest looks for, in its order: name, and the tables or sections that it reads.
_TABLES = ("tool.pytest.ini_options", "tool.pytest")
_PLACES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("pytest.toml", ("pytest",)),
    (".pytest.toml", ("pytest",)),
    ("pytest.ini", ("pytest",)),
    (".pytest.ini", ("pytest",)),
    ("pyproject.toml", _TABLES),
    ("tox.ini", ("pytest",)),
    ("setup.cfg", ("tool:pytest",)),
)
_ALWAYS = (
    "pytest.toml",
    ".pytest.toml",
    "pytest.ini",
    ".pytest.ini",
)  # read even if they are empty


def _settings(folder: Path, spec: str) -> File:
    """Return the file of pytest's settings with the selector in it: the one that pytest reads."""
    for name, tables in _PLACES:
        if not (folder / name).is_file():
            continue
        text = _read(folder / name)
        content = _parsed(name, text)
        table = next((one for one in tables if _table(content, one) is not None), None)
        if table is None and name not in _ALWAYS:
            continue
        values = _table(content, table) if table else None
        if values is not None and SETTING in values:
            return File(Path(name), None, f"it has {SETTING} = {values[SETTING]} already")
        return _with_setting(Path(name), text, table or tables[0], spec, new=table is None)
    if (folder / "pyproject.toml").is_file():
        text = _read(folder / "pyproject.toml")
        return _with_setting(Path("pyproject.toml"), text, _TABLES[0], spec, new=True)
    made = f"[pytest]\n{SETTING} = {spec}\n"
    return File(Path("pytest.ini"), made, f"names the selector: {SETTING} = {spec}")


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InitError(f"{path}: cannot be read ({error}); check it") from None


def _parsed(name: str, text: str) -> dict[str, Any]:
    """Return the content of a TOML or ini file.

    Raises:
        InitError: it is neither.
    """
    try:
        if name.endswith(".toml"):
            return tomllib.loads(text)
        parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
        parser.optionxform = str  # type: ignore[assignment,method-assign]  # as the documentation has it
        parser.read_string(text)
        return {section: dict(parser[section]) for section in parser.sections()}
    except (tomllib.TOMLDecodeError, configparser.Error) as error:
        why = str(error).replace("\n", " ")
        raise InitError(f"{name}: cannot be parsed ({why}); correct it first") from None


def _table(content: dict[str, Any], dotted: str) -> dict[str, Any] | None:
    found: Any = content
    for part in dotted.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def _with_setting(path: Path, text: str, table: str, spec: str, *, new: bool) -> File:
    """Return a file with the selector set in a table or section; all else stays as it is."""
    toml = path.suffix == ".toml"
    end = "\r\n" if "\r\n" in text else "\n"
    line = f"{SETTING} = {json.dumps(spec) if toml else spec}"
    header = r"\s*\.\s*".join(map(re.escape, table.split(".") if toml else [table]))
    place = re.search(rf"^[ \t]*\[\s*{header}\s*\][^\r\n]*(\r?\n|$)", text, re.MULTILINE)
    if new:
        gap = "" if not text else end if text.endswith("\n") else end * 2
        content = f"{text}{gap}[{table}]{end}{line}{end}"
    elif place is not None:
        head = text[: place.end()]
        content = f"{head}{'' if head.endswith(chr(10)) else end}{line}{end}{text[place.end() :]}"
    else:
        content = ""
    before = _parsed(path.name, text)
    wanted = _put(before, table.split(".") if toml else [table], spec)
    if not content or _parsed(path.name, content) != wanted:
        return File(path, None, f"its form is unusual; add to [{table}] by hand: {line}")
    return File(path, content, f"names the selector in [{table}]: {line}")


def _put(content: dict[str, Any], keys: list[str], spec: str) -> dict[str, Any]:
    """Return content with the selector set in one of its tables."""
    if not keys:
        return content | {SETTING: spec}
    first, *rest = keys
    return content | {first: _put(content.get(first, {}), rest, spec)}


def _write(path: Path, content: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole_file.write(path, content.encode())
    except OSError as error:
        raise InitError(f"{path}: cannot be written ({error.strerror}); check its folder") from None


# --- the first run --------------------------------------------------------------------------------


def _judged(folder: Path, root: Path, spec: str, say: Callable[[str], None]) -> bool:
    """Run the matrix once and say what it found; return whether nothing fails."""
    say("running the matrix once, which takes minutes for vLLM ...")
    path = os.pathsep.join(filter(None, [str(root.resolve()), os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryDirectory(prefix="rocm-attn-init-") as scratch:
        report = Path(scratch) / "report.json"
        run = subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "--rocm-attn-conformance"),
                *("-p", "no:cacheprovider", f"--rocm-attn-selector={spec}"),
                f"--rocm-attn-report={report}",
            ],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert run.stdout is not None
        lines = []
        with run:
            for line in filter(None, map(str.strip, run.stdout)):
                lines.append(line)
                if line.startswith(progress.MARK):  # its head, and how far it is
                    say(line)
        if not report.exists():
            say(f"it did not run: {' / '.join(lines[-3:])}")
            return False
        found = json_file.load(report)
    say(words.headline(found))
    causes = explained.of(found)
    for cause in causes[:_MOST_CAUSES]:
        say(f"  {cause['verdict']}: {cause['what']} [{words.count_words(cause)}]")
    if len(causes) > _MOST_CAUSES:
        say(
            f"  and {len(causes) - _MOST_CAUSES} more causes: python -m pytest --rocm-attn-conformance"
        )
    if not words.is_good(found):
        say(
            "next: correct what is a defect; for what is meant, write the entries with"
            f" --rocm-attn-deviations-draft={DEVIATIONS}, and give reasons and links"
        )
    return words.is_good(found)
