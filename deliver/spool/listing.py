"""What is in a spool directory, for a person: nothing is changed. Blocking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deliver.errors import StorageError
from deliver.spool.directory import NotYet, SpoolDirectory, Unusable


@dataclass(frozen=True, slots=True)
class Listed:
    """One id. `state`: ready, not yet, unusable; `note` says why, or which variables are unknown."""

    id: str
    state: str
    sender: str = ""
    recipients: tuple[str, ...] = ()
    note: str = ""


def listed(path: Path) -> Iterator[Listed]:
    """Every pair in the directory, the oldest first. Raises StorageError if it cannot be looked into."""
    directory = SpoolDirectory(path)
    now = datetime.now(UTC).timestamp()
    found = directory.find()
    for spool_id in found.pairs:
        try:
            with directory.opened(spool_id, now) as pair:
                header = pair.header
        except NotYet as why:
            yield Listed(spool_id, "not yet", note=str(why))
        except Unusable as why:
            yield Listed(spool_id, "unusable", note=str(why))
        except StorageError as error:
            yield Listed(spool_id, "not yet", note=str(error))
        else:
            unknown = f"unknown: {', '.join(header.unknown)}" if header.unknown else ""
            to = tuple(one.address for one in header.waiting)
            yield Listed(spool_id, "ready", f"<{header.sender}>", to, unknown)
    for spool_id in found.bodies:
        yield Listed(spool_id, "unusable", note="-D without its -H")
