"""What keeps the first of the worker processes from starting is said, and said again at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import Gpu, Request
from pytest_rocm_attn.conformance.isolation import Pool, Question, Subject, WorkerError

if TYPE_CHECKING:
    from pathlib import Path

QUESTION = Question.of(Gpu("gfx942"), {}, Request())


@pytest.mark.parametrize(
    ("source", "timeout", "how"),
    [
        (
            "import os; print('no librocm'); os.kill(os.getpid(), 11)",
            30.0,
            r"the process was killed by SIGSEGV \(11\)",
        ),
        ("import os; os._exit(3)", 30.0, "the process exited with status 3"),
        ("import time; time.sleep(600)", 0.2, "it took longer than 2 s"),
    ],
    ids=["signal", "exit", "hang"],
)
def test_a_neutral_module_that_takes_the_process_down_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    timeout: float,
    how: str,
) -> None:
    tried = tmp_path / "tried"
    (tmp_path / "heavy_module.py").write_text(f"open({str(tried)!r}, 'a').write('x')\n{source}")
    (tmp_path / "selector.py").write_text("def select(request): return 'TRITON_ATTN'")
    monkeypatch.syspath_prepend(str(tmp_path))
    selector = f"{tmp_path}/selector.py:select"
    pool = Pool(Subject(selector, preload=("heavy_module",), timeout=timeout, fork=True), lanes=1)
    try:
        with pytest.raises(
            WorkerError, match=f"{how} while it imported heavy_module; try"
        ) as first:
            pool.probe([QUESTION])
        with pytest.raises(WorkerError) as second:
            pool.probe([QUESTION])
    finally:
        pool.close()
    assert tried.read_text() == "x"
    assert "\n" not in str(first.value)
    assert str(second.value) == str(first.value)
    assert ("no librocm" in str(first.value)) is ("no librocm" in source)
