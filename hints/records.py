"""What can be remembered about servers: typed, primitives-only records. Advice, but for MTA-STS policies."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from msgspec import Struct


class EhloPhase(StrEnum):
    """An EHLO answer in clear text and the one inside TLS are remembered apart."""

    CLEAR = "clear"
    TLS = "tls"


class EhloAnswer(Struct, frozen=True):
    """What the server at address and port answered to EHLO. `keywords`: whole lines, upper-case keyword."""

    address: str
    port: int
    phase: EhloPhase
    greeted_as: str  # the server's own name, first word of its reply
    keywords: tuple[str, ...]


class Reachability(Struct, frozen=True):
    """One contact with host at address and port: `error` is None when it worked."""

    host: str
    address: str
    port: int
    error: str | None


class LevelSeen(Struct, frozen=True):
    """The security that a delivery to `host` for `domain` reached: none, encrypt, pkix, dane-ta, dane-ee."""

    domain: str
    host: str
    level: str


class Word(StrEnum):
    """What a server can do, or claims to."""

    PIPELINING = "pipelining"
    CHUNKING = "chunking"
    PRDR = "prdr"
    PIPECONNECT = "pipeconnect"
    RESUMPTION = "resumption"
    LARGE_HELLO = "large-hello"  # a ClientHello of more than one TCP segment
    TLS13 = "tls13"


class Feature(Struct, frozen=True):
    """One use of a feature towards host at address and port, and whether it worked."""

    host: str
    address: str
    port: int
    word: Word
    worked: bool


class StsSeen(Struct, frozen=True):
    """The MTA-STS policy of a domain as it was fetched (RFC 8461 3.2)."""

    domain: str  # lower-case A-labels
    id: str  # of the TXT record, 1 to 32 letters and digits (RFC 8461 3.1)
    mode: str  # enforce, testing, none
    patterns: tuple[str, ...]  # mx patterns, lower-case A-labels, "*." in front at most; at most 100
    max_age: int  # seconds, 0 to 31557600
    fetched_at: float  # seconds since the epoch

    @property
    def expires(self) -> float:
        """Until when it counts, in seconds since the epoch."""
        return self.fetched_at + self.max_age


@dataclass(frozen=True, slots=True)
class SessionKey:
    """Everything that must be the same before a TLS session may be offered.

    `level`: of the policy it was made under. `client_certificate`: hexadecimal digest, "" without one.
    `greeted_as`: the server's own name in its EHLO reply.
    """

    host: str
    port: int
    sni: str
    level: str
    client_certificate: str
    minimum_version: str
    greeted_as: str


@dataclass(frozen=True, slots=True)
class TlsSession:
    """A TLS session and the evidence it rests on: to be judged again before it is offered.

    `session` (an SSL_SESSION in DER, with its secrets) and `chain` (certificates in DER, the server's first)
    never appear in a printed form. `verified_by` and `version` are what the verdict said then. `saved_at`,
    `expires`: seconds since the epoch. A session of TLS 1.3 is used once, RFC 8446 C.4.
    """

    key: SessionKey
    session: bytes = field(repr=False)
    chain: tuple[bytes, ...] = field(repr=False)
    staple: bytes | None = field(repr=False)
    verified_by: str
    version: str
    saved_at: float
    expires: float

    @property
    def single_use(self) -> bool:
        """Whether offering it twice would let an observer link the connections."""
        return self.version != "TLSv1.2"


Note = EhloAnswer | Reachability | LevelSeen | Feature | StsSeen
