"""What became of a recipient, and what that means for the hosts not yet tried.

`next_step` is total over this table; the last column is what the operator sees when no host is left.

    outcome    blame                    next      when no host is left
    ---------  -----------------------  --------  --------------------------------------------
    Delivered  -                        STOP      delivered
    Deferred   in doubt, whatever else  STOP      deferred: the server may hold the message
    Deferred   HOST POLICY              NEXT      deferred: nobody usable answered
    Deferred   RECIPIENT MESSAGE        NEXT      deferred: a 4yz reply (another host may accept)
    Deferred   DESTINATION LOCAL        STOP      deferred: no other host changes that
    Failed     HOST                     NEXT      failed: no host can do what the message needs
    Failed     anything else            STOP      failed: a 5yz reply, or our own refusal

A host that fails a recipient by the blame of the HOST does not undo that another one deferred it: mail waits
while anybody may take it (`after_another_host`).

In doubt begins when the last octet of the final dot is handed to the kernel (RFC 1047): trying another
host from there on would duplicate mail, so the attempt ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, IntFlag

from msgspec import Struct

from deliver.errors import Blame, Fault
from deliver.message import Recipient
from deliver.report.trace import Trace
from deliver.smtp.reply import EnhancedCode, Reply


class Phase(Enum):
    """Where in a session something happened; the value is the operator's sentence."""

    CONNECT = "while connecting"
    BANNER = "while waiting for the greeting"
    EHLO = "while performing the EHLO handshake"
    STARTTLS = "while asking for STARTTLS"
    TLS = "while negotiating or judging TLS"
    AUTH = "while logging in"
    MAIL = "while sending MAIL FROM"
    RCPT = "while sending RCPT TO"
    DATA = "while sending DATA"
    BODY = "while sending the message body"
    DOT = "while waiting for the final reply (the message may be delivered more than once)"
    RSET = "while resetting the session"
    QUIT = "while closing the session"

    __hash__ = object.__hash__  # members are single objects; Enum would hash their names, again and again


class Resumption(IntFlag):
    """What is known about sessions on a connection, with Exim's numbers."""

    OFF = 0
    SUPPORTED = 1
    REQUESTED = 2  # a ticket was asked for
    OFFERED = 4  # an earlier session
    ISSUED = 8  # a new ticket came
    USED = 16  # the earlier session was resumed


@dataclass(frozen=True, slots=True)
class TlsFacts:
    """What TLS a delivery used. `level` is the level asked for (see `deliver.tls.policy.Level`)."""

    level: str
    version: str
    cipher: str
    group: str | None
    resumed: bool
    verified_by: str
    ocsp: str = "none"
    ocsp_requested: bool = False
    resumption: Resumption = Resumption.OFF


@dataclass(frozen=True, slots=True)
class Contact:
    """The server that a session spoke to; `tls` is None in clear text.

    `greeting` and `ehlo`: its first reply, and the first line of its last EHLO reply, for reports. `reused`:
    the session had served an earlier message.
    """

    host: str
    address: str
    port: int
    tls: TlsFacts | None = None
    greeting: str = ""
    ehlo: str = ""
    reused: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """The server, by name and address, at which an attempt failed."""

    host: str
    address: str


class Delivered(Struct, frozen=True):
    """The server took responsibility with `reply`, a 2yz after the final dot.

    `dsn_passed`: what the sender asks of delivery reports went with the message, so that the server answers
    for them; without it a report of success is ours to send, as "relayed" (RFC 3461 5.2.2).
    """

    reply: Reply
    contact: Contact
    dsn_passed: bool = False


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not delivered yet. `in_doubt`: the server may hold the message although no reply was read.

    `fault`: how the connection failed.
    """

    why: str
    blame: Blame
    phase: Phase | None = None
    reply: Reply | None = None
    enhanced: EnhancedCode = EnhancedCode(4, 0, 0)
    contact: Contact | None = None
    in_doubt: bool = False
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """Never deliverable; the sender gets a bounce."""

    why: str
    blame: Blame
    phase: Phase | None = None
    reply: Reply | None = None
    enhanced: EnhancedCode = EnhancedCode(5, 0, 0)
    contact: Contact | None = None


Outcome = Delivered | Deferred | Failed


def failed_for_now(failed: Failed, why: str) -> Deferred:
    """The same while a host was not asked yet that may take the mail; `why` tells why it was not."""
    enhanced = replace(failed.enhanced, klass=4)
    return Deferred(
        f"{failed.why}; {why}", failed.blame, failed.phase, failed.reply, enhanced, failed.contact
    )


class AttemptResult(Struct, frozen=True):
    """What one attempt found out: one outcome per recipient of its claim, and the evidence.

    `site`: the same text for all domains with the same exchangers under the same settings, whose mail can
    therefore share sessions; None where no exchanger was found.
    """

    outcomes: tuple[tuple[Recipient, Outcome], ...]
    trace: Trace
    site: str | None = None

    @property
    def all_delivered(self) -> bool:
        """Whether nothing else became of anybody, as nearly always."""
        return not [outcome for _, outcome in self.outcomes if not isinstance(outcome, Delivered)]


class Step(Enum):
    """Whether the recipients with an outcome go on to another host in this attempt."""

    NEXT = "next host"
    STOP = "stop"


_ANOTHER_HOST_MAY_HELP: frozenset[tuple[type[Deferred] | type[Failed], Blame]] = frozenset(
    {
        (Deferred, Blame.HOST),
        (Deferred, Blame.POLICY),
        (Deferred, Blame.RECIPIENT),
        (Deferred, Blame.MESSAGE),
        (Failed, Blame.HOST),
    }
)


def after_another_host(before: Outcome | None, outcome: Outcome) -> Outcome:
    """What holds for a recipient after two hosts: one that may yet take the mail keeps it from failing."""
    return before if isinstance(before, Deferred) and isinstance(outcome, Failed) else outcome


def next_step(outcome: Outcome) -> Step:
    """The table above as a function."""
    if isinstance(outcome, Delivered):
        return Step.STOP
    if isinstance(outcome, Deferred) and outcome.in_doubt:
        return Step.STOP
    return Step.NEXT if (type(outcome), outcome.blame) in _ANOTHER_HOST_MAY_HELP else Step.STOP
