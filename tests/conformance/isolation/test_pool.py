"""Isolation: what a selector does in its process, and what becomes of the questions after it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import Crashed, Died, Gpu, Rejected, Request, Selected, TimedOut, Unrecognised
from pytest_rocm_attn.conformance.isolation import Interview, Pool, Question, Subject, WorkerError
from pytest_rocm_attn.conformance.isolation.launcher import Launcher
from pytest_rocm_attn.conformance.isolation.platforms import Platforms
from pytest_rocm_attn.conformance.isolation.processes import Process, SpawnedProcess
from pytest_rocm_attn.conformance.isolation.scheduler import Scheduler
from pytest_rocm_attn.errors import SelectorError
from pytest_rocm_attn.outcome import Told

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.conformance.isolation import Observation

    MakePool = Callable[..., Pool]

GFX942 = Gpu("gfx942")
ENV = "VLLM_ATTENTION_BACKEND"


class Ask:
    """Runs a selector's source on some environments, and returns what came of each."""

    def __init__(self, make_pool: MakePool, *, fork: bool) -> None:
        self._make_pool = make_pool
        self._fork = fork

    def __call__(
        self, source: str, *environs: dict[str, str], timeout: float = 20.0
    ) -> list[Observation]:
        pool = self._make_pool(source, timeout=timeout, fork=self._fork)
        questions = [Question.of(GFX942, environ, Request()) for environ in environs]
        return [future.result(timeout=120) for future in pool.submit(questions)]


@pytest.fixture(params=[True, False], ids=["forked", "own process"])
def ask(request: pytest.FixtureRequest, make_pool: MakePool) -> Ask:
    """A function that runs a selector's source on some environments and returns what came."""
    return Ask(make_pool, fork=request.param)


def test_a_crash_a_death_and_a_hang_are_outcomes_of_their_own_question_only(ask: Ask) -> None:
    outcomes = ask(
        """
        import os, time
        def select(environ):
            match environ["VLLM_ATTENTION_BACKEND"]:
                case "import": import no_such_module
                case "exit": raise SystemExit(3)
                case "die": os.kill(os.getpid(), 9)
                case "leave": os._exit(5)
                case "hang": time.sleep(600)
                case "refuse": raise ValueError("no: TRITON_MLA")
                case "recurse": return select(environ)
            return environ["VLLM_ATTENTION_BACKEND"]
        """,
        *(
            {ENV: what}
            for what in (
                "TRITON_ATTN", "import", "exit", "die", "leave", "hang", "refuse", "recurse",
                "ROCM_ATTN",
            )
        ),
        timeout=3.0,
    )  # fmt: skip
    kinds = [observation.outcome for observation in outcomes]
    assert kinds[0] == Selected("TRITON_ATTN")
    assert isinstance(kinds[1], Crashed)
    assert kinds[1].error == "ModuleNotFoundError"
    assert isinstance(kinds[2], Crashed)
    assert kinds[2].error == "SystemExit"
    assert kinds[3] == Died(9)
    assert kinds[4] == Died(None, 5)
    assert kinds[5] == TimedOut(3.0)
    assert kinds[6] == Rejected("ValueError", "no: TRITON_MLA")
    assert isinstance(kinds[7], Crashed)
    assert kinds[8] == Selected("ROCM_ATTN")


def test_an_environment_read_at_import_holds_before_the_import(ask: Ask) -> None:
    outcomes = ask(
        """
        import os
        FROZEN = os.environ.get("VLLM_ATTENTION_BACKEND", "TRITON_ATTN")
        def select(request):
            return FROZEN
        """,
        {},
        {ENV: "ROCM_ATTN"},
        {ENV: "FLEX_ATTENTION"},
        {"VLLM_ROCM_USE_AITER": "1"},
    )
    assert [observation.outcome for observation in outcomes] == [
        Selected("TRITON_ATTN"),
        Selected("ROCM_ATTN"),
        Selected("FLEX_ATTENTION"),
        Selected("TRITON_ATTN"),
    ]


def test_what_a_selector_writes_to_the_environment_is_reported_and_undone(ask: Ask) -> None:
    first, second = ask(
        """
        import os
        def select(environ):
            seen = os.environ.get("LEFT_BEHIND")
            os.environ["LEFT_BEHIND"] = "1"
            return "ROCM_ATTN" if seen else "TRITON_ATTN"
        """,
        {},
        {"VLLM_ROCM_USE_AITER": "1"},
    )
    assert first.written == second.written == ("LEFT_BEHIND",)
    assert first.outcome == second.outcome == Selected("TRITON_ATTN")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("'TRITON_ATTN'", Selected("TRITON_ATTN")),
        (
            "'vllm.v1.attention.backends.triton_attn.TritonAttentionBackend'",
            Selected("TRITON_ATTN"),
        ),
        ("enum.Enum('E', 'ROCM_ATTN').ROCM_ATTN", Selected("ROCM_ATTN")),
        ("None", Unrecognised("None")),
        ("''", Unrecognised("''")),
        ("'vllm.nope.Backend'", Unrecognised("'vllm.nope.Backend'")),
        ("42", Unrecognised("42")),
    ],
)
def test_answers_of_every_kind_are_recognised_or_said_to_be_none(
    make_pool: MakePool, answer: str, outcome: object
) -> None:
    pool = make_pool(f"import enum\ndef select(request):\n    return {answer}\n", pure=True)
    (future,) = pool.submit([Question.of(GFX942, {}, Request())])
    assert future.result(timeout=60).outcome == outcome


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        (
            "no_such_module_here:select",
            "No module named 'no_such_module_here'; install no_such_module_here, or run",
        ),
        ("json:no_such_name", "json has no 'no_such_name'"),
        ("json", "not of the form module:object"),
        ("json:dumps", "not a selector"),
        ("math:pi", "not a selector"),
        ("nowhere.py:select", "does not exist"),
    ],
)
def test_what_is_no_selector_is_said_in_one_line(selector: str, words: str) -> None:
    pool = Pool(Subject(selector, preload=()), lanes=1)
    try:
        with pytest.raises(SelectorError) as caught:
            pool.probe([Question.of(Gpu("gfx942"), {}, Request())])
    finally:
        pool.close()
    assert words in str(caught.value)
    assert "SelectorError" not in str(caught.value)
    assert "\n" not in str(caught.value)


UNRULY = """
import os, sys, time
def select(environ):
    what = environ["VLLM_ATTENTION_BACKEND"]
    match what:
        case "fork and return": os.fork()
        case "fork and raise":
            if os.fork() == 0: raise ValueError("this is the child")
        case "fork and exit":
            if os.fork() == 0: sys.exit(4)
        case "fork and loop":
            if os.fork() == 0: time.sleep(600)
        case "fork, then die":
            if os.fork() == 0: time.sleep(600)
            os.kill(os.getpid(), 9)
        case "fork, then hang":
            os.fork()
            time.sleep(600)
        case "print":
            for stream in (sys.stdout, sys.stderr):
                stream.write("x" * 79 + "\\n")
                stream.write("y" * 1_000_000)
                stream.flush()
            os.write(1, b'{"done": true}\\n')
        case "close the streams":
            for descriptor in (0, 1, 2): os.close(descriptor)
        case "ask": input("which backend? ")
        case "read": assert sys.stdin.read() == ""
        case "read bytes": assert os.read(0, 10) == b""
        case "slow": time.sleep(float(environ["SECONDS"]))
        case _: return what
    return "TRITON_ATTN"
"""


@pytest.mark.parametrize(
    "fork",
    [
        pytest.param(True, id="forked"),
        pytest.param(False, id="own process", marks=pytest.mark.slow),
    ],
)
def test_an_unruly_selector_answers_for_itself_only_and_leaves_no_process(
    make_pool: MakePool, processes_left: Callable[[], list[str]], *, fork: bool
) -> None:
    expected = {
        "ROCM_ATTN": Selected("ROCM_ATTN"),
        "fork and return": Selected("TRITON_ATTN"),
        "fork and raise": Selected("TRITON_ATTN"),
        "fork and exit": Selected("TRITON_ATTN"),
        "fork and loop": Selected("TRITON_ATTN"),
        "fork, then die": Died(9),
        "fork, then hang": TimedOut(3.0),
        "print": Selected("TRITON_ATTN"),
        "ask": "EOFError",
        "read": Selected("TRITON_ATTN"),
        "read bytes": Selected("TRITON_ATTN"),
        "close the streams": Selected("TRITON_ATTN"),
        "FLEX_ATTENTION": Selected("FLEX_ATTENTION"),
    }
    pool = make_pool(UNRULY, timeout=3.0, fork=fork)
    questions = [Question.of(GFX942, {ENV: what}, Request()) for what in expected]
    came = [future.result(timeout=120).outcome for future in pool.submit(questions)]
    assert [out.error if isinstance(out, Crashed) else out for out in came] == [*expected.values()]
    pool.close()
    assert not processes_left()


def test_a_selector_that_forks_when_it_is_imported_is_asked_once(ask: Ask) -> None:
    outcomes = ask(
        """
        import os, time
        if os.fork() == 0 and os.environ.get("VLLM_ATTENTION_BACKEND"):
            time.sleep(600)
        def select(environ):
            return environ.get("VLLM_ATTENTION_BACKEND", "TRITON_ATTN")
        """,
        {},
        {ENV: "ROCM_ATTN"},
        {ENV: "FLEX_ATTENTION"},
    )
    assert [seen.outcome for seen in outcomes] == [
        Selected("TRITON_ATTN"),
        Selected("ROCM_ATTN"),
        Selected("FLEX_ATTENTION"),
    ]


@pytest.mark.parametrize("seconds", [0.2, pytest.param(1.0, marks=pytest.mark.slow)])
def test_a_slow_selector_is_waited_for_within_the_limit_of_each_answer(
    ask: Ask, seconds: float
) -> None:
    environs = [{ENV: "slow", "SECONDS": str(seconds), "N": str(n)} for n in range(6)]
    for observation in ask(UNRULY, *environs, timeout=seconds * 5):
        assert observation.outcome == Selected("TRITON_ATTN")
        assert observation.seconds >= seconds


@pytest.mark.parametrize("fork", [True, False], ids=["forked", "own process"])
def test_a_pool_that_closes_asks_nothing_more(
    tmp_path: Path, make_pool: MakePool, *, fork: bool
) -> None:
    pool = make_pool(
        """
        import pathlib, time
        def select(environ):
            pathlib.Path(__file__).with_name("asked-" + environ["N"]).touch()
            time.sleep(600)
        """,
        timeout=300.0,
        fork=fork,
    )
    pool.submit([Question.of(GFX942, {"N": str(n)}, Request()) for n in range(3)])
    deadline = time.monotonic() + 60
    while not (tmp_path / "asked-0").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    closing = threading.Thread(target=pool.close, daemon=True)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()
    assert [path.name for path in tmp_path.glob("asked-*")] == ["asked-0"]


def test_an_exception_that_has_no_text_is_an_outcome_all_the_same(ask: Ask) -> None:
    outcomes = ask(
        """
        class Refused(ValueError):
            def __str__(self): raise KeyError("text")
        class Broken(KeyError):
            def __str__(self): raise SystemExit(1)
        def select(environ):
            raise {"refuse": Refused, "break": Broken}[environ["VLLM_ATTENTION_BACKEND"]]
        """,
        {ENV: "refuse"},
        {ENV: "break"},
    )
    refused, broken = (observation.outcome for observation in outcomes)
    assert refused == Rejected("Refused", "(no message: its __str__ raised KeyError)")
    assert isinstance(broken, Crashed)
    assert broken.error == "Broken"


def test_what_a_selector_writes_to_our_streams_is_its_own_crash(ask: Ask) -> None:
    outcomes = ask(
        """
        import contextlib, os
        def select(environ):
            text = environ["VLLM_ATTENTION_BACKEND"]
            for descriptor in range(3, 64) if text.startswith(("{", "no")) else ():
                with contextlib.suppress(OSError):
                    os.write(descriptor, text.encode() + b"\\n")
            return "TRITON_ATTN"
        """,
        *({ENV: what} for what in ("A", "no message", "{}", '{"done": true}', "B")),
    )
    kinds = [getattr(seen.outcome, "error", seen.outcome) for seen in outcomes]
    answer = Selected("TRITON_ATTN")
    assert kinds == [answer, *["UnreadableError"] * 3, answer]


def test_a_process_that_ends_after_its_last_answer_is_not_held_against_the_next_question(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool(
        """
        import os, pathlib, threading
        def leave():
            os._exit(7)
        def select(environ):
            here = pathlib.Path(__file__)
            if environ["VLLM_ATTENTION_BACKEND"] == "leaves":
                here.with_name("pid").write_text(str(os.getpid()))
                threading.Timer(0.5, leave).start()
            return "TRITON_ATTN"
        """,
        fork=False,
    )
    (first,) = pool.submit([Question.of(GFX942, {ENV: "leaves"}, Request())])
    assert first.result(timeout=60).outcome == Selected("TRITON_ATTN")
    stat = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    deadline = time.monotonic() + 60
    while " Z " not in stat.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    (second,) = pool.submit([Question.of(GFX942, {ENV: "ROCM_ATTN"}, Request())])
    assert second.result(timeout=60).outcome == Selected("TRITON_ATTN")


FAULTS = [KeyError("x"), MemoryError(), SystemExit(3)]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_fault_of_ours_is_raised_where_an_answer_is_waited_for_and_leaves_no_process(
    make_pool: MakePool,
    monkeypatch: pytest.MonkeyPatch,
    processes_left: Callable[[], list[str]],
    fault: BaseException,
) -> None:
    def fails(*_: object) -> None:
        raise fault

    pool = make_pool("import time\ndef select(request): time.sleep(600)", timeout=300.0)
    monkeypatch.setattr(Process, "receive", fails)
    (future,) = pool.submit([Question.of(GFX942, {}, Request())])
    with pytest.raises(WorkerError, match=type(fault).__name__):
        future.result(timeout=60)
    monkeypatch.undo()
    pool.close()
    assert not processes_left()


@pytest.mark.parametrize(
    ("of", "step"),
    [(Interview, "close"), (Scheduler, "join"), (Platforms, "close"), (Launcher, "close")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_close_finishes_what_it_began_and_then_reports_what_went_wrong(
    make_pool: MakePool,
    monkeypatch: pytest.MonkeyPatch,
    processes_left: Callable[[], list[str]],
    of: type,
    step: str,
) -> None:
    pool = make_pool("def select(request): return 'TRITON_ATTN'")
    assert isinstance(pool.interview(GFX942, {}), Interview)
    with monkeypatch.context() as patched, pytest.raises(KeyError, match="the fault"):
        done = getattr(of, step)

        def fails(*arguments: object) -> None:
            done(*arguments)
            raise KeyError("the fault")

        patched.setattr(of, step, fails)
        pool.close()
    assert not processes_left()
    with pytest.raises(WorkerError, match="were ended"):
        pool.submit([Question.of(GFX942, {}, Request())])[0].result(timeout=60)


def test_a_pool_is_closed_also_where_a_platform_has_gone(
    make_pool: MakePool, processes_left: Callable[[], list[str]]
) -> None:
    pool = make_pool("def select(request): return 'TRITON_ATTN'")
    interview = pool.interview(GFX942, {})
    assert isinstance(interview, Interview)
    os.kill(interview._platform.process.pid, signal.SIGKILL)
    pool.close()
    assert interview.over
    assert not processes_left()


def test_a_reader_that_fails_raises_its_fault_where_a_message_is_waited_for() -> None:
    class Failing(io.BytesIO):
        def __next__(self) -> bytes:
            raise MemoryError

    popen = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    popen.stdout, popen.stdin = Failing(), io.BytesIO()
    process = SpawnedProcess(popen)
    with pytest.raises(WorkerError, match="MemoryError"):
        process.receive(60.0)
    process.end(kill=True)


def test_a_bug_of_ours_in_a_worker_process_is_not_held_against_the_selector(
    make_pool: MakePool,
) -> None:
    # A request that no worker can read stands for any bug there.
    pool = make_pool("def select(request): return 'TRITON_ATTN'")
    broken = Question.of(GFX942, {}, Request(), kind="no such kind")
    (future,) = pool.submit([broken])
    with pytest.raises(WorkerError, match="a bug in pytest-rocm-attn.*KeyError"):
        future.result(timeout=60)
    (future,) = pool.submit([Question.of(GFX942, {}, Request())])
    assert future.result(timeout=60).outcome == Selected("TRITON_ATTN")


@pytest.mark.parametrize(("kind", "prepared"), [("select", True), ("platform", False)])
def test_a_platform_that_is_not_asked_about_backends_is_not_prepared_for_them(
    make_pool: MakePool, tmp_path: Path, kind: str, prepared: bool
) -> None:
    noted = tmp_path / "noted"
    pool = make_pool(
        f"""
        import pathlib
        class Selector:
            def prepare(self):
                pathlib.Path({str(noted)!r}).touch()
            def select(self, environ):
                return "TRITON_ATTN"
        select = Selector()
        """
    )
    (future,) = pool.submit([Question.of(GFX942, {}, Request(), kind)])
    future.result(timeout=60)
    assert noted.exists() is prepared


# What it answers depends on what its process has answered, and on the environment of its import.
LOOKS_BACK = """
    import os
    from pytest_rocm_attn.conformance.adapters import CallableAdapter
    asked, imported = [], dict(os.environ)
    class Fork:
        def select(self, request):
            asked.append("select")
            return imported.get("HIP_VISIBLE_DEVICES", "TRITON_ATTN")
        def refresh(self):
            return True
    class Knowing(CallableAdapter):
        def import_module(self, name):
            asked.append(name)
        def declare(self, backend, values):
            before = [*asked]
            asked.append(backend)
            return {"before": before, "on": imported.get("VLLM_ROCM_USE_AITER")}
    CallableAdapter.import_module, CallableAdapter.declare = Knowing.import_module, Knowing.declare
    select = Fork()
"""


@pytest.mark.parametrize(
    "fork",
    [
        pytest.param(True, id="forked"),
        pytest.param(False, id="own process", marks=pytest.mark.slow),  # a process a question
    ],
)
@pytest.mark.parametrize(
    ("at_once", "step"), [(True, 1), (False, -1)], ids=["all at once", "one by one in reverse"]
)
def test_what_looks_at_its_process_has_one_of_its_own_whatever_was_asked_before(
    make_pool: MakePool, *, fork: bool, at_once: bool, step: int
) -> None:
    pool = make_pool(LOOKS_BACK, fork=fork)
    on, detail = {"VLLM_ROCM_USE_AITER": "1"}, '{"backend": "A", "values": {}}'
    plain = Question.of(GFX942, {}, Request())
    expected = {
        plain: Selected("TRITON_ATTN"),
        Question.of(GFX942, {}, Request(), "declare", detail): Told({"before": [], "on": None}),
        Question.of(GFX942, on, Request(), "declare", detail): Told({"before": [], "on": "1"}),
        Question.of(GFX942, {}, Request(), "import", "module"): Told({}),
        Question.of(GFX942, {"HIP_VISIBLE_DEVICES": "1"}, Request()): Unrecognised("'1'"),
        Question.of(GFX942, {}, Request(use_mla=True)): Selected("TRITON_ATTN"),
    }
    asked = [*expected][::step]
    groups = [asked] if at_once else [[one] for one in asked]
    found = [future.result(60).outcome for some in groups for future in pool.submit(some)]
    assert dict(zip(asked, found, strict=True)) == expected
