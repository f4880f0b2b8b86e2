"""Reading `host:port` as it stands in settings: pure, no look-ups.

text                  host          port
--------------------  ------------  ----
mail.example.org      the name      None
mail.example.org:587  the name      587
192.0.2.1:25          the address   25
2001:db8::1           the address   None
[2001:db8::1]:25      the address   25
[192.0.2.1]           the address   None
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

CACHED = 4096  # texts; the same ones are read for every message

_BRACKETED = re.compile(r"\[([^\[\]]+)\](?::(\d{1,5}))?\Z", re.ASCII)
_PLAIN = re.compile(r"([^:\[\]]+)(?::(\d{1,5}))?\Z", re.ASCII)


@lru_cache(maxsize=CACHED)
def split(text: str) -> tuple[str, int | None]:
    """Host and port (0 to 65535, None if not given). Raises ValueError, its text a phrase.

    The host is not checked further, except that brackets must hold an IP address.
    """
    if is_address(text):
        return text, None
    bracketed = _BRACKETED.match(text)
    found = bracketed or _PLAIN.match(text)
    if not found:
        raise ValueError(f"{text[:80]!r} is not host, host:port or [address]:port")
    host, port = found[1], found[2]
    if bracketed and not is_address(host):
        raise ValueError(f"{host[:80]!r} in brackets is not an IP address")
    if port is not None and int(port) > 65535:
        raise ValueError(f"{port} is not a port")
    return host, None if port is None else int(port)


@lru_cache(maxsize=CACHED)
def is_address(host: str) -> bool:
    """Whether the text is an IPv4 or IPv6 address without brackets."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether the text is an address of this machine's loopback interface."""
    return is_address(host) and ipaddress.ip_address(host).is_loopback
