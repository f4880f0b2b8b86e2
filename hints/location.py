"""Which file a URL of the settings names. No SQLAlchemy here: tools have to start fast."""

from __future__ import annotations

from pathlib import Path


def file_of(url: str) -> Path:
    """The path in `sqlite:///PATH` (percent signs as SQLAlchemy reads them). Raises ValueError otherwise."""
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        raise ValueError(f"{url!r} is not an SQLAlchemy URL such as sqlite:///hints.db")
    name = rest.partition("?")[0].removeprefix("/")
    if scheme.partition("+")[0] != "sqlite" or not rest.startswith("/") or name in ("", ":memory:"):
        raise ValueError("hints are kept in a SQLite file: sqlite:///PATH, or in memory: memory")
    return Path(name)
