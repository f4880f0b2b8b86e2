"""The relay's front from its stream to its intake: any octets, in any pieces, in every state, and it ends in order.

Beside `test_smtp_server` (the machine alone) this has PROXY headers, TLS in between, AUTH with answers that take their
time, PRDR with limits of recipients, and the intake's beginnings and ends.
"""

from __future__ import annotations

import logging
import re
from base64 import b64encode
from itertools import pairwise

import trio
from hypothesis import example, given, strategies as st
from trio.testing import MockClock, memory_stream_pair

from deliver.relay.listener import Listener
from deliver.settings import RecipientLimit, Relay, Size
from deliver.smtp.action import (
    AbandonContent,
    BeginContent,
    ContentChunk,
    EndContent,
    Handshake,
    Question,
)
from deliver.smtp.offer import Limits, Offer
from deliver.smtp.server import ServerMachine, State
from tests.doorstep import Memory, listener
from tests.unit.relay.test_front import FakeSecurity

CLIENT, BALANCER = "127.0.0.1", "192.0.2.80"
REPLY = re.compile(rb"[2-5][0-9][0-9][ -][\x20-\x7e]*\r\n")
LOGIN = b"AUTH PLAIN " + b64encode(b"\0ann\0secret") + b"\r\n"
WRONG = b"AUTH PLAIN " + b64encode(b"\0ann\0wrong") + b"\r\n"
HEADERS = (
    b"PROXY TCP4 127.0.0.9 192.0.2.25 5000 25\r\n",
    b"PROXY UNKNOWN\r\n",
    b"PROXY TCP4 x\r\n",
    b"\r\n\r\n\0\r\nQUIT\n",
)
SETTINGS = Relay(
    max_message_size=Size(2000),
    max_hops=3,
    proxy=(f"{BALANCER}/32",),
    recipient_limit=(
        RecipientLimit(recipients=("*@pager.test",), max_message_size=Size(20), refuse_headers=("Subject: *x*",)),
        RecipientLimit(recipients=("*@ascii.test",), eight_bit=False),
    ),
)  # fmt: skip

PIECES = st.sampled_from(
    [
        b"EHLO c.test\r\n",
        b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\n",
        b"MAIL FROM:<a@example.org> PRDR\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<c@pager.test>\r\nRCPT TO:<d@ascii.test>\r\n",
        b"MAIL FROM:<a@example.org> SIZE=9 REQUIRETLS\r\n",
        b"DATA\r\n",
        b"Subject: x\r\n y\r\n\r\ntext\r\n.\r\n",
        b"Received: a\r\n" * 5 + b"\r\n.\r\n",
        b"\xff\r\n.\r\n",
        b"BDAT 12 LAST\r\nSubject: x\r\n",
        b"BDAT 5\r\n\xfftext",
        b"BDAT 0 LAST\r\n",
        b"RSET\r\n",
        b"QUIT\r\n",
        b"AUTH PLAIN\r\n",
        b"*\r\n",
        LOGIN,
        WRONG,
        b".",
        b"\r\n",
        b"\n",
        b"y" * 2100,
    ]
)  # fmt: skip
ENVELOPES = st.sampled_from(
    [
        b"EHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\n",
        b"EHLO c\r\nMAIL FROM:<> PRDR\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<c@pager.test>\r\nRCPT TO:<d@ascii.test>\r\n",
    ]
)  # fmt: skip
CONTENTS = st.sampled_from(
    [
        b"DATA\r\nSubject: y\r\n\r\nhello\r\n.\r\n",
        b"DATA\r\nSubject: x\r\n\r\n..\xff\r\n.\r\n",
        b"BDAT 3\r\nSubBDAT 13 LAST\r\nject: x\r\n\r\n\xfe",
        b"DATA\r\n" + b"long\r\n" * 400 + b".\r\n",
    ]
)  # fmt: skip
MESSAGES = st.tuples(ENVELOPES, CONTENTS).map(b"".join)
SESSIONS = st.lists(st.one_of(MESSAGES, MESSAGES, PIECES, st.binary(max_size=10)), max_size=12).map(b"".join)
PLACES = st.lists(st.integers(0, 5000), max_size=30)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if start < end]


class Complaints(logging.Handler):
    """What the log says of errors of ours."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def converse(pieces: list[bytes], client: str = CLIENT) -> tuple[bytes, Memory]:
    """All that the front answers to a client that sends these pieces and closes."""
    memory, complaints = Memory(), Complaints()

    async def main() -> bytes:
        front: Listener = listener(memory, SETTINGS, security=FakeSecurity())
        ours, theirs = memory_stream_pair()
        answered = bytearray()

        async def talk() -> None:
            try:
                for piece in pieces:
                    await trio.testing.wait_all_tasks_blocked()
                    await ours.send_all(piece)
                await ours.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the front had enough

        async def listen() -> None:
            try:
                while data := await ours.receive_some():
                    answered.extend(data)
            except trio.BrokenResourceError:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            nursery.start_soon(listen)
            await front.handle(theirs, client)
        return bytes(answered)

    log = logging.getLogger("outrider.relay")
    log.addHandler(complaints)
    try:
        answered = trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        log.removeHandler(complaints)
    assert complaints.said == []
    assert memory.open == 0, "a message was neither taken nor abandoned"
    return answered, memory


def in_order(answered: bytes) -> bool:
    """Whether these are replies, and nothing but replies."""
    return all(REPLY.fullmatch(line) for line in answered.splitlines(keepends=True))


def messages(memory: Memory) -> list[tuple[tuple[str, ...], bytes]]:
    """Recipients and what follows our Received field, which tells when."""
    found = []
    for envelope, content in memory.accepted:
        assert envelope.size == len(content)
        _, _, rest = re.split(rb"(\r\n(?![ \t]))", content, maxsplit=1)
        found.append((tuple(str(each.mailbox) for each in envelope.recipients), rest))
    return found


@given(SESSIONS, PLACES)
@example(b"EHLO c\r\nMAIL FROM:<a@example.org> PRDR\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<c@pager.test>\r\nDATA\r\nSubject: x\r\n\r\n.\r\nQUIT\r\n", [3, 90, 150])  # fmt: skip
def test_pieces_change_nothing(session: bytes, places: list[int]) -> None:
    whole, kept = converse([session])
    assert in_order(whole)
    again, kept_again = converse(cut(session, places))
    assert re.sub(rb"queued as \S+", b"", again) == re.sub(rb"queued as \S+", b"", whole)
    assert messages(kept_again) == messages(kept)


@given(
    st.lists(st.one_of(PIECES, st.just(b"STARTTLS\r\n"), st.binary(max_size=10)), max_size=16), st.booleans()
)
@example([b"EHLO c\r\nSTARTTLS\r\n", b"EHLO c\r\n" + WRONG, LOGIN, b"QUIT\r\n"], True)
@example([b"EHLO c\r\nSTARTTLS\r\n", b"EHLO c\r\nAUTH PLAIN\r\n", b"QUIT\r\n"], True)
def test_with_tls_and_logins(pieces: list[bytes], one: bool) -> None:
    answered, _ = converse(pieces if one else [b"".join(pieces)])
    assert in_order(answered)
    assert not (b"235 " in answered and b"220 2.0.0" not in answered), "a login outside TLS"


@given(st.one_of(st.sampled_from(HEADERS), st.binary(max_size=40)), SESSIONS, PLACES)
@example(HEADERS[0], b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n.\r\n", [10, 30, 60])
def test_behind_a_balancer(header: bytes, session: bytes, places: list[int]) -> None:
    whole, _ = converse([header + session], BALANCER)
    assert in_order(whole)
    assert re.sub(rb"queued as \S+", b"", converse(cut(header + session, places), BALANCER)[0]) == re.sub(
        rb"queued as \S+", b"", whole
    )
    if header == HEADERS[1]:
        assert b"354 " not in whole, "nobody's mail"


Seen = tuple[bytes, list[bytes]]


def machine_says(clear: list[bytes], inside: list[bytes]) -> Seen:
    """The machine with one handshake: what it wrote, and the messages; inside TLS these pieces come."""
    offer = Offer(starttls=True, mechanisms=())
    machine = ServerMachine(
        Limits(message_size=300, recipients=3, errors=8, idle_commands=20), "relay.test", offer
    )
    written, content, kept = b"", b"", []
    rest = [*clear]
    while True:
        while (action := machine.next_action()) is not None:
            written += machine.take_output()
            match action:
                case ContentChunk(data=data):
                    content += data
                case AbandonContent():
                    content = b""
                case Handshake():
                    machine.tls_started(Offer())
                    written, rest, inside = written + b"[TLS]", inside, []
                case EndContent():
                    kept.append(content)
                    machine.accept()
                case _ if isinstance(action, Question):
                    content = b"" if isinstance(action, BeginContent) else content
                    machine.accept()
        written += machine.take_output()
        if not rest or machine.state is State.CLOSED:
            return written, kept
        machine.receive(rest[0])
        rest = rest[1:]


@given(SESSIONS, SESSIONS, PLACES, PLACES)
def test_pieces_change_nothing_on_either_side_of_starttls(
    clear: bytes, inside: bytes, early: list[int], late: list[int]
) -> None:
    opening = clear + b"\r\nRSET\r\nEHLO c\r\nSTARTTLS\r\n"
    assert machine_says(cut(opening, early), cut(inside, late)) == machine_says([opening], [inside])


@given(SESSIONS.filter(bool), PLACES)
def test_nothing_behind_starttls_is_ever_obeyed(behind: bytes, places: list[int]) -> None:
    """Octets that arrive with STARTTLS were not encrypted: the session ends (RFC 3207 4.2, 6)."""
    written, kept = machine_says([b"EHLO c\r\nSTARTTLS\r\n" + behind], cut(behind, places))
    assert b"[TLS]" not in written
    assert kept == []
