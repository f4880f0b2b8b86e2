"""What the delivery side may ask of hints, and tell them. Never an error, never a wait beyond 50 ms.

But for the MTA-STS policy of a domain, which no delivery may miss: see `Hints.sts_policy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from hints.records import EhloAnswer, Note, SessionKey, StsSeen, TlsSession, Word

PATIENCE = 0.05  # seconds; a hint that is not there by then is a missing hint
STS_PATIENCE = 2.0  # seconds; a policy that is not there by then is not known to be missing


class Unreadable(Exception):
    """The hints could not be read in time: what they hold is not known."""


class FeatureView(Struct, frozen=True):
    """How often a feature worked and failed; both counts weigh less the longer ago that was."""

    word: Word
    worked: int = 0
    failed: int = 0
    last_worked: float | None = None  # seconds since the epoch
    last_failed: float | None = None

    @property
    def works(self) -> bool | None:
        """The advice: True, False, or None where nothing is known or the last failure outlived the counts.

        One failure outweighs all successes until it decayed or a success came after it.
        """
        if self.failed and (self.last_worked is None or (self.last_failed or 0.0) >= self.last_worked):
            return False
        return True if self.worked else None


class AddressView(Struct, frozen=True):
    """What is remembered about one address of a host, at the moment of asking."""

    address: str
    failures: int = 0  # since the last success
    last_error: str | None = None
    last_failure: float | None = None  # seconds since the epoch
    last_success: float | None = None
    ehlo: tuple[EhloAnswer, ...] = ()
    features: tuple[FeatureView, ...] = ()  # by word

    def works(self, word: Word) -> bool | None:
        """Whether a feature works there; None where that is not known."""
        return next((seen.works for seen in self.features if seen.word is word), None)


class Hints(Protocol):
    """Advice, learnt and given."""

    async def look(
        self, host: str, addresses: Sequence[str], port: int, domain: str | None = None
    ) -> tuple[AddressView, ...]:
        """One view per address, in the given order; empty where nothing is known in time.

        `domain`: whose mail goes there, so that what will be asked next may be read along.
        """
        ...

    def note(self, note: Note, *, source: str, reason: str, now: float) -> None:
        """Remember; buffered, returns at once, never raises. `source`: who learned it, such as "relay"."""
        ...

    async def best_level(self, domain: str, host: str) -> str | None:
        """The best level that deliveries to `host` for `domain` reached in the last 90 days, see `LevelSeen`.

        To be asked before the level of the present delivery is noted; `hints.levels.dropped` compares.
        """
        ...

    async def sts_policy(self, domain: str) -> StsSeen | None:
        """The MTA-STS policy of a domain (A-labels) that still counts; None: none is known.

        Waits for STS_PATIENCE at most. Raises Unreadable: to go on as if there were none would let whoever
        keeps the policy from being fetched undo it (RFC 8461 10.2).
        """
        ...

    async def claim_session(self, key: SessionKey) -> TlsSession | None:
        """A session for exactly this key, in time; None otherwise.

        One of TLS 1.3 is handed out once, to one process. What it rests on is the caller's to judge again.
        One that another process has saved since the host was looked at may be missed for a while.
        """
        ...

    def keep_session(self, session: TlsSession, *, source: str, reason: str, now: float) -> None:
        """Remember a session, sealed; buffered, returns at once, never raises. Its life is a day at most."""
        ...

    def forget_sessions(self, key: SessionKey, *, now: float) -> None:
        """Offer none that was saved under this key up to now; buffered, returns at once, never raises."""
        ...

    async def flush(self) -> None:
        """Write what is buffered. Failures are logged once, not raised."""
        ...

    async def aclose(self) -> None:
        """Flush and close."""
        ...
