"""Each how-to guide from top to bottom, by somebody who has only the wheel and the site.

The package is built and installed as the guide says into an environment of the guide's own, and its blocks are
done in order in a folder outside the repository: a block that begins with a file's name is saved, a block of
commands is run, a block of output has to be what was printed. Files that a page links to are downloaded
(copied). Unmodified releases of vLLM stand for a fork's checkout.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import venv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^## (.*)$", re.MULTILINE)

# Guides without blocks that can be done here -> why, and what tries them.
NOT_DONE = {
    "ci.md": "a workflow to copy; tests/docs/test_ci_workflow.py runs its steps",
    "on-an-mi-gpu.md": "needs an AMD GPU",
}


@dataclass(frozen=True, slots=True)
class Guide:
    """How a guide is done here.

    Args:
        name: its file in docs/howto.
        checkout: the release that lies in the reader's folder at the beginning.
        later: heading -> the release that lies there from this section on.
        files: what the reader saves blocks of Python or TOML under that begin with no name, in order.
        before: what the reader has in the first of these files already.
        instead: pattern of a command's part -> what stands for it, for time.
        until: words at which we stop.
    """

    name: str
    checkout: str = ""
    later: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    before: str = ""
    instead: dict[str, str] = field(default_factory=dict)
    until: str = ""


KERNEL = """
import pytest
import torch
import triton
import triton.language as tl


@triton.jit
def silu_and_mul_kernel(x_ptr, out_ptr, d, BLOCK: tl.constexpr):
    row, column = tl.program_id(0), tl.arange(0, BLOCK)
    gate = tl.load(x_ptr + row * 2 * d + column, mask=column < d).to(tl.float32)
    up = tl.load(x_ptr + row * 2 * d + d + column, mask=column < d).to(tl.float32)
    tl.store(out_ptr + row * d + column, (gate * tl.sigmoid(gate) * up).to(tl.bfloat16), mask=column < d)


def silu_and_mul(out, x):
    silu_and_mul_kernel[(len(x),)](x, out, out.shape[-1], BLOCK=128)


def reference(x):
    gate, up = x.float().chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate) * up).to(x.dtype)


"""
# Each line is done in one environment: the guide to baselines comes after that to forks, as it says.
GUIDES = [
    [
        Guide(
            "kernel-tests-without-a-gpu.md",
            files=("tests/kernels/test_activation.py",),
            before=KERNEL,
            # This kernel has no fault; tests/docs/test_kernel_tests_howto.py has one.
            until="If a test faults",
        )
    ],
    [
        Guide(
            "vllm-fork.md",
            checkout="0.12.0",
            later={"5. Start whole servers": "0.33.0"},
            instead={
                r"--rocm-attn-conformance( --rocm-attn-contract\S*)?$": r"\g<0> --rocm-attn-gpu=gfx942",
                r"--rocm-attn-tier=server": r"\g<0> -k llama-3-8b-starts",
            },
        ),
        Guide(
            "upgrade-baseline.md",
            checkout="0.18.1",
            instead={r"tier=grid$": r"\g<0> 'rocm-attn::grid::sinks[gfx942]'"},
            until="## 4. Record your own",  # minutes; tests/docs/test_howto.py parses its command
        ),
    ],
    [
        Guide(
            "another-server.md",
            files=("sglang_selector.py", ""),
            until="## Servers whose adapters ship",  # tests/acceptance/test_other_servers.py
        )
    ],
]


def test_each_guide_is_done_or_has_a_reason_not_to() -> None:
    there = {path.name for path in (DOCS / "howto").glob("*.md")}
    done = {guide.name for guides in GUIDES for guide in guides}
    assert done | set(NOT_DONE) == there


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheels")
    left_out = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "copy", ignore=left_out)
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder))
    subprocess.run([*pip, str(folder / "copy")], cwd=folder, check=True, timeout=300)
    return folder


class Reader:
    """Does guides, each in a folder of its own; has nothing but the wheel and the site."""

    def __init__(self, folder: Path, wheels: Path, vllm_release: Callable[[str], Path]) -> None:
        self._vllm_release = vllm_release
        self.folder = folder
        venv.create(folder / "venv", with_pip=True)
        found = os.environ.get("PIP_FIND_LINKS", "")
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
        self.environ = ours | {
            "PATH": f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PIP_FIND_LINKS": f"{wheels} {found}",
            "PIP_CONSTRAINT": str(ROOT / ".ci" / "vllm-constraints.txt"),
            "PIP_NO_COMPILE": "1",
        }
        self.said = ""
        self.status = 0

    def check_out(self, release: str) -> None:
        """Have an unmodified release in the folder, as a fork's checkout."""
        unmodified = self._vllm_release(release)
        for path in self.folder.glob("vllm*"):
            path.unlink()
        for path in unmodified.glob("vllm*"):
            (self.folder / path.name).symlink_to(path)

    def save(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, command: str) -> None:
        """Run a command in a shell; what it exports is there for the next."""
        after = self.folder / ".environ"
        done = subprocess.run(
            ["bash", "-c", f"{command}\nstatus=$?; env -0 > {after}; exit $status"],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=1200,
        )
        self.said, self.status = done.stdout, done.returncode
        lines = after.read_text().rstrip("\0").split("\0")
        self.environ = dict(line.split("=", 1) for line in lines)

    def passed(self, command: str) -> None:
        assert self.status == 0, f"{command}\n{self.said[-4000:]}"

    def printed(self, expected: str) -> None:
        """Check that each expected line was printed; `...` stands for any."""
        lines = [line.rstrip() for line in self.said.splitlines()]
        for line in expected.splitlines():
            assert line == "..." or line.rstrip() in lines, f"{line}\n{self.said[-4000:]}"


def downloads(page: Path, text: str) -> dict[str, Path]:
    """Return the files that a page links to and that are no pages, by name."""
    links = re.findall(r"\]\(([^):#]+)\)", text)
    found = {Path(link).name: (page.parent / link).resolve() for link in links}
    return {name: path for name, path in found.items() if path.suffix != ".md" and path.is_file()}


def commands(block: str) -> list[tuple[str, str]]:
    """Return the commands of a block, each with the output that is shown below it."""
    parts = re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)
    assert not parts[0].strip(), f"a block of commands begins with no prompt: {block}"
    return [(part.partition("\n")[0], part.partition("\n")[2]) for part in parts[1:]]


def told(command: str, instead: dict[str, str]) -> str:
    for pattern, other in instead.items():
        command = re.sub(pattern, other, command)
    return command


def follow(guide: Guide, reader: Reader) -> None:
    """Do a guide from top to bottom."""
    page = DOCS / "howto" / guide.name
    text, _, rest = page.read_text("utf-8").partition(guide.until or "\0")
    assert bool(rest) == bool(guide.until)
    for name, path in downloads(page, text).items():
        shutil.copy(path, reader.folder / name)
    if guide.checkout:
        reader.check_out(guide.checkout)
    files, before, begun, last = list(guide.files), guide.before, 0, ""
    for block in _BLOCK.finditer(text):
        for heading in _HEADING.findall(text, begun, block.start()):
            if heading in guide.later:
                reader.check_out(guide.later[heading])
        begun = block.end()
        language, code = block[2], textwrap.dedent(block[3])
        named = re.match(r"# ([\w./-]+\.(?:py|toml|txt|ini))\b.*\n", code)
        if language == "console":
            for command, output in commands(code):
                reader.passed(last)
                last = told(command, guide.instead)
                reader.run(last)
                reader.printed(output)
        elif named:
            reader.save(named[1], code)
        elif language and (name := files.pop(0)):
            reader.save(name, before + code)
            before = ""
        elif not language and last:
            reader.printed(code)  # a matrix that is shown may have failed
            reader.status = 0
    reader.passed(last)


@pytest.mark.slow
@pytest.mark.parametrize("guides", GUIDES, ids=lambda guides: guides[0].name)
def test_a_reader_who_has_the_wheel_and_the_site_can_do_a_guide(
    guides: list[Guide], wheels: Path, vllm_release: Callable[[str], Path], tmp_path: Path
) -> None:
    reader = Reader(tmp_path, wheels, vllm_release)
    for guide in guides:
        reader.folder = tmp_path / guide.name
        reader.folder.mkdir()
        follow(guide, reader)
