"""``python -m pytest_rocm_attn`` is the ``rocm-attn`` command."""

import sys

from pytest_rocm_attn.cli import main

sys.exit(main())
