"""What an administrator does to the queue: retry, hold, release, remove, bounce, freeze, thaw."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from sqlalchemy import select

from deliver.errors import UsageError
from deliver.frozen import FrozenHosts, is_frozen
from deliver.message import MessageId
from deliver.queue import browse, changes, freeze, reports, store
from deliver.queue.content import SpoolContent
from deliver.queue.freeze import Kind, Rule
from deliver.queue.reading import Connected
from deliver.queue.schedule import Settlement
from deliver.queue.schema import State, message
from deliver.queue.selection import Selection
from events.catalogue import Event
from events.port import Allow, OpenGate, Refuse
from tests.unit.queue.values import (
    DEFERRED,
    DELIVERED,
    FAILED,
    NOW,
    Recorder,
    accept,
    claim,
    envelope,
    rows,
    states,
)

EVERYTHING = Selection()


def meant(conn, **more):
    return browse.matching(Connected(conn), Selection(**more), NOW)


def defer(conn, wait=60.0):
    """Try everything that is due once, in vain."""
    for claimed in claim(conn):
        settlements = tuple(Settlement(to, DEFERRED, NOW + wait) for to in claimed.recipients)
        store.settle(conn, claimed, settlements, events=(), now=NOW, append=Recorder())


def names(keys):
    return sorted({key.message_id for key in keys})


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ({}, ["m1", "m2", "m3"]),
        ({"ids": ("m1", "m3")}, ["m1", "m3"]),
        ({"domain": "example.org"}, ["m1"]),
        ({"domain": "*.example"}, ["m3"]),
        ({"domain": "Example.ORG."}, ["m1"]),
        ({"sender": "<>"}, ["m2"]),
        ({"sender": "a@sender.example"}, ["m1", "m3"]),
        ({"sender": "A@sender.example"}, []),
        ({"sender": "*.example"}, ["m1", "m3"]),
        ({"recipient": "c@example.net"}, ["m2"]),
        ({"recipient": "example.net"}, ["m2"]),
        ({"text": "TRY later"}, ["m1", "m2", "m3"]),
        ({"text": '"kind"'}, []),
        ({"text": "%"}, []),
        ({"older_than": 10.0}, []),
        ({"older_than": 0.0}, ["m1", "m2", "m3"]),
        ({"newer_than": 10.0}, ["m1", "m2", "m3"]),
        ({"larger_than": 10_000}, []),
        ({"smaller_than": 10_000}, ["m1", "m2", "m3"]),
        ({"states": (State.HELD,)}, []),
        ({"domain": "example.org", "sender": "<>"}, []),
    ],
)
def test_filters_mean_what_they_say(conn, condition, found):
    accept(conn, "m1", "b@example.org")
    accept(conn, "m2", "c@example.net", sender=None)
    accept(conn, "m3", "d@mx.example")
    defer(conn)
    assert names(meant(conn, **condition)) == found


def test_what_is_done_is_never_meant(conn):
    accept(conn, "m1")
    (claimed,) = claim(conn)
    settlements = (Settlement(claimed.recipients[0], DELIVERED),)
    store.settle(conn, claimed, settlements, events=(), now=NOW, append=Recorder())
    assert meant(conn) == []


def test_retry_makes_them_due_and_the_relay_look(conn):
    accept(conn, "m1")
    defer(conn, 3600.0)
    assert claim(conn, NOW + 1) == ()
    asked, retries = changes.count(conn)
    assert changes.retry(conn, meant(conn), NOW + 1).changed == 1
    assert changes.count(conn) == (asked + 1, retries + 1)
    assert len(claim(conn, NOW + 1)) == 1


def test_held_mail_is_not_tried_until_it_is_released(conn):
    accept(conn, "m1")
    recorder = Recorder()
    done = changes.hold_back(conn, meant(conn), NOW, reason="a look", until=None, append=recorder)
    assert done.changed == 1
    assert claim(conn, NOW + 10**6) == ()
    assert changes.retry(conn, meant(conn), NOW).held == 1
    assert claim(conn, NOW) == ()
    assert changes.release(conn, meant(conn), NOW + 5, append=recorder).changed == 1
    assert len(claim(conn, NOW + 5)) == 1
    assert recorder.names() == ["msg:hold", "msg:release"]
    assert all(event.problems() == () for _, event in recorder.events)
    assert recorder.events[0][1].fields["event_data"] == "a look"
    (row,) = rows(conn)
    assert (row.held_reason, row.held_until, row.freeze_id) == (None, None, None)


def test_a_hold_ends_by_its_date(conn):
    accept(conn, "m1")
    changes.hold_back(conn, meant(conn), NOW, reason="x", until=NOW + 60, append=Recorder())
    assert changes.next_release(conn) == NOW + 60
    assert changes.release_due(conn, NOW + 59, append=Recorder()) == 0
    assert changes.release_due(conn, NOW + 60, append=Recorder()) == 1
    assert changes.next_release(conn) is None
    assert len(claim(conn, NOW + 60)) == 1


def test_removed_mail_is_gone_with_its_content_and_the_sender_hears_nothing(conn, tmp_path):
    made = envelope("m1", "b@example.org", "c@example.org")
    store.accept(conn, made, SpoolContent(tmp_path, "m1.eml", 9), (), NOW, Recorder())
    recorder = Recorder()
    done = changes.remove(conn, meant(conn), NOW, reason="removed by root", append=recorder)
    assert (done.changed, done.removable) == (2, ("m1.eml",))
    assert set(states(conn).values()) == {"failed"}
    assert recorder.names() == ["msg:fail:internal", "msg:fail:internal", "msg:complete"]
    assert all(event.problems() == () for _, event in recorder.events)
    assert reports.next_report(conn) is None
    assert claim(conn, NOW + 10**6) == ()


def test_bounced_mail_is_owed_a_report_with_the_last_reason(conn):
    accept(conn, "m1", "b@example.org", "c@example.org")
    defer(conn)
    key, other = meant(conn)
    recorder = Recorder()
    done = changes.bounce(conn, [key], NOW, reason="given up", append=recorder)
    assert (done.changed, recorder.names()) == (1, ["msg:fail:internal"])
    assert reports.next_report(conn) == NOW
    seen = []

    def compose(about, entries):
        seen.extend(entries)

    reports.write(conn, MessageId("m1"), compose, now=NOW, expire=0.0, per_sender=0, append=Recorder())
    assert [entry.outcome.why for entry in seen] == ["given up; the last reason was: try later"]
    assert meant(conn) == [other]


def test_a_bounce_is_removed_instead_of_bounced(conn):
    accept(conn, "m1", sender=None)
    recorder = Recorder()
    changes.bounce(conn, meant(conn), NOW, reason="given up", append=recorder)
    assert reports.next_report(conn) is None
    assert recorder.names() == ["msg:fail:internal", "msg:complete"]


@pytest.mark.parametrize("verb", ["retry", "hold", "release", "remove", "bounce"])
def test_an_attempt_under_way_is_left_alone(conn, verb):
    accept(conn, "m1")
    (claimed,) = claim(conn)
    keys, recorder = meant(conn), Recorder()
    done = {
        "retry": lambda: changes.retry(conn, keys, NOW),
        "hold": lambda: changes.hold_back(conn, keys, NOW, reason="x", until=None, append=recorder),
        "release": lambda: changes.release(conn, keys, NOW, append=recorder),
        "remove": lambda: changes.remove(conn, keys, NOW, reason="x", append=recorder),
        "bounce": lambda: changes.bounce(conn, keys, NOW, reason="x", append=recorder),
    }[verb]()
    assert (done.changed, done.busy) == (0, 1)
    assert recorder.names() == []
    settlements = (Settlement(claimed.recipients[0], DELIVERED),)
    settled = store.settle(conn, claimed, settlements, events=(), now=NOW, append=recorder)
    assert settled.completed


def test_a_rule_holds_what_waits_and_what_comes_and_its_end_releases_both(conn):
    accept(conn, "m1", "b@example.org")
    recorder = Recorder()
    rule = freeze.add(conn, Kind.DOMAIN, "Example.org", reason="they asked", until=NOW + 600, now=NOW)
    assert rule.pattern == "example.org"
    assert changes.freeze_now(conn, rule, NOW, recorder) == 1
    assert changes.freeze_now(conn, rule, NOW, recorder) == 0
    accept(conn, "m2", "b@example.org")
    accept(conn, "m3", "b@example.net")
    assert [claimed.envelope.id for claimed in claim(conn)] == ["m3"]
    held = {row.message_id: (row.held_reason, row.held_until, row.freeze_id) for row in rows(conn)}
    assert held["m2"] == held["m1"] == ("they asked", NOW + 600, rule.id)
    assert changes.release(conn, meant(conn, ids=("m1",)), NOW, append=recorder).frozen == 1
    assert changes.release_due(conn, NOW + 600, append=recorder) == 2
    assert freeze.rules(conn) == ()
    assert sorted(claimed.envelope.id for claimed in claim(conn, NOW + 600)) == ["m1", "m2"]


def test_thawing_releases_what_the_rule_holds_and_nothing_else(conn):
    accept(conn, "m1", "b@example.org")
    accept(conn, "m2", "b@example.net")
    changes.hold_back(conn, meant(conn, ids=("m2",)), NOW, reason="mine", until=None, append=Recorder())
    rule = freeze.add(conn, Kind.DOMAIN, "*", reason="all", until=None, now=NOW)
    changes.freeze_now(conn, rule, NOW, Recorder())
    assert changes.thaw(conn, [rule.id], NOW, Recorder()) == 1
    assert {row.message_id: row.state for row in rows(conn)} == {"m1": "queued", "m2": "held"}


def test_what_a_running_attempt_defers_is_held_when_it_is_due(conn):
    accept(conn, "m1", "b@example.org")
    (claimed,) = claim(conn)
    freeze.add(conn, Kind.SENDER, "sender.example", reason="runaway", until=None, now=NOW)
    settlements = (Settlement(claimed.recipients[0], DEFERRED, NOW + 60),)
    store.settle(conn, claimed, settlements, events=(), now=NOW, append=Recorder())
    assert claim(conn, NOW + 60) == ()
    assert states(conn) == {"b@example.org": "held"}


@pytest.mark.parametrize(
    ("kind", "pattern", "held"),
    [
        (Kind.DOMAIN, "example.org", ["m1", "m2"]),
        (Kind.DOMAIN, "*.org", ["m1", "m2"]),
        (Kind.SENDER, "a@sender.example", ["m1"]),
        (Kind.SENDER, "sender.example", ["m1"]),
        (Kind.SENDER, "<>", ["m2"]),
        (Kind.SENDER, "other@sender.example", []),
        (Kind.HOST, "example.org", []),
    ],
)
def test_rules_by_kind(conn, kind, pattern, held):
    accept(conn, "m1", "b@example.org")
    accept(conn, "m2", "c@example.org", sender=None)
    freeze.add(conn, kind, pattern, reason="x", until=None, now=NOW)
    claimed = {each.envelope.id for each in claim(conn)}
    assert claimed == {"m1", "m2"} - set(held)


def test_an_expired_rule_holds_nothing(conn):
    freeze.add(conn, Kind.DOMAIN, "*", reason="x", until=NOW - 1, now=NOW - 100)
    accept(conn, "m1")
    assert len(claim(conn)) == 1


@pytest.mark.parametrize("pattern", ["a b", "", "x..y", "*.*.org"])
def test_a_bad_pattern_is_refused(conn, pattern):
    with pytest.raises(UsageError):
        freeze.add(conn, Kind.DOMAIN, pattern, reason="x", until=None, now=NOW)


def test_held_mail_does_not_stop_its_message_from_being_kept(conn):
    accept(conn, "m1", "b@example.org", "c@example.net")
    changes.hold_back(conn, meant(conn, domain="example.net"), NOW, reason="x", until=None, append=Recorder())
    (claimed,) = claim(conn)
    settlements = (Settlement(claimed.recipients[0], DELIVERED),)
    assert not store.settle(conn, claimed, settlements, events=(), now=NOW, append=Recorder()).completed
    assert conn.execute(select(message.c.content)).scalar_one() is not None


def test_a_message_that_is_owed_a_report_and_loses_its_last_recipient_is_reported(conn):
    accept(conn, "m1", "b@example.org", "c@example.net")
    changes.hold_back(conn, meant(conn, domain="example.net"), NOW, reason="x", until=None, append=Recorder())
    (claimed,) = claim(conn)
    settlements = (Settlement(claimed.recipients[0], FAILED),)
    store.settle(conn, claimed, settlements, events=(), now=NOW, gather=60.0, append=Recorder())
    changes.remove(conn, meant(conn), NOW + 1, reason="x", append=Recorder())
    assert reports.next_report(conn) == NOW + 1


@pytest.mark.parametrize(
    ("pattern", "host", "address", "frozen"),
    [
        ("mx.example.org", "MX.example.org", "192.0.2.1", True),
        ("*.example.org", "mx.example.org", "192.0.2.1", True),
        ("example.org", "mx.example.org", "192.0.2.1", False),
        ("192.0.2.0/24", "mx.example.org", "192.0.2.1", True),
        ("192.0.2.1/32", "mx.example.org", "192.0.2.1", True),
        ("2001:db8::/32", "mx.example.org", "192.0.2.1", False),
        ("2001:db8::/32", "mx.example.org", "2001:db8::1", True),
        ("192.0.2.0/24", "mx.example.org", "", False),
    ],
)
def test_host_rules(pattern, host, address, frozen):
    assert is_frozen(freeze.checked_pattern(Kind.HOST, pattern), host, address) is frozen


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_host_rules_never_fail(pattern, host, address):
    assert is_frozen(pattern, host, address) in (True, False)


async def test_a_frozen_host_is_not_contacted_and_says_why():
    gate = FrozenHosts(OpenGate())
    event = Event("tcp:connect", NOW, {"host": "mx.example.org", "host_address": "192.0.2.1"})
    assert isinstance(await gate.consult(event), Allow)
    assert not gate.watches("tcp:connect", {})
    assert gate.open
    gate.freeze((Rule(1, Kind.HOST, "mx.example.org", "maintenance", NOW, None),))
    refused = await gate.consult(event)
    assert isinstance(refused, Refuse)
    assert "maintenance" in refused.text
    assert gate.watches("tcp:connect", {})
    assert not gate.open
    other = Event("tcp:connect", NOW, {"host": "mx.example.net", "host_address": "192.0.2.2"})
    assert isinstance(await gate.consult(other), Allow)


@pytest.fixture
def small_portions(monkeypatch):
    monkeypatch.setattr(freeze, "CHUNK", 4)


def frozen_mail(conn, count, until=None):
    for index in range(count):
        accept(conn, f"m{index}", f"b@d{index % 3}.example")
    rule = freeze.add(conn, Kind.DOMAIN, "*", reason="all", until=until, now=NOW)
    while changes.freeze_now(conn, rule, NOW, Recorder()):
        pass
    assert set(states(conn).values()) == {"held"}
    return rule


def waiting(conn):
    return sorted(row.state for row in rows(conn))


def test_thawing_goes_by_portions_and_the_rule_holds_nothing_more_from_the_first_on(conn, small_portions):
    rule = frozen_mail(conn, 10)
    recorder = Recorder()
    assert changes.thaw(conn, [rule.id], NOW, recorder) == 4
    assert waiting(conn) == ["held"] * 6 + ["queued"] * 4
    assert freeze.active(conn, NOW) == ()
    assert len(claim(conn, NOW)) == 4
    assert [changes.thaw(conn, [rule.id], NOW, recorder) for _ in range(3)] == [4, 2, 0]
    assert recorder.names() == ["msg:release"] * 10
    assert freeze.rules(conn) == ()


def test_the_relay_goes_on_where_a_tool_stopped_thawing(conn, small_portions):
    rule = frozen_mail(conn, 10)
    assert changes.thaw(conn, [rule.id], NOW, Recorder()) == 4
    assert changes.next_release(conn) == NOW
    assert [changes.release_due(conn, NOW, append=Recorder()) for _ in range(3)] == [4, 2, 0]
    assert (waiting(conn), freeze.rules(conn)) == (["queued"] * 10, ())
    assert changes.next_release(conn) is None


def test_holds_whose_date_has_come_end_by_portions(conn, small_portions):
    frozen_mail(conn, 6, until=NOW + 60)
    accept(conn, "mine", "b@other.example")
    changes.hold_back(conn, meant(conn, ids=("mine",)), NOW, reason="x", until=NOW + 30, append=Recorder())
    assert changes.next_release(conn) == NOW + 30
    assert changes.release_due(conn, NOW + 30, append=Recorder()) == 1
    assert changes.next_release(conn) == NOW + 60
    assert [changes.release_due(conn, NOW + 60, append=Recorder()) for _ in range(3)] == [4, 2, 0]
    assert (waiting(conn), freeze.rules(conn)) == (["queued"] * 7, ())
