"""What tests do with a hints file: fail, look, and look at it from outside."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from msgspec import structs

from hints.records import Reachability, StsSeen

A, HOST = "192.0.2.1", "mx.example.org"
DOMAIN = "example.org"
WEEK = 604_800


def execute(path, statement, *values):
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(statement, values).fetchall()
        connection.commit()
        return found


def fail(hints, clock, address=A, error="refused"):
    hints.note(Reachability(HOST, address, 25, error), source="relay", reason="connect", now=clock.now)


async def failures(hints, address=A) -> int:
    return (await hints.look(HOST, (address,), 25))[0].failures


def set_aside(path) -> list[str]:
    return sorted(one.name for one in path.parent.iterdir() if "corrupt" in one.name or "version" in one.name)


def seen(at: float, **parts) -> StsSeen:
    known = StsSeen(DOMAIN, "20240101T000000", "enforce", ("mx.example.org", "*.example.net"), WEEK, at)
    return structs.replace(known, **parts)


def tell(hints, clock, *policies):
    for one in policies:
        hints.note(one, source="relay", reason="test", now=clock.now)
