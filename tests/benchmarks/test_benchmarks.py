"""Benchmarks report what fails instead of timing it, and end with 1 above their budget."""

from __future__ import annotations

import ast
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = {
    path.stem: ast.parse(path.read_text("utf-8"))
    for path in sorted(FOLDER.glob("*.py"))
    if "__main__" in path.read_text("utf-8")
}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that imports a benchmark as a module."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name: str) -> Any:
        for module in ("processes", name):
            monkeypatch.delitem(sys.modules, module, raising=False)
        found = import_module(name)
        for module in ("processes", name):
            sys.modules.pop(module, None)
        return found

    return load


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    """Return the calls of a dotted name in a module."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node for node in nodes if ast.unparse(node.func) == name]


def ignores_a_failure(tree: ast.AST) -> bool:
    """Whether a module runs a process without a look at how it ends."""
    checked = [
        any(word.arg == "check" and ast.unparse(word.value) == "True" for word in call.keywords)
        for call in calls(tree, "subprocess.run")
    ]
    return not all(checked) and "returncode" not in ast.unparse(tree)


def drops_its_status(tree: ast.Module) -> bool:
    """Whether a script ends with 0 whatever its main returns."""
    guard = tree.body[-1]
    exits = [*calls(guard, "sys.exit"), *calls(guard, "SystemExit")]
    return not any("main(" in ast.unparse(argument) for call in exits for argument in call.args)


def test_no_benchmark_times_a_process_that_failed() -> None:
    assert len(SCRIPTS) >= 7
    processes = ast.parse((FOLDER / "processes.py").read_text("utf-8"))
    everything = SCRIPTS | {"processes": processes}
    assert [name for name, tree in everything.items() if ignores_a_failure(tree)] == []
    assert ignores_a_failure(ast.parse("subprocess.run(command, check=False)"))


def test_every_benchmark_ends_with_what_its_main_returns() -> None:
    assert [name for name, tree in SCRIPTS.items() if drops_its_status(tree)] == []
    assert drops_its_status(ast.parse("if __name__ == '__main__':\n    main()"))


def test_a_process_that_fails_is_reported_with_its_last_words(load: Any, tmp_path: Path) -> None:
    run = load("processes").run
    command = [sys.executable, "-c", "print('here'); raise SystemExit(3)"]
    with pytest.raises(SystemExit, match=r"exit status 3 of .*\n?.*here"):
        run(command, str(tmp_path))
    assert run(command, str(tmp_path), statuses=(0, 3)) == "here\n"


def test_the_documented_tier_is_compared_with_its_budget(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = load("documented_tier")
    times = {"-c": 1.0, "-m": 3.9}
    verdict = "pass"

    def seconds(folder: str, *arguments: str, **_: Any) -> float:
        row = {"id": "a-row", "verdict": verdict}
        Path(folder, "report.json").write_text(json.dumps({"rows": [row]}))
        return times[arguments[0]]

    monkeypatch.setattr(benchmark, "seconds", seconds)
    assert benchmark.main() == 0
    times["-m"] = 4.1
    assert benchmark.main() == 1
    for verdict in ("error", "crash"):
        with pytest.raises(SystemExit, match=r"1 of 1 cells have no judgement: \['a-row'\]"):
            benchmark.main()


def test_the_grid_is_compared_with_its_budgets(load: Any) -> None:
    exceeded = load("grid").exceeded
    assert exceeded(1_000_000, 599.0, 1_900_000_000) == []
    assert exceeded(1_000_000, 602.0, 0) == ["602 us of CPU a cell, budget 600"]
    assert exceeded(1_000, 0.1, 2_100_000_000) == ["2100 MB, budget 2000"]


def test_a_case_beyond_its_limit_ends_the_attention_benchmark_with_1(
    load: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attention = load("attention")
    prepared = attention.Prepared(lambda i: None, {}, None, 1, 1.0, 1.0)
    monkeypatch.setattr(attention, "prepare", lambda *_: prepared)
    monkeypatch.setattr(attention, "ceilings", lambda _: (1.0, 1.0))
    monkeypatch.setattr(attention, "contiguous_microseconds", lambda *_: 1.0)
    monkeypatch.setattr(attention, "host_microseconds", lambda _: {"a call": (5.0, 5.0)})
    monkeypatch.setattr(attention.torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(attention.torch.cuda, "get_device_name", lambda: "Some GPU")
    taken = iter(range(1000))

    monkeypatch.setattr(attention, "microseconds", lambda *_: 1.0)
    assert attention.main([]) == 0
    assert "# TRITON_ATTN and TRITON_MLA on Some GPU" in capsys.readouterr().out

    monkeypatch.setattr(attention, "microseconds", lambda *_: 1e4 * 1.01 ** next(taken))
    assert attention.main([]) == 1
    printed = capsys.readouterr().out
    slower_fp8 = sum(bool(speed.as_fast_as) for speed in attention.SPEEDS)
    assert printed.count("not as fast as") == slower_fp8 == 3
    assert printed.count("MISSED") == len(attention.SPEEDS) + slower_fp8

    monkeypatch.setattr(attention, "microseconds", lambda *_: 1.0)
    monkeypatch.setattr(
        attention, "host_microseconds", lambda _: {"a call": (attention.HOST_US + 1.0, 1.0)}
    )
    assert attention.main([]) == 1


@pytest.mark.parametrize(
    ("group", "times", "found"),
    [
        (4, {1: 100.0, 4: 105.0, 16: 110.0, 17: 150.0, 32: 155.0, 33: 230.0}, []),
        # Both are one block of rows; then one block and two.
        (4, {4: 100.0, 5: 120.0}, ["5 new tokens take 1.20 times as long as 4"]),
        (4, {16: 100.0, 17: 220.0}, []),
        (4, {16: 100.0, 17: 240.0}, ["17 new tokens take 2.40 times as long as 16"]),
        (16, {1: 100.0, 9: 190.0, 16: 210.0}, ["16 new tokens take 2.10 times as long as 1"]),
        (1, {32: 185.0, 33: 132.0}, ["32 new tokens take 1.40 times as long as 33"]),
    ],
)
def test_a_cliff_of_new_tokens_is_found(
    load: Any, group: int, times: dict[int, float], found: list[str]
) -> None:
    assert load("attention").cliffs(times, group) == found


def test_a_cliff_of_new_tokens_is_missed(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = load("attention")
    monkeypatch.setattr(attention, "prepare", lambda speed, _: speed)
    monkeypatch.setattr(
        attention.Speed, "call", property(lambda speed: speed.lengths[0][0]), raising=False
    )
    monkeypatch.setattr(attention.Speed, "copies", 1, raising=False)
    monkeypatch.setattr(attention, "microseconds", lambda new, _: 100.0 + (90.0 if new > 2 else 0))
    assert attention.short_queries(None) == [
        f"group {group}: 3 new tokens take 1.90 times as long as 2" for group in attention.GROUPS
    ]


@pytest.mark.parametrize(("more", "status"), [(1.01, 0), (1.03, 1)])
def test_a_plugin_that_costs_each_test_more_than_its_budget_fails(
    load: Any, monkeypatch: pytest.MonkeyPatch, more: float, status: int
) -> None:
    per_test = load("per_test")
    sys.modules.pop("startup")
    monkeypatch.setattr(per_test, "FILES", 1)
    monkeypatch.setattr(
        per_test,
        "milliseconds",
        lambda command, *_: (0.0, 100.0 if "no:rocm_attn" in command else 100.0 * more),
    )
    assert per_test.main(3) == status
