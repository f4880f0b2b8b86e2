"""The client's half of an SMTP session as a state machine without I/O (RFC 5321 3 and 4.1.4).

Two rules, in the tables of `deliver.smtp.states`. What we may send is decided by the state and SENDING; what
we send wrongly is a LocalMisuse. What a reply means is decided by the first expectation in a queue and
RECEIVING; what the server sends wrongly is a MalformedReply. Anything absent from the tables is wrong; the
machine is BROKEN for good then.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from msgspec import Struct

from deliver.errors import Fault, PeerError
from deliver.outcome import Phase
from deliver.smtp.command import (
    Auth,
    Bdat,
    BdatLast,
    Command,
    Ehlo,
    EndOfContent,
    Helo,
    LocalMisuse,
    Mail,
    StartTls,
)
from deliver.smtp.ehlo import Capabilities
from deliver.smtp.reply import MalformedReply, Reply, ReplyParser
from deliver.smtp.states import RECEIVING, RECEIVING_CHUNKS, SENDING, SENDING_EARLY, State as State

_CHUNKS: Final = (Bdat, BdatLast)


class Lost(PeerError):
    """The connection ended while a reply was due."""

    def __init__(self, phase: Phase, happened: str = "the server closed the connection") -> None:
        super().__init__("speaking SMTP", f"{happened} {phase.value}", "another host or a later attempt")
        self.phase = phase


class TimedOut(Lost):
    """The server did not answer, or did not read, in time; the connection is of no more use."""

    fault = Fault.TIMEOUT

    def __init__(self, phase: Phase, patience: float, why: str | None = None) -> None:
        super().__init__(phase, why or f"nothing for {patience:g} s")


class UnexpectedReply(MalformedReply):
    """A well-formed reply where it makes no sense. `reply` is what came."""

    def __init__(self, reply: Reply, why: str) -> None:
        super().__init__(f"{why}: {reply}"[:500])
        self.reply = reply


class Unsolicited(UnexpectedReply):
    """A reply that nothing had asked for; a 421 says that the server closes an idle session."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply, "a reply that nothing had asked for")


class Expected(Struct, frozen=True):
    """A reply that is due. `number` counts the replies of a connection, the greeting is 0.

    `individual`: it speaks of one recipient; the reply to the whole message comes later.
    """

    phase: Phase
    number: int
    command: Command | None
    individual: bool = False


class Exchange(Struct, frozen=True):
    """One command and its reply; no command for the greeting and for a reply in the middle of content.

    `individual`: a reply to the content that speaks of one recipient, see `deliver.smtp.prdr`.
    """

    phase: Phase
    command: Command | None
    number: int
    reply: Reply
    individual: bool = False


class ClientMachine:
    """One session: `send` turns commands into octets, `receive` and `next_exchange` octets into exchanges.

    `state` says how far the session is; `capabilities` what the server offers on this side of STARTTLS,
    nothing before EHLO was answered; `logged_in` whether it has accepted a login (RFC 4954 4). All three are
    for reading only.
    """

    def __init__(self) -> None:
        self.state = State.CONNECTED
        self._expected: deque[Expected] = deque([Expected(Phase.BANNER, 0, None)])
        self._count = 1
        self._parser = ReplyParser()
        self.capabilities = Capabilities()
        self._presumed: Capabilities | None = None
        self._eof = False
        self._secured = False
        self.logged_in = False
        self._announced = 0  # octets of a chunk that were not sent yet
        self._prdr = False
        self._accepted = 0  # RCPT commands of this transaction that were answered 2yz

    @property
    def secured(self) -> bool:
        """Whether TLS was started by `start_tls_done`."""
        return self._secured

    @property
    def awaiting(self) -> Phase | None:
        """The phase of the next reply that is due."""
        return self._expected[0].phase if self._expected else None

    @property
    def ended(self) -> bool:
        """Whether the peer has sent its last octet."""
        return self._eof

    @property
    def due(self) -> int:
        """How many replies are due."""
        return len(self._expected)

    def presume(self, capabilities: Capabilities) -> None:
        """Until EHLO is answered, send as if it had been answered so. Raises LocalMisuse: too late."""
        first = (State.CONNECTED, State.GREETED)
        if self.state not in first or any(due.phase is not Phase.BANNER for due in self._expected):
            raise LocalMisuse(f"presuming capabilities while {self.state.value}, due: {self.awaiting}")
        self._presumed = capabilities

    def may_send(self, command: Command) -> bool:
        """Whether `send` would take this command now."""
        return self._state_after_sending(type(command)) is not None and self._may_follow(type(command))

    def send(self, command: Command) -> bytes:
        """The octets of a command, whose reply is due from now on. Raises LocalMisuse."""
        kind = type(command)
        state = self._state_after_sending(kind)
        if state is None or not self._may_follow(kind):
            raise LocalMisuse(f"{kind.__name__} while {self.state.value}, due: {self.awaiting}")
        self.state = state
        if isinstance(command, EndOfContent):
            self._expected.clear()  # the reply due during the content is now the one to its end
        elif isinstance(command, Mail):
            self._prdr, self._accepted = command.prdr, 0
        elif isinstance(command, _CHUNKS):
            self._announced = command.size
        self._expected.append(Expected(command.phase, self._count, command))
        self._count += 1
        return command.octets

    def send_octets(self, data: bytes) -> bytes:
        """Octets of the chunk that was announced last, as they are. Raises LocalMisuse for one too many."""
        if len(data) > self._announced:
            raise LocalMisuse(f"{len(data)} octets of a chunk, of which {self._announced} are left")
        self._announced -= len(data)
        return data

    def receive(self, data: bytes) -> None:
        """Take what the server sent; b"" is its end. Raises nothing: `next_exchange` reports."""
        if data:
            self._parser.feed(data)
        else:
            self._eof = True

    def next_exchange(self) -> Exchange | None:
        """The next exchange, or None while more octets are needed.

        Raises MalformedReply (also UnexpectedReply, Unsolicited) or Lost; the machine is BROKEN then, as
        after a reply that came while content was being sent.
        """
        try:
            reply = self._parser.next_reply()
            if reply is None:
                if self._eof and self._expected:
                    raise Lost(self._expected[0].phase)
                return None
            if not self._expected:
                raise Unsolicited(reply)
            return self._pair(self._expected.popleft(), reply)
        except PeerError:
            self.state = State.BROKEN
            raise

    def synchronised(self) -> bool:
        """Whether nothing is due and nothing was received that is not understood yet."""
        return not self._expected and self._parser.empty and not self._eof

    def check_in_step(self, phase: Phase) -> None:
        """To be called before `send`: nothing may have arrived, and the server must not have said goodbye.

        Raises Unsolicited, MalformedReply or Lost, and the machine is BROKEN; without it `send` could only
        take the server's misbehaviour for ours.
        """
        if self._expected and self.state is not State.CONTENT:
            return
        try:
            if not self._expected and self._eof and self._parser.empty:
                raise Lost(phase, "the server had closed the connection")
            if not self._expected and self.state is State.CLOSING:
                raise Lost(phase, "the server had announced that it closes")
            if not self._parser.empty:
                if not self._expected:
                    self.next_exchange()
                raise MalformedReply("octets that nothing had asked for")
        except PeerError:
            self.state = State.BROKEN
            raise

    def start_tls_done(self) -> None:
        """The TLS handshake is over: everything learned in clear text is forgotten (RFC 3207 4.2)."""
        if self.state is not State.UPGRADING or not self.synchronised():
            raise LocalMisuse(f"TLS began while {self.state.value}, due: {self.awaiting}")
        self.state = State.GREETED
        self.capabilities = Capabilities()
        self._secured = True

    def break_off(self) -> None:
        """Nothing more may be sent: the connection failed, or what was sent last is not known."""
        self.state = State.BROKEN

    def _state_after_sending(self, kind: type[Command]) -> State | None:
        step = (self.state, kind)
        return SENDING.get(step) or (SENDING_EARLY.get(step) if self._presumed is not None else None)

    def _may_follow(self, kind: type[Command]) -> bool:
        """Whether a command of this kind may leave behind what was sent and received so far."""
        if self._announced:
            return False  # the server would take it for content
        if kind is EndOfContent:
            return self._parser.empty  # a reply that began before the end is no answer to it
        if (kind is StartTls and self._secured) or (kind is Auth and self.logged_in):
            return False
        if not self._expected:
            # An unsolicited reply would be taken for the answer.
            return self._parser.empty and not self._eof
        before = self._expected[-1].command
        if self._presumed is not None and (before is None or type(before) is Ehlo):
            return self._presumed.pipelining and kind in (Ehlo, StartTls, Mail)
        # STARTTLS may end a group (RFC 3207 4.1), but its reply must come when nothing else is due.
        alone = before is None or before.ends_group or kind is StartTls
        return (self._presumed or self.capabilities).pipelining and not alone

    def _expect(self, phase: Phase, command: Command | None, individual: bool = False) -> None:
        self._expected.append(Expected(phase, self._count, command, individual))
        self._count += 1

    def _pair(self, due: Expected, reply: Reply) -> Exchange:
        phase, digit = due.phase, reply.code // 100
        if digit == 2 and (phase is Phase.RCPT or phase is Phase.MAIL):  # most replies: the state stays
            self._accepted += phase is Phase.RCPT
            return Exchange(phase, due.command, due.number, reply)
        in_mail_data = phase is Phase.BODY and due.command is None
        if reply.code == 421 and not in_mail_data:
            after: State | None = State.CLOSING
        else:
            after = self._state_after(due, reply, digit)
            self._learn(due, reply)
        if in_mail_data or self.state is State.BROKEN:
            after = State.BROKEN
        self.state = after or self.state
        return Exchange(phase, due.command, due.number, reply, due.individual)

    def _state_after(self, due: Expected, reply: Reply, digit: int) -> State | None:
        """The tables; None: as it is."""
        if due.phase is Phase.DOT and digit == 3 and self._prdr and not due.individual:
            return None
        if due.phase in (Phase.BANNER, Phase.EHLO) and self._expected and digit != 3:
            return None if digit == 2 else State.BROKEN  # commands have left behind it
        if due.individual and digit != 3:
            return None
        kind = type(due.command) if due.command else None
        if (kind, digit) in RECEIVING_CHUNKS:
            return RECEIVING_CHUNKS[kind, digit]
        if (due.phase, digit) not in RECEIVING:
            raise UnexpectedReply(reply, f"a reply that makes no sense {due.phase.value}")
        return RECEIVING[due.phase, digit]

    def _learn(self, due: Expected, reply: Reply) -> None:
        if due.phase is Phase.EHLO:
            self._presumed = None
        if isinstance(due.command, Ehlo) and reply.positive:
            self.capabilities = Capabilities.parse(reply)
        elif isinstance(due.command, Helo) and reply.positive:
            self.capabilities = Capabilities.without_extensions(reply)
        elif due.phase is Phase.AUTH and reply.positive:
            self.logged_in = True
        elif due.phase is Phase.DOT and reply.intermediate:
            self._prdr = False  # asked once, answered once
            for _ in range(self._accepted):
                self._expect(Phase.DOT, due.command, individual=True)
            self._expect(Phase.DOT, due.command)
        elif due.phase is Phase.DATA and reply.intermediate:
            self._expect(Phase.BODY, None)
        elif due.phase is Phase.STARTTLS and reply.positive and not self._parser.empty:
            raise UnexpectedReply(reply, "octets in clear text behind the reply to STARTTLS")
