"""The finished zoo: every zone made and delegated, and the root's key as trust anchor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import dns.name
import dns.rdatatype
from dns.rdtypes.ANY.DS import DS

from tests.zoo.animals import ZONES
from tests.zoo.signer import Zone, ZonePlan, ds_records, finish


@dataclass(frozen=True, slots=True, eq=False)
class Zoo:
    """All zones by origin."""

    zones: Mapping[dns.name.Name, Zone]

    @property
    def anchors(self) -> tuple[DS, ...]:
        """The DS records of the root's key-signing key."""
        return tuple(ds_records(self.zones[dns.name.root].plan))

    @property
    def anchor_texts(self) -> tuple[str, ...]:
        """The anchors in zone file form, with their owner."""
        return tuple(f". IN DS {ds.to_text()}" for ds in self.anchors)

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Name and zone file text of every zone, for a real name server."""
        return tuple((name.to_text(), zone.text) for name, zone in self.zones.items())

    def zone_for(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Zone:
        """The zone that answers: the deepest that encloses `name`, its parent for DS (RFC 4035 3.1.4.1)."""
        if rdtype == dns.rdatatype.DS and name in self.zones and name != dns.name.root:
            name = name.parent()
        while name not in self.zones:
            name = name.parent()
        return self.zones[name]


def build(now: int, plans: Iterable[ZonePlan] = ZONES, *, address: str = "127.0.0.1") -> Zoo:
    """Make the zones of `plans`, which must hold a root. Signatures are valid around `now` (POSIX seconds).

    `address` is that of every zone's name server. A zone that is planned twice raises ValueError.
    """
    planned: dict[dns.name.Name, ZonePlan] = {}
    for plan in plans:
        origin = dns.name.from_text(plan.origin)
        if origin in planned:
            raise ValueError(f"{origin} is planned twice")
        planned[origin] = plan
    children: dict[dns.name.Name, list[ZonePlan]] = {origin: [] for origin in planned}
    for origin in planned:
        if origin != dns.name.root:
            children[_parent(origin, planned)].append(planned[origin])
    return Zoo({origin: finish(plan, children[origin], address, now) for origin, plan in planned.items()})


def _parent(origin: dns.name.Name, planned: Mapping[dns.name.Name, ZonePlan]) -> dns.name.Name:
    name = origin.parent()
    while name not in planned:
        name = name.parent()
    return name
