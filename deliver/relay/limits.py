"""How much one client may have of the relay: connections at a time, messages and recipients a minute. Pure.

A client is an IPv4 address or the /64 of an IPv6 address, since its user has all of it. A rate is a bucket
that holds one minute's worth and fills evenly. What is known of clients is bounded: full buckets go first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

MINUTE = 60.0
MAX_CLIENTS = 20_000  # of which something is remembered


@dataclass(frozen=True, slots=True)
class Allowance:
    """None: no limit."""

    connections: int | None = None
    messages: int | None = None  # a minute
    recipients: int | None = None  # a minute


@dataclass(slots=True)
class _Bucket:
    """`level` tokens were there at the time `at`."""

    level: float
    at: float


class ClientLimits:
    """The accounts of all clients; `now` in seconds, of any clock that only goes forward."""

    shared = False  # with other processes

    def __init__(self, allowance: Allowance, now: Callable[[], float]) -> None:
        self.allowance = allowance
        self._now = now
        self._connections: dict[str, int] = {}
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def connect(self, client: str) -> bool:
        """Whether the client may have one more connection; then `disconnect` gives it back."""
        key = account(client)
        held = self._connections.get(key, 0)
        if self.allowance.connections is not None and held >= self.allowance.connections:
            return False
        self._connections[key] = held + 1
        return True

    def disconnect(self, client: str) -> None:
        """A connection has ended."""
        key = account(client)
        left = self._connections[key] - 1
        if left:
            self._connections[key] = left
        else:
            del self._connections[key]

    def note_open(self, connections: int) -> None:
        """How many connections we have, of all clients."""

    def others_open(self) -> int:
        """How many other processes of this service have."""
        return 0

    def ahead(self) -> bool:
        """Whether another process has fewer connections than we."""
        return False

    def message(self, client: str) -> bool:
        """Whether another message may begin now."""
        return self._take("messages", client, self.allowance.messages)

    def recipient(self, client: str) -> bool:
        """Whether another recipient may be named now."""
        return self._take("recipients", client, self.allowance.recipients)

    def _take(self, kind: str, client: str, a_minute: int | None) -> bool:
        if a_minute is None:
            return True
        now = self._now()
        bucket = self._buckets.get((kind, account(client)))
        if bucket is None:
            self._make_room(now)
            bucket = self._buckets[kind, account(client)] = _Bucket(float(a_minute), now)
        bucket.level = min(a_minute, bucket.level + (now - bucket.at) * a_minute / MINUTE)
        bucket.at = now
        if bucket.level < 1:
            return False
        bucket.level -= 1
        return True

    def _make_room(self, now: float) -> None:
        """Who was not there for a minute has a full bucket, which is as good as none."""
        if len(self._buckets) < 2 * MAX_CLIENTS:
            return
        self._buckets = {key: one for key, one in self._buckets.items() if now - one.at < MINUTE}
        while len(self._buckets) >= 2 * MAX_CLIENTS:
            del self._buckets[next(iter(self._buckets))]


def connections_within(wanted: int, files: int) -> int:
    """How many of the `wanted` connections may be open where a process may have `files` open.

    The other half is for deliveries, idle sessions, content and databases: a client that waits for a place
    is better off than one whose message cannot be written.
    """
    return max(1, min(wanted, files // 2))


@lru_cache(maxsize=4096)  # most clients come again
def account(client: str) -> str:
    """Who is counted together with this client: a /64, or the address itself."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv4Address):
        return client
    return str(ipaddress.IPv6Network((address, 64), strict=False))
