"""The MTA-STS policies that a process goes by: read from the hints, fetched, and remembered.

What is worth doing, and what counts then, is decided in `deliver.sts.knowledge`. One fetch for a domain at a
time: mail that has a known policy does not wait for it. What other processes have fetched counts within half
a minute. A policy is forgotten when its time is over, or for MAX_DOMAINS others.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from itertools import islice

import trio

from deliver.net.clock import Clock
from deliver.resolve.answer import Answer
from deliver.resolve.sts import BadPolicy, StsPolicy, parse_policy
from deliver.sts.knowledge import (
    Knowledge,
    Moment,
    after_a_failure,
    after_a_fetch,
    after_no_reading,
    after_reading,
    as_a_fetch_begins,
    asks_the_hints,
    is_due,
    patience,
    stood,
    wanted_id,
)
from deliver.sts.source import NotFetched, PolicySource
from deliver.sts.standing import Stood
from hints.port import Hints, Unreadable
from hints.records import StsSeen

MAX_DOMAINS = 10_000  # remembered; those without a policy go first
LOOKED_AT = 1_000  # of them, to find one without a policy

_log = logging.getLogger("outrider.delivery")
_NOTHING = Knowledge()


class KeptPolicies:
    """See the module. `learner` as in `Agent`."""

    def __init__(self, hints: Hints, source: PolicySource, clock: Clock, *, learner: str) -> None:
        self._hints = hints
        self._source = source
        self._clock = clock
        self._learner = learner
        self._known: OrderedDict[str, Knowledge] = OrderedDict()  # looked at again after every await
        self._fetching: dict[str, trio.Event] = {}

    async def stand(self, domain: str, answer: Answer, host: str | None) -> Stood:
        """See `Policies`."""
        wanted = wanted_id(answer)
        if asks_the_hints(self._of(domain), wanted, self._now()):
            await self._ask_the_hints(domain)
        if wanted is not None:
            await self._renew(domain, wanted, host)
        return stood(domain, answer, self._of(domain), self._now())

    def _now(self) -> Moment:
        return Moment(self._clock.now(), trio.current_time())

    def _of(self, domain: str) -> Knowledge:
        return self._known.get(domain, _NOTHING)

    def _remember(self, domain: str, known: Knowledge) -> None:
        if domain not in self._known and len(self._known) >= MAX_DOMAINS:
            del self._known[self._dispensable()]
        self._known[domain] = known
        self._known.move_to_end(domain)

    def _dispensable(self) -> str:
        """The one not asked for longest, of those of which nothing is known if there is one near."""
        eldest = islice(self._known.items(), LOOKED_AT)
        return next((name for name, known in eldest if known.seen is None), next(iter(self._known)))

    async def _ask_the_hints(self, domain: str) -> None:
        try:
            found = await self._hints.sts_policy(domain)
        except Unreadable as error:
            self._remember(domain, after_no_reading(self._of(domain), str(error), self._now()))
        else:
            self._remember(domain, after_reading(self._of(domain), found, self._now()))

    async def _renew(self, domain: str, wanted: str, host: str | None) -> None:
        """Fetch where that is due; who knows a policy does not wait for another one's fetch."""
        while is_due(self._of(domain), wanted, host, self._now()):
            other = self._fetching.get(domain)
            if other is None:
                await self._fetch_alone(domain, wanted, patience(self._of(domain), host, self._now()))
                return
            if self._of(domain).live(self._now()) is not None:
                return
            await other.wait()

    async def _fetch_alone(self, domain: str, wanted: str, seconds: float) -> None:
        self._remember(domain, as_a_fetch_begins(self._of(domain), self._now()))
        self._fetching[domain] = trio.Event()
        try:
            with trio.move_on_after(seconds) as scope:
                await self._fetch(domain, wanted)
            if scope.cancelled_caught:
                self._failed(domain, f"it took longer than {seconds:g} s")
        finally:
            self._fetching.pop(domain).set()

    async def _fetch(self, domain: str, wanted: str) -> None:
        try:
            policy = parse_policy(await self._source.fetch(domain))
        except NotFetched as error:
            self._failed(domain, str(error))
        except BadPolicy as error:
            self._failed(domain, f"what was fetched is no policy: {error}")
        except Exception as error:  # a mistake of ours must not stop mail, nor be repeated for every message
            _log.exception("fetching the MTA-STS policy of %s failed", domain)
            self._failed(domain, f"an unexpected error, see the log ({type(error).__name__})")
        else:
            self._fetched(domain, wanted, policy)

    def _fetched(self, domain: str, number: str, policy: StsPolicy) -> None:
        now = self._now()
        seen = StsSeen(domain, number, policy.mode.value, policy.patterns, policy.max_age, now.wall)
        self._hints.note(seen, source=self._learner, reason="fetched", now=now.wall)
        self._remember(domain, after_a_fetch(seen, now))

    def _failed(self, domain: str, why: str) -> None:
        self._remember(domain, after_a_failure(self._of(domain), why, self._now()))
