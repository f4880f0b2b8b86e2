"""What verbs print: tables for people, JSON for programs, times in words.

Texts may come from hostile peers, so everything for people passes `printable`: no control characters, no
terminal sequences, no markup. On a terminal tables are drawn by rich; piped they are plain aligned columns.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "") -> None:
    """Print rows under their column titles; without rows the text `empty`, if any, on stderr.

    A cell is text; None prints as "-", numbers and booleans as Python writes them.
    """
    cells = [[printable(_cell(value)) for value in row] for row in rows]
    if not cells:
        if empty:
            note(empty)
        return
    if sys.stdout.isatty():
        _draw(columns, cells)
    else:
        _align(columns, cells)


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print one thing as `name: value` lines, the values aligned."""
    cells = [(printable(name), printable(_cell(value))) for name, value in pairs]
    width = max((len(name) for name, _ in cells), default=0) + 1
    for name, value in cells:
        click.echo(f"{name + ':':<{width}} {value}".rstrip())


def json_lines(objects: Iterable[object]) -> None:
    """Print one JSON document per line."""
    for each in objects:
        click.echo(json.dumps(each, default=_plain, separators=(",", ":")))


def json_document(document: object) -> None:
    """Print one JSON document, indented."""
    click.echo(json.dumps(document, default=_plain, indent=2))


def note(text: str) -> None:
    """Say something on stderr, so that it never mixes with data."""
    click.echo(printable(text), err=True)


def duration(seconds: float) -> str:
    """A length of time in its two largest units: `3d4h`, `1h30m`, `45s`, `0.2s`."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 1:
        return f"{seconds:.1f}s" if seconds else "0s"
    rest = round(seconds)
    for place, (size, unit) in enumerate(_UNITS):
        if rest >= size:
            count, rest = divmod(rest, size)
            lesser, lesser_unit = _UNITS[place + 1] if unit != "s" else (1, "s")
            more = rest // lesser
            return f"{count}{unit}" + (f"{more}{lesser_unit}" if more else "")
    return "0s"


def age(seconds: float) -> str:
    """How long ago in one unit: `3m ago`; negative is the future: `in 2h`; less than a second: `now`."""
    whole = int(abs(seconds))
    for size, unit in _UNITS:
        if whole >= size:
            return f"{whole // size}{unit} ago" if seconds > 0 else f"in {whole // size}{unit}"
    return "now"


def moment(epoch: float) -> str:
    """Seconds since the epoch as `2025-01-31 12:00:00Z`."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def size(octets: int) -> str:
    """A number of octets in words: `512 B`, `64.0 kB`, `1.2 MB`."""
    amount = float(octets)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{octets} B" if unit == "B" else f"{amount:.1f} {unit}"


def printable(text: str) -> str:
    """The text with control, format and unassigned characters written as escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if unicodedata.category(c)[0] != "C" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _cell(value: object) -> str:
    return "-" if value is None else str(value)


def _align(columns: Sequence[str], cells: list[list[str]]) -> None:
    widths = [max(len(title), *(len(row[i]) for row in cells)) for i, title in enumerate(columns)]
    for row in ([title.upper() for title in columns], *cells):
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def _draw(columns: Sequence[str], cells: list[list[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for title in columns:
        drawn.add_column(Text(title), overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(drawn)


def _plain(value: object) -> Any:
    """What json cannot write itself: dataclasses, settings, paths, sets; anything else as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    names = getattr(value, "__struct_fields__", None)
    if names is not None:
        return {name: getattr(value, name) for name in names}
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
