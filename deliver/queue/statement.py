"""Statements that are made once: building and compiling them anew costs SQLite's users far more than SQLite.

A Statement has `bindparam`s where its values come in. On SQLite its text is compiled at first use, with its
constants in it, and goes straight to the driver; other databases get the statement itself. Rows come as
named tuples, as SQLite has them: booleans are 0 and 1. Synchronous, within the caller's transaction. Raises
what SQLAlchemy raises.
"""

from __future__ import annotations

import math
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import BindParameter, Connection, Select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

_DIALECT: Final = sqlite.dialect()


class Statement:
    """One statement; `columns` are those that an INSERT without values of its own gets."""

    __slots__ = ("_clause", "_columns", "_made")

    def __init__(self, clause: Any, columns: Iterable[str] | None = None) -> None:
        self._clause = clause
        self._columns = None if columns is None else list(columns)
        self._made: _Made | None = None

    def all(self, conn: Connection, **values: object) -> list[Any]:
        """The rows of a SELECT."""
        driver = _sqlite(conn)
        if driver is None:
            return list(conn.execute(self._clause, values))
        made = self._made or self._make()
        return [made.row(*each) for each in made.run(driver, values)]

    def first(self, conn: Connection, **values: object) -> Any:
        """The first row, None where there is none."""
        driver = _sqlite(conn)
        if driver is None:
            return conn.execute(self._clause, values).first()
        made = self._made or self._make()
        found = made.run(driver, values).fetchall()  # all, so that the statement is over
        return made.row(*found[0]) if found else None

    def scalar(self, conn: Connection, **values: object) -> Any:
        """The first column of the first row, None where there is none."""
        driver = _sqlite(conn)
        if driver is None:
            return conn.execute(self._clause, values).scalar()
        found = (self._made or self._make()).run(driver, values).fetchall()
        return found[0][0] if found else None

    def change(self, conn: Connection, **values: object) -> int:
        """Run an UPDATE, INSERT or DELETE; returns how many rows it changed."""
        driver = _sqlite(conn)
        if driver is None:
            return conn.execute(self._clause, values).rowcount
        return (self._made or self._make()).run(driver, values).rowcount

    def change_each(self, conn: Connection, rows: list[dict[str, object]]) -> int:
        """Run it for the values of each row; returns how many rows it changed altogether."""
        driver = _sqlite(conn)
        if driver is None:
            return conn.execute(self._clause, rows).rowcount if rows else 0
        return (self._made or self._make()).run_each(driver, rows)

    def insert(self, conn: Connection, **values: object) -> int:
        """Run an INSERT of one row; returns the number that it got."""
        driver = _sqlite(conn)
        if driver is None:
            key = conn.execute(self._clause, values).inserted_primary_key
            assert key is not None
            return int(key[0])
        number = (self._made or self._make()).run(driver, values).lastrowid
        assert number is not None
        return number

    def _make(self) -> _Made:
        self._made = _Made(self._clause, self._columns)
        return self._made


class _Made:
    """The text for SQLite and the order of its values.

    Constants are in the text: where a value is bound to a column that some index's WHERE names, SQLite
    prepares the whole statement again for each row.
    """

    __slots__ = ("_arrange", "_text", "row")

    def __init__(self, clause: Any, columns: list[str] | None) -> None:
        compiled = clause.compile(dialect=_DIALECT, column_keys=columns)
        assert not getattr(compiled, "insert_prefetch", ()), "give defaults of columns explicitly"
        inputs = {each.key for each in compiled.binds.values() if each.required}
        parts = str(compiled).split("?")
        names = tuple(compiled.positiontup or ())
        assert len(parts) == len(names) + 1, "no constant has a question mark"
        text = [parts[0]]
        for name, part in zip(names, parts[1:], strict=True):
            given = "?" if name in inputs else _literal(compiled, compiled.binds[name])
            text += [given, part]
        self._text = "".join(text)
        self._arrange = _arrangement(tuple(name for name in names if name in inputs))
        self.row: Callable[..., Any] = tuple
        if isinstance(clause, Select):
            self.row = namedtuple("Row", clause.selected_columns.keys(), rename=True)  # type: ignore[misc]  # known at run time only

    def run(self, driver: sqlite3.Connection, values: dict[str, Any]) -> sqlite3.Cursor:
        try:
            return driver.execute(self._text, self._arrange(values))
        except sqlite3.Error as error:
            raise DBAPIError.instance(self._text, None, error, sqlite3.Error) from error

    def run_each(self, driver: sqlite3.Connection, rows: Iterable[dict[str, Any]]) -> int:
        """How many rows were changed altogether."""
        arrange = self._arrange
        try:
            return driver.executemany(self._text, [arrange(row) for row in rows]).rowcount
        except sqlite3.Error as error:
            raise DBAPIError.instance(self._text, None, error, sqlite3.Error) from error


def _literal(compiled: Any, constant: BindParameter[Any]) -> str:
    """The constant in SQL; SQLite has no word for infinity but numbers that are too large."""
    if isinstance(constant.value, float) and math.isinf(constant.value):
        return "9e999" if constant.value > 0 else "-9e999"
    return str(compiled.render_literal_bindparam(constant))


def _arrangement(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """The values of these names, in their order."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: [values[name] for name in names]


def _sqlite(conn: Connection) -> sqlite3.Connection | None:
    """The driver's connection, None where SQLAlchemy has to see to it: another database, or to begin."""
    if conn.dialect.name != "sqlite" or not conn.in_transaction():
        return None
    driver = conn.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver
