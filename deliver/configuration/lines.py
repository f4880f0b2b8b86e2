"""Which line of a TOML text each key stands on (TOML 1.0).

The text has already been parsed by tomllib, so this scanner knows the grammar but checks nothing; what it
does not understand is only missing from its answer.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from deliver.configuration.problem import KeyPath

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY_PART = re.compile(r"""[ \t]*(?:"((?:\\.|[^"\\])*)"|'([^']*)'|([A-Za-z0-9_-]+))[ \t]*""")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\r\n]*")


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of every table, key and array element; each at its first mention."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._last_of_array: dict[KeyPath, int] = {}
        self.lines: dict[KeyPath, int] = {}

    def document(self) -> None:
        table: KeyPath = ()
        while True:
            self._skip(_BLANK)
            start = self._at
            if start >= len(self._text):
                return
            if self._text[start] == "[":
                table = self._header()
            else:
                self._pair(table)
            if self._at == start:
                return  # not understood: never loop

    def _header(self) -> KeyPath:
        """`[a.b]` or `[[a.b]]`, whose path ends in the index of the new element."""
        repeated = self._text.startswith("[[", self._at)
        start = self._at
        self._at += 2 if repeated else 1
        *parents, last = self._key()
        path: KeyPath = ()
        for part in parents:
            path = self._into(path, part)
        path = (*path, last)
        if repeated:
            index = self._last_of_array.get(path, -1) + 1
            self._last_of_array[path] = index
            self._note(path, start)
            path = (*path, index)
        elif path in self._last_of_array:
            path = (*path, self._last_of_array[path])
        self._note(path, start)
        end = self._text.find("]", self._at)
        self._at = len(self._text) if end < 0 else end + (2 if repeated else 1)
        return path

    def _into(self, path: KeyPath, part: str) -> KeyPath:
        """One step down; in an array of tables, its last element."""
        path = (*path, part)
        return (*path, self._last_of_array[path]) if path in self._last_of_array else path

    def _pair(self, table: KeyPath) -> None:
        start = self._at
        path = table
        for part in self._key():
            path = (*path, part)
            self._note(path, start)
        if self._text.startswith("=", self._at):
            self._at += 1
            self._value(path)

    def _key(self) -> list[str]:
        parts: list[str] = []
        while found := _KEY_PART.match(self._text, self._at):
            self._at = found.end()
            parts.append(next(group for group in found.groups() if group is not None))
            if not self._text.startswith(".", self._at):
                break
            self._at += 1
        return parts or [""]

    def _value(self, path: KeyPath) -> None:
        while self._text.startswith((" ", "\t"), self._at):
            self._at += 1
        self._note(path, self._at)
        if self._text.startswith("[", self._at):
            self._array(path)
        elif self._text.startswith("{", self._at):
            self._inline_table(path)
        elif found := _STRING.match(self._text, self._at):
            self._at = found.end()
        else:
            self._skip(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        index = 0
        while True:
            self._skip(_BLANK)
            if self._at >= len(self._text) or self._text[self._at] == "]":
                self._at += 1
                return
            if self._text[self._at] == ",":
                self._at += 1
                continue
            start = self._at
            self._value((*path, index))
            index += 1
            if self._at == start:
                return

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        while True:
            self._skip(_BLANK)
            if self._at >= len(self._text) or self._text[self._at] == "}":
                self._at += 1
                return
            if self._text[self._at] == ",":
                self._at += 1
                continue
            start = self._at
            self._pair(path)
            if self._at == start:
                return

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        assert found is not None  # every pattern matches the empty text
        self._at = found.end()

    def _note(self, path: KeyPath, offset: int) -> None:
        self.lines.setdefault(path, bisect_right(self._starts, offset))
