"""Files that nobody else may read."""

from __future__ import annotations

import os
from pathlib import Path

from deliver.errors import StorageError


def create_private_file(path: Path) -> None:
    """Make the directory (0700) and the file (0600) exist. Raises StorageError.

    SQLite gives -wal and -shm the mode of the database file.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_mode & 0o077:
                os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except OSError as error:
        remedy = "make the directory exist and writable for this user"
        raise StorageError(f"creating {path}", error.strerror or str(error), remedy) from error
