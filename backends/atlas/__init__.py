"""The atlas: one HTML page that answers what ``rocm-attn explain`` answers, without a server.

The page holds the policies of all releases as data (tables.py, conditions.py) and a selector that reads
them (page/select.js). tests/backends/atlas asks both a thousand drawn questions.
"""

from pytest_rocm_attn.backends.atlas.render import render

__all__ = ["render"]
