"""IP addresses: one spelling for each, which networks they are in, and whether this machine has them."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from functools import cache, lru_cache

import trio

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Place = tuple[str, int]  # address and port

EVERY_V4, EVERY_V6 = str(ipaddress.IPv4Address(0)), str(ipaddress.IPv6Address(0))  # to listen on

_NONLOCAL = {
    socket.AF_INET: "/proc/sys/net/ipv4/ip_nonlocal_bind",
    socket.AF_INET6: "/proc/sys/net/ipv6/ip_nonlocal_bind",
}


def plain(text: str) -> Address:
    """The address without a zone, ::ffff:192.0.2.1 as 192.0.2.1: they lead to the same host."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(maxsize=64)
def networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    """Read `192.0.2.0/24` and so on. Raises ValueError."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def within(text: str, texts: tuple[str, ...]) -> bool:
    """Whether the address is in one of the networks."""
    address = plain(text)
    return any(address in network for network in networks(texts))


def places_of(listening: Iterable[trio.socket.SocketType]) -> frozenset[Place]:
    """Where the TCP sockets listen: 0.0.0.0 for every IPv4 address, :: for every IPv6 address."""
    found: set[Place] = set()
    for each in listening:
        if each.family not in (socket.AF_INET, socket.AF_INET6):
            continue
        address, port = each.getsockname()[:2]
        found.add((str(plain(address)), port))
        if address == EVERY_V6 and not each.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            found.add((EVERY_V4, port))
    return frozenset(found)


def leads_to(places: frozenset[Place], text: str, port: int, is_local: Callable[[str], bool]) -> bool:
    """Whether who connects there meets one of the sockets that listen at `places`.

    `is_local` is asked only where every address of the machine counts.
    """
    if all(port != each for _, each in places):
        return False
    address = plain(text)
    if address.is_unspecified:  # leads to loopback (Linux)
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    if (str(address), port) in places:
        return True
    if (EVERY_V4 if address.version == 4 else EVERY_V6, port) not in places:
        return False
    return address.is_loopback or is_local(str(address))


def is_local(text: str) -> bool:
    """Whether this machine has the address; no packet is sent."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            if _binds_to_others(family):  # then only the way there tells: it begins at the address itself
                probe.connect((text, 9))
                return bool(probe.getsockname()[0] == text)
            probe.bind((text, 0))
            return True
    except OSError:
        return False


@cache
def _binds_to_others(family: socket.AddressFamily) -> bool:
    """Whether the kernel lets sockets have addresses that the machine has not (`ip_nonlocal_bind`)."""
    try:
        with open(_NONLOCAL[family]) as setting:
            return setting.read().strip() != "0"
    except OSError:
        return False
