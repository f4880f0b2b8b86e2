"""How a scripted SMTP server behaves: what it offers, and where it misbehaves.

`replies` maps a `Point` of the dialogue to an override:

    "450 4.2.1 busy"         this reply instead (further lines after a line feed, each with its code)
    b"25\\xff garbage"        these octets as they are
    Drop("421 4.3.2 bye")    this reply, if any, and the connection closed (or reset)
    Delay(3, then=…)         first wait, then the override or (None) the ordinary reply
    Held(gate, then=…)       first wait at the gate, then as with Delay
    Silence()                no reply; the connection stays until the client gives up
    a tuple of these         one for each use, the ordinary reply (None in the tuple too) when they are used up
    a callable               gets the command's argument, gives one of these or None

Whatever was replied decides what the server thinks: a 220 to STARTTLS, by any override, starts TLS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Union

from tests.internet.accounts import Accounts
from tests.internet.gate import Gate


class Point(StrEnum):
    """Where an override takes effect; the verbs stand for the reply to that command."""

    CONNECT = "CONNECT"  # the greeting
    EHLO = "EHLO"  # in clear text
    EHLO_TLS = "EHLO-TLS"  # inside TLS
    HELO = "HELO"
    STARTTLS = "STARTTLS"
    HANDSHAKE = "HANDSHAKE"  # where the server's TLS would begin: octets, Drop, Delay, Held, Silence
    AUTH = "AUTH"
    RESPONSE = "RESPONSE"  # to a challenge of AUTH
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    CONTENT = "CONTENT"  # after the 354 was sent: Drop, Delay, Held, Silence
    BODY = "BODY"  # after Drop.octets octets of content: Drop, Silence
    DOT = "DOT"  # the reply to the final dot
    RSET = "RSET"
    NOOP = "NOOP"
    QUIT = "QUIT"


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection after `reply`; `reset` sends RST. `octets` counts content, at BODY only."""

    reply: str | bytes | None = None
    reset: bool = False
    octets: int = 1


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait so many seconds, then go on."""

    seconds: float
    then: Action | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """Wait until the gate is open, then go on."""

    gate: Gate
    then: Action | None = None


@dataclass(frozen=True, slots=True)
class Silence:
    """Never reply, keep the connection."""


Action = Union[str, bytes, Drop, Delay, Held, Silence]  # noqa: UP007 (a forward reference)
Override = Action | tuple[Action | None, ...] | Callable[[str], Action | None]

KEYWORDS = ("PIPELINING", "SIZE 10485760", "8BITMIME", "ENHANCEDSTATUSCODES")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One server's script. ValueError for an override at an unknown point.

    `keywords` are offered to EHLO, `keywords_tls` inside TLS (None: the same). STARTTLS is offered in clear text
    unless `starttls` is False or the server has no certificate. `accounts` is who may log in by AUTH. With `octet_by_octet` every octet of a reply is
    written on its own.
    """

    keywords: tuple[str, ...] = KEYWORDS
    keywords_tls: tuple[str, ...] | None = None
    starttls: bool = True
    replies: Mapping[str, Override] = field(default_factory=dict)
    octet_by_octet: bool = False
    accounts: Accounts | None = None

    def __post_init__(self) -> None:
        unknown = [point for point in self.replies if point not in {known.value for known in Point}]
        if unknown:
            raise ValueError(f"no such point in the dialogue: {', '.join(unknown)}")

    def offered(self, *, tls: bool, can_tls: bool) -> tuple[str, ...]:
        """The keywords of the EHLO reply."""
        if tls:
            return self.keywords if self.keywords_tls is None else self.keywords_tls
        return (*self.keywords, "STARTTLS") if self.starttls and can_tls else self.keywords


def settled_reply(action: Action | None, ordinary: str) -> str | None:
    """The reply that will have been sent when `action` is through, as text; None for none."""
    match action:
        case None:
            return ordinary
        case str():
            return action
        case bytes():
            return action.decode("latin-1")
        case Drop(reply=None) | Silence():
            return None
        case Drop(reply=reply):
            return settled_reply(reply, ordinary)
        case Delay(then=then) | Held(then=then):
            return settled_reply(then, ordinary)
