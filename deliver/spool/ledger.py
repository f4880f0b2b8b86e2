"""What was taken from spool directories, in the queue's own database.

The row is written in the transaction that queues the message. So a pair that is still there after a crash, or
that Exim makes a second time because it did not live to note the first, is no second message. A message is
known by Exim's id together with a digest of its sender and content; each of its recipients by its address.
Synchronous, within the caller's transaction; times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import Connection, delete, insert, select, update

from deliver.message import MessageId
from deliver.queue.schema import taken


def known(conn: Connection, spool_id: str, digest: bytes) -> frozenset[str]:
    """The recipients of this message that are ours already."""
    rows = conn.execute(
        select(taken.c.recipient).where(taken.c.spool_id == spool_id, taken.c.digest == digest)
    )
    return frozenset(row.recipient for row in rows)


def note(
    conn: Connection,
    spool_id: str,
    digest: bytes,
    recipients: Iterable[str],
    message_id: MessageId,
    now: float,
) -> None:
    """They are ours with this transaction. Raises IntegrityError for one that was before."""
    rows = [
        {"spool_id": spool_id, "digest": digest, "recipient": each, "message_id": message_id, "at": now}
        for each in recipients
    ]
    conn.execute(insert(taken), rows)


def prune(conn: Connection, *, before: float, still: Collection[str] = ()) -> int:
    """Forget what was taken before that moment; returns how many recipients.

    Not the pairs with the ids in `still`, which are there yet: they would be taken again.
    """
    old = conn.execute(select(taken.c.spool_id).distinct().where(taken.c.at < before)).scalars()
    for spool_id in set(old).intersection(still):
        conn.execute(update(taken).where(taken.c.spool_id == spool_id).values(at=before))
    return conn.execute(delete(taken).where(taken.c.at < before)).rowcount
