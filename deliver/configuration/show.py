"""The effective settings as a TOML text that reads back to the same tree, or as plain data for JSON.

Every line says in a comment where its value came from. Passwords in URLs are masked, although a file with one
is refused when it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from deliver.configuration.problem import KeyPath
from deliver.configuration.reader import Configuration
from deliver.settings import Duration, Section, Size, as_mapping

_PASSWORD = re.compile(r"(://[^/@:]*):[^@]*@")
_PASSWORD_PARAMETER = re.compile(r"([?&](?:password|passwd|pwd|sslpassword)=)[^&]*", re.IGNORECASE)
MASK = "********"
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z", re.ASCII)


def as_data(value: object) -> Any:
    """Plain JSON-able data: durations and sizes with units as in the file, secrets masked."""
    match value:
        case Section():
            return {key: as_data(inner) for key, inner in as_mapping(value).items()}
        case dict():
            return {key: as_data(inner) for key, inner in value.items()}
        case tuple() | list():
            return [as_data(inner) for inner in value]
        case Duration() | Size():
            return value.text()
        case str():
            return masked(str(value))
        case _:
            return value


def masked(text: str) -> str:
    """The text without the passwords that a URL in it may have."""
    return _PASSWORD_PARAMETER.sub(rf"\1{MASK}", _PASSWORD.sub(rf"\1:{MASK}@", text))


def as_toml(configuration: Configuration) -> str:
    """The whole tree as TOML; keys without a value are comments."""
    return "\n".join(_table(configuration, as_data(configuration.settings), (), "")).lstrip("\n") + "\n"


def _table(configuration: Configuration, table: dict[str, Any], path: KeyPath, header: str) -> Iterator[str]:
    """Its own keys first, then the tables in it: TOML has no way back to an outer table."""
    for key, value in table.items():
        if not _is_table(value) and not _is_array_of_tables(value):
            origin = _origin(configuration, (*path, key))
            text = f"# {key} is not set" if value is None else f"{_key(key)} = {_value(value)}"
            yield f"{text}  # {origin}"
    for key, value in table.items():
        name = f"{header}.{_key(key)}" if header else _key(key)
        if _is_table(value) and (value or not header.startswith("rule")):
            yield from ("", f"[{name}]")
            yield from _table(configuration, value, (*path, key), name)
        elif _is_array_of_tables(value):
            for index, element in enumerate(value):
                yield from ("", f"[[{name}]]")
                yield from _table(configuration, element, (*path, key, index), name)


def _origin(configuration: Configuration, path: KeyPath) -> str:
    for length in range(len(path), 0, -1):
        place = configuration.places.get(path[:length])
        if place and (length == len(path) or place.line is None):
            return place.source if place.line is None else f"line {place.line}"
    return "default"


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _is_array_of_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_table, value))


def _key(key: str) -> str:
    return key if _BARE_KEY.match(key) else json.dumps(key, ensure_ascii=False)


def _value(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            return f"{{ {', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items())} }}"
        case _:
            return str(value)
