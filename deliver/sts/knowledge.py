"""What is known of a domain's MTA-STS policy, what is worth doing about it, and what counts (RFC 8461): pure.

    known         record                       what happens
    ------------  ---------------------------  ---------------------------------------------------------------
    nothing       none, or no answer           there is no policy (RFC 8461 5.1: none can be had)
    nothing       announces one                it is fetched; where that fails there is none, for RETRY
    unreadable    announces one                it is fetched; where that fails nobody can say: mail waits
    unreadable    no answer                    nobody can say: mail waits
    unreadable    none                         there is no policy: hints that are broken stop no other mail
    a policy      the same id, none or silent  the known one; with the same id it is fetched again once a day
    a policy      another id                   it is fetched; where that fails the known one counts on
    a policy      that does not cover a host   it is fetched, at most once in RETRY: hosts may have moved

A fetch that fails never ends a policy; its max_age does (RFC 8461 3.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from deliver.report.trace import Finding, Stage, Verdict
from deliver.resolve.answer import Answer, Bogus, Found, TextRecord, Unreachable
from deliver.resolve.sts import Mode, StsPolicy, StsStanding, policy_id, record_name
from deliver.sts.standing import Stood
from hints.records import StsSeen

RETRY = 300.0  # seconds after a fetch that failed, RFC 8461 3.3
REFRESH = 86_400.0  # seconds after which a policy is fetched again, or half of its age if that is less
HURRY = 3.0  # seconds for a fetch that a known policy could do without
FRESH = 30.0  # seconds for which the hints are not asked again: another process may have fetched


class Moment(NamedTuple):
    """Now: `wall` in seconds since the epoch, which may jump; `steady` in seconds that never do."""

    wall: float
    steady: float


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Of one domain in one process; times by the steady clock.

    `seen`: what the hints or a fetch said, `unreadable`: they could not; `trouble`: of the last fetch.
    """

    seen: StsSeen | None = None
    unreadable: str | None = None
    ask_again: float = 0.0  # when the hints may know more
    not_before: float = 0.0  # when a fetch may be tried
    trouble: str | None = None

    def live(self, at: Moment) -> StsSeen | None:
        """The policy unless its time is over."""
        return self.seen if self.seen is not None and _left(self.seen, at) > 0 else None


def wanted_id(answer: Answer) -> str | None:
    """The id in the record; None: it announces no policy, or there is no answer."""
    if not isinstance(answer, Found):
        return None
    return policy_id(record.text for record in answer.records if isinstance(record, TextRecord))


def asks_the_hints(known: Knowledge, wanted: str | None, at: Moment) -> bool:
    """Unless they have just said enough: a policy with this id, or nothing where none is announced."""
    seen = known.live(at)
    return at.steady >= known.ask_again or wanted not in (None, seen and seen.id)


def is_due(known: Knowledge, wanted: str, host: str | None, at: Moment) -> bool:
    """Whether to fetch for mail to `host`, None: to no host of it."""
    seen = known.live(at)
    if at.steady < known.not_before:
        return False
    if seen is None or seen.id != wanted:
        return True
    age = at.wall - seen.fetched_at
    if age < 0 or age >= max(RETRY, min(REFRESH, seen.max_age / 2)):  # by a clock that was wrong, or long ago
        return True
    return age >= RETRY and _refuses(seen, host)


def patience(known: Knowledge, host: str | None, at: Moment) -> float:
    """Seconds for a fetch: few where the known policy lets this mail go, else it is worth waiting."""
    seen = known.live(at)
    return math.inf if seen is None or _refuses(seen, host) else HURRY


def after_reading(known: Knowledge, found: StsSeen | None, at: Moment) -> Knowledge:
    """The later fetch counts, by a clock that is right; what the hints have lost is not lost here."""
    seen = known.live(at)
    read = Knowledge(found).live(at)
    if read is not None and (seen is None or seen.fetched_at < read.fetched_at <= at.wall):
        seen = read
    return replace(known, seen=seen, unreadable=None, ask_again=at.steady + FRESH)


def after_no_reading(known: Knowledge, why: str, at: Moment) -> Knowledge:
    """They are asked again by the next message, unless there is a policy to go by."""
    again = 0.0 if known.live(at) is None else at.steady + FRESH
    return replace(known, unreadable=why, ask_again=again)


def as_a_fetch_begins(known: Knowledge, at: Moment) -> Knowledge:
    """With a policy the next message does not begin another one, should this attempt end before the fetch."""
    return known if known.live(at) is None else replace(known, not_before=at.steady + FRESH)


def after_a_fetch(seen: StsSeen, at: Moment) -> Knowledge:
    """The pause is also for two ids that are answered in turn."""
    return Knowledge(seen, ask_again=at.steady + FRESH, not_before=at.steady + FRESH)


def after_a_failure(known: Knowledge, why: str, at: Moment) -> Knowledge:
    """What was known counts on."""
    return replace(known, trouble=why, not_before=at.steady + RETRY)


def stood(domain: str, answer: Answer, known: Knowledge, at: Moment) -> Stood:
    """What counts for `domain`, with `answer` about its record."""
    wanted, seen = wanted_id(answer), known.live(at)
    findings: list[Finding] = []
    if isinstance(answer, Bogus | Unreachable):
        text = f"the record at {record_name(domain)} could not be looked up: {answer.why}"
        findings.append(_finding("sts-record-unknown", text, "RFC 8461 5.1"))
    maybe = wanted is not None or isinstance(answer, Bogus | Unreachable)
    unknown = known.unreadable if seen is None and maybe else None
    trouble = known.trouble if wanted is not None and (seen is None or seen.id != wanted) else None
    if trouble is not None:
        text = f"the MTA-STS policy of {domain} could not be fetched: {trouble}"
        if seen is not None:
            text += "; the one known before counts on"
        elif unknown is None:
            text += "; mail goes as without one"
        findings.append(_finding("sts-not-fetched", text, "RFC 8461 3.3"))
    if seen is not None:
        findings.append(_found(domain, seen, at.wall))
        until = at.steady + min(_left(seen, at), RETRY)
        return Stood(StsStanding(policy_in(seen)), tuple(findings), until)
    if unknown is not None:
        said = f"whether {domain} has an MTA-STS policy is not known: {unknown}"
        return Stood(StsStanding(unknown=said), tuple(findings), 0.0)
    until = known.not_before if trouble is not None else at.steady + RETRY
    return Stood(StsStanding(), tuple(findings), 0.0 if known.unreadable is not None else until)


def policy_in(seen: StsSeen) -> StsPolicy:
    """The policy that was fetched."""
    return StsPolicy(Mode(seen.mode), seen.patterns, seen.max_age)


def _left(seen: StsSeen, at: Moment) -> float:
    """Seconds for which it still counts: its age, or until it may be fetched again if that is longer.

    A clock that went back makes it count no longer than that.
    """
    age = max(float(seen.max_age), FRESH)
    return min(age, seen.fetched_at + age - at.wall)


def _refuses(seen: StsSeen, host: str | None) -> bool:
    return host is not None and seen.mode == Mode.ENFORCE and not policy_in(seen).covers(host)


def _found(domain: str, seen: StsSeen, wall: float) -> Finding:
    hours = max(0.0, wall - seen.fetched_at) / 3600
    text = f"{domain} has an MTA-STS policy: {policy_in(seen)} (id {seen.id}, fetched {hours:.0f} h ago)"
    return Finding(Stage.POLICY, "sts-found", text, Verdict.OK, "RFC 8461 3.2")


def _finding(code: str, text: str, rfc: str) -> Finding:
    return Finding(Stage.POLICY, code, text[:1].upper() + text[1:], Verdict.NOTE, rfc)
