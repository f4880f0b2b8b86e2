"""What is remembered, told and logged."""

from __future__ import annotations

from typing import Literal

import msgspec

from deliver.quantity import Duration, Size
from deliver.sections.kinds import Count, DatabaseUrl, FilePath, HintsUrl, ListenEndpoint, SecretFile, Section


class Hints(Section, frozen=True):
    """What was learned."""

    url: HintsUrl = "sqlite:///hints.db"  # relative to state_dir; "memory" keeps nothing
    max_size: Size = Size(256 * 1024 * 1024)


class EventAction(Section, frozen=True):
    """SQL statements to run when an event happens, in one transaction; or, with `veto`, before it does."""

    name: str
    events: tuple[str, ...]  # names, `*` as wildcard: "msg:*"
    database: DatabaseUrl  # an SQLAlchemy URL
    sql: str | tuple[str, ...]
    password_file: SecretFile | None = None
    when: str | None = None  # a comparison on fields, see `events.condition`
    veto: bool = False
    deadline: Duration = Duration(2)  # of a veto
    on_error: Literal["allow", "defer"] = "defer"  # of a veto


class EventFile(Section, frozen=True):
    """A file that gets one line of JSON per event."""

    name: str
    events: tuple[str, ...]
    path: FilePath
    when: str | None = None


class Events(Section, frozen=True):
    """Testimony."""

    # "default" fills the ready-made table in `database`; "none" leaves it to the actions.
    schema_name: Literal["default", "none"] = msgspec.field(default="default", name="schema")
    database: DatabaseUrl = "sqlite:///events.db"  # relative to state_dir
    backlog: Count = 1_000_000  # events that may wait for databases
    action: tuple[EventAction, ...] = ()
    file: tuple[EventFile, ...] = ()


class Metrics(Section, frozen=True):
    """Counts for Prometheus."""

    listen: ListenEndpoint | None = None


class Log(Section, frozen=True):
    """Where decisions are told."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    protocol_detail: bool = False  # unusual ends of clients' connections
