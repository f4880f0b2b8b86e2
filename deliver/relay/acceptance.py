"""The message that a client is sending, from its first octet to its envelope."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from deliver.errors import MessageError, OutriderError
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.relay.admission import ContentFacts
from deliver.relay.headerfields import HeaderFields
from deliver.relay.intake import Origin, Sink
from deliver.relay.received import HopCounter, protocol_name, received_header
from deliver.relay.security import Client
from deliver.relay.submission import Completion
from deliver.relay.terms import Terms
from deliver.smtp.action import BeginContent, EndContent
from deliver.smtp.reply import Reply
from deliver.smtp.server import ServerMachine


@dataclass(slots=True)
class Incoming:
    """The message whose content is being received.

    `completion` where a submission may lack fields, `fields` where limits of recipients look at some.
    """

    origin: Origin
    sink: Sink
    header_size: int
    hops: HopCounter
    completion: Completion | None = None
    fields: HeaderFields | None = None

    async def write(self, data: bytes) -> None:
        """Keep content as it came, with what it lacks. Raises OutriderError."""
        if self.fields is not None:
            self.fields.feed(data)
        if self.completion is not None:
            data = self.completion.feed(data)
        if data:
            await self.sink.write(data)

    async def complete(self) -> None:
        """The content has ended. Raises OutriderError."""
        rest = self.completion.finish() if self.completion is not None else b""
        if rest:
            await self.sink.write(rest)


def origin_of(
    message_id: MessageId, client: Client, machine: ServerMachine, now: float, *, lmtp: bool, utf8: bool
) -> Origin:
    """Where the message that begins comes from; `now` in seconds since the epoch."""
    protocol = protocol_name(
        lmtp=lmtp,
        extended=machine.extended,
        utf8=utf8,
        secured=client.secured is not None,
        authenticated=client.authenticated is not None,
    )
    return Origin(
        message_id, client.address, machine.helo, protocol, now, client.authenticated or "", client.proxy
    )


def incoming_at(sink: Sink, origin: Origin, header_size: int, terms: Terms) -> Incoming:
    """The message that begins, on these terms."""
    completion = None
    if terms.submission:
        completion = Completion(origin.received_at, f"{origin.message_id}@{terms.hostname}")
    fields = HeaderFields(terms.header_names) if terms.header_names else None
    return Incoming(origin, sink, header_size, HopCounter(), completion, fields)


def facts_of(incoming: Incoming, question: EndContent) -> ContentFacts:
    """What is known of content that has ended."""
    fields = incoming.fields.found() if incoming.fields is not None else ()
    return ContentFacts(question.size, question.eight_bit, incoming.hops.hops, fields)


def envelope_of(incoming: Incoming, question: EndContent, without: Iterable[Mailbox] = ()) -> Envelope:
    """The envelope of a message whose content has ended, for all recipients but some."""
    origin, mail = incoming.origin, question.mail
    excluded = frozenset(without)
    rcpts = [rcpt for rcpt in question.rcpts if rcpt.mailbox not in excluded] if excluded else question.rcpts
    added = incoming.completion.added if incoming.completion is not None else 0
    return Envelope(
        origin.message_id,
        mail.sender,
        tuple([Recipient(n, rcpt.mailbox, rcpt.notify, rcpt.original) for n, rcpt in enumerate(rcpts)]),
        incoming.header_size + question.size + added,
        question.eight_bit,
        origin.received_at,
        smtputf8=mail.smtputf8,
        ret=mail.ret,
        envid=mail.envid,
        authenticated=origin.authenticated or None,
        requires_tls=mail.requires_tls,
    )


def accept(
    machine: ServerMachine, question: EndContent, envelope: Envelope, refused: Mapping[Mailbox, Reply]
) -> None:
    """Say that the message is ours, but for the recipients that were refused."""
    final = Reply(250, (f"2.0.0 Ok: queued as {envelope.id}",))
    if question.individually:
        taken = Reply(250, ("2.1.5 Recipient ok",))
        machine.accept_some({box: refused.get(box, taken) for box in question.recipients}, final)
    else:
        machine.accept(final)


def header_of(origin: Origin, question: BeginContent, client: Client, hostname: str) -> bytes:
    """Our Received header for the message that begins."""
    secured = client.secured
    return received_header(
        helo=origin.helo,
        client=origin.client,
        hostname=hostname,
        protocol=origin.protocol,
        message_id=origin.message_id,
        recipients=tuple([rcpt.mailbox for rcpt in question.rcpts]),
        now=origin.received_at,
        tls=(secured.version, secured.cipher) if secured else None,
    )


def apology(error: OutriderError) -> Reply:
    """What a client learns of an error of ours: whether to try again, not which file or disk it was."""
    if isinstance(error, MessageError):
        return Reply(554, (f"5.6.0 The message cannot be accepted: {error.happened}",))
    return Reply(451, ("4.3.0 The message cannot be queued now, try again later",))
