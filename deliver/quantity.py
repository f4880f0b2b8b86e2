"""Durations and sizes with units: `"1h30m"` is 5400 seconds, `"64kB"` 64000 octets, `"1MiB"` 1048576.

A `Duration` behaves as a float of seconds, a `Size` as an int of octets. They are types of their own so that
the reader of the settings demands a unit: a bare number other than 0 raises ValueError. `str()` gives the
number, `text()` the form of the file.
"""

from __future__ import annotations

import re
from typing import Self

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+\Z", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)\Z", re.ASCII)
_OCTETS = {
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}
_LONGEST = 20  # characters before the unit; keeps numbers finite and messages short

DURATION_REMEDY = 'write a number with a unit: "30s", "5m", "2h", "5d", "1h30m"'
SIZE_REMEDY = 'write a number with a unit: "64kB", "50MB", "1GiB"'


class Duration(float):
    """Seconds."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read text such as `"1h30m"` (units ms s m h d w), or 0. Raises ValueError."""
        if isinstance(value, cls):
            return value
        if type(value) is int and value == 0:
            return cls(0)
        if not isinstance(value, str):
            raise ValueError(_bare(value, "duration"))
        if not _DURATION.match(value) or len(value) > 4 * _LONGEST:
            raise ValueError(f"{value[:40]!r} is not a duration")
        return cls(sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(value)))

    def text(self) -> str:
        """The shortest text that `parse` reads back to the same value."""
        if not self:
            return "0s"
        milliseconds = round(self * 1000)
        if milliseconds % 1000:
            return f"{milliseconds}ms"
        parts, rest = [], milliseconds // 1000
        for unit in ("d", "h", "m", "s"):
            count, rest = divmod(rest, int(_SECONDS[unit]))
            if count:
                parts.append(f"{count}{unit}")
        return "".join(parts)


class Size(int):
    """Octets."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read text such as `"64kB"` (1000) or `"64KiB"` (1024), or 0. Raises ValueError."""
        if isinstance(value, cls):
            return value
        if type(value) is int and value == 0:
            return cls(0)
        if not isinstance(value, str):
            raise ValueError(_bare(value, "size"))
        found = _SIZE.match(value)
        if not found or len(found[1]) > _LONGEST or found[2].lower() not in _OCTETS:
            raise ValueError(f"{value[:40]!r} is not a size")
        return cls(round(float(found[1]) * _OCTETS[found[2].lower()]))

    def text(self) -> str:
        """The shortest exact text that `parse` reads back to the same value."""
        for unit, octets in (
            ("GiB", 1024**3), ("GB", 1000**3), ("MiB", 1024**2), ("MB", 1000**2), ("KiB", 1024), ("kB", 1000),
        ):  # fmt: skip
            if self and self % octets == 0:
                return f"{self // octets}{unit}"
        return f"{int(self)}B"


def _bare(value: object, what: str) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value} has no unit"
    return f"expected a {what} as text with a unit"
