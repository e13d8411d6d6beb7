"""The table of the plugin's options: every text about an option comes from here.

pytest's parser, the check of every value, the command that a shortfall prints, and the settings in
the JSON report. Imported whenever pytest starts, so it imports nothing but pytest.
PYTEST_DONT_REWRITE: see plugin.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import pytest

GROUP = "ROCm attention backends"


class Option(NamedTuple):
    """One option: ``--rocm-attn-NAME``, with the ini setting ``rocm_attn_NAME`` as its twin.

    Attributes:
        name: the words after ``--rocm-attn-``.
        metavar: what stands for its value in ``--help``; "" for a switch, which takes none.
        help: what it does; lists the values if there are few.
        expected: completes "... is invalid; expected".
        parse: returns the value that a text means, or raises ValueError; the message prints the
            words of that error, if it has any, after "expected".
        default: the value if the option is not given.
        again: how the command printed under a shortfall treats it. "repeated": the verdict can
            depend on it, so the command repeats it. "item": each item gives the value that is right
            for itself. "left out": no verdict depends on it.
        reported: whether the JSON report lists its value.
        listed: whether ``--help`` lists the command-line spelling. The options of one tier are
            listed as ini settings only.
        several: may be given more than once; the ini twin has one value in each line.
    """

    name: str
    metavar: str
    help: str
    expected: str
    parse: Callable[[str], Any]
    again: Literal["repeated", "item", "left out"]
    default: Any = None
    reported: bool = True
    listed: bool = True
    several: bool = False

    @property
    def flag(self) -> str:
        """Its spelling on the command line."""
        return f"--rocm-attn-{self.name}"

    @property
    def ini(self) -> str:
        """The name of its ini setting, under which argparse also keeps the value."""
        return f"rocm_attn_{self.name.replace('-', '_')}"

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value on the command line."""
        return not self.metavar


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError
    return text.strip()


def _selector(text: str) -> str:
    if not all(text.strip().rpartition(":")[::2]):
        raise ValueError
    return text.strip()


def _backends(text: str) -> str:
    from pytest_rocm_attn.conformance.tiers.numerics import subjects

    if not subjects.parse(text):
        raise ValueError
    return text


def _upstream(text: str) -> str:
    from pytest_rocm_attn.conformance.promise import release

    text = text.strip()
    if text != "auto":
        release.parse(text)
    return text


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError
        return text

    return parse


def _tiers(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
    for name in names or ("",):
        if name not in TIERS:
            from pytest_rocm_attn.errors import nearest

            raise ValueError(f"{name!r} is not a tier.{nearest(name, TIERS)}")
    return names


def _gpus(text: str) -> tuple[str, ...]:
    from pytest_rocm_attn.gpu import Gpu

    names = tuple(dict.fromkeys(Gpu(n.strip()).gfx for n in text.split(",") if n.strip()))
    if not names:
        raise ValueError
    return names


def _whole_number(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < least:
            raise ValueError
        return int(text)

    return parse


def seconds(text: str) -> float:
    """Return a time limit. Raises ValueError unless it is a positive, finite number of seconds."""
    try:
        number = float(text)
    except ValueError:
        raise ValueError from None  # without its words, which do not say what is expected
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def _json_object(text: str) -> dict[str, Any]:
    import json

    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError  # noqa: TRY004  the caller reports a text, not a type
    return data


def _mock(text: str) -> str:
    from pytest_rocm_attn.mock import parse_option

    _text(text)
    parse_option(text)
    return text


def _truth(text: str) -> bool:
    # What pytest takes for a truth value in an ini file.
    known = dict.fromkeys(("1", "true", "yes", "on"), True)
    known |= dict.fromkeys(("0", "false", "no", "off"), False)
    if text.strip().lower() not in known:
        raise ValueError
    return known[text.strip().lower()]


# The tiers, the default one first. conformance/tiers/__init__.py says where each is.
TIERS = (
    *("documented", "invariants", "grid", "numerics", "launch", "capabilities", "server"),
    "upstream",
)
_SECONDS = "a positive number of seconds"
_OBJECT = "MODULE:OBJECT or FILE.py:OBJECT"
_TRUTH = "true or false"

OPTIONS = (
    Option(
        "selector",
        "MODULE:OBJECT",
        "selector under test, such as vllm.platforms.rocm:RocmPlatform or mine.py:select (default:"
        " the embedded reference selector)",
        _OBJECT,
        _selector,
        "repeated",
        reported=False,  # the report has it with its version
    ),
    Option(
        "backends",
        "[NAME=]MODULE:OBJECT,...",
        "backends under test in the tiers numerics and launch (default: the reference backends)",
        "a comma-separated list of [NAME=]MODULE:OBJECT or [NAME=]FILE.py:OBJECT",
        _backends,
        "repeated",
    ),
    Option(
        "contract",
        "ID|FILE",
        "contract to judge by: a shipped id, a TOML file or a folder (default: vllm, what the upstream"
        " release promises)",
        "a shipped id, a TOML file or a folder",
        _text,
        "repeated",
        default="vllm",
        reported=False,  # the report has it with its title
    ),
    Option(
        "upstream",
        "RELEASE",
        "vLLM release whose promises the selector is judged by, such as 0.33.0 (default: auto, by the"
        " shape of its package, then its version)",
        "auto, or a release such as 0.33.0",
        _upstream,
        "repeated",
        default="auto",
    ),
    Option(
        "deviations",
        "FILE",
        "the fork's deviations (default: rocm-attn-deviations.toml, if there; empty: none)",
        "a TOML file, or nothing",
        str,
        "repeated",
    ),
    Option(
        "deviations-draft",
        "FILE",
        "write a deviations file to fill in, for what fails in this run",
        "a file to write",
        _text,
        "left out",
        reported=False,
    ),
    Option(
        "tier",
        "TIER,...",
        f"tiers to run: {', '.join(TIERS)} (default: documented, and on vLLM or a fork of it upstream)",
        "a comma-separated list of " + ", ".join(TIERS),
        _tiers,
        "item",
        default=TIERS[:1],
    ),
    Option(
        "gpu",
        "GPU,...",
        "GPUs to run: gfx906, gfx908, gfx90a, gfx942, gfx950, gfx1030, gfx1100, gfx1101, gfx1102,"
        " gfx1103, gfx1150, gfx1151, gfx1152, gfx1153, gfx1200, gfx1201, gfx1250, or a product such as MI300X (default: all that the"
        " tier has items for)",
        "a comma-separated list of gfx targets or products",
        _gpus,
        "repeated",
        default=(),
    ),
    Option(
        "timeout",
        "SECONDS",
        "time that one selection may take (default: 30)",
        _SECONDS,
        seconds,
        "repeated",
        default=30.0,
    ),
    Option(
        "baseline",
        "ID|FILE",
        "recording that the grid is compared with, such as vllm-0.18.1",
        "a shipped recording or a file",
        _text,
        "repeated",
    ),
    Option(
        "against",
        "MODULE:OBJECT",
        "selector that the grid is compared with (default: the reference)",
        _OBJECT,
        _selector,
        "repeated",
        listed=False,
    ),
    Option(
        "servers",
        "FILE",
        "server: descriptions of servers that tier server starts besides the shipped ones",
        "a TOML file of servers",
        _text,
        "repeated",
        listed=False,
    ),
    Option(
        "isolation",
        "fork|process",
        "how workers start: fork (default, if the system has it) or process",
        "fork or process",
        _one_of("fork", "process"),
        "repeated",
    ),
    Option(
        "mock",
        "GPU[,aiter]",
        "mock a ROCm platform for the whole run, before conftest files load: a GPU, then any of"
        " aiter, aiter=STATE, amdsmi=STATE, count=N",
        "a GPU, then any of aiter, aiter=STATE, amdsmi=STATE, count=N, separated by commas",
        _mock,
        "repeated",
    ),
    Option(
        "emulate",
        "GPU[,aiter]",
        "as --rocm-attn-mock, and execute what Triton compiles for that GPU, on CPU tensors",
        "a GPU, then any of aiter, aiter=STATE, amdsmi=STATE, count=N, separated by commas",
        _mock,
        "repeated",
    ),
    Option(
        "strict",
        "",
        "advisory rows fail as required ones do",
        _TRUTH,
        _truth,
        "repeated",
        default=False,
    ),
    Option(
        "report",
        "FILE",
        "write a report, of the matrix or else of the hardware tests: .json, .html or .md by its"
        " suffix; may be given several times",
        "a file ending in .json, .html or .md",
        _text,
        "left out",
        default=(),
        reported=False,
        several=True,
    ),
    Option(
        "seed",
        "N",
        "invariants and drawn cases: chooses the examples (default: 0, the same in every run)",
        "a whole number, 0 or more",
        _whole_number(0),
        "repeated",
        default=0,
        listed=False,
    ),
    Option(
        "examples",
        "N",
        "invariants and drawn cases: how many one search tries (default: 200)",
        "a whole number, 1 or more",
        _whole_number(1),
        "repeated",
        default=200,
        listed=False,
    ),
    Option(
        "budget",
        "SECONDS",
        "invariants and drawn cases: time after which one search stops, unfinished, which is an"
        " error (default: no limit)",
        _SECONDS,
        seconds,
        "repeated",
        listed=False,
    ),
    Option(
        "example",
        "JSON",
        "invariants and drawn cases: try this one example, as a report gives it, and no other",
        "a JSON object, as the command under a shortfall gives it",
        _json_object,
        "item",
        listed=False,
    ),
    Option(
        "grid-budget",
        "SECONDS",
        "time that the grid may take (default: 1200)",
        _SECONDS,
        seconds,
        "repeated",
        default=1200.0,
        listed=False,
    ),
    Option(
        "compile-timeout",
        "SECONDS",
        "time that one compilation of a dry launch may take in this process (default: no limit)",
        _SECONDS,
        seconds,
        "repeated",
        listed=False,
    ),
    Option(
        "cell",
        "N",
        "grid: ask one cell of the named slice, by its number",
        "the number of a cell, as the command under a condition gives it",
        _whole_number(0),
        "item",
        listed=False,
    ),
    Option(
        "fresh",
        "",
        "grid: ask again what an interrupted run has answered",
        _TRUTH,
        _truth,
        "repeated",
        default=False,
        listed=False,
    ),
)
BY_NAME = {option.name: option for option in OPTIONS}


def add(parser: pytest.Parser) -> None:
    """Declare every option to pytest, and its ini twin."""
    import argparse

    hidden = ", ".join(option.ini for option in OPTIONS if not option.listed)
    group = parser.getgroup("rocm-attn", GROUP)
    group.addoption(
        "--rocm-attn-conformance",
        action="store_true",
        help="run the conformance matrix; without a path, nothing but the matrix. Each option below"
        f" has an ini setting, below; the settings of one tier are listed there only: {hidden}",
    )
    for option in OPTIONS:
        text = option.help if option.listed else argparse.SUPPRESS
        if option.is_switch:
            group.addoption(option.flag, action="store_const", const=True, help=text)
        else:
            action = "append" if option.several else "store"
            group.addoption(option.flag, action=action, metavar=option.metavar, help=text)
        kind: Any = "linelist" if option.several else "bool" if option.is_switch else None
        text = f"as {option.flag}" if option.listed else option.help
        parser.addini(option.ini, text, type=kind, default=None)


def value(config: pytest.Config, name: str) -> Any:
    """Return what an option means: given on the command line, else as an ini setting, else its default.

    Raises:
        pytest.UsageError: its text means nothing; one line that says what is expected.
    """
    option = BY_NAME[name]
    given = config.getoption(option.ini)
    spelled = option.flag
    if given is None:
        spelled = option.ini
        try:
            given = config.getini(option.ini)
        # What pytest raises about a type depends on its version.
        except (TypeError, ValueError, pytest.UsageError) as error:
            raise pytest.UsageError(
                f"{spelled} is invalid; expected {option.expected}: {error}"
            ) from None
    return _meaning(option, given, spelled)


def is_given(config: pytest.Config, name: str) -> bool:
    """Say whether an option is given, on the command line or as an ini setting."""
    option = BY_NAME[name]
    return config.getoption(option.ini) is not None or bool(config.getini(option.ini))


def early_value(early_config: pytest.Config, name: str) -> Any:
    """Return what value() does, before pytest has parsed the command line as a whole."""
    option = BY_NAME[name]
    given = getattr(early_config.known_args_namespace, option.ini)
    if given is not None:
        return _meaning(option, given, option.flag)
    return _meaning(option, early_config.getini(option.ini), option.ini)


def _meaning(option: Option, given: Any, spelled: str) -> Any:
    # An ini setting without a value is not set; on the command line, an empty value is a value.
    if given is None or (given in ("", []) and spelled == option.ini and option.parse is not str):
        return option.default
    if isinstance(given, bool):
        return given
    texts = given if option.several else [given]
    found = []
    for text in texts:
        try:
            found.append(option.parse(text))
        except ValueError as error:
            more = f": {error}" if str(error) else ""
            raise pytest.UsageError(
                f"{spelled}={text!r} is invalid; expected {option.expected}{more}"
            ) from None
    return tuple(found) if option.several else found[0]


def check(config: pytest.Config) -> None:
    """Check the value of every option.

    Raises:
        pytest.UsageError: one of them is invalid; see value().
    """
    for option in OPTIONS:
        value(config, option.name)


def reported(config: pytest.Config) -> dict[str, Any]:
    """Return the values of the options that the JSON report lists, by name."""
    return {option.name: value(config, option.name) for option in OPTIONS if option.reported}


def words(values: Mapping[str, Any]) -> list[str]:
    """Return options as they are given on a command line.

    Args:
        values: option's name -> its text; True for a switch that is on. None and False: not given.
    """
    return [
        option.flag if values[option.name] is True else f"{option.flag}={values[option.name]}"
        for option in OPTIONS
        if values.get(option.name) not in (None, False)
    ]


def repeated(config: pytest.Config) -> dict[str, Any]:
    """Return those options of the command line that a printed command must repeat.

    Ini settings are left out: the repeated command reads the same file.
    """
    given = {option.name: config.getoption(option.ini) for option in OPTIONS}
    return {
        name: text
        for name, text in given.items()
        if text is not None and BY_NAME[name].again == "repeated"
    }


def pytest_words(config: pytest.Config, *, paths: bool) -> list[str]:
    """Return pytest's own options that decide which settings, conftest files and plugins a run has.

    Args:
        paths: the command line names files or folders. pytest looks for its ini file and its root
            near them, so that a command without them has to say which they were.
    """
    folder = config.invocation_params.dir
    found = []
    if given := config.getoption("inifilename"):
        found += ["-c", str(given)]
    elif paths and config.inipath is not None:
        found += ["-c", os.path.relpath(config.inipath, folder)]
    if given := config.getoption("rootdir"):
        found.append(f"--rootdir={given}")
    elif paths:
        found.append(f"--rootdir={os.path.relpath(config.rootpath, folder)}")
    if given := config.getoption("confcutdir"):
        found.append(f"--confcutdir={given}")
    if config.getoption("noconftest"):
        found.append("--noconftest")
    if (mode := config.getoption("importmode")) != "prepend":
        found.append(f"--import-mode={mode}")
    arguments = list(config.invocation_params.args)
    for number, word in enumerate(arguments):
        if word == "-p" and number + 1 < len(arguments):
            found += ["-p", arguments[number + 1]]
        elif word.startswith("-p") and len(word) > 2:
            found.append(word)
    ours = {option.ini: option.again for option in OPTIONS}
    for override in config.getoption("override_ini") or ():
        if ours.get(override.partition("=")[0].strip(), "repeated") == "repeated":
            found += ["-o", override]
    return found
