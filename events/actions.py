"""Event actions: which events go where, with which statements; everything checked at load time.

An action is an event pattern and SQL statements with named parameters (`:host_address`), whose values are
always bound, never put into the text. A pattern that matches nothing and a parameter that none of the matched
events carries are errors before the first mail, with the near spelling. A parameter that only some of the
matched events carry is NULL for the others. The statements of an action share one transaction.

An action with a `Veto` is asked before the fact (`events.gate`) and told nothing afterwards. The ready-made
action fills the tables of `events.tables` and needs no SQL; a `FileAction` appends JSON Lines to a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import Float, Integer, Text, TextClause, bindparam, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.types import TypeEngine

from events.catalogue import EVENTS, FIELDS, Event, match, nearest, parameters_of
from events.condition import Condition, parse_condition
from events.fields import ALIASES, Kind, Scalar
from events.outbox import DEFAULT_ACTION, Matcher, Pending
from events.towards import ANYWHERE, Towards

MAX_SQL: Final = 20_000  # characters of a statement
MAX_STATEMENTS: Final = 20  # of one action
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_CAST = re.compile(r"(?<![:\w\\]):(\w+)::")
_TYPES: Final[dict[Kind, type[TypeEngine[Any]]]] = {
    Kind.TEXT: Text,
    Kind.JSON: Text,
    Kind.INTEGER: Integer,
    Kind.REAL: Float,
}


class BadAction(ValueError):
    """What is wrong with an action, and in which `key` of it."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(what)
        self.key = key


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement and its parameters: their names, and the fields that they stand for."""

    text: TextClause
    bound: tuple[tuple[str, str], ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The fields that it asks for."""
        return tuple(dict.fromkeys(field for _, field in self.bound))

    def values(self, known: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """The values by parameter; NULL where the event has no such field."""
        return {name: known.get(field) for name, field in self.bound}


@dataclass(frozen=True, slots=True)
class Veto:
    """The action decides before the fact; `deadline` in seconds, `on_error`: what holds without an answer."""

    deadline: float = 2.0
    on_error: Literal["allow", "defer"] = "defer"


@dataclass(frozen=True, slots=True)
class EventAction:
    """One checked action. `events` are full names; no `statements` means the ready-made tables.

    `database` may hold a password: it is kept out of the repr; `where` is the same for people to read.
    """

    name: str
    events: frozenset[str]
    database: URL = field(repr=False)
    statements: tuple[Statement, ...] = field(default=(), repr=False)
    when: Condition | None = None
    veto: Veto | None = None
    towards: Towards = ANYWHERE

    @property
    def where(self) -> str:
        """The database's URL with the password masked."""
        return self.database.render_as_string(hide_password=True)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The fields that the statements ask for."""
        return tuple(dict.fromkeys(name for one in self.statements for name in one.parameters))


@dataclass(frozen=True, slots=True)
class FileAction:
    """Appends each event as one line of JSON to a file."""

    name: str
    events: frozenset[str]
    path: Path
    when: Condition | None = None

    @property
    def where(self) -> str:
        """The file, for people to read."""
        return str(self.path)

    @property
    def parameters(self) -> tuple[str, ...]:
        """A file takes all fields."""
        return ()


Action = EventAction | FileAction


def parse_action(
    name: str,
    events: Sequence[str],
    database: str,
    sql: str | Sequence[str],
    *,
    password: str | None = None,
    when: str | None = None,
    veto: Veto | None = None,
    towards: Towards = ANYWHERE,
) -> EventAction:
    """Check one action of the settings. Raises BadAction that says what is wrong, and the near spelling.

    `events` are names or patterns with `*`; `password` goes into the URL of `database`. With `towards` only
    events that name such a destination count.
    """
    _check_name(name)
    with _blaming("events"):
        names = _names(events, towards)
        if veto is not None:
            _check_veto(names)
    allowed = parameters_of(names)
    with _blaming("sql"):
        statements = _statements(sql, allowed)
    with _blaming("when"):
        condition = None if when is None else parse_condition(when, allowed)
    with _blaming("database"):
        url = database_url(database, password)
    return EventAction(name, names, url, statements, condition, veto, towards)


def parse_file(name: str, events: Sequence[str], path: Path, when: str | None = None) -> FileAction:
    """Check one file of the settings. Raises BadAction."""
    _check_name(name)
    with _blaming("events"):
        names = _names(events)
    with _blaming("when"):
        condition = None if when is None else parse_condition(when, parameters_of(names))
    return FileAction(name, names, path, condition)


def ready_made(database: str, *, password: str | None = None) -> EventAction:
    """The action that files every event in the ready-made tables. Raises ValueError for a bad URL."""
    return EventAction(DEFAULT_ACTION, frozenset(EVENTS), database_url(database, password))


def told(actions: Sequence[Action]) -> tuple[Action, ...]:
    """The actions that are told of events through the outbox."""
    return tuple(one for one in actions if isinstance(one, FileAction) or one.veto is None)


def asked(actions: Sequence[Action]) -> tuple[EventAction, ...]:
    """The actions that are asked before the fact."""
    return tuple(one for one in actions if isinstance(one, EventAction) and one.veto is not None)


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


def matcher(actions: Sequence[Action]) -> Matcher:
    """For `events.outbox`: the names of the actions that are to be told of an event."""
    table = {name: tuple(one for one in told(actions) if name in one.events) for name in EVENTS}
    always = {
        name: tuple(one.name for one in several)
        for name, several in table.items()
        if all(_is_unconditional(one) for one in several)
    }

    def wanted(event: Event) -> tuple[str, ...]:
        known = always.get(event.name)
        if known is not None:
            return known
        return tuple(one.name for one in table.get(event.name, ()) if applies(one, event))

    return wanted


def applies(action: Action, event: Event) -> bool:
    """Whether the action's destination and condition are true of the event; without them they are."""
    if isinstance(action, EventAction) and not action.towards.holds(event.fields):
        return False
    return action.when is None or action.when.holds(_known(event))


def _is_unconditional(action: Action) -> bool:
    return action.when is None and (isinstance(action, FileAction) or action.towards == ANYWHERE)


def facts(pending: Pending) -> dict[str, Scalar]:
    """Everything that is known of an event, by field name."""
    known = _known(pending.event)
    if pending.message_id is not None:
        known.setdefault("message_id", pending.message_id)
    known["event_id"] = pending.id
    return known


def _known(event: Event) -> dict[str, Scalar]:
    return {**event.fields, "event_name": event.name, "event_at": event.at, "event_time": event.time}


@contextmanager
def _blaming(key: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise BadAction(key, str(error)) from error


def _check_name(name: str) -> None:
    if not _NAME.match(name) or name == DEFAULT_ACTION:
        raise BadAction(
            "name",
            f"{name!r} cannot be the name of an action: use up to 64 letters, digits, '.', '_', '-', "
            f"and not {DEFAULT_ACTION!r}",
        )


def _names(events: Sequence[str], towards: Towards = ANYWHERE) -> frozenset[str]:
    if not events:
        raise ValueError("no event is named; '*' means all")
    return frozenset(one for pattern in events for one in _with_destination(pattern, towards))


def _with_destination(pattern: str, towards: Towards) -> tuple[str, ...]:
    """The events that a pattern means, without those that never name what `towards` asks for."""
    names = tuple(name for name in match(pattern) if set(towards.fields) <= set(EVENTS[name].fields))
    if not names:
        lacking = " and ".join(towards.fields)
        raise ValueError(f"{pattern!r} carries no {lacking}: the action of a rule would never run")
    return names


def _check_veto(names: frozenset[str]) -> None:
    late = sorted(name for name in names if not EVENTS[name].veto)
    if late:
        early = ", ".join(name for name, kind in EVENTS.items() if kind.veto)
        raise ValueError(f"{late[0]} tells what has happened and cannot be refused; veto works for {early}")


def _statements(sql: str | Sequence[str], allowed: Sequence[str]) -> tuple[Statement, ...]:
    texts = (sql,) if isinstance(sql, str) else tuple(sql)
    if not 1 <= len(texts) <= MAX_STATEMENTS:
        raise ValueError(f"an action has between 1 and {MAX_STATEMENTS} SQL statements")
    return tuple(_statement(one, allowed) for one in texts)


def _statement(sql: str, allowed: Sequence[str]) -> Statement:
    if not sql.strip() or len(sql) > MAX_SQL or "\0" in sql:
        raise ValueError(f"the SQL statement must have between 1 and {MAX_SQL} characters")
    if cast := _CAST.search(sql):  # SQLAlchemy would take it for text, not for a parameter
        raise ValueError(f"{cast[0]}… is ambiguous: write CAST(:{cast[1]} AS …)")
    statement = text(sql)
    bound = tuple((name, ALIASES.get(name, name)) for name in statement.compile().params)
    for name, field_name in bound:
        if field_name not in allowed:
            raise ValueError(_unknown(name, field_name, allowed))
    typed = (bindparam(name, type_=_TYPES[FIELDS[field_name].kind]) for name, field_name in bound)
    return Statement(statement.bindparams(*typed), bound)


def _unknown(parameter: str, field_name: str, allowed: Sequence[str]) -> str:
    if field_name in FIELDS:
        return f":{parameter} is a field, but none of the events of this action carries it"
    return (
        f":{parameter} is not a field of these events{nearest(parameter, (*allowed, *ALIASES))}"
        r" (write \: for a colon that begins no parameter)"
    )
