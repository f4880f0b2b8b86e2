"""Freeze rules: what they match is held instead of claimed, until the rule ends or is taken back.

    kind     pattern                          what happens
    -------  -------------------------------  ----------------------------------------------------------
    domain   a recipient domain pattern       recipients are held, new ones too
    sender   an address, a domain, `<>`       the same, by envelope sender
    host     a host name pattern or address   the host is not contacted (see `deliver.frozen`); mail to it
             or network                       goes to other hosts or waits by the retry rules

A rule has a reason, and should have an end: a forgotten one heals itself. Synchronous, within the caller's
transaction.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    TextClause,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    text,
    update,
)

from deliver.errors import UsageError
from deliver.message import Mailbox
from deliver.pattern import canonical, matches
from deliver.queue.hold import Append, Key, clause, hold, set_aside
from deliver.queue.rule import Kind as Kind, Rule as Rule
from deliver.queue.schema import freeze as table, is_queued, message, recipient
from deliver.queue.selection import NULL_SENDER, name_matches, sent_by
from deliver.queue.statement import Statement
from deliver.queue.unreadable import where_readable

CHUNK: Final = 500  # recipients in one statement
MAX_RULES: Final = 1000
MAX_REASON: Final = 500  # characters
_RULES: Final = Statement(select(table).order_by(table.c.id))
_DUE_OF_DOMAIN: Final = Statement(
    select(recipient.c.message_id, recipient.c.ordinal)
    .where(
        is_queued(),
        recipient.c.domain == bindparam("domain"),
        recipient.c.next_attempt <= bindparam("now"),
    )
    .limit(bindparam("most", type_=Integer))
)

log = logging.getLogger("outrider.queue")


def checked_pattern(kind: Kind, pattern: str) -> str:
    """The pattern in its one form. Raises UsageError."""
    if kind is Kind.SENDER and pattern in NULL_SENDER:
        return "<>"
    if kind is Kind.HOST:
        try:
            return str(ipaddress.ip_network(pattern, strict=False))
        except ValueError:
            return canonical(pattern)
    local, at, name = pattern.rpartition("@")
    if kind is Kind.SENDER and at and local:
        return f"{local}@{canonical(name)}"
    return canonical(name if kind is Kind.SENDER else pattern)


def add(
    conn: Connection,
    kind: Kind,
    pattern: str,
    *,
    reason: str,
    until: float | None,
    now: float,
    number: int | None = None,
) -> Rule:
    """Make a rule, in force at once. Raises UsageError for a bad pattern, or when there are too many.

    `number`: its id, the same in every shard (see `next_number`); None: the next one here.
    """
    if conn.execute(select(func.count()).select_from(table)).scalar_one() >= MAX_RULES:
        raise UsageError("adding a freeze rule", f"there are {MAX_RULES} of them", "thaw some")
    wanted = checked_pattern(kind, pattern)
    values: dict[str, Any] = {} if number is None else {"id": number}
    values |= {
        "kind": kind.value,
        "pattern": wanted,
        "reason": reason[:MAX_REASON],
        "created_at": now,
        "until": until,
    }
    key = conn.execute(insert(table).values(values)).inserted_primary_key
    assert key is not None
    return Rule(int(key[0]), kind, wanted, reason[:MAX_REASON], now, until)


def next_number(conn: Connection) -> int:
    """The id of the next rule here; none is given twice. SQLite only."""
    query = text("SELECT seq FROM sqlite_sequence WHERE name = 'freeze'")
    return int(conn.execute(query).scalar_one_or_none() or 0) + 1


def learn(conn: Connection, known: Iterable[Rule]) -> int:
    """Take over another shard's rules that are newer than all that were ever known here; returns how many.

    A shard that is new must not deliver what is frozen in the others.
    """
    first = next_number(conn)
    newer = [rule for rule in known if rule.id >= first]
    for rule in newer:
        conn.execute(insert(table).values({**asdict(rule), "kind": rule.kind.value}))
    return len(newer)


def rules(conn: Connection) -> tuple[Rule, ...]:
    """All of them, the oldest first."""
    return tuple(Rule.of(row) for row in _RULES.all(conn))


def active(conn: Connection, now: float) -> tuple[Rule, ...]:
    """Those that are in force."""
    return tuple(rule for rule in rules(conn) if rule.until is None or rule.until > now)


def end(conn: Connection, rule_ids: list[int], now: float) -> None:
    """Let rules be over; what they hold is released by `deliver.queue.changes`."""
    conn.execute(update(table).where(table.c.id.in_(rule_ids)).values(until=now))


def drop(conn: Connection, rule_ids: list[int]) -> None:
    """Forget rules."""
    conn.execute(delete(table).where(table.c.id.in_(rule_ids)))


def frozen(conn: Connection, rule: Rule, *, limit: int = CHUNK) -> list[Key]:
    """Queued recipients that the rule holds."""
    query = select(recipient.c.message_id, recipient.c.ordinal).where(is_queued(), _matches(rule))
    return [Key(row[0], row[1]) for row in conn.execute(query.limit(limit))]


def rule_of_domain(among: Iterable[Rule], domain: str) -> Rule | None:
    """The first of the rules that holds mail to the domain."""
    return next((rule for rule in among if rule.kind is Kind.DOMAIN and matches(rule.pattern, domain)), None)


def rule_of_sender(among: Iterable[Rule], sender: Mailbox | None) -> Rule | None:
    """The first of the rules that holds mail from the sender, None is `<>`."""
    return next((rule for rule in among if rule.kind is Kind.SENDER and _is_from(rule.pattern, sender)), None)


def due_of(conn: Connection, domain: str, now: float, limit: int = CHUNK) -> list[Key]:
    """Queued recipients of the domain that are due."""
    return [Key(*row) for row in _DUE_OF_DOMAIN.all(conn, domain=domain, now=now, most=limit)]


def hold_by(
    conn: Connection, rule: Rule, keys: list[Key], now: float, append: Append, *, wait: bool = True
) -> int:
    """Hold these recipients in the name of the rule; returns how many.

    A message whose rows cannot be read is held with that reason, and not released with the others.
    """

    def set_these_aside(these: Sequence[Key], why: str) -> int:
        log.error("%s: held: %s", these[0].message_id, why)
        which = recipient.c.ordinal.in_([key.ordinal for key in these])
        return set_aside(conn, these[0].message_id, which, why, now, append)

    def hold_these(these: Sequence[Key]) -> int:
        return hold(
            conn,
            these,
            reason=rule.reason,
            until=rule.until,
            now=now,
            append=append,
            freeze_id=rule.id,
            wait=wait,
        )

    return sum(where_readable(conn, keys, hold_these, set_these_aside))


def _matches(rule: Rule) -> ColumnElement[bool] | TextClause:
    if rule.kind is Kind.DOMAIN:
        return clause(name_matches("recipient.domain", rule.pattern, "domain"))
    return exists().where(message.c.id == recipient.c.message_id, clause(sent_by(rule.pattern)))


def _is_from(pattern: str, sender: Mailbox | None) -> bool:
    """As `deliver.queue.selection.sent_by`, of one sender."""
    if pattern in NULL_SENDER or sender is None:
        return pattern in NULL_SENDER and sender is None
    local_part, at, name = pattern.rpartition("@")
    return matches(name, sender.domain) and (not (at and local_part) or local_part == sender.local_part)
