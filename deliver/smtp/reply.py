"""SMTP replies (RFC 5321 4.2), their parser, and enhanced status codes (RFC 3463, RFC 2034).

What a server sends is hostile: every length and count is bounded, everything that is not a reply raises
MalformedReply, and no control character survives in a text. Taken in spite of the RFC, because it is seen
and harmless: LF without CR as line end, a code without text, codes with a second digit above 5.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from functools import lru_cache

from deliver.errors import PeerError

MAX_LINE = 4096  # octets with line end: eight times RFC 5321 4.5.3.1.5, some policy texts carry long URLs
MAX_LINES = 128  # of one reply; the longest real ones, to EHLO, have about 25
MAX_REPLY = 64 * 1024  # octets of one reply
MAX_UNREAD = 1024  # complete replies waiting to be fetched
USUAL = 48  # octets of a line that is probably said again and again

# Reply-line = code ( "-" / SP ) [ textstring ] (RFC 5321 4.2).
_REPLY_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?\Z", re.DOTALL)
_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?=\s|\Z)")


@dataclass(frozen=True, slots=True)
class EnhancedCode:
    """RFC 3463: class, subject, detail."""

    klass: int
    subject: int
    detail: int

    def __str__(self) -> str:
        return f"{self.klass}.{self.subject}.{self.detail}"

    @classmethod
    def parse(cls, text: str) -> EnhancedCode | None:
        """The code at the start of `text`, or None."""
        match = _ENHANCED.match(text)
        return cls(int(match[1]), int(match[2]), int(match[3])) if match else None


@dataclass(frozen=True, slots=True)
class Reply:
    """One complete reply: three-digit code and the texts of its lines without codes and line ends."""

    code: int
    lines: tuple[str, ...]

    @property
    def positive(self) -> bool:
        """2yz: done."""
        return self.code // 100 == 2

    @property
    def intermediate(self) -> bool:
        """3yz: go on."""
        return self.code // 100 == 3

    @property
    def transient(self) -> bool:
        """4yz: not now."""
        return self.code // 100 == 4

    @property
    def permanent(self) -> bool:
        """5yz: never."""
        return self.code // 100 == 5

    @property
    def enhanced(self) -> EnhancedCode | None:
        """The enhanced code of the first line, where its class agrees with the code (RFC 2034 4)."""
        code = EnhancedCode.parse(self.lines[0]) if self.lines else None
        return code if code and code.klass == self.code // 100 else None

    def __str__(self) -> str:
        text = self.lines[0] if len(self.lines) == 1 else " ".join([line for line in self.lines if line])
        return f"{self.code} {text}".rstrip()


class MalformedReply(PeerError):
    """The server does not speak SMTP; nothing that it sends later can be trusted to be in step."""

    def __init__(self, happened: str) -> None:
        super().__init__("reading a reply of the server", happened, "another host or a later attempt")


class ReplyParser:
    """Octets in any portions to replies; garbage raises MalformedReply after the replies before it.

    `empty`: nothing is left, no reply, no part of one, no garbage.
    """

    def __init__(self) -> None:
        self.empty = True
        self._partial = b""
        self._lines: list[str] = []
        self._code = 0
        self._octets = 0
        self._ready: deque[Reply] = deque()
        self._malformed: MalformedReply | None = None

    def feed(self, data: bytes) -> None:
        """Take octets. Raises nothing; after garbage everything is ignored."""
        if self._malformed:
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        try:
            for line in lines:
                self._take_line(line)
            if len(self._partial) >= MAX_LINE:
                raise MalformedReply(f"a line of more than {MAX_LINE} octets")
        except MalformedReply as malformed:
            self._malformed = malformed
            self._partial = b""
        self._look()

    def next_reply(self) -> Reply | None:
        """The next complete reply, or None. Raises MalformedReply, then and ever after."""
        if self._ready:
            reply = self._ready.popleft()
            if not self._ready:
                self._look()
            return reply
        if self._malformed:
            raise self._malformed
        return None

    def _look(self) -> None:
        self.empty = not (self._ready or self._partial or self._lines or self._malformed)

    def _take_line(self, line: bytes) -> None:
        """A line without its LF."""
        if len(line) >= MAX_LINE:
            raise MalformedReply(f"a line of more than {MAX_LINE} octets")
        reply, goes_on = _usual_line(line) if len(line) <= USUAL else _reply_line(line)
        if self._lines:
            if reply.code != self._code:
                raise MalformedReply(f"a reply of several lines with the codes {self._code} and {reply.code}")
        elif not goes_on:
            self._complete(reply)
            return
        self._code = reply.code
        self._octets += len(line) + 1
        self._lines += reply.lines
        if self._octets > MAX_REPLY or len(self._lines) > MAX_LINES:
            raise MalformedReply(f"a reply of more than {MAX_LINES} lines or {MAX_REPLY} octets")
        if not goes_on:
            self._complete(Reply(self._code, tuple(self._lines)))
            self._lines.clear()
            self._octets = 0

    def _complete(self, reply: Reply) -> None:
        if len(self._ready) >= MAX_UNREAD:
            raise MalformedReply(f"more than {MAX_UNREAD} replies at once")
        self._ready.append(reply)


def _reply_line(line: bytes) -> tuple[Reply, bool]:
    """The reply that a line without its LF is, and whether more lines belong to it. Raises MalformedReply."""
    text = line.removesuffix(b"\r")
    match = _REPLY_LINE.match(text)
    if not match:
        raise MalformedReply(f"not a reply line: '{printable(text[:80])}'")
    return Reply(int(match[1]), (printable(match[3] or b""),)), match[2] == b"-"


_usual_line = lru_cache(maxsize=256)(_reply_line)  # a server says the same of every sender and recipient


def printable(octets: bytes) -> str:
    """Text without control characters: UTF-8 (RFC 6531 3.7.4.2), everything else as escapes."""
    text = octets.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )
