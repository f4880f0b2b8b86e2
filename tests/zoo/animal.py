"""One question to ask, and what a validator with the root's key must conclude (RFC 4035 4.3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from tests.zoo.signer import ZonePlan


class Security(StrEnum):
    """The conclusion of a validator. FAILED: no usable answer, whatever its signatures (a loop, a name too long)."""

    SECURE = "secure"
    INSECURE = "insecure"
    BOGUS = "bogus"
    FAILED = "failed"


class Kind(StrEnum):
    """What the answer says where it says anything."""

    FOUND = "found"
    NODATA = "nodata"
    NXDOMAIN = "nxdomain"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Animal:
    """A name (absolute, with its final dot) and type to ask. `rule` says what must catch a bogus one, or why it is insecure."""

    name: str
    type: str
    security: Security
    kind: Kind
    rule: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.type}"


@dataclass(frozen=True, slots=True)
class Group:
    """Zones and what to ask in them."""

    zones: tuple[ZonePlan, ...]
    animals: tuple[Animal, ...]


def secure(*questions: str, kind: Kind = Kind.FOUND) -> tuple[Animal, ...]:
    """Each question is `name. TYPE`, or several types after the name."""
    return _animals(questions, Security.SECURE, kind, "")


def insecure(*questions: str, why: str, kind: Kind = Kind.FOUND) -> tuple[Animal, ...]:
    """Insecure, because `why`."""
    return _animals(questions, Security.INSECURE, kind, why)


def bogus(*questions: str, rule: str) -> tuple[Animal, ...]:
    """Bogus: `rule` (with its RFC section) catches it."""
    return _animals(questions, Security.BOGUS, Kind.NOTHING, rule)


def failed(*questions: str, why: str) -> tuple[Animal, ...]:
    """No answer that could be used."""
    return _animals(questions, Security.FAILED, Kind.NOTHING, why)


def _animals(questions: Iterable[str], security: Security, kind: Kind, rule: str) -> tuple[Animal, ...]:
    return tuple(
        Animal(name, rdtype, security, kind, rule)
        for name, *types in (question.split() for question in questions)
        for rdtype in types
    )


def mail_records(*, host: str = "mx") -> tuple[str, ...]:
    """What the zone of a mail domain holds: MX, the host's addresses, TLSA, a policy text."""
    return (
        f"@ MX 10 {host}",
        f"{host} A 127.0.9.1",
        f"{host} AAAA ::ffff:127.0.9.1",
        f"_25._tcp.{host} TLSA 3 1 1 {'ab' * 32}",
        '@ TXT "v=spf1 mx -all"',
    )


def mail_questions(origin: str, *, host: str = "mx") -> tuple[str, ...]:
    """What a mailer asks about such a domain, all of it found."""
    return (f"{origin} MX TXT", f"{host}.{origin} A AAAA", f"_25._tcp.{host}.{origin} TLSA")
