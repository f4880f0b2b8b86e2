"""The MTA-STS policies of a hints file: read with patience, never taken for missing where they were not read.

A policy that is missed is a downgrade (RFC 8461 10.2). So nothing here is cached: what another process has
written counts at once, and so does what this one has noted and not written yet. Only trouble with reading
makes a pause: from a file on a full disk they are read.
"""

from __future__ import annotations

from functools import partial

import trio

from hints import port as contract
from hints.check import is_domain
from hints.engine import Busy
from hints.file import HintsFile
from hints.port import Unreadable
from hints.records import StsSeen
from hints.sts import counts, latest
from hints.trouble import Trouble

READERS = 2  # threads
HUNG_PAUSE = 10.0  # seconds without the file after it was not read in time
BUSY_PAUSE = 0.05  # seconds until a file that another connection keeps is read again


class Policies:
    """See the module. Threads of its own: one that hangs keeps nobody from other hints."""

    def __init__(self, file: HintsFile) -> None:
        self._file = file
        self._readers = trio.CapacityLimiter(READERS)
        self._hung_until = 0.0  # seconds since the epoch
        self._trouble = Trouble(file.path, "whether it holds MTA-STS policies is not known")
        self._noted: dict[str, StsSeen] = {}  # what is not in the file yet, by domain

    def note(self, policy: StsSeen, now: float) -> None:
        """It was fetched, and waits to be written."""
        self._noted[policy.domain] = latest(self._noted.get(policy.domain), policy, now)

    def written(self) -> None:
        """All that was noted is in the file now."""
        self._noted = {}
        self._trouble.end()

    async def ask(self, domain: str, now: float) -> StsSeen | None:
        """The policy that counts. Raises Unreadable."""
        if not is_domain(domain):
            return None  # of which there can be none
        try:
            found = await self._read_patiently(domain, now)
        except Unreadable:
            noted = self._noted.get(domain)
            if noted is None or not counts(noted, now):
                raise
            return noted
        noted = self._noted.get(domain)  # also while the file was read
        kept = found if noted is None else latest(found, noted, now)
        return kept if kept is not None and counts(kept, now) else None

    async def _read_patiently(self, domain: str, now: float) -> StsSeen | None:
        if self._trouble.lasts(now):
            raise Unreadable(f"the hints file is left alone for a minute: {self._trouble.why}")
        if now < self._hung_until <= now + HUNG_PAUSE:
            raise Unreadable(f"the hints file was not read within {contract.STS_PATIENCE:g} seconds just now")
        busy = False
        with trio.move_on_after(contract.STS_PATIENCE):
            while True:
                try:
                    return await self._read(domain, now)
                except Busy:  # which passes
                    busy = True
                    await trio.sleep(BUSY_PAUSE)
                except Exception as error:
                    self._trouble.meet(error, now)
                    raise Unreadable(f"the hints file cannot be read: {self._trouble.why}") from error
        if not busy:  # storage that hangs: not every message is to wait for it
            self._hung_until = now + HUNG_PAUSE
        raise Unreadable(f"the hints file was not read within {contract.STS_PATIENCE:g} seconds")

    async def _read(self, domain: str, now: float) -> StsSeen | None:
        return await trio.to_thread.run_sync(
            partial(self._file.policy, domain, now), limiter=self._readers, abandon_on_cancel=True
        )
