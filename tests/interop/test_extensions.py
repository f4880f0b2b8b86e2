"""CHUNKING, PRDR and many recipients with real Exim and Postfix, over our own wire."""

from __future__ import annotations

import pytest
import trio

from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.wire import Wire
from deliver.outcome import Contact, Deferred, Delivered, Failed, Outcome
from deliver.settings import Timeouts
from deliver.smtp.batch import Batch
from deliver.smtp.chunking import CHUNK, FIRST_CHUNK
from deliver.smtp.command import BdatLast, Data
from deliver.smtp.transaction import Transaction
from tests.interop.peers.exim import Exim, EximConfig
from tests.interop.peers.factory import Factory
from tests.interop.peers.postfix import Postfix, PostfixConfig

HEADER = b"From: a@sender.test\r\nSubject: chunks\r\n\r\n"
SMALL = HEADER + b".a dot\r\n..two dots\r\n"
LINE = b".0123456789abcdef0123456789abcdef0123456789abcdef\r\n"
MIDDLE = HEADER + LINE * (FIRST_CHUNK // len(LINE) + 10)
LARGE = HEADER + LINE * (3 * CHUNK // len(LINE))


class Text:
    """Content in memory."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.size = len(octets)

    async def read(self, offset: int, length: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._octets[offset : offset + length]


class Session:
    """What one connection to a server brought."""

    def __init__(self) -> None:
        self.outcomes: list[list[Outcome]] = []
        self.transactions: list[Transaction] = []
        self.flights = 0


async def deliver(server: Exim | Postfix, who: list[str], *texts: bytes, chunking: bool = True) -> Session:
    """The texts one after the other over one connection, to the same recipients."""
    done = Session()
    wire = Wire(await trio.open_tcp_stream(server.address, server.port), Timeouts())
    await wire.greeting()
    await wire.ehlo("relay.sender.test")
    begun = wire.ledger.flights
    recipients = tuple(Recipient(n, Mailbox.parse(name)) for n, name in enumerate(who))
    contact = Contact("mx", server.address, server.port)
    for text in texts:
        envelope = Envelope(MessageId("m"), Mailbox.parse("a@sender.test"), recipients, len(text), False, 0.0)

        def begin(these: tuple[Recipient, ...], chunks: bool, envelope: Envelope = envelope) -> Transaction:
            made = Transaction(envelope, these, wire.capabilities, contact, chunking=chunks and chunking)
            done.transactions.append(made)
            return made

        batch = Batch(begin, recipients, wire.capabilities.limits, contact)
        while (transaction := batch.following()) is not None:
            await wire.transact(transaction, Text(text))
            assert wire.reusable
        done.outcomes.append([outcome for _, outcome in batch.outcomes()])
    done.flights = wire.ledger.flights - begun
    await wire.close()
    return done


def commands(transaction: Transaction) -> set[type]:
    return {type(exchange.command) for exchange in transaction.exchanges}


@pytest.fixture(params=["exim", "postfix"])
def server(
    request: pytest.FixtureRequest,
    exim: Factory[EximConfig, Exim],
    postfix: Factory[PostfixConfig, Postfix],
) -> Exim | Postfix:
    if request.param == "exim":
        return exim(hostname="mx.chunks.test", prdr=False)
    return postfix(hostname="mx.chunks.test", discard_ehlo=())


@pytest.mark.parametrize("text", [SMALL, MIDDLE, LARGE], ids=["small", "middle", "large"])
async def test_chunks_arrive_whole(server: Exim | Postfix, text: bytes) -> None:
    who = f"chunks{len(text)}@one.test"
    session = await deliver(server, [who], text, text)
    assert [type(outcome) for (outcome,) in session.outcomes] == [Delivered, Delivered]
    for transaction in session.transactions:
        assert BdatLast in commands(transaction)
        assert Data not in commands(transaction)
    for received in server.mailbox.to(who, 2):
        assert received.content == text
    assert session.flights == (2 if text is SMALL else 4)


async def test_data_arrives_just_the_same(server: Exim | Postfix) -> None:
    session = await deliver(server, ["data@one.test"], MIDDLE, chunking=False)
    assert isinstance(session.outcomes[0][0], Delivered)
    assert session.flights == 2
    (received,) = server.mailbox.to("data@one.test")
    assert received.content == MIDDLE


async def test_refused_recipients_and_then_another_message(exim: Factory[EximConfig, Exim]) -> None:
    server = exim(hostname="mx.refusing.test", rcpt="deny local_parts = gone\n  accept")
    for text in (SMALL, MIDDLE):
        session = await deliver(server, ["gone@one.test"], text, text)
        assert [type(outcome) for (outcome,) in session.outcomes] == [Failed, Failed]
    mixed = await deliver(server, ["gone@one.test", "here@one.test"], LARGE)
    assert [type(outcome) for outcome in mixed.outcomes[0]] == [Failed, Delivered]


async def test_content_refused_by_its_chunks(exim: Factory[EximConfig, Exim]) -> None:
    server = exim(hostname="mx.tasting.test", data="deny message = no such taste")
    session = await deliver(server, ["a@one.test"], SMALL, LARGE)
    for (outcome,) in session.outcomes:
        assert isinstance(outcome, Failed)
        assert "no such taste" in outcome.why


@pytest.mark.parametrize("chunking", [True, False])
async def test_prdr_settles_each_recipient_by_its_own_answer(
    exim: Factory[EximConfig, Exim], chunking: bool
) -> None:
    rule = "deny local_parts = never\n  defer local_parts = later\n  accept"
    server = exim(hostname="mx.prdr.test", prdr=True, data_prdr=rule)
    who = [f"{name}@prdr{chunking}.test" for name in ("ok", "never", "later", "fine")]
    session = await deliver(server, who, SMALL, SMALL, chunking=chunking)
    for outcomes in session.outcomes:
        assert [type(outcome) for outcome in outcomes] == [Delivered, Failed, Deferred, Delivered]
        assert not any(isinstance(outcome, Deferred) and outcome.in_doubt for outcome in outcomes)
    assert len(server.mailbox.to(who[0], 2)) == 2


async def test_prdr_refused_altogether(exim: Factory[EximConfig, Exim]) -> None:
    rule = "deny local_parts = never\n  accept"
    server = exim(hostname="mx.prdr2.test", prdr=True, data_prdr=rule, data="defer message = not today")
    session = await deliver(server, ["ok@prdr.test", "never@prdr.test"], SMALL)
    first, second = session.outcomes[0]
    assert isinstance(first, Deferred)
    assert "not today" in first.why
    assert isinstance(second, Failed)


@pytest.mark.parametrize("program", ["exim", "postfix"])
async def test_recipients_refused_for_coming_too_late_are_offered_again(
    exim: Factory[EximConfig, Exim], postfix: Factory[PostfixConfig, Postfix], program: str
) -> None:
    if program == "exim":
        server: Exim | Postfix = exim(hostname="mx.limit.test", main="recipients_max = 5")
    else:
        server = postfix(hostname="mx.limit.test", main="smtpd_recipient_limit = 5")
    who = [f"r{n}@late.test" for n in range(12)]
    session = await deliver(server, who, SMALL)
    assert [type(outcome) for outcome in session.outcomes[0]] == [Delivered] * 12
    assert len(session.transactions) == 3
    for name in who:
        assert len(server.mailbox.to(name)) == 1
