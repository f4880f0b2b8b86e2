"""What every database must do with events; the unit tests call it for SQLite, the interop tests for servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy
import trio
from sqlalchemy import text

from deliver.groupcommit import SqlRunner
from events import outbox, undelivered
from events.actions import Action, Veto, matcher, parse_action, ready_made
from events.bulk import AMONG
from events.catalogue import Event
from events.gate import SqlGate
from events.migrations import MIGRATIONS
from events.outbox import Pending
from events.port import Allow, Refuse
from events.shipper import Shipper
from events.sql import Databases
from events.views import VIEWS

HOSTILE = (
    "x'); DROP TABLE event_log; --",
    'a "double" `back` \\\\ \\\' quote \\',
    "nul \x00 byte",
    "emoji \U0001f4ec and \u0000 and lone \udc80 surrogate",
    "%s %(name)s {0} :host ?",
    "A" * 1_000_000,
    b"\xff\xfe invalid \x80 utf-8".decode("utf-8", "surrogateescape"),
)


UNICODE = {"mysql": "CHARACTER SET utf8mb4", "postg": "", "sqlit": ""}


def delivery(number: int, **fields: Any) -> Event:
    known = {
        "local_part": "u",
        "domain": "example.org",
        "host": "mx.example.org",
        "smtp_code": 250,
        "attempt": 1,
    }
    return Event("msg:delivery", 1000.0 + number, {**known, "event_data": f"250 {number}", **fields})


def rows(url: str, sql: str) -> list[tuple[Any, ...]]:
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as conn:
            return [tuple(row) for row in conn.execute(text(sql))]
    finally:
        engine.dispose()


def execute(url: str, *statements: str) -> None:
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as conn:
        for statement in statements:
            conn.execute(text(statement))
    engine.dispose()


def check_hostile_text(url: str) -> None:
    """It arrives, as text, in the ready-made tables and by an administrator's statement."""
    execute(
        url,
        "DROP TABLE IF EXISTS mine",
        f"CREATE TABLE mine (id VARCHAR(64), said TEXT, host TEXT) {UNICODE[url[:5]]}",
    )
    sql = "INSERT INTO mine VALUES (:event_id, :event_data, :host)"
    actions = (ready_made(url), parse_action("mine", ["*"], url, sql))
    batch = [
        Pending(n, f"h{n}", f"m{n}", delivery(n, event_data=one, host=one, local_part=one, domain=one))
        for n, one in enumerate(HOSTILE)
    ]
    databases = Databases()
    for action in actions:
        shipment = databases.ship(action, batch)
        assert shipment.refused == ()
    databases.close()
    stored = dict(rows(url, "SELECT id, said FROM mine"))
    for one in batch:
        assert stored[one.id] == one.event.fields["event_data"]
    logged = dict(rows(url, "SELECT id, event_data FROM event_log WHERE id LIKE 'h%'"))
    assert logged == stored
    assert len(rows(url, "SELECT id FROM outrider_deliveries WHERE id LIKE 'h%'")) == len(HOSTILE)


def check_migrations_and_views(url: str) -> None:
    """The tables are made once, a repeated batch changes nothing, every view answers."""
    batch = [
        Pending(1, "v1", "mv", delivery(1, tls_level="dane")),
        Pending(2, "v2", "mv", Event("tcp:close", 5.0, {"domain": "d", "host": "h", "seconds": 2.5})),
        Pending(3, "v3", "mv", Event("msg:defer", 6.0, {"domain": "d", "attempt": 1, "event_data": "w"})),
        *(
            Pending(3 + n, f"v{3 + n}", "mv", Event("tls:cert", 10.0 * n, {
                "host": "mx", "tls_depth": 0, "tls_out_peercert_sha256": f"{n:064}", "tls_cert_issuer": f"CN={n}",
            }))
            for n in (1, 2)
        ),
    ]  # fmt: skip
    for _ in range(2):
        databases = Databases()
        assert databases.ship(ready_made(url), batch).refused == ()
        databases.close()
    assert [row[0] for row in rows(url, "SELECT version FROM outrider_schema ORDER BY version")] == list(
        range(1, len(MIGRATIONS) + 1)
    )
    assert rows(url, "SELECT times FROM outrider_certificates WHERE host = 'mx'") == [(1,), (1,)]
    answers = {
        view.name: rows(url, f"SELECT * FROM {view.table} ORDER BY {view.order}") for view in VIEWS.values()
    }
    assert ("example.org", "dane", "none", 1, 1001.0, 1001.0) in answers["below_level"]
    assert ("d", "h", 1, 2.5, 2.5, 5.0) in answers["slowest"]
    assert [row[0] for row in answers["defers"]] == ["d"]
    assert [tuple(row[:5]) for row in answers["certificate_changes"]] == [("mx", 20.0, 1, "CN=1", "CN=2")]


def check_many_change(url: str, many: int = 2 * AMONG + 1) -> None:
    """Rows that many events add to are found again, however many there are."""
    databases, action = Databases(), ready_made(url)
    for turn in range(2):
        batch = []
        for number in range(many):
            place, message = turn * 2 * many + 2 * number, f"many{number}"
            batch.append(
                Pending(
                    place, f"many{place}", message, delivery(turn, message_id=message, attempt=number % 2)
                )
            )
            cert = {
                "host": f"mx{number}.example",
                "tls_out_peercert_sha256": f"{number:064x}",
                "tls_depth": 0,
            }
            batch.append(
                Pending(place + 1, f"many{place + 1}", message, Event("tls:cert", 1000.0 + turn, cert))
            )
        assert databases.ship(action, batch).refused == ()
    databases.close()
    assert rows(
        url, "SELECT count(*), min(last_at) FROM outrider_messages WHERE message_id LIKE 'many%'"
    ) == [(many, 1001.0)]
    assert rows(
        url,
        "SELECT count(*), min(delivered), max(delivered) FROM outrider_attempts WHERE message_id LIKE 'many%'",
    ) == [(many, 2, 2)]
    found = rows(
        url, "SELECT count(*), min(times), max(times), min(first_at), max(last_at) FROM outrider_certificates"
    )
    assert found == [(many, 2, 2, 1000.0, 1001.0)]


async def check_survives(
    url: str, runner: SqlRunner, kill: Callable[[], None], start: Callable[[], None]
) -> None:
    """The database is killed in mid-flight and started again: every event arrives, none twice."""
    execute(url, "DROP TABLE IF EXISTS once", "CREATE TABLE once (id VARCHAR(64) PRIMARY KEY)")
    ignore = "INSERT IGNORE INTO once VALUES (:event_id)"
    if url.startswith("postgresql"):
        ignore = "INSERT INTO once VALUES (:event_id) ON CONFLICT DO NOTHING"
    actions: tuple[Action, ...] = (ready_made(url), parse_action("once", ["msg:*"], url, ignore))
    wanted = matcher(actions)
    total, rounds = 3000, 6
    shipper = Shipper(runner, actions, clock=trio.current_time)

    async def arrived() -> int:
        return int((await trio.to_thread.run_sync(rows, url, "SELECT COUNT(*) FROM once"))[0][0])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shipper.run)
        for number in range(rounds):
            events = [delivery(n) for n in range(total // rounds)]

            def put(conn: sqlalchemy.Connection, number: int = number, events: list[Event] = events) -> None:
                outbox.append(conn, f"m{number}", events, wanted=wanted)

            await runner.write(put)
            shipper.poke()
            if number == 2:
                while await arrived() == 0:  # noqa: ASYNC110 (another process has no trio.Event)
                    await trio.sleep(0.02)
                await trio.to_thread.run_sync(kill)
        await trio.to_thread.run_sync(start)
        with trio.fail_after(50):
            while await runner.read(undelivered.waiting):  # noqa: ASYNC110 (nor has a database)
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    await shipper.aclose()
    assert await arrived() == total
    logged = rows(url, "SELECT COUNT(*), COUNT(DISTINCT id) FROM event_log WHERE message_id IN "
        "('m0', 'm1', 'm2', 'm3', 'm4', 'm5') AND event_data LIKE '250 %'")  # fmt: skip
    assert logged[0][0] == logged[0][1] >= total


async def check_veto(url: str) -> None:
    """A statement that returns rows decides."""
    execute(url, "DROP TABLE IF EXISTS blocked", "CREATE TABLE blocked (host VARCHAR(64), reason VARCHAR(64))",
        "INSERT INTO blocked VALUES ('bad', 'no thanks'), ('fine', '')")  # fmt: skip
    sql = "SELECT reason FROM blocked WHERE host = :host"
    gate = SqlGate([parse_action("gate", ["tcp:connect"], url, sql, veto=Veto(5, "defer"))])
    assert await gate.consult(Event("tcp:connect", 1.0, {"host": "bad"})) == Refuse("no thanks")
    assert await gate.consult(Event("tcp:connect", 1.0, {"host": "fine"})) == Allow()
    assert await gate.consult(Event("tcp:connect", 1.0, {"host": "other' OR ''='"})) == Allow()
    await gate.aclose()


async def check_slow_veto(url: str, slow: str) -> None:
    """A statement that is too slow is abandoned at its deadline."""
    gate = SqlGate([parse_action("slow", ["tcp:connect"], url, slow, veto=Veto(0.2, "defer"))])
    began = trio.current_time()
    said = await gate.consult(Event("tcp:connect", 1.0))
    assert isinstance(said, Refuse)
    assert "no answer within 0.2 s" in said.text
    assert trio.current_time() - began < 2
    await gate.aclose()
