"""Whether incoming content may be taken (RFC 5321 2.3.8, 4.5.3.1.6), however it was framed on its way.

defect      why
----------  ----------------------------------------------------------------------------------
BARE        a CR or LF that is not part of a CRLF: servers disagree on what it means
NUL         RFC 5322 4 forbids to generate it, and some servers cut the line there
LONG_LINE   more than 998 octets before the CRLF: RFC 5321 4.5.3.1.6 lets the next server refuse it
TOO_LARGE   over the limit announced with SIZE (RFC 1870 6.3)
ENDLESS     so far over that limit that reading on serves nobody
"""

from __future__ import annotations

from enum import Enum
from io import IncrementalNewlineDecoder

MAX_LINE = 998  # octets without the CRLF
SURPLUS = 1024 * 1024  # octets read beyond twice the size limit before the client is given up


class Defect(Enum):
    """Why content cannot be taken; the order is that of precedence in the reply."""

    BARE = "a bare CR or LF"
    NUL = "a NUL octet"
    LONG_LINE = "a line that is too long"
    TOO_LARGE = "too many octets"
    ENDLESS = "far too many octets"

    __hash__ = object.__hash__  # members are single objects; Enum would hash their names, again and again


class Inspection:
    """Looks for defects, piece by piece; a CRLF is never cut in two between pieces.

    `size` in octets, `eight_bit` says whether any of them is over 127.
    """

    def __init__(self, limit: int) -> None:
        """`limit` in octets, 0 for none."""
        self._limit = limit
        self._line = 0  # octets of the unfinished line
        self._defects: set[Defect] = set()
        self.size = 0
        self.eight_bit = False

    @property
    def defect(self) -> Defect | None:
        """The most telling defect so far."""
        if not self._defects:
            return None
        return next(defect for defect in Defect if defect in self._defects)

    @property
    def endless(self) -> bool:
        """Whether the client is to be cut off instead of read to the end."""
        return bool(self._defects) and Defect.ENDLESS in self._defects

    @property
    def line_open(self) -> bool:
        """Whether the last line has octets but no end yet."""
        return self._line > 0

    def look_at(self, piece: bytes) -> None:
        """Take the next octets of the content."""
        if not piece:
            return
        self.size += len(piece)
        self.eight_bit = self.eight_bit or not piece.isascii()
        if _has_bare_line_ends(piece):
            self._defects.add(Defect.BARE)
        if b"\0" in piece:
            self._defects.add(Defect.NUL)
        self._measure(piece)
        if self._limit and self.size > self._limit:
            self._defects.add(Defect.TOO_LARGE)
            if self.too_far(self.size):
                self._defects.add(Defect.ENDLESS)

    def too_far(self, size: int) -> bool:
        """Whether content of `size` octets is not even worth being read and thrown away."""
        return bool(self._limit) and size > 2 * self._limit + SURPLUS

    def _measure(self, piece: bytes) -> None:
        """Look for a line that is too long, in steps of as many whole lines as one such line could hold."""
        size = len(piece)
        at = -self._line  # where a line begins; may be before the piece
        if at < -MAX_LINE:
            self._defects.add(Defect.LONG_LINE)
            at = 0
        while size - at > MAX_LINE:
            end = piece.rfind(b"\r\n", at if at > 0 else 0, at + MAX_LINE + 2)
            if end < 0:
                self._defects.add(Defect.LONG_LINE)
                break
            at = end + 2
        last = piece.rfind(b"\r\n")
        self._line = self._line + size if last < 0 else size - last - 2


def _has_bare_line_ends(piece: bytes) -> bool:
    """Whether a CR or LF is not part of a CRLF."""
    kinds = IncrementalNewlineDecoder(None, translate=False)  # four times as fast as counting
    kinds.decode(piece.decode("latin-1"), final=True)
    return kinds.newlines not in (None, "\r\n")
