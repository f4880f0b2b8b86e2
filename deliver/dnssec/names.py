"""Domain names that are met again and again: made once, with what comparisons need computed once.

A `KnownName` is a `dns.name.Name` in every respect. It is absolute, and keeps its hash and its labels in
lower case; between two of them a comparison costs one of tuples instead of a walk over octets.
"""

from __future__ import annotations

import functools
import re

import dns.name

KEPT = 2048  # names at a time
KEPT_LABELS = 12  # of a name that is kept; more are seldom, and what is kept must stay small

# What nearly all names are made of, so that nothing has to be escaped.
_ESCAPED = re.compile(rb"[^A-Za-z0-9_-]")
_HOST = re.compile(r"(?:[A-Za-z0-9_-]+\.)+", re.ASCII)


class KnownName(dns.name.Name):
    """See the module; get one by `known` or `named`, never by itself."""

    __slots__ = ("_above", "_digestable", "_folded", "_hash", "_text")  # above: its ancestors, nearest first

    _folded: tuple[bytes, ...]
    _hash: int
    _digestable: bytes
    _above: tuple[KnownName, ...] | None
    _text: str | None

    def __init__(self, labels: tuple[bytes, ...]) -> None:
        super().__init__(labels)  # raises for what is too long
        keep = functools.partial(object.__setattr__, self)  # the class above forbids assignments
        folded = tuple(label.lower() for label in labels)
        keep("_folded", folded)
        keep("_digestable", b"".join(bytes((len(label),)) + label for label in folded))
        keep("_hash", super().__hash__())
        keep("_above", None)
        keep("_text", None)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(other) is KnownName:
            return self._folded == other._folded
        if not isinstance(other, dns.name.Name) or len(self.labels) != len(other.labels):
            return False
        return self.fullcompare(other)[1] == 0

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __str__(self) -> str:
        if self._text is None:
            text = self.to_text() if _ESCAPED.search(b"".join(self.labels)) else _plainly(self.labels)
            object.__setattr__(self, "_text", text)
        return str(self._text)

    def is_subdomain(self, other: dns.name.Name) -> bool:
        """Whether it is `other` or below it."""
        if type(other) is KnownName:
            return self._folded[-len(other._folded) :] == other._folded
        return super().is_subdomain(other)

    def parent(self) -> dns.name.Name:
        """The name above. Raises dns.name.NoParent for the root."""
        above = self.above()
        if not above:
            raise dns.name.NoParent
        return above[0]

    def above(self) -> tuple[KnownName, ...]:
        """All names above, the root last."""
        if self._above is None:
            parent = known(self.labels[1:]) if len(self.labels) > 1 else None
            object.__setattr__(self, "_above", () if parent is None else (parent, *parent.above()))
        assert self._above is not None
        return self._above

    def to_digestable(self, origin: dns.name.Name | None = None) -> bytes:
        """The canonical wire form: uncompressed, in lower case (RFC 4034 6.2)."""
        return self._digestable


def known(labels: tuple[bytes, ...]) -> KnownName:
    """The name of these labels, the root's empty one last. Raises dns.exception.DNSException."""
    return _kept(labels) if len(labels) <= KEPT_LABELS else KnownName(labels)


def named(text: str) -> KnownName:
    """The name that is written like this, the final dot included. Raises dns.exception.DNSException."""
    return known(_labels(text))


@functools.lru_cache(maxsize=KEPT)
def _kept(labels: tuple[bytes, ...]) -> KnownName:
    return KnownName(labels)


@functools.lru_cache(maxsize=KEPT)
def _labels(text: str) -> tuple[bytes, ...]:
    if _HOST.fullmatch(text):
        return tuple(text.encode("ascii").split(b"."))
    return dns.name.from_text(text).labels


def _plainly(labels: tuple[bytes, ...]) -> str:
    return b".".join(labels).decode("ascii") or "."
