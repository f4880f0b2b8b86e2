"""The message that is next in each of several domains, in one query: SQLite only.

It finds what `deliver.queue.choosing` and the claim's own statements find one by one, for the common case:
the next sender by name has something due, and the message has one recipient in the domain. Who has to look
further (a sender with a limit, more recipients, a row that cannot be read) asks them. Synchronous, within the
transaction of a claim; nothing is locked, as SQLite has one writer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Text, bindparam, exists, func, literal_column, select, type_coerce

from deliver.queue.locking import ALONE
from deliver.queue.schema import destination, is_queued, message, recipient
from deliver.queue.statement import Statement


def heads(conn: Connection, domains: Sequence[str], now: float) -> dict[str, Any]:
    """By domain the row of its next message together with the row of the recipient that is due.

    `others` is 1 where the message has more recipients in the domain. Domains whose next sender has nothing
    due are missing. Content comes along: ask for few. Raises what SQLite raises for rows that cannot be read.
    """
    if conn.dialect.name != ALONE or not domains:
        return {}
    return {row.domain: row for row in _HEADS.all(conn, domains=json.dumps(domains), now=now)}


def _heads() -> Statement:
    given = func.json_each(bindparam("domains", type_=Text)).table_valued("value")
    queued, first, oldest, other = (recipient.alias(name) for name in ("queued", "first", "oldest", "other"))
    behind = (
        select(queued.c.sender)
        .where(
            is_queued(queued),
            queued.c.domain == destination.c.domain,
            queued.c.sender > destination.c.last_sender,
        )
        .order_by(queued.c.sender)
        .limit(1)
        .correlate(destination)
        .scalar_subquery()
    )
    front = (
        select(first.c.sender)
        .where(is_queued(first), first.c.domain == destination.c.domain)
        .order_by(first.c.sender)
        .limit(1)
        .correlate(destination)
        .scalar_subquery()
    )
    chosen = (
        select(literal_column("oldest.rowid"))
        .select_from(oldest)
        .where(
            is_queued(oldest),
            oldest.c.domain == destination.c.domain,
            oldest.c.sender == func.coalesce(behind, front),
            oldest.c.next_attempt <= bindparam("now"),
        )
        .order_by(oldest.c.next_attempt)
        .limit(1)
        .correlate(destination)
        .scalar_subquery()
    )
    others = exists().where(
        other.c.message_id == recipient.c.message_id,
        other.c.ordinal != recipient.c.ordinal,
        other.c.domain == recipient.c.domain,
    )
    return Statement(
        select(*_OF_RECIPIENT, *_OF_MESSAGE, type_coerce(others, Text).label("others"))
        .select_from(given)
        .join(destination, destination.c.domain == given.c.value)
        .join(recipient, literal_column("recipient.rowid") == chosen)
        .join(message, message.c.id == recipient.c.message_id)
    )


_OF_RECIPIENT: Final = (
    recipient.c.ordinal,
    recipient.c.local_part,
    recipient.c.domain,
    recipient.c.notify,
    recipient.c.original_type,
    recipient.c.original_address,
    recipient.c.sender,
    recipient.c.attempts,
    recipient.c.next_attempt,
    recipient.c.waited,
    recipient.c.last_outcome,
)
_OF_MESSAGE: Final = (
    message.c.id,
    message.c.sender_local_part,
    message.c.sender_domain,
    message.c.size,
    message.c.eight_bit,
    message.c.smtputf8,
    message.c.ret,
    message.c.envid,
    message.c.authenticated,
    message.c.requires_tls,
    message.c.received_at,
    message.c.content,
    message.c.spool_name,
)
_HEADS: Final = _heads()
