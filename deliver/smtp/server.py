"""The SMTP server without I/O: octets in, actions out (RFC 5321 and what `deliver.smtp.offer` lists).

The caller feeds what it read with `receive` and performs what `next_action` gives, until that is None: then
everything so far has been dealt with, `take_output` is to be written and more octets are needed. A question
(StartTls, AuthExchange, Consider…, BeginContent, EndContent) is answered, usually with `accept` or `refuse`,
before anything else is asked of the machine, so pipelined commands are answered in order. `serverstates`
says which command is possible when.

The halves below: `serverline` makes lines of octets, `serverlogin` knows STARTTLS and AUTH.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from deliver.message import Mailbox
from deliver.smtp import answer
from deliver.smtp.action import (
    AbandonContent,
    AuthExchange,
    BeginContent,
    ConsiderRecipient,
    ConsiderSender,
    ContentChunk,
    EndContent,
    Handshake,
    MailRequest,
    RcptRequest,
    StartTls,
)
from deliver.smtp.answer import encode as encode
from deliver.smtp.inspection import Defect, Inspection
from deliver.smtp.offer import Limits as Limits, Offer
from deliver.smtp.reply import Reply
from deliver.smtp.request import (
    MAX_HELO,
    Chunk,
    Foreign,
    Request,
    Verb,
    hello_refusal,
    parse_bdat,
    parse_line,
    parse_mail,
    parse_rcpt,
)
from deliver.smtp.serverline import MAX_COMMAND as MAX_COMMAND, MAX_DISCARD as MAX_DISCARD
from deliver.smtp.serverlogin import SecuringMachine
from deliver.smtp.serverstates import DEAF, OUT_OF_SEQUENCE, TRANSITIONS as TRANSITIONS, State as State
from deliver.smtp.undot import IncomingChunks, IncomingContent

SMALL_CHUNK = 1024  # octets; a smaller one counts as an idle command

_OPTIONAL = frozenset({Verb.STARTTLS, Verb.AUTH})
_BEFORE_TLS = frozenset({Verb.EHLO, Verb.HELO, Verb.STARTTLS, Verb.NOOP, Verb.QUIT})
_CONTENT_STATES = frozenset({State.CONTENT, State.CHUNKS})


class ServerMachine(SecuringMachine):
    """One session with one client."""

    def __init__(self, limits: Limits, hostname: str, offer: Offer | None = None) -> None:
        super().__init__(limits, hostname, offer or Offer())
        self._skipping = 0  # octets of a refused chunk that are still to come
        self._incoming: IncomingContent | IncomingChunks | None = None
        self._chunk: Chunk | None = None  # whose octets are next
        self._content_refusal: Reply | None = None
        self._mail: MailRequest | None = None
        self._rcpts: dict[Mailbox, RcptRequest] = {}

    @property
    def in_content(self) -> bool:
        """Whether the client is sending the content of a message."""
        return self.state in _CONTENT_STATES

    # Answers

    def accept(self, reply: Reply | None = None) -> None:
        """Answer the question with yes; `reply` replaces the usual text (after EndContent: with the id)."""
        question, self._question = self._question, None
        match question:
            case ConsiderSender(mail=mail):
                self._mail = mail
                self.state = TRANSITIONS[self.state, Verb.MAIL]
                self._say(answer.SENDER_OK if reply is None else encode(reply))
            case ConsiderRecipient(rcpt=rcpt):
                self._rcpts[rcpt.mailbox] = rcpt
                self.state = TRANSITIONS[self.state, Verb.RCPT]
                self._say(answer.RECIPIENT_OK if reply is None else encode(reply))
            case BeginContent():
                self._begin_content()
            case EndContent():
                self._idle_commands = 0
                self._end_transaction()
                self._send(reply or Reply(250, ("2.0.0 Ok",)))
            case StartTls():
                self.state = TRANSITIONS[self.state, Verb.STARTTLS]
                self._send(Reply(220, ("2.0.0 Ready to start TLS",)))
                self._actions.append(Handshake())
            case _:
                raise AssertionError(f"{question} is no question to accept")

    def accept_some(self, verdicts: Mapping[Mailbox, Reply], final: Reply) -> None:
        """Answer EndContent with one reply per recipient and one to the message (draft-hall-prdr-00).

        Only where it asked `individually`; with a `final` that is not 2yz none of them gets the message.
        """
        question, self._question = self._question, None
        assert isinstance(question, EndContent), "the content has not ended"
        assert question.individually, "the client did not ask for it"
        self._idle_commands = 0
        self._end_transaction()
        self._send(Reply(353, ("Content was analysed; one reply per recipient follows",)))
        for rcpt in question.rcpts:
            self._send(verdicts[rcpt.mailbox])
        self._respond(final, count=final.permanent)

    def refuse(self, reply: Reply) -> None:
        """Answer the question with no. A 5yz reply counts as an error of the client, a 421 closes."""
        question, self._question = self._question, None
        assert question is not None, "there is no question to refuse"
        if reply.code == 421:
            self.close(reply, reply.lines[0] if reply.lines else "421")
            return
        if isinstance(question, EndContent):
            self._refuse_message(reply, count=reply.permanent)
            return
        if isinstance(question, AuthExchange):
            self.state = State.READY
        elif isinstance(question, BeginContent) and self._chunk is not None:
            self._skipping, self._chunk = self._chunk.length, None
        self._respond(reply, count=reply.permanent)

    def refuse_content(self, reply: Reply) -> None:
        """Read the rest of the content without giving it out, then answer with `reply`."""
        assert self.in_content, "no content is being received"
        ended = any(isinstance(action, EndContent) for action in self._actions)
        self._actions.clear()  # only pieces, the reply to a chunk and the end of this content can be waiting
        self._content_refusal = reply
        if ended:
            self._refuse_message(reply, count=False)
        elif self.state is State.CHUNKS:
            self._refuse_chunk(reply)

    # Reading

    def _progress(self) -> bool:
        """Do the next thing that the buffer allows; False when more octets are needed."""
        if not self._buffer or self.state in DEAF:
            return False
        if self._skipping:
            gone = min(self._skipping, len(self._buffer))
            self._buffer = self._buffer[gone:]
            self._skipping -= gone
            return True
        return self._read_content() if self.state is State.CONTENT else self._read_line()

    def _take(self, line: bytes, length: int) -> None:
        if self.state is State.EXCHANGE:
            self._on_response(line, length)
        elif length > MAX_COMMAND and (line[:5].upper() != b"AUTH " or length > self._longest_line):
            self._respond(Reply(500, ("5.5.2 Line too long",)), count=True)
        else:
            self._obey(self._parse(line))

    def _read_content(self) -> bool:
        incoming = self._incoming
        assert incoming is not None
        was_refused = self._refused(incoming) is not None
        piece, self._buffer = incoming.feed(self._buffer)
        refusal = self._refused(incoming)
        if refusal is not None and not was_refused:
            self._actions.append(AbandonContent(str(refusal)))
        if incoming.endless:
            self._cut_off()
            return True
        if piece and refusal is None:
            self._actions.append(ContentChunk(piece))
        if incoming.ended:
            self._content_ended(incoming, refusal)
        elif isinstance(incoming, IncomingChunks) and incoming.chunk_ended:
            self._chunk_ended(refusal)
        return True

    def _cut_off(self) -> None:
        self.close(answer.DEFECTIVE[Defect.ENDLESS], "a message far over the size limit")

    def _content_ended(self, incoming: IncomingContent | IncomingChunks, refusal: Reply | None) -> None:
        if refusal is not None:
            self._refuse_message(refusal, count=False)
            return
        assert self._mail is not None, "no MAIL"
        rcpts = tuple(self._rcpts.values())
        individually = self._mail.prdr and len(rcpts) > 1
        self._actions.append(EndContent(self._mail, rcpts, incoming.size, incoming.eight_bit, individually))

    def _chunk_ended(self, refusal: Reply | None) -> None:
        self.state = State.CHUNKS
        if refusal is not None:
            self._refuse_chunk(refusal)
        else:
            self._send(Reply(250, ("2.0.0 Chunk ok",)))

    def _refuse_chunk(self, reply: Reply) -> None:
        """The message failed before its last chunk; the chunks that are on their way get 503."""
        self._end_transaction()
        self._respond(reply, count=False)

    def _refused(self, incoming: IncomingContent | IncomingChunks) -> Reply | None:
        defect = incoming.defect
        return self._content_refusal if defect is None else answer.DEFECTIVE[defect]

    def _refuse_message(self, reply: Reply, *, count: bool) -> None:
        """Answer the end of the content with no."""
        self._end_transaction()
        self._respond(reply, count=count)

    # Commands

    def _parse(self, line: bytes) -> Request | Foreign | Reply:
        return parse_line(line)

    def _obey(self, request: Request | Foreign | Reply) -> None:
        if isinstance(request, Request):
            if request.verb is Verb.BDAT:
                self._on_bdat(request)
            elif refusal := self._premature(request.verb):
                self._respond(refusal, count=True)
            else:
                self._commands[request.verb](self, request)
        elif isinstance(request, Reply):
            self._respond(request, count=True)
        else:
            self.close(Reply(421, ("4.7.0 This is an SMTP server",)), "the client speaks another protocol")

    def _premature(self, verb: Verb) -> Reply | None:
        """The reply to a command whose time has not come."""
        offer = self._offer
        if offer.require_tls and not self.secured and verb not in _BEFORE_TLS:
            return answer.TLS_FIRST
        if verb in _OPTIONAL and not (offer.starttls if verb is Verb.STARTTLS else offer.mechanisms):
            return answer.NOT_IMPLEMENTED
        if (self.state, verb) not in TRANSITIONS:
            if self.state is State.SENDER and verb in (Verb.DATA, Verb.BDAT):
                return Reply(554, ("5.5.1 No valid recipients",))
            return Reply(503, (OUT_OF_SEQUENCE[verb],))
        if offer.require_auth and verb is Verb.MAIL and self.authenticated is None:
            return answer.AUTH_FIRST
        return None

    def _on_ehlo(self, request: Request) -> None:
        self._hello(request, extended=True)

    def _on_helo(self, request: Request) -> None:
        self._hello(request, extended=False)

    def _hello(self, request: Request, *, extended: bool) -> None:
        refusal = hello_refusal(request.argument, self._offer.hello)
        if refusal is not None:
            self._respond(refusal, count=True)
            return
        self._reset(request.verb)
        self.helo, self.extended = request.argument[:MAX_HELO], extended
        keywords = self._offer.keywords(self._limits, secured=self.secured) if extended else ()
        if not self._is_idle_too_long():
            self._say(answer.hello(self._hostname, keywords))

    def _on_mail(self, request: Request) -> None:
        read = parse_mail(
            request.argument, self._offer,
            extended=self.extended, secured=self.secured, max_size=self._limits.message_size,
        )  # fmt: skip
        if isinstance(read, Reply):
            self._respond(read, count=_protocol_error(read))
        elif not self._is_idle_too_long():
            self._actions.append(ConsiderSender(read))

    def _on_rcpt(self, request: Request) -> None:
        mail = self._mail
        assert mail is not None, "no MAIL"
        read = parse_rcpt(
            request.argument,
            self._offer,
            extended=self.extended,
            utf8=mail.smtputf8,
            hostname=self._hostname,
        )
        if isinstance(read, Reply):
            self._respond(read, count=_protocol_error(read))
        elif read.mailbox in self._rcpts:  # one copy each, however often it is named
            self._named_again(read.mailbox)
        elif len(self._rcpts) >= self._limits.recipients:
            self._send(Reply(452, ("4.5.3 Too many recipients, send the rest with another message",)))
        else:
            self._actions.append(ConsiderRecipient(read, mail))

    def _named_again(self, mailbox: Mailbox) -> None:
        self._send(Reply(250, ("2.1.5 Recipient ok, named before",)))

    def _on_data(self, request: Request) -> None:
        assert self._mail is not None, "no MAIL"
        self._actions.append(BeginContent(self._mail, tuple(self._rcpts.values())))

    def _on_bdat(self, request: Request) -> None:
        """The octets of the chunk follow, whatever we think of it (RFC 3030 2)."""
        chunk = parse_bdat(request.argument) if self._offer.chunking else None
        if chunk is None:
            self.close(Reply(421, ("4.7.0 BDAT with no length, or not offered",)), "a chunk without an end")
            return
        if Inspection(self._limits.message_size).too_far(chunk.length):
            self._cut_off()
            return
        if chunk.length < SMALL_CHUNK and self._is_idle_too_long():
            return
        refusal = self._premature(Verb.BDAT)
        if refusal is not None:
            self._skipping = chunk.length
            self._respond_idle(refusal)  # what is on its way behind a refused chunk is no error
        elif isinstance(self._incoming, IncomingChunks):
            self._expect(self._incoming, chunk)
        else:
            assert self._mail is not None, "no MAIL"
            self._chunk = chunk
            self._actions.append(BeginContent(self._mail, tuple(self._rcpts.values())))

    def _begin_content(self) -> None:
        self._content_refusal = None
        if self._chunk is None:
            self.state = TRANSITIONS[self.state, Verb.DATA]
            self._incoming = IncomingContent(self._limits.message_size)
            self._say(answer.BEGIN_CONTENT)
            return
        chunk, self._chunk = self._chunk, None
        self._incoming = IncomingChunks(self._limits.message_size)
        self._expect(self._incoming, chunk)

    def _expect(self, incoming: IncomingChunks, chunk: Chunk) -> None:
        self.state = State.CONTENT
        incoming.expect(chunk.length, last=chunk.last)
        if incoming.endless:
            self._cut_off()
        elif chunk.length == 0:
            self._read_content()

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
        Verb.STARTTLS: SecuringMachine._on_starttls,
        Verb.AUTH: SecuringMachine._on_auth,
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
        self._actions.extend(self._abandoned(verb.value))
        self.state = TRANSITIONS[self.state, verb]
        self._mail = None
        self._rcpts = {}

    def _end_transaction(self) -> None:
        self.state = State.READY
        self._incoming = None
        self._mail = None
        self._rcpts = {}

    def _abandoned(self, why: str) -> tuple[AbandonContent, ...]:
        incoming, self._incoming = self._incoming, None
        if incoming is None or self._refused(incoming) is not None:
            return ()
        return (AbandonContent(why),)


def _protocol_error(reply: Reply) -> bool:
    """An address that we cannot use is no sign of a broken client, the other refusals are."""
    return reply.code not in (552, 553)
