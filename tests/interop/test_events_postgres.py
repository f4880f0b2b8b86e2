"""Events in a real PostgreSQL: hostile text, migrations and views, a kill in mid-flight, vetoes."""

from __future__ import annotations

from pathlib import Path

import pytest

from deliver.sqlrun import SqlRunner
from events import outbox
from tests.interop.databases import (
    check_hostile_text,
    check_migrations_and_views,
    check_slow_veto,
    check_survives,
    check_veto,
)
from tests.interop.peers.database import Database
from tests.interop.peers.factory import Factory
from tests.interop.peers.postgres import PostgresConfig

pytestmark = [pytest.mark.peers, pytest.mark.xdist_group("postgres")]


@pytest.fixture
def database(postgres: Factory[PostgresConfig, Database]) -> Database:
    return postgres(name="events")


def test_hostile_text_arrives_as_text(database: Database) -> None:
    check_hostile_text(database.url)


def test_migrations_and_views(database: Database) -> None:
    check_migrations_and_views(database.url)


async def test_a_statement_may_refuse(database: Database) -> None:
    await check_veto(database.url)
    await check_slow_veto(database.url, "SELECT pg_sleep(3)")


async def test_no_event_is_lost_or_doubled_when_the_database_dies(database: Database, tmp_path: Path) -> None:
    runner = await SqlRunner.open(tmp_path / "outbox.db", outbox.metadata.create_all)
    await check_survives(database.url, runner, database.kill, database.start)
    await runner.aclose()
