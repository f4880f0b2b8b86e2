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
    _places: Counter[Key] = field(default_factory=Counter)

    def opens_at(self, domain: str) -> float:
        """See `deliver.queue.claiming.Admission`."""
        site = self.lanes.site(domain)
        lane = self.lanes.opens_at(domain, self._taken[domain], self._taken_sites[site])
        limits = self.throttle.opens_at(self.throttle.subject(domain, site), self._places)
        return max(lane, limits, self.holds.get(domain, -math.inf))

    def sender_opens_at(self, domain: str, sender: str) -> float:
        """See `deliver.queue.claiming.Admission`."""
        if not self.throttle.by_sender:
            return -math.inf
        return self.throttle.opens_at(
            self.throttle.subject(domain, self.lanes.site(domain), sender), self._places
        )

    def took(self, domain: str, sender: str) -> None:
        """See `deliver.queue.claiming.Admission`."""
        site = self.lanes.site(domain)
        self._taken[domain] += 1
        self._taken_sites[site] += 1
        taken = self.throttle.take(self.throttle.subject(domain, site, sender), self.now)
        self._places.update(taken)
        self.held.append(taken)

    def hold(self, domain: str, until: float) -> None:
        """See `deliver.queue.claiming.Admission`."""
        self.holds[domain] = until
