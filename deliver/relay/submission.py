"""What a submission server adds to a message: a missing Date and Message-ID (RFC 6409 8). Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime

MAX_HEADER = 1024 * 1024  # octets; behind a longer header section nothing is added

_FIELD = re.compile(rb"([!-9;-~]{1,76})[ \t]*:")
_START = 80  # octets that are enough to tell which field a line begins


class Completion:
    """Passes content through, and puts the missing fields before the empty line that ends the header section.

    Content without a header section, or with a line in it that is no field, stays as it is.
    """

    def __init__(self, now: float, message_id: str) -> None:
        """`now` in seconds since the epoch; `message_id` without angle brackets."""
        date = format_datetime(datetime.fromtimestamp(int(now), UTC))
        self._missing = {b"date": f"Date: {date}\r\n", b"message-id": f"Message-ID: <{message_id}>\r\n"}
        self._start = b""  # of the unfinished line
        self._held = b""  # a CR that may be the empty line's
        self._seen = 0
        self._fields = 0
        self._done = False
        self.added = 0  # octets

    def feed(self, data: bytes) -> bytes:
        """Take the next octets of the content, its lines ended by CRLF; what is to be kept of it by now."""
        if self._done:
            return data
        data, self._held = self._held + data, b""
        self._seen += len(data)
        at = 0
        while (end := data.find(b"\n", at) + 1) and not self._done:
            line, self._start = self._start + data[at : min(end, at + _START)], b""
            if line == b"\r\n":
                self._done = True
                return data[:at] + self._addition() + data[at:]
            self._look_at(line)
            at = end
        if self._seen > MAX_HEADER:
            self._done = True
        rest = data[at:]
        if not self._done and rest == b"\r" and not self._start:
            self._held = rest
            return data[:at]
        self._start = (self._start + rest)[:_START]
        return data

    def finish(self) -> bytes:
        """What comes behind the last octet: the header section may have been all there was."""
        if self._done:
            return b""
        self._done = True
        return self._held + self._addition()

    def _addition(self) -> bytes:
        found = "".join(self._missing.values()).encode("ascii")
        self.added = len(found)
        return found

    def _look_at(self, line: bytes) -> None:
        field = _FIELD.match(line)
        if field:
            self._fields += 1
            self._missing.pop(field[1].lower(), None)
        elif line[:1] not in (b" ", b"\t") or not self._fields:
            self._done = True  # no header section, or not one that anybody understands
