"""Hints for a look that changes nothing: in memory, and below them the MTA-STS policies of a file.

So `outrider explain` goes by the policy that mail goes by. The rest of the file says nothing about decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from hints import show
from hints.memory import MemoryHints
from hints.records import StsSeen
from hints.sts import counts


class Onlooker(MemoryHints):
    """See the module; a file that is not there, or that we may not read, holds nothing."""

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock)
        self._path = path
        self._now = clock

    async def sts_policy(self, domain: str) -> StsSeen | None:
        """The policy of a domain that still counts; never Unreadable."""
        noted, now = await super().sts_policy(domain), self._now()
        return noted or await trio.to_thread.run_sync(partial(self._kept, domain, now))

    def _kept(self, domain: str, now: float) -> StsSeen | None:
        wanted = show.Filter(kind="sts", domain=domain)
        try:
            found = show.rows(self._path, wanted, now)
        except show.Unreadable:
            return None
        valid = (row.values for row in found if row.valid)
        kept = (StsSeen(**{**values, "patterns": tuple(values["patterns"])}) for values in valid)
        return next((policy for policy in kept if counts(policy, now)), None)
