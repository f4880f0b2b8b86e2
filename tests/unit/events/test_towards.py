"""The destinations of a rule, compared with the fields of events."""

from __future__ import annotations

import pytest

from events.actions import applies, parse_action
from events.catalogue import Event
from events.gate import SqlGate
from events.port import Allow, Refuse
from events.towards import ANYWHERE, Towards

URL = "sqlite:////tmp/never-opened.db"


@pytest.mark.parametrize(
    ("towards", "fields", "meant"),
    [
        (ANYWHERE, {}, True),
        (Towards(("example.org",)), {"domain": "example.org"}, True),
        (Towards(("example.org",)), {"domain": "EXAMPLE.org."}, True),
        (Towards(("example.org",)), {"domain": "a.example.org"}, False),
        (Towards(("*.example.org",)), {"domain": "a.example.org"}, True),
        (Towards(("*.example.org",)), {"domain": "example.org"}, False),
        (Towards(("*.example.org",)), {"domain": "badexample.org"}, False),
        (Towards(("*",)), {"domain": "[192.0.2.1]"}, True),
        (Towards(("*",)), {}, False),
        (Towards(("*",)), {"domain": None}, False),
        (Towards(("example.org",), ("mx.example.net",)), {"domain": "example.org"}, False),
        (
            Towards(("example.org",), ("*.example.net",)),
            {"domain": "example.org", "host": "mx.example.net"},
            True,
        ),
        (Towards((), ("*.example.net",)), {"domain": "x", "host": "mx.example.net"}, True),
    ],
)
def test_what_is_meant(towards, fields, meant):
    assert towards.holds(fields) is meant


def test_destination_and_condition_have_both_to_be_true():
    action = parse_action(
        "a", ["msg:*"], URL, "SELECT 1", when="attempt > 1", towards=Towards(("example.org",))
    )
    for domain, attempt, told in (
        ("example.org", 2, True),
        ("example.org", 1, False),
        ("other.org", 2, False),
    ):
        assert applies(action, Event("msg:defer", 1.0, {"domain": domain, "attempt": attempt})) is told


def test_a_pattern_keeps_only_events_that_name_what_the_rule_asks_for():
    action = parse_action("a", ["*"], URL, "SELECT 1", towards=Towards((), ("mx.example.org",)))
    assert "tcp:connect" in action.events
    assert not action.events & {"msg:complete", "msg:accept", "smtp:fail:syntax", "msg:fail:internal"}


async def test_a_veto_is_asked_only_about_the_destinations_of_its_rule(tmp_path):
    from events.actions import Veto

    action = parse_action(
        "no",
        ["tcp:connect"],
        f"sqlite:///{tmp_path}/policy.db",
        "SELECT 'closed'",
        veto=Veto(),
        towards=Towards(("example.org",)),
    )
    gate = SqlGate([action])
    assert not gate.open
    assert SqlGate(()).open
    try:
        asked = await gate.consult(Event("tcp:connect", 1.0, {"domain": "example.org"}))
        assert asked == Refuse("closed")
        assert await gate.consult(Event("tcp:connect", 1.0, {"domain": "other.org"})) == Allow()
    finally:
        await gate.aclose()
