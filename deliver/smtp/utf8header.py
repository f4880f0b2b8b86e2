"""Whether a message has header fields in UTF-8, so that only servers with SMTPUTF8 may get it (RFC 6532 3).

For messages of programs, which say nothing about it. Only the message's own header counts, not those of its
parts. A line of octets that are no UTF-8 is in some older character set: SMTPUTF8 is not about that, and it
goes out as it is. No I/O; the standard library only.
"""

from __future__ import annotations


class Utf8Header:
    """Takes content in portions that cut no CRLF in two; `found` is the answer so far."""

    __slots__ = ("_line", "_over", "found")

    def __init__(self) -> None:
        self.found = False
        self._line = b""
        self._over = False

    def feed(self, content: bytes) -> None:
        """The next octets of the content."""
        if self._over:
            return
        *lines, self._line = (self._line + content).split(b"\r\n")
        for line in lines:
            if not line:
                self._over, self._line = True, b""
                return
            self.found = self.found or _in_utf8(line)


def header_in_utf8(content: bytes) -> bool:
    """The same for whole content."""
    scan = Utf8Header()
    scan.feed(content.partition(b"\r\n\r\n")[0] + b"\r\n")
    return scan.found


def _in_utf8(line: bytes) -> bool:
    if line.isascii():
        return False
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
