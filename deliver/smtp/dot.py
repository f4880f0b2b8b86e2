"""Message text on its way into and out of the queue: line ends, lengths, dots (RFC 5321 2.3.8, 4.5.2).

`MessageText` makes content out of what a local program hands over: CRLF line ends and nothing that no
server has to take. `DotStuffer` makes mail data out of content. Both work on portions of any size, and
refuse with MessageError; content that passed the first never fails in the second. The stuffer checks all
the same, because a bare LF before a dot would let one message end as two at a lax server.
"""

from __future__ import annotations

import re
from io import IncrementalNewlineDecoder

from deliver.errors import MessageError

MAX_LINE = 998  # octets without CRLF (RFC 5321 4.5.3.1.6, RFC 5322 2.1.1)


_DOT_LINE = re.compile(rb"\n\.")


class DotStuffer:
    """Content in, mail data out."""

    def __init__(self) -> None:
        self._held = b""
        self._line_start = True
        self._kinds = IncrementalNewlineDecoder(None, translate=False)  # four times as fast as counting

    def feed(self, content: bytes) -> bytes:
        """The next octets of mail data. A CR at the end waits for its LF. Raises MessageError."""
        data = self._held + content if self._held else content
        self._held = b""
        if data.endswith(b"\r"):
            data, self._held = data[:-1], b"\r"
        if not data:
            return b""
        self._kinds.decode(data.decode("latin-1"), final=True)
        if self._kinds.newlines not in (None, "\r\n"):
            raise _unusable("a line end that is not CRLF")
        stuffed = data
        if b"." in data and _DOT_LINE.search(data):
            stuffed = data.replace(b"\r\n.", b"\r\n..")
        if self._line_start and data.startswith(b"."):
            stuffed = b"." + stuffed
        self._line_start = data.endswith(b"\r\n")
        return stuffed

    def finish(self) -> bytes:
        """The end of mail data indication, with the CRLF that the last line may lack."""
        if self._held:
            raise _unusable("a line end that is not CRLF")
        return b".\r\n" if self._line_start else b"\r\n.\r\n"


class MessageText:
    """Text with LF or CRLF line ends in, content out.

    Raises MessageError for NUL, a CR without LF, or a line of more than MAX_LINE octets. Attributes, valid
    after `finish`: `size` (octets of the content), `eight_bit` (whether any octet is above 127).
    """

    def __init__(self) -> None:
        self.size = 0
        self.eight_bit = False
        self._held = b""
        self._lines = 0
        self._column = 0

    def feed(self, text: bytes) -> bytes:
        """The next octets of content."""
        data = self._held + text if self._held else text
        self._held = b""
        if data.endswith(b"\r"):
            data, self._held = data[:-1], b"\r"
        return self._emit(data)

    def finish(self) -> bytes:
        """The last octets: the line end that the last line lacks, if any."""
        if self._held:
            raise _unusable(f"a CR without LF in line {self._lines + 1}")
        return self._emit(b"\n") if self._column else b""

    def _emit(self, data: bytes) -> bytes:
        if b"\0" in data:
            line = self._lines + data[: data.index(b"\0")].count(b"\n") + 1
            raise _unusable(f"a NUL in line {line}")
        text = data.replace(b"\r\n", b"\n")
        if b"\r" in text:
            line = self._lines + text[: text.index(b"\r")].count(b"\n") + 1
            raise _unusable(f"a CR without LF in line {line}")
        self._measure(text)
        self.eight_bit = self.eight_bit or not text.isascii()
        content = text.replace(b"\n", b"\r\n")
        self.size += len(content)
        return content

    def _measure(self, text: bytes) -> None:
        pieces = text.split(b"\n")
        lengths = [len(piece) for piece in pieces]
        lengths[0] += self._column
        longest = max(lengths)
        if longest > MAX_LINE:
            line = self._lines + next(at for at, length in enumerate(lengths, 1) if length > MAX_LINE)
            raise _unusable(f"line {line} has more than {MAX_LINE} octets")
        self._lines += len(pieces) - 1
        self._column = lengths[-1]


def _unusable(happened: str) -> MessageError:
    return MessageError(
        "reading the message",
        happened,
        "text lines end in LF or CRLF and have at most 998 octets; encode anything else with MIME",
    )
