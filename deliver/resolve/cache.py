"""A bounded cache that respects TTLs, and one flight per question.

A failure is not kept for the next delivery, which asks again (`least` is for a single one). Identical lookups
in flight are merged.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import trio

from deliver.resolve.answer import Answer, Found, NoData, NxDomain, Query
from deliver.resolve.resolver import Resolver


class _Flight:
    """A lookup under way; `answer` stays None when the task that asked was cancelled."""

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.answer: Answer | None = None


class CachingResolver:
    """Wraps `upstream`. `now` gives seconds on any steady scale; at most `entries` answers are kept.

    Every answer, a failure (RFC 9520 3) and one with a TTL of 0 (RFC 1035 3.2.1) too, is kept for at least
    `least` seconds: within a single delivery the second question belongs to the transaction of the first.
    """

    def __init__(
        self,
        upstream: Resolver,
        *,
        now: Callable[[], float],
        entries: int,
        max_ttl: float,
        least: float = 0.0,
    ) -> None:
        self.now = now
        self._upstream = upstream
        self._entries = entries
        self._max_ttl = max_ttl
        self._least = least
        self._kept: OrderedDict[Query, tuple[float, Answer]] = OrderedDict()
        self._flights: dict[Query, _Flight] = {}

    async def lookup(self, query: Query) -> Answer:
        """The kept answer while its TTL lasts, else a fresh one."""
        kept = self._kept.get(query)
        if kept is not None:
            expiry, answer = kept
            if self.now() < expiry:
                self._kept.move_to_end(query)
                return answer
            del self._kept[query]
        while (flight := self._flights.get(query)) is not None:
            await flight.landed.wait()
            if flight.answer is not None:
                return flight.answer
        return await self._fly(query)

    def expiry(self, query: Query) -> float:
        """Until when the same answer is given again, by `now`; 0 where that is not known."""
        kept = self._kept.get(query)
        return 0.0 if kept is None else kept[0]

    async def _fly(self, query: Query) -> Answer:
        flight = self._flights[query] = _Flight()
        try:
            flight.answer = await self._upstream.lookup(query)
        finally:
            del self._flights[query]
            flight.landed.set()
        self._keep(query, flight.answer)
        return flight.answer

    def _keep(self, query: Query, answer: Answer) -> None:
        ttl = answer.ttl if isinstance(answer, Found | NoData | NxDomain) else 0
        seconds = max(min(ttl, self._max_ttl), self._least)
        if seconds <= 0:
            return
        self._kept[query] = (self.now() + seconds, answer)
        while len(self._kept) > self._entries:
            self._kept.popitem(last=False)
