"""Some header fields of the content that a client sends, for the limits of recipients. Pure.

The client is hostile: a header section of more than MAX_HEADER, or with more than MAX_FIELDS of the wanted
fields, is not looked at, and that is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.errors import MessageError
from email.header import decode_header, make_header

MAX_HEADER = 256 * 1024  # octets
MAX_FIELDS = 100
MAX_DECODED = 500  # characters of a field; encoded words (RFC 2047) behind them stay encoded

Fields = tuple[tuple[str, str], ...]  # name and value

_FOLD = re.compile(rb"\r\n(?=[ \t])")
_FIELD = re.compile(rb"([!-9;-~]{1,76})[ \t]*:[ \t]*(.*)", re.DOTALL)


class HeaderFields:
    """Keeps the fields of these names, over any chunking."""

    def __init__(self, names: Iterable[str]) -> None:
        """`names` in lower case."""
        self._names = frozenset(name.encode() for name in names)
        self._header = bytearray()
        self._complete = False
        self._excessive = False

    def feed(self, data: bytes) -> None:
        """Take the next octets of the content, its lines ended by CRLF."""
        if self._complete:
            return
        start = max(0, len(self._header) - 3)
        self._header += data[: MAX_HEADER + 1 - len(self._header)]
        if self._header.startswith(b"\r\n"):
            self._header.clear()
            self._complete = True
        elif (end := self._header.find(b"\r\n\r\n", start)) >= 0:
            del self._header[end:]
            self._complete = True
        elif len(self._header) > MAX_HEADER:
            self._header.clear()
            self._complete = self._excessive = True

    def found(self) -> Fields | None:
        """Name in lower case and value of each, unfolded, as it came and also decoded where that differs.

        None: there is more than we look at.
        """
        header = _FOLD.sub(b"", bytes(self._header))
        fields = [found for line in header.split(b"\r\n") if (found := _FIELD.match(line))]
        wanted = [(name.decode().lower(), value) for name, value in (each.groups() for each in fields)]
        wanted = [(name, value) for name, value in wanted if name.encode() in self._names]
        if self._excessive or len(wanted) > MAX_FIELDS:
            return None
        shown: dict[tuple[str, str], None] = {}
        for name, octets in wanted:
            value = octets.decode("utf-8", "replace").rstrip()
            shown[name, value] = None
            shown[name, _decoded(value)] = None
        return tuple(shown)


def _decoded(value: str) -> str:
    """With its encoded words as text; what cannot be decoded stays as it is."""
    if "=?" not in value:
        return value
    try:
        return str(make_header(decode_header(value[:MAX_DECODED]))) + value[MAX_DECODED:]
    except (MessageError, LookupError, ValueError):  # a broken word, an unknown charset, wrong octets
        return value
