"""Replies as a server writes them (RFC 5321 4.2): pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from deliver.smtp.inspection import MAX_LINE, Defect
from deliver.smtp.reply import Reply

MAX_REPLY_TEXT = 480  # octets; RFC 5321 4.5.3.1.5 allows 512 for the line

DEFECTIVE: Mapping[Defect, Reply] = {
    Defect.BARE: Reply(550, ("5.6.11 Bare CR or LF in the message; lines must end with CRLF",)),
    Defect.NUL: Reply(550, ("5.6.11 NUL octet in the message",)),
    Defect.LONG_LINE: Reply(550, (f"5.6.0 A line of the message is longer than {MAX_LINE} octets",)),
    Defect.TOO_LARGE: Reply(552, ("5.3.4 The message is too large",)),
    Defect.ENDLESS: Reply(552, ("5.3.4 The message is far too large",)),
}
TLS_FIRST = Reply(530, ("5.7.0 Send STARTTLS first",))
AUTH_FIRST = Reply(530, ("5.7.0 Log in with AUTH first",))
NOT_IMPLEMENTED = Reply(502, ("5.5.1 Command not implemented",))
# What most sessions hear, as octets.
SENDER_OK: Final = b"250 2.1.0 Sender ok\r\n"
RECIPIENT_OK: Final = b"250 2.1.5 Recipient ok\r\n"
BEGIN_CONTENT: Final = b"354 End data with <CR><LF>.<CR><LF>\r\n"


@lru_cache(maxsize=64)
def hello(hostname: str, keywords: tuple[str, ...]) -> bytes:
    """The reply to EHLO and HELO."""
    return encode(Reply(250, (hostname, *keywords)))


def encode(reply: Reply) -> bytes:
    """The octets of a reply; what is not printable ASCII is escaped, long texts are cut (RFC 5321 4.2)."""
    if len(reply.lines) == 1:
        return b"%d %s\r\n" % (reply.code, _printable(reply.lines[0]))
    lines = [_printable(line) for line in reply.lines] or [b""]
    last = len(lines) - 1
    return b"".join(
        b"%d%s%s\r\n" % (reply.code, b" " if number == last else b"-", line)
        for number, line in enumerate(lines)
    )


def _printable(text: str) -> bytes:
    if text.isascii() and text.isprintable():
        return text[:MAX_REPLY_TEXT].encode()
    shown = "".join(char if char.isprintable() else "?" for char in text[:MAX_REPLY_TEXT])
    return shown.encode("ascii", "backslashreplace")[:MAX_REPLY_TEXT]
