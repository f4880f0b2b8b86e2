"""What may leave before its time, by what a server said on an earlier connection (draft-harris-early-pipe).

A server that offers PIPECONNECT takes commands before its greeting and before its answer to EHLO. What it
will answer is presumed from hints, and compared with what it does answer:

    TLS level            before the greeting                inside TLS, with the client's Finished
    -------------------  ---------------------------------  ----------------------------------------------
    any, TLS is used     EHLO, and STARTTLS if remembered   EHLO and the envelope with DATA or BDAT, if the
                                                            answer in clear text was the remembered one
    none                 EHLO and the envelope with DATA    -
    TLS fell through     EHLO                               -

BDAT leaves early inside TLS only if the server offers CHUNKING in clear text too, on this very connection. In
clear text it waits, unless `smtp.early_bdat_clear`: another server behind the same address, without
CHUNKING, would read the message as commands. Wait for this connection's own EHLO: SMTPUTF8, 8-bit content,
REQUIRETLS, AUTH. Nothing is sent early where an event action wants to see the greeting, nor where it failed
lately.

A server that does not offer PIPECONNECT any more may hold early commands against us in a later reply, so that
nothing it says counts. `EarlyHello` compares. A flight that is what it would have been counts; any other is
abandoned before the last octet of the message leaves, and the session begins again without anything early,
once. Where the last octet has left, the rules of a transaction in doubt hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from deliver.errors import PeerError
from deliver.smtp.client import Exchange
from deliver.smtp.command import Ehlo
from deliver.smtp.ehlo import Capabilities
from deliver.smtp.reply import Reply
from hints.records import EhloAnswer, EhloPhase

# Exim's keyword today, and what its versions 4.95 and 4.92 to 4.94 said.
KEYWORDS = ("PIPECONNECT", "PIPE_CONNECT", "X_PIPE_CONNECT")
MAX_NAME = 255  # characters of a server's name that hints keep


class Surprise(PeerError):
    """The server is not as it was remembered: what left early does not count."""

    def __init__(self, happened: str) -> None:
        super().__init__("sending commands early", happened, "the session begins again, one step at a time")


class EarlyHello(Protocol):
    """EHLO in front of a transaction, whose first commands do not wait for its answer."""

    @property
    def command(self) -> Ehlo:
        """What is sent in front."""
        ...

    @property
    def presumed(self) -> Capabilities:
        """How it will be answered."""
        ...

    def got(self, exchange: Exchange) -> None:
        """The greeting or the answer to EHLO. Raises PeerError to abandon the transaction."""
        ...


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What decides beside the hints.

    `wanted`: by the settings, and nothing speaks against it. `use_tls`, `level_none`: of the policy.
    `own_answer`: the message needs an extension that only this connection's own EHLO may promise.
    """

    wanted: bool
    use_tls: bool
    level_none: bool
    own_answer: bool
    pipelining: bool = True
    early_bdat_clear: bool = False


@dataclass(frozen=True, slots=True)
class OpeningPlan:
    """What may leave early.

    `clear`: the answer to EHLO in clear text that is presumed; None waits for the greeting. `starttls`: right
    behind it. `envelope`: the envelope too, before the greeting; with BDAT if `bdat`. `secured`: the answer
    inside TLS that is presumed, so that the envelope leaves with EHLO; None waits.
    """

    clear: Capabilities | None = None
    starttls: bool = False
    envelope: bool = False
    bdat: bool = False
    secured: Capabilities | None = None


ONE_BY_ONE = OpeningPlan()


def plan_opening(known: Iterable[EhloAnswer], facts: Circumstances) -> OpeningPlan:
    """What may leave early, by the EHLO answers `known` of an address and port. Pure."""
    answers = {answer.phase: remembered(answer) for answer in known}
    clear, secured = answers.get(EhloPhase.CLEAR), answers.get(EhloPhase.TLS)
    if not (facts.wanted and facts.pipelining and clear is not None and promises(clear)):
        return ONE_BY_ONE
    if facts.use_tls:
        early = clear.starttls and not facts.own_answer and secured is not None and promises(secured)
        return OpeningPlan(clear, clear.starttls, bdat=clear.chunking, secured=secured if early else None)
    envelope = facts.level_none and not facts.own_answer
    return OpeningPlan(clear, envelope=envelope, bdat=facts.early_bdat_clear)


def remembered(answer: EhloAnswer) -> Capabilities:
    """The capabilities in a hint."""
    return Capabilities.parse(Reply(250, (answer.greeted_as, *answer.keywords)))


def promises(capabilities: Capabilities) -> bool:
    """Whether a server takes commands early (RFC 2920 and the draft)."""
    # An underscore is not legal in a keyword (RFC 5321 4.1.1.1), so the lines are looked at.
    said = (line.split(maxsplit=1) for line in capabilities.lines)
    return capabilities.pipelining and any(words and words[0].upper() in KEYWORDS for words in said)


def as_remembered(presumed: Capabilities, actual: Capabilities) -> bool:
    """Whether an answer is the remembered one, the server's own name and all lines."""
    same_name = presumed.greeted_as == actual.greeted_as[:MAX_NAME]
    return same_name and presumed.lines == actual.lines
