"""Who may relay through us (RFC 5321 7.9). Pure.

    in one of the listener's networks            yes
    logged in                                    yes
    with a verified certificate for a name of    yes
    `relay.tls.client_names`
    anybody else                                 no

The answer is the same for every recipient, postmaster included: this relay has no mailboxes. A client whose
address is not known may not relay, and with no networks nobody may: an open relay needs to be written down.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from deliver.errors import ConfigurationError
from deliver.pattern import any_matches
from deliver.smtp.reply import Reply

if TYPE_CHECKING:
    from deliver.relay.security import Client  # pulls trio in, which reading settings does not need

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Read `192.0.2.0/24`, `2001:db8::/32` or a single address. Raises ConfigurationError."""
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ConfigurationError(
                f"reading relay.networks: {text!r}", str(error), 'write "192.0.2.0/24" or "2001:db8::/32"'
            ) from None
    return tuple(found)


@lru_cache(maxsize=4096)  # most clients come again
def client_address(text: str) -> str:
    """The address without a zone, an IPv4 client on an IPv6 socket as IPv4; other text unchanged."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def may_relay(client: str, allowed: Iterable[Network]) -> bool:
    """Whether the client with this IP address (as from `client_address`) is in one of the networks."""
    address = _parsed(client)
    return address is not None and any(address in network for network in allowed)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def refusal(client: str, allowed: Iterable[Network]) -> Reply | None:
    """The reply to RCPT for a client that may not relay, else None."""
    if may_relay(client, allowed):
        return None
    return Reply(550, (f"5.7.1 Relaying denied: {client or 'your address'} is not in relay.networks here",))


def denial(client: Client, allowed: Iterable[Network], names: Iterable[str]) -> Reply | None:
    """The same for a client of which more is known; `names` are patterns of names in certificates."""
    if client.authenticated is not None:
        return None
    if client.secured is not None and any(any_matches(names, name) for name in client.secured.names):
        return None
    return refusal(client.address, allowed)
