"""One mail transaction, planned and folded without I/O (RFC 5321 3.3, RFC 2920, RFC 3030).

The flight: MAIL, every RCPT and DATA or the first BDAT leave together where the server announced PIPELINING,
at most FLIGHT commands between two waits; one by one otherwise. DATA and BDAT are never mixed. Three course
corrections: after a refused MAIL no content; with every RCPT refused no DATA, or, if DATA had left already
and was answered 354, a lone dot (RFC 2920 3.1); after a refused DATA no content. A lone dot is sent only if
no RCPT was accepted: otherwise an empty message would be delivered, so the connection is closed without any
dot. With BDAT: once every recipient or a chunk is refused no further chunk, thus no LAST; what was announced
is sent.

What a refusal means stands in `deliver.smtp.refusal`. What a lost connection, a timeout, a cancellation or a
senseless reply means (`Transaction.outcomes`):

    while                                  may the server hold the message?      recipients without outcome
    -------------------------------------  ------------------------------------  --------------------------
    MAIL RCPT DATA                         no                                    Deferred HOST
    content, before its last octet left    no: without CRLF.CRLF it must throw   Deferred HOST
                                           the text away (RFC 5321 4.1.1.4)
    after the last octet may have left     nobody knows (RFC 1047)               Deferred HOST, in doubt
    after the final reply was read         that reply said it                    there are none

The last octet is that of the final dot or of BDAT LAST, which may leave before any reply to the envelope was
read: only a refusal that was read keeps a recipient out of doubt then.

With PRDR nobody has an outcome before the reply to the message: see `deliver.smtp.prdr`.

A transaction that an earlier one left open before it begins with RSET, which rides with MAIL (RFC 2920 3.1).
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from deliver.errors import Blame, Fault
from deliver.message import Envelope, Recipient
from deliver.outcome import Contact, Deferred, Delivered, Failed, Outcome, Phase
from deliver.report.trace import Finding
from deliver.smtp import chunking as bdat
from deliver.smtp.client import Exchange
from deliver.smtp.command import (
    Bdat,
    BdatLast,
    Command,
    Data,
    EndOfContent,
    LocalMisuse,
    Rset,
)
from deliver.smtp.conversation import findings_of
from deliver.smtp.ehlo import Capabilities
from deliver.smtp.plan import plan
from deliver.smtp.prdr import individual_refusal
from deliver.smtp.refusal import MAX_WHY, refusal_outcome
from deliver.smtp.reply import EnhancedCode, Reply

CLOSING = 421  # RFC 5321 3.8
FLIGHT = 100  # commands between two waits: replies to them fit into any socket's buffer

LONE_DOT = EndOfContent(b".\r\n")


class SendCommands(Struct, frozen=True):
    """Write these in one go, reading at the same time."""

    commands: tuple[Command, ...]


class SendContent(Struct, frozen=True):
    """Write the content, then `dot_handed_over()` and the end of it."""


class SendChunks(Struct, frozen=True):
    """Write these commands and chunks of content behind them, reading at the same time, until nothing is due.

    `first`: one chunk only, the first; without it all that is left. Before each chunk ask `wants_chunks`;
    before the first write of the last one call `dot_handed_over()`.
    """

    commands: tuple[Command, ...]
    first: bool


class AwaitReply(Struct, frozen=True):
    """Read until one exchange is complete and give it to `got`."""


class Done(Struct, frozen=True):
    """Every recipient has its outcome."""


Action = SendCommands | SendContent | SendChunks | AwaitReply | Done


class _Progress(Enum):
    COMMANDS = "commands"
    CHUNKS = "chunks"  # the first chunk may have left, the last one not
    CONTENT = "content"  # 354 was read
    SENDING = "sending"  # content is being written
    ENDED = "ended"  # the last octet may have left
    DONE = "done"


class Transaction:
    """One message to one server for some of its recipients. Ask `outcomes` at any moment."""

    def __init__(
        self,
        envelope: Envelope,
        recipients: tuple[Recipient, ...],
        capabilities: Capabilities,
        contact: Contact,
        *,
        pipelining: bool = True,
        pass_8bit: bool = False,
        chunking: bool = True,
        prdr: bool = True,
        logged_in: bool = False,
        reset: bool = False,
    ) -> None:
        if not recipients:
            raise LocalMisuse("a transaction without recipients")
        self.resets = reset  # its first command is RSET
        self.contact = contact
        self._recipients = recipients
        pipelining = pipelining and capabilities.pipelining
        self._flight = FLIGHT if pipelining else 1
        self.chunked = chunking and bdat.usable(capabilities, envelope.size, pipelining)
        self._first_chunk = False
        self._chunk_refused: Reply | None = None
        self._refused_with_chunk: tuple[Recipient, ...] = ()
        self._individual: list[Reply] = []
        self.delivered: Delivered | None = None  # what the final 2yz means
        self._outcomes: dict[int, Outcome] = {}
        self._in_the_end: tuple[tuple[Recipient, Outcome], ...] | None = None
        self._exchanges: list[Exchange] = []
        self._accepted: list[Recipient] = []
        self._any_rcpt_accepted = False
        self._mail_refused = False
        self._interrupted = "the delivery was interrupted"
        self._interrupted_by = Blame.HOST
        self._fault: Fault | None = None
        self._progress = _Progress.COMMANDS
        self._plan: tuple[Command, ...] = ()
        self._asked: tuple[Recipient, ...] = ()
        self._first_rcpt = 1  # its place in the plan
        self._sent = 0
        self._answered = 0
        said = plan(
            envelope, recipients, capabilities, contact, pass_8bit=pass_8bit, prdr=prdr, logged_in=logged_in
        )
        self.dsn_passed = said.dsn_passed
        for who, failed in said.refused:
            self._settle((who,), failed)
        if said.mail is not None:
            self._asked = tuple([who for who, _ in said.asked])
            before = (Rset(),) if reset else ()
            content = () if self.chunked else (Data(),)
            self._plan = (*before, said.mail, *[rcpt for _, rcpt in said.asked], *content)
            self._first_rcpt = len(before) + 1
        if not self._plan:
            self._progress = _Progress.DONE

    @property
    def phase(self) -> Phase:
        """Where the transaction is: what it waits for, or sends."""
        if self._progress is _Progress.ENDED:
            return Phase.DOT
        if self._answered < len(self._plan):
            return self._plan[self._answered].phase
        if self._progress in (_Progress.CONTENT, _Progress.SENDING, _Progress.CHUNKS):
            return Phase.BODY
        return Phase.DATA

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to send or to wait for."""
        return self._progress is _Progress.DONE

    @property
    def in_doubt(self) -> bool:
        """Whether the server may hold the message for recipients without outcome."""
        return self._progress is _Progress.ENDED and bool(self._open())

    @property
    def planned(self) -> tuple[tuple[Command, ...], bool, int]:
        """The commands of the envelope, whether BDAT follows them, how many may leave at once; () if none."""
        return self._plan, self.chunked, self._flight

    @property
    def wants_chunks(self) -> bool:
        """Whether another chunk makes sense: some recipient may still get the message."""
        return self._chunk_refused is None and not self._mail_refused and bool(self._open())

    @property
    def chunks_not_understood(self) -> bool:
        """Whether the server refused BDAT in a way that DATA may cure (RFC 5321 4.2.2)."""
        return self._chunk_refused is not None and bdat.not_understood(self._chunk_refused.code)

    @property
    def refused_with_chunk(self) -> tuple[Recipient, ...]:
        """Those whose outcome is the refusal of a chunk."""
        return self._refused_with_chunk

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """What was said and answered so far, in order."""
        return tuple(self._exchanges)

    def next_action(self) -> Action:
        """What to do now. A SendCommands or SendContent is given once; it counts as begun."""
        if self._progress is _Progress.DONE:
            return Done()
        if self._progress is _Progress.CONTENT:
            if self._open():
                self._progress = _Progress.SENDING
                return SendContent()
            self._progress = _Progress.ENDED
            return SendCommands((LONE_DOT,))
        if self._progress is _Progress.CHUNKS:
            return self._after_first_chunk()
        if self._progress is not _Progress.COMMANDS or self._answered < self._sent:
            return AwaitReply()
        flight = self._next_flight()
        if self.chunked and not self._mail_refused and self._sent + len(flight) == len(self._plan):
            if flight and self._flight == 1:
                self._sent += 1
                return SendCommands(flight)
            if flight or self._accepted:
                self._sent += len(flight)
                self._progress = _Progress.CHUNKS
                self._first_chunk = bool(flight)
                return SendChunks(flight, self._first_chunk)
        if not flight:
            self._progress = _Progress.DONE
            return Done()
        self._sent += len(flight)
        return SendCommands(flight)

    def got(self, exchange: Exchange) -> tuple[Recipient, ...]:
        """Fold a reply. Returns those whom the final reply has just made Delivered, for the journal."""
        if self._progress is _Progress.DONE:
            raise LocalMisuse(f"a reply {exchange.phase.value} after the end of the transaction")
        self._exchanges.append(exchange)
        if exchange.phase in (Phase.RSET, Phase.MAIL, Phase.RCPT, Phase.DATA):
            if exchange.command is not self._plan[self._answered]:
                raise LocalMisuse(f"{exchange.command} was answered before {self._plan[self._answered]}")
            self._answered += 1
        if exchange.reply.code == CLOSING:
            self._settle_individually()
            self._settle_open(exchange)
            self._progress = _Progress.DONE
            return ()
        if exchange.individual:
            self._individual.append(exchange.reply)
        elif exchange.phase is Phase.DOT and exchange.reply.intermediate:
            self._individual.clear()
        elif isinstance(exchange.command, Bdat):
            self._got_chunk(exchange)
        elif exchange.phase is Phase.RSET:
            pass  # whether the server has forgotten, its answer to MAIL says (RFC 5321 3.3)
        elif exchange.phase is Phase.MAIL:
            self._got_mail(exchange)
        elif exchange.phase is Phase.RCPT:
            self._got_rcpt(exchange)
        elif exchange.phase is Phase.DATA:
            self._got_data(exchange)
        else:
            return self._got_final(exchange)
        return ()

    def dot_handed_over(self) -> None:
        """Call before the write that holds the last octet begins: a cancelled one may have sent it."""
        if self._progress not in (_Progress.SENDING, _Progress.CHUNKS):
            raise LocalMisuse(f"the end of content {self.phase.value}")
        self._progress = _Progress.ENDED

    def lost(self, why: str, blame: Blame = Blame.HOST, fault: Fault | None = None) -> None:
        """Nothing more will be heard of the server; the table above says what that means."""
        if self._progress is not _Progress.DONE:
            self._interrupted, self._interrupted_by, self._fault = why[:MAX_WHY], blame, fault
            self._settle(self._open(), self._interruption())
            self._progress = _Progress.DONE

    def unsendable(self, why: str) -> None:
        """The content cannot be sent to anybody; it stopped before its last octet."""
        if self._progress not in (_Progress.SENDING, _Progress.CHUNKS):
            raise LocalMisuse(f"the content failed {self.phase.value}")
        failed = Failed(
            why[:MAX_WHY], Blame.MESSAGE, Phase.BODY, enhanced=EnhancedCode(5, 6, 0), contact=self.contact
        )
        self._settle(self._open(), failed)
        self._progress = _Progress.DONE

    def outcomes(self) -> tuple[tuple[Recipient, Outcome], ...]:
        """One outcome per recipient, in order; whoever has none yet is judged by the table above."""
        if self._in_the_end is not None:
            return self._in_the_end
        known, recipients = self._outcomes, self._recipients
        if len(known) < len(recipients):
            pending = self._interruption()
            return tuple([(who, known.get(who.ordinal, pending)) for who in recipients])
        settled = tuple([(who, known[who.ordinal]) for who in recipients])
        if self._progress is _Progress.DONE:
            self._in_the_end = settled  # nothing changes any more, and everybody asks
        return settled

    def findings(self) -> tuple[Finding, ...]:
        """What the server said, for the trace: refusals one by one, acceptance of recipients as a count."""
        return findings_of(self._exchanges, self.contact)

    def _next_flight(self) -> tuple[Command, ...]:
        if self._sent == len(self._plan) or self._mail_refused:
            return ()
        flight = self._plan[self._sent : self._sent + self._flight]
        return () if isinstance(flight[0], Data) and not self._accepted else flight

    def _after_first_chunk(self) -> Action:
        """Everything that was sent is answered: `SendChunks` ends no earlier."""
        if self._first_chunk and self.wants_chunks:
            self._first_chunk = False
            return SendChunks((), first=False)
        self._progress = _Progress.DONE
        return Done()

    def _got_chunk(self, exchange: Exchange) -> None:
        if not exchange.reply.positive and self._chunk_refused is None:
            self._chunk_refused, self._refused_with_chunk = exchange.reply, self._open()
            self._settle_open(exchange)

    def _got_mail(self, exchange: Exchange) -> None:
        if not exchange.reply.positive:
            self._mail_refused = True
            self._settle_open(exchange)

    def _got_rcpt(self, exchange: Exchange) -> None:
        recipient = self._asked[self._answered - 1 - self._first_rcpt]
        if exchange.reply.positive:
            self._any_rcpt_accepted = True
            if not self._mail_refused:
                self._accepted.append(recipient)
        elif not self._mail_refused:
            self._settle((recipient,), refusal_outcome(exchange.phase, exchange.reply, self.contact))

    def _got_data(self, exchange: Exchange) -> None:
        if not exchange.reply.intermediate:
            self._settle_open(exchange)
            self._progress = _Progress.DONE
        elif self._open() or not self._any_rcpt_accepted:
            self._progress = _Progress.CONTENT
        else:  # MAIL refused, RCPT and DATA accepted: a lone dot would deliver an empty message
            self._progress = _Progress.DONE

    def _got_final(self, exchange: Exchange) -> tuple[Recipient, ...]:
        delivered: tuple[Recipient, ...] = ()
        if self._individual:
            self._settle_individually()
        refused = isinstance(exchange.command, BdatLast) and not exchange.reply.positive
        if refused and self._open() and self._chunk_refused is None:
            self._chunk_refused, self._refused_with_chunk = exchange.reply, self._open()
        if exchange.reply.positive:
            delivered = self._open()
            self.delivered = Delivered(exchange.reply, self.contact, self.dsn_passed)
            self._settle(delivered, self.delivered)
        else:
            self._settle_open(exchange)
        self._progress = _Progress.DONE
        return delivered

    def _settle_individually(self) -> None:
        """The refusals among the replies to single recipients: what follows cannot undo them."""
        accepted = self._accepted
        for recipient, reply in zip(accepted, self._individual, strict=False):
            refusal = individual_refusal(reply, self.contact) if reply.code != CLOSING else None
            if refusal and recipient.ordinal not in self._outcomes:
                self._settle((recipient,), refusal)

    def _open(self) -> tuple[Recipient, ...]:
        known = self._outcomes
        return (
            tuple([who for who in self._recipients if who.ordinal not in known])
            if known
            else self._recipients
        )

    def _settle(self, recipients: tuple[Recipient, ...], outcome: Outcome) -> None:
        for recipient in recipients:
            self._outcomes[recipient.ordinal] = outcome

    def _settle_open(self, exchange: Exchange) -> None:
        self._settle(self._open(), refusal_outcome(exchange.phase, exchange.reply, self.contact))

    def _interruption(self) -> Deferred:
        """The table of this module, for recipients without outcome."""
        in_doubt = self._progress is _Progress.ENDED
        blame = Blame.HOST if in_doubt else self._interrupted_by
        return Deferred(
            self._interrupted,
            blame,
            self.phase,
            enhanced=EnhancedCode(4, 3, 0) if blame is Blame.LOCAL else EnhancedCode(4, 4, 2),
            contact=self.contact,
            in_doubt=in_doubt,
            fault=self._fault,
        )
