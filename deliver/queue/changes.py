"""What an administrator does to queued recipients: retry, hold, release, remove, bounce.

The relay owns the shard, but any process may change its database in short transactions: each function here is
for one such transaction over a bounded number of recipients. It ends by counting the change, so that the
relay looks (see `deliver.queue.upkeep`). A recipient with an attempt under way (LEASED) is never touched:
nobody can say any more what the server will have got. Synchronous; times are seconds since the epoch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from deliver.errors import Blame
from deliver.outcome import Deferred, Failed
from deliver.queue import codec, freeze, hold
from deliver.queue.due import note_due, note_due_again
from deliver.queue.hold import Append, Key
from deliver.queue.owed import Owed, owed
from deliver.queue.schema import State, counter, freeze as freeze_table, recipient
from deliver.queue.store import complete_all, note_owed
from deliver.queue.unreadable import where_readable
from deliver.smtp.reply import EnhancedCode
from events.catalogue import Event

log = logging.getLogger("outrider.queue")

CHANGES: Final = "changes"
RETRIES: Final = "retries"  # those of them that ask for an attempt now
GIVEN_UP: Final = EnhancedCode(5, 0, 0)
_ENDED: Final = "a date that was given has come"
_HELD: Final = hold.is_in(State.HELD)


@dataclass(frozen=True, slots=True)
class Changed:
    """What was done: recipients changed, and those left alone because an attempt is under way, because they
    are held (retry), or because a freeze rule holds them (release). `removable`: spool files to remove after
    COMMIT.
    """

    changed: int = 0
    busy: int = 0
    held: int = 0
    frozen: int = 0
    removable: tuple[str, ...] = ()

    def __add__(self, other: Changed) -> Changed:
        return Changed(
            self.changed + other.changed,
            self.busy + other.busy,
            self.held + other.held,
            self.frozen + other.frozen,
            self.removable + other.removable,
        )


Change = Callable[[Connection, Sequence[Key]], Changed]


def retry(conn: Connection, keys: Sequence[Key], now: float) -> Changed:
    """Make them due now."""
    rows = hold.with_messages(conn, keys, State.QUEUED)
    _make_due(conn, rows, now)
    note_change(conn, RETRIES)
    return _done(conn, keys, len(rows), held=_count(conn, keys, State.HELD))


def hold_back(
    conn: Connection, keys: Sequence[Key], now: float, *, reason: str, until: float | None, append: Append
) -> Changed:
    """Hold them, until `until` if it is given."""
    held = hold.hold(conn, keys, reason=reason, until=until, now=now, append=append)
    return _done(conn, keys, held)


def release(
    conn: Connection, keys: Sequence[Key], now: float, *, append: Append, why: str = "released"
) -> Changed:
    """Make held ones due now; those that a freeze rule holds stay, and messages that cannot be read."""

    def release_these(these: Sequence[Key]) -> tuple[int, int]:
        rows = hold.with_messages(conn, these, State.HELD)
        ours = [row for row in rows if row.freeze_id is None]
        _release(conn, ours, now, why, append)
        return len(ours), len(rows) - len(ours)

    done = where_readable(conn, keys, release_these, lambda *_: (0, 0))
    return _done(conn, keys, sum(released for released, _ in done), frozen=sum(frozen for _, frozen in done))


def remove(conn: Connection, keys: Sequence[Key], now: float, *, reason: str, append: Append) -> Changed:
    """End them without telling the sender (msg:fail:internal is told)."""
    rows = hold.with_messages(conn, keys, State.QUEUED, State.HELD)
    outcome = Failed(reason, Blame.POLICY, enhanced=GIVEN_UP)
    _fail(conn, [(row, outcome, None) for row in rows], now, append)
    return _ended(conn, keys, rows, now, append)


def bounce(conn: Connection, keys: Sequence[Key], now: float, *, reason: str, append: Append) -> Changed:
    """End them and tell the sender, as far as NOTIFY allows; the relay writes the report."""
    rows = hold.with_messages(conn, keys, State.QUEUED, State.HELD)
    given_up = [(row, _given_up(row, reason)) for row in rows]
    told = [
        (row, outcome, owed(outcome, codec.known_of(row), codec.sender_of(row))) for row, outcome in given_up
    ]
    _fail(conn, told, now, append)
    for message_id in sorted({row.message_id for row in rows}):
        note_owed(conn, message_id, now)
    return _ended(conn, keys, rows, now, append)


def freeze_now(conn: Connection, rule: freeze.Rule, now: float, append: Append) -> int:
    """Hold a portion of what a new rule matches; returns how many, 0 when nothing is left."""
    keys = [] if rule.kind is freeze.Kind.HOST else freeze.frozen(conn, rule)
    held = freeze.hold_by(conn, rule, keys, now, append)
    note_change(conn)
    return held


def thaw(conn: Connection, rule_ids: list[int], now: float, append: Append) -> int:
    """Take rules back and release a portion of what they hold; returns how many recipients, 0 at the end.

    The rules hold nothing more at once. The relay releases what is left by whoever does not call again.
    """
    freeze.end(conn, rule_ids, now)
    released = _release_some(conn, _frozen_by(conn, rule_ids, freeze.CHUNK), now, "thawed", append)
    _drop_unused(conn, rule_ids)
    note_change(conn)
    return released


def next_release(conn: Connection) -> float | None:
    """When the next hold or freeze rule ends by its date; None when none does."""
    ends = select(recipient.c.held_until).where(_HELD, recipient.c.held_until.is_not(None))
    times = (
        conn.execute(ends.order_by(recipient.c.held_until).limit(1)).scalar_one_or_none(),
        conn.execute(select(func.min(freeze_table.c.until))).scalar_one_or_none(),
    )
    return min((float(time) for time in times if time is not None), default=None)


def release_due(conn: Connection, now: float, *, append: Append) -> int:
    """End a portion of the holds whose date has come, and freeze rules that hold nothing more after theirs.

    Returns how many recipients were released, 0 at the end.
    """
    over = select(freeze_table.c.id).where(freeze_table.c.until <= now)
    rule_ids = list(conn.execute(over).scalars())
    due = select(recipient.c.message_id, recipient.c.ordinal).where(_HELD, recipient.c.held_until <= now)
    keys = [Key(*row) for row in conn.execute(due.limit(freeze.CHUNK))]
    keys += _frozen_by(conn, rule_ids, freeze.CHUNK - len(keys))
    released = _release_some(conn, list(dict.fromkeys(keys)), now, _ENDED, append)
    _drop_unused(conn, rule_ids)
    return released


def count(conn: Connection) -> tuple[int, int]:
    """How many changes tools have made so far, and how many of them ask for an attempt now."""
    values = {row.name: int(row.value) for row in conn.execute(select(counter))}
    return values.get(CHANGES, 0), values.get(RETRIES, 0)


def note_change(conn: Connection, name: str = CHANGES) -> None:
    """Count a change, so that the relay looks."""
    raised = update(counter).where(counter.c.name == name).values(value=counter.c.value + 1)
    if conn.execute(raised).rowcount == 0:
        conn.execute(insert(counter).values(name=name, value=1))


def _frozen_by(conn: Connection, rule_ids: Sequence[int], most: int) -> list[Key]:
    if not rule_ids or most <= 0:
        return []
    query = select(recipient.c.message_id, recipient.c.ordinal).where(
        _HELD, recipient.c.freeze_id.in_(rule_ids)
    )
    return [Key(*row) for row in conn.execute(query.limit(most))]


def _drop_unused(conn: Connection, rule_ids: Sequence[int]) -> None:
    """Forget rules that are over and hold nobody more."""
    freeze.drop(conn, [each for each in rule_ids if not _frozen_by(conn, [each], 1)])


def _release_some(conn: Connection, keys: list[Key], now: float, why: str, append: Append) -> int:
    """Returns how many: the others, which cannot be read, are held for that from now on."""

    def release_these(these: Sequence[Key]) -> int:
        rows = hold.with_messages(conn, these, State.HELD)
        _release(conn, rows, now, why, append)
        return len(rows)

    def keep_these(these: Sequence[Key], unreadable: str) -> int:
        log.error("%s: stays held: %s", these[0].message_id, unreadable)
        which = recipient.c.ordinal.in_([key.ordinal for key in these])
        hold.set_aside(conn, these[0].message_id, which, unreadable, now, append, state=State.HELD)
        return 0

    return sum(where_readable(conn, keys, release_these, keep_these))


def _release(conn: Connection, rows: list[Row[Any]], now: float, why: str, append: Append) -> None:
    told = hold.events("msg:release", rows, why, now)
    for start in range(0, len(rows), freeze.CHUNK):
        part = rows[start : start + freeze.CHUNK]
        conn.execute(
            update(recipient)
            .where(hold.is_one_of([Key(row.message_id, row.ordinal) for row in part]))
            .values(state=State.QUEUED.value, held_reason=None, held_until=None, freeze_id=None)
        )
    _make_due(conn, rows, now)
    for message_id, event in told:
        append(conn, message_id, [event])


def _make_due(conn: Connection, rows: list[Row[Any]], now: float) -> None:
    """Raises TypeError for a domain that is not text: no destination may be noted under it."""
    domains = {row.domain for row in rows}
    if not all(isinstance(domain, str) for domain in domains):
        raise TypeError("a domain that is not text")
    for start in range(0, len(rows), freeze.CHUNK):
        part = rows[start : start + freeze.CHUNK]
        conn.execute(
            update(recipient)
            .where(hold.is_one_of([Key(row.message_id, row.ordinal) for row in part]))
            .values(next_attempt=now)
        )
    for domain in sorted(domains):
        note_due(conn, domain, now)


def _fail(
    conn: Connection, told: list[tuple[Row[Any], Failed, Owed | None]], now: float, append: Append
) -> None:
    """Record the failures, and append msg:fail:internal for each."""
    if not told:
        return
    failed = update(recipient).where(
        recipient.c.message_id == bindparam("of_message"), recipient.c.ordinal == bindparam("of_ordinal")
    )
    conn.execute(
        failed.values(
            state=State.FAILED.value,
            finished_at=now,
            last_outcome=bindparam("outcome"),
            owed=bindparam("tell"),
            held_reason=None,
            held_until=None,
            freeze_id=None,
        ),
        [
            {
                "of_message": row.message_id,
                "of_ordinal": row.ordinal,
                "outcome": codec.outcome_json(outcome),
                "tell": tell.value if tell else None,
            }
            for row, outcome, tell in told
        ],
    )
    events: dict[str, list[Event]] = {}
    for row, outcome, _ in told:
        events.setdefault(row.message_id, []).append(_failure(row, outcome, now))
    for message_id, of_message in events.items():
        append(conn, message_id, of_message)


def _failure(row: Row[Any], outcome: Failed, now: float) -> Event:
    sender = codec.sender_of(row)
    fields: dict[str, str | int | float | None] = {
        "message_id": row.message_id,
        "sender_address": str(sender) if sender else "",
        "attempt": row.attempts,
        "local_part": row.local_part,
        "domain": row.domain,
        "blame": outcome.blame.value,
        "enhanced_code": str(outcome.enhanced),
        "event_data": outcome.why,
    }
    return Event("msg:fail:internal", now, fields)


def _given_up(row: Row[Any], reason: str) -> Failed:
    """The failure, with what the last attempt was told."""
    try:
        last = codec.outcome_of(json.loads(row.last_outcome)) if row.last_outcome else None
    except ValueError:
        last = None
    if not isinstance(last, Deferred):
        return Failed(reason, Blame.POLICY, enhanced=GIVEN_UP)
    why = f"{reason}; the last reason was: {last.why}"
    return Failed(why, Blame.POLICY, last.phase, last.reply, GIVEN_UP, last.contact)


def _ended(
    conn: Connection, keys: Sequence[Key], rows: list[Row[Any]], now: float, append: Append
) -> Changed:
    for domain in sorted({row.domain for row in rows}):
        note_due_again(conn, domain)
    over = complete_all(conn, list(dict.fromkeys(row.message_id for row in rows)), now, append)
    removable = tuple(name for names in over.values() for name in names)
    return _done(conn, keys, len(rows)) + Changed(removable=removable)


def _done(conn: Connection, keys: Sequence[Key], changed: int, *, held: int = 0, frozen: int = 0) -> Changed:
    if changed:
        note_change(conn)
    return Changed(changed, busy=_count(conn, keys, State.LEASED), held=held, frozen=frozen)


def _count(conn: Connection, keys: Sequence[Key], state: State) -> int:
    if not keys:
        return 0
    query = select(func.count()).where(hold.is_one_of(keys), hold.is_in(state))
    return int(conn.execute(query).scalar_one())
