"""A message as `outrider queue export` writes it: envelope as JSON or header lines, and the content."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from deliver.dsn import notify_text
from deliver.message import Envelope
from deliver.queue import chunks, codec
from deliver.queue.schema import message, recipient


@dataclass(frozen=True, slots=True)
class Exported:
    """A message to export: its envelope, the state of each recipient, and where the content is."""

    envelope: Envelope
    states: tuple[str, ...]
    spool_name: str | None

    @property
    def id(self) -> str:
        """The message's."""
        return self.envelope.id

    def as_dict(self) -> dict[str, Any]:
        """Everything but the content, for JSON."""
        of = self.envelope
        return {
            "id": of.id,
            "sender": of.reverse_path,
            "received_at": of.received_at,
            "size": of.size,
            "eight_bit": of.eight_bit,
            "smtputf8": of.smtputf8,
            "ret": of.ret,
            "envid": of.envid,
            "authenticated": of.authenticated,
            "requires_tls": of.requires_tls,
            "recipients": [
                {
                    "address": str(each.mailbox),
                    "state": state,
                    "notify": None if each.notify is None else notify_text(each.notify),
                    "original": None if each.original is None else str(each.original),
                }
                for each, state in zip(of.recipients, self.states, strict=True)
            ],
        }

    def header_lines(self) -> list[str]:
        """The envelope as header lines that go before the content."""
        of = self.envelope
        lines = [f"X-Outrider-ID: {of.id}", f"X-Outrider-Sender: <{of.reverse_path}>"]
        lines += [
            f"X-Outrider-Recipient: <{each.mailbox}>; {state}"
            for each, state in zip(of.recipients, self.states, strict=True)
        ]
        return lines


def exported(conn: Connection, message_id: str) -> Exported | None:
    """The envelope of one message, None if this shard does not know it or it is complete."""
    row = conn.execute(
        select(message).where(message.c.id == message_id, message.c.completed_at.is_(None))
    ).one_or_none()
    if row is None:
        return None
    rows = conn.execute(
        select(recipient).where(recipient.c.message_id == message_id).order_by(recipient.c.ordinal)
    ).all()
    envelope = codec.envelope_of(row, tuple(codec.known_of(each) for each in rows))
    return Exported(envelope, tuple(each.state for each in rows), row.spool_name)


def blocks(conn: Connection, envelope: Envelope, length: int) -> Iterator[bytes]:
    """The content in the database, `length` octets at a time; nothing when it is not there."""
    data = conn.execute(select(message.c.content).where(message.c.id == envelope.id)).scalar_one_or_none()
    if data is not None:
        yield from (bytes(data[start : start + length]) for start in range(0, max(1, len(data)), length))
    elif conn.dialect.name == "postgresql":
        for start in range(0, envelope.size, length):
            block = chunks.read(conn, envelope.id, start, min(length, envelope.size - start))
            if not block:
                return
            yield block
