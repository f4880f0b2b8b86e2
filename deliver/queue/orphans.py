"""Shards that no worker of today owns by its number: there were more workers once."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from deliver.errors import StorageError

_NAME = re.compile(r"shard-(\d{1,6})\.db\Z")
_JOURNAL = re.compile(r"cluster-(\d{1,6})\.journal\Z")

_WORK = (
    "SELECT 1 FROM message WHERE completed_at IS NULL LIMIT 1",
    "SELECT 1 FROM event_outbox LIMIT 1",
)


def orphans(directory: Path, workers: int) -> tuple[int, ...]:
    """The numbers from `workers` on of shards that hold mail, or events that were not told yet.

    Raises StorageError.
    """
    numbers = _numbers(directory, "shard-*.db", _NAME)
    return tuple(
        number for number in numbers if number >= workers and _has_work(directory / f"shard-{number}.db")
    )


def orphaned_journals(directory: Path, workers: int) -> tuple[int, ...]:
    """The numbers from `workers` on of a node's processes whose journal still has deliveries to prove.

    Raises StorageError.
    """
    numbers = _numbers(directory, "cluster-*.journal", _JOURNAL)
    return tuple(number for number in numbers if number >= workers and _has_text(directory, number))


def _numbers(directory: Path, names: str, pattern: re.Pattern[str]) -> list[int]:
    try:
        found = [pattern.match(path.name) for path in directory.glob(names)]
    except OSError as error:
        remedy = "make the directory readable for this user"
        raise StorageError(f"looking at {directory}", error.strerror or str(error), remedy) from error
    return sorted(int(match[1]) for match in found if match is not None)


def _has_text(directory: Path, number: int) -> bool:
    return (directory / f"cluster-{number}.journal").stat().st_size > 0


def _has_work(path: Path) -> bool:
    """What cannot be read, or is of another version, is for the worker that opens it to say."""
    if (path.with_suffix(".journal")).exists() and path.with_suffix(".journal").stat().st_size:
        return True
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return any(connection.execute(query).fetchone() is not None for query in _WORK)
    except sqlite3.Error:
        return True
