"""How often clients have failed to log in, so that nobody tries out passwords. Pure.

A client is an IPv4 address or the /64 of an IPv6 address. Its failures are forgotten together, some time
after the first of them. What is remembered is bounded: the oldest go first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from deliver.relay.limits import account

MAX_CLIENTS = 20_000


@dataclass(slots=True)
class _Record:
    since: float
    count: int = 0


class Failures:
    """`limit` failures within `memory` seconds are too many; `now` of any clock that only goes forward."""

    def __init__(self, limit: int = 20, memory: float = 900.0) -> None:
        self.limit = limit
        self.memory = memory
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def add(self, client: str, now: float) -> None:
        """The client has failed."""
        record = self._known(client, now)
        if record is None:
            while len(self._records) >= MAX_CLIENTS:
                self._records.popitem(last=False)
            record = self._records[account(client)] = _Record(now)
        record.count += 1

    def too_many(self, client: str, now: float) -> bool:
        """Whether the client may not even try."""
        record = self._known(client, now)
        return record is not None and record.count >= self.limit

    def _known(self, client: str, now: float) -> _Record | None:
        record = self._records.get(account(client))
        if record is not None and now - record.since >= self.memory:
            del self._records[account(client)]
            return None
        return record
