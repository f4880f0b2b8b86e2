"""What of the original message goes back with a report, and what its header says about wanting one. Pure.

Everything here comes from a stranger: lines are cut, control characters replaced, sizes bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

MAX_HEADERS: Final = 32 * 1024  # octets of the original header that are returned
MAX_LINE: Final = 998  # RFC 5322 2.1.1
_MAX_ID: Final = 250
_MESSAGE_ID = re.compile(r"<[\x21-\x3b\x3d\x3f-\x7e]+>\Z")
_BULK: Final = frozenset({"bulk", "list", "junk"})


def header_section(content: bytes, *, utf8: bool = False) -> str:
    """The header section as text with CRLF, at most MAX_HEADERS octets of whole lines.

    Control characters become `?`; so do octets outside ASCII, unless `utf8`. Lines are cut at 998 octets.
    """
    section, _, _ = content[: MAX_HEADERS + MAX_LINE].partition(b"\r\n\r\n")
    lines: list[str] = []
    room = MAX_HEADERS
    for line in section.split(b"\r\n"):
        text = safe_text(line.decode("utf-8" if utf8 else "ascii", "replace"), utf8=utf8, keep_tab=True)
        text = cut(text, MAX_LINE)
        room -= len(text.encode()) + 2
        if room < 0:
            break
        lines.append(text)
    return "\r\n".join(lines) + "\r\n"


def reference(headers: str) -> str | None:
    """The Message-ID of the original, if it has a sane one (RFC 5322 3.6.4)."""
    for name, value in fields(headers):
        if name == "message-id":
            return value if len(value) < _MAX_ID and _MESSAGE_ID.match(value) else None
    return None


def wants_warnings(headers: str) -> bool:
    """Whether a person waits for news: not for mailing lists, bulk mail and automatic mail (RFC 3834 2)."""
    for name, value in fields(headers):
        if name == "precedence" and value.lower() in _BULK:
            return False
        if name == "auto-submitted" and value.partition(";")[0].strip().lower() != "no":
            return False
        if name in ("list-id", "list-post", "list-unsubscribe", "list-help", "list-owner"):
            return False
    return True


def fields(headers: str) -> Iterator[tuple[str, str]]:
    """(name in lower case, value) of each field; continuation lines are joined."""
    for line in re.sub(r"\r\n[ \t]+", " ", headers).split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip().lower(), value.strip()


def safe_text(text: str, *, utf8: bool = False, keep_tab: bool = False) -> str:
    """The text without control characters and, unless `utf8`, in ASCII; what is not becomes `?`."""

    def safe(c: str) -> bool:
        return " " <= c <= "~" or (keep_tab and c == "\t") or (utf8 and ord(c) > 126 and c.isprintable())

    return "".join(c if safe(c) else "?" for c in text)


def cut(text: str, octets: int) -> str:
    """The start of the text in at most so many octets of UTF-8."""
    encoded = text.encode("utf-8", "replace")
    return text if len(encoded) <= octets else encoded[:octets].decode("utf-8", "ignore")
