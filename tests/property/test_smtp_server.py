"""Whatever the pieces in which octets arrive: same replies, same messages; garbage never raises."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from deliver.smtp.action import AbandonContent, BeginContent, Close, ContentChunk, EndContent, Send
from deliver.smtp.server import Limits, ServerMachine, State
from deliver.smtp.undot import IncomingContent

LIMITS = Limits(message_size=300, recipients=3, errors=8, idle_commands=20)

Transcript = tuple[bytes, tuple[tuple[EndContent, bytes], ...], bool]


def serve(pieces: list[bytes]) -> Transcript:
    """What a driver that accepts everything writes and keeps, and whether the connection was closed."""
    machine = ServerMachine(LIMITS, "relay.test")
    written, content, kept, closed = b"", b"", [], False
    for piece in [b"", *pieces]:
        if piece:
            machine.receive(piece)
        while (action := machine.next_action()) is not None:
            match action:
                case Send(data=data):
                    written += data
                case ContentChunk(data=data):
                    content += data
                case AbandonContent():
                    content = b""
                case Close():
                    closed = True
                case EndContent():
                    kept.append((action, content))
                    machine.accept()
                case BeginContent():
                    content = b""
                    machine.accept()
                case _:
                    machine.accept()
    assert closed == (machine.state is State.CLOSED)
    return written, tuple(kept), closed


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


COMMANDS = st.sampled_from(
    [
        b"EHLO client.test\r\n",
        b"HELO client.test\r\n",
        b"MAIL FROM:<a@example.org>\r\n",
        b"MAIL FROM:<> SIZE=10 BODY=8BITMIME\r\n",
        b"RCPT TO:<b@example.net>\r\n",
        b"RCPT TO:<c@example.net>\r\n",
        b"DATA\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"QUIT\r\n",
        b"NOOP " + b"x" * 2100 + b"\r\n",
    ]
)
SNIPPETS = st.sampled_from(
    [
        b"\r\n.\r\n",
        b".",
        b"..",
        b"\r\n",
        b"\r\n.",
        b"\r",
        b"\n",
        b"\n.\n",
        b"\r\n.\r",
        b"text",
        b"\xff",
        b"\0",
        b"y" * 200,
    ]
)
OPENING = b"EHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"
SESSIONS = st.lists(st.one_of(COMMANDS, SNIPPETS, st.just(OPENING), st.binary(max_size=12)), max_size=25).map(
    b"".join
)
PLACES = st.lists(st.integers(min_value=0, max_value=5000), max_size=40)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(SESSIONS, PLACES)
@example(OPENING + b"a\r\n.\r\nQUIT\r\n", [])
@example(OPENING + b".\r\n" + OPENING + b"..\r\n.\r\n", [])
def test_chunking_changes_nothing(session: bytes, places: list[int]) -> None:
    whole = serve([session])
    assert serve(cut(session, places)) == whole
    assert serve([session[n : n + 1] for n in range(len(session))]) == whole


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(SNIPPETS, max_size=12).map(b"".join), PLACES)
def test_messages_come_out_as_they_went_in(text: bytes, places: list[int]) -> None:
    """Stuffed as RFC 5321 4.5.2 says; what has bare line ends or NUL is refused, the next message is not hurt."""
    content = text + b"\r\n"
    stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
    session = OPENING + stuffed + b".\r\n" + OPENING + b"second\r\n.\r\n"
    _, kept, closed = serve(cut(session, places))
    assert not closed
    clean = content.replace(b"\r\n", b"")
    acceptable = not ({*b"\r\n\0"} & {*clean}) and len(content) <= LIMITS.message_size
    assert [body for _, body in kept] == ([content] if acceptable else []) + [b"second\r\n"]


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.binary(max_size=200), PLACES)
def test_content_ends_at_the_first_crlf_dot_crlf_and_nowhere_else(data: bytes, places: list[int]) -> None:
    incoming = IncomingContent(0)
    rest = b""
    for piece in cut(data, places):
        if incoming.ended:
            rest += piece
        else:
            rest += incoming.feed(piece)[1]
    end = (b"\r\n" + data).find(b"\r\n.\r\n")
    assert incoming.ended == (end >= 0)
    assert rest == (data[end + 3 :] if end >= 0 else b"")
