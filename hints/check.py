"""What may enter the hints, and what is believed when it is read back: pure checks and limits.

Notes hold what servers said, rows hold what any process, or a person with a database tool, wrote: both are
hostile input. Texts of notes are cut to the limits; a note or row that makes no sense is dropped (None).
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeGuard

from msgspec import structs

from hints.prune import MAX_EVIDENCE, TLS_SESSION
from hints.records import (
    EhloAnswer,
    EhloPhase,
    Feature,
    LevelSeen,
    Note,
    Reachability,
    SessionKey,
    StsSeen,
    TlsSession,
    Word,
)

MAX_KEYWORDS = 64
MAX_KEYWORD = 512  # characters of an EHLO line; RFC 5321 4.5.3.1.5 allows 510 and CRLF
MAX_HOST = 255  # characters
MAX_ERROR = 500
MAX_SOURCE = 32
MAX_REASON = 200
MAX_COUNT = 2**31 - 1
MAX_KEY_TEXT = 128
MAX_SESSION = 16_384  # octets of DER
MAX_CHAIN = 16
MAX_CERTIFICATES = 98_304  # octets of chain and staple together
MAX_SEALED = 131_072
SESSION_VERSIONS = ("TLSv1.2", "TLSv1.3")
MAX_TIME = 253_402_300_799.0  # seconds since the epoch, the end of the year 9999
_MOMENTS = ("first_seen", "last_seen", "expires")
LEVELS = ("none", "encrypt", "pkix", "dane-ta", "dane-ee")
_WORDS = frozenset(Word)
MAX_DOMAIN = 253  # characters without the last dot
MAX_PATTERNS = 100
MAX_POLICY_AGE = 31_557_600  # seconds, RFC 8461 3.2
POLICY_MODES = ("enforce", "testing", "none")
_DOMAIN = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_POLICY_ID = re.compile(r"[A-Za-z0-9]{1,32}")  # RFC 8461 3.1


def accept(note: Note) -> Note | None:
    """The note within the limits, names in lower case; None when it cannot be kept."""
    match note:
        case EhloAnswer():
            if not (is_address(note.address) and is_port(note.port)):
                return None
            if _is_clean((note.greeted_as,), MAX_HOST) and _is_clean(note.keywords, MAX_KEYWORD):
                return note
            keywords = tuple(clean(line, MAX_KEYWORD) for line in note.keywords[:MAX_KEYWORDS])
            name = clean(note.greeted_as, MAX_HOST)
            return structs.replace(note, greeted_as=name, keywords=keywords)
        case Reachability():
            host = _host(note.host)
            if host is None or not (is_address(note.address) and is_port(note.port)):
                return None
            error = None if note.error is None else clean(note.error, MAX_ERROR) or "unknown"
            return (
                note
                if host == note.host and error == note.error
                else structs.replace(note, host=host, error=error)
            )
        case LevelSeen():
            domain, host = _host(note.domain), _host(note.host)
            if domain is None or host is None or note.level not in LEVELS:
                return None
            same = domain == note.domain and host == note.host
            return note if same else structs.replace(note, domain=domain, host=host)
        case Feature():
            host = _host(note.host)
            if host is None or not (is_address(note.address) and is_port(note.port) and note.word in _WORDS):
                return None
            return note if host == note.host else structs.replace(note, host=host)
        case StsSeen():
            patterns = tuple(one.lower() for one in note.patterns)
            policy = structs.replace(note, domain=note.domain.lower(), patterns=patterns)
            return policy if _is_policy(policy) else None


def accept_key(key: SessionKey) -> SessionKey | None:
    """The key with names in lower case; None when it cannot be one."""
    host, sni, greeted_as = _host(key.host), _host(key.sni), key.greeted_as.lower()
    texts = (key.level, key.client_certificate, key.minimum_version)
    if host is None or sni is None or not is_port(key.port) or not is_text(greeted_as, MAX_HOST):
        return None
    if not all(is_text(text, MAX_KEY_TEXT) for text in texts):
        return None
    if (host, sni, greeted_as) == (key.host, key.sni, key.greeted_as):
        return key
    return replace(key, host=host, sni=sni, greeted_as=greeted_as)


def accept_session(session: TlsSession) -> TlsSession | None:
    """The session within the limits, its life shortened to a day; None when it cannot be kept."""
    key = accept_key(session.key)
    certificates = (*session.chain, session.staple or b"")
    if key is None or not session.session or not session.chain or len(session.chain) > MAX_CHAIN:
        return None
    if len(session.session) > MAX_SESSION or sum(len(one) for one in certificates) > MAX_CERTIFICATES:
        return None
    if not (is_text(session.verified_by, MAX_KEY_TEXT) and session.version in SESSION_VERSIONS):
        return None
    if not (is_time(session.saved_at) and is_time(session.expires)):
        return None
    expires = min(session.expires, session.saved_at + TLS_SESSION)
    if expires <= session.saved_at:
        return None
    if key is session.key and expires == session.expires:
        return session
    return replace(session, key=key, expires=expires)


def is_session(row: Mapping[str, Any]) -> bool:
    """Whether the readable columns of a row of tls_session can be believed."""
    texts = (row["level"], row["client_certificate"], row["minimum_version"], row["ticket"])
    return (
        _host(row["host"]) == row["host"]
        and _host(row["sni"]) == row["sni"]
        and is_port(row["port"])
        and is_text(row["greeted_as"], MAX_HOST)
        and all(is_text(text, MAX_KEY_TEXT) for text in texts)
        and row["version"] in SESSION_VERSIONS
        and row["saved_at"] is not None
        and is_time(row["saved_at"])
    )


def is_feature(row: Mapping[str, Any]) -> bool:
    """Whether a row of feature can be believed."""
    return (
        _host(row["host"]) == row["host"]
        and is_address(row["address"])
        and is_port(row["port"])
        and row["word"] in tuple(Word)
        and all(_is_count(row[name]) and row[name] <= MAX_EVIDENCE for name in ("worked", "failed"))
        and is_time(row["last_worked"])
        and is_time(row["last_failed"])
    )


def read_sts(row: Mapping[str, Any]) -> StsSeen | None:
    """The policy in a row of sts_policy, if it is one that counts for as long as it says."""
    patterns = _texts(row["patterns"], MAX_PATTERNS, MAX_DOMAIN + 2)
    if patterns is None:
        return None
    policy = StsSeen(row["domain"], row["id"], row["mode"], patterns, row["max_age"], row["fetched_at"])
    return policy if _is_policy(policy) and policy.expires == row["expires"] else None


def _is_policy(policy: StsSeen) -> bool:
    return (
        is_domain(policy.domain)
        and is_text(policy.id, 32)
        and _POLICY_ID.fullmatch(policy.id) is not None
        and policy.mode in POLICY_MODES
        and len(policy.patterns) <= MAX_PATTERNS
        and all(is_domain(one.removeprefix("*.")) for one in policy.patterns)
        and bool(policy.patterns or policy.mode == "none")
        and _is_integer(policy.max_age)
        and 0 <= policy.max_age <= MAX_POLICY_AGE
        and _is_moment(policy.fetched_at)
        and is_time(policy.expires)
    )


def is_domain(value: object) -> bool:
    """A domain in lower-case A-labels, without a dot at the end."""
    return isinstance(value, str) and len(value) <= MAX_DOMAIN and _DOMAIN.fullmatch(value) is not None


def clean(value: str, limit: int) -> str:
    """Bounded text in which control characters are spaces."""
    cut = value[:limit]
    if cut.isascii() and cut.isprintable():
        return cut
    return "".join(one if one.isprintable() else " " for one in cut)


def _is_clean(values: tuple[str, ...], limit: int) -> bool:
    """Whether there are few enough, and `clean` would change none."""
    together = "".join(values)
    few = len(values) <= MAX_KEYWORDS and (len(together) <= limit or max(map(len, values)) <= limit)
    return few and together.isascii() and together.isprintable()


def is_address(value: object) -> bool:
    """An IP address in the form that Python prints."""
    return isinstance(value, str) and len(value) <= 64 and _is_address(value)


@lru_cache(maxsize=4096)  # each connection leaves several notes
def _is_address(text: str) -> bool:
    try:
        return str(ipaddress.ip_address(text)) == text
    except ValueError:
        return False


def is_port(value: object) -> bool:
    """A TCP port."""
    return _is_integer(value) and 1 <= value <= 65535


def read_ehlo(row: Mapping[str, Any]) -> EhloAnswer | None:
    """The answer in a row of ehlo_answer, if it is one."""
    keywords = _texts(row["keywords"], MAX_KEYWORDS, MAX_KEYWORD)
    if keywords is None or not (is_address(row["address"]) and is_port(row["port"])):
        return None
    if row["phase"] not in tuple(EhloPhase) or not is_text(row["greeted_as"], MAX_HOST):
        return None
    return EhloAnswer(row["address"], row["port"], EhloPhase(row["phase"]), row["greeted_as"], keywords)


def is_reachability(row: Mapping[str, Any]) -> bool:
    """Whether a row of reachability can be believed."""
    return (
        _host(row["host"]) == row["host"]
        and is_address(row["address"])
        and is_port(row["port"])
        and _is_count(row["failures"])
        and (row["last_error"] is None or is_text(row["last_error"], MAX_ERROR))
        and is_time(row["last_failure"])
        and is_time(row["last_success"])
    )


def is_level_seen(row: Mapping[str, Any]) -> bool:
    """Whether a row of level_seen can be believed."""
    return (
        _host(row["domain"]) == row["domain"]
        and _host(row["host"]) == row["host"]
        and row["level"] in LEVELS
        and row["best"] in LEVELS
        and row["best_at"] is not None
        and is_time(row["best_at"])
    )


def is_origin(row: Mapping[str, Any]) -> bool:
    """Whether the columns that every kind has can be believed."""
    return (
        is_text(row["source"], MAX_SOURCE)
        and is_text(row["reason"], MAX_REASON)
        and all(row[name] is not None and is_time(row[name]) for name in _MOMENTS)
        and _is_count(row["use_count"])
    )


def is_text(value: object, limit: int) -> bool:
    """Printable text within the limit."""
    return isinstance(value, str) and len(value) <= limit and (not value or value.isprintable())


def is_time(value: object) -> bool:
    """Seconds since the epoch, or None."""
    if value is None:
        return True
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and 0 <= value <= MAX_TIME


def _is_moment(value: object) -> bool:
    return value is not None and is_time(value)


def lenient_text(octets: bytes) -> str:
    """Text that is no UTF-8 is a value that makes no sense, not an error: it stays unprintable."""
    return octets.decode("utf-8", "surrogateescape")


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return _is_integer(value) and 0 <= value <= MAX_COUNT


def _host(value: object) -> str | None:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_HOST or not value.isprintable():
        return None
    return value.lower()


def _texts(value: object, most: int, limit: int) -> tuple[str, ...] | None:
    """The printable texts in a JSON array, at most so many of so many characters."""
    # escapes make a character six octets long at most
    if not isinstance(value, str) or len(value) > 6 * most * (limit + 4):
        return None
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        return None
    if not isinstance(read, list) or len(read) > most:
        return None
    return tuple(read) if all(is_text(one, limit) for one in read) else None
