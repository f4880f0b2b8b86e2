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
mail that has a known policy does not wait for it, and makes it in HURRY where it is its turn. What other
processes have fetched counts within minutes. A process forgets a policy only when its time is over.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice

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
HURRY = 3.0  # seconds for a fetch that a known policy could do without
FRESH = 30.0  # seconds for which the hints are not asked again: another process may have fetched
MAX_DOMAINS = 10_000  # remembered; those without a policy go first
LOOKED_AT = 1_000  # of them, to find one without a policy

_log = logging.getLogger("outrider.delivery")


@dataclass(slots=True)
class _Domain:
    """What this process knows, times by trio's clock; whoever has awaited looks again.

    `seen`: what the hints or a fetch said, `unreadable`: they could not; `trouble`: of the last fetch.
    """

    seen: StsSeen | None = None
    unreadable: str | None = None
    ask_again: float = 0.0  # when the hints may know more
    not_before: float = 0.0  # when a fetch may be tried
    trouble: str | None = None
    fetching: trio.Event | None = None

    def learn(self, seen: StsSeen | None, now: float) -> None:
        """The later fetch counts, by a clock that is right; what the hints have lost is not lost here."""
        if seen is None:
            return
        if self.seen is None or self.seen.fetched_at < seen.fetched_at <= now:
            self.seen = seen


class KeptPolicies:
    """See the table above. `learner` as in `Agent`."""

    def __init__(self, hints: Hints, source: PolicySource, clock: Clock, *, learner: str) -> None:
        self._hints = hints
        self._source = source
        self._clock = clock
        self._learner = learner
        self._domains: OrderedDict[str, _Domain] = OrderedDict()

    async def stand(self, domain: str, answer: Answer, host: str | None) -> Stood:
        """See `Policies`."""
        wanted = _wanted(answer)
        known = self._domain(domain)
        await self._ask_the_hints(domain, wanted, known)
        if wanted is not None:
            await self._renew(domain, wanted, known, host)
        return self._stood(domain, answer, wanted, known)

    def _domain(self, domain: str) -> _Domain:
        if domain not in self._domains and len(self._domains) >= MAX_DOMAINS:
            del self._domains[self._dispensable()]
        known = self._domains.setdefault(domain, _Domain())
        self._domains.move_to_end(domain)
        return known

    def _dispensable(self) -> str:
        """The one not asked for longest, of those of which nothing is known if there is one near."""
        eldest = islice(self._domains.items(), LOOKED_AT)
        without = (name for name, known in eldest if known.seen is None and known.fetching is None)
        return next(without, next(iter(self._domains)))

    async def _ask_the_hints(self, domain: str, wanted: str | None, known: _Domain) -> None:
        """Unless they have just said enough: a policy with this id, or nothing where none is announced."""
        seen, now = self._live(known.seen), trio.current_time()
        if now < known.ask_again and wanted in (None, seen and seen.id):
            return
        try:
            found = await self._hints.sts_policy(domain)
        except Unreadable as error:
            known.unreadable, known.ask_again = str(error), 0.0 if seen is None else now + FRESH
            return
        if self._live(known.seen) is None:
            known.seen = None
        known.learn(self._live(found), self._clock.now())
        known.unreadable, known.ask_again = None, now + FRESH

    def _is_due(self, known: _Domain, wanted: str, host: str | None) -> bool:
        seen = self._live(known.seen)
        if trio.current_time() < known.not_before:
            return False
        if seen is None or seen.id != wanted:
            return True
        age = self._clock.now() - seen.fetched_at
        if age < 0 or age >= _refresh_after(seen):  # fetched by a clock that was wrong, or long ago
            return True
        return age >= RETRY and _refuses(seen, host)

    async def _renew(self, domain: str, wanted: str, known: _Domain, host: str | None) -> None:
        """Fetch where that is due; who knows a policy does not wait for another one's fetch."""
        while self._is_due(known, wanted, host):
            if known.fetching is None:
                await self._fetch_alone(domain, wanted, known, self._hurry(known, host))
                return
            if self._live(known.seen) is not None:
                return
            await known.fetching.wait()

    def _hurry(self, known: _Domain, host: str | None) -> float:
        """Seconds for a fetch: short where the known policy lets this mail go, else it is worth waiting."""
        seen = self._live(known.seen)
        return math.inf if seen is None or _refuses(seen, host) else HURRY

    async def _fetch_alone(self, domain: str, wanted: str, known: _Domain, hurry: float) -> None:
        known.fetching = trio.Event()
        if self._live(known.seen) is not None:  # also if this attempt ends before the fetch
            known.not_before = trio.current_time() + FRESH
        try:
            with trio.move_on_after(hurry) as scope:
                await self._fetch(domain, wanted, known)
            if scope.cancelled_caught:
                self._failed(known, f"it took longer than {hurry:g} s")
        finally:
            known.fetching.set()
            known.fetching = None

    async def _fetch(self, domain: str, wanted: str, known: _Domain) -> None:
        try:
            policy = parse_policy(await self._source.fetch(domain))
        except NotFetched as error:
            self._failed(known, str(error))
        except BadPolicy as error:
            self._failed(known, f"what was fetched is no policy: {error}")
        except Exception as error:  # a mistake of ours must not stop mail, nor be repeated for every message
            _log.exception("fetching the MTA-STS policy of %s failed", domain)
            self._failed(known, f"an unexpected error, see the log ({type(error).__name__})")
        else:
            self._fetched(domain, wanted, policy, known)

    def _fetched(self, domain: str, number: str, policy: StsPolicy, known: _Domain) -> None:
        now = self._clock.now()
        seen = StsSeen(domain, number, policy.mode.value, policy.patterns, policy.max_age, now)
        self._hints.note(seen, source=self._learner, reason="fetched", now=now)
        known.seen, known.unreadable, known.trouble = seen, None, None
        known.ask_again = trio.current_time() + FRESH
        known.not_before = trio.current_time() + FRESH  # also where two ids are answered in turn

    def _failed(self, known: _Domain, why: str) -> None:
        known.trouble, known.not_before = why, trio.current_time() + RETRY

    def _live(self, seen: StsSeen | None) -> StsSeen | None:
        """The policy unless its time is over."""
        return seen if seen is not None and self._left(seen) > 0 else None

    def _left(self, seen: StsSeen) -> float:
        """Seconds for which it still counts: its age, or until it may be fetched again if that is longer.

        A clock that went back makes it count no longer than that.
        """
        age = max(float(seen.max_age), FRESH)
        return min(age, seen.fetched_at + age - self._clock.now())

    def _stood(self, domain: str, answer: Answer, wanted: str | None, known: _Domain) -> Stood:
        now, seen = trio.current_time(), self._live(known.seen)
        silent = isinstance(answer, Bogus | Unreachable)
        findings: list[Finding] = []
        if isinstance(answer, Bogus | Unreachable):
            text = f"the record at {record_name(domain)} could not be looked up: {answer.why}"
            findings.append(_finding("sts-record-unknown", text, "RFC 8461 5.1"))
        trouble = known.trouble if wanted is not None and (seen is None or seen.id != wanted) else None
        unknown = known.unreadable if seen is None and (wanted is not None or silent) else None
        if trouble is not None:
            text = f"the MTA-STS policy of {domain} could not be fetched: {trouble}"
            if seen is not None:
                text += "; the one known before counts on"
            elif unknown is None:
                text += "; mail goes as without one"
            findings.append(_finding("sts-not-fetched", text, "RFC 8461 3.3"))
        if seen is not None:
            policy = _policy(seen)
            findings.append(_found(domain, seen, policy, self._clock.now()))
            return Stood(StsStanding(policy), tuple(findings), now + min(self._left(seen), RETRY))
        if unknown is not None:
            said = f"whether {domain} has an MTA-STS policy is not known: {unknown}"
            return Stood(StsStanding(unknown=said), tuple(findings), 0.0)
        until = known.not_before if trouble is not None else now + RETRY
        return Stood(StsStanding(), tuple(findings), 0.0 if known.unreadable is not None else until)


def _wanted(answer: Answer) -> str | None:
    """The id in the record."""
    if not isinstance(answer, Found):
        return None
    return policy_id(record.text for record in answer.records if isinstance(record, TextRecord))


def _refresh_after(seen: StsSeen) -> float:
    """Seconds after a fetch that the next one is due, while the policy still counts."""
    return max(RETRY, min(REFRESH, seen.max_age / 2))


def _refuses(seen: StsSeen, host: str | None) -> bool:
    return host is not None and seen.mode == Mode.ENFORCE and not _policy(seen).covers(host)


def _policy(seen: StsSeen) -> StsPolicy:
    return StsPolicy(Mode(seen.mode), seen.patterns, seen.max_age)


def _found(domain: str, seen: StsSeen, policy: StsPolicy, now: float) -> Finding:
    hours = max(0.0, now - seen.fetched_at) / 3600
    text = f"{domain} has an MTA-STS policy: {policy} (id {seen.id}, fetched {hours:.0f} h ago)"
    return Finding(Stage.POLICY, "sts-found", text, Verdict.OK, "RFC 8461 3.2")


def _finding(code: str, text: str, rfc: str) -> Finding:
    return Finding(Stage.POLICY, code, text[:1].upper() + text[1:], Verdict.NOTE, rfc)
