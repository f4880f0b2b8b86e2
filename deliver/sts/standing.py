"""How a domain stands to MTA-STS: the port of those who know, see `deliver.sts.policies`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from deliver.report.trace import Finding
from deliver.resolve.answer import Answer
from deliver.resolve.sts import StsStanding


@dataclass(frozen=True, slots=True)
class Stood:
    """How a domain stands, why, and until when at most that is so, by trio's clock."""

    standing: StsStanding
    findings: tuple[Finding, ...] = ()
    until: float = math.inf


class Policies(Protocol):
    """Who knows the policies."""

    async def stand(self, domain: str, answer: Answer, host: str | None) -> Stood:
        """The policy of `domain` for mail to `host`, None: to no host of it; `answer`: about `_mta-sts`."""
        ...


class NoPolicies:
    """Of an installation that asks for none."""

    async def stand(self, domain: str, answer: Answer, host: str | None) -> Stood:
        """There is none."""
        return Stood(StsStanding())
