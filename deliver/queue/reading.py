"""Read-only access to a part of the queue: a shard's file, or the database that several nodes share.

`reading` gives a connection of SQLAlchemy. `looking` gives a Reader, which takes SQL that both SQLite and
PostgreSQL understand, with `:name` where a value belongs: a shard's file is then read without SQLAlchemy,
whose import takes longer than `outrider queue list` may. Readers neither wait for the relay nor make it wait.
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from deliver.errors import StorageError
from deliver.queue.layout import VERSION

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

    Place = Path | URL

CONNECT: Final = 5  # seconds


class Reader(Protocol):
    """What browsing asks of a database."""

    @property
    def row_name(self) -> str:
        """The columns that name a row of `recipient`, the quickest there are."""
        ...

    @property
    def chunked(self) -> bool:
        """Whether content lies in chunks (`deliver.queue.chunks`)."""
        ...

    def rows(self, sql: str, values: Mapping[str, object] | None = None) -> Iterator[Any]:
        """The rows as named tuples, read as they are asked for."""
        ...


_LENIENT: Final = partial(str, encoding="utf-8", errors="replace")  # what is damaged is to be shown


class FileReader:
    """A shard's file, by the driver itself. Booleans are 0 and 1."""

    row_name = "recipient.rowid"  # it is in every index, so that no row is read for it
    chunked = False

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver

    def rows(self, sql: str, values: Mapping[str, object] | None = None) -> Iterator[Any]:
        """As `Reader.rows`. Raises sqlite3.Error."""
        with closing(self._driver.execute(sql, values or {})) as cursor:
            row: Any = namedtuple("Row", [each[0] for each in cursor.description], rename=True)  # type: ignore[misc]  # known at run time only
            yield from map(row._make, cursor)


class Connected:
    """Any database, by a connection of SQLAlchemy."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def row_name(self) -> str:
        """SQLite's row number, or the primary key."""
        return "recipient.message_id, recipient.ordinal" if self.chunked else FileReader.row_name

    @property
    def chunked(self) -> bool:
        """Only a shared queue has them."""
        return self._connection.dialect.name != "sqlite"

    def rows(self, sql: str, values: Mapping[str, object] | None = None) -> Iterator[Any]:
        """As `Reader.rows`. Raises DBAPIError."""
        from sqlalchemy import text

        return iter(self._connection.execute(text(sql), dict(values or {})))


def named_place(place: Place) -> str:
    """The place for people, without a password."""
    return str(place) if isinstance(place, Path) else place.render_as_string(hide_password=True)


def shard_files(directory: Path) -> tuple[Path, ...]:
    """The database files of all shards in order; none where there is no queue yet."""
    return tuple(sorted(directory.glob("shard-*.db"), key=lambda path: (len(path.name), path.name)))


@contextmanager
def looking(place: Place) -> Iterator[Reader]:
    """A reader of one consistent snapshot. Raises StorageError."""
    if not isinstance(place, Path):
        with _reading_shared(place) as connection:
            yield Connected(connection)
        return
    try:
        with closing(sqlite3.connect(_read_only(place), uri=True, isolation_level=None)) as driver:
            driver.text_factory = _LENIENT
            _check_version(driver.execute("PRAGMA user_version").fetchone()[0], str(place))
            driver.execute("BEGIN")
            yield FileReader(driver)
    except sqlite3.Error as error:
        raise _unreadable(place, error) from error


@contextmanager
def reading(place: Place) -> Iterator[Connection]:
    """A connection in one consistent snapshot. Raises StorageError."""
    with _reading_file(place) if isinstance(place, Path) else _reading_shared(place) as connection:
        yield connection


@contextmanager
def _reading_file(path: Path) -> Iterator[Connection]:
    import sqlalchemy
    from sqlalchemy.exc import DBAPIError

    engine = sqlalchemy.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(_read_only(path), uri=True),
        poolclass=sqlalchemy.NullPool,
    )
    try:
        with _connected(engine) as connection:
            _check_version(int(connection.exec_driver_sql("PRAGMA user_version").scalar_one()), str(path))
            connection.exec_driver_sql("BEGIN")
            yield connection
    except DBAPIError as error:
        raise _unreadable(path, error.orig) from error


@contextmanager
def _reading_shared(url: URL) -> Iterator[Connection]:
    import sqlalchemy
    from sqlalchemy.exc import DBAPIError

    from deliver.queue.schema import version_of

    engine = sqlalchemy.create_engine(
        url, poolclass=sqlalchemy.NullPool, hide_parameters=True, connect_args={"connect_timeout": CONNECT}
    )
    name = named_place(url)
    try:
        with _connected(engine) as fresh:
            connection = fresh.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            version = version_of(connection)
            if version == 0:
                raise StorageError(f"reading {name}", "there is no queue yet", "start outrider relay once")
            _check_version(version, name)
            yield connection
    except DBAPIError as error:
        happened = " ".join(str(error.orig).split())
        raise StorageError(f"reading {name}", happened, "see queue.url and queue.password_file") from error


@contextmanager
def _connected(engine: Engine) -> Iterator[Connection]:
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _read_only(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=ro"


def _check_version(version: int, name: str) -> None:
    if version > VERSION:
        raise StorageError(
            f"reading {name}", "it was written by a newer version", "use that version of outrider"
        )


def _unreadable(path: Path, error: object) -> StorageError:
    return StorageError(
        f"reading {path}", str(error), "run this as the user of the relay, and check the file"
    )
