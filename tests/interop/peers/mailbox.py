"""What a mail server stored: a Maildir read back as the messages that the sender sent.

Both servers add trace fields on top (RFC 5321 4.4): one line each for the envelope, then one Received field. They are taken
off again and turned into the envelope of `Received`, and lines end in CRLF again, so that a test compares with what it sent.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ARRIVAL_LIMIT = 15.0  # seconds
_PAUSE = 0.01
_TRACE = re.compile(
    rb"(return-path|envelope-to|delivery-date|delivered-to|x-original-to):[ \t]*(.*)\n", re.IGNORECASE
)
_RECEIVED = re.compile(rb"received:.*\n(?:[ \t].*\n)*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Received:
    """One copy of a message, as one recipient got it.

    `content` is the message as it was sent, CRLF line ends; `trace` is the Received field that the server added.
    """

    sender: str
    recipient: str
    content: bytes
    trace: str


@dataclass(frozen=True, slots=True)
class Maildir:
    """The Maildir that a server delivers into; one file per recipient."""

    directory: Path
    log: Callable[[], str]

    def messages(self) -> tuple[Received, ...]:
        """All copies that arrived so far, oldest first."""
        new = self.directory / "new"
        if not new.is_dir():
            return ()
        files = sorted(new.iterdir(), key=lambda path: (path.stat().st_mtime_ns, path.name))
        return tuple(parse(path.read_bytes()) for path in files)

    def to(self, recipient: str, count: int = 1, limit: float = ARRIVAL_LIMIT) -> tuple[Received, ...]:
        """The copies for `recipient`, waiting up to `limit` seconds until there are `count`.

        Raises AssertionError with the server's log if fewer arrive. More than `count` may be returned: compare the
        length if a duplicate would be a defect.
        """
        deadline = time.monotonic() + limit
        while True:
            found = tuple(m for m in self.messages() if m.recipient.lower() == recipient.lower())
            if len(found) >= count:
                return found
            if time.monotonic() >= deadline:
                raise AssertionError(
                    f"{len(found)} of {count} messages for {recipient} arrived\n{self.log()}"
                )
            time.sleep(_PAUSE)


def parse(stored: bytes) -> Received:
    """Split a stored file into envelope, trace and the message as it was sent."""
    rest, envelope = stored.replace(b"\r\n", b"\n"), dict[bytes, str]()
    while match := _TRACE.match(rest):
        envelope[match[1].lower()] = match[2].decode(errors="surrogateescape").strip()
        rest = rest[match.end() :]
    trace = _RECEIVED.match(rest)
    if trace:
        rest = rest[trace.end() :]
    recipient = (
        envelope.get(b"envelope-to") or envelope.get(b"x-original-to") or envelope.get(b"delivered-to", "")
    )
    return Received(
        sender=envelope.get(b"return-path", "").removeprefix("<").removesuffix(">"),
        recipient=recipient,
        content=rest.replace(b"\n", b"\r\n"),
        trace=trace[0].decode(errors="replace") if trace else "",
    )
