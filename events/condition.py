"""Conditions of event actions: `when = "domain == 'example.org' and smtp_code >= 500"`.

    condition    alternative *( "or" alternative )
    alternative  comparison *( "and" comparison )
    comparison   field ( "==" | "!=" | "<" | ">" | "<=" | ">=" ) value
               | field "in" "(" value *( "," value ) ")"
               | field "like" 'text with * for any characters'
               | "(" condition ")"
    value        'text' ('' stands for one ') or a number

Text fields are compared with texts, number fields with numbers; anything else is an error when the settings
are read. A field that an event does not have equals nothing: only `!=` is true of it. Evaluating never fails
and takes time proportional to the value, which a peer may have chosen.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from events.catalogue import nearest
from events.fields import ALIASES, FIELDS, Kind, Scalar

MAX_CONDITION: Final = 2000  # characters
_MAX_DEPTH = 20  # parentheses in one another

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?\d+(?:\.\d+)?)"
    r"|(?P<word>\w+)|(?P<sign>[=!<>]=|[<>(),]))"
)
_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
_NUMBERS = (Kind.INTEGER, Kind.REAL)

Value = str | float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One field against one or more values; `operator` as written, `in` and `like` included."""

    field: str
    operator: str
    values: tuple[Value, ...]

    def holds(self, fields: Mapping[str, Scalar]) -> bool:
        """Whether it is true of these fields."""
        found = fields.get(self.field)
        if found is None or isinstance(found, str) is not isinstance(self.values[0], str):
            return self.operator == "!="
        if self.operator == "in":
            return found in self.values
        if self.operator == "like":
            return _like(str(found), str(self.values[0]))
        return _COMPARE[self.operator](found, self.values[0])


@dataclass(frozen=True, slots=True)
class AllOf:
    """`and`"""

    parts: tuple[Condition, ...]

    def holds(self, fields: Mapping[str, Scalar]) -> bool:
        """Whether every part is true of these fields."""
        return all(part.holds(fields) for part in self.parts)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """`or`"""

    parts: tuple[Condition, ...]

    def holds(self, fields: Mapping[str, Scalar]) -> bool:
        """Whether some part is true of these fields."""
        return any(part.holds(fields) for part in self.parts)


Condition = Comparison | AllOf | AnyOf


def parse_condition(text: str, allowed: Collection[str]) -> Condition:
    """Read a condition on the fields in `allowed`. Raises ValueError that says what is wrong, and where."""
    if len(text) > MAX_CONDITION:
        raise ValueError(f"a condition has at most {MAX_CONDITION} characters")
    reader = _Reader(_tokens(text), allowed)
    condition = reader.condition(0)
    reader.expect_end()
    return condition


def _tokens(text: str) -> tuple[tuple[str, str], ...]:
    """(kind, token) pairs; kinds are the groups of _TOKEN."""
    found: list[tuple[str, str]] = []
    place, end = 0, len(text.rstrip())
    while place < end:
        token = _TOKEN.match(text, place)
        if token is None or token.lastgroup is None:
            found_here = text[place:].strip()[:20]
            raise ValueError(f"{found_here!r} cannot be understood; texts stand in single quotes")
        found.append((token.lastgroup, token[token.lastgroup]))
        place = token.end()
    return tuple(found)


class _Reader:
    """Recursive descent over the grammar of the module's docstring."""

    def __init__(self, tokens: tuple[tuple[str, str], ...], allowed: Collection[str]) -> None:
        self._tokens = tokens
        self._allowed = allowed
        self._place = 0

    def condition(self, depth: int) -> Condition:
        if depth > _MAX_DEPTH:
            raise ValueError("too many parentheses")
        parts = [self._alternative(depth)]
        while self._take("or"):
            parts.append(self._alternative(depth))
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def expect_end(self) -> None:
        if self._place < len(self._tokens):
            raise ValueError(f"{self._next()[1]!r} was not expected; join comparisons with 'and' or 'or'")

    def _alternative(self, depth: int) -> Condition:
        parts = [self._comparison(depth)]
        while self._take("and"):
            parts.append(self._comparison(depth))
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _comparison(self, depth: int) -> Condition:
        if self._take("("):
            inner = self.condition(depth + 1)
            self._demand(")")
            return inner
        kind, field = self._advance("a field")
        field = ALIASES.get(field, field)
        if kind != "word" or field not in self._allowed:
            raise ValueError(self._unknown(field))
        kind, sign = self._advance("a comparison such as ==")
        numeric = FIELDS[field].kind in _NUMBERS
        if sign in _COMPARE:
            return Comparison(field, sign, (self._value(field),))
        if sign == "in":
            self._demand("(")
            values = [self._value(field)]
            while self._take(","):
                values.append(self._value(field))
            self._demand(")")
            return Comparison(field, sign, tuple(values))
        if sign == "like" and not numeric:
            return Comparison(field, sign, (self._value(field),))
        like = "" if numeric else " like"
        raise ValueError(f"{sign!r} is no comparison for {field}: use == != < > <= >= in{like}")

    def _value(self, field: str) -> Value:
        kind, token = self._advance(f"a value for {field}")
        numeric = FIELDS[field].kind in _NUMBERS
        if numeric and kind == "number":
            return float(token) if "." in token else int(token)
        if not numeric and kind == "text":
            return token[1:-1].replace("''", "'")
        wanted = "a number" if numeric else "a text in single quotes"
        raise ValueError(f"{field} is compared with {wanted}, not with {token}")

    def _unknown(self, field: str) -> str:
        if field in FIELDS:
            return f"{field} is a field, but none of the events of this action carries it"
        return f"{field!r} is not a field of these events{nearest(field, self._allowed)}"

    def _next(self) -> tuple[str, str]:
        return self._tokens[self._place] if self._place < len(self._tokens) else ("", "")

    def _take(self, token: str) -> bool:
        kind, found = self._next()
        if found != token or kind == "text":
            return False
        self._place += 1
        return True

    def _demand(self, token: str) -> None:
        if not self._take(token):
            raise ValueError(f"{token!r} is missing before {self._next()[1] or 'the end'!r}")

    def _advance(self, wanted: str) -> tuple[str, str]:
        found = self._next()
        if not found[0]:
            raise ValueError(f"it ends where {wanted} should be")
        self._place += 1
        return found


def _like(value: str, pattern: str) -> bool:
    """Greedy match of the pieces between the stars, from left to right; linear, unlike a regex."""
    first, *rest = pattern.split("*")
    if not rest:
        return value == pattern
    *middle, last = rest
    if not value.startswith(first) or len(value) < len(first) + len(last) or not value.endswith(last):
        return False
    place, end = len(first), len(value) - len(last)
    for piece in middle:
        place = value.find(piece, place, end)
        if place < 0:
            return False
        place += len(piece)
    return True
