"""One pair of a spool directory becomes messages of the queue, and is removed.

    lock -> read and check everything -> what the ledger does not know yet is queued, durably -> remove

A crash anywhere leaves the pair or the message, or both with the ledger saying so: never neither, and never a
second copy. Recipients with an `errors_to` of their own become a message with that sender.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from typing import Final

import trio
from sqlalchemy import Connection

from deliver.dsn import Notify, OriginalRecipient, Ret, from_xtext, parse_orcpt
from deliver.errors import MessageError, UsageError
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import Clock
from deliver.pattern import any_matches
from deliver.queue import changes, store
from deliver.queue.content import StoredContent, Writer
from deliver.queue.intake import accept_event
from deliver.queue.store import Append
from deliver.relay.intake import Origin
from deliver.relay.received import hop_count
from deliver.report.log import say
from deliver.smtp.dot import MessageText
from deliver.spool import ledger
from deliver.spool.directory import NotYet, Pair, SpoolDirectory, Unusable, overdue
from deliver.spool.header import SpoolHeader, SpoolRecipient
from deliver.sqlrun import Sql

PIECE: Final = 256 * 1024  # octets
NEVER, SUCCESS, FAILURE, DELAY = 2, 4, 8, 16  # Exim's bits

_BRACKETED = re.compile(r"\[([^\]]+)\](?::\d{1,5})?\Z")

log = logging.getLogger("outrider.spool")


@dataclass(frozen=True, slots=True)
class Taken:
    """It is in the queue as these messages; none: everybody had it, or was taken before."""

    messages: tuple[MessageId, ...]
    recipients: int


@dataclass(frozen=True, slots=True)
class Later:
    """It cannot be taken now, and stays."""

    why: str


@dataclass(frozen=True, slots=True)
class Aside:
    """It can never be taken, and was moved away."""

    why: str


Taking = Taken | Later | Aside


@dataclass(frozen=True, slots=True)
class Intake:
    """Where messages go. `writer` makes a place for the content of one; `space` tells whether the disk has
    room for so many octets; `accepted` is called after each commit. Sizes in octets.
    """

    sql: Sql
    writer: Callable[[MessageId], Writer]
    space: Callable[[int], Awaitable[bool]]
    append: Append
    accepted: Callable[[], None]
    new_id: Callable[[], MessageId]
    clock: Clock
    hostname: str
    max_size: int
    max_hops: int
    skip_domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Examined:
    """What one reading of the whole content found."""

    digest: bytes
    size: int
    eight_bit: bool


@dataclass(slots=True)
class Part:
    """A message that is about to be queued."""

    envelope: Envelope
    addresses: tuple[str, ...]  # as the -H file spells them
    writer: Writer
    content: StoredContent | None = field(default=None)


async def take(directory: SpoolDirectory, spool_id: str, intake: Intake) -> Taking:
    """Take one pair, if it is ready. Raises StorageError."""
    now = intake.clock.now()
    try:
        with ExitStack() as stack:
            opening = directory.opened(spool_id, now)
            pair = await trio.to_thread.run_sync(stack.enter_context, opening)
            return await _take(directory, pair, intake, now)
    except NotYet as why:
        return Later(str(why))
    except MessageError as error:
        why_not = error.happened
    except Unusable as error:
        why_not = str(error)
    place = await trio.to_thread.run_sync(directory.set_aside, spool_id, why_not)
    say(log, logging.ERROR, "set aside", spool_id=spool_id, why=why_not, reason_in=place)
    return Aside(why_not)


async def _take(directory: SpoolDirectory, pair: Pair, intake: Intake, now: float) -> Taking:
    groups = envelopes(pair.header, intake.max_hops, intake.skip_domains)
    found = await trio.to_thread.run_sync(examine, pair, now)
    if found.size > intake.max_size:
        raise Unusable(f"it has more than {intake.max_size} octets (relay.max_message_size)")
    if not await intake.space(found.size * len(groups)):
        raise NotYet("there is no room in the queue")
    known = await intake.sql.read(partial(ledger.known, spool_id=pair.id, digest=found.digest))
    parts: list[Part] = []
    with trio.CancelScope(shield=True):
        try:
            for sender, recipients in groups:
                fresh = [one for one in recipients if one.address not in known]
                if fresh:
                    parts.append(await _part(pair, found, sender, fresh, intake, now))
            if parts:
                await intake.sql.write(partial(_queue, pair=pair, found=found, parts=parts, intake=intake))
        except BaseException:
            for part in parts:
                await part.writer.abandon()
            raise
        if parts:
            intake.accepted()
        await trio.to_thread.run_sync(directory.remove, pair.id)
    _tell(pair, parts)
    return Taken(
        tuple(part.envelope.id for part in parts), sum(len(part.envelope.recipients) for part in parts)
    )


def envelopes(
    header: SpoolHeader, max_hops: int, skip_domains: tuple[str, ...] = ()
) -> list[tuple[Mailbox | None, tuple[SpoolRecipient, ...]]]:
    """Senders with their recipients; none if nobody waits for us. Raises Unusable."""
    if "N" in header.variables:
        raise Unusable("it was submitted with -N: it is not meant to be delivered")
    if "frozen" in header.variables:
        raise Unusable("it is frozen")
    if not header.recipients:
        raise Unusable("it has no recipients")
    if hop_count(header.header.replace(b"\n", b"\r\n")) > max_hops:
        raise Unusable(f"it has more than {max_hops} Received headers: mail is looping")
    groups: dict[str, list[SpoolRecipient]] = {}
    for one in header.waiting:
        if any_matches(skip_domains, _mailbox(one.address, "the recipient").domain):
            continue
        groups.setdefault(one.errors_to or header.sender, []).append(one)
    return [
        (_mailbox(sender, "the sender") if sender else None, tuple(members))
        for sender, members in groups.items()
    ]


def recipient(ordinal: int, one: SpoolRecipient) -> Recipient:
    """What the line asks for; an ORCPT that cannot be read is left out. Raises Unusable."""
    original: OriginalRecipient | None = None
    if one.original:
        try:
            original = parse_orcpt(one.original)
        except UsageError as error:
            say(log, logging.WARNING, "ORCPT left out", to=one.address, why=error.happened)
    return Recipient(ordinal, _mailbox(one.address, "the recipient"), _notify(one.dsn), original)


def examine(pair: Pair, now: float) -> Examined:
    """Read all of it once. Raises MessageError; NotYet or Unusable for a body that is shorter than it was."""
    text = MessageText()
    digest = hashlib.sha256()
    for piece in pieces(pair, text):
        digest.update(piece)
    body_lines = _lines(pair)
    expected = pair.header.body_lines
    if expected is not None and body_lines < expected:
        raise overdue(f"-D has {body_lines} lines of {expected}", pair.changed_at, now)
    whole = hashlib.sha256(digest.digest() + pair.header.sender.encode()).digest()
    return Examined(whole, text.size, text.eight_bit)


def pieces(pair: Pair, text: MessageText) -> Iterator[bytes]:
    """The content in portions, as it is sent. Raises MessageError."""
    yield text.feed(pair.header.header + b"\n")
    for piece in _body(pair):
        yield text.feed(piece)
    yield text.finish()


def received(hostname: str, message_id: MessageId, recipients: tuple[Recipient, ...], now: float) -> bytes:
    """Our Received field. Exim's own, below it, says where the message came from."""
    to = f"\r\n for <{recipients[0].mailbox}>" if len(recipients) == 1 else ""
    if not to.isascii():
        to = ""
    date = format_datetime(datetime.fromtimestamp(int(now), UTC))
    return f"Received: by {hostname} (Outrider) id {message_id}{to};\r\n {date}\r\n".encode("ascii")


async def _part(
    pair: Pair,
    found: Examined,
    sender: Mailbox | None,
    members: list[SpoolRecipient],
    intake: Intake,
    now: float,
) -> Part:
    """Write the content for one of the envelopes. Raises StorageError, after removing it."""
    message_id = intake.new_id()
    recipients = tuple(recipient(ordinal, one) for ordinal, one in enumerate(members))
    writer = intake.writer(message_id)
    ours = received(intake.hostname, message_id, recipients, now)
    try:
        await writer.write(ours)
        content = pieces(pair, MessageText())
        while (piece := await trio.to_thread.run_sync(next, content, None)) is not None:
            await writer.write(piece)
        stored = await writer.finish()
    except BaseException:
        await writer.abandon()
        raise
    variables = pair.header.variables
    envelope = Envelope(
        message_id,
        sender,
        recipients,
        len(ours) + found.size,
        found.eight_bit,
        now,
        smtputf8="smtputf8" in variables,
        ret={"1": Ret.FULL, "2": Ret.HDRS}.get(variables.get("dsn_ret", "")),
        envid=_envid(variables.get("dsn_envid", "")),
        authenticated=_printable(variables.get("auth_id", "")) or None,
    )
    return Part(envelope, tuple(one.address for one in members), writer, stored)


def _queue(conn: Connection, *, pair: Pair, found: Examined, parts: list[Part], intake: Intake) -> None:
    variables = pair.header.variables
    for part in parts:
        envelope = part.envelope
        origin = Origin(
            envelope.id,
            client_of(variables.get("host_address", "")),
            _printable(variables.get("helo_name", "")),
            "spool",
            envelope.received_at,
        )
        assert part.content is not None
        store.accept(
            conn,
            envelope,
            part.content,
            (accept_event(envelope, origin),),
            envelope.received_at,
            intake.append,
        )
        ledger.note(conn, pair.id, found.digest, part.addresses, envelope.id, envelope.received_at)
    changes.note_change(conn)


def _tell(pair: Pair, parts: list[Part]) -> None:
    header = pair.header
    if not parts:
        say(log, logging.INFO, "nothing left to deliver", spool_id=pair.id)
    for part in parts:
        say(
            log, logging.INFO, "message taken", id=part.envelope.id, spool_id=pair.id,
            sender=f"<{part.envelope.reverse_path}>", recipients=len(part.envelope.recipients),
            size=part.envelope.size, client=client_of(header.variables.get("host_address", "")) or None,
            authenticated=part.envelope.authenticated,
            unknown=", ".join(header.unknown[:20]) or None,
        )  # fmt: skip


def client_of(host_address: str) -> str:
    """The IP address in `[192.0.2.1]:25`, `192.0.2.1.25` or `192.0.2.1`; empty for anything else."""
    inside = _BRACKETED.match(host_address)
    for text in (inside[1] if inside else host_address, host_address.rpartition(".")[0]):
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(text))
    return ""


def _lines(pair: Pair) -> int:
    return sum(piece.count(b"\n") for piece in _body(pair))


def _body(pair: Pair) -> Iterator[bytes]:
    at = pair.offset
    while piece := os.pread(pair.body, PIECE, at):
        at += len(piece)
        yield piece


def _mailbox(address: str, whose: str) -> Mailbox:
    try:
        return Mailbox.parse(address, utf8=True)
    except UsageError as error:
        raise Unusable(f"{whose} {address[:200]!r} cannot be used: {error.happened}") from None


def _notify(dsn: int) -> frozenset[Notify] | None:
    if dsn & NEVER:
        return frozenset({Notify.NEVER})
    asked = {
        word
        for bit, word in ((SUCCESS, Notify.SUCCESS), (FAILURE, Notify.FAILURE), (DELAY, Notify.DELAY))
        if dsn & bit
    }
    return frozenset(asked) or None


def _envid(encoded: str) -> str | None:
    try:
        return from_xtext(encoded) or None
    except UsageError:
        return None


def _printable(text: str) -> str:
    return text if text.isascii() and text.isprintable() and len(text) <= 255 else ""
