"""An empty queue on each database that can hold one. What passes here may serve a relay.

A backend is a function from a directory to an engine; add one and every test of this folder runs on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from deliver.queue import schema
from deliver.sqlrun import Database
from tests.interop.conftest import postgres as postgres, programs as programs, scratch as scratch


@pytest.fixture(scope="session")
def postgres_engine(request: pytest.FixtureRequest) -> Iterator[sqlalchemy.Engine]:
    """The tables in a real PostgreSQL, made once."""
    server = request.getfixturevalue("postgres")(name="queue-contract")
    engine = sqlalchemy.create_engine(server.url)
    with engine.begin() as connection:
        schema.migrate(connection)
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite in memory", "sqlite", "postgresql"])
def conn(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sqlalchemy.Connection]:
    """A connection within a transaction, as `deliver.sqlrun` gives to the functions of the store."""
    if request.param == "postgresql":
        with request.getfixturevalue("postgres_engine").connect() as connection, connection.begin() as whole:
            yield connection
            whole.rollback()
        return
    database = Database(None if request.param.endswith("memory") else tmp_path / "queue.db")
    with database._writer.connect() as connection, connection.begin():
        schema.migrate(connection)
        yield connection
    database.close()
