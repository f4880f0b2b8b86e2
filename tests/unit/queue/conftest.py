"""An empty queue in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy

from deliver.queue import schema


@pytest.fixture
def conn() -> Iterator[sqlalchemy.Connection]:
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection:
        schema.migrate(connection)
        yield connection
    engine.dispose()
