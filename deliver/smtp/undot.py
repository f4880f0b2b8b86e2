"""The content of an incoming message: where it ends, and whether it may be taken (RFC 5321 4.5.2, 2.3.8).

Only CRLF.CRLF ends the content, and only octets before it are content: a dot between bare line feeds or
carriage returns ends nothing, so no second message can be smuggled past us or on to our peers
(CVE-2023-51764, -51765, -51766). Content that holds a defect is read to its end and then refused:

    defect      why
    ----------  ----------------------------------------------------------------------------------
    BARE        a CR or LF that is not part of a CRLF: servers disagree on what it means
    NUL         RFC 5322 4 forbids to generate it, and some servers cut the line there
    LONG_LINE   more than 998 octets before the CRLF: RFC 5321 4.5.3.1.6 lets the next server refuse it
    TOO_LARGE   over the limit announced with SIZE (RFC 1870 6.3)
    ENDLESS     so far over that limit that reading on serves nobody

How the octets are cut into pieces never changes the result; which pieces come out may differ.
"""

from __future__ import annotations

from enum import Enum

MAX_LINE = 998  # octets without the CRLF
SURPLUS = 1024 * 1024  # octets read beyond twice the size limit before the client is given up

_END = b"\r\n.\r\n"


class Defect(Enum):
    """Why content cannot be taken; the order is that of precedence in the reply."""

    BARE = "a bare CR or LF"
    NUL = "a NUL octet"
    LONG_LINE = "a line that is too long"
    TOO_LARGE = "too many octets"
    ENDLESS = "far too many octets"


class IncomingContent:
    """Undoes dot-stuffing over any chunking; `ended` once the terminator was read.

    `size` counts octets without stuffed dots, `eight_bit` says whether any of them is over 127.
    """

    def __init__(self, limit: int) -> None:
        """`limit` in octets, 0 for none."""
        self._limit = limit
        self._held = b"\r\n"  # as if a line had just ended: a dot may be the very first octet
        self._skip = len(self._held)
        self._line = 0  # octets of the unfinished line
        self._defects: set[Defect] = set()
        self.ended = False
        self.size = 0
        self.eight_bit = False

    @property
    def defect(self) -> Defect | None:
        """The most telling defect so far."""
        return next((defect for defect in Defect if defect in self._defects), None)

    @property
    def endless(self) -> bool:
        """Whether the client is to be cut off instead of read to the end."""
        return Defect.ENDLESS in self._defects

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take octets from the wire: (content that is certain by now, octets after the terminator)."""
        assert not self.ended, "the content has ended"
        data = self._held + data
        end = data.find(_END)
        if end >= 0:
            self.ended = True
            self._held = b""
            return self._examined(data[: end + 2]), data[end + len(_END) :]
        keep = next((n for n in range(len(_END) - 1, 0, -1) if data.endswith(_END[:n])), 0)
        self._held = data[len(data) - keep :]
        return self._examined(data[: len(data) - keep]), b""

    def _examined(self, stuffed: bytes) -> bytes:
        """Undo the stuffing and look for defects; neither CRLF nor CRLF. is ever cut in two here."""
        piece = stuffed.replace(b"\r\n.", b"\r\n")
        if self._skip and piece:
            piece, self._skip = piece[self._skip :], 0
        if not piece:
            return b""
        self.size += len(piece)
        self.eight_bit = self.eight_bit or not piece.isascii()
        pairs = piece.count(b"\r\n")
        if piece.count(b"\n") != pairs or piece.count(b"\r") != pairs:
            self._defects.add(Defect.BARE)
        if b"\0" in piece:
            self._defects.add(Defect.NUL)
        self._measure(piece.split(b"\r\n"))
        if self._limit and self.size > self._limit:
            self._defects.add(Defect.TOO_LARGE)
            if self.size > 2 * self._limit + SURPLUS:
                self._defects.add(Defect.ENDLESS)
        return piece

    def _measure(self, lines: list[bytes]) -> None:
        first = self._line + len(lines[0])
        if max(first, *map(len, lines[1:]), 0) > MAX_LINE:
            self._defects.add(Defect.LONG_LINE)
        self._line = first if len(lines) == 1 else len(lines[-1])
