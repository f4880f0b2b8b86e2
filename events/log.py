"""The ready-made table `event_log`: one row per event, for those who want no SQL of their own.

The columns are what reports ask for; `fields` holds everything as JSON. `id` tells a repetition, so that a
batch may be inserted again after a crash. `seq` is the order of arrival, which `events tail` follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    select,
)
from sqlalchemy.dialects import mysql

from events.bulk import insert_values
from events.catalogue import FIELDS
from events.fields import Kind, Scalar
from events.outbox import Pending
from events.tables import MYSQL, Copy

metadata = MetaData()

_COPIED: Final = (
    *("message_id", "attempt", "sender_address", "local_part", "domain"),
    *("router", "host", "host_address", "host_port", "sending_ip_address"),
    *("tls_level", "tls_version", "tls_cipher", "tls_group", "tls_verified_by", "tls_out_dane"),
    *("tls_out_ocsp", "tls_out_resumption", "smtp_code", "enhanced_code", "event_defer_errno"),
    *("phase", "blame", "in_doubt", "event_data"),
)
_COLUMN_TYPES = {Kind.TEXT: Text, Kind.JSON: Text, Kind.INTEGER: BigInteger, Kind.REAL: Double}

# Lengths where an index needs them: MySQL cannot index TEXT.
_SHORT = {"message_id": String(128), "domain": String(255)}

_LONG = Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")  # its TEXT ends at 64 KiB

event_log = Table(
    "event_log",
    metadata,
    Column("seq", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("at", Double, nullable=False),  # seconds since the epoch
    Column("time", String(32), nullable=False),  # the same as UTC text
    Column("name", String(64), nullable=False),
    *(Column(name, _SHORT.get(name) or _COLUMN_TYPES[FIELDS[name].kind]()) for name in _COPIED),
    Column("fields", _LONG, nullable=False),  # all fields, a JSON object
    Index("event_log_at", "at"),
    Index("event_log_message", "message_id"),
    Index("event_log_domain", "domain", "at"),
    sqlite_autoincrement=True,
    **MYSQL,
)


_ENCODER = msgspec.json.Encoder()
_COPY = Copy(event_log, *_COPIED)
_COLUMNS = ("id", "at", "time", "name", *_COPIED, "fields")  # of a row, in their order
_THERE = select(event_log.c.id).where(event_log.c.id.in_(bindparam("ids", expanding=True)))


Known = tuple[Pending, Mapping[str, Scalar]]  # an event, and its fields with the message's id


def known_of(batch: Sequence[Pending]) -> list[Known]:
    """Each event with its fields."""
    return [(one, _fields(one)) for one in batch]


def _fields(one: Pending) -> Mapping[str, Scalar]:
    fields = one.event.fields
    if one.message_id is None or "message_id" in fields:
        return fields
    return {**fields, "message_id": one.message_id}


def unknown(conn: Connection, batch: Sequence[Pending]) -> list[Pending]:
    """The events that are not there yet."""
    there = set(conn.execute(_THERE, {"ids": [one.id for one in batch]}).scalars())
    return [one for one in batch if one.id not in there]


def record(conn: Connection, batch: Sequence[Known]) -> None:
    """Insert the events, in order. Raises IntegrityError where one is there. Commits nothing."""
    insert_values(conn, event_log, _COLUMNS, [_row(*each) for each in batch])


def _row(pending: Pending, known: Mapping[str, Scalar]) -> tuple[Scalar, ...]:
    event = pending.event
    fields = _ENCODER.encode(event.fields).decode()
    return (pending.id, event.at, event.time, event.name, *_COPY.values(known), fields)
