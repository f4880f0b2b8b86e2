"""What one claim may take: the lanes' windows and the administrator's limits together. No I/O."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from deliver.queue.lanes import Lanes
from deliver.queue.throttle import Key, Throttle


@dataclass(slots=True)
class Permits:
    """The `Admission` of one call of `claim` at `now`; used up by it. `held` is what each claim took.

    `holds` is shared by all calls: domains whose senders all have to wait, and until when.
    """

    lanes: Lanes
    throttle: Throttle
    now: float
    holds: dict[str, float] = field(default_factory=dict)
    held: list[tuple[Key, ...]] = field(default_factory=list)
    _taken: Counter[str] = field(default_factory=Counter)
    _taken_sites: Counter[str] = field(default_factory=Counter)
    _full: set[str] = field(default_factory=set)  # sites that will take no more, at this look
    _places: Counter[Key] = field(default_factory=Counter)

    def opens_at(self, domain: str) -> float:
        """See `deliver.queue.claiming.Admission`."""
        lanes = self.lanes
        site = lanes.site(domain)
        if site in self._full:
            return math.inf
        if not self._taken_sites:
            moment = lanes.opens_at(domain)
        else:
            taken = self._taken_sites.get(site, 0)
            moment = lanes.opens_at(domain, self._taken.get(domain, 0), taken)
            if moment == math.inf == lanes.site_opens_at(site, taken):
                self._full.add(site)
        if self.throttle.limited:
            moment = max(moment, self.throttle.opens_at(self.throttle.subject(domain, site), self._places))
        return max(moment, self.holds[domain]) if domain in self.holds else moment

    def reserve(self, domain: str) -> bool:
        """See `deliver.queue.claiming.Admission`."""
        if self.lanes.share.parts == 1:  # all of it is ours
            return True
        site = self.lanes.site(domain)
        if not self.lanes.reserve(domain, self._taken[domain], self._taken_sites[site]):
            return False
        return not self.throttle.limited or self.throttle.reserve(
            self.throttle.subject(domain, site), self.now, self._places
        )

    def may_have_one(self, domain: str) -> bool:
        """Whether the site of the domain takes one more attempt now, for whichever of its domains."""
        site = self.lanes.site(domain)
        return self.lanes.site_opens_at(site, self._taken_sites[site]) <= self.now

    def sender_opens_at(self, domain: str, sender: str) -> float:
        """See `deliver.queue.claiming.Admission`."""
        if not self.throttle.by_sender:
            return -math.inf
        subject = self.throttle.subject(domain, self.lanes.site(domain), sender)
        moment = self.throttle.opens_at(subject, self._places)
        if moment <= self.now and not self.throttle.reserve(subject, self.now, self._places):
            return math.inf
        return moment

    def took(self, domain: str, sender: str) -> None:
        """See `deliver.queue.claiming.Admission`."""
        site = self.lanes.site(domain)
        self._taken[domain] += 1
        self._taken_sites[site] += 1
        taken: tuple[Key, ...] = ()
        if self.throttle.limited:
            taken = self.throttle.take(self.throttle.subject(domain, site, sender), self.now)
            self._places.update(taken)
        self.held.append(taken)

    def hold(self, domain: str, until: float) -> None:
        """See `deliver.queue.claiming.Admission`."""
        self.holds[domain] = until
