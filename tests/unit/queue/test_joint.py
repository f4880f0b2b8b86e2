"""Accepting and settling many at once leaves what one by one leaves, and is undone together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy
from hypothesis import given, settings, strategies as st
from msgspec import structs

from deliver.dsn import Notify
from deliver.message import Mailbox, Recipient
from deliver.outcome import Deferred, Outcome
from deliver.queue import schema, store
from deliver.queue.content import InlineContent, SpoolContent
from deliver.queue.joint import Accept, Settle
from deliver.queue.schedule import Settlement
from deliver.sqlrun import Database, Write
from events import outbox
from events.catalogue import Event
from tests.unit.queue.values import CONTENT, DEFERRED, DELIVERED, FAILED, NOW, Recorder, claim, envelope

TABLES = (schema.message, schema.recipient, schema.destination, schema.attempt)
ADDRESSES = ("a@one.example", "b@one.example", "c@two.example")


def queue() -> Database:
    database = Database(None)
    database.run_write(schema.migrate)
    return database


def accept(
    name: str, *recipients: str, append: outbox.Append = outbox.append, spooled: bool = False
) -> Accept:
    content = SpoolContent(Path("spool"), f"{name}.eml", len(CONTENT)) if spooled else InlineContent(CONTENT)
    return Accept(envelope(name, *recipients), content, (Event("msg:accept", NOW),), NOW, append)


def settle(claimed, *outcomes: Outcome | None, append: outbox.Append = outbox.append) -> Settle:
    """With the outcomes by ordinal; None: the attempt says nothing about the recipient."""
    settlements = tuple(
        Settlement(to, outcome, NOW + 60 if isinstance(outcome, Deferred) else None)
        for to in claimed.recipients
        if (outcome := outcomes[to.ordinal]) is not None
    )
    events = (Event("msg:delivery", NOW, {"domain": claimed.domain}),)
    return Settle(claimed, settlements, events, NOW + 1, "[]", 60.0, append)


def together(database: Database, *works):
    writes = [Write(work, True) for work in works]
    database.run_batch(writes)
    return [write.result() for write in writes]


def alone(database: Database, *works):
    return [database.run_write(partial(type(work).__call__, work)) for work in works]


def claims(database: Database):
    found = []
    while more := database.run_write(partial(claim, per_domain=100)):
        found += more
    return found


def contents(database: Database):
    """Everything but the ids of events, their numbers and their order between messages."""

    def read(conn):
        rows = {each.name: sorted(map(repr, conn.execute(sqlalchemy.select(each)))) for each in TABLES}
        told = {}
        for row in outbox.pending(conn, outbox.DEFAULT_ACTION, 1000, now=NOW):
            told.setdefault(row.message_id, []).append(row.event.encode())
        return rows, {name: sorted(events) for name, events in told.items()}

    return database.run_read(read)


@dataclass(frozen=True)
class Mail:
    """A message, what becomes of its recipients, and which of them an earlier attempt had delivered to."""

    notify: tuple[frozenset[Notify] | None, ...]
    outcomes: tuple[Outcome | None, ...]
    earlier: int | None
    spooled: bool
    bounce: bool


def of_recipients(number: int) -> st.SearchStrategy[Mail]:
    return st.builds(
        Mail,
        notify=st.tuples(*[st.sampled_from([None, None, frozenset({Notify.SUCCESS})])] * number),
        outcomes=st.tuples(
            *[
                st.sampled_from(
                    [
                        DELIVERED,
                        DELIVERED,
                        structs.replace(DELIVERED, dsn_passed=True),
                        DEFERRED,
                        FAILED,
                        None,
                    ]
                )
            ]
            * number
        ),
        earlier=st.sampled_from([None] * 5 + [0]),
        spooled=st.booleans(),
        bounce=st.booleans(),
    )


@settings(deadline=None)
@given(st.lists(st.integers(1, 3).flatmap(of_recipients), min_size=1, max_size=5))
def test_together_they_leave_what_one_by_one_they_leave(mails):
    results = []
    for carry_out in (alone, together):
        database = queue()
        accepts = []
        for number, mail in enumerate(mails):
            made = accept(f"m{number}", *ADDRESSES[: len(mail.notify)], spooled=mail.spooled)
            recipients = tuple(
                Recipient(to.ordinal, to.mailbox, notify)
                for to, notify in zip(made.envelope.recipients, mail.notify, strict=True)
            )
            sender = None if mail.bounce else Mailbox("a", "sender.example")
            accepts.append(
                structs.replace(
                    made, envelope=structs.replace(made.envelope, recipients=recipients, sender=sender)
                )
            )
        carry_out(database, *accepts)
        taken = claims(database)
        by_name = {f"m{number}": mail for number, mail in enumerate(mails)}
        for each in taken:
            if by_name[each.envelope.id].earlier in {to.ordinal for to in each.recipients}:
                first = replace(each, recipients=each.recipients[:1])
                alone(database, settle(first, DELIVERED, DELIVERED, DELIVERED))
        settled = carry_out(database, *(settle(each, *by_name[each.envelope.id].outcomes) for each in taken))
        ended = sorted(
            (each.envelope.id, done.removable)
            for each, done in zip(taken, settled, strict=True)
            if done.completed
        )
        results.append((ended, [done.stale for done in settled], contents(database)))
        database.close()
    assert results[0] == results[1]


def test_each_statement_and_the_outbox_are_used_once_for_all():
    database, calls = queue(), []

    def each(conn, told):
        calls.append([(name, [event.name for event in events]) for name, events in told])

    append = outbox.Appending(each)
    together(database, *(accept(f"m{number}", "b@one.example", append=append) for number in range(4)))
    assert calls == [[(f"m{number}", ["msg:accept"]) for number in range(4)]]
    calls.clear()
    taken = claims(database)
    statements: list[str] = []
    assert database._writing is not None
    driver = database._writing.connection.driver_connection
    driver.set_trace_callback(statements.append)
    settled = together(database, *(settle(each, DELIVERED, append=append) for each in taken))
    assert all(each.completed for each in settled)
    assert calls == [[(each.envelope.id, ["msg:delivery", "msg:complete"]) for each in taken]]
    assert sorted({text.split()[0] for text in statements}) == ["BEGIN", "COMMIT", "UPDATE"]
    database.close()


def test_a_delivery_that_is_on_record_already_leaves_the_others_as_they_are():
    database, told = queue(), Recorder()
    together(database, accept("m1", "b@one.example"), accept("m2", "b@two.example"))
    first, second = claims(database)
    alone(database, settle(first, DELIVERED))
    again, settled = together(database, *(settle(each, DELIVERED, append=told) for each in (first, second)))
    assert again.stale == first.recipients
    assert (settled.completed, settled.stale) == (True, ())
    database.close()


def test_the_sender_hears_of_a_failure_when_the_last_recipient_is_delivered():
    database = queue()
    together(database, accept("m1", "a@one.example", "b@two.example"))
    one, two = sorted(claims(database), key=lambda each: each.domain)
    together(database, settle(one, FAILED, DELIVERED))
    (settled,) = together(database, settle(two, FAILED, DELIVERED))
    assert not settled.completed
    due = database.run_read(
        lambda conn: conn.execute(sqlalchemy.select(schema.message.c.report_due)).scalar_one()
    )
    assert due == NOW + 1, "nothing more will come"
    database.close()


def test_one_that_cannot_be_accepted_does_not_keep_the_others_out():
    database = queue()
    together(database, accept("m1"))
    writes = [Write(accept(name), True) for name in ("m1", "m2")]
    database.run_batch(writes)
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        writes[0].result()
    writes[1].result()
    empty = accept("m3")
    with pytest.raises(ValueError, match="m3 has no recipients"):
        together(database, structs.replace(empty, envelope=structs.replace(empty.envelope, recipients=())))
    assert [each.envelope.id for each in claims(database)] == ["m1", "m2"]
    database.close()


def test_a_claim_finds_what_is_accepted_in_its_batch():
    database = queue()
    taken, _ = together(database, claim, accept("m1"))
    assert [each.envelope.id for each in taken] == ["m1"]
    database.close()


def test_content_that_has_to_be_looked_for_is_accepted_alone():
    database = queue()
    with pytest.raises(Exception, match="content"):
        together(database, structs.replace(accept("m1"), content=store.ChunkedContent(None, "m1", 10)))
    assert claims(database) == []
    database.close()
