"""Runs an action with sample data, to show what it would do: `outrider events test`.

Everything happens in one transaction on the action's database, which is rolled back unless it is to be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from events import filing, jsonlines
from events.actions import Action, EventAction, FileAction, facts
from events.catalogue import EVENTS, Event
from events.fields import FIELDS, Kind, Scalar
from events.identity import event_id
from events.migrations import NewerSchema, migrate
from events.outbox import Pending
from events.sql import Unavailable, open_engine, reason

MAX_ROWS = 20  # shown of what a statement returns

_SAMPLES: dict[str, Scalar] = {
    "message_id": "sample-1",
    "sender_address": "sender@example.com",
    "sender_host_address": "192.0.2.1",
    "local_part": "user",
    "domain": "example.org",
    "router": "mx",
    "transport": "smtp",
    "host": "mx.example.org",
    "host_address": "192.0.2.25",
    "host_port": 25,
    "sending_ip_address": "192.0.2.2",
    "lookup_dnssec_authenticated": "yes",
    "tls_version": "TLSv1.3",
    "tls_cipher": "TLS_AES_256_GCM_SHA384",
    "tls_level": "dane",
    "tls_verified_by": "dane-ee",
    "tls_out_dane": "yes",
    "tls_out_peerdn": "CN=mx.example.org",
    "tls_out_peercert_sha256": "00" * 32,
    "smtp_code": 250,
    "enhanced_code": "2.0.0",
    "event_data": "sample",
    "trace": "[]",
    "verify_mode": "",
}


@dataclass(frozen=True, slots=True)
class Step:
    """What one statement did. `rows`: the first that it returned, if it returns any; `changed`: how many."""

    sql: str
    values: dict[str, Scalar]
    rows: tuple[tuple[Any, ...], ...] | None
    changed: int


def sample(name: str, at: float) -> Event:
    """An event of this name with a value in every field. Raises KeyError for an unknown name."""
    values = {
        field: _SAMPLES.get(field, _of_kind(FIELDS[field].kind, field)) for field in EVENTS[name].fields
    }
    return Event(name, at, values)


def richest(action: Action) -> str:
    """The action's event that carries most of its parameters, in the order of the catalogue."""
    names = [name for name in EVENTS if name in action.events]
    return max(names, key=lambda name: len(set(action.parameters) & set(EVENTS[name].fields)))


def rehearse(action: Action, event: Event, *, commit: bool) -> tuple[Step, ...]:
    """Run the action once. Raises Unavailable with the database's complaint."""
    pending = Pending(0, event_id(event), "sample-1", event)
    try:
        if isinstance(action, FileAction):
            if commit:
                jsonlines.append(action.path, (pending,))
            return (Step(jsonlines.line(pending), {}, None, int(commit)),)
        engine = open_engine(action.database)
        try:
            with engine.connect() as conn, conn.begin() as transaction:
                steps = _run(conn, action, pending)
                if not commit:
                    transaction.rollback()
            return steps
        finally:
            engine.dispose()
    except (SQLAlchemyError, OSError, NewerSchema) as error:
        raise Unavailable(reason(error)) from error


def _run(conn: Connection, action: EventAction, pending: Pending) -> tuple[Step, ...]:
    known = facts(pending)
    if not action.statements:
        migrate(conn)
        filing.file(conn, (pending,))
        return (Step("(the ready-made tables)", known, None, 1),)
    steps = []
    for statement in action.statements:
        values = statement.values(known)
        result = conn.execute(statement.text, values)
        rows = tuple(tuple(row) for row in result.fetchmany(MAX_ROWS)) if result.returns_rows else None
        steps.append(Step(str(statement.text), values, rows, result.rowcount))
        result.close()
    return tuple(steps)


def _of_kind(kind: Kind, field: str) -> Scalar:
    if kind is Kind.INTEGER:
        return 1
    if kind is Kind.REAL:
        return 1.5
    return f"sample {field}"
