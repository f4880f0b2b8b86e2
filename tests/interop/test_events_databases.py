"""Events in a real MariaDB and PostgreSQL: hostile text, migrations and views, a kill in mid-flight, vetoes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from deliver.groupcommit import SqlRunner
from events import outbox
from tests.interop.databases import (
    check_hostile_text,
    check_many_change,
    check_migrations_and_views,
    check_slow_veto,
    check_survives,
    check_veto,
)
from tests.interop.peers.database import Database

pytestmark = pytest.mark.peers


@dataclass(frozen=True, slots=True)
class Kind:
    """A database, by the fixture that starts it, and its statement that takes three seconds."""

    fixture: str
    slow: str


KINDS = (Kind("mariadb", "SELECT SLEEP(3)"), Kind("postgres", "SELECT pg_sleep(3)"))


@pytest.fixture(params=[pytest.param(kind, id=kind.fixture) for kind in KINDS])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def database(kind: Kind, request: pytest.FixtureRequest) -> Database:
    started: Database = request.getfixturevalue(kind.fixture)(name="events")
    return started


def test_hostile_text_arrives_as_text(database: Database) -> None:
    check_hostile_text(database.url)


def test_rows_of_many_messages_are_found_again(database: Database) -> None:
    check_many_change(database.url)


def test_migrations_and_views(database: Database) -> None:
    check_migrations_and_views(database.url)


async def test_a_statement_may_refuse(database: Database, kind: Kind) -> None:
    await check_veto(database.url)
    await check_slow_veto(database.url, kind.slow)


async def test_no_event_is_lost_or_doubled_when_the_database_dies(database: Database, tmp_path: Path) -> None:
    runner = await SqlRunner.open(tmp_path / "outbox.db", outbox.metadata.create_all)
    await check_survives(database.url, runner, database.kill, database.start)
    await runner.aclose()
