"""Which destinations have something due: among all, and among those that are given."""

from __future__ import annotations

import math

from deliver.queue import due
from deliver.queue.due import FEW
from tests.unit.queue.values import NOW

MANY = tuple(f"d{number:03}.example" for number in range(3 * FEW))


def asked_about(conn, domains, *, closed=(), limit=1):
    """What is found, and which domains were asked whether they are open."""
    asked: list[str] = []

    def opens_at(domain: str) -> float:
        asked.append(domain)
        return math.inf if domain in closed else -math.inf

    found = due.due_among(conn, NOW, domains, opens_at, limit)
    return [domain for domain, _ in found], asked


def test_given_domains_are_served_in_their_order_however_many_they_are(conn):
    for domain in MANY:
        due.note_due(conn, domain, NOW)
    given = tuple(reversed(MANY))
    assert asked_about(conn, given, limit=len(MANY))[0] == list(given)
    assert asked_about(conn, given, limit=2 * FEW + 1)[0] == list(given[: 2 * FEW + 1])


def test_nobody_asks_about_domains_behind_the_one_that_was_found(conn):
    for domain in MANY:
        due.note_due(conn, domain, NOW)
    assert asked_about(conn, MANY, closed={MANY[0]}) == ([MANY[1]], list(MANY[:2]))


def test_only_what_is_due_and_given_is_found(conn):
    due.note_due(conn, MANY[2], NOW + 1)
    due.note_due(conn, "another.example", NOW)
    assert asked_about(conn, MANY) == ([], [])
    due.note_due(conn, MANY[-1], NOW)
    assert asked_about(conn, MANY) == ([MANY[-1]], [MANY[-1]])


def test_the_first_that_is_due_bounds_all(conn):
    assert due.first_due(conn) == math.inf
    due.note_due(conn, "b.example", NOW + 7)
    due.note_due(conn, "a.example", NOW + 5)
    assert due.first_due(conn) == NOW + 5


def test_the_sender_served_last_comes_along(conn):
    due.note_due(conn, "a.example", NOW)
    conn.exec_driver_sql("UPDATE destination SET last_sender = 'me@sender.test'")
    assert due.due_among(conn, NOW, ("a.example",), due.always, 1) == [("a.example", "me@sender.test")]
