"""A message in the form in which a server that lacks an extension can take it all the same.

    asks for SMTPUTF8, every header is ASCII    without SMTPUTF8, as it is (RFC 6531 3.4)
    has 8-bit text, the server no 8BITMIME      in 7-bit text, once no other host is left (RFC 6152 3); a
                                                report of ours then without the message that it returned

Whether an address needs SMTPUTF8 is `deliver.smtp.plan`'s to see. The content is looked at only where a
server makes it necessary, once, off the event loop, one message at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio
from msgspec.structs import replace

from deliver.errors import StorageError
from deliver.message import Content, Envelope
from deliver.smtp.downgrade import Unconvertible, has_ascii_headers, to_7bit
from deliver.smtp.ehlo import Capabilities

PIECE = 256 * 1024  # octets read at once

_one_at_a_time = trio.CapacityLimiter(1)  # a message being converted is in memory twice

T = TypeVar("T")


class Octets:
    """Content in memory."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    @property
    def size(self) -> int:
        """Octets altogether."""
        return len(self._octets)

    async def read(self, offset: int, length: int) -> bytes:
        """At most `length` octets from `offset`."""
        await trio.lowlevel.checkpoint()
        return self._octets[offset : offset + length]


class Presentation:
    """`towards` says what to send to a server; `why_not`, after `convert`, why 7-bit text cannot be had."""

    def __init__(self, envelope: Envelope, content: Content) -> None:
        self._envelope = envelope
        self._content = content
        self._ascii_headers: bool | None = None
        self._converted: Octets | None = None
        self._in_7bit = False
        self.why_not: str | None = None

    async def towards(self, offers: Capabilities) -> tuple[Envelope, Content]:
        """What to send to a server that offers this. Raises StorageError."""
        envelope = self._envelope
        if envelope.smtputf8 and not offers.smtputf8 and await self._needs_no_utf8():
            envelope = replace(envelope, smtputf8=False)
        if self._in_7bit and self._converted and envelope.eight_bit and not offers.eight_bit_mime:
            return replace(envelope, eight_bit=False, size=self._converted.size), self._converted
        return envelope, self._content

    async def convert(self) -> bool:
        """From now on in 7-bit text for servers without 8BITMIME, if that can be had. Raises StorageError."""
        if self._converted is None and self.why_not is None:
            into_7bit = to_7bit if self._envelope.sender is not None else _report_in_7bit
            try:
                self._converted = Octets(await self._look(into_7bit))
            except Unconvertible as error:
                self.why_not = error.happened
        self._in_7bit = self._converted is not None
        return self._in_7bit

    async def _needs_no_utf8(self) -> bool:
        if self._ascii_headers is None:
            self._ascii_headers = not self._envelope.eight_bit or await self._look(has_ascii_headers)
        return self._ascii_headers

    async def _look(self, at: Callable[[bytes], T]) -> T:
        async with _one_at_a_time:
            octets = await self._whole()
            return await trio.to_thread.run_sync(at, octets)

    async def _whole(self) -> bytes:
        pieces: list[bytes] = []
        offset = 0
        while offset < self._content.size:
            piece = await self._content.read(offset, PIECE)
            if not piece:
                raise StorageError(
                    "reading the content of a message",
                    f"it ends after {offset} of {self._content.size} octets",
                    "look for damage in the queue directory",
                )
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)


def _report_in_7bit(octets: bytes) -> bytes:
    """A report must arrive: it goes without the body of the message that failed if that is what hinders."""
    try:
        return to_7bit(octets)
    except Unconvertible:
        from deliver.relay.bounce import abridged  # seldom needed

        shorter = abridged(octets)
        if shorter is None:
            raise
        return to_7bit(shorter)
