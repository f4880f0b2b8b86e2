"""When a recipient is tried next, and when its time is up. Pure: `now` and the random source are given.

    outcome               now                         what is settled
    --------------------  --------------------------  ------------------------------------------------
    Delivered, Failed     -                           as it is
    Deferred              before the expiry           Deferred, next attempt by the retry list
    Deferred              at or after the expiry      Failed 5.4.7 (RFC 3463 3.5): the sender is told

- The first retry rule that is meant for the recipient and its error decides (see `deliver.queue.retry`), else
  the retry list: it gives the wait after attempt 1, 2, …; its last entry repeats. Jitter only lengthens a
  wait (up to a tenth), so that a wait is never shorter than the administrator's.
- The last attempt is made at the expiry itself, so that the bounce is not late by a whole wait.
- Mail whose attempt came much later than it was due gets one more after its expiry: the clock may have been
  set forward, or the relay was down.
- After an attempt in doubt the wait is that of the attempt after it: the server may still be busy with the
  message (RFC 1047), and every further try may be one copy more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from msgspec import Struct

from deliver.message import Recipient
from deliver.outcome import Deferred, Failed, Outcome
from deliver.queue.retry import Rule, choose
from deliver.smtp.reply import EnhancedCode

JITTER: Final = 0.1  # of the wait
CLOCKS: Final = 600.0  # seconds by which clocks may differ
EXPIRED: Final = EnhancedCode(5, 4, 7)
_DAY: Final = 86400
_HOUR: Final = 3600


class Settlement(Struct, frozen=True):
    """What the queue records for one recipient; `next_attempt` (epoch seconds) only where it is Deferred.

    `warnings`: how many delay warnings a message of this age has caused, if its sender wants them.
    `waited`: the wait that was decided, in seconds without jitter; a geometric sequence goes on from it.
    """

    recipient: Recipient
    outcome: Outcome
    next_attempt: float | None = None
    warnings: int = 0
    waited: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings that decide, in seconds: waits after each attempt, and the age at which mail expires."""

    retry: tuple[float, ...]
    expire: float
    warnings: tuple[float, ...] = ()  # ages at which a delay is told to the sender
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a list without entries."""
        if not self.retry:
            raise ValueError("the retry list is empty")


def wait(retry: Sequence[float], number: int) -> float:
    """Seconds to wait after attempt `number` (from 1); the last entry repeats."""
    return max(0.0, float(retry[min(max(number, 1), len(retry)) - 1]))


def pessimistic(now: float, number: int, retry: Sequence[float]) -> float:
    """The next attempt as written before attempt `number` starts: what counts if it is never settled."""
    return now + wait(retry, number + 1)


def next_attempt(*, seconds: float, received_at: float, expire: float, now: float, rng: Random) -> float:
    """When to try again after a wait: not before `now`, and not after an expiry still to come."""
    due = now + seconds * (1 + rng.uniform(0, JITTER))
    expiry = received_at + expire
    return max(now, min(due, expiry)) if expiry > now else due


def latest(plan: Plan, now: float) -> float:
    """Nobody waits for longer: what is due after that was written by a clock that was wrong."""
    steps = (step for rule in plan.rules for step in rule.steps)
    longest = max(*plan.retry, *(step.longest for step in steps), 0.0)
    return now + longest * (1 + JITTER) + CLOCKS


def settle_as(
    recipient: Recipient,
    outcome: Outcome,
    plan: Plan,
    *,
    number: int,
    received_at: float,
    now: float,
    rng: Random,
    sender: str = "",
    waited: float = 0.0,
    before: float = math.inf,
) -> Settlement:
    """What is recorded after attempt `number` ended at `now` with `outcome`; the table above.

    `waited`: of the settlement before, 0 for none. `before`: see `deliver.queue.claiming.Claim`.
    """
    if not isinstance(outcome, Deferred):
        return Settlement(recipient, outcome)
    age = now - received_at
    rule = choose(plan.rules, recipient.mailbox.domain, sender, outcome)
    expire = plan.expire if rule is None else rule.expire
    spared = before < received_at + expire and (rule is None or bool(rule.steps))
    if now >= received_at + expire and not spared:
        return Settlement(recipient, expired(outcome, age))
    if rule is None:
        seconds = wait(plan.retry, number + 1 if outcome.in_doubt else number)
    else:
        within = min(age, rule.expire)
        seconds = rule.gap(within, waited, rng)
        if outcome.in_doubt:
            seconds = max(seconds, rule.gap(within, seconds, rng))
    due = next_attempt(seconds=seconds, received_at=received_at, expire=expire, now=now, rng=rng)
    return Settlement(recipient, outcome, due, warnings_due(plan, age), seconds)


def warnings_due(plan: Plan, age: float) -> int:
    """How many delay warnings a message of that age has caused; several that are late count as one more."""
    return sum(1 for each in plan.warnings if age >= each)


def expired(outcome: Deferred, seconds: float) -> Failed:
    """The failure at the end of the retries, which keeps the reason of the last one."""
    doubt = "; an earlier attempt may have delivered it" if outcome.in_doubt else ""
    return Failed(
        why=f"not delivered within {_age(seconds)}{doubt}; the last reason was: {outcome.why}",
        blame=outcome.blame,
        phase=outcome.phase,
        reply=outcome.reply,
        enhanced=EXPIRED,
        contact=outcome.contact,
    )


def _age(seconds: float) -> str:
    for size, unit in ((_DAY, "day"), (_HOUR, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}" + ("s" if count != 1 else "")
    return f"{int(seconds)} seconds"
