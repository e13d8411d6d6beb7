"""The reference: selection policies, selector, backend implementations.

Importing this package brings the selector and no kernel.
"""

from pytest_rocm_attn.backends.inverse import how_to_get
from pytest_rocm_attn.backends.policy import PR_26980, Policy
from pytest_rocm_attn.backends.selector import select
from pytest_rocm_attn.backends.trace import Selection, Step

__all__ = ["PR_26980", "Policy", "Selection", "Step", "how_to_get", "select"]
