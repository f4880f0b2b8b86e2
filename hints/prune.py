"""How long each kind of hint is worth keeping: pure.

kind            kept after it was last seen   why
--------------  ----------------------------  -----------------------------------------------------
ehlo_answer     7 days                        servers are upgraded; a wrong one costs a reconnect
reachability    1 day after a success,        addresses come and go; a failure is old news sooner
                6 hours after a failure
level_seen      90 days                       "was DANE ever in use there?" is a question of months
feature         30 days                       its counts halve every 3 days
tls_session     1 day after it was saved      servers change their keys daily, RFC 8446 allows 7 days
sts_policy      max_age after it was fetched  the domain says so, RFC 8461 3.2
"""

from __future__ import annotations

from typing import Final

from hints.records import EhloAnswer, Feature, LevelSeen, Note, Reachability, StsSeen

HOUR = 3600.0
DAY = 24 * HOUR

EHLO_ANSWER: Final = 7 * DAY
REACHED: Final = 1 * DAY
UNREACHED: Final = 6 * HOUR
LEVEL_SEEN: Final = 90 * DAY
FEATURE: Final = 30 * DAY
TLS_SESSION: Final = 1 * DAY
STS_AHEAD: Final = 1 * DAY  # a policy fetched later than that from now is one of a clock that was wrong
HALF_LIFE: Final = 3 * DAY  # of what is known about a feature
MAX_EVIDENCE: Final = 64  # uses of a feature that are counted: six half-lives, and they are forgotten

PRUNE_EVERY: Final = 1 * HOUR  # how often expired rows are deleted


def lifetime(note: Note) -> float:
    """Seconds after which what a note says is forgotten; of a policy since it was fetched."""
    match note:
        case EhloAnswer():
            return EHLO_ANSWER
        case Reachability(error=None):
            return REACHED
        case Reachability():
            return UNREACHED
        case LevelSeen():
            return LEVEL_SEEN
        case Feature():
            return FEATURE
        case StsSeen(max_age=max_age):
            return max_age


def decayed(count: int, last: float | None, now: float) -> int:
    """What a count of uses, the last one at `last`, still weighs: half after each half-life."""
    if last is None:
        return 0
    return count >> min(int(max(0.0, now - last) // HALF_LIFE), 62)


def expired(expires: float, now: float) -> bool:
    """Whether a row is past its time; both in seconds since the epoch."""
    return expires <= now
