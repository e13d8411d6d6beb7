"""The mocked ROCm platform: a machine with AMD GPUs that unmodified code believes."""

from pytest_rocm_attn.mock.errors import MockAttributeError
from pytest_rocm_attn.mock.platform import MockRocm, mock_rocm, parse_option

__all__ = ["MockAttributeError", "MockRocm", "mock_rocm", "parse_option"]
