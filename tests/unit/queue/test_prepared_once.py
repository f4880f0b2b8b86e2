"""SQLite prepares a statement once, not again for each row of values.

It prepares again where a bound value might make a partial index usable, which costs more than the row does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

import pytest
from sqlalchemy import Connection

from deliver.queue import claiming, joint, schema, store
from deliver.queue.statement import Statement
from deliver.sqlrun import Database

ROWS = 20
_COMPLETE = {"of": "nobody", "now": 1.0}
_DELIVERED = {"of": "nobody", "number": 0, "said": "[]", "now": 1.0, "tell": None}
_LEASE = {"of": "nobody", "ordinal_": 0, "number": 1, "next": 1.0, "attempt": 1}


@pytest.mark.parametrize(
    ("statement", "values"),
    [(joint._COMPLETE, _COMPLETE), (store.DELIVERED, _DELIVERED), (claiming._LEASE, _LEASE)],
)
def test_many_rows_are_prepared_like_one(statement: Statement, values: Mapping[str, object]) -> None:
    database = Database(None)
    database.run_write(schema.migrate)

    def judged(conn: Connection) -> int:
        """How often SQLite asked whether the statement may be prepared."""
        asked: list[int] = []
        driver = conn.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.set_authorizer(lambda action, *_: asked.append(action) or sqlite3.SQLITE_OK)
        statement.change_each(conn, [dict(values)])
        once = len(asked)
        statement.change_each(conn, [{**values, "of": f"nobody-{n}"} for n in range(ROWS)])
        return len(asked) - once

    again = database.run_write(judged)
    database.close()
    assert again == 0
