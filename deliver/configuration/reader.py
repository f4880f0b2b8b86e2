"""Reading the settings: which file, which overrides, all problems at once.

The file is the one given, else $OUTRIDER_CONFIG, else /etc/outrider/outrider.toml if it exists, else there is
none and the defaults hold. An override is `KEY=VALUE`: a dotted key, and a value in TOML syntax or, when it
is none, a text as it stands. Relative paths in the file are taken from `state_dir`, in an override from the
working directory. Nothing is started with settings that have a problem: InvalidSettings (exit status 78)
lists all of one kind: first the single values, then their combinations, then the files that they name, then
the event actions.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from deliver.configuration import actions, combinations, files, values
from deliver.configuration.lines import key_lines
from deliver.configuration.problem import InvalidSettings, KeyPath, Located, Place, Problem, dotted
from deliver.errors import UsageError
from deliver.settings import Settings, quantity

SYSTEM_FILE = Path("/etc/outrider/outrider.toml")
MAX_FILE = 4 * 1024 * 1024  # octets

_ERROR_LINE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)\Z")
_KEY = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings that passed every check, with where they came from.

    `places` says where a key was given; a key that is not in it, nor any table around it, has its default.
    """

    settings: Settings
    warnings: tuple[Located, ...] = ()
    file: Path | None = None
    places: Mapping[KeyPath, Place] = field(default_factory=dict)


def load(
    path: Path | None, overrides: Sequence[str] = (), *, environ: Mapping[str, str] = os.environ
) -> Settings:
    """The settings alone; see `read`."""
    return read(path, overrides, environ=environ).settings


def read(
    path: Path | None, overrides: Sequence[str] = (), *, environ: Mapping[str, str] = os.environ
) -> Configuration:
    """Read and check. Raises InvalidSettings, or UsageError for an override that is no KEY=VALUE."""
    file = path or _default_file(environ)
    document: dict[str, Any] = {}
    places: dict[KeyPath, Place] = {}
    if file is not None:
        text = _text(file)
        document = _parse(text, file)
        places = {key: Place(str(file), line) for key, line in key_lines(text).items()}
    for override in overrides:
        _apply(override, document, places)
    unplaced = Place(str(file) if file else "default settings")
    _refuse(values.problems(document), places, unplaced)
    try:
        settings = msgspec.convert(document, Settings, dec_hook=quantity)
    except msgspec.ValidationError as error:
        raise InvalidSettings((Located(unplaced, "", str(error), "correct the value"),)) from None
    _refuse(combinations.problems(settings), places, unplaced)
    _refuse(files.problems(settings, environ), places, unplaced)
    _refuse(actions.problems(settings), places, unplaced)
    warnings = _locate(combinations.warnings(settings), places, unplaced)
    return Configuration(settings, tuple(warnings), file, places)


def _default_file(environ: Mapping[str, str]) -> Path | None:
    named = environ.get("OUTRIDER_CONFIG")
    if named:
        return Path(named)
    return SYSTEM_FILE if SYSTEM_FILE.exists() else None


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE + 1)
    except OSError as error:
        why = error.strerror or str(error)
        raise _unreadable(file, why, "give the settings file with --config FILE") from None
    if len(content) > MAX_FILE:
        raise _unreadable(file, f"it is larger than {MAX_FILE} octets", "is it the right file?")
    try:
        return content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _unreadable(file, "it is not UTF-8", "save it as UTF-8", line) from None


def _parse(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _ERROR_LINE.search(str(error))
        line = int(found[1]) if found and found[1] else text.count("\n") + 1
        what = _ERROR_LINE.sub("", str(error))
        remedy = 'correct the TOML; texts, durations and sizes stand in quotes: timeout = "5s"'
        raise _unreadable(file, what, remedy, line) from None
    except RecursionError:
        raise _unreadable(file, "it is nested too deeply", "correct the TOML") from None


def _unreadable(file: Path, what: str, remedy: str, line: int | None = None) -> InvalidSettings:
    return InvalidSettings((Located(Place(str(file), line), "", what, remedy),))


def _refuse(problems: Iterable[Problem], places: Mapping[KeyPath, Place], unplaced: Place) -> None:
    located = tuple(_locate(problems, places, unplaced))
    if located:
        raise InvalidSettings(located)


def _locate(
    problems: Iterable[Problem], places: Mapping[KeyPath, Place], unplaced: Place
) -> Iterator[Located]:
    for problem in problems:
        place = next(
            (
                places[problem.path[:length]]
                for length in _down(problem.path)
                if problem.path[:length] in places
            ),
            unplaced,
        )
        yield Located(place, dotted(problem.path), problem.what, problem.remedy)


def _down(path: KeyPath) -> range:
    return range(len(path), 0, -1)


# --- overrides


def _apply(override: str, document: dict[str, Any], places: dict[KeyPath, Place]) -> None:
    """Put one override into the document; its place replaces the lines of what it replaced."""
    key, equals, raw = override.partition("=")
    key = key.strip()
    if not equals or not _KEY.match(key):
        raise UsageError(
            f"reading -o {key[:80]}", "it is not KEY=VALUE", "write for instance -o dns.timeout=5s"
        )
    path: KeyPath = tuple(key.split("."))
    place = Place(f"-o {key}")
    kind = values.type_at(path)
    value = _override_value(raw, kind, place, key)
    if kind is not None:
        value = _from_working_directory(value, kind)
    table = document
    for part in path[:-1]:
        inner = table.get(str(part))
        if not isinstance(inner, dict):
            if inner is not None:
                raise InvalidSettings((Located(place, key, "it is inside a value that is no table", _WHOLE),))
            inner = table[str(part)] = {}
        table = inner
    table[str(path[-1])] = value
    for known in [known for known in places if known[: len(path)] == path]:
        del places[known]
    places[path] = place


_WHOLE = 'give the whole list: -o \'route=[{domains = ["*"], via = "mx"}]\''


def _override_value(raw: str, kind: inspect.Type | None, place: Place, key: str) -> Any:
    """The value as TOML; for a key that holds a text, and for what is no TOML, the text as it stands."""
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except (tomllib.TOMLDecodeError, RecursionError):
        if raw.lstrip().startswith(("[", "{", '"', "'")):
            raise InvalidSettings(
                (Located(place, key, "the value is broken TOML", "check its quotes and brackets"),)
            ) from None
        return raw
    value = parsed["value"] if set(parsed) == {"value"} else raw
    return raw.strip() if _holds_text(kind) and not isinstance(value, str) else value


def _holds_text(kind: inspect.Type | None) -> bool:
    if isinstance(kind, inspect.Metadata):
        kind = kind.type
    return isinstance(kind, (inspect.StrType, inspect.EnumType, inspect.LiteralType))


def _from_working_directory(value: Any, kind: inspect.Type) -> Any:
    """Relative paths and SQLite files inside an override's value, made absolute."""
    kind = values.section_of(kind)
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        types = {known.encode_name: known.type for known in kind.fields}
        return {k: _from_working_directory(v, types[k]) if k in types else v for k, v in value.items()}
    if isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        return [_from_working_directory(each, kind.item_type) for each in value]
    meant = values.kind_of(kind)
    if not isinstance(value, str) or not value or meant is None:
        return value
    if meant in ("path", "secret file") and not value.startswith(files.CREDENTIAL):
        return str(Path.cwd() / value)
    if meant in ("database url", "hints url"):
        return Settings(state_dir=str(Path.cwd())).database_url(value)
    return value
