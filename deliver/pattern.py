"""Patterns of domain and host names, as routes and rules use them: pure, no I/O.

    pattern         matches
    --------------  -----------------------------------------------
    example.org     that name only
    *.example.org   every name below it, at any depth, not itself
    *               everything, address literals included
    [192.0.2.1]     that address literal only

Names and patterns compare in lower-case A-labels without a final dot (RFC 4343, RFC 5891).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from deliver.message import domain_name

ANY = "*"


@lru_cache(maxsize=8192)
def canonical(pattern: str) -> str:
    """The pattern in lower-case A-labels. Raises UsageError when it is none of the forms above."""
    if pattern == ANY:
        return ANY
    if pattern.startswith("*."):
        return f"*.{domain_name(pattern[2:])}"
    return domain_name(pattern)


def matches(pattern: str, name: str) -> bool:
    """Whether `name` (lower-case A-labels, as in `Mailbox.domain`) is one of the names meant."""
    wanted = canonical(pattern)
    if wanted == ANY:
        return True
    name = name.removesuffix(".").lower()
    return name.endswith(wanted[1:]) if wanted.startswith("*.") else name == wanted


def any_matches(patterns: Iterable[str], name: str) -> bool:
    """Whether one of the patterns matches."""
    return any(matches(pattern, name) for pattern in patterns)
