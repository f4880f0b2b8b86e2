"""What a domain publishes with MTA-STS: its policy document and the TXT record that announces it (RFC 8461 3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

WEEK = 7 * 86400  # seconds


class Mode(StrEnum):
    """What the domain asks of senders (RFC 8461 5)."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy. `mx` are its patterns, None: the domain's own MX hosts. `max_age` is in seconds.

    `id` must become another whenever anything else does (RFC 8461 3.1).
    """

    mode: Mode = Mode.ENFORCE
    mx: tuple[str, ...] | None = None
    max_age: int = WEEK
    id: str = "1"

    @property
    def record(self) -> str:
        """The text of the TXT record (RFC 8461 3.1)."""
        return f"v=STSv1; id={self.id};"

    def document(self, hosts: Iterable[str]) -> str:
        """The policy document (RFC 8461 3.2) of a domain with these MX hosts."""
        patterns = tuple(hosts) if self.mx is None else self.mx
        lines = ("version: STSv1", f"mode: {self.mode}", *(f"mx: {pattern}" for pattern in patterns))
        return "".join(f"{line}\r\n" for line in (*lines, f"max_age: {self.max_age}"))


def policy_host_of(domain: str) -> str:
    """The host that serves the policy of `domain` (RFC 8461 3.3)."""
    return f"mta-sts.{domain}"


def record_owner_of(domain: str) -> str:
    """The name of the TXT record of `domain` (RFC 8461 3.1)."""
    return f"_mta-sts.{domain}"
