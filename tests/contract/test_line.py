"""The line of due destinations where it is long: pages, parts of it in one look, and what that costs."""

from __future__ import annotations

import math

import pytest
from sqlalchemy import insert

from deliver.queue import claiming, due
from deliver.queue.schema import destination
from tests.unit.queue.values import NOW, RETRY, Room, accept


def fill(conn, count, at=NOW):
    rows = [
        {"domain": f"d{n:03}.test", "due": at, "served_at": float(n % 7), "last_sender": ""}
        for n in range(count)
    ]
    conn.execute(insert(destination).values(rows))


class Asked:
    """Says of every domain but `open` that it is closed, and counts the questions."""

    def __init__(self, *open: str, otherwise: float = math.inf) -> None:
        self.open = open
        self.otherwise = otherwise
        self.domains: list[str] = []

    def __call__(self, domain: str) -> float:
        self.domains.append(domain)
        return -math.inf if domain in self.open else self.otherwise


@pytest.mark.parametrize("page", [1, 3, 10, 200])
def test_every_destination_is_looked_at_once_in_turn_whatever_the_page(conn, monkeypatch, page):
    monkeypatch.setattr(due, "PAGE", page)
    fill(conn, 25)
    asked = Asked()
    assert due.due_domains(conn, NOW, asked, 5) == []
    assert asked.domains == sorted(asked.domains, key=lambda name: (int(name[1:4]) % 7, name))
    assert len(set(asked.domains)) == 25
    asked = Asked(otherwise=NOW + 5)
    assert due.next_due(conn, asked) == NOW + 5
    assert asked.domains == [f"d{n:03}.test" for n in range(25)]


def test_one_look_goes_through_a_part_and_the_next_goes_on_behind_it(conn, monkeypatch):
    monkeypatch.setattr(due, "LOOKED_AT", 10)
    monkeypatch.setattr(due, "PAGE", 4)
    fill(conn, 35)
    line = due.Line()
    last = "d034.test"  # served_at 6.0: the last in the line
    asked = Asked(last)
    found, looks = [], 0
    while not found:
        before = len(asked.domains)
        found = due.due_domains(conn, NOW, asked, 5, line)
        looks += 1
        assert len(asked.domains) - before <= 10
    assert (found, looks) == ([(last, "")], 4)
    assert len(set(asked.domains)) == len(asked.domains) == 35


def test_behind_the_end_the_line_begins_again(conn, monkeypatch):
    monkeypatch.setattr(due, "LOOKED_AT", 10)
    fill(conn, 15)
    line = due.Line()
    assert due.due_domains(conn, NOW, Asked(), 5, line) == []
    first = "d000.test"  # opens while the others are looked at
    assert due.due_domains(conn, NOW, Asked(first), 5, line) == [(first, "")]


def test_a_line_that_is_cut_short_is_looked_at_again_soon(conn, monkeypatch):
    monkeypatch.setattr(due, "LOOKED_AT", 10)
    fill(conn, 15)
    asked = Asked(otherwise=NOW + 60)
    assert due.next_due(conn, asked, soon=NOW + 0.1) == NOW + 0.1
    assert len(asked.domains) <= 10
    assert due.next_due(conn, asked) == NOW + 60
    assert due.next_due(conn, Asked("d003.test"), soon=NOW + 0.1) == NOW


def test_a_claim_finds_the_one_that_is_open_behind_many_that_are_closed(conn, monkeypatch):
    monkeypatch.setattr(due, "LOOKED_AT", 10)
    fill(conn, 45, NOW - 1)
    accept(conn, "m1", "x@open.example")
    conn.execute(destination.update().where(destination.c.domain == "open.example").values(served_at=9.0))
    line = due.Line()

    class OnlyOpen(Room):
        def opens_at(self, domain):
            return super().opens_at(domain) if domain == "open.example" else math.inf

    found = [
        claiming.claim(conn, now=NOW, limit=3, lease=9.0, retry=RETRY, admission=OnlyOpen(), line=line)
        for _ in range(5)
    ]
    assert [each.envelope.id for claims in found for each in claims] == ["m1"]
