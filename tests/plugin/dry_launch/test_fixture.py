"""The dry_launch fixture and its marker, in a test suite of their own."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("with_torch")


def test_a_test_gets_its_launches(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest
        import torch
        import triton
        import triton.language as tl

        @triton.jit
        def fill(x_ptr):
            tl.store(x_ptr, 1)

        def launch():
            fill[(1,)](torch.zeros(1))

        @pytest.mark.rocm_attn_dry_launch("gfx1201")
        def test_the_marker_names_the_target(dry_launch):
            launches = dry_launch()
            launch()
            assert [record.gfx for record in launches] == ["gfx1201"]
            launches.assert_fits(spills=0)

        @pytest.mark.rocm_attn_dry_launch("gfx1201")
        def test_the_call_overrules_the_marker(dry_launch):
            launches = dry_launch("gfx942")
            launch()
            assert [record.gfx for record in launches] == ["gfx942"]

        def test_without_either_the_gpu_in_force_counts(dry_launch):
            dry_launch("gfx950")
            launches = dry_launch()
            launch()
            assert [record.gfx for record in launches] == ["gfx950"]

        def test_it_ends_with_the_test(dry_launch):
            assert triton.runtime.driver._active is None

        def test_over_budget(dry_launch):
            launches = dry_launch("gfx942")
            launch()
            launches.assert_fits(vgprs=0)
    """)
    result = pytester.runpytest_inprocess("-p", "no:randomly", "-W", "default")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(
        ["E * AssertionError: fill on gfx942 (Triton *): vgprs is *, the budget is at most 0"]
    )
