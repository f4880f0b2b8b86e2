"""The content of an incoming message: where it ends (RFC 5321 4.5.2, RFC 3030 2).

After DATA only CRLF.CRLF ends the content, and only octets before it are content: a dot between bare line
feeds or carriage returns ends nothing, so no second message can be smuggled past us or on to our peers
(CVE-2023-51764, -51765, -51766). After BDAT the client counts the octets. Content that holds a defect, see
`deliver.smtp.inspection`, is read to its end and then refused.

How the octets are cut into pieces never changes the result; which pieces come out may differ.
"""

from __future__ import annotations

from deliver.smtp.inspection import MAX_LINE as MAX_LINE, SURPLUS as SURPLUS, Defect as Defect, Inspection

_END = b"\r\n.\r\n"


class IncomingContent(Inspection):
    """Undoes dot-stuffing over any chunking; `ended` once the terminator was read.

    `size` counts octets without stuffed dots.
    """

    def __init__(self, limit: int) -> None:
        """`limit` in octets, 0 for none."""
        super().__init__(limit)
        self._held = b"\r\n"  # as if a line had just ended: a dot may be the very first octet
        self._skip = len(self._held)
        self.ended = False

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
        self.look_at(piece)
        return piece


class IncomingChunks(Inspection):
    """Content in chunks of a known length (RFC 3030 2); `chunk_ended` after each, `ended` after the last.

    BINARYMIME is not offered, so this too is lines that end with CRLF; a last line without one gets it.
    """

    def __init__(self, limit: int) -> None:
        """`limit` in octets, 0 for none."""
        super().__init__(limit)
        self._held = b""  # a CR whose LF may come
        self._left = 0
        self._last = False

    def expect(self, length: int, *, last: bool) -> None:
        """The next chunk has `length` octets."""
        assert self._left == 0, "the chunk before has not ended"
        self._left, self._last = length, last

    @property
    def endless(self) -> bool:
        """Whether the client is to be cut off instead of read to the end."""
        return super().endless or self.too_far(self.size + self._left)

    @property
    def chunk_ended(self) -> bool:
        """Whether a command is next."""
        return self._left == 0

    @property
    def ended(self) -> bool:
        """Whether the last chunk has ended."""
        return self._last and self._left == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take octets from the wire: (content that is certain by now, octets after this chunk)."""
        mine, rest = data[: self._left], data[self._left :]
        self._left -= len(mine)
        piece = self._held + mine
        self._held = b""
        if self.ended:
            if piece[-1:] not in (b"", b"\n") or (not piece and self.line_open):
                piece += b"\r\n"
        elif piece.endswith(b"\r"):
            piece, self._held = piece[:-1], b"\r"
        self.look_at(piece)
        return piece, rest
