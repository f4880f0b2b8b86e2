"""What a verdict rests on: one `Step` per RRset or denial that was judged, and their form in the trace."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from enum import StrEnum

from msgspec import Struct

from deliver.dnssec.rule import Refusal, Rule
from deliver.report.trace import Finding, Stage, Verdict

ALGORITHM_NAMES = {
    1: "RSAMD5",
    3: "DSA",
    5: "RSASHA1",
    7: "RSASHA1-NSEC3-SHA1",
    8: "RSASHA256",
    10: "RSASHA512",
    13: "ECDSAP256SHA256",
    14: "ECDSAP384SHA384",
    15: "ED25519",
    16: "ED448",
}


class Security(StrEnum):
    """RFC 4033 5 and 4035 4.3."""

    SECURE = "secure"
    INSECURE = "insecure"
    BOGUS = "bogus"
    INDETERMINATE = "indeterminate"


class Part(StrEnum):
    """What a step judged."""

    ANCHOR = "anchor"
    DS = "DS"
    DNSKEY = "DNSKEY"
    NO_DS = "no DS"
    ANSWER = "answer"
    ALIAS = "alias"
    DENIAL = "denial"


class Mark(Struct, frozen=True):
    """A signature that verified; times in seconds since the epoch, as 32-bit serials."""

    type_covered: str
    key_tag: int
    algorithm: int
    inception: int
    expiration: int

    def __str__(self) -> str:
        name = ALGORITHM_NAMES.get(self.algorithm, str(self.algorithm))
        return f"{self.type_covered} by {self.key_tag}/{name} {_day(self.inception)}..{_day(self.expiration)}"


class Step(Struct, frozen=True):
    """One judgement. `zone` is the zone whose keys (or whose parent's word) decided, names as text.

    `keys` are (tag, algorithm) of the keys that matched a DS record or trust anchor, or of the DS records.
    """

    part: Part
    zone: str
    owner: str
    rdtype: str
    security: Security
    marks: tuple[Mark, ...] = ()
    keys: tuple[tuple[int, int], ...] = ()
    refusal: Refusal | None = None
    ttl: int = 0

    def __str__(self) -> str:
        said = f"{self.part.value} {self.owner}"
        if self.part in (Part.ANSWER, Part.ALIAS, Part.DENIAL):
            said += f" {self.rdtype}"
        said += f" in {self.zone}: {self.security.value}"
        return f"{said}; {self.refusal}" if self.refusal else said

    @property
    def finding(self) -> Finding:
        """Its form in the trace."""
        return _finding(self)


_CLOCK_RULES = (Rule.EXPIRED, Rule.NOT_YET_VALID)


def findings(steps: tuple[Step, ...]) -> tuple[Finding, ...]:
    """The steps as findings of the trace. A failure by time at an anchor points to our own clock."""
    return tuple([step.finding for step in steps])


def _finding(step: Step) -> Finding:
    refusal = step.refusal
    evidence = [("zone", step.zone), ("owner", step.owner), ("security", step.security.value)]
    if step.marks:
        evidence.append(("signatures", " | ".join(str(mark) for mark in step.marks)))
    if step.keys:
        evidence.append(("keys", " ".join(f"{tag}/{algorithm}" for tag, algorithm in step.keys)))
    if refusal is not None:
        evidence.append(("rule", refusal.rule.code))
    text = str(step)
    if refusal is not None and refusal.rule in _CLOCK_RULES and step.part is Part.ANCHOR:
        text += "; check this machine's clock: a wrong clock makes every signed zone bogus"
    bad = step.security in (Security.BOGUS, Security.INDETERMINATE)
    verdict = Verdict.REFUSED if bad else Verdict.OK if step.security is Security.SECURE else Verdict.NOTE
    rfc = refusal.rule.rfc if refusal is not None else "RFC 4035 5"
    code = f"dnssec-{refusal.rule.code}" if refusal is not None else f"dnssec-{step.security.value}"
    return Finding(Stage.DNS, code, text, verdict, rfc, tuple(evidence))


@functools.lru_cache(maxsize=1024)
def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%d%H%M%S")
