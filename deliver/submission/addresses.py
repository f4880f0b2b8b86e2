"""Lists of addresses as they stand in To, Cc and Bcc (RFC 5322 3.4), comments and groups included. Pure.

Whatever is not understood is refused with the list as a whole: no recipient is ever left out in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_TEXT = 1024 * 1024  # octets of all lists together
MAX_COMMENTS = 50  # one inside the other

_TOKEN = re.compile(
    r"""(?P<space>\s+) | (?P<quoted>"(?:[^"\\]|\\.)*") | (?P<literal>\[[^\]\[\\\s]*\])
    | (?P<special>[<>,:;@.]) | (?P<atom>[^\s"()<>\[\],:;@.\\\x00-\x1f\x7f]+)""",
    re.VERBOSE | re.DOTALL,
)

_WHOLE = re.compile(
    r"""(?: "(?:[^"\\]|\\.)*" | [^@"\[\]]+ ) (?: @ (?: \[[^\]]*\] | [^@"\[\]]+ ) )? \Z""",
    re.VERBOSE | re.DOTALL,
)


class BadAddress(Exception):
    """A list that cannot be read; the text shows where."""


def addresses(text: str) -> list[str]:
    """The addresses, without names and comments; those without a domain as they stand. Raises BadAddress."""
    if len(text) > MAX_TEXT:
        raise BadAddress("the list is too long")
    return [address for part in _parts(_tokens(text)) if (address := _address(part))]


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Kinds and texts; a space that separates two words remains, comments are spaces."""
    at = 0
    while at < len(text):
        if text[at] == "(":
            at = _after_comment(text, at)
            yield "space", " "
            continue
        found = _TOKEN.match(text, at)
        if found is None or found.lastgroup is None:
            raise BadAddress(f"at {text[at : at + 40]!r}")
        yield found.lastgroup, found[0]
        at = found.end()


def _after_comment(text: str, start: int) -> int:
    depth, at = 0, start
    while at < len(text):
        char = text[at]
        depth += (char == "(") - (char == ")")
        at += 2 if char == "\\" else 1
        if depth > MAX_COMMENTS:
            break
        if depth == 0:
            return at
    raise BadAddress(f"a comment does not end: {text[start : start + 40]!r}")


def _parts(tokens: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """The list cut at its commas; the names of groups are left out."""
    part: list[tuple[str, str]] = []
    angle = group = False
    for kind, text in tokens:
        if kind == "special" and text in "<>":
            if angle == (text == "<"):
                raise BadAddress("'<' and '>' do not match")
            angle = text == "<"
        if kind == "special" and not angle and text in ",;:":
            if text == ":" and group:
                raise BadAddress("a group inside a group")
            if text == ";" and not group:
                raise BadAddress("a ';' without a group")
            if text != ":":
                yield part
            group = (group or text == ":") and text != ";"
            part = []
        else:
            part.append((kind, text))
    if angle or group:
        raise BadAddress("the list ends within an address or a group")
    yield part


def _address(part: list[tuple[str, str]]) -> str:
    """The address in one part; empty if there is nothing."""
    texts = [text for _, text in part]
    if "<" in texts:
        start, end = texts.index("<"), texts.index(">")
        if any(kind != "space" for kind, _ in part[end + 1 :]) or "@" in texts[:start]:
            raise BadAddress(f"at {''.join(texts)[:80]!r}")
        part = _without_route(part[start + 1 : end])
        if not _trimmed(part):
            raise BadAddress("an empty address")
    words = _trimmed(part)
    address = "".join(text for _, text in words)
    if any(_touch(words[at], words[at + 1]) for at in range(len(words) - 1)):
        raise BadAddress(f"no comma or brackets in {' '.join(text for _, text in words)[:80]!r}")
    if words and not _WHOLE.match(address):
        raise BadAddress(f"{address[:80]!r} is no address")
    return address


def _without_route(part: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """`@a,@b:local@domain` without what comes before the colon (RFC 5322 4.4)."""
    texts = [text for _, text in part]
    words = [text for text in texts if not text.isspace()]
    if words[:1] == ["@"] and ":" in texts:
        return part[texts.index(":") + 1 :]
    return part


def _trimmed(part: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(kind, text) for kind, text in part if kind != "space"]


def _touch(left: tuple[str, str], right: tuple[str, str]) -> bool:
    """Whether nothing joins two words that stand side by side, or one of them means nothing here."""
    joined = ("special", "."), ("special", "@")
    for kind, text in (left, right):
        if kind == "special" and (kind, text) not in joined:
            return True
    return left[0] != "special" and right[0] != "special"
