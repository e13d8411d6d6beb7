"""Whether a selector can be asked at all is found out first; what it does when asked is a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import Died, Gpu, Request, Selected
from pytest_rocm_attn.conformance.isolation import Question, probing
from pytest_rocm_attn.errors import SelectorError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_rocm_attn.conformance.isolation import Pool
    from pytest_rocm_attn.outcome import Outcome

    MakePool = Callable[..., Pool]

ENV = "VLLM_ATTENTION_BACKEND"
QUESTIONS = probing(["gfx1201"])


def test_the_questions_are_about_several_platforms_and_kinds() -> None:
    assert len({question.gpu for question in QUESTIONS}) == 3
    assert QUESTIONS[0].gpu == Gpu("gfx1201")
    assert {question.request.use_mla for question in QUESTIONS} == {False, True}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        pytest.param(
            "import gone_package\ndef select(request): ...",
            "cannot be imported: ModuleNotFoundError: No module named 'gone_package'; install the"
            " package that has gone_package (selector0 imports it):"
            " `pip install gone_package`",
            id="at import",
        ),
        pytest.param(
            "def select(request):\n    import gone_package.part",
            "cannot be asked: ModuleNotFoundError: No module named 'gone_package'; install*"
            " (selector0 imports it): `pip install gone_package`",
            id="when it is asked",
        ),
        pytest.param(
            "def select(request):\n    from helper_of_the_fork import pick",
            "cannot be asked: *(helper_of_the_fork imports it): `pip install gone_package`",
            id="by another module",
        ),
        pytest.param(
            "def select(request):\n"
            "    try: import gone_package\n"
            "    except ImportError as error: raise RuntimeError('no config') from error",
            "cannot be asked: RuntimeError: no config; *: `pip install gone_package`",
            id="behind another exception",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "raise KeyError('x')",
            "cannot be imported: KeyError: 'x'",
            id="otherwise",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_fails_every_question_is_said_in_one_line_with_the_remedy(
    make_pool: MakePool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    words: str,
) -> None:
    (tmp_path / "helper_of_the_fork.py").write_text("import gone_package")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SelectorError) as caught:
        make_pool(source).probe(QUESTIONS)
    (line,) = str(caught.value).splitlines()
    pytest.LineMatcher([line]).fnmatch_lines([f"selector '*selector0.py:select' {words}"])


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(
            "import amdsmi\n"
            "amdsmi.amdsmi_init()\n"
            "(gpu,) = amdsmi.amdsmi_get_processor_handles()\n"
            "if amdsmi.amdsmi_get_gpu_asic_info(gpu)['target_graphics_version'] == 'gfx1201':\n"
            "    import gone_package\n"
            "def select(request): return 'TRITON_ATTN'",
            id="import on one GPU",
        ),
        pytest.param(
            "def select(request, gpu):\n"
            "    if gpu.gfx == 'gfx1201': import gone_package\n"
            "    return 'TRITON_ATTN'",
            id="asked on one GPU",
        ),
        pytest.param(
            "def select(request):\n"
            "    if not request.use_mla: import gone_package\n"
            "    return 'TRITON_MLA'",
            id="asked for one kind of layer",
        ),
        pytest.param(
            "def select(request): raise KeyError('x')", id="another crash", marks=pytest.mark.slow
        ),
    ],
)
def test_what_fails_some_questions_only_is_a_result(make_pool: MakePool, source: str) -> None:
    make_pool(source).probe(QUESTIONS)


@pytest.mark.parametrize(
    "fork",
    [
        pytest.param(True, id="forked"),
        pytest.param(False, id="own process", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        ("os._exit(0)", Died(None, 0)),
        pytest.param("os._exit(3)", Died(None, 3), marks=pytest.mark.slow),
        pytest.param("os.kill(os.getpid(), 11)", Died(11), marks=pytest.mark.slow),
        ("sys.exit(0)", "SystemExit"),
    ],
)
def test_a_selector_that_ends_when_it_is_first_asked_is_imported_and_that_is_its_outcome(
    make_pool: MakePool, ends: str, outcome: Outcome | str, *, fork: bool
) -> None:
    pool = make_pool(
        f"""
        import os, sys
        class Fork:
            def select(self, environ):
                if environ.get("{ENV}") != "ROCM_ATTN": {ends}
                return "ROCM_ATTN"
            def refresh(self):  # is called once the selector is imported
                {ends}
        select = Fork()
        """,
        fork=fork,
    )
    pool.probe(QUESTIONS)
    futures = pool.submit(
        Question.of(Gpu("gfx1201"), environ, Request()) for environ in ({}, {ENV: "ROCM_ATTN"})
    )
    first, second = (future.result(timeout=60).outcome for future in futures)
    assert getattr(first, "error", first) == outcome
    assert second == Selected("ROCM_ATTN")


def test_an_import_that_hangs_is_waited_for_once_on_a_platform(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool(
        f"import time\nopen({str(tmp_path / 'tried')!r}, 'a').write('x')\ntime.sleep(600)",
        timeout=0.2,
    )
    environs = [{ENV: str(number)} for number in range(4)]
    futures = pool.submit(Question.of(Gpu("gfx942"), env, Request()) for env in environs)
    outcomes = {future.result(timeout=60).outcome for future in futures}
    assert [str(outcome) for outcome in outcomes] == ["no answer within 2 s"]
    assert (tmp_path / "tried").read_text() == "x"
