"""How many round trips a connection took, and which extension saved some.

A flight is what is sent before we wait. The TCP handshake is one, the greeting another, TLS 1.3 one and TLS
1.2 two; each group of commands and the content one more. Saved is what one by one would have cost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from deliver.report.trace import Finding, Stage

EARLY = "PIPECONNECT"  # greeting and EHLO not waited for, see `deliver.smtp.pipeconnect`
FAST_OPEN = "TCP Fast Open"  # octets that the peer took with the SYN, see `deliver.net.dial`


@dataclass(slots=True)
class Ledger:
    """Counts for one connection."""

    flights: int = 0
    saved: dict[str, int] = field(default_factory=dict)

    def flight(self, count: int = 1) -> None:
        """We are about to wait."""
        self.flights += count

    def save(self, extension: str, count: int) -> None:
        """`extension` made so many waits unnecessary."""
        if count:
            self.saved[extension] = self.saved.get(extension, 0) + count

    def group(self, commands: int, *, chunks: bool = False) -> None:
        """A flight of so many commands, perhaps with content behind them."""
        self.flights += 1
        if commands > 1:
            self.save("PIPELINING", commands - 1)
        if chunks and commands:
            self.save("CHUNKING", 2)  # the waits for DATA and for the content

    def finding(self, host: str) -> Finding:
        """The sum, for the trace."""
        return _finding(host, self.flights, tuple(self.saved.items()))


@lru_cache(maxsize=1024)  # most messages to a host cost the same
def _finding(host: str, flights: int, saved: tuple[tuple[str, int], ...]) -> Finding:
    text = f"{flights} round trips with {host}"
    if saved:
        text += "; saved: " + ", ".join(f"{count} by {name}" for name, count in saved)
    evidence = (("round_trips", str(flights)), *((name, str(count)) for name, count in saved))
    return Finding(Stage.SMTP, "round-trips", text, rfc=None, evidence=evidence)
