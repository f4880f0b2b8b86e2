"""What is asked, what comes back and what a validator concludes, as frozen values (RFC 4033 5, 4035 4.3)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import dns.name
import dns.rdatatype
from msgspec import Struct

from deliver.dnssec.evidence import Security, Step
from deliver.dnssec.records import RecordSet, type_name
from deliver.dnssec.response import Response
from deliver.dnssec.rule import Refusal


class Ask(NamedTuple):
    """One question of class IN, to be sent with the DO and CD bits; `name` is absolute."""

    name: dns.name.Name
    rdtype: dns.rdatatype.RdataType

    def __str__(self) -> str:
        return f"{self.name} {type_name(self.rdtype)}"


class Failure(Struct, frozen=True):
    """No usable reply: timeout, malformed, unreachable; `why` is a phrase for people."""

    why: str


Reply = Response | Failure


class Absence(StrEnum):
    """What is not there."""

    NODATA = "nodata"
    NXDOMAIN = "nxdomain"


class AliasKind(StrEnum):
    """By which record a name led to another."""

    CNAME = "CNAME"
    DNAME = "DNAME"


@dataclass(frozen=True, slots=True)
class Alias:
    """One step from a name to its target; `security` is Secure or Insecure."""

    owner: dns.name.Name
    target: dns.name.Name
    kind: AliasKind
    security: Security


class Judged(Struct, frozen=True):
    """The verdict on one question.

    Secure and Insecure: either `records` (the RRset of the type asked for, at the end of `aliases`) or
    `absence`. Bogus and Indeterminate: neither, `refusal` says why, and nothing of the answer may be used.
    `security` is that of the weakest step; `ttl` (seconds) is capped by original TTLs and expirations
    (RFC 4035 5.3.3). `refusal` of an Insecure verdict says what made it so.
    """

    question: Ask
    security: Security
    records: RecordSet | None = None
    absence: Absence | None = None
    aliases: tuple[Alias, ...] = ()
    ttl: int = 0
    refusal: Refusal | None = None
    evidence: tuple[Step, ...] = ()

    @property
    def owner(self) -> dns.name.Name:
        """The name at the end of the aliases."""
        return self.aliases[-1].target if self.aliases else self.question.name


Lookup = Generator[tuple[Ask, ...], tuple[Reply, ...], Judged]
