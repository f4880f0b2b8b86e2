"""The ready-made table `event_log`: one row per event, for those who want no SQL of their own.

The columns are what reports ask for; `fields` holds everything as JSON. `id` tells a repetition, so that a
batch may be inserted again after a crash. `seq` is the order of arrival, which `events tail` follows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

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
    insert,
    select,
)
from sqlalchemy.dialects import mysql

from events.actions import facts
from events.catalogue import FIELDS
from events.fields import Kind, Scalar
from events.outbox import Pending
from events.tables import MYSQL, cut

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


def record(conn: Connection, batch: Sequence[Pending]) -> tuple[Pending, ...]:
    """Insert the events that are not there yet, in order, and return them. Commits nothing."""
    ids = [one.id for one in batch]
    there = set(conn.execute(select(event_log.c.id).where(event_log.c.id.in_(ids))).scalars())
    fresh = tuple(one for one in batch if one.id not in there)
    if fresh:
        conn.execute(insert(event_log), [_row(one) for one in fresh])
    return fresh


def _row(pending: Pending) -> dict[str, Scalar]:
    known = facts(pending)
    return {
        "id": pending.id,
        "at": pending.event.at,
        "time": pending.event.time,
        "name": pending.event.name,
        **{name: cut(event_log.c[name], known.get(name)) for name in _COPIED},
        "fields": json.dumps(dict(pending.event.fields), ensure_ascii=False, separators=(",", ":")),
    }
