"""MTA-STS policies: the record that announces one, its text, and which hosts it covers (RFC 8461 3).

    _mta-sts.DOMAIN TXT "v=STSv1; id=20260831;"           there is a policy; another id: fetch it again
    https://mta-sts.DOMAIN/.well-known/mta-sts.txt        the policy (`deliver.sts.fetch`)

    version: STSv1
    mode: enforce          enforce: only covered hosts with valid certificates; testing, none: as without
    mx: mail.example.net   one of the hosts, or *.example.net for any one label in front
    max_age: 604800        seconds for which it counts

Whatever breaks the grammar is no policy. What follows from one is decided in `deliver.tls.policy`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from deliver.errors import UsageError
from deliver.message import domain_name, literal_address

MAX_AGE: Final = 31_557_600  # seconds, RFC 8461 3.2: about a year
MAX_PATTERNS: Final = 100
MAX_NAMES: Final = 4_000  # characters of all patterns; thousands of policies are kept in memory
MAX_FIELDS: Final = 1_000  # lines of a policy, or fields of a record
SHOWN: Final = 5  # patterns in a sentence

_RECORD = re.compile(r"v=STSv1[ \t]*;")
_ID = re.compile(r"[A-Za-z0-9]{1,32}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}\Z")
_AGE = re.compile(r"[0-9]{1,10}\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Mode(StrEnum):
    """What a domain asks for (RFC 8461 5)."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


class BadPolicy(ValueError):
    """The text is no policy, and why."""


@dataclass(frozen=True, slots=True)
class StsPolicy:
    """A domain's policy: `patterns` in lower-case A-labels, `max_age` in seconds."""

    mode: Mode
    patterns: tuple[str, ...]
    max_age: int

    def covers(self, host: str) -> bool:
        """Whether `host`, in lower-case A-labels, is one of its hosts (RFC 8461 4.1)."""
        behind = host.partition(".")[2]
        return host in self.patterns or (bool(behind) and f"*.{behind}" in self.patterns)

    def __str__(self) -> str:
        left = len(self.patterns) - SHOWN
        hosts = ", ".join(self.patterns[:SHOWN]) + (f" and {left} more" if left > 0 else "")
        return f"{self.mode}, MX {hosts}" if hosts else str(self.mode)


@dataclass(frozen=True, slots=True)
class StsStanding:
    """What is known of a domain's policy; `unknown`: why nobody can say whether there is one."""

    policy: StsPolicy | None = None
    unknown: str | None = None


def record_name(domain: str) -> str:
    """Where the record of a domain is."""
    return f"_mta-sts.{domain}"


def policy_host(domain: str) -> str:
    """Which web server has the policy of a domain."""
    return f"mta-sts.{domain}"


def policy_id(texts: Iterable[bytes]) -> str | None:
    """The id in the one record among these TXT records, or None: no policy is to be had (RFC 8461 3.1)."""
    records = [text for raw in texts if _RECORD.match(text := raw.decode("latin-1"))]
    return _id_of(records[0]) if len(records) == 1 else None


def _id_of(record: str) -> str | None:
    fields = [each.strip(" \t") for each in record.split(";", MAX_FIELDS)[1:]]
    if fields and not fields[-1]:
        fields.pop()  # behind the last semicolon
    found: str | None = None
    for each in fields:
        name, equals, value = each.partition("=")
        if not equals or not _NAME.match(name) or not _is_value(value):
            return None
        if name == "id" and found is None:
            found = value
    return found if found is not None and _ID.match(found) else None


def _is_value(text: str) -> bool:
    return bool(text) and all("!" <= character <= "~" and character not in "=;" for character in text)


def parse_policy(text: bytes) -> StsPolicy:
    """The policy in the text of a web server (RFC 8461 3.2). Raises BadPolicy."""
    try:
        lines = text.decode().replace("\r\n", "\n").split("\n", MAX_FIELDS)
    except UnicodeDecodeError:
        raise BadPolicy("it is no UTF-8 text") from None
    if len(lines) > MAX_FIELDS:
        raise BadPolicy(f"it has more than {MAX_FIELDS} lines")
    fields: dict[str, str] = {}
    patterns: list[str] = []
    for line in filter(None, (line.rstrip(" \t") for line in lines)):
        name, colon, value = line.partition(":")
        value = value.lstrip(" \t")
        if not colon or not _NAME.match(name) or _CONTROL.search(value):
            raise BadPolicy(f"the line {line[:80]!r} is no field")
        if name == "mx":
            patterns.append(_pattern(value))
        else:
            fields.setdefault(name, value)  # of those that come twice the first one counts
    return _policy(fields, tuple(dict.fromkeys(patterns)))


def _policy(fields: dict[str, str], patterns: tuple[str, ...]) -> StsPolicy:
    if fields.get("version") != "STSv1":
        raise BadPolicy("it does not say version: STSv1")
    try:
        mode = Mode(fields.get("mode", ""))
    except ValueError:
        raise BadPolicy("its mode is none of enforce, testing and none") from None
    if not _AGE.match(fields.get("max_age", "")):
        raise BadPolicy("its max_age is no number of seconds")
    if not patterns and mode is not Mode.NONE:
        raise BadPolicy("it names no mx")
    if len(patterns) > MAX_PATTERNS or sum(map(len, patterns)) > MAX_NAMES:
        raise BadPolicy(f"it names more than {MAX_PATTERNS} mx, or mx of more than {MAX_NAMES} characters")
    return StsPolicy(mode, patterns, min(int(fields["max_age"]), MAX_AGE))


def _pattern(text: str) -> str:
    anything = "*." if text.startswith("*.") else ""
    try:
        name = domain_name(text.removeprefix("*."))
    except UsageError:
        name = ""
    if not name or name.rpartition(".")[2].isdigit() or literal_address(name) is not None:
        raise BadPolicy(f"its mx {text[:80]!r} is no host name")
    return anything + name
