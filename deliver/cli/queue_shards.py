"""How `outrider queue` changes shards: short transactions beside the relay that owns them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from deliver.errors import StorageError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from deliver.queue.hold import Append
    from deliver.settings import Settings

T = TypeVar("T")


class ShardWriter:
    """Runs functions on one shard's database, each in a durable transaction of its own."""

    def __init__(self, path: Path) -> None:
        """Raises StorageError, also for a shard that the relay has not brought to this version yet."""
        from deliver.queue.schema import VERSION
        from deliver.sqlrun import Database

        self._database = Database(path)
        version = self._database.run_read(
            lambda conn: int(conn.exec_driver_sql("PRAGMA user_version").scalar_one())
        )
        if version != VERSION:
            self._database.close()
            older = "start the relay of this version once" if version < VERSION else "use that version"
            raise StorageError(
                f"changing {path}", f"it was written by another version (schema {version})", older
            )

    def write(self, fn: Callable[[Connection], T]) -> T:
        """Run and commit, after the relay's own transactions. Raises StorageError, and what `fn` raises."""
        from deliver.sqlrun import Write

        write = Write(fn, True)
        self._database.run_batch([write])
        return write.result()

    def read(self, fn: Callable[[Connection], T]) -> T:
        """Run in a read transaction."""
        return self._database.run_read(fn)

    def close(self) -> None:
        """Close the connections."""
        self._database.close()


@contextmanager
def writing(path: Path) -> Iterator[ShardWriter]:
    """A shard to change."""
    shard = ShardWriter(path)
    try:
        yield shard
    finally:
        shard.close()


def spool_of(path: Path) -> Path:
    """The spool directory that belongs to a shard's database file."""
    return path.with_name(path.stem.replace("shard-", "spool-", 1))


def event_append(settings: Settings) -> Append:
    """How events of a change reach the outbox: for the actions that the settings have."""
    from deliver.outbox import event_actions
    from events.actions import matcher
    from events.outbox import Outbox

    return Outbox(matcher(event_actions(settings))).append
