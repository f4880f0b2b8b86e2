"""Our Received header, and how many are there already (RFC 5321 4.4, 6.3). Pure.

What the client said of itself is hostile: a HELO name that is no host name and no address literal is not
repeated, so no line end, comment or clause can be injected.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime

from deliver.message import Mailbox, MessageId, literal_address

UNKNOWN = "unknown"

_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9_])?\Z")
_WORD = re.compile(r"[^A-Za-z0-9._-]")
_RECEIVED = re.compile(rb"received[ \t]*:", re.IGNORECASE)
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
    clauses = [
        f"Received: from {_safe_helo(helo)} ({_literal(client)})",
        f"by {hostname} (Outrider) with {protocol} id {message_id}",
    ]
    if tls is not None:
        clauses[-1] += f" ({_WORD.sub('-', tls[0])} {_WORD.sub('-', tls[1])})"
    if len(recipients) == 1 and not recipients[0].internationalised:
        clauses.append(f"for <{recipients[0]}>")
    clauses[-1] += ";"
    clauses.append(format_datetime(datetime.fromtimestamp(int(now), UTC)))
    return "\r\n ".join(clauses).encode("ascii") + b"\r\n"


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
