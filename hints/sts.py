"""Which MTA-STS policy of a domain is kept, and whether it counts (RFC 8461 3.2, 5.1): pure.

Several processes write when they come to it, so that an earlier fetch may arrive later. One that a clock
dated a day ahead or more is neither believed nor kept: it would stand in the way of all others until then.
"""

from __future__ import annotations

from hints.prune import STS_AHEAD, expired
from hints.records import StsSeen


def latest(known: StsSeen | None, fetched: StsSeen, now: float) -> StsSeen:
    """Which of two policies of a domain is kept at `now`; `hints.tables.upsert` says the same in SQL."""
    if known is None or known.fetched_at <= fetched.fetched_at or known.fetched_at > now + STS_AHEAD:
        return fetched
    return known


def counts(policy: StsSeen, now: float) -> bool:
    """Whether it is to be followed at `now`, in seconds since the epoch."""
    return not expired(policy.expires, now) and policy.fetched_at <= now + STS_AHEAD
