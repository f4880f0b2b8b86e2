"""Lanes: how many attempts at a time a site may have, and when it is left alone. No I/O; `now` is given.

A *site* is the set of servers and the policy that several recipient domains share; it is known after the
first attempt, until then a domain is a site of its own. Each site has a lane:

    what an attempt found        the lane
    ---------------------------  ------------------------------------------------------------------
    the server answered          slow start: one attempt more for each, up to `widest`; after a first
                                 failure one more for each round, and the pauses are forgotten
    it pushed back (421, 4yz at  half as many; the second time at one attempt a pause
      MAIL, a lost session)
    it could not be reached      a pause, and then one attempt to find out
    something of our own         unchanged

- A pause doubles with each failure behind the other, up to `longest_pause`; it ends at the latest when the
  message that failed is due again, so that no retry and no last attempt comes late by it.
- What was begun before a pause began says nothing new and lengthens nothing.
- A lane whose attempts take long is slow: see `Occupancy`.

`Lanes` keeps the lanes and counts what runs. It belongs to one event loop; `opens_at` may be asked from the
database's thread while the loop goes on, and is at worst a moment old.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from deliver.errors import Blame
from deliver.outcome import AttemptResult, Deferred, Delivered, Outcome, Phase
from deliver.queue.share import WHOLE, Share
from deliver.smtp.reply import Reply

MAX_SITES: Final = 20_000  # lanes that are remembered; those least used are forgotten first
SITE_DOMAINS: Final = 100  # domains of one site that a worker looks through for its next message
SMOOTHING: Final = 0.3  # how much the latest attempt counts for the pace of its lane
CLOSING: Final = 421  # RFC 5321 3.8


@dataclass(frozen=True, slots=True)
class Terms:
    """The settings, times in seconds. `start` and `widest` are attempts at a time for one site."""

    start: int = 1
    widest: int = 20
    per_domain: int = 5
    pause: float = 60.0
    longest_pause: float = 900.0
    slow_after: float = 2.0


class Feedback(Enum):
    """What an attempt says about its site."""

    GOOD = "it answered"
    NEUTRAL = "it says nothing about the site"
    PUSHBACK = "it pushed back"
    UNREACHABLE = "it could not be reached"


class Lane(Struct, frozen=True):
    """The state of one site; times in seconds since the epoch, `pace` in seconds per attempt."""

    window: float
    growing: bool = True
    failures: int = 0
    paused_at: float = -math.inf
    paused_until: float = -math.inf
    pace: float = 0.0

    def opens_at(self, running: int) -> float:
        """From when on one more attempt may begin: -inf is now, inf is when another one has ended."""
        if running >= max(1, int(self.window)):
            return math.inf
        return self.paused_until


def feedback(result: AttemptResult) -> Feedback:
    """The table above, for all recipients together: one that was answered proves that the site answers."""
    if len(result.outcomes) == 1:
        return _of_outcome(result.outcomes[0][1])
    found = {_of_outcome(outcome) for _, outcome in result.outcomes}
    for worst in (Feedback.PUSHBACK, Feedback.GOOD, Feedback.UNREACHABLE):
        if worst in found:
            return worst
    return Feedback.NEUTRAL


def _of_outcome(outcome: Outcome) -> Feedback:
    if isinstance(outcome, Delivered):
        return Feedback.GOOD
    if isinstance(outcome, Deferred) and _pushes_back(outcome, outcome.reply):
        return Feedback.PUSHBACK
    if outcome.reply is not None and outcome.phase not in (Phase.BANNER, Phase.EHLO, Phase.STARTTLS):
        return Feedback.GOOD
    if outcome.blame in (Blame.HOST, Blame.DESTINATION) and isinstance(outcome, Deferred):
        return Feedback.UNREACHABLE
    return Feedback.NEUTRAL


def _pushes_back(outcome: Deferred, reply: Reply | None) -> bool:
    if reply is not None:
        return reply.code == CLOSING or outcome.phase is Phase.MAIL
    lost = outcome.in_doubt or outcome.phase in (Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.BODY, Phase.DOT)
    return lost and outcome.blame is Blame.HOST


def after(
    lane: Lane, said: Feedback, terms: Terms, *, started: float, now: float, again: float = math.inf
) -> Lane:
    """The lane after an attempt that ran from `started` to `now`; its message is due again at `again`."""
    pace = lane.pace + SMOOTHING * (now - started - lane.pace)
    if said is Feedback.GOOD:
        grown = lane.window + (1.0 if lane.growing else 1.0 / lane.window)
        return Lane(min(float(terms.widest), grown), lane.growing, paused_at=lane.paused_at, pace=pace)
    lane = replace(lane, pace=pace)
    if said is Feedback.NEUTRAL or started <= lane.paused_at:
        return lane
    if said is Feedback.PUSHBACK and (lane.growing or lane.window >= 2):
        return replace(lane, window=max(1.0, lane.window / 2), growing=False)
    pause = min(terms.longest_pause, terms.pause * 2.0 ** min(lane.failures, 30))
    return replace(
        lane,
        window=1.0,
        growing=False,
        failures=lane.failures + 1,
        paused_at=now,
        paused_until=max(now, min(now + pause, again)),
    )


@dataclass(slots=True)
class _Place:
    """A site: its lane, the domains that were found to belong to it, and how many attempts run."""

    lane: Lane
    domains: OrderedDict[str, None]
    running: int = 0


class Lanes:
    """The lanes of all sites, and what runs on them."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.share: Share = WHOLE  # what we may have of the limits
        self._site_of: dict[str, str] = {}
        self._places: OrderedDict[str, _Place] = OrderedDict()
        self._running: dict[str, int] = {}  # by domain

    def __len__(self) -> int:
        return len(self._places)

    def site(self, domain: str) -> str:
        """The site of the domain as far as is known, else the domain itself."""
        return self._site_of.get(domain, domain)

    def lane(self, domain: str) -> Lane:
        """The lane of the domain's site; a new one if nothing is known."""
        place = self._places.get(self.site(domain))
        return self._new() if place is None else place.lane

    def domains(self, domain: str) -> tuple[str, ...]:
        """The domains of the same site, this one first."""
        place = self._places.get(self._site_of.get(domain, domain))
        others = () if place is None else place.domains
        return (domain, *[each for each in others if each != domain])

    def opens_at(self, domain: str, taken: int = 0, taken_site: int = 0) -> float:
        """From when on the domain may have one more attempt; `taken`: not begun yet, but claimed."""
        most = self.terms.per_domain
        if self.share.parts > 1:
            most = self.share.places(most, _domain_key(domain))
        if self._running.get(domain, 0) + taken >= most:
            return math.inf
        return self.site_opens_at(self._site_of.get(domain, domain), taken_site)

    def site_opens_at(self, site: str, taken: int = 0) -> float:
        """From when on one of the site's domains may have one more attempt."""
        most = self.terms.widest
        if self.share.parts > 1:
            most = self.share.places(most, _site_key(site))
        place = self._places.get(site)
        running = taken if place is None else place.running + taken
        if running >= most:
            return math.inf
        return (self._new() if place is None else place.lane).opens_at(running)

    def reserve(self, domain: str, taken: int = 0, taken_site: int = 0) -> bool:
        """Whether we have places for one more attempt of the domain, where others have a share too."""
        if self.share.parts == 1:
            return True
        site = self.site(domain)
        place = self._places.get(site)
        running = 0 if place is None else place.running
        return self.share.reserve(
            self.terms.per_domain, _domain_key(domain), self._running.get(domain, 0) + taken + 1
        ) and self.share.reserve(self.terms.widest, _site_key(site), running + taken_site + 1)

    def slow(self, domain: str) -> bool:
        """Whether attempts on the domain's lane usually take long."""
        return self.lane(domain).pace > self.terms.slow_after

    def begin(self, domain: str) -> str:
        """An attempt begins; returns its site, for `end`."""
        site = self.site(domain)
        place = self._places.get(site)
        if place is None:
            place = self._places[site] = _Place(self._new(), OrderedDict({domain: None}))
        self._places.move_to_end(site)
        place.running += 1
        self._running[domain] = self._running.get(domain, 0) + 1
        if self.share.parts > 1:
            self.share.begin(_domain_key(domain))
            self.share.begin(_site_key(site))
        return site

    def end(
        self,
        domain: str,
        site: str,
        said: Feedback,
        found: str | None,
        *,
        started: float,
        now: float,
        again: float = math.inf,
    ) -> Lane:
        """The attempt that `begin` announced has ended; `found` is the site that it turned out to be."""
        place = self._places[site]
        place.running -= 1
        self._running[domain] -= 1
        if self.share.parts > 1:
            self.share.end(_domain_key(domain))
            self.share.end(_site_key(site))
        if not self._running[domain]:
            del self._running[domain]
        if found is not None and found != site:
            place = self._move(domain, place, site, found)
        place.lane = after(place.lane, said, self.terms, started=started, now=now, again=again)
        if len(self._places) > MAX_SITES or len(self._site_of) > 2 * MAX_SITES:
            self._forget()
        return place.lane

    def reopen(self, domains: Iterable[str] | None = None) -> None:
        """Somebody says that it is worth a try: end the pauses of these domains' sites, or of all."""
        names = self._places if domains is None else {self.site(domain) for domain in domains}
        for name in tuple(names):
            if (place := self._places.get(name)) is not None:
                place.lane = replace(place.lane, paused_until=-math.inf)

    def set_back(self, now: float) -> None:
        """The clock was set back to `now`: end the pauses, which were of a time that has not come."""
        for place in self._places.values():
            lane = place.lane
            place.lane = replace(lane, paused_until=-math.inf, paused_at=min(lane.paused_at, now))

    def _move(self, domain: str, place: _Place, site: str, found: str) -> _Place:
        place.domains.pop(domain, None)
        known = self._places.get(found)
        if known is None:
            known = self._places[found] = _Place(place.lane, OrderedDict())
        known.domains[domain] = None
        known.domains.move_to_end(domain, last=False)
        while len(known.domains) > SITE_DOMAINS:
            known.domains.popitem()
        self._site_of[domain] = found
        if not place.running and not place.domains:
            self._places.pop(site, None)
        return known

    def _new(self) -> Lane:
        return Lane(float(min(self.share.portion(self.terms.start), self.terms.widest)))

    def _forget(self) -> None:
        for name in tuple(islice(self._places, max(0, len(self._places) - MAX_SITES))):
            if not self._places[name].running:
                del self._places[name]
        if len(self._site_of) > 2 * MAX_SITES:
            self._site_of = {
                domain: site
                for domain, site in self._site_of.items()
                if (place := self._places.get(site)) is not None and domain in place.domains
            }


def _domain_key(domain: str) -> str:
    return f"domain {domain}"


def _site_key(site: str) -> str:
    return f"site {site}"


class Occupancy:
    """How many workers are busy. An attempt that takes longer than `slow_after`, or whose lane is slow, makes
    room for another: it counts among the `slow_workers`, as long as these suffice.
    """

    def __init__(self, workers: int, slow_workers: int, slow_after: float) -> None:
        self.workers = workers
        self.slow_workers = slow_workers
        self.slow_after = slow_after
        self._quick: dict[int, float] = {}  # attempt: when it turns slow; in the order of their beginning
        self._slow: set[int] = set()

    def begin(self, attempt_id: int, now: float, *, slow: bool) -> None:
        """An attempt begins."""
        if slow:
            self._slow.add(attempt_id)
        else:
            self._quick[attempt_id] = now + self.slow_after

    def end(self, attempt_id: int) -> None:
        """It has ended."""
        self._quick.pop(attempt_id, None)
        self._slow.discard(attempt_id)

    def free(self, now: float) -> int:
        """How many attempts more may begin."""
        for attempt_id, moment in tuple(self._quick.items()):
            if moment > now:
                break
            del self._quick[attempt_id]
            self._slow.add(attempt_id)
        overflow = max(0, len(self._slow) - self.slow_workers)
        return max(0, self.workers - len(self._quick) - overflow)

    def next_change(self) -> float:
        """When an attempt turns slow and makes room: seconds since the epoch, inf for never."""
        if len(self._slow) >= self.slow_workers:
            return math.inf
        return next(iter(self._quick.values()), math.inf)
