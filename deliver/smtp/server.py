"""The SMTP server without I/O: octets in, actions out (RFC 5321, RFC 2920, RFC 1870, RFC 6152, RFC 2034).

The caller feeds what it read with `receive` and performs what `next_action` gives, until that is None: then
everything so far has been dealt with and more octets are needed. A question (Consider…, BeginContent,
EndContent) is answered with `accept` or `refuse` before anything else is asked of the machine, so pipelined
commands are answered in order.

    state       EHLO HELO   MAIL      RCPT        DATA      RSET     NOOP VRFY HELP   QUIT
    ----------  ----------  --------  ----------  --------  -------  ---------------  ------
    FRESH       READY       503       503         503       FRESH    FRESH            CLOSED
    READY       READY       SENDER    503         503       READY    READY            CLOSED
    SENDER      READY       503       RECIPIENTS  554       READY    SENDER           CLOSED
    RECIPIENTS  READY       503       RECIPIENTS  CONTENT   READY    RECIPIENTS       CLOSED
    CONTENT     everything is content up to CRLF.CRLF, then READY

The state changes only when the command succeeds. Lines end with CRLF only: a line that ends with a bare LF is
refused and the connection closed, since nobody can tell what the sender of it meant to be a command.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from deliver.message import Mailbox
from deliver.smtp.action import (
    AbandonContent,
    Action,
    BeginContent,
    Close,
    ConsiderRecipient,
    ConsiderSender,
    ContentChunk,
    EndContent,
    Question,
    Send,
)
from deliver.smtp.reply import Reply
from deliver.smtp.request import MAX_HELO, Foreign, Request, Verb, parse_line, parse_mail, parse_rcpt
from deliver.smtp.undot import MAX_LINE, Defect, IncomingContent

MAX_COMMAND = 2048  # octets with CRLF; RFC 5321 4.5.3.1.4 asks for 512, our longest address needs 520
MAX_DISCARD = 65536  # octets of one line, after which we stop waiting for its end
MAX_REPLY_TEXT = 480  # octets; RFC 5321 4.5.3.1.5 allows 512 for the line


class State(Enum):
    """Where in a session the client is."""

    FRESH = "no EHLO or HELO yet"
    READY = "no transaction"
    SENDER = "MAIL was accepted"
    RECIPIENTS = "at least one RCPT was accepted"
    CONTENT = "the content is being received"
    CLOSED = "no more commands"


_GREETED = frozenset({State.READY, State.SENDER, State.RECIPIENTS})

TRANSITIONS: Mapping[tuple[State, Verb], State] = {
    **{(state, verb): State.READY for state in {State.FRESH, *_GREETED} for verb in (Verb.EHLO, Verb.HELO)},
    (State.READY, Verb.MAIL): State.SENDER,
    (State.SENDER, Verb.RCPT): State.RECIPIENTS,
    (State.RECIPIENTS, Verb.RCPT): State.RECIPIENTS,
    (State.RECIPIENTS, Verb.DATA): State.CONTENT,
    (State.FRESH, Verb.RSET): State.FRESH,
    **{(state, Verb.RSET): State.READY for state in _GREETED},
    **{
        (state, verb): state
        for state in {State.FRESH, *_GREETED}
        for verb in (Verb.NOOP, Verb.VRFY, Verb.HELP)
    },
    **{(state, Verb.QUIT): State.CLOSED for state in {State.FRESH, *_GREETED}},
}

_OUT_OF_SEQUENCE: Mapping[Verb, str] = {
    Verb.MAIL: "5.5.1 Send EHLO first, and one MAIL per message",
    Verb.RCPT: "5.5.1 Send MAIL first",
    Verb.DATA: "5.5.1 Send MAIL and RCPT first",
}

_REFUSALS: Mapping[Defect, Reply] = {
    Defect.BARE: Reply(550, ("5.6.11 Bare CR or LF in the message; lines must end with CRLF",)),
    Defect.NUL: Reply(550, ("5.6.11 NUL octet in the message",)),
    Defect.LONG_LINE: Reply(550, (f"5.6.0 A line of the message is longer than {MAX_LINE} octets",)),
    Defect.TOO_LARGE: Reply(552, ("5.3.4 The message is too large",)),
    Defect.ENDLESS: Reply(552, ("5.3.4 The message is far too large",)),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask of us."""

    message_size: int  # octets, announced with SIZE; 0 is no limit
    recipients: int = 1000  # of one message; RFC 5321 4.5.3.1.8 asks for at least 100
    errors: int = 20  # commands out of sequence, unknown or refused by policy, in one connection
    idle_commands: int = 100  # commands that bring no message, since the last message


class ServerMachine:
    """One session with one client."""

    protocol = "ESMTP"  # in the greeting

    def __init__(self, limits: Limits, hostname: str) -> None:
        self._limits = limits
        self._hostname = hostname
        self._buffer = bytearray()
        self._line_length = 0  # octets of the unfinished line that were thrown away
        self._actions: deque[Action] = deque()
        self._question: Question | None = None
        self._incoming: IncomingContent | None = None
        self._content_refusal: Reply | None = None
        self._sender: Mailbox | None = None
        self._recipients: dict[Mailbox, None] = {}
        self._errors = 0
        self._idle_commands = 0
        self.state = State.FRESH
        self.helo = ""
        self.extended = False
        self._send(Reply(220, (f"{hostname} {self.protocol} Outrider",)))

    @property
    def in_content(self) -> bool:
        """Whether the client is sending the content of a message."""
        return self.state is State.CONTENT

    def receive(self, data: bytes) -> None:
        """Take octets from the client; empty means that it closed its side."""
        if self.state is State.CLOSED:
            return
        if not data:
            self._close("the client closed the connection without QUIT")
            return
        self._buffer += data

    def next_action(self) -> Action | None:
        """What to do now, or None: then more octets are needed. Not while a question waits for its answer."""
        assert self._question is None, "the last question was not answered"
        while not self._actions and self._progress():
            pass
        if not self._actions:
            return None
        action = self._actions.popleft()
        if isinstance(action, Question):
            self._question = action
        return action

    def accept(self, reply: Reply | None = None) -> None:
        """Answer the question with yes; `reply` replaces the usual text (after EndContent: with the id)."""
        question, self._question = self._question, None
        match question:
            case ConsiderSender(sender=sender):
                self._sender = sender
                self.state = TRANSITIONS[self.state, Verb.MAIL]
                self._send(reply or Reply(250, ("2.1.0 Sender ok",)))
            case ConsiderRecipient(mailbox=mailbox):
                self._recipients[mailbox] = None
                self.state = TRANSITIONS[self.state, Verb.RCPT]
                self._send(reply or Reply(250, ("2.1.5 Recipient ok",)))
            case BeginContent():
                self.state = TRANSITIONS[self.state, Verb.DATA]
                self._incoming = IncomingContent(self._limits.message_size)
                self._content_refusal = None
                self._send(Reply(354, ("End data with <CR><LF>.<CR><LF>",)))
            case EndContent():
                self._idle_commands = 0
                self._end_transaction()
                self._send(reply or Reply(250, ("2.0.0 Ok",)))
            case None:
                raise AssertionError("there is no question to accept")

    def refuse(self, reply: Reply) -> None:
        """Answer the question with no. A 5yz reply counts as an error of the client."""
        question, self._question = self._question, None
        assert question is not None, "there is no question to refuse"
        if isinstance(question, EndContent):
            self._refuse_message(reply, count=reply.permanent)
        else:
            self._respond(reply, count=reply.permanent)

    def refuse_content(self, reply: Reply) -> None:
        """Read the rest of the content without giving it out, then answer with `reply`."""
        assert self.in_content, "no content is being received"
        ended = any(isinstance(action, EndContent) for action in self._actions)
        self._actions.clear()  # only pieces and the end of this content can be waiting
        self._content_refusal = reply
        if ended:
            self._refuse_message(reply, count=False)

    def close(self, reply: Reply, why: str) -> None:
        """Say `reply` (a 421) and close; content that was begun is abandoned (RFC 5321 3.8)."""
        if self.state is not State.CLOSED:
            self._actions.extend(self._abandoned(why))
            self._send(reply)
            self._close(why)

    # Reading

    def _progress(self) -> bool:
        """Do the next thing that the buffer allows; False when more octets are needed."""
        if self.state is State.CLOSED or not self._buffer:
            return False
        return self._read_content() if self.in_content else self._read_line()

    def _read_line(self) -> bool:
        end = self._buffer.find(b"\n")
        if end < 0:
            if self._line_length + len(self._buffer) > MAX_DISCARD:
                self.close(Reply(421, ("4.7.0 Line too long, closing connection",)), "endless command line")
                return True
            if len(self._buffer) > MAX_COMMAND:  # already refused; only its end is still of interest
                self._line_length += len(self._buffer) - 1
                del self._buffer[:-1]
            return False
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        length, self._line_length = self._line_length + len(line), 0
        if length > MAX_DISCARD:
            self.close(Reply(421, ("4.7.0 Line too long, closing connection",)), "endless command line")
        elif not line.endswith(b"\r\n"):
            self.close(Reply(500, ("5.5.2 Lines must end with CRLF",)), "a command ended with a bare LF")
        elif length > MAX_COMMAND:
            self._respond(Reply(500, ("5.5.2 Line too long",)), count=True)
        else:
            self._obey(self._parse(line[:-2]))
        return True

    def _read_content(self) -> bool:
        incoming = self._incoming
        assert incoming is not None
        was_refused = self._refused(incoming) is not None
        piece, rest = incoming.feed(bytes(self._buffer))
        self._buffer[:] = rest
        refusal = self._refused(incoming)
        if refusal is not None and not was_refused:
            self._actions.append(AbandonContent(str(refusal)))
        if incoming.endless:
            self._incoming = None
            self.close(_REFUSALS[Defect.ENDLESS], "a message far over the size limit")
        elif incoming.ended:
            self._content_ended(incoming, piece, refusal)
        elif piece and refusal is None:
            self._actions.append(ContentChunk(piece))
        return True

    def _content_ended(self, incoming: IncomingContent, piece: bytes, refusal: Reply | None) -> None:
        if refusal is not None:
            self._refuse_message(refusal, count=False)
            return
        if piece:
            self._actions.append(ContentChunk(piece))
        self._actions.append(
            EndContent(self._sender, tuple(self._recipients), incoming.size, incoming.eight_bit)
        )

    def _refused(self, incoming: IncomingContent) -> Reply | None:
        return _REFUSALS[incoming.defect] if incoming.defect else self._content_refusal

    def _refuse_message(self, reply: Reply, *, count: bool) -> None:
        """Answer the end of the content with no."""
        self._end_transaction()
        self._respond(reply, count=count)

    # Commands

    def _parse(self, line: bytes) -> Request | Foreign | Reply:
        return parse_line(line)

    def _obey(self, request: Request | Foreign | Reply) -> None:
        if isinstance(request, Foreign):
            self.close(Reply(421, ("4.7.0 This is an SMTP server",)), "the client speaks another protocol")
        elif isinstance(request, Reply):
            self._respond(request, count=True)
        elif (self.state, request.verb) not in TRANSITIONS:
            code = 554 if (self.state, request.verb) == (State.SENDER, Verb.DATA) else 503
            text = "5.5.1 No valid recipients" if code == 554 else _OUT_OF_SEQUENCE[request.verb]
            self._respond(Reply(code, (text,)), count=True)
        else:
            self._commands[request.verb](self, request)

    def _on_ehlo(self, request: Request) -> None:
        self._reset(Verb.EHLO)
        self.helo, self.extended = request.argument[:MAX_HELO], True
        size = f"SIZE {self._limits.message_size}" if self._limits.message_size else "SIZE"
        keywords = ("PIPELINING", size, "8BITMIME", "ENHANCEDSTATUSCODES")
        self._respond_idle(Reply(250, (self._hostname, *keywords)))

    def _on_helo(self, request: Request) -> None:
        self._reset(Verb.HELO)
        self.helo, self.extended = request.argument[:MAX_HELO], False
        self._respond_idle(Reply(250, (self._hostname,)))

    def _on_mail(self, request: Request) -> None:
        read = parse_mail(request.argument, extended=self.extended, max_size=self._limits.message_size)
        if isinstance(read, Reply):
            self._respond(read, count=_protocol_error(read))
        elif not self._is_idle_too_long():
            self._actions.append(ConsiderSender(read.sender, read.size))

    def _on_rcpt(self, request: Request) -> None:
        read = parse_rcpt(request.argument, hostname=self._hostname)
        if isinstance(read, Reply):
            self._respond(read, count=_protocol_error(read))
        elif read in self._recipients:  # one copy each, however often it is named
            self._named_again(read)
        elif len(self._recipients) >= self._limits.recipients:
            self._send(Reply(452, ("4.5.3 Too many recipients, send the rest with another message",)))
        else:
            self._actions.append(ConsiderRecipient(read))

    def _named_again(self, mailbox: Mailbox) -> None:
        self._send(Reply(250, ("2.1.5 Recipient ok, named before",)))

    def _on_data(self, request: Request) -> None:
        self._actions.append(BeginContent(self._sender, tuple(self._recipients)))

    def _on_rset(self, request: Request) -> None:
        self._reset(Verb.RSET)
        self._respond_idle(Reply(250, ("2.0.0 Ok",)))

    def _on_noop(self, request: Request) -> None:
        self._respond_idle(Reply(250, ("2.0.0 Ok",)))

    def _on_vrfy(self, request: Request) -> None:
        self._respond_idle(Reply(252, ("2.0.0 Not verified; send the message and it will be tried",)))

    def _on_help(self, request: Request) -> None:
        verbs = " ".join(verb.value for verb in Verb)
        self._respond_idle(Reply(214, (f"2.0.0 Commands: {verbs}", "2.0.0 See RFC 5321")))

    def _on_quit(self, request: Request) -> None:
        self._send(Reply(221, (f"2.0.0 {self._hostname} closing connection",)))
        self._close("QUIT")

    _commands: Mapping[Verb, Callable[[ServerMachine, Request], None]] = {
        Verb.EHLO: _on_ehlo,
        Verb.HELO: _on_helo,
        Verb.MAIL: _on_mail,
        Verb.RCPT: _on_rcpt,
        Verb.DATA: _on_data,
        Verb.RSET: _on_rset,
        Verb.NOOP: _on_noop,
        Verb.VRFY: _on_vrfy,
        Verb.HELP: _on_help,
        Verb.QUIT: _on_quit,
    }

    # Ends and answers

    def _reset(self, verb: Verb) -> None:
        self.state = TRANSITIONS[self.state, verb]
        self._sender = None
        self._recipients = {}

    def _end_transaction(self) -> None:
        self.state = State.READY
        self._incoming = None
        self._sender = None
        self._recipients = {}

    def _close(self, why: str) -> None:
        """Nothing more to say: the client is gone, or was told."""
        self._actions.extend(self._abandoned(why))
        self._actions.append(Close(why))
        self.state = State.CLOSED

    def _abandoned(self, why: str) -> tuple[AbandonContent, ...]:
        incoming, self._incoming = self._incoming, None
        if incoming is None or self._refused(incoming) is not None:
            return ()
        return (AbandonContent(why),)

    def _respond_idle(self, reply: Reply) -> None:
        if not self._is_idle_too_long():
            self._send(reply)

    def _is_idle_too_long(self) -> bool:
        self._idle_commands += 1
        if self._idle_commands <= self._limits.idle_commands:
            return False
        self.close(Reply(421, ("4.7.0 Too many commands without a message",)), "too many idle commands")
        return True

    def _respond(self, reply: Reply, *, count: bool) -> None:
        self._errors += count
        if self._errors > self._limits.errors:
            self.close(Reply(421, ("4.7.0 Too many errors, closing connection",)), "too many errors")
        else:
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        self._actions.append(Send(encode(reply)))


def encode(reply: Reply) -> bytes:
    """The octets of a reply; what is not printable ASCII is escaped, long texts are cut (RFC 5321 4.2)."""
    lines = [_printable(line) for line in reply.lines] or [b""]
    last = len(lines) - 1
    return b"".join(
        b"%d%s%s\r\n" % (reply.code, b" " if number == last else b"-", line)
        for number, line in enumerate(lines)
    )


def _printable(text: str) -> bytes:
    shown = "".join(char if char.isprintable() else "?" for char in text[:MAX_REPLY_TEXT])
    return shown.encode("ascii", "backslashreplace")[:MAX_REPLY_TEXT]


def _protocol_error(reply: Reply) -> bool:
    """An address that we cannot use is no sign of a broken client, the other refusals are."""
    return reply.code not in (552, 553)
