"""Hosts that the administrator has frozen are not contacted: a gate before every connection.

Mail is not lost by that: the next host is tried, or the recipient waits by the retry rules.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final

from deliver.errors import UsageError
from deliver.pattern import matches
from deliver.queue.freeze import Kind, Rule
from events.catalogue import Event, Scalar
from events.port import Allow, EventGate, Refuse

CONNECT: Final = "tcp:connect"


class FrozenHosts:
    """An `EventGate` in front of another: refuses tcp:connect to what a host rule matches."""

    def __init__(self, gate: EventGate) -> None:
        self._gate = gate
        self._rules: tuple[Rule, ...] = ()

    def freeze(self, rules: tuple[Rule, ...]) -> None:
        """From now on these rules hold; those that are not about hosts are ignored."""
        self._rules = tuple(rule for rule in rules if rule.kind is Kind.HOST)

    @property
    def open(self) -> bool:
        """See `EventGate.open`."""
        return not self._rules and self._gate.open

    def watches(self, name: str, fields: Mapping[str, Scalar]) -> bool:
        """See `EventGate.watches`."""
        return (name == CONNECT and bool(self._rules)) or self._gate.watches(name, fields)

    async def consult(self, event: Event) -> Allow | Refuse:
        """See `EventGate.consult`."""
        if event.name == CONNECT:
            host, address = str(event.fields.get("host") or ""), str(event.fields.get("host_address") or "")
            for rule in self._rules:
                if is_frozen(rule.pattern, host, address):
                    return Refuse(f"the administrator has frozen it: {rule.reason}")
        return await self._gate.consult(event)


def is_frozen(pattern: str, host: str, address: str) -> bool:
    """Whether a host rule's pattern (a name pattern, an address or a network) means this host."""
    try:
        network = ipaddress.ip_network(pattern)
    except ValueError:
        try:
            return matches(pattern, host)
        except UsageError:
            return False
    try:
        return ipaddress.ip_address(address) in network
    except ValueError:
        return False
