"""By what it shows that a file is not the one that was read."""

from __future__ import annotations

import os
from pathlib import Path

Mark = tuple[int, ...]


def mark(path: Path | str) -> Mark:
    """Device, number, size and times; the error's number where there is no file."""
    try:
        found = os.stat(path)
    except OSError as error:
        return (error.errno or 0,)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
