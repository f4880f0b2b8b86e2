"""The log: one line per recipient outcome, one per attempt, one per connection; text or JSON.

A line is a short sentence and facts as key=value. Facts never hold secrets or message content; what a peer
said is quoted, cut and stripped of control characters, so that no line can be forged.

Lines of the event loop are written before it waits, where `deliver.report.turn` sees to that; a warning,
and what another thread has to say, is written at once, and what was said before it first.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from threading import get_ident
from time import time  # noqa: TID251 - a line tells when it was said, as `logging` has it
from typing import Any, Final, TextIO

MAX_VALUE = 500  # characters
AT_ONCE = 4096  # characters written in one go: what several processes write to a pipe is not mixed up then

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+\Z")  # printable ASCII without space, quote, '=' and backslash
_QUOTABLE = re.compile(r"[ !#-\[\]-~]*\Z")  # what needs no escape between quotes

_MILLISECONDS = tuple(f".{number:03}Z" for number in range(1000))

_NUMBERS = frozenset({int, float})

Facts = Mapping[str, object]
# (seconds since the epoch, level, logger's name, sentence, facts, traceback): the line without its end
Form = Callable[[float, int, str, str, Facts, str | None], str]

_OUTRIDER: Final = logging.getLogger("outrider")
_NO_FACTS: Final[Facts] = {}
_NAMES: Final = {
    level: logging.getLevelName(level)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
}


def say(logger: logging.Logger, level: int, sentence: str, **facts: object) -> None:
    """Log `sentence` with `facts`; those that are None or empty are left out."""
    if not logger.isEnabledFor(level):
        return
    handlers = _OUTRIDER.handlers
    if len(handlers) == 1 and not (logger.handlers or _OUTRIDER.propagate):  # nobody else is to be told
        lines = handlers[0]
        if isinstance(lines, Lines) and lines.say(logger.name, level, sentence, facts):
            return
    # not by Logger.log, which would look for the place in the source
    record = logging.LogRecord(logger.name, level, "", 0, sentence, None, None)
    record.facts = {key: value for key, value in facts.items() if value is not None and value != ""}
    logger.handle(record)


def text_line(at: float, level: int, name: str, sentence: str, facts: Facts, traceback: str | None) -> str:
    """`2026-11-21T10:00:00.123Z INFO outrider.delivery: delivered to=a@example.org …`"""
    line = _stamp(at) + _beginning(level, name, sentence)
    for key, value in facts.items():
        if value is None:
            continue
        if type(value) in _NUMBERS:
            line += f" {key}={value}"
        elif text := value if type(value) is str else str(value):
            line += f" {key}={_shown(text[:MAX_VALUE])}"
    return line if traceback is None else f"{line} traceback={json.dumps(traceback)}"


def json_line(at: float, level: int, name: str, sentence: str, facts: Facts, traceback: str | None) -> str:
    """One JSON object, ASCII only: time, level, logger, message, and the facts under their names."""
    line: dict[str, Any] = {
        "time": _stamp(at),
        "level": str(_NAMES.get(level, level)).lower(),
        "logger": name,
        "message": sentence,
    }
    for key, value in facts.items():
        if value is None or not (text := str(value)):
            continue
        unique = f"{key}_" if key in line else key  # a fact must not hide what the line is about
        line[unique] = value if isinstance(value, int | float | bool) else text[:MAX_VALUE]
    if traceback is not None:
        line["traceback"] = traceback
    return json.dumps(line)


class Lines(logging.Handler):
    """Writes lines to a stream."""

    def __init__(self, form: Form, stream: TextIO) -> None:
        super().__init__()
        self._form = form
        self._stream = stream
        self._waiting: deque[str] = deque()  # anybody may append; emptied under the lock
        self._gathering: int | None = None  # the thread whose lines wait for `flush`

    def gather(self, thread: int | None) -> None:
        """From now on the lines of this thread wait until `flush` is called; None: those of nobody."""
        self._gathering = thread
        self.flush()

    @property
    def gathering(self) -> int | None:
        """The thread whose lines wait."""
        return self._gathering

    def say(self, name: str, level: int, sentence: str, facts: Facts) -> bool:
        """A line without the detour of a record. False: that failed, and nothing was said."""
        try:
            line = self._form(time(), level, name, sentence, facts, None)
        except Exception:  # a fact that cannot be printed: `emit` complains as `logging` does
            return False
        self._put(line, level)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """One line, whatever the values are."""
        try:
            traceback = _FORMATTER.formatException(record.exc_info) if record.exc_info else None
            facts: Facts = getattr(record, "facts", _NO_FACTS)
            line = self._form(
                record.created, record.levelno, record.name, record.getMessage(), facts, traceback
            )
        except Exception:
            self.handleError(record)
        else:
            self._put(line, record.levelno)

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        self.acquire()
        try:
            while self._waiting:
                self._write(self._taken())
        finally:
            self.release()

    def _put(self, line: str, level: int) -> None:
        self._waiting.append(f"{line}\n")
        if level >= logging.WARNING or self._gathering != get_ident():
            self.flush()

    def _taken(self) -> str:
        """Whole lines, as many as are written in one go."""
        text = self._waiting.popleft()
        while self._waiting and len(text) + len(self._waiting[0]) <= AT_ONCE:
            text += self._waiting.popleft()
        return text

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except Exception:  # mail goes on without a log
            self.handleError(
                logging.LogRecord("outrider", logging.ERROR, "", 0, text[:MAX_VALUE], None, None)
            )


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send everything of the `outrider` loggers to `stream` (standard error) in the given form."""
    before = current()
    lines = Lines(json_line if form == "json" else text_line, stream or sys.stderr)
    if before is not None:
        lines.gather(before.gathering)
        before.gather(None)
    _OUTRIDER.handlers[:] = [lines]
    _OUTRIDER.setLevel(level.upper())
    _OUTRIDER.propagate = False
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line tells them


def current() -> Lines | None:
    """Who writes the lines of the `outrider` loggers; None: nobody, or not `Lines` alone."""
    handlers = _OUTRIDER.handlers
    return handlers[0] if len(handlers) == 1 and isinstance(handlers[0], Lines) else None


def _stamp(at: float) -> str:
    second = int(at)
    return _second(second) + _MILLISECONDS[int((at - second) * 1000)]


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    """Most lines are of the same second as the one before."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=512)
def _shown(text: str) -> str:
    """A value as it stands in a line; most stand in another line of the same message too."""
    if _PLAIN.match(text):
        return text
    return f'"{text}"' if _QUOTABLE.match(text) else json.dumps(text)


@lru_cache(maxsize=64)
def _beginning(level: int, name: str, sentence: str) -> str:
    """What most lines have in common with one before."""
    return f" {_NAMES.get(level, level)} {name}: {_printable(sentence)}"


def _printable(text: str) -> str:
    if text.isprintable():
        return text[: 4 * MAX_VALUE]
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text[: 4 * MAX_VALUE])


_FORMATTER: Final = logging.Formatter()
