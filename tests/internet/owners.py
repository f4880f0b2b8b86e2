"""Which owner name of a zone answers for a name: itself, a wildcard, an alias above it (RFC 4592, RFC 6672)."""

from __future__ import annotations

from bisect import bisect_left
from typing import Protocol

import dns.name
import dns.rdataset
import dns.rdatatype
import dns.rrset
import dns.zone


class Zone(Protocol):
    """What is asked of a zone. `names` are its owner names in canonical order (RFC 4034 6.1)."""

    @property
    def origin(self) -> dns.name.Name:
        """Its apex."""
        ...

    @property
    def names(self) -> tuple[dns.name.Name, ...]:
        """Its owner names."""
        ...

    @property
    def contents(self) -> dns.zone.Zone:
        """Its records."""
        ...


def source(zone: Zone, name: dns.name.Name) -> dns.name.Name | None:
    """The owner name that answers for `name`: itself, a wildcard, or None when there is none."""
    if exists(zone, name):
        return name
    wildcard = dns.name.Name((b"*", *closest_encloser(zone, name).labels))
    return wildcard if exists(zone, wildcard) else None


def exists(zone: Zone, name: dns.name.Name) -> bool:
    """Whether the zone has that name, empty non-terminals included (RFC 4592 2.2.2)."""
    place = bisect_left(zone.names, name)
    return place < len(zone.names) and zone.names[place].is_subdomain(name)


def closest_encloser(zone: Zone, name: dns.name.Name) -> dns.name.Name:
    """The longest existing name that is `name` or above it (RFC 4592 3.3.1)."""
    while not exists(zone, name):
        name = name.parent()
    return name


def delegating_alias(zone: Zone, name: dns.name.Name) -> dns.name.Name | None:
    """The owner of a DNAME above `name` in the zone, or None."""
    while name != zone.origin:
        name = name.parent()
        if zone.contents.get_rdataset(name, "DNAME") is not None:
            return name
    return None


def synthesised(zone: Zone, name: dns.name.Name, upper: dns.name.Name) -> dns.rrset.RRset:
    """The CNAME of `name` made from the DNAME of `upper`, which has no signature (RFC 6672 3.1).

    Raises dns.name.NameTooLong.
    """
    dname = zone.contents.find_rdataset(upper, "DNAME")
    target = name.relativize(upper) + dname[0].target
    return dns.rrset.from_text(name, dname.ttl, "IN", "CNAME", target.to_text())
