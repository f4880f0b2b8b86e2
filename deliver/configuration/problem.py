"""How a problem with the settings reads: where it stands, which key, what is wrong, what to do."""

from __future__ import annotations

from dataclasses import dataclass

from deliver.errors import ConfigurationError

KeyPath = tuple[str | int, ...]  # ("route", 1, "hosts") is `route[1].hosts`; indexes count from 0


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with one key; `what` and `remedy` are phrases without a final full stop."""

    path: KeyPath
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was given: a file and its line, or an override (`-o KEY`) without a line."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True, slots=True)
class Located:
    """A problem with its place; `key` is empty when the file as a whole cannot be read."""

    place: Place
    key: str
    what: str
    remedy: str

    def __str__(self) -> str:
        named = not self.key or self.place.source.endswith(f" {self.key}")  # `-o KEY` names it already
        return f"{self.place}: {'' if named else self.key + ': '}{self.what} ({self.remedy})"


class InvalidSettings(ConfigurationError):
    """The settings cannot be used. `problems` are all that were found; `str()` gives one line for each."""

    def __init__(self, problems: tuple[Located, ...]) -> None:
        first = problems[0]
        what = f"{first.key}: {first.what}" if first.key else first.what
        super().__init__(f"reading {first.place}", what, first.remedy)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def dotted(path: KeyPath) -> str:
    """The key as people write it."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
