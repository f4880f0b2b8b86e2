"""Properties of the SMTP client: portions do not matter, garbage does no more than end the session."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import trio
import trio.testing
from hypothesis import given, settings, strategies as st

from deliver.errors import PeerError
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.wire import Wire
from deliver.outcome import Contact, Deferred, Delivered, Failed
from deliver.settings import Smtp, Timeouts
from deliver.smtp.ehlo import Capabilities
from deliver.smtp.reply import MalformedReply, Reply, ReplyParser
from deliver.smtp.transaction import Transaction
from deliver.tls.policy import TlsPolicy
from tests.simulate.early import CLEAR, EARLY, SECURE, SMTP, run, script

QUICK = settings(max_examples=100, deadline=None, derandomize=True)

line = st.one_of(
    st.binary(max_size=12),
    st.builds(
        lambda code, mark, text: b"%d%b%b" % (code, mark, text),
        st.sampled_from([220, 250, 354, 421, 550, 199, 600]),
        st.sampled_from([b" ", b"-", b""]),
        st.binary(max_size=8),
    ),
)
stream = st.lists(st.tuples(line, st.sampled_from([b"\r\n", b"\r\n", b"\n", b"\r"])), max_size=8).map(
    lambda lines: b"".join(text + end for text, end in lines)
)


def read(portions: list[bytes]) -> tuple[list[Reply], str | None]:
    parser, replies = ReplyParser(), []
    for portion in portions:
        parser.feed(portion)
        try:
            while (reply := parser.next_reply()) is not None:
                replies.append(reply)
        except MalformedReply as malformed:
            return replies, str(malformed)
    return replies, None


@QUICK
@given(stream, st.lists(st.integers(0, 120), max_size=10))
def test_portions_do_not_change_replies(octets: bytes, cuts: list[int]) -> None:
    ends = sorted({min(cut, len(octets)) for cut in cuts} | {0, len(octets)})
    portions = [octets[begin:end] for begin, end in pairwise(ends)]
    whole = read([octets])
    assert read(portions) == whole
    assert read([octets[at : at + 1] for at in range(len(octets))]) == whole
    for reply in whole[0]:
        assert 200 <= reply.code <= 599
        assert all(text.isprintable() for text in reply.lines)
        Capabilities.parse(reply)


class Text:
    size = 6

    async def read(self, offset: int, length: int) -> bytes:
        return b"text\r\n"[offset : offset + length]


def deliver(answers: list[bytes], close: bool) -> tuple[Transaction, bytes]:
    """A transaction against a server that answers lines by rote; the octets that it got."""
    recipients = tuple(Recipient(n, Mailbox(f"r{n}", "example.net")) for n in range(2))
    envelope = Envelope(MessageId("m"), None, recipients, 6, False, 0.0)
    capabilities = Capabilities.parse(Reply(250, ("mx", "PIPELINING")))
    subject = Transaction(envelope, recipients, capabilities, Contact("mx", "192.0.2.1", 25))
    got = b""

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()

        async def serve() -> None:
            with suppress(trio.BrokenResourceError):  # the client has left
                await answer_by_rote()

        async def answer_by_rote() -> None:
            nonlocal got
            await theirs.send_all(b"220 mx\r\n")
            await theirs.receive_some()
            await theirs.send_all(b"250-mx\r\n250 PIPELINING\r\n")
            for answer in answers:
                data = bytes(await theirs.receive_some()) if not got.endswith(b"DATA\r\n") else b""
                got += data
                if answer:
                    await theirs.send_all(answer)
            if close:
                await theirs.send_eof()
            while data := bytes(await theirs.receive_some()):
                got += data

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            wire = Wire(ours, Timeouts())
            await wire.greeting()
            try:
                await wire.ehlo("us")
            except PeerError:
                subject.lost("no EHLO")
            else:
                await wire.transact(subject, Text())
            await wire.close()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return subject, got


answer = st.one_of(
    st.sampled_from(
        [
            b"250 ok\r\n",
            b"250 ok\r\n",
            b"354 go\r\n",
            b"550 no\r\n",
            b"421 bye\r\n",
            b"451 x\r\n",
            b"250-a\r\n",
        ]
    ),
    st.binary(max_size=6),
    stream,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(answer, max_size=8), st.booleans())
def test_whatever_a_server_says_each_recipient_has_one_honest_outcome(
    answers: list[bytes], close: bool
) -> None:
    subject, got = deliver(answers, close)
    outcomes = [outcome for _, outcome in subject.outcomes()]
    assert len(outcomes) == 2
    dot_left = b"\r\ntext\r\n.\r\n" in got
    for outcome in outcomes:
        assert isinstance(outcome, Delivered | Deferred | Failed)
        if isinstance(outcome, Delivered):
            assert outcome.reply.positive
            assert dot_left
        if isinstance(outcome, Deferred) and outcome.in_doubt:
            assert dot_left


points = st.sampled_from(["greeting", "EHLO", "EHLO-TLS", "STARTTLS", "MAIL", "RCPT", "DATA", "BDAT"])
said = st.one_of(
    st.none(),
    st.sampled_from(
        ["250 ok", "220 go", "354 go", "353 go", "421 bye", "451 later", "503 what", "550 no", ""]
    ),
    st.sampled_from(["250-mx\r\n250 PIPELINING", "250-mx\r\n250-CHUNKING\r\n250 LIMITS RCPTMAX=1", "x\r\ny"]),
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.dictionaries(points, said, max_size=3),
    st.dictionaries(points, said, max_size=2),
    st.sets(st.sampled_from(EARLY)),
    st.booleans(),
    st.sampled_from([SECURE, CLEAR]),
)
def test_whatever_a_server_says_to_early_commands(
    first: dict[str, str | None],
    second: dict[str, str | None],
    lost: set[str],
    chunks: bool,
    policy: TlsPolicy,
) -> None:
    """Few connections, one outcome per recipient, nothing in clear text where TLS is required."""
    left = tuple(word for word in EARLY if word not in lost)
    smtp = Smtp(timeouts=SMTP.timeouts, early_bdat_clear=chunks)
    odd = script(replies=first, keywords_tls=left, keywords=left if policy is CLEAR else EARLY)
    ran = run(
        b"Subject: x\r\n\r\ntext\r\n", odd, script(replies=second), learnt=script(), policy=policy, smtp=smtp
    )
    assert len(ran.servers) <= 3, "one more for early commands, one more for a failed handshake"
    assert set(ran.outcomes) == {"ann", "nobody", "bob"}
    for outcome in ran.outcomes.values():
        assert isinstance(outcome, Delivered | Deferred | Failed)
    for who in ran.held:
        found = ran.outcomes[who]
        assert not isinstance(found, Failed)
        assert isinstance(found, Delivered) or (isinstance(found, Deferred) and found.in_doubt), found
    if policy.required:
        for server in ran.servers:
            assert not any(line.startswith(("MAIL", "RCPT", "DATA", "BDAT")) for line in server.in_clear)
    assert all(stream.closed for stream in ran.streams)
