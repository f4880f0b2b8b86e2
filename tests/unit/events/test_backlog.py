"""A full backlog: diagnosis gives way first, then new mail, never msg:*."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy import select

from events import outbox
from events.backlog import Backlog
from events.catalogue import Event

WANTED = {"msg:delivery": ("a",), "tcp:close": ("a",)}


@pytest.fixture
def backlog():
    return Backlog(10, lambda event: WANTED.get(event.name, ()))


def events(*names: str) -> list[Event]:
    return [Event(name, 1.0) for name in names]


async def append(runner, backlog, *names: str) -> None:
    await runner.write(lambda conn: backlog.append(conn, "m", events(*names)))


async def names(runner) -> list[str]:
    return await runner.read(lambda conn: list(conn.execute(select(outbox.event_outbox.c.name)).scalars()))


async def test_everything_is_kept_below_four_fifths(runner, backlog):
    await append(runner, backlog, *["tcp:close"] * 8, "tcp:connect")
    assert await names(runner) == ["tcp:close"] * 8
    assert (backlog.waiting, backlog.dropped, backlog.full) == (8, 0, False)


async def test_diagnosis_is_dropped_and_counted_then_mail_is_refused(runner, backlog, caplog):
    await append(runner, backlog, *["tcp:close"] * 9, "msg:delivery", "tcp:close", "msg:delivery")
    assert await names(runner) == ["tcp:close"] * 8 + ["msg:delivery"] * 2
    assert (backlog.waiting, backlog.dropped, backlog.full) == (10, 2, True)
    await append(runner, backlog, "msg:delivery", "tcp:close")
    assert (await names(runner))[-1] == "msg:delivery", "what was accepted is told however full it is"
    with caplog.at_level(logging.ERROR):
        await backlog.count(runner)
        await backlog.count(runner)
    assert [record.levelno for record in caplog.records] == [logging.ERROR], "said once"
    assert "3 that only serve diagnosis were dropped, new mail is refused" in caplog.text


async def test_the_count_follows_what_was_told(runner, backlog):
    await append(runner, backlog, *["msg:delivery"] * 12)
    assert backlog.full
    await runner.write(lambda conn: outbox.acknowledge(conn, "a", range(1, 12)))
    await backlog.count(runner)
    assert (backlog.waiting, backlog.full) == (1, False)
