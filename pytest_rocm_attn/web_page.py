"""What pages that need nothing but themselves share: their policy, and JSON that may stand in them."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any


def content_policy(style: str, script: str) -> str:
    """Return the policy of a page with one style and one script.

    It allows no request, no other script, and no text that becomes markup.
    """
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_digest(script)}'",
            f"style-src '{_digest(style)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        )
    )


def embedded(data: Any) -> str:
    """Return JSON in ASCII that may stand within a script element."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
