"""Attempts that do nothing any more, for longer than any timeout allows: each is ended, and that is said.

One task looks at all of them now and then; an attempt costs nothing while it lives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from deliver.queue.claiming import Claim

LOOKS: Final = 4  # at an attempt in the time after which it is ended
LONGEST: Final = 60.0  # seconds between two looks

log = logging.getLogger("outrider.queue")


@dataclass(slots=True, eq=False)
class Watched:
    """An attempt that may be silent for `seconds`; `progress` changes whenever something happens."""

    claim: Claim
    seconds: float
    progress: Callable[[], object]
    scope: trio.CancelScope
    since: float
    seen: object = None


class Silence:
    """Those under way; `run` has to run."""

    def __init__(self) -> None:
        self._watched: dict[int, Watched] = {}
        self._begun = trio.Event()

    def begin(
        self, claim: Claim, seconds: float, progress: Callable[[], object], scope: trio.CancelScope
    ) -> None:
        """An attempt begins; `scope` is cancelled when it has fallen silent."""
        self._watched[claim.attempt_id] = Watched(claim, seconds, progress, scope, trio.current_time())
        self._begun.set()

    def end(self, claim: Claim) -> None:
        """It has ended."""
        self._watched.pop(claim.attempt_id, None)

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            while not self._watched:
                self._begun = trio.Event()
                await self._begun.wait()
            shortest = min(each.seconds for each in self._watched.values())
            await trio.sleep(min(LONGEST, shortest / LOOKS))
            now = trio.current_time()
            for each in tuple(self._watched.values()):
                _look_at(each, now)


def _look_at(each: Watched, now: float) -> None:
    progress = each.progress()
    if progress != each.seen:
        each.seen, each.since = progress, now
    elif now - each.since >= each.seconds and not each.scope.cancel_called:
        log.error(
            "%s: attempt %d to %s did nothing for %g s, longer than any timeout allows: it is ended",
            each.claim.envelope.id,
            each.claim.number,
            each.claim.domain,
            each.seconds,
        )
        each.scope.cancel()
