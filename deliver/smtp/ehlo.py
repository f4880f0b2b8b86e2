"""What a server says it can do: the EHLO reply read into facts (RFC 5321 4.1.1.1).

Nothing here raises: a line that is not an ehlo-line is left out of the keywords, a parameter that makes no
sense is treated as absent. The facts hold for this connection and this side of STARTTLS only (RFC 3207 4.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from deliver.smtp.reply import Reply

MAX_LINES = 64  # ehlo-lines that are looked at; the longest real answers have about 25
MAX_TEXT = 512  # characters of a line that are kept; the reply line limit of RFC 5321 4.5.3.1.5

# ehlo-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-"), then SP and parameters (RFC 5321 4.1.1.1).
_EHLO_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:[ \t]+(.*))?\Z")
_SIZE = re.compile(r"[0-9]{1,20}\Z")
_LIMIT = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]*)=([^\s=\x00-\x1f\x7f]+)\Z")  # RFC 9422 3.1
_MECHANISM = re.compile(r"[A-Z0-9_-]{1,20}\Z")  # RFC 4422 3.1
MAX_MECHANISMS = 32  # of AUTH that are looked at
_COUNT = re.compile(r"[1-9][0-9]{0,5}\Z")  # RFC 9422 4: at most six digits


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server will take (RFC 9422 4); None where it says nothing. Advice: less may still be refused."""

    mailmax: int | None = None
    rcptmax: int | None = None
    rcptdomainmax: int | None = None


@dataclass(frozen=True)
class Capabilities:
    """The facts of one EHLO reply. Without arguments: nothing is known, nothing may be used.

    Each fact is read once, for all messages of a connection.

    `greeted_as` is the server's own name; `keywords` maps upper-case keywords to their parameter text
    (the first line of a repeated keyword counts); `lines` holds the ehlo-lines as received, for hints.
    """

    greeted_as: str = ""
    keywords: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    lines: tuple[str, ...] = ()

    @classmethod
    def parse(cls, reply: Reply) -> Capabilities:
        """Read a positive reply to EHLO."""
        lines = tuple(line[:MAX_TEXT] for line in reply.lines[1 : MAX_LINES + 1])
        keywords: dict[str, str] = {}
        for line in lines:
            match = _EHLO_LINE.match(line.rstrip())
            if match:
                keywords.setdefault(match[1].upper(), match[2] or "")
        return cls(_own_name(reply), MappingProxyType(keywords), lines)

    @classmethod
    def without_extensions(cls, reply: Reply) -> Capabilities:
        """Read a positive reply to HELO: the server has a name and no extension."""
        return cls(_own_name(reply))

    @cached_property
    def pipelining(self) -> bool:
        """RFC 2920."""
        return "PIPELINING" in self.keywords

    @cached_property
    def starttls(self) -> bool:
        """RFC 3207."""
        return "STARTTLS" in self.keywords

    @cached_property
    def eight_bit_mime(self) -> bool:
        """RFC 6152."""
        return "8BITMIME" in self.keywords

    @cached_property
    def chunking(self) -> bool:
        """RFC 3030."""
        return "CHUNKING" in self.keywords

    @cached_property
    def prdr(self) -> bool:
        """draft-hall-prdr-00: one reply per accepted recipient after the content."""
        return "PRDR" in self.keywords

    @cached_property
    def smtputf8(self) -> bool:
        """RFC 6531; without 8BITMIME, which it needs (RFC 6531 3.1), the announcement is not believed."""
        return "SMTPUTF8" in self.keywords and self.eight_bit_mime

    @cached_property
    def requiretls(self) -> bool:
        """RFC 8689; it means something inside TLS only."""
        return "REQUIRETLS" in self.keywords

    @cached_property
    def dsn(self) -> bool:
        """RFC 3461."""
        return "DSN" in self.keywords

    @cached_property
    def auth(self) -> tuple[str, ...]:
        """The SASL mechanisms of AUTH in upper case, in the server's order (RFC 4954 3)."""
        named = " ".join((self.keywords.get("AUTH", ""), *self._old_auth)).upper()
        known = (word for word in named.split() if _MECHANISM.match(word))
        return tuple(dict.fromkeys(known))[:MAX_MECHANISMS]

    @cached_property
    def _old_auth(self) -> tuple[str, ...]:
        """`AUTH=LOGIN`, as servers wrote before RFC 2554."""
        return tuple(line[5:] for line in self.lines if line[:5].upper() == "AUTH=")

    @cached_property
    def limits(self) -> Limits:
        """RFC 9422; all of it is ignored when a part is malformed (RFC 9422 3.2)."""
        return _limits(self.keywords.get("LIMITS", ""))

    @cached_property
    def announces_size(self) -> bool:
        """RFC 1870: MAIL may carry SIZE=."""
        return "SIZE" in self.keywords

    @cached_property
    def size(self) -> int | None:
        """The largest message in octets; None without a limit (absent, 0 or not a number)."""
        text = self.keywords.get("SIZE", "").strip()
        return (int(text) or None) if _SIZE.match(text) else None


def _limits(text: str) -> Limits:
    known: dict[str, int | None] = {"MAILMAX": None, "RCPTMAX": None, "RCPTDOMAINMAX": None}
    for word in text.split():
        match = _LIMIT.match(word)
        if not match:
            return Limits()
        name = match[1].upper()
        if name in known:
            if not _COUNT.match(match[2]) or known[name] is not None:
                return Limits()
            known[name] = int(match[2])
    return Limits(known["MAILMAX"], known["RCPTMAX"], known["RCPTDOMAINMAX"])


def _own_name(reply: Reply) -> str:
    """The first word of the first line (RFC 5321 4.1.1.1: the domain comes first)."""
    words = reply.lines[0].split(maxsplit=1) if reply.lines else []
    return words[0][:MAX_TEXT] if words else ""
