"""What senders are told: one report per message, when it is due, and to whom."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes, policy
from random import Random

import pytest
import trio
from msgspec import structs
from sqlalchemy import select

from deliver.dsn import Notify, Ret, parse_notify
from deliver.message import MessageId
from deliver.net.clock import WallClock
from deliver.outcome import Delivered, Failed
from deliver.queue import changes, freeze, reports, schema, store
from deliver.queue.content import InlineContent, SpoolContent
from deliver.queue.journal import Journal
from deliver.queue.notice import Notifier, Terms
from deliver.queue.owed import Owed, owed
from deliver.queue.schedule import Plan, Settlement, settle_as, warnings_due
from deliver.queue.schema import message, report
from deliver.queue.shard import Shard
from deliver.queue.terms import plan_of
from deliver.queue.upkeep import Upkeep
from deliver.settings import Duration, Queue
from deliver.sqlrun import InlineRunner
from tests.unit.queue.values import (
    CONTENT,
    DEFERRED,
    DELIVERED,
    FAILED,
    NOW,
    Recorder,
    accept,
    claim,
    envelope,
    states,
)


def asked(words: str | None):
    """A recipient with that NOTIFY."""
    return structs.replace(envelope("m").recipients[0], notify=None if words is None else parse_notify(words))


@pytest.mark.parametrize(
    ("outcome", "notify", "expected"),
    [
        (FAILED, None, Owed.FAILED),
        (FAILED, "FAILURE", Owed.FAILED),
        (FAILED, "SUCCESS,DELAY", None),
        (FAILED, "NEVER", None),
        (DEFERRED, None, Owed.DELAYED),
        (DEFERRED, "DELAY", Owed.DELAYED),
        (DEFERRED, "FAILURE", None),
        (DEFERRED, "NEVER", None),
        (DELIVERED, None, None),
        (DELIVERED, "SUCCESS", Owed.RELAYED),
        (DELIVERED, "NEVER", None),
        (structs.replace(DELIVERED, dsn_passed=True), "SUCCESS", None),
    ],
)
def test_what_is_owed(outcome, notify, expected):
    sender = envelope("m").sender
    assert owed(outcome, asked(notify), sender) is expected
    assert owed(outcome, asked(notify), None) is None


def test_warnings_are_counted_by_age():
    plan = Plan((60.0,), 500.0, (100.0, 200.0))
    assert [warnings_due(plan, age) for age in (0, 99, 100, 199, 200, 400)] == [0, 0, 1, 1, 2, 2]
    (to,) = envelope("m").recipients
    settled = settle_as(to, DEFERRED, plan, number=1, received_at=NOW - 150, now=NOW, rng=Random(1))
    assert settled.warnings == 1


def test_the_settings_say_when_a_delay_is_told():
    plan = plan_of(Queue(delay_warning=(Duration(3600), Duration(86_400))))
    assert [warnings_due(plan, age) for age in (3599, 3600, 86_400)] == [0, 1, 2]
    assert plan_of(Queue()).warnings == (86_400.0,)


class Desk:
    """The upkeep over a shard in memory, and what it wrote."""

    def __init__(self, directory, **terms: object) -> None:
        self.sql = InlineRunner(None, schema.migrate)
        self.journal = Journal(directory / "shard-0.journal")
        self.spool = directory / "spool-0"
        self.recorder = Recorder()
        self.clock = WallClock(NOW)
        self.serial = 0
        self.woken = 0
        self.asked = 0
        self.rules: tuple[freeze.Rule, ...] = ()
        self.upkeep = Upkeep(
            Shard(self.sql, self.journal, self.spool),
            notifier=Notifier(
                "relay.example.net",
                self.new_id,
                Random(2),
                Terms(expire=432_000.0, **terms),  # type: ignore[arg-type]
            ),
            clock=self.clock,
            changed=self.changed,
            retry=self.retry,
            frozen=self.frozen,
            append=self.recorder,
        )

    def new_id(self) -> MessageId:
        self.serial += 1
        return MessageId(f"bounce{self.serial}")

    def retry(self) -> None:
        self.asked += 1

    def changed(self) -> None:
        self.woken += 1

    def frozen(self, rules: tuple[freeze.Rule, ...]) -> None:
        self.rules = rules

    async def do(self, work):
        return await self.sql.write(work)

    async def settle(self, outcome=DELIVERED, gather=60.0, warnings=0, **by_local_part):
        """Claim everything that is due, and settle it so; recipients named by local part otherwise."""
        now = self.clock.now()

        def work(conn):
            for claimed in claim(conn, now=now, limit=50):
                found = {to: by_local_part.get(to.mailbox.local_part, outcome) for to in claimed.recipients}
                settlements = tuple(
                    Settlement(to, each, now + 60 if each == DEFERRED else None, warnings)
                    for to, each in found.items()
                )
                store.settle(
                    conn, claimed, settlements, events=(), now=now, gather=gather, append=self.recorder
                )

        await self.do(work)

    async def notices(self) -> list[tuple[str, str | None]]:
        """(to, text) of every report ever queued; no text of those that were delivered."""

        def work(conn):
            query = (
                select(schema.recipient, message.c.content).join(message).where(message.c.id.like("bounce%"))
            )
            return [
                (f"{row.local_part}@{row.domain}", row.content and row.content.decode())
                for row in conn.execute(query)
            ]

        return await self.sql.read(work)


@pytest.fixture
async def desk(tmp_path):
    made = Desk(tmp_path)
    yield made
    made.journal.close()


async def test_a_failure_is_told_and_the_message_is_complete(autojump_clock, desk):
    await desk.do(lambda conn: accept(conn, "m1", "b@example.org", "c@example.org"))
    await desk.settle(FAILED, c=DELIVERED)
    await desk.upkeep.step()
    ((to, text),) = await desk.notices()
    assert to == "a@sender.example"
    assert "Final-Recipient: rfc822; b@example.org" in text
    assert "Remote-MTA: dns; mx.example.org" in text
    assert "Diagnostic-Code: smtp; 550 5.1.1 No such user" in text
    assert "c@example.org" not in text
    assert "In-Reply-To: <1@sender.example>" in text
    assert desk.recorder.names() == ["msg:bounce", "msg:complete"]
    event = desk.recorder.events[0][1]
    assert event.problems() == ()
    assert (event.fields["reason"], event.fields["bounce_id"]) == ("failed", "bounce1")
    assert event.fields["event_data"] == "b@example.org"
    assert desk.woken
    assert await desk.sql.read(lambda conn: store.content_of(conn, MessageId("m1"))) is None
    (back,) = await desk.do(lambda conn: claim(conn, now=NOW + 10))
    assert back.envelope.sender is None


async def test_failures_of_one_message_are_gathered_into_one_report(autojump_clock, desk):
    names = ("b@one.example", "c@two.example", "d@three.example")
    await desk.do(lambda conn: accept(conn, "m1", *names))
    await desk.settle(FAILED, d=DEFERRED)
    await desk.upkeep.step()
    assert await desk.notices() == []  # one recipient is still open: more may come
    await trio.sleep(61)
    await desk.upkeep.step()
    ((_, text),) = await desk.notices()
    assert text.count("Action: failed") == 2
    assert "d@three.example" not in text
    await desk.settle(FAILED, a=DELIVERED)  # the third, and the report itself
    await desk.upkeep.step()
    texts = [text for _, text in await desk.notices() if text is not None]
    assert [text.count("Action: failed") for text in texts] == [1]
    assert "d@three.example" in texts[0]


async def test_a_report_survives_a_crash_between_failure_and_report(autojump_clock, desk):
    await desk.do(lambda conn: accept(conn, "m1"))
    await desk.settle(FAILED)
    another = Upkeep(
        Shard(desk.sql, desk.journal, desk.spool),
        notifier=Notifier("relay.example.net", desk.new_id, Random(3)),
        clock=desk.clock,
        append=desk.recorder,
    )
    await another.step()
    await desk.upkeep.step()
    assert len(await desk.notices()) == 1


async def test_the_null_sender_and_notify_never_are_told_nothing(autojump_clock, desk):
    quiet = envelope("m2")
    quiet = structs.replace(
        quiet, recipients=(structs.replace(quiet.recipients[0], notify=frozenset({Notify.NEVER})),)
    )
    await desk.do(lambda conn: accept(conn, "m1", sender=None))
    await desk.do(lambda conn: store.accept(conn, quiet, InlineContent(CONTENT), (), NOW, desk.recorder))
    await desk.settle(FAILED)
    await desk.upkeep.step()
    assert await desk.notices() == []
    assert desk.recorder.names() == ["msg:complete", "msg:complete"]


async def test_success_is_reported_where_the_next_server_cannot(autojump_clock, desk):
    wanting = envelope("m1")
    success = frozenset({Notify.SUCCESS})
    wanting = structs.replace(
        wanting, recipients=(structs.replace(wanting.recipients[0], notify=success),), envid="X 1"
    )
    await desk.do(lambda conn: store.accept(conn, wanting, InlineContent(CONTENT), (), NOW, desk.recorder))
    await desk.settle(DELIVERED)
    await desk.upkeep.step()
    ((_, text),) = await desk.notices()
    assert "Action: relayed" in text
    assert "Original-Envelope-Id: X 1" in text
    assert "Status: 2.0.0" in text


async def test_a_delay_is_told_once_per_warning_and_the_message_stays(autojump_clock, desk):
    await desk.do(lambda conn: accept(conn, "m1"))
    await desk.settle(DEFERRED, gather=0.0, warnings=1)
    await desk.upkeep.step()
    ((_, text),) = await desk.notices()
    assert "Action: delayed" in text
    assert "Will-Retry-Until: Sun, 19 Nov 2023 22:13:20 +0000" in text
    assert "Hello" not in text
    await trio.sleep(100)
    await desk.settle(DEFERRED, gather=0.0, warnings=1, a=DELIVERED)
    await desk.upkeep.step()
    assert len([text for _, text in await desk.notices() if text is not None]) == 0
    assert "queued" in (await desk.sql.read(states))["b@example.org"]
    await trio.sleep(100)
    await desk.settle(DEFERRED, gather=0.0, warnings=2)
    await desk.upkeep.step()
    assert len([text for _, text in await desk.notices() if text is not None]) == 1


async def test_lists_are_not_warned_but_bounces_reach_them(autojump_clock, desk):
    made = envelope("m1")
    content = InlineContent(b"List-Id: <a.example>\r\n\r\n")
    await desk.do(lambda conn: store.accept(conn, made, content, (), NOW, desk.recorder))
    await desk.settle(DEFERRED, gather=0.0, warnings=1)
    await desk.upkeep.step()
    assert await desk.notices() == []
    await trio.sleep(100)
    await desk.settle(FAILED)
    await desk.upkeep.step()
    assert len(await desk.notices()) == 1


async def test_a_delay_that_is_over_is_not_told(autojump_clock, desk):
    await desk.do(lambda conn: accept(conn, "m1", "b@one.example", "c@two.example"))
    await desk.settle(DEFERRED, gather=300.0, warnings=1)
    await trio.sleep(100)
    await desk.settle(DELIVERED)
    await trio.sleep(300)
    await desk.upkeep.step()
    assert await desk.notices() == []
    assert "msg:complete" in desk.recorder.names()


async def test_one_sender_gets_so_many_an_hour_and_the_rest_later(autojump_clock, tmp_path):
    desk = Desk(tmp_path, per_sender=2)
    for index in range(3):
        await desk.do(lambda conn, index=index: accept(conn, f"m{index}"))
    await desk.do(lambda conn: accept(conn, "other", sender="x@other.example"))
    await desk.settle(FAILED)
    for _ in range(3):
        await desk.upkeep.step()
    told = [to for to, _ in await desk.notices()]
    assert sorted(told) == ["a@sender.example", "a@sender.example", "x@other.example"]
    await trio.sleep(3601)
    await desk.upkeep.step()
    assert len(await desk.notices()) == 4
    desk.journal.close()


async def test_strangers_are_not_told(autojump_clock, tmp_path, caplog):
    desk = Desk(tmp_path, to=("*.ours.example", "ours.example"))
    await desk.do(lambda conn: accept(conn, "m1"))
    await desk.do(lambda conn: accept(conn, "m2", sender="x@ours.example"))
    known = structs.replace(envelope("m3"), authenticated="app")
    await desk.do(lambda conn: store.accept(conn, known, InlineContent(CONTENT), (), NOW, desk.recorder))
    await desk.settle(FAILED)
    await desk.upkeep.step()
    assert sorted(to for to, _ in await desk.notices()) == ["a@sender.example", "x@ours.example"]
    assert desk.recorder.names().count("msg:complete") == 3
    desk.journal.close()


async def test_ret_full_returns_the_message_and_large_ones_their_header_only(autojump_clock, tmp_path):
    desk = Desk(tmp_path, return_limit=len(CONTENT))
    whole = structs.replace(envelope("m1"), ret=Ret.FULL)
    large = structs.replace(envelope("m2"), ret=Ret.FULL, size=len(CONTENT) + 1)
    for made in (whole, large):
        await desk.do(
            lambda conn, made=made: store.accept(conn, made, InlineContent(CONTENT), (), NOW, desk.recorder)
        )
    await desk.settle(FAILED)
    await desk.upkeep.step()
    kinds = set()
    for _, text in await desk.notices():
        read = message_from_bytes(text.encode(), policy=policy.SMTP)
        kinds.add(list(read.iter_parts())[2].get_content_type())
    assert kinds == {"message/rfc822", "text/rfc822-headers"}
    desk.journal.close()


@pytest.mark.parametrize(("outcome", "warnings"), [(FAILED, 0), (DEFERRED, 1), (DELIVERED, 0)])
async def test_what_is_told_of_mail_with_requiretls_has_its_header_only_and_the_mark(
    autojump_clock, tmp_path, outcome, warnings
):
    desk = Desk(tmp_path, return_content="full")
    (who,) = envelope("m1").recipients
    every = structs.replace(who, notify=frozenset({Notify.FAILURE, Notify.DELAY, Notify.SUCCESS}))
    asked = structs.replace(envelope("m1"), recipients=(every,), ret=Ret.FULL, requires_tls=True)
    await desk.do(
        lambda conn: store.accept(conn, asked, InlineContent(CONTENT), (), NOW, desk.recorder),
    )
    await desk.settle(outcome, gather=0.0, warnings=warnings)
    await desk.upkeep.step()
    ((_, text),) = await desk.notices()
    assert "Subject: x" in text
    assert "Hello" not in text
    (back,) = await desk.do(lambda conn: claim(conn, now=NOW + 10))
    assert (back.envelope.sender, back.envelope.requires_tls) == (None, True)
    desk.journal.close()


async def test_lost_content_costs_the_returned_header_not_the_report(autojump_clock, desk, caplog):
    lost = envelope("m1")
    await desk.do(
        lambda conn: store.accept(conn, lost, SpoolContent(desk.spool, "m1.eml", 9), (), NOW, desk.recorder)
    )
    await desk.settle(FAILED)
    await desk.upkeep.step()
    assert len(await desk.notices()) == 1
    assert "no header" in caplog.text


async def test_the_failure_is_told_as_it_was_recorded(autojump_clock, desk):
    await desk.do(lambda conn: accept(conn, "m1"))
    contact = replace(FAILED.contact, port=2525, greeting="220 hello", ehlo="250 mx")
    await desk.settle(replace(FAILED, contact=contact))
    await desk.upkeep.step()
    ((_, text),) = await desk.notices()
    assert "X-Remote-MTA-address: X-ip; [192.0.2.1]:2525" in text
    assert "X-Remote-MTA-smtp-greeting: X-str; 220 hello" in text
    assert "X-Remote-MTA-helo-response: X-str; 250 mx" in text
    assert "Status: 5.1.1" in text


def test_broken_records_give_a_report_all_the_same(conn):
    accept(conn, "m1")
    conn.execute(schema.recipient.update().values(state="failed", owed="failed", last_outcome="{"))
    store.note_owed(conn, "m1", NOW)
    seen = []

    def compose(about, entries):
        seen.extend(entries)

    done = reports.write(conn, MessageId("m1"), compose, now=NOW, expire=0.0, per_sender=0, append=Recorder())
    assert done.completed
    assert done.notice is None
    assert not isinstance(seen[0].outcome, Delivered | Failed)


async def test_tools_are_noticed_within_a_second(autojump_clock, desk):
    await desk.do(lambda conn: accept(conn, "m1"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.upkeep.run)
        await trio.sleep(0.5)
        before = desk.woken
        await desk.do(changes.note_change)
        await trio.sleep(1.0)
        assert desk.woken == before + 1
        await trio.sleep(5.0)
        assert (desk.woken, desk.asked) == (before + 1, 0)
        await desk.do(lambda conn: changes.retry(conn, [], NOW))
        await trio.sleep(1.0)
        assert desk.asked == 1
        nursery.cancel_scope.cancel()


async def test_history_of_reports_is_kept_with_the_message(autojump_clock, desk):
    await desk.do(lambda conn: accept(conn, "m1"))
    await desk.settle(FAILED)
    await desk.upkeep.step()
    rows_of = await desk.sql.read(lambda conn: conn.execute(select(report)).all())
    assert [(row.bounce_id, row.message_id, row.address) for row in rows_of] == [
        ("bounce1", "m1", "a@sender.example")
    ]
    await desk.do(lambda conn: store.forget(conn, before=NOW + 10**6))
    assert await desk.sql.read(lambda conn: conn.execute(select(report)).all()) == []


async def test_a_bug_in_one_report_stops_neither_the_others_nor_the_relay(
    autojump_clock, desk, monkeypatch, caplog
):
    await desk.do(lambda conn: accept(conn, "m1"))
    await desk.do(lambda conn: accept(conn, "m2", sender="x@other.example"))
    await desk.settle(FAILED)
    composer = Notifier.composer

    def broken(self, content, now):
        compose = composer(self, content, now)

        def write(about, entries):
            if about.id == "m1":
                raise KeyError("a bug")
            return compose(about, entries)

        return write

    monkeypatch.setattr(Notifier, "composer", broken)
    with trio.move_on_after(30):
        await desk.upkeep.run()
    assert [to for to, _ in await desk.notices()] == ["x@other.example"]
    assert caplog.text.count("KeyError: 'a bug'") == 1
    monkeypatch.setattr(Notifier, "composer", composer)
    await trio.sleep(600)
    await desk.upkeep.step()
    assert len(await desk.notices()) == 2


async def test_the_upkeep_outlives_an_unexpected_error(autojump_clock, desk, monkeypatch, caplog):
    read, failures = desk.sql.read, []

    async def failing(work):
        if not failures:
            failures.append(1)
            raise KeyError("a bug")
        return await read(work)

    await desk.do(lambda conn: accept(conn, "m1"))
    await desk.settle(FAILED)
    monkeypatch.setattr(desk.sql, "read", failing)
    with trio.move_on_after(30):
        await desk.upkeep.run()
    assert len(await desk.notices()) == 1
    assert "failed unexpectedly" in caplog.text


async def test_many_holds_end_in_many_transactions_at_one_look(autojump_clock, desk, monkeypatch):
    """Others want to write too."""
    monkeypatch.setattr(freeze, "CHUNK", 2)

    def hold(conn):
        for index in range(5):
            accept(conn, f"m{index}")
        rule = freeze.add(conn, freeze.Kind.DOMAIN, "*", reason="x", until=NOW, now=NOW - 1)
        while changes.freeze_now(conn, rule, NOW - 1, Recorder()):
            pass

    await desk.do(hold)
    portions = []
    write = desk.sql.write

    async def watched(work, **more):
        portions.append(await write(work, **more))
        return portions[-1]

    monkeypatch.setattr(desk.sql, "write", watched)
    await desk.upkeep.step()
    assert portions == [2, 2, 1, 0]
    assert set((await desk.sql.read(states)).values()) == {"queued"}
    assert await desk.sql.read(freeze.rules) == ()
    assert desk.woken >= 1
