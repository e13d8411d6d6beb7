"""What tests of several folders share."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _pytest.pytester
import pytest

from pytest_rocm_attn import hardware
from pytest_rocm_attn.markers import HARDWARE_MARKERS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# As many threads of torch as cores, in each xdist worker and each process that a test starts, wait for
# each other longer than they compute: the tensors here are small. Set before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A run inside a test forgets what it imported first, but strategies that it made are cached in modules
# that stay: they must be of the one hypothesis that all of the session's runs use.
with contextlib.suppress(ImportError):
    importlib.import_module("hypothesis.strategies")

ROOT = Path(__file__).parents[1]
HARDWARE = Path(__file__).parent / "hardware"
INTERPRETED = Path(__file__).parent / "backends" / "interpreted"

# Killed processes whose parent died first are reaped by init, at its leisure.
_GRACE = 30.0  # seconds


def _paths(config: pytest.Config) -> list[Path]:
    """Return the paths that a run asks for."""
    folder = config.invocation_params.dir
    return [(folder / argument.partition("::")[0]).resolve() for argument in config.args]


def leaves_out_hardware(config: pytest.Config) -> bool:
    """Whether hardware tests are left out: no GPU is here, and neither a path nor -m asks for them."""
    if any(name in config.option.markexpr for name in HARDWARE_MARKERS):
        return False
    asked = any(path.is_relative_to(HARDWARE) for path in _paths(config))
    return not asked and not hardware.detect().gpus


def leaves_out_interpreted(config: pytest.Config) -> bool:
    """Whether tests of interpreted kernels are left out: Triton compiles in this process."""
    return os.environ.get("TRITON_INTERPRET") != "1"


def _needs_hardware(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in HARDWARE_MARKERS)


# Folder -> whether a run leaves out its tests, which of them, and what it says then.
LEFT_OUT: dict[Path, tuple[Callable[[pytest.Config], bool], Callable[[pytest.Item], bool], str]] = {
    HARDWARE: (
        leaves_out_hardware,
        _needs_hardware,
        "hardware tests were deselected: no AMD GPU here; `python -m pytest tests/hardware` shows them",
    ),
    INTERPRETED: (
        leaves_out_interpreted,
        lambda item: True,
        "tests of interpreted kernels were deselected, as Triton compiles here;"
        + " `python -m pytest tests/backends/interpreted` runs them",
    ),
}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage while modules are imported and tests collected: all of it stays.

    No gc.freeze(): hypothesis asks gc which random generators are in use, and misses those that are frozen.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run in this process; it is collected all the same, so it cannot rot."""
    left_out = [
        item
        for folder, (leaves_out, concerns, _) in LEFT_OUT.items()
        if leaves_out(config)
        for item in items
        if item.path.is_relative_to(folder) and concerns(item)
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what is left out of a run that spans it, so that nobody takes it for passed."""
    for folder, (leaves_out, _, words) in LEFT_OUT.items():
        if any(folder.is_relative_to(path) for path in _paths(config)) and leaves_out(config):
            terminalreporter.write_line(words)


# Left out of the runs that a test starts: importing them, and what they import, takes longer than most of these runs.
_NESTED = "-p no:randomly -p no:hypothesispytest"


def _keep_modules(patch: pytest.MonkeyPatch, *kept: str) -> None:
    """Have a run in a test's own process not forget what it imported of these packages."""
    snapshot = _pytest.pytester.SysModulesSnapshot

    def keeping(preserve: Callable[[str], bool]) -> Any:
        return snapshot(lambda name: preserve(name) or name.partition(".")[0] in kept)

    patch.setattr(_pytest.pytester, "SysModulesSnapshot", keeping)


@pytest.fixture(scope="session", autouse=True)
def _nested_runs() -> Iterator[None]:
    """Leave plugins that cost much out of each pytest that a test starts.

    Runs in a test's own process share our modules: a package that stays has its forgotten modules as
    attributes, so they would be imported from it and not be in sys.modules, where msgspec looks for them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_ADDOPTS", _NESTED)
        _keep_modules(patch, "pytest_rocm_attn")
        yield


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Set again what pytest's own fixture has removed."""
    monkeypatch.setenv("PYTEST_ADDOPTS", _NESTED)
    return pytester


@pytest.fixture
def processes_left(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Mark what the test starts; the function returns what of it goes on running, as command lines."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc to see processes")
    token = uuid.uuid4().hex
    monkeypatch.setenv("ROCM_ATTN_TOKEN", token)

    def running() -> list[str]:
        found = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if token.encode() in entry.read_bytes():
                    found.append((entry.parent / "cmdline").read_text().replace("\0", " "))
        return found

    def left() -> list[str]:
        deadline = time.monotonic() + _GRACE
        while (found := running()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    return left


@pytest.fixture(scope="session")
def no_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that hides torch from a process that has it first on its path."""
    folder = tmp_path_factory.mktemp("no-torch")
    (folder / "torch.py").write_text("raise ImportError('torch is hidden from this test')\n")
    return folder


@pytest.fixture
def without_torch(no_torch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide torch from the processes that a test starts: selecting needs none of it.

    A selector's first process imports torch ahead of it, which takes longer than these tests do.
    """
    monkeypatch.syspath_prepend(str(no_torch))  # which worker processes get
    monkeypatch.setenv("PYTHONPATH", str(no_torch), prepend=os.pathsep)


@pytest.fixture
def with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs in the test's own process share torch and Triton, which cannot be imported twice.

    Such a run forgets what it imported; a module that it may import comes with this fixture first.
    """
    for name in ("torch", "triton"):
        pytest.importorskip(name)
    _keep_modules(monkeypatch, "torch", "triton", "numpy", "sympy", "mpmath")


@pytest.fixture(scope="session")
def vllm_release() -> Callable[[str], Path]:
    """A function that returns the folder of an unmodified release of vLLM, and skips the test without it.

    ROCM_ATTN_VLLM_DIR (default /work/vllm) holds a folder for each.
    """
    releases = Path(os.environ.get("ROCM_ATTN_VLLM_DIR", "/work/vllm"))

    def vllm_release(release: str) -> Path:
        folder = releases / release
        if not (folder / "vllm").is_dir():
            pytest.skip(f"vLLM {release} is not unpacked in {folder}; see docs/real-vllm.md")
        return folder

    return vllm_release


@pytest.fixture(scope="module")
def script() -> Iterator[Callable[[str], Any]]:
    """A function that imports a script of the repository, which is in no package, for one module's tests."""
    with pytest.MonkeyPatch.context() as patch:

        @functools.cache
        def script(file: str) -> Any:
            name = Path(file).stem
            spec = importlib.util.spec_from_file_location(name, ROOT / file)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            # Its dataclasses look there for their annotations, and other scripts for it.
            patch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
            return module

        yield script


# --- pages in Chromium: ROCM_ATTN_CHROMIUM names the browser (default: Debian's) ------------------

CHROMIUM = Path(os.environ.get("ROCM_ATTN_CHROMIUM", "/usr/bin/chromium"))
SWITCHES = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--no-first-run", "--disable-quic"),
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}; apt install chromium, or set ROCM_ATTN_CHROMIUM")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=str(CHROMIUM), args=SWITCHES)
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """A function that opens a file, and fails the test for any error or request of the page."""
    troubles: list[str] = []
    pages: list[Page] = []

    def open_page(path: Path, fragment: str = "", **options: Any) -> Page:
        page = browser.new_page(**({"viewport": {"width": 1300, "height": 900}} | options))
        pages.append(page)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith(("file://", "data:"))
                else troubles.append(request.url)
            ),
        )
        page.goto(f"file://{path}{fragment}")
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert troubles == []


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, from the npm registry."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm to fetch axe-core with")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(
        [npm, "pack", "axe-core@4", "--silent"],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        pytest.skip(f"axe-core cannot be fetched: {done.stderr.strip()[-200:]}")
    with tarfile.open(folder / done.stdout.split()[-1]) as archive:
        source = archive.extractfile("package/axe.min.js")
        assert source
        return source.read().decode()


@pytest.fixture
def violations(axe: str) -> Callable[[Page], list[str]]:
    """A function that returns what axe-core finds; the page has to be opened with bypass_csp."""

    def violations(page: Page) -> list[str]:
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            json.dumps([one["id"], [node["html"][:120] for node in one["nodes"][:3]]])
            for one in found["violations"]
        ]

    return violations


# A word that stands on two lines has two boxes. Words of more letters than a line has are left out.
BROKEN_WORDS = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.parentElement.checkVisibility() || node.parentElement.closest("script, pre")) continue;
    for (const match of node.data.matchAll(/[A-Za-z0-9]{2,30}/g)) {
      const range = document.createRange();
      range.setStart(node, match.index);
      range.setEnd(node, match.index + match[0].length);
      const tops = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
      if (tops.size > 1) found.push(`${match[0]} of ${node.data.slice(0, 60)}`);
    }
  }
  return found;
}"""


@pytest.fixture
def broken_words() -> Callable[[Page], list[str]]:
    """A function that returns the words that a page breaks."""
    return lambda page: page.evaluate(BROKEN_WORDS)
