"""The log: one line per recipient outcome, one per attempt, one per connection; text or JSON.

A line is a short sentence and facts as key=value. Facts never hold secrets or message content; what a peer
said is quoted, cut and stripped of control characters, so that no line can be forged.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

MAX_VALUE = 500  # characters

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+\Z")  # printable ASCII without space, quote, '=' and backslash


def say(logger: logging.Logger, level: int, sentence: str, **facts: object) -> None:
    """Log `sentence` with `facts`; those that are None or empty are left out."""
    if logger.isEnabledFor(level):
        # not by Logger.log, which would look for the place in the source
        record = logging.LogRecord(logger.name, level, "", 0, sentence, None, None)
        record.facts = {key: value for key, value in facts.items() if value is not None and value != ""}
        logger.handle(record)


class TextFormatter(logging.Formatter):
    """`2026-11-21T10:00:00.123Z INFO outrider.delivery: delivered to=a@example.org …`"""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the values are."""
        said = f"{_stamp(record)} {record.levelname} {record.name}: {_printable(record.getMessage())}"
        facts: dict[str, object] = getattr(record, "facts", {})
        pairs = [f"{key}={_quoted(value)}" for key, value in facts.items()]
        if record.exc_info:
            pairs.append(f"traceback={json.dumps(self.formatException(record.exc_info))}")
        return " ".join((said, *pairs))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the facts under their names."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON, ASCII only."""
        line: dict[str, Any] = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        facts: dict[str, object] = getattr(record, "facts", {})
        for key, value in facts.items():
            name = f"{key}_" if key in line else key  # a fact must not hide what the line is about
            line[name] = value if isinstance(value, int | float | bool) else str(value)[:MAX_VALUE]
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send everything of the `outrider` loggers to `stream` (standard error) in the given form."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger("outrider")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line tells them


def _stamp(record: logging.LogRecord) -> str:
    second = int(record.created)
    return f"{_second(second)}.{int((record.created - second) * 1000):03}Z"


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    """Most lines are of the same second as the one before."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _printable(text: str) -> str:
    if text.isprintable():
        return text[: 4 * MAX_VALUE]
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text[: 4 * MAX_VALUE])


def _quoted(value: object) -> str:
    text = str(value)[:MAX_VALUE]
    return text if _PLAIN.match(text) else json.dumps(text)
