"""The ready-made tables on SQLite: what each event leaves there, repeated batches, migrations, views."""

from __future__ import annotations

import json
import stat

import pytest

from events.actions import parse_file, ready_made
from events.bulk import AMONG
from events.catalogue import Event
from events.migrations import MIGRATIONS
from events.outbox import Pending
from events.sql import Databases, Unavailable
from tests.interop.databases import (
    check_hostile_text,
    check_many_change,
    check_migrations_and_views,
    check_veto,
    execute,
    rows,
)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/events.db"


def ship(url, *batch: Pending) -> None:
    databases = Databases()
    assert databases.ship(ready_made(url), batch).refused == ()
    databases.close()


def event(number: int, name: str, message: str | None = "m1", **fields) -> Pending:
    return Pending(number, f"id{number}", message, Event(name, 100.0 + number, fields))


def test_hostile_text_arrives_as_text(url):
    check_hostile_text(url)


@pytest.mark.parametrize("many", [1, AMONG - 1, AMONG, AMONG + 1, 2 * AMONG + 1])
def test_rows_of_many_messages_are_found_again(url, many):
    check_many_change(url, many)


def test_migrations_and_views(url):
    check_migrations_and_views(url)


async def test_a_statement_may_refuse(url):
    await check_veto(url)


def test_a_message_is_one_row_however_its_events_are_batched(url):
    batch = [
        event(
            1,
            "msg:accept",
            message_size=10,
            recipients_count=2,
            sender_address="s@x",
            sender_host_address="::1",
        ),
        event(2, "msg:delivery", attempt=1, domain="d", local_part="a"),
        event(3, "msg:fail:delivery", attempt=1, domain="d", local_part="b", event_data="550 no"),
        event(4, "msg:complete", message_size=10, recipients_count=0),
    ]
    ship(url, *batch[:2])
    ship(url, *batch[1:3])
    ship(url, *batch)
    assert rows(
        url,
        "SELECT message_id, sender_address, client_address, size, recipients, accepted_at, completed_at, last_at FROM outrider_messages",
    ) == [("m1", "s@x", "::1", 10, 2, 101.0, 104.0, 104.0)]
    assert rows(url, "SELECT delivered, failed, deferred, why FROM outrider_attempts") == [
        (1, 1, 0, "550 no")
    ]
    assert rows(url, "SELECT local_part, result FROM outrider_deliveries ORDER BY id") == [
        ("a", "delivered"), ("b", "failed")
    ]  # fmt: skip


def test_why_an_attempt_waits_wins_over_what_went(url):
    defer = {"attempt": 2, "domain": "d", "blame": "host", "event_data": "450 later"}
    ship(url, event(1, "msg:defer", **defer), event(2, "msg:delivery", attempt=2, domain="d", host="h"))
    assert rows(url, "SELECT delivered, deferred, blame, why FROM outrider_attempts") == [
        (1, 1, "host", "450 later")
    ]


@pytest.mark.parametrize(
    ("level", "facts", "expected"),
    [
        ("dane", {}, ("dane", "none", 1)),
        ("dane", {"tls_version": "TLSv1.3", "tls_verified_by": "none"}, ("dane", "encrypt", 1)),
        ("dane-only", {"tls_version": "TLSv1.3", "tls_verified_by": "dane-ee"}, ("dane", "dane", 0)),
        ("verify", {"tls_version": "TLSv1.3", "tls_verified_by": "pkix"}, ("verify", "verify", 0)),
        ("may", {"tls_version": "TLSv1.3", "tls_verified_by": "none"}, ("encrypt", "encrypt", 0)),
        ("may", {}, ("encrypt", "none", 1)),
        ("none", {}, ("none", "none", 0)),
        (None, {}, (None, "none", None)),
    ],
)
def test_what_was_wanted_and_what_was_reached(url, level, facts, expected):
    ship(url, event(1, "msg:delivery", tls_level=level, **facts))
    assert rows(url, "SELECT wanted, reached, below FROM outrider_deliveries") == [expected]


def test_tls_facts_and_connections(url):
    ship(
        url,
        event(1, "tls:fallback", host="h", event_data="handshake failed", tls_level="dane"),
        event(2, "dane:fail", host="h", event_data="validation-failure"),
        event(4, "sts:fail", host="h", event_data="mx-mismatch"),
        event(3, "tcp:close", host="h", seconds=1.5, tls_verified_by="pkix", tls_out_peercert_sha256="ab"),
    )
    assert rows(url, "SELECT name, said FROM outrider_tls ORDER BY id") == [
        ("tls:fallback", "handshake failed"), ("dane:fail", "validation-failure"),
        ("sts:fail", "mx-mismatch"),
    ]  # fmt: skip
    assert rows(url, "SELECT seconds, verified_by, certificate FROM outrider_connections") == [
        (1.5, "pkix", "ab")
    ]


def test_a_log_of_an_older_version_is_kept_and_extended(url):
    ship(url, event(1, "msg:complete"))
    execute(url, "DROP VIEW outrider_defers", "DELETE FROM outrider_schema WHERE version > 1")
    ship(url, event(2, "msg:complete"))
    assert len(rows(url, "SELECT * FROM event_log")) == 2
    assert rows(url, "SELECT * FROM outrider_defers") == []
    assert len(rows(url, "SELECT * FROM outrider_schema")) == len(MIGRATIONS)


def test_the_tables_of_a_newer_version_are_left_alone(url):
    ship(url, event(1, "msg:complete"))
    execute(url, "INSERT INTO outrider_schema VALUES (99, 'from the future')")
    databases = Databases()
    with pytest.raises(Unavailable, match="version 99"):
        databases.ship(ready_made(url), [event(2, "msg:complete")])
    databases.close()
    assert len(rows(url, "SELECT * FROM event_log")) == 1


def test_a_file_gets_one_line_per_event(tmp_path):
    path = tmp_path / "events.jsonl"
    action = parse_file("f", ["msg:*"], path)
    databases = Databases()
    batch = [event(1, "msg:delivery", event_data="line\nbreak \u2028 \x00"), event(2, "msg:complete")]
    assert databases.ship(action, batch).done == tuple(batch)
    path.write_bytes(path.read_bytes() + b'{"id":"cut sho')
    databases.ship(action, batch[:1])
    first, second, cut, again = path.read_text().split("\n")[:-1]
    assert json.loads(first) == {
        "id": "id1", "name": "msg:delivery", "time": "1970-01-01T00:01:41.000Z", "at": 101.0,
        "fields": {"event_data": "line\nbreak \u2028 \ufffd", "message_id": "m1"},
    }  # fmt: skip
    assert (json.loads(second)["id"], cut, again) == ("id2", '{"id":"cut sho', first)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(Unavailable, match="No such file"):
        databases.ship(parse_file("f", ["*"], tmp_path / "none" / "x"), batch)
