"""An outbox in memory, run in the calling task, and makers of actions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
import trio
from sqlalchemy import Connection, Engine, StaticPool, create_engine

from events import outbox
from events.identity import NewId

T = TypeVar("T")


class InlineRunner:
    """SqlRunner on one connection; every call is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.broken: Exception | None = None

    async def read(self, fn: Callable[[Connection], T]) -> T:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise self.broken
        with self.engine.connect() as conn:
            return fn(conn)

    async def write(self, fn: Callable[[Connection], T], *, durable: bool = True) -> T:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise self.broken
        with self.engine.begin() as conn:
            return fn(conn)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    outbox.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def runner(engine: Engine) -> InlineRunner:
    return InlineRunner(engine)


@pytest.fixture
def new_id() -> NewId:
    numbers = itertools.count(1)
    return lambda event: f"id{next(numbers)}"
