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

In doubt begins when the last octet of the final dot is handed to the kernel (RFC 1047): trying another
host from there on would duplicate mail, so the attempt ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from deliver.errors import Blame
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
    MAIL = "while sending MAIL FROM"
    RCPT = "while sending RCPT TO"
    DATA = "while sending DATA"
    BODY = "while sending the message body"
    DOT = "while waiting for the final reply (the message may be delivered more than once)"
    RSET = "while resetting the session"
    QUIT = "while closing the session"


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


@dataclass(frozen=True, slots=True)
class Contact:
    """The server that a session spoke to; `tls` is None in clear text."""

    host: str
    address: str
    port: int
    tls: TlsFacts | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """The server took responsibility with `reply`, a 2yz after the final dot."""

    reply: Reply
    contact: Contact


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not delivered yet. `in_doubt`: the server may hold the message although no reply was read."""

    why: str
    blame: Blame
    phase: Phase | None = None
    reply: Reply | None = None
    enhanced: EnhancedCode = EnhancedCode(4, 0, 0)
    contact: Contact | None = None
    in_doubt: bool = False


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


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """What one attempt found out: one outcome per recipient of its claim, and the evidence."""

    outcomes: tuple[tuple[Recipient, Outcome], ...]
    trace: Trace


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


def next_step(outcome: Outcome) -> Step:
    """The table above as a function."""
    if isinstance(outcome, Delivered):
        return Step.STOP
    if isinstance(outcome, Deferred) and outcome.in_doubt:
        return Step.STOP
    return Step.NEXT if (type(outcome), outcome.blame) in _ANOTHER_HOST_MAY_HELP else Step.STOP
