"""Which MTA-STS policy of a domain counts now: kept in the hints, fetched where its record asks (RFC 8461).

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

A fetch that fails never ends a policy; its max_age does (RFC 8461 3.3). One fetch for a domain at a time:
mail that has a known policy does not wait for it. What the hints say is looked at again within minutes, so
that a policy which an administrator has forgotten is fetched again.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, replace

import trio

from deliver.net.clock import Clock
from deliver.report.trace import Finding, Stage, Verdict
from deliver.resolve.answer import Answer, Bogus, Found, TextRecord, Unreachable
from deliver.resolve.sts import BadPolicy, Mode, StsPolicy, StsStanding, parse_policy, policy_id, record_name
from deliver.sts.source import NotFetched, PolicySource
from deliver.sts.standing import Stood
from hints.port import Hints, Unreadable
from hints.records import StsSeen

RETRY = 300.0  # seconds after a fetch that failed, RFC 8461 3.3
REFRESH = 86_400.0  # seconds after which a policy is fetched again, or half of its age if that is less
ABSENT = 3_600.0  # seconds for which the hints are not asked again about a domain without a record
FRESH = 30.0  # seconds for which they are not asked again about a policy; an administrator may forget it
MAX_DOMAINS = 10_000  # remembered; the one not asked for longest goes first


@dataclass(frozen=True, slots=True)
class _Known:
    """`seen`: what the hints or a fetch said, `unreadable`: they could not; times by trio's clock."""

    seen: StsSeen | None
    unreadable: str | None = None
    ask_again: float = 0.0  # when the hints may know more
    not_before: float = 0.0  # when a fetch may be tried
    trouble: str | None = None  # of the last fetch


class KeptPolicies:
    """See the table above. `learner` as in `Agent`."""

    def __init__(self, hints: Hints, source: PolicySource, clock: Clock, *, learner: str) -> None:
        self._hints = hints
        self._source = source
        self._clock = clock
        self._learner = learner
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._fetching: dict[str, trio.Event] = {}

    async def stand(self, domain: str, answer: Answer, host: str) -> Stood:
        """See `Policies`."""
        wanted = _wanted(answer)
        known = await self._look(domain, wanted)
        if wanted is not None and self._is_due(known, wanted, host):
            known = await self._renew(domain, wanted, known, host)
        return self._stood(domain, answer, wanted, known)

    async def _look(self, domain: str, wanted: str | None) -> _Known:
        """What is known without a fetch."""
        known, now = self._known.get(domain, _Known(None)), trio.current_time()
        seen = self._live(known.seen)
        if now < known.ask_again and (seen is not None or wanted is None):
            self._known.move_to_end(domain)
            return replace(known, seen=seen)
        try:
            seen = self._live(await self._hints.sts_policy(domain))
            ask_again = now + (ABSENT if seen is None else FRESH)
            known = replace(known, seen=seen, unreadable=None, ask_again=ask_again)
        except Unreadable as error:  # what was read before counts on
            known = replace(known, seen=self._live(known.seen), unreadable=str(error), ask_again=0.0)
        return self._keep(domain, known)

    def _is_due(self, known: _Known, wanted: str, host: str) -> bool:
        seen = known.seen
        if trio.current_time() < known.not_before:
            return False
        if seen is None or seen.id != wanted:
            return True
        age = self._clock.now() - seen.fetched_at
        if age >= _refresh_after(seen):
            return True
        return age >= RETRY and seen.mode == Mode.ENFORCE and not _policy(seen).covers(host)

    async def _renew(self, domain: str, wanted: str, known: _Known, host: str) -> _Known:
        """The known policy at once while another one fetches, else what a fetch gives."""
        while (other := self._fetching.get(domain)) is not None:
            if known.seen is not None:
                return known
            await other.wait()
            known = self._known.get(domain, known)
            if not self._is_due(known, wanted, host):
                return known
        self._fetching[domain] = trio.Event()
        try:
            known = await self._fetch(domain, wanted, known)
            return self._keep(domain, known)
        finally:
            self._fetching.pop(domain).set()

    async def _fetch(self, domain: str, wanted: str, known: _Known) -> _Known:
        not_before = trio.current_time() + RETRY
        try:
            policy = parse_policy(await self._source.fetch(domain))
        except NotFetched as error:
            return replace(known, not_before=not_before, trouble=str(error))
        except BadPolicy as error:
            return replace(known, not_before=not_before, trouble=f"what was fetched is no policy: {error}")
        now = self._clock.now()
        seen = StsSeen(domain, wanted, policy.mode.value, policy.patterns, policy.max_age, now)
        self._hints.note(seen, source=self._learner, reason="fetched", now=now)
        if not policy.max_age:  # it counts for no time, and is not fetched for every message
            return _Known(None, not_before=not_before)
        return _Known(seen, ask_again=trio.current_time() + FRESH)

    def _keep(self, domain: str, known: _Known) -> _Known:
        self._known[domain] = known
        self._known.move_to_end(domain)
        if len(self._known) > MAX_DOMAINS:
            self._known.popitem(last=False)
        return known

    def _live(self, seen: StsSeen | None) -> StsSeen | None:
        """The policy unless its time is over."""
        return seen if seen is not None and self._left(seen) > 0 else None

    def _left(self, seen: StsSeen) -> float:
        """Seconds for which it counts; a clock that went back makes it no older than it is."""
        return min(float(seen.max_age), seen.fetched_at + seen.max_age - self._clock.now())

    def _stood(self, domain: str, answer: Answer, wanted: str | None, known: _Known) -> Stood:
        now, seen = trio.current_time(), self._live(known.seen)
        findings: list[Finding] = []
        if isinstance(answer, Bogus | Unreachable):
            text = f"the record at {record_name(domain)} could not be looked up: {answer.why}"
            findings.append(_finding("sts-record-unknown", text, "RFC 8461 5.1"))
        trouble = known.trouble if wanted is not None and (seen is None or seen.id != wanted) else None
        if trouble is not None:
            behind = "the one known before counts on" if seen is not None else "mail goes as without one"
            text = f"the MTA-STS policy of {domain} could not be fetched: {trouble}"
            if seen is not None or known.unreadable is None:
                text += f"; {behind}"
            findings.append(_finding("sts-not-fetched", text, "RFC 8461 3.3"))
        if seen is not None:
            policy = _policy(seen)
            findings.append(_found(domain, seen, policy, self._clock.now()))
            soon = min(self._left(seen), RETRY)
            return Stood(StsStanding(policy), tuple(findings), now + soon)
        if known.unreadable is not None and (wanted is not None or isinstance(answer, Bogus | Unreachable)):
            unknown = f"whether {domain} has an MTA-STS policy is not known: {known.unreadable}"
            return Stood(StsStanding(unknown=unknown), tuple(findings), 0.0)
        until = known.not_before if trouble is not None else math.inf
        return Stood(StsStanding(), tuple(findings), until)


def _wanted(answer: Answer) -> str | None:
    """The id in the record."""
    if not isinstance(answer, Found):
        return None
    return policy_id(record.text for record in answer.records if isinstance(record, TextRecord))


def _refresh_after(seen: StsSeen) -> float:
    """Seconds after a fetch that the next one is due, while the policy still counts."""
    return max(RETRY, min(REFRESH, seen.max_age / 2))


def _policy(seen: StsSeen) -> StsPolicy:
    return StsPolicy(Mode(seen.mode), seen.patterns, seen.max_age)


def _found(domain: str, seen: StsSeen, policy: StsPolicy, now: float) -> Finding:
    hours = max(0.0, now - seen.fetched_at) / 3600
    text = f"{domain} has an MTA-STS policy: {policy} (id {seen.id}, fetched {hours:.0f} h ago)"
    return Finding(Stage.POLICY, "sts-found", text, Verdict.OK, "RFC 8461 3.2")


def _finding(code: str, text: str, rfc: str) -> Finding:
    return Finding(Stage.POLICY, code, text[:1].upper() + text[1:], Verdict.NOTE, rfc)
