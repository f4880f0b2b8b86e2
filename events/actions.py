"""Event actions: which events go into which database, with which statement; everything checked at load time.

An action is an event pattern and an SQL statement with named parameters (`:host_address`), whose values are
always bound, never put into the text. A pattern that matches nothing and a parameter that none of the matched
events carries are errors before the first mail, with the near spelling. A parameter that only some of the
matched events carry is NULL for the others.

The ready-made action fills the table `event_log` (`events.log`) and needs no SQL.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Float, Integer, Text, TextClause, bindparam, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.types import TypeEngine

from events.catalogue import EVENTS, FIELDS, match, nearest, parameters_of
from events.fields import Kind, Scalar
from events.outbox import DEFAULT_ACTION, Matcher, Pending

MAX_SQL: Final = 20_000  # characters of a statement
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_CAST = re.compile(r"(?<![:\w\\]):(\w+)::")
_TYPES: Final[dict[Kind, type[TypeEngine[Any]]]] = {
    Kind.TEXT: Text,
    Kind.JSON: Text,
    Kind.INTEGER: Integer,
    Kind.REAL: Float,
}


@dataclass(frozen=True, slots=True)
class EventAction:
    """One checked action. `events` are full names; `statement` None means the table `event_log`.

    `database` may hold a password: it is kept out of the repr; `where` is the same for people to read.
    """

    name: str
    events: frozenset[str]
    database: URL = field(repr=False)
    statement: TextClause | None = field(default=None, repr=False)
    parameters: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The database's URL with the password masked."""
        return self.database.render_as_string(hide_password=True)

    def values(self, pending: Pending) -> dict[str, Scalar]:
        """The bound values of the statement for one event; NULL where the event has no such field."""
        known = facts(pending)
        return {name: known.get(name) for name in self.parameters}


def parse_action(
    name: str, events: Sequence[str], database: str, sql: str, *, password: str | None = None
) -> EventAction:
    """Check one action of the settings. Raises ValueError that says what is wrong, and the near spelling.

    `events` are names or patterns with `*`; `password` goes into the URL of `database`.
    """
    if not _NAME.match(name) or name == DEFAULT_ACTION:
        raise ValueError(
            f"{name!r} cannot be the name of an action: use up to 64 letters, digits, '.', '_', '-', "
            f"and not {DEFAULT_ACTION!r}"
        )
    if not events:
        raise ValueError("no event is named; '*' means all")
    names = frozenset(one for pattern in events for one in match(pattern))
    statement, parameters = _statement(sql, names)
    return EventAction(name, names, database_url(database, password), statement, parameters)


def ready_made(database: str, *, password: str | None = None) -> EventAction:
    """The action that keeps every event in the table `event_log`. Raises ValueError for a bad URL."""
    return EventAction(DEFAULT_ACTION, frozenset(EVENTS), database_url(database, password))


def database_url(database: str, password: str | None = None) -> URL:
    """Check an SQLAlchemy URL, driver included. Raises ValueError; the text never repeats a password."""
    try:
        url = make_url(database)
    except (ArgumentError, ValueError):
        raise ValueError("the database is not an SQLAlchemy URL such as sqlite:///events.db") from None
    try:
        url.get_dialect().import_dbapi()
    except (NoSuchModuleError, ImportError) as error:
        raise ValueError(
            f"no driver for databases of type {url.drivername!r} is installed: {error}"
        ) from None
    return url if password is None else url.set(password=password)


def matcher(actions: Sequence[EventAction]) -> Matcher:
    """For `events.outbox`: the names of the actions that want an event."""
    table = {name: tuple(action.name for action in actions if name in action.events) for name in EVENTS}
    return lambda name: table.get(name, ())


def facts(pending: Pending) -> dict[str, Scalar]:
    """Everything that is known of an event, by field name."""
    event = pending.event
    known = dict(event.fields)
    if pending.message_id is not None:
        known.setdefault("message_id", pending.message_id)
    known["event_name"] = event.name
    known["event_id"] = pending.id
    known["event_at"] = event.at
    known["event_time"] = event.time
    return known


def _statement(sql: str, names: frozenset[str]) -> tuple[TextClause, tuple[str, ...]]:
    if not sql.strip() or len(sql) > MAX_SQL or "\0" in sql:
        raise ValueError(f"the SQL statement must have between 1 and {MAX_SQL} characters")
    if cast := _CAST.search(sql):  # SQLAlchemy would take it for text, not for a parameter
        raise ValueError(f"{cast[0]}… is ambiguous: write CAST(:{cast[1]} AS …)")
    statement = text(sql)
    named = tuple(statement.compile().params)
    allowed = parameters_of(names)
    for parameter in named:
        if parameter not in allowed:
            raise ValueError(_unknown(parameter, allowed))
    typed = (bindparam(parameter, type_=_TYPES[FIELDS[parameter].kind]) for parameter in named)
    return statement.bindparams(*typed), named


def _unknown(parameter: str, allowed: Sequence[str]) -> str:
    if parameter in FIELDS:
        return f":{parameter} is a field, but none of the events of this action carries it"
    return (
        f":{parameter} is not a field of these events{nearest(parameter, allowed)}"
        r" (write \: for a colon that begins no parameter)"
    )
