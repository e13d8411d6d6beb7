"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Write a file in one step: whoever reads it finds what was there before, or all of this.

    A link stays, and what it points to is written; so is a pipe or a device, which no file can
    stand for. Others may read the file as the umask says.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    written = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        # The mode of any new file: the umask takes away from it what is to be taken away.
        with written.open("xb") as file:
            file.write(content)
        written.replace(path)
    except BaseException:  # an interrupt too must leave no half-written file
        written.unlink(missing_ok=True)
        raise
