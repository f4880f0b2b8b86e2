"""Our Received header, and how many are there already (RFC 5321 4.4, 6.3). Pure.

What the client said of itself is hostile: a HELO name that is no host name and no address literal is not
repeated, so no line end, comment or clause can be injected.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache

from deliver.message import Mailbox, MessageId, literal_address

UNKNOWN = "unknown"

_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9_])?\Z")
_WORD = re.compile(r"[^A-Za-z0-9._-]")
_RECEIVED = re.compile(rb"received[ \t]*:", re.IGNORECASE)
_RECEIVED_LINES = re.compile(rb"\r\nreceived[ \t]*:")  # of a header section in lower case
_LONG_LINE = 64  # octets that are enough to tell whether it is a Received field


def received_header(
    *,
    helo: str,
    client: str,
    hostname: str,
    protocol: str,
    message_id: MessageId,
    recipients: tuple[Mailbox, ...],
    now: float,
    tls: tuple[str, str] | None = None,
) -> bytes:
    """The folded header with its final CRLF.

    `client` is an IP address, `protocol` as from `protocol_name`, `now` in seconds since the epoch, `tls` the
    version and cipher. The recipient is named only if there is just one: the others are nobody's business
    (RFC 5321 7.2); and only in ASCII, so that the header suits every server.
    """
    before, after = _session_clauses(helo, client, hostname, protocol, tls)
    named = ""
    if len(recipients) == 1 and not recipients[0].internationalised:
        named = f"\r\n for <{recipients[0]}>"
    return f"{before}{message_id}{after}{named};\r\n {_date(int(now))}\r\n".encode("ascii")


@lru_cache(maxsize=256)  # they are the same for all messages of a connection
def _session_clauses(
    helo: str, client: str, hostname: str, protocol: str, tls: tuple[str, str] | None
) -> tuple[str, str]:
    """What stands before the id, and between it and the recipient."""
    client_clause = f"from {_safe_helo(helo)} ({_literal(client)})"
    secured = f" ({_WORD.sub('-', tls[0])} {_WORD.sub('-', tls[1])})" if tls is not None else ""
    return f"Received: {client_clause}\r\n by {hostname} (Outrider) with {protocol} id ", secured


@lru_cache(maxsize=2)  # most messages come in the same second as the one before
def _date(second: int) -> str:
    return format_datetime(datetime.fromtimestamp(second, UTC))


@lru_cache(maxsize=32)
def protocol_name(*, lmtp: bool, extended: bool, utf8: bool, secured: bool, authenticated: bool) -> str:
    """What follows `with` (RFC 3848, RFC 6531 4.3): ESMTPSA, UTF8SMTPS, LMTPA …"""
    if not extended:
        return "SMTP"
    plain = "LMTP" if lmtp else "ESMTP"
    name = f"UTF8{plain.removeprefix('E')}" if utf8 else plain
    return name + "S" * secured + "A" * authenticated


class HopCounter:
    """Counts Received fields over any chunking; what comes after the header section does not count."""

    def __init__(self) -> None:
        self._rest = b""  # the unfinished line; of a very long one the beginning and the last octet
        self._in_header = True
        self.hops = 0

    def feed(self, data: bytes) -> None:
        """Take the next octets of the content, its lines ended by CRLF."""
        if not self._in_header:
            return
        if not self._rest and (end := (lines_before := b"\r\n" + data).find(b"\r\n\r\n")) >= 0:
            self._in_header = False  # as nearly always: the rest of the header section at once
            self.hops += len(_RECEIVED_LINES.findall(lines_before[:end].lower()))
            return
        *lines, rest = (self._rest + data).split(b"\r\n")
        for line in lines:
            self._finish(line)
            if not self._in_header:
                return
        self._rest = rest if len(rest) <= _LONG_LINE else rest[:_LONG_LINE] + rest[-1:]

    def _finish(self, line: bytes) -> None:
        if not line:
            self._in_header = False
        elif _RECEIVED.match(line):
            self.hops += 1


def hop_count(content: bytes) -> int:
    """Received fields in the header section at the start of `content`."""
    counter = HopCounter()
    counter.feed(content)
    return counter.hops


def _safe_helo(helo: str) -> str:
    if helo.startswith("["):
        address = literal_address(helo)
        return _literal(address) if address else UNKNOWN
    return helo if _HOST_NAME.match(helo) else UNKNOWN


def _literal(address: str) -> str:
    """RFC 5321 4.1.3; `address` is an IP address in text."""
    if not re.fullmatch(r"[0-9A-Fa-f:.]{2,45}", address):
        return UNKNOWN
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"
