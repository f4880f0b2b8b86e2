"""Statements made once do what SQLAlchemy does with them, on SQLite."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    Text,
    bindparam,
    create_engine,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, OperationalError

from deliver.queue.statement import Statement

metadata = MetaData()
thing = Table(
    "thing",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, unique=True),
    Column("state", Text),
)
ADD = Statement(insert(thing), ("name", "state"))
BY_STATE = Statement(select(thing).where(thing.c.state == bindparam("wanted")).order_by(thing.c.id))
NAMES = Statement(select(thing.c.name).where(thing.c.state == "new").order_by(thing.c.id).limit(1))
AGE = Statement(
    update(thing).where(thing.c.name == bindparam("of"), thing.c.state == "new").values(state="old")
)


@pytest.fixture(params=["begun", "not begun"])
def conn(request: pytest.FixtureRequest) -> Iterator[Connection]:
    """With a transaction statements go to the driver, without one to SQLAlchemy, which begins it."""
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.connect() as connection:
        if request.param == "begun":
            connection.begin()
        yield connection


def test_an_insert_gives_the_number_of_its_row(conn: Connection) -> None:
    numbers = [ADD.insert(conn, name=name, state="new") for name in "ab"]
    assert [(row.id, row.name, row.state) for row in BY_STATE.all(conn, wanted="new")] == [
        (numbers[0], "a", "new"),
        (numbers[1], "b", "new"),
    ]


def test_constants_of_the_statement_count_besides_the_values(conn: Connection) -> None:
    ADD.change_each(conn, [{"name": "a", "state": "new"}, {"name": "b", "state": "other"}])
    assert AGE.change(conn, of="a") == 1
    assert AGE.change(conn, of="a") == 0
    assert AGE.change(conn, of="b") == 0
    assert [row.name for row in BY_STATE.all(conn, wanted="old")] == ["a"]


@pytest.mark.parametrize("constant", [math.inf, -math.inf, 0.1, -3, None, True, "it's", "a?b", ":c"])
def test_a_constant_means_what_it_means_bound(conn: Connection, constant: object) -> None:
    said = literal(constant)
    same = Statement(select(said.label("said"), said.is_not_distinct_from(bindparam("bound"))))
    assert list(same.first(conn, bound=constant)) == [constant, 1]


def test_first_and_scalar_of_nothing_are_none(conn: Connection) -> None:
    assert NAMES.scalar(conn) is None
    assert BY_STATE.first(conn, wanted="new") is None
    ADD.insert(conn, name="a", state="new")
    assert NAMES.scalar(conn) == "a"
    assert BY_STATE.first(conn, wanted="new").name == "a"


def test_errors_are_those_of_sqlalchemy(conn: Connection) -> None:
    ADD.insert(conn, name="a", state="new")
    with pytest.raises(IntegrityError):
        ADD.insert(conn, name="a", state="new")
    conn.exec_driver_sql("DROP TABLE thing")
    with pytest.raises(OperationalError):
        BY_STATE.all(conn, wanted="new")


def test_a_value_that_is_missing_is_an_error(conn: Connection) -> None:
    ADD.insert(conn, name="a", state="new")
    with pytest.raises(Exception, match="wanted"):
        BY_STATE.all(conn)


def test_what_a_statement_writes_is_rolled_back_with_its_transaction(conn: Connection) -> None:
    ADD.insert(conn, name="a", state="new")
    conn.rollback()
    assert NAMES.scalar(conn) is None
