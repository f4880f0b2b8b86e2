"""How long each kind of hint is worth keeping: pure.

kind            kept after it was last seen   why
--------------  ----------------------------  -----------------------------------------------------
ehlo_answer     7 days                        servers are upgraded; a wrong one costs a reconnect
reachability    1 day after a success,        addresses come and go; a failure is old news sooner
                6 hours after a failure
level_seen      90 days                       "was DANE ever in use there?" is a question of months
"""

from __future__ import annotations

from typing import Final

from hints.records import EhloAnswer, LevelSeen, Note, Reachability

HOUR = 3600.0
DAY = 24 * HOUR

EHLO_ANSWER: Final = 7 * DAY
REACHED: Final = 1 * DAY
UNREACHED: Final = 6 * HOUR
LEVEL_SEEN: Final = 90 * DAY

PRUNE_EVERY: Final = 1 * HOUR  # how often expired rows are deleted


def lifetime(note: Note) -> float:
    """Seconds after which what a note says is forgotten."""
    match note:
        case EhloAnswer():
            return EHLO_ANSWER
        case Reachability(error=None):
            return REACHED
        case Reachability():
            return UNREACHED
        case LevelSeen():
            return LEVEL_SEEN


def expired(expires: float, now: float) -> bool:
    """Whether a row is past its time; both in seconds since the epoch."""
    return expires <= now
