"""The port through which the texts of MTA-STS policies come; `deliver.sts.fetch` is the real one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from deliver.smtp.reply import printable

MAX_BODY = 64 * 1024  # octets, which RFC 8461 3.3 suggests
MAX_WHY = 500  # characters


class NotFetched(Exception):
    """There is no text. `why` is one printable line of at most MAX_WHY characters, for findings and logs."""

    def __init__(self, why: str) -> None:
        self.why = printable(why[:MAX_WHY].encode("utf-8", "backslashreplace"))[:MAX_WHY]
        super().__init__(self.why)


class PolicySource(Protocol):
    """Where the texts of policies come from."""

    async def fetch(self, domain: str) -> bytes:
        """The policy text of `domain` (lower-case A-labels), at most MAX_BODY octets. Raises NotFetched."""
        ...


class Postponed:
    """A source that is made when it is first asked: that loads much which most mail does without."""

    def __init__(self, make: Callable[[], PolicySource]) -> None:
        self._make = make
        self._source: PolicySource | None = None

    async def fetch(self, domain: str) -> bytes:
        """See `PolicySource`."""
        if self._source is None:
            self._source = self._make()
        return await self._source.fetch(domain)
