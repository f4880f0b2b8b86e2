"""Which worker delivers to a domain: its keeper, so that what a first contact costs is paid once. Pure.

A domain's keeper follows from its name. A message stays where it was accepted all the same

    where all of the domain's mail goes to fixed next hops      they have sessions with everybody
    where its keeper has much more to do                        a busy domain does not wait for one worker
    where ENOUGH of the domain's went there a moment ago        sessions of one's own cost less by now

and those that follow it stay, too, as long as no pause is longer than sessions are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from zlib import crc32

from deliver.relay.route import fixed
from deliver.settings import Route

MORE = 50  # messages that wait at the keeper, beside as many as wait here: it has much more to do
ENOUGH = 20  # messages to another worker cost as much as a first contact
DOMAINS = 4096  # that are remembered


def keeper(domain: str, workers: int) -> int:
    """The worker that keeps the domain, among 0 to `workers` - 1; the same in every process."""
    return crc32(domain.encode()) % workers


class Choice:
    """The choices of worker `number`; `waiting(n)` messages wait at worker n, infinity: it is away.

    `kept` seconds without mail for a domain, and it is as if there had never been any.
    """

    def __init__(
        self,
        number: int,
        workers: int,
        waiting: Callable[[int], float],
        routes: Sequence[Route],
        kept: float,
    ) -> None:
        self._number = number
        self._workers = workers
        self._waiting = waiting
        self._kept = kept
        self._gone: dict[str, tuple[int, float]] = {}  # how many, and when the last; the latest at the end
        self._fixed = lru_cache(DOMAINS)(lambda domain: fixed(routes, domain))

    def of(self, domain: str, now: float) -> int | None:
        """The other worker that a message for the domain is for; None: it stays. `now` in seconds."""
        owner = keeper(domain, self._workers)
        if owner == self._number or self._fixed(domain):
            return None
        there, here = self._waiting(owner), self._waiting(self._number)
        if there == math.inf or here == math.inf:
            return None
        if self._recently(domain, now) >= ENOUGH or there > here + MORE:
            self._remember(domain, ENOUGH, now)  # and so do the next ones
            return None
        return owner

    def went(self, domain: str, now: float) -> None:
        """A message for the domain has gone to its keeper."""
        self._remember(domain, self._recently(domain, now) + 1, now)

    def _recently(self, domain: str, now: float) -> int:
        gone, last = self._gone.get(domain, (0, now))
        return gone if now - last <= self._kept else 0

    def _remember(self, domain: str, gone: int, now: float) -> None:
        self._gone.pop(domain, None)
        self._gone[domain] = gone, now
        if len(self._gone) > DOMAINS:
            del self._gone[next(iter(self._gone))]
