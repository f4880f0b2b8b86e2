"""Content cut into chunks for BDAT (RFC 3030 2): announced in octets, sent as it is, never dot-stuffed.

The first chunk rides with the envelope (RFC 3030 4.2); content that fits into it is complete with it, so that
a small message costs one flight. Larger content goes on only after the envelope was answered, so that little
is wasted on refused recipients. `usable` decides between BDAT and DATA, once per transaction.

A chunk is read and checked before it is announced: a message that cannot be read, or that has a line end
other than CRLF, never leaves half a chunk behind. Raises MessageError for the latter.
"""

from __future__ import annotations

from io import IncrementalNewlineDecoder

from deliver.errors import MessageError
from deliver.smtp.ehlo import Capabilities

FIRST_CHUNK = 64 * 1024  # octets that may be wasted on recipients who are all refused
CHUNK = 256 * 1024  # octets; what is still written after a server has refused the message midway

_NOT_UNDERSTOOD = frozenset({500, 501, 502, 503, 504})  # RFC 5321 4.2.2


def usable(capabilities: Capabilities, size: int, pipelining: bool) -> bool:
    """Whether BDAT saves anything: without PIPELINING each chunk would cost a round trip."""
    return capabilities.chunking and (pipelining or size <= FIRST_CHUNK)


def not_understood(code: int) -> bool:
    """Whether a reply to BDAT says that the server announces CHUNKING and cannot do it."""
    return code in _NOT_UNDERSTOOD


class LineEnds:
    """Refuses a CR or LF that is not part of a CRLF, in portions of any size."""

    def __init__(self) -> None:
        self._kinds = IncrementalNewlineDecoder(None, translate=False)  # four times as fast as counting
        self._line_start = True

    def check(self, content: bytes) -> None:
        """Look at the next portion. Raises MessageError."""
        if content:
            self._look(content.decode("latin-1"), final=False)
            self._line_start = content.endswith(b"\n")

    def finish(self) -> bytes:
        """The CRLF that the last line may lack. Raises MessageError."""
        if self._line_start:
            return b""
        self._look("", final=True)
        return b"\r\n"

    def _look(self, text: str, *, final: bool) -> None:
        self._kinds.decode(text, final)
        if self._kinds.newlines not in (None, "\r\n"):
            raise _bare()


def _bare() -> MessageError:
    return MessageError(
        "reading the message",
        "a line end that is not CRLF",
        "text lines end in LF or CRLF and have at most 998 octets; encode anything else with MIME",
    )
