"""What can be remembered about servers: typed, primitives-only records. All of it is advice."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EhloPhase(StrEnum):
    """An EHLO answer in clear text and the one inside TLS are remembered apart."""

    CLEAR = "clear"
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class EhloAnswer:
    """What the server at address and port answered to EHLO. `keywords`: whole lines, upper-case keyword."""

    address: str
    port: int
    phase: EhloPhase
    greeted_as: str  # the server's own name, first word of its reply
    keywords: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reachability:
    """One contact with host at address and port: `error` is None when it worked."""

    host: str
    address: str
    port: int
    error: str | None


@dataclass(frozen=True, slots=True)
class LevelSeen:
    """The security that a delivery to `host` for `domain` reached: none, encrypt, pkix, dane-ta, dane-ee."""

    domain: str
    host: str
    level: str


Note = EhloAnswer | Reachability | LevelSeen
