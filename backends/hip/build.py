"""Builds the HIP kernels at first use, through torch's C++ extension mechanism, and keeps them.

A finished library lies in a folder named after all that went into it (sources, torch, its ROCm or
CUDA, the targets), so a stale one is never found. It gets there by one rename, with its checksum
next to it: a build that was cut short leaves nothing that could be taken for a library. Builders of
the same library wait for each other on a lock.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.backends.current_device import on_gpu_of
from pytest_rocm_attn.backends.hip.arguments import Arguments
from pytest_rocm_attn.errors import HipBuildError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

SOURCES = ("device.h", "paged_decode.h", "kernels.h", "launch.h", "extension.hip")
CACHE_VARIABLE = "ROCM_ATTN_BUILD_DIR"
_NAME = "rocm_attn_decode.so"

# Takes a folder that holds the sources; returns the built library, anywhere inside the folder.
Builder = Callable[[Path], Path]


class Library:
    """The built kernels.

    Args:
        path: the shared library.

    Raises:
        HipBuildError: it cannot be loaded, or it is of another layout of arguments.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
            size = self._library.rocm_attn_arguments_size()
        except (OSError, AttributeError) as error:
            raise HipBuildError(f"the HIP kernels in {path} cannot be loaded: {error}") from None
        if size != ctypes.sizeof(Arguments):
            raise HipBuildError(
                f"the HIP kernels in {path} take {size} bytes of arguments, this version passes"
                f" {ctypes.sizeof(Arguments)}; delete that folder"
            )
        self._library.rocm_attn_decode.restype = ctypes.c_char_p
        self._library.rocm_attn_decode.argtypes = (
            *(ctypes.c_void_p, *(ctypes.c_int,) * 5),
            ctypes.c_void_p,
        )

    def decode(
        self,
        *,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        out: torch.Tensor,
        block_table: torch.Tensor,
        seq_lens: torch.Tensor,
        query_start_loc: torch.Tensor | None,
        partitions: int,
        scale: float,
        alibi_slopes: torch.Tensor | None,
        k_scale: torch.Tensor | None,
        v_scale: torch.Tensor | None,
        fp8_bias: int,
        plain: bool,
    ) -> None:
        """Launch on torch's current stream. Shapes as Arguments.of; they are the caller's to check.

        Args:
            fp8_bias: 0 if the cache has the query's dtype, 7 for e4m3fn, 8 for e4m3fnuz.
            plain: the kernel without matrix instructions.

        Raises:
            RuntimeError: the runtime refuses the launch.
        """
        import torch

        heads, head_size = query.shape[1:]
        partial = torch.empty(
            seq_lens.shape[0] * heads * partitions * (head_size + 2) if partitions > 1 else 0,
            dtype=torch.float32,
            device=query.device,
        )
        arguments = Arguments.of(
            out=out,
            partial=partial,
            query=query,
            key_cache=key_cache,
            value_cache=value_cache,
            block_table=block_table,
            seq_lens=seq_lens,
            query_start_loc=query_start_loc,
            alibi_slopes=alibi_slopes,
            k_scale=k_scale,
            v_scale=v_scale,
            partitions=partitions,
            scale=scale,
        )
        with on_gpu_of((query, key_cache, value_cache, out, block_table, seq_lens)):
            error = self._library.rocm_attn_decode(
                ctypes.byref(arguments),
                int(query.dtype is torch.bfloat16),
                fp8_bias,
                head_size,
                value_cache.shape[-1],
                int(plain),
                torch.cuda.current_stream().cuda_stream,
            )
        if error is not None:
            raise RuntimeError(
                f"ROCM_ATTN: the HIP decode kernel was not launched: {error.decode()}"
            )


# What a build comes out as may depend on, besides the ingredients.
COMPILER_VARIABLES = (
    *("PATH", "CXX", "ROCM_HOME", "ROCM_PATH", "HIP_PATH", "CUDA_HOME", "CUDA_PATH"),
    *("TORCH_CUDA_ARCH_LIST", "PYTORCH_ROCM_ARCH"),
)
_found: dict[tuple[Any, ...], Library | HipBuildError] = {}


def library(device: torch.device | None = None) -> Library:
    """Return the kernels for a GPU, by default the current one, built if need be.

    A failure is remembered: it is tried again only if the compiler's environment, or where libraries are
    kept, has changed.

    Raises:
        HipBuildError: there is no compiler, or it fails; the message holds its words.
    """
    made_of = ingredients(device)
    inputs = (made_of, cache_folder(), *map(os.environ.get, COMPILER_VARIABLES))
    found = _found.get(inputs)
    if found is None:
        try:
            found = Library(find_or_build(cache_folder(), made_of, build_with_torch))
        except HipBuildError as error:
            found = error
        _found[inputs] = found
    if isinstance(found, HipBuildError):
        raise found.with_traceback(None)
    return found


def cache_folder() -> Path:
    """Return where libraries are kept: ROCM_ATTN_BUILD_DIR, else the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base, "pytest-rocm-attn")


def ingredients(device: torch.device | None = None) -> str:
    """Return all that a library for a GPU, by default the current one, depends on, as text."""
    import torch

    target = "none"
    if torch.cuda.is_available():
        on_gpu = device is not None and device.type == "cuda"
        properties = torch.cuda.get_device_properties(
            device if on_gpu else torch.cuda.current_device()
        )
        target = (
            getattr(properties, "gcnArchName", None) or f"sm_{properties.major}{properties.minor}"
        )
    runtime = torch.version.hip or torch.version.cuda
    return f"torch {torch.__version__} runtime {runtime} target {target}"


def find_or_build(cache: Path, made_of: str, builder: Builder) -> Path:
    """Return the library in its place in the cache; build it there when it is not, or not whole.

    Raises:
        HipBuildError: the cache cannot be written, or the builder fails.
    """
    sources = {name: _source(name) for name in SOURCES}
    key = hashlib.sha256(repr((sorted(sources.items()), made_of)).encode()).hexdigest()[:24]
    place = cache / key
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f"{key}.lock"):
            if not _is_whole(place):
                _build(cache, place, sources, builder)
    except OSError as error:
        raise HipBuildError(
            f"the HIP kernels cannot be kept in {cache}: {error}; set {CACHE_VARIABLE} to a folder"
            " that can be written"
        ) from None
    return place / _NAME


def build_with_torch(folder: Path) -> Path:
    """Build by torch.utils.cpp_extension: hipcc on a ROCm build of torch, nvcc on a CUDA one.

    Raises:
        HipBuildError: as `library`.
    """
    import torch
    from torch.utils import cpp_extension

    source = folder / "extension.hip"
    if torch.version.hip is None:
        source = source.rename(folder / "extension.cu")
    try:
        cpp_extension.load(
            name="rocm_attn_decode",
            sources=[str(source)],
            extra_cuda_cflags=["-O3", "-std=c++17"],
            build_directory=str(folder),
            with_cuda=True,
            is_python_module=False,
        )
    except (OSError, RuntimeError, ImportError, subprocess.SubprocessError) as error:
        wanted = "hipcc (ROCm's compiler)" if torch.version.hip else "nvcc (CUDA's compiler)"
        raise HipBuildError(
            f"the HIP kernels of ROCM_ATTN cannot be built: {error}. It takes {wanted}, ninja and a"
            " torch built for the GPU; without them decodes take the Triton kernel"
        ) from error
    return folder / _NAME


def _source(name: str) -> str:
    return files("pytest_rocm_attn.backends.hip").joinpath(name).read_text("utf-8")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_whole(place: Path) -> bool:
    try:
        wanted = (place / "sha256").read_text("ascii")
        return hashlib.sha256((place / _NAME).read_bytes()).hexdigest() == wanted
    except (OSError, UnicodeDecodeError):
        return False


def _build(cache: Path, place: Path, sources: dict[str, str], builder: Builder) -> None:
    with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as folder:
        for name, text in sources.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        built = builder(Path(folder))
        finished = Path(folder, "finished")
        finished.mkdir()
        shutil.copyfile(built, finished / _NAME)
        digest = hashlib.sha256((finished / _NAME).read_bytes()).hexdigest()
        (finished / "sha256").write_text(digest, encoding="ascii")
        shutil.rmtree(place, ignore_errors=True)  # what is there is not whole
        finished.rename(place)
