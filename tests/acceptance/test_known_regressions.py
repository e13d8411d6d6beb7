"""Reported ROCm attention defects: each one that a CPU can show is caught by a tier. Slow.

The cases are those of docs/reference/known-regressions.md as of 2026-11-24; docs/detection.md has a
row for every one of them, and says why where nothing here catches it. A case is run against the
release that is named bad, or against a release patched to have the defect, and against a good one.

ROCM_ATTN_VLLM_DIR and ROCM_ATTN_PYTHON as in test_real_vllm.py; ROCM_ATTN_SGLANG_DIR has SGLang 0.5.23 and what it
imports, as docs/howto/another-server.md unpacks and installs them.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

RELEASES = Path(os.environ.get("ROCM_ATTN_VLLM_DIR", "/work/vllm"))
PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)
SGLANG = Path(os.environ.get("ROCM_ATTN_SGLANG_DIR", "/work/sglang/0.5.23"))
DOCS = Path(__file__).parents[2] / "docs"
DETECTION = DOCS / "detection.md"
REPORTED = DOCS / "reference" / "known-regressions.md"

PLATFORM = "vllm.platforms.rocm:RocmPlatform"
CHAIN = "vllm.attention.selector:get_attn_backend"  # where it was up to 0.14.1
SGLANG_DEFAULT = f"{DOCS}/howto/sglang/sglang_selector.py:DefaultAttentionBackend"
SGLANG_CONTRACT = f"{DOCS}/howto/sglang/sglang-defaults.toml"

# Patches: source that imports vLLM, gives it the defect, and holds the selector.
FLEX_BRANCH_LOST = """
    import ast, inspect, textwrap
    from vllm.platforms import rocm
    class Lost(ast.NodeTransformer):
        def visit_If(self, node):
            self.generic_visit(node)
            return None if "FLEX_ATTENTION" in ast.unparse(node.test) else node
    source = textwrap.dedent(inspect.getsource(rocm.RocmPlatform.get_attn_backend_cls))
    tree = ast.fix_missing_locations(Lost().visit(ast.parse(source)))
    made = {}
    exec(compile(tree, "patched", "exec"), vars(rocm), made)
    rocm.RocmPlatform.get_attn_backend_cls = made["get_attn_backend_cls"]
    selector = rocm.RocmPlatform
"""
WRONG_NAMES_IGNORED = """
    import os
    from vllm import envs
    from vllm.attention.backends.registry import AttentionBackendEnum
    from vllm.attention.selector import get_attn_backend as selector
    def read():
        name = os.environ.get("VLLM_ATTENTION_BACKEND")
        return name if name in AttentionBackendEnum.__members__ else None
    envs.environment_variables["VLLM_ATTENTION_BACKEND"] = read
"""
CACHE_DTYPES_LOST = """
    from vllm.platforms.rocm import RocmPlatform as selector
    from vllm.v1.attention.backends.mla.rocm_aiter_mla import AiterMLABackend
    from vllm.v1.attention.backends.rocm_attn import RocmAttentionBackend
    for backend in (AiterMLABackend, RocmAttentionBackend):
        del backend.supported_kv_cache_dtypes
"""
CACHE_SHAPE_WITHOUT_DTYPE = """
    from vllm.platforms.rocm import RocmPlatform as selector
    from vllm.v1.attention.backends.rocm_attn import RocmAttentionBackend
    RocmAttentionBackend.get_kv_cache_shape = staticmethod(
        lambda num_blocks, block_size, num_kv_heads, head_size: (2, num_blocks, block_size)
    )
"""
HYBRID_BLOCKS_REFUSED = """
    from vllm.platforms.rocm import RocmPlatform as selector
    from vllm.v1.attention.backends.rocm_aiter_unified_attn import RocmAiterUnifiedAttentionBackend
    from vllm.v1.attention.backends.rocm_attn import RocmAttentionBackend
    from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend
    def few(cls, block_size):
        return block_size is None or block_size in (16, 32, 64, 128, 256)
    for backend in (
        RocmAiterUnifiedAttentionBackend, RocmAttentionBackend, TritonAttentionBackend
    ):
        backend.supports_block_size = classmethod(few)
"""
ANOTHER_CALL = """
    from vllm.platforms import rocm
    class selector(rocm.RocmPlatform):
        __module__ = rocm.__name__
        @classmethod
        def get_attn_backend_cls(cls, selected_backend, a_bundle_of_the_future):
            raise AssertionError("nobody knows how to call this")
"""
BROKEN_LATE_IMPORT = """
    from vllm.platforms import rocm
    class selector(rocm.RocmPlatform):
        __module__ = rocm.__name__
        @classmethod
        def get_attn_backend_cls(cls, selected_backend, head_size, dtype, kv_cache_dtype,
                                 block_size, use_mla, has_sink, use_sparse, attn_type=None):
            from vllm.attention.selector import backend_name_to_enum_of_the_past
"""
# vLLM 0.11.0 has no registry of backends yet: the classes are named in the platform's own code.
REGISTRY_ADDED = """
    import enum, sys, types
    from vllm.platforms import rocm
    from vllm.platforms.interface import _Backend
    class AttentionBackendEnum(enum.Enum):
        ROCM_ATTN = "rocm_attn.RocmAttentionBackend"
        TRITON_ATTN = "triton_attn.TritonAttentionBackend"
        ROCM_AITER_FA = "rocm_aiter_fa.AiterFlashAttentionBackend"
        TRITON_MLA = "mla.triton_mla.TritonMLABackend"
        ROCM_AITER_MLA = "mla.rocm_aiter_mla.AiterMLABackend"
        def get_path(self):
            return f"vllm.v1.attention.backends.{self.value}"
    registry = types.ModuleType("vllm.attention.backends.registry")
    registry.AttentionBackendEnum = AttentionBackendEnum
    sys.modules[registry.__name__] = registry
    class selector(rocm.RocmPlatform):
        __module__ = rocm.__name__
        @classmethod
        def get_attn_backend_cls(cls, selected_backend, head_size, dtype, kv_cache_dtype,
                                 block_size, use_v1, use_mla, has_sink, use_sparse):
            if selected_backend is not None:
                selected_backend = _Backend[selected_backend.name]
            return super().get_attn_backend_cls(
                selected_backend, head_size, dtype, kv_cache_dtype,
                block_size, use_v1, use_mla, has_sink, use_sparse)
"""
AITER_MLA_CHECKED = """
    from vllm.platforms import rocm
    class selector(rocm.RocmPlatform):
        __module__ = rocm.__name__
        @classmethod
        def get_attn_backend_cls(cls, selected_backend, attn_selector_config, num_heads=None):
            path = super().get_attn_backend_cls(selected_backend, attn_selector_config, num_heads)
            if ".rocm_aiter_mla." in path:
                try:
                    from aiter import mla_decode_fwd
                except ImportError as error:
                    raise ValueError(f"ROCM_AITER_MLA needs more of aiter: {error}") from error
            return path
"""
# The import of the platform falls back to torch for the architecture, and would then fail in a circle
# by the warning that it gives, which asks for the current platform.
PLATFORM_BY_TORCH = """
    import torch
    from vllm import logger, platforms
    logger._should_log_with_scope = lambda scope: True
    platforms.builtin_platform_plugins["rocm"] = lambda: (
        "vllm.platforms.rocm.RocmPlatform" if torch.version.hip else None
    )
    from vllm.platforms.rocm import RocmPlatform as selector
"""
AITER_WRAPPERS_BY_SWITCH = """
    from vllm import _aiter_ops, envs
    from vllm.platforms.rocm import RocmPlatform as selector
    if not envs.VLLM_ROCM_USE_AITER:
        del _aiter_ops.rocm_aiter_ops.flash_attn_varlen_func
"""
VISION_OVERRIDE_DROPPED = """
    from vllm.platforms import rocm
    class selector(rocm.RocmPlatform):
        __module__ = rocm.__name__
        @classmethod
        def get_vit_attn_backend(cls, head_size, dtype, backend=None):
            return super().get_vit_attn_backend(head_size, dtype)
"""
VISION_BY_TRITON_ON_RDNA = """
    from vllm.platforms import rocm
    from vllm.v1.attention.backends.registry import AttentionBackendEnum
    class selector(rocm.RocmPlatform):
        __module__ = rocm.__name__
        @classmethod
        def get_vit_attn_backend(cls, head_size, dtype, backend=None):
            chosen = super().get_vit_attn_backend(head_size, dtype, backend)
            if backend is None and chosen.name == "TORCH_SDPA" and rocm.on_gfx1x():
                return AttentionBackendEnum.TRITON_ATTN
            return chosen
"""
PREDICATE_WITHOUT_SINKS = """
    from vllm.platforms import rocm
    from vllm.platforms.rocm import RocmPlatform as selector
    whole = rocm.use_rocm_custom_paged_attention
    def use_rocm_custom_paged_attention(qtype, head_size, block_size, gqa_ratio, max_seq_len,
                                        sliding_window, kv_cache_dtype, alibi_slopes=None):
        return whole(qtype, head_size, block_size, gqa_ratio, max_seq_len,
                     sliding_window, kv_cache_dtype, alibi_slopes)
    rocm.use_rocm_custom_paged_attention = use_rocm_custom_paged_attention
"""
AITER_ON_CDNA_ONLY = f"""
    from sglang.srt.arg_groups import model_override_base as base
    asked = base.get_default_attn_backend
    def by_architecture(server_args, use_mla_backend, model_config):
        import torch
        arch = torch.cuda.get_device_properties(0).gcnArchName
        return asked(server_args, use_mla_backend, model_config) if "gfx9" in arch else "triton"
    base.get_default_attn_backend = by_architecture
    exec(compile(open({f"{DOCS}/howto/sglang/sglang_selector.py"!r}).read(), "adapter", "exec"))
    selector = DefaultAttentionBackend
"""


@dataclass(frozen=True)
class Subject:
    """A selector under test: a release, patched or not, at one depth."""

    release: str
    selector: str = PLATFORM
    patch: str = ""
    server: str = "vllm"

    @property
    def folder(self) -> Path:
        """Where the release is unpacked; skips the test where it is not."""
        folder = RELEASES / self.release if self.server == "vllm" else SGLANG
        if not (folder / self.server).is_dir():
            pytest.skip(
                f"{self.server} {self.release} is not unpacked in {folder}: pip download --no-deps"
                f" {self.server}=={self.release} && unzip -q {self.server}-{self.release}-*.whl"
                f" -d {folder}"
            )
        return folder


@dataclass(frozen=True)
class Case:
    """How a reported defect is caught.

    Attributes:
        id: of docs/reference/known-regressions.md.
        bad: has the defect.
        good: does not.
        items: the rows or laws that must fall short, without "rocm-attn::TIER::".
        wrong: what the bad one does, as the report words it.
        tier, contract: what is run.
    """

    id: str
    bad: Subject
    good: Subject
    items: tuple[str, ...]
    wrong: str
    tier: str = "documented"
    contract: str = "pr-26980"


KNOWN = "known-regressions"
CAPABILITIES = "capabilities"
CASES = (
    Case(
        "sel-explicit-overridden-by-aiter",
        Subject("0.11.2"),
        Subject("0.12.0"),
        (
            "explicit-triton-attn-wins-over-aiter[gfx942]",
            "explicit-rocm-attn-wins-over-aiter[gfx942]",
            "explicit-aiter-unified-wins-over-aiter[gfx942]",
        ),
        "ROCM_AITER_FA",
    ),
    Case(
        "sel-explicit-overridden-by-aiter",
        Subject("0.11.2"),
        Subject("0.12.0"),
        ("an-explicit-choice-is-taken-or-refused-never-replaced[gfx942]",),
        "TRITON_ATTN was named, ROCM_AITER_FA was selected",
        tier="invariants",
    ),
    Case(
        "sel-flex-branch-lost",
        Subject("0.12.0", patch=FLEX_BRANCH_LOST),
        Subject("0.12.0"),
        ("explicit-flex-attention-is-honoured[gfx942]",),
        "FLEX_ATTENTION is not supported on ROCm",
    ),
    Case(
        "sel-aiter-fa-below-rocm-attn",
        Subject("0.22.1"),
        Subject("0.18.1"),
        ("aiter-gives-aiter-fa[gfx942]", "aiter-gives-aiter-fa[gfx950]"),
        "ROCM_ATTN",
    ),
    Case(
        "sel-sinks-with-aiter-fall-to-triton",
        Subject("0.18.1"),
        Subject("0.22.1"),
        ("aiter-with-sinks-gives-aiter-unified[gfx942]",),
        "TRITON_ATTN",
        contract=KNOWN,
    ),
    Case(
        "sel-gfx11-rocm-attn-first",
        Subject("0.22.1"),
        Subject("0.18.1"),
        (
            "triton-attn-is-the-default-for-fp16[gfx1100]",
            "triton-attn-is-the-default-for-fp16[gfx1201]",
        ),
        "ROCM_ATTN",
    ),
    Case(
        "sel-rdna4-unified-forced",
        Subject("0.29.0"),
        Subject("0.18.1"),
        ("aiter-unified-attention-switched-off-is-not-chosen-by-itself[gfx1201]",),
        "ROCM_AITER_UNIFIED_ATTN was selected by itself",
        tier="invariants",
    ),
    Case(
        "sel-gfx90a-aiter",
        Subject("0.12.0"),
        Subject("0.22.1"),
        ("aiter-gives-mi200-no-aiter-mla-for-block-size-1[gfx90a]",),
        "ROCM_AITER_MLA",
        contract=KNOWN,
    ),
    Case(
        "sel-invalid-name-ignored",
        Subject("0.12.0", CHAIN, WRONG_NAMES_IGNORED),
        Subject("0.12.0", CHAIN),
        (
            "an-unknown-backend-name-is-refused-and-the-valid-names-are-listed[gfx942]",
            "a-backend-name-in-lower-case-is-refused[gfx942]",
            "an-empty-backend-name-is-refused[gfx942]",
            "a-backend-name-with-a-blank-is-refused[gfx942]",
        ),
        "TRITON_ATTN",
    ),
    Case(
        "cap-kv-dtype-lost",
        Subject("0.18.1", patch=CACHE_DTYPES_LOST),
        Subject("0.18.1"),
        (
            "explicit-aiter-mla-takes-an-fp8-cache[gfx942]",
            "explicit-rocm-attn-takes-an-fp8-cache[gfx942]",
        ),
        "kv_cache_dtype not supported",
        contract=KNOWN,
    ),
    Case(
        "cap-kv-dtype-lost",
        Subject("0.18.1", patch=CACHE_DTYPES_LOST),
        Subject("0.18.1"),
        (
            "rocm-attn-takes-fp8-caches[gfx942]",
            "rocm-aiter-mla-takes-fp8-caches-from-0-18-1[gfx942]",
        ),
        "kv_cache_dtype not supported",
        tier=CAPABILITIES,
    ),
    Case(
        "cap-hybrid-block-refused",
        Subject("0.22.1", patch=HYBRID_BLOCKS_REFUSED),
        Subject("0.22.1"),
        (
            "explicit-triton-attn-takes-the-blocks-of-hybrid-models[gfx942]",
            "explicit-rocm-attn-takes-the-blocks-of-hybrid-models[gfx942]",
            "explicit-aiter-unified-takes-the-blocks-of-hybrid-models[gfx942]",
        ),
        "block_size",
        contract=KNOWN,
    ),
    Case(
        "cap-cross-attn-accepted-wrongly",
        Subject("0.18.1"),
        Subject("0.22.1"),
        (
            "explicit-rocm-attn-refuses-cross-attention[gfx942]",
            "aiter-gives-aiter-unified-for-cross-attention[gfx942]",
        ),
        "ROCM_A",
        contract=KNOWN,
    ),
    Case(
        "cap-cross-attn-accepted-wrongly",
        Subject("0.18.1"),
        Subject("0.29.0"),
        ("rocm-attn-refuses-cross-attention[gfx942]",),
        "ROCM_ATTN is selected and built as if nothing were wrong",
        tier=CAPABILITIES,
    ),
    Case(
        "itf-stale-selector-cache",
        Subject("0.12.0", CHAIN),
        Subject("0.13.0", CHAIN),
        ("a-changed-backend-name-is-followed[gfx942]",),
        "remembered by the cache vllm.attention.selector._cached_get_attn_backend",
        tier="invariants",
    ),
    Case(
        "itf-selector-call-changed",
        Subject("0.12.0", patch=ANOTHER_CALL),
        Subject("0.12.0"),
        ("explicit-triton-attn-is-honoured[gfx942]",),
        "requires a_bundle_of_the_future, which no known calling convention",
    ),
    Case(
        "itf-platform-broken-import",
        Subject("0.12.0", patch=BROKEN_LATE_IMPORT),
        Subject("0.12.0"),
        ("explicit-triton-attn-is-honoured[gfx942]",),
        "ImportError",
    ),
    Case(
        "sel-sglang-hip-means-aiter",
        Subject("0.5.23", SGLANG_DEFAULT, server="sglang"),
        Subject("0.5.23", SGLANG_DEFAULT, AITER_ON_CDNA_ONLY, server="sglang"),
        ("rdna-gets-triton[gfx1100]", "rdna-gets-triton[gfx1201]"),
        "ROCM_AITER_FA",
        contract=SGLANG_CONTRACT,
    ),
    Case(
        "cap-rocm-attn-any-block",
        Subject("0.13.0"),
        Subject("0.14.1"),
        ("rocm-attn-has-a-cache-for-its-block-sizes[gfx942]",),
        "ROCM_ATTN declares a block size that its cache cannot have",
        tier=CAPABILITIES,
    ),
    Case(
        "cap-rocm-attn-encoder-self",
        Subject("0.16.0"),
        Subject("0.18.1"),
        ("attention-types-build-with-rocm-attn-named[gfx942]",),
        "building RocmAttentionImpl: NotImplementedError: Encoder self-attention",
        tier=CAPABILITIES,
    ),
    Case(
        "cap-aiter-fa-no-sinks",
        Subject("0.16.0"),
        Subject("0.29.0"),
        (
            "sinks-build-with-aiter-on[gfx942]",
            "optional-sinks-build-with-rocm-aiter-fa-named-and-aiter-on[gfx942]",
        ),
        "building AiterFlashAttentionImpl: TypeError: AiterFlashAttentionImpl.__init__() got an"
        " unexpected keyword argument 'sinks'",
        tier=CAPABILITIES,
    ),
    Case(
        "cap-aiter-mla-8-heads",
        Subject("0.16.0"),
        Subject("0.29.0"),
        (
            "mla-head-counts-build-with-aiter-on[gfx942]",
            "mla-head-counts-build-with-aiter-on[gfx950]",
        ),
        "building AiterMLAImpl: AssertionError: Aiter MLA only supports 16 or 128 number of heads.",
        tier=CAPABILITIES,
    ),
    Case(
        "cap-triton-mla-fp8",
        Subject("0.16.0"),
        Subject("0.29.0"),
        (
            "mla-cache-dtypes-build-by-default[gfx942]",
            "mla-cache-dtypes-build-by-default[gfx950]",
        ),
        "TRITON_MLA is selected and cannot be built: building TritonMLAImpl: NotImplementedError:",
        tier=CAPABILITIES,
    ),
    Case(
        "cap-triton-mla-fp8",
        Subject("0.16.0"),
        Subject("0.18.1"),
        ("triton-mla-takes-fp8-caches-from-0-18-1[gfx942]",),
        "TRITON_MLA is selected and cannot be built: building TritonMLAImpl: NotImplementedError",
        tier=CAPABILITIES,
    ),
    Case(
        "cap-sparse-mla-few-heads",
        Subject("0.18.1"),
        Subject("0.22.1"),
        ("sparse-mla-takes-no-more-heads-than-dense[gfx950]",),
        "ROCM_AITER_MLA_SPARSE is built with head counts that ROCM_AITER_MLA, which calls the same"
        " kernel, refuses",
        tier=CAPABILITIES,
    ),
    Case(
        "itf-kv-cache-shape-arg",
        Subject("0.11.0", patch=REGISTRY_ADDED),
        Subject("0.11.2"),
        ("head-counts-build-with-rocm-attn-named[gfx942]",),
        "calling get_kv_cache_shape() as the runner does: TypeError: ",
        tier=CAPABILITIES,
    ),
    Case(
        "itf-kv-cache-shape-arg",
        Subject("0.18.1", patch=CACHE_SHAPE_WITHOUT_DTYPE),
        Subject("0.18.1"),
        ("rocm-attn-takes-its-dtypes[gfx942]",),
        "calling get_kv_cache_shape() as the runner does: TypeError: ",
        tier=CAPABILITIES,
    ),
    Case(
        "itf-eagle-imports-aiter",
        Subject("0.10.1.1"),
        Subject("0.11.0"),
        ("spec-decode-needs-no-aiter[gfx1100]",),
        "v1.spec_decode.eagle cannot be imported: ModuleNotFoundError: import of aiter halted",
        tier=CAPABILITIES,
    ),
    Case(
        "itf-half-installed-aiter-mla",
        Subject("0.22.1"),
        Subject("0.22.1", patch=AITER_MLA_CHECKED),
        ("plain-mla-layers-build-with-aiter-on-where-aiter-is-impostor[gfx942]",),
        "ROCM_AITER_MLA is selected and cannot be built: building AiterMLAImpl: ImportError",
        tier=CAPABILITIES,
    ),
    Case(
        "cap-unified-cache-block-16",
        Subject("0.18.1"),
        Subject("0.22.1"),
        ("rocm-aiter-unified-attn-has-one-cache-block-however-chosen[gfx942]",),
        "16 with VLLM_ATTENTION_BACKEND=ROCM_AITER_UNIFIED_ATTN",
        tier=CAPABILITIES,
    ),
    Case(
        "itf-predicate-lacks-sinks",
        Subject("0.22.1", patch=PREDICATE_WITHOUT_SINKS),
        Subject("0.22.1"),
        ("rocm-attn-tells-its-kernels-apart[gfx942]",),
        "use_rocm_custom_paged_attention does not receive it: sinks",
        tier=CAPABILITIES,
    ),
    Case(
        "itf-cuda-init-on-import",
        Subject("0.13.0"),
        Subject("0.18.1"),
        ("the-platform-imports-without-the-runtime[gfx942]",),
        "torch.cuda.get_device_properties(), called at vllm.platforms.rocm",
        tier=CAPABILITIES,
    ),
    Case(
        "itf-amdsmi-lists-nothing",
        Subject("0.22.1"),
        Subject("0.22.1", patch=PLATFORM_BY_TORCH),
        (
            "the-platform-is-found-where-amdsmi-is-empty[gfx1201]",
            "the-platform-is-found-where-amdsmi-is-broken[gfx1201]",
            "the-platform-is-found-where-amdsmi-is-absent[gfx1201]",
        ),
        "the platform that is found is vllm.platforms.interface.UnspecifiedPlatform",
        tier=CAPABILITIES,
    ),
    Case(
        "itf-explicit-aiter-without-switch",
        Subject("0.16.0", patch=AITER_WRAPPERS_BY_SWITCH),
        Subject("0.16.0"),
        ("rocm-aiter-fa-finds-its-functions-with-aiter-off[gfx942]",),
        "ROCM_AITER_FA refers to what is there only with AITER on (for"
        " rocm_aiter_ops.flash_attn_varlen_func in v1.attention.backends.rocm_aiter_fa.",
        tier=CAPABILITIES,
    ),
    Case(
        "vit-override-ignored",
        Subject("0.12.0"),
        Subject("0.14.1"),
        ("vision-takes-the-backend-that-is-named[gfx942]",),
        "TORCH_SDPA, named for vision layers, gives way to ROCM_AITER_FA",
        tier=CAPABILITIES,
    ),
    Case(
        "vit-override-ignored",
        Subject("0.18.1", patch=VISION_OVERRIDE_DROPPED),
        Subject("0.18.1"),
        ("vision-takes-the-backend-that-is-named[gfx942]",),
        "TORCH_SDPA, named for vision layers, gives way to FLASH_ATTN",
        tier=CAPABILITIES,
    ),
    Case(
        "vit-sdpa-on-gfx1151",
        Subject("0.22.1"),
        Subject("0.22.1", patch=VISION_BY_TRITON_ON_RDNA),
        ("vision-by-default-is-no-sdpa-on-rdna[gfx1100]",),
        "vision layers are given TORCH_SDPA, though TRITON_ATTN is listed (for head_size=64,"
        " head_size=72, head_size=80)",
        tier=CAPABILITIES,
    ),
)


@functools.cache
def rows(subject: Subject, tier: str, contract: str) -> dict[str, dict[str, Any]]:
    """Run every item that a case has for this subject, once; return the report's rows by name."""
    release = subject.folder
    wanted = [
        f"rocm-attn::{tier}::{item}"
        for case in CASES
        if subject in (case.bad, case.good) and (case.tier, case.contract) == (tier, contract)
        for item in case.items
    ]
    with tempfile.TemporaryDirectory() as folder:
        selector = subject.selector
        if subject.patch:
            patched = Path(folder) / "patched.py"
            patched.write_text(textwrap.dedent(subject.patch), "utf-8")
            selector = f"{patched}:selector"
        report = Path(folder) / "report.json"
        done = subprocess.run(
            [
                PYTHON,
                *("-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"),
                *("--rocm-attn-conformance", "--rocm-attn-timeout=120"),
                *(f"--rocm-attn-tier={tier}", f"--rocm-attn-contract={contract}"),
                *(f"--rocm-attn-selector={selector}", f"--rocm-attn-report={report}"),
                *dict.fromkeys(wanted),
            ],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(release)},
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )
        assert report.exists(), done.stdout + done.stderr
        found = json.loads(report.read_text("utf-8"))["rows"]
    told = {f"{row['id']}[{row['gpu']['gfx']}]": row for row in found}
    # An item that does not apply is in no report, and would make the case prove nothing.
    missing = [item for item in wanted if item.rpartition("::")[2] not in told]
    assert not missing, f"{missing} told nothing:\n{done.stdout[-3000:]}"
    return told


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.id} by {case.tier}")
def test_the_defect_is_caught_where_it_is_and_nowhere_else(case: Case) -> None:
    bad = rows(case.bad, case.tier, case.contract)
    good = rows(case.good, case.tier, case.contract)
    for item in case.items:
        assert bad[item]["verdict"] in ("fail", "crash", "advisory"), item
        assert case.wrong in bad[item]["outcome"]["words"], item
        assert good[item]["verdict"] == "pass", (item, good[item]["outcome"])


def documented() -> dict[str, str]:
    """Return docs/detection.md's table of cases: id -> how it is caught."""
    lines = DETECTION.read_text("utf-8").splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("| ")]
    found = [
        (row[1], row[2]) for row in cells if re.fullmatch(r"(sel|vit|cap|itf|fit)-[\w-]+", row[1])
    ]
    assert len(found) == len(dict(found)), "a case has two rows"
    return dict(found)


def test_every_case_that_is_caught_here_is_said_to_be_and_no_other() -> None:
    caught = {name for name, how in documented().items() if how.startswith("yes")}
    assert caught == {case.id for case in CASES}


def test_no_case_is_silently_missing() -> None:
    listed = re.findall(r'<a id="(\w+-[a-z][\w-]+)"></a>`', REPORTED.read_text("utf-8"))
    assert sorted(documented()) == sorted(listed)
