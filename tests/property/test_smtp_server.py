"""Whatever the pieces in which octets arrive: same replies, same messages; garbage never raises."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from hypothesis import example, given, settings, strategies as st

from deliver.smtp.action import (
    AbandonContent,
    AbandonExchange,
    AuthExchange,
    BeginContent,
    Close,
    ConsiderSender,
    ContentChunk,
    EndContent,
    Handshake,
    Question,
)
from deliver.smtp.offer import Offer
from deliver.smtp.reply import Reply
from deliver.smtp.server import Limits, ServerMachine, State
from deliver.smtp.undot import IncomingContent

LIMITS = Limits(message_size=300, recipients=3, errors=8, idle_commands=20)

Transcript = tuple[bytes, tuple[tuple[EndContent, bytes], ...], bool]


OFFER = Offer(mechanisms=("PLAIN",), auth_in_clear=True)


def serve(pieces: list[bytes], *, secured: bool = False) -> Transcript:
    """What a driver that accepts everything writes and keeps, and whether the connection was closed."""
    machine = ServerMachine(LIMITS, "relay.test", OFFER)
    if secured:
        machine.tls_started()
    content, kept, closed = b"", [], False
    for piece in [b"", *pieces]:
        if piece:
            machine.receive(piece)
        while (action := machine.next_action()) is not None:
            match action:
                case ContentChunk(data=data):
                    content += data
                case AbandonContent():
                    content = b""
                case Close():
                    closed = True
                case EndContent():
                    assert secured or not action.mail.requires_tls
                    kept.append((action, content))
                    accept(machine, action)
                case AuthExchange():
                    answer(machine, action)
                case AbandonExchange():
                    pass
                case BeginContent():
                    content = b""
                    machine.accept()
                case _:
                    machine.accept()
    written = machine.take_output()
    assert closed == (machine.state is State.CLOSED)
    return written, tuple(kept), closed


def accept(machine: ServerMachine, end: EndContent) -> None:
    """To each recipient by itself, where that is asked."""
    if end.individually:
        machine.accept_some(
            {box: Reply(250, ("2.1.5 Ok",)) for box in end.recipients}, Reply(250, ("2.0.0 Ok",))
        )
    else:
        machine.accept()


def answer(machine: ServerMachine, asked: AuthExchange) -> None:
    if asked.response is None:
        machine.challenge(b"")
    elif asked.response == b"\0a\0b":
        machine.authenticate("a")
    else:
        machine.refuse(Reply(535, ("5.7.8 No",)))


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
        b"MAIL FROM:<a@example.org> PRDR RET=HDRS ENVID=x\r\n",
        b"MAIL FROM:<\xc3\xa9@example.org> SMTPUTF8\r\n",
        b"MAIL FROM:<a@example.org> SIZE=10 REQUIRETLS\r\n",
        b"RCPT TO:<\xc3\xa9@example.org> NOTIFY=SUCCESS ORCPT=utf-8;\\x{E9}@x\r\n",
        b"BDAT 5\r\n",
        b"BDAT 5 LAST\r\n",
        b"BDAT 0\r\n",
        b"BDAT 9 LAST\r\n",
        b"BDAT 0 LAST\r\n",
        b"BDAT 500\r\n",
        b"BDAT 9999999\r\n",
        b"AUTH PLAIN\r\n",
        b"AUTH PLAIN AGEAYg==\r\n",
        b"AGEAYg==\r\n",
        b"*\r\n",
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
@given(SESSIONS, PLACES, st.booleans())
@example(OPENING + b"a\r\n.\r\nQUIT\r\n", [], False)
@example(OPENING + b".\r\n" + OPENING + b"..\r\n.\r\n", [], False)
@example(OPENING.replace(b">\r", b"> REQUIRETLS\r", 1) + b"a\r\n.\r\n" + OPENING + b"b\r\n.\r\n", [], True)
def test_chunking_changes_nothing(session: bytes, places: list[int], secured: bool) -> None:
    whole = serve([session], secured=secured)
    assert serve(cut(session, places), secured=secured) == whole
    assert serve([session[n : n + 1] for n in range(len(session))], secured=secured) == whole


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    st.lists(
        st.one_of(COMMANDS, SNIPPETS, st.just(b"STARTTLS\r\n"), st.binary(min_size=1, max_size=12)),
        max_size=40,
    ),
    st.randoms(use_true_random=False),
)
def test_whatever_comes_and_whatever_is_decided_there_are_replies_or_an_end(
    pieces: list[bytes], rng: Random
) -> None:
    """Each question is answered at random; content is kept only between its beginning and its end."""
    machine = ServerMachine(
        LIMITS, "relay.test", Offer(mechanisms=("PLAIN",), starttls=True, auth_in_clear=True)
    )
    refusal = rng.choice([Reply(550, ("5.7.1 No",)), Reply(451, ("4.3.0 No",)), Reply(421, ("4.3.0 No",))])
    open_content = False
    for piece in [*pieces, b""]:
        machine.receive(piece)
        while (action := machine.next_action()) is not None:
            match action:
                case Handshake():
                    machine.tls_started()
                case ContentChunk():
                    assert open_content
                    if rng.random() < 0.1:
                        machine.refuse_content(refusal)
                        open_content = False
                case AbandonContent():
                    open_content = False
                case AuthExchange():
                    answer(machine, action)
                case EndContent():
                    assert open_content
                    open_content = False
                    accept(machine, action) if rng.random() < 0.8 else machine.refuse(refusal)
                case _ if isinstance(action, Question):
                    if isinstance(action, ConsiderSender):
                        assert machine.secured or not action.mail.requires_tls
                    if rng.random() < 0.1:
                        machine.refuse(refusal)
                        continue
                    machine.accept()
                    if isinstance(action, BeginContent):
                        assert not open_content
                        open_content = True
        assert machine.in_content or not open_content
        written = machine.take_output()
        assert written.isascii()
        assert not written or written.endswith(b"\r\n")
        if machine.state is State.CLOSED:
            break
    assert machine.state is State.CLOSED
    assert not open_content


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8), PLACES)
def test_chunks_come_out_as_they_went_in(chunks: list[bytes], places: list[int]) -> None:
    """No octet of a chunk is ever a command, and the same rules hold as behind DATA."""
    session = OPENING.replace(b"DATA\r\n", b"")
    for number, chunk in enumerate(chunks, 1):
        last = b" LAST" if number == len(chunks) else b""
        session += b"BDAT %d%s\r\n" % (len(chunk), last) + chunk
    _, kept, closed = serve(cut(session, places))
    content = b"".join(chunks)
    bare = {*content.replace(b"\r\n", b"")} & {*b"\r\n\0"}
    if content and not content.endswith(b"\n"):
        content += b"\r\n"
    assert not closed
    assert [body for _, body in kept] == ([] if bare else [content])


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
