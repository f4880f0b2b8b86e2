"""The kinds of hints by the names that people use. Imports next to nothing: tools start fast.

The tables themselves are in `hints.tables`; a test compares. The views have stable names and columns for
people who open the file with sqlite3 or Datasette: times are UTC text, columns are only ever added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

VERSION: Final = 3  # PRAGMA user_version
APPLICATION: Final = 0x4F757448  # PRAGMA application_id, "OutH": a file without it is not ours to replace
ORIGIN: Final = ("source", "reason", "first_seen", "last_seen", "expires", "use_count")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: its table, the columns of its primary key, and its other columns that may be shown."""

    name: str
    table: str
    key: tuple[str, ...]
    values: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns but the secret ones."""
        return self.key + self.values + ORIGIN


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("ehlo", "ehlo_answer", ("address", "port", "phase"), ("greeted_as", "keywords")),
        Kind(
            "reachability",
            "reachability",
            ("host", "address", "port"),
            ("failures", "last_error", "last_failure", "last_success"),
        ),
        Kind("level", "level_seen", ("domain", "host"), ("level", "best", "best_at")),
        Kind(
            "feature",
            "feature",
            ("host", "address", "port", "word"),
            ("worked", "failed", "last_worked", "last_failed"),
        ),
        Kind(
            "session",
            "tls_session",
            (
                *("host", "port", "sni", "level", "client_certificate"),
                *("minimum_version", "greeted_as", "ticket"),
            ),
            ("version", "saved_at"),
        ),
        Kind("sts", "sts_policy", ("domain",), ("id", "mode", "patterns", "max_age", "fetched_at")),
    )
}

_TIMES = frozenset(
    (
        *("last_failure", "last_success", "best_at", "last_worked", "last_failed", "saved_at"),
        *("fetched_at", "first_seen", "last_seen", "expires"),
    )
)


def views() -> tuple[str, ...]:
    """The statements that make the views, `hint_KIND`: every column, times as text, and `expired`."""
    statements: list[str] = []
    for kind in KINDS.values():
        columns = [
            f"datetime({name}, 'unixepoch') AS {name}" if name in _TIMES else name for name in kind.columns
        ]
        columns.append("expires <= CAST(strftime('%s', 'now') AS REAL) AS expired")
        shown = ", ".join(columns)
        statements.append(f"DROP VIEW IF EXISTS hint_{kind.name}")
        statements.append(f"CREATE VIEW hint_{kind.name} AS SELECT {shown} FROM {kind.table}")  # noqa: S608 (names of ours)
    return tuple(statements)


MIGRATIONS: Final = {
    1: (
        "ALTER TABLE level_seen ADD COLUMN best TEXT NOT NULL DEFAULT 'none'",
        "ALTER TABLE level_seen ADD COLUMN best_at FLOAT NOT NULL DEFAULT 0",
        "UPDATE level_seen SET best = level, best_at = last_seen",
        "CREATE INDEX reachability_address ON reachability (address)",
        "CREATE INDEX level_seen_host ON level_seen (host)",
    ),
    2: (),
}  # from that version to the next; new tables are made afterwards
