"""Many rows in one call of the driver: a statement is compiled once per kind of rows and of database.

SQLAlchemy's own executemany arranges the parameters of every row anew, which costs more than the database
does. The columns of our tables need no conversion on the way in: texts, integers and reals only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Insert,
    Select,
    Table,
    Update,
    bindparam,
    insert,
)
from sqlalchemy.exc import DBAPIError

Row = Mapping[str, Any]
AMONG: Final = 100  # values that `is_among` compares with
_CACHED = 256


def insert_rows(conn: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows that all have the same keys. Raises what the database raises."""
    if rows:
        text, arrange = _insert(table, tuple(rows[0]), conn.dialect)
        _run_each(conn, text, [arrange(row) for row in rows])


def insert_values(
    conn: Connection, table: Table, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]
) -> None:
    """Insert rows that are the values of these columns, in the table's order."""
    if rows:
        text, arrange = _insert(table, columns, conn.dialect)
        driver = sqlite_driver(conn)
        if driver is None:
            _run_each(conn, text, [arrange(dict(zip(columns, row, strict=True))) for row in rows])
        else:
            execute_each(driver, text, rows)


def run(conn: Connection, statement: Insert | Update, rows: Sequence[Row]) -> None:
    """Run a statement that was made once for the parameters of each row. Raises what the database raises."""
    if rows:
        text, arrange = _compiled(statement, conn.dialect)
        _run_each(conn, text, [arrange(row) for row in rows])


def is_among(column: Column[Any]) -> ColumnElement[bool]:
    """The column has one of the values of `among`; their number is always the same, and so is the text."""
    return column.in_([bindparam(f"{column.name}_{place}", type_=column.type) for place in range(AMONG)])


def among(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """The parameters for `is_among` of the column of that name: up to AMONG values, at least one."""
    filled = (*values, *[values[-1]] * (AMONG - len(values)))
    return {f"{name}_{place}": value for place, value in enumerate(filled)}


def select_rows(conn: Connection, statement: Select[Any], values: Row) -> Sequence[Sequence[Any]]:
    """The rows of a query that was made once. Raises what the database raises."""
    text, arrange = _compiled(statement, conn.dialect)
    driver = sqlite_driver(conn)
    if driver is None:
        return conn.exec_driver_sql(text, arrange(values)).all()
    return fetch(driver, text, arrange(values))


def _run_each(conn: Connection, text: str, rows: list[Any]) -> None:
    driver = sqlite_driver(conn)
    if driver is None:
        conn.exec_driver_sql(text, rows)
    else:
        execute_each(driver, text, rows)


def sqlite_driver(conn: Connection) -> sqlite3.Connection | None:
    """The driver, None where SQLAlchemy has to see to it: another database, or no transaction begun yet.

    For a few rows SQLAlchemy would cost more than SQLite.
    """
    if conn.dialect.name != "sqlite" or not conn.in_transaction():
        return None
    driver = conn.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def execute_each(driver: sqlite3.Connection, text: str, rows: Sequence[Sequence[Any]]) -> int:
    """Run it for the values of each row; returns how many rows it changed. Raises what SQLAlchemy raises."""
    try:
        return driver.executemany(text, rows).rowcount
    except sqlite3.Error as error:
        raise DBAPIError.instance(text, None, error, sqlite3.Error) from error


def fetch(driver: sqlite3.Connection, text: str, values: Sequence[Any]) -> list[Any]:
    """The rows of a query, as tuples. Raises what SQLAlchemy raises."""
    try:
        return driver.execute(text, values).fetchall()
    except sqlite3.Error as error:
        raise DBAPIError.instance(text, None, error, sqlite3.Error) from error


_Prepared = tuple[str, Callable[[Row], Any]]  # the driver's text, and how it wants the parameters of a row


@lru_cache(maxsize=_CACHED)
def _insert(table: Table, columns: tuple[str, ...], dialect: Dialect) -> _Prepared:
    return _prepared(insert(table).compile(dialect=dialect, column_keys=list(columns)))


@lru_cache(maxsize=_CACHED)
def _compiled(statement: Insert | Update | Select[Any], dialect: Dialect) -> _Prepared:
    return _prepared(statement.compile(dialect=dialect))


def _prepared(compiled: Any) -> _Prepared:
    names = compiled.positiontup
    if names is None:  # the driver takes names
        return str(compiled), dict
    if len(names) == 1:
        return str(compiled), lambda row: (row[names[0]],)
    return str(compiled), itemgetter(*names)
