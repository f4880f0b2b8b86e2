"""How `outrider queue` changes shards: short transactions beside the relay that owns them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from deliver.errors import StorageError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from deliver.pgrun import PostgresDatabase
    from deliver.queue.hold import Append
    from deliver.queue.reading import Place
    from deliver.settings import Settings
    from deliver.sqlrun import Database

T = TypeVar("T")


class ShardWriter:
    """Runs functions on one part of the queue, each in a durable transaction of its own."""

    def __init__(self, place: Place) -> None:
        """Raises StorageError, also for tables that the relay has not brought to this version yet."""
        from deliver.queue.reading import named_place
        from deliver.queue.schema import VERSION, version_of

        self._database = storage(place)
        try:
            version = self._database.run_read(version_of)
            if version != VERSION:
                older = "start the relay of this version once" if version < VERSION else "use that version"
                raise StorageError(
                    f"changing {named_place(place)}",
                    f"it was written by another version (schema {version})",
                    older,
                )
        except BaseException:
            self._database.close()
            raise

    def write(self, fn: Callable[[Connection], T]) -> T:
        """Run and commit, beside the relay's own transactions. Raises StorageError, and what `fn` raises."""
        return self._database.run_write(fn)

    def read(self, fn: Callable[[Connection], T]) -> T:
        """Run in a read transaction."""
        return self._database.run_read(fn)

    def close(self) -> None:
        """Close the connections."""
        self._database.close()


def storage(place: Place) -> Database | PostgresDatabase:
    """The database there, to be closed by the caller. Raises StorageError."""
    if isinstance(place, Path):
        from deliver.sqlrun import Database

        return Database(place)
    from deliver.pgrun import PostgresDatabase

    return PostgresDatabase(place, connections=1)


@contextmanager
def writing(place: Place) -> Iterator[ShardWriter]:
    """A part of the queue to change."""
    shard = ShardWriter(place)
    try:
        yield shard
    finally:
        shard.close()


def spool_of(path: Place) -> Path:
    """The spool directory that belongs to a shard's database file."""
    assert isinstance(path, Path), "a shared queue has no spool files"
    return path.with_name(path.stem.replace("shard-", "spool-", 1))


def event_append(settings: Settings) -> Append:
    """How events of a change reach the outbox: for the actions that the settings have."""
    from deliver.outbox import event_actions
    from events.actions import matcher
    from events.outbox import Outbox

    return Outbox(matcher(event_actions(settings))).append
