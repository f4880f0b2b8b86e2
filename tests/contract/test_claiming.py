"""Whose turn it is: domains, sites and senders."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

import pytest
from sqlalchemy import event, select, update

from deliver.errors import Blame
from deliver.message import Envelope, Mailbox, MessageId
from deliver.outcome import Contact, Deferred, Phase, Place
from deliver.queue import claiming, due, freeze, store
from deliver.queue.admission import Permits
from deliver.queue.claiming import sender_key
from deliver.queue.lanes import Lanes, Terms
from deliver.queue.schedule import Settlement
from deliver.queue.schema import destination
from deliver.queue.throttle import Limit, Rate, Throttle
from deliver.smtp.reply import Reply
from tests.unit.queue.values import DEFERRED, NOW, RETRY, Recorder, Room, accept, claim, rows


def settle(conn, claimed, outcome, again=NOW + 60, waited=60.0):
    settlements = tuple(Settlement(each, outcome, again, waited=waited) for each in claimed.recipients)
    return store.settle(conn, claimed, settlements, events=(), now=NOW, append=Recorder())


def senders(conn, count, now=NOW):
    return [str(claim(conn, now, limit=1, per_domain=10**6)[0].envelope.sender) for _ in range(count)]


def test_senders_of_a_domain_take_turns(conn):
    for index in range(6):
        accept(conn, f"bulk{index}", sender="bulk@a.example")
    accept(conn, "m1", sender="ann@a.example")
    accept(conn, "m2", sender="zoe@a.example")
    assert Counter(senders(conn, 3)) == {"bulk@a.example": 1, "ann@a.example": 1, "zoe@a.example": 1}
    assert senders(conn, 5) == ["bulk@a.example"] * 5


def test_the_turn_goes_on_where_it_ended(conn):
    for index in range(3):
        for name in ("a", "b", "c"):
            accept(conn, f"{name}{index}", sender=f"{name}@x.example")
    found = senders(conn, 9)
    assert found == [f"{name}@x.example" for name in "abc"] * 3


def test_of_one_sender_the_oldest_message_goes_first(conn):
    for name in ("m2", "m1", "m3"):
        accept(conn, name)
    conn.execute(
        update(store.recipient).where(store.recipient.c.message_id == "m3").values(next_attempt=NOW - 5)
    )
    assert claim(conn, limit=1)[0].envelope.id == "m3"


@pytest.mark.parametrize("count", [3, 50])
def test_senders_with_nothing_due_are_passed_over(conn, count):
    for index in range(count):
        accept(conn, f"later{index}", sender=f"s{index:03}@a.example")
    for claimed in claim(conn, limit=count, per_domain=count):
        settle(conn, claimed, DEFERRED)
    accept(conn, "now", sender="zoe@a.example")
    assert [each.envelope.id for each in claim(conn, NOW + 1)] == ["now"]
    assert claim(conn, NOW + 2) == ()


@pytest.mark.parametrize(
    ("sender", "login", "key"),
    [
        ("Ann@A.example", None, "ann@a.example"),
        ("news+b=example.org@a.example", None, "news@a.example"),
        ("news=x@a.example", None, "news@a.example"),
        ("+odd@a.example", None, "+odd@a.example"),
        ("ann@a.example", "team", "team"),
        (None, None, ""),
    ],
)
def test_who_shares_a_turn(sender, login, key):
    made = Envelope(
        MessageId("m"), Mailbox.parse(sender) if sender else None, (), 0, False, NOW, authenticated=login
    )
    assert sender_key(made) == key


def test_a_worker_asks_for_the_next_message_of_its_site_only(conn):
    for domain in ("a.example", "b.example", "c.example"):
        accept(conn, domain[0], f"x@{domain}")
    found = claim(conn, limit=5, domains=("c.example", "gone.example", "b.example"))
    assert [each.domain for each in found] == ["c.example", "b.example"]
    assert claim(conn, domains=("c.example",)) == ()


def permits(limit=None, **terms):
    return Permits(Lanes(Terms(**terms)), Throttle((limit,) if limit else ()), NOW)


def take(conn, admission, now=NOW, limit=10):
    admission.now = now
    return claiming.claim(conn, now=now, limit=limit, lease=1000.0, retry=RETRY, admission=admission)


def test_the_windows_of_lanes_hold_within_one_claim(conn):
    for index in range(6):
        accept(conn, f"a{index}", "x@a.example")
        accept(conn, f"b{index}", "x@b.example")
    found = take(conn, permits(start=2))
    assert Counter(each.domain for each in found) == {"a.example": 2, "b.example": 2}


def test_a_limited_sender_leaves_the_turn_to_others(conn):
    for index in range(3):
        accept(conn, f"n{index}", sender="news@a.example")
        accept(conn, f"m{index}", sender="ann@a.example")
    admission = permits(Limit("sender", ("news@*",), Rate.of(1, 60.0, 1)), start=10, per_domain=10)
    found = [str(each.envelope.sender) for each in take(conn, admission)]
    assert Counter(found) == {"news@a.example": 1, "ann@a.example": 3}


def test_a_domain_whose_senders_all_wait_is_left_alone_until_one_may(conn):
    for index in range(2):
        accept(conn, f"n{index}", sender="news@a.example")
    admission = permits(Limit("sender", (), Rate.of(1, 60.0, 1)), start=10, per_domain=10)
    assert len(take(conn, admission)) == 1
    assert take(conn, admission, NOW + 59) == ()
    assert due.next_due(conn, admission.opens_at) == pytest.approx(NOW + 60)
    assert len(take(conn, admission, NOW + 60.1)) == 1


def test_a_sender_that_has_its_attempts_at_a_time_does_not_make_the_claim_spin(conn):
    limit = Limit("sender", at_a_time=1)
    for index in range(3):
        accept(conn, f"n{index}", f"x@d{index}.example", sender="news@a.example")
    admission = permits(limit)
    assert len(take(conn, admission)) == 1
    assert due.next_due(conn, admission.opens_at) == NOW + claiming.CROWDED


def test_many_limited_senders_do_not_hide_one_who_may(conn):
    for index in range(40):
        accept(conn, f"n{index}", sender=f"a{index:02}@news.example")
    accept(conn, "m1", sender="zoe@b.example")

    class OnlyZoe(Room):
        def sender_opens_at(self, domain, sender):
            return -math.inf if sender.startswith("zoe") else NOW + 60

    conn.execute(
        update(store.recipient).where(store.recipient.c.message_id == "m1").values(next_attempt=NOW - 1)
    )
    found = claiming.claim(conn, now=NOW, limit=5, lease=10.0, retry=RETRY, admission=OnlyZoe())
    assert [each.envelope.id for each in found] == ["m1"]


def test_what_others_were_quicker_to_take_is_passed_over(conn):
    accept(conn, "m1", "x@a.example")
    accept(conn, "m2", "x@b.example")

    class Quicker(Room):
        def reserve(self, domain):
            return domain != "a.example"

    found = claiming.claim(conn, now=NOW, limit=5, lease=10.0, retry=RETRY, admission=Quicker())
    assert [each.envelope.id for each in found] == ["m2"]
    assert due.next_due(conn, Room().opens_at) <= NOW, "it is still due"


def test_a_claim_carries_the_wait_before(conn):
    accept(conn, "m1")
    settle(conn, claim(conn)[0], DEFERRED, waited=240.0)
    (again,) = claim(conn, NOW + 60)
    assert again.waited == (240.0,)
    assert rows(conn)[0].waited == 240.0


def test_a_claim_says_which_server_failed_but_not_which_answered(conn):
    there = Contact("mx.example.org", "192.0.2.7", 25)
    accept(conn, "m1")
    settle(conn, claim(conn)[0], Deferred("lost", Blame.HOST, Phase.DATA, contact=there))
    assert claim(conn, NOW + 60)[0].tried == Place("mx.example.org", "192.0.2.7")
    greylisted = Deferred("grey", Blame.RECIPIENT, Phase.RCPT, Reply(450, ("later",)), contact=there)
    accept(conn, "m2", "x@other.example")
    settle(conn, claim(conn, NOW + 1)[0], greylisted)
    assert claim(conn, NOW + 61, domains=("other.example",))[0].tried is None


def test_destinations_without_mail_are_forgotten_after_a_while(conn):
    accept(conn, "m1", "x@a.example")
    accept(conn, "m2", "x@b.example")
    claim(conn, limit=1)
    assert due.forget_idle(conn, NOW) == 0
    assert due.forget_idle(conn, NOW + 1) == 1
    assert conn.execute(select(destination.c.domain)).scalars().all() == ["b.example"]


def test_a_deferred_recipient_is_found_again_although_its_destination_was_forgotten(conn):
    accept(conn, "m1", "x@a.example")
    (claimed,) = claim(conn)
    assert due.forget_idle(conn, NOW + 1) == 1
    settle(conn, claimed, DEFERRED)
    assert len(claim(conn, NOW + 60)) == 1


def test_many_senders_with_a_limit_do_not_keep_another_from_its_turn(conn):
    """They are passed over some at a time, and the next look goes on behind them."""
    for index in range(50):
        accept(conn, f"n{index}", sender=f"a{index:02}@news.example")
    accept(conn, "m1", sender="zoe@b.example")
    conn.execute(
        update(store.recipient).where(store.recipient.c.message_id != "m1").values(next_attempt=NOW - 60)
    )

    class OnlyZoe(Room):
        def sender_opens_at(self, domain, sender):
            return -math.inf if sender.startswith("zoe") else NOW + 10**6

    found = [
        claiming.claim(
            conn, now=NOW + second, limit=5, lease=10.0, retry=RETRY, admission=OnlyZoe(per_domain=5)
        )
        for second in range(5)
    ]
    assert [each.envelope.id for claims in found for each in claims] == ["m1"]


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [("sender", "bad@a.example"), ("sender", "a.example"), ("sender", "<>"), ("domain", "*.example.org")],
)
def test_what_is_frozen_is_held_when_its_turn_comes_and_the_others_go(conn, kind, pattern):
    rule = freeze.add(conn, freeze.Kind(kind), pattern, reason="because", until=None, now=NOW)
    bad = None if pattern == "<>" else "bad@a.example"
    for index in range(3):
        accept(conn, f"f{index}", f"x@{'sub.' if kind == 'domain' else ''}example.org", sender=bad)
    accept(conn, "m1", "x@example.org", sender="ann@b.example")
    events = Recorder()
    found = claiming.claim(conn, now=NOW, limit=5, lease=10.0, retry=RETRY, admission=Room(), append=events)
    assert [each.envelope.id for each in found] == ["m1"]
    held = [row for row in rows(conn) if row.state == "held"]
    assert [(row.message_id, row.freeze_id) for row in held] == [(f"f{n}", rule.id) for n in range(3)]
    assert events.names() == ["msg:hold"] * 3
    assert claim(conn) == ()


def test_one_claim_holds_a_bounded_part_of_what_is_frozen(conn, monkeypatch):
    monkeypatch.setattr(claiming, "MAX_HELD", 4)
    freeze.add(conn, freeze.Kind.SENDER, "bad@a.example", reason="because", until=None, now=NOW)
    for index in range(10):
        accept(conn, f"f{index}", sender="bad@a.example")
    held = []
    for _ in range(3):
        assert claim(conn) == ()
        held.append(sum(row.state == "held" for row in rows(conn)))
    assert held == [4, 8, 10]
    assert due.first_due(conn) == math.inf


def test_one_claim_holds_a_bounded_part_of_frozen_domains(conn, monkeypatch):
    monkeypatch.setattr(claiming, "MAX_HELD", 4)
    freeze.add(conn, freeze.Kind.DOMAIN, "*.example", reason="because", until=None, now=NOW)
    for index in range(4):
        accept(conn, f"f{index}", *(f"x{number}@d{index}.example" for number in range(3)))
    held = []
    for _ in range(2):
        assert claim(conn) == ()
        held.append(sum(row.state == "held" for row in rows(conn)))
    assert held == [6, 12]  # of each domain all, and of none that comes when it is enough


def test_a_claim_does_not_look_through_all_that_is_due_for_what_is_frozen(conn):
    """Its cost does not grow with the queue: the rules are matched against what was chosen."""
    freeze.add(conn, freeze.Kind.SENDER, "bad@a.example", reason="because", until=None, now=NOW)
    for index in range(30):
        accept(conn, f"m{index}", sender=f"s{index}@a.example")
    said = []
    listener = partial(_note_statement, said)
    event.listen(conn.engine, "before_cursor_execute", listener)
    try:
        assert len(claim(conn, limit=1)) == 1
    finally:
        event.remove(conn.engine, "before_cursor_execute", listener)
    assert not [each for each in said if "JOIN message" in each or "EXISTS" in each]


def _note_statement(said, connection, cursor, statement, *rest):
    said.append(statement)
