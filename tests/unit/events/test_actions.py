"""Actions are checked when the settings are read: events, parameters, database."""

from __future__ import annotations

import pytest

from events.actions import BadAction, applies, facts, matcher, parse_action, ready_made
from events.catalogue import EVENTS, FIELDS, Event
from events.fields import ALIASES, Kind
from events.outbox import DEFAULT_ACTION, Pending

URL = "sqlite:////tmp/never-opened.db"


def parse(sql="INSERT INTO t VALUES (:host)", events=("msg:delivery",), name="mine", url=URL, **more):
    return parse_action(name, events, url, sql, **more)


def test_parameters_are_found_and_bound():
    action = parse("INSERT INTO t VALUES (:event_id, :local_part || '@' || :domain, :event_data)")
    assert set(action.parameters) == {"event_id", "local_part", "domain", "event_data"}
    event = Event("msg:delivery", 1.0, {"local_part": "x'); DROP TABLE t; --", "domain": "example.org"})
    assert action.statements[0].values(facts(Pending(1, "i1", "m1", event))) == {
        "event_id": "i1",
        "local_part": "x'); DROP TABLE t; --",
        "domain": "example.org",
        "event_data": None,
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sql": "SELECT :host_adress"}, "did you mean 'host_address'"),
        ({"sql": "SELECT :router", "events": ("smtp:fail:syntax",)}, ":router is a field, but none of"),
        ({"sql": "SELECT ' :really'"}, r"write \\: for a colon"),
        ({"sql": "SELECT :host::text"}, r"write CAST\(:host AS"),
        ({"sql": "  "}, "between 1 and"),
        ({"sql": "SELECT 1" + " " * 20_000}, "between 1 and"),
        ({"events": ("msg:delivry",)}, "did you mean 'msg:delivery'"),
        ({"events": ()}, "no event is named"),
        ({"name": "a b"}, "cannot be the name"),
        ({"name": DEFAULT_ACTION}, "cannot be the name"),
        ({"url": "nonsense"}, "not an SQLAlchemy URL"),
        ({"url": "nosuchdb://host/x"}, "no driver for databases of type 'nosuchdb'"),
        ({"url": "oracle+cx_oracle://host/x"}, "no driver for databases of type"),
    ],
)
def test_mistakes_are_named(change, said):
    with pytest.raises(ValueError, match=said):
        parse(**change)


def test_casts_and_escaped_colons_are_no_parameters():
    action = parse(r"SELECT CAST(:host AS TEXT), router::text, 'a\:b', '12:30'")
    assert set(action.parameters) == {"host"}


def test_a_parameter_of_some_events_is_null_for_the_others():
    action = parse(events=("msg:*",))
    assert action.statements[0].values(facts(Pending(1, "i", "m", Event("msg:complete", 1.0)))) == {
        "host": None
    }


def test_the_password_is_set_and_never_shown():
    action = parse(url="sqlite://user@/x.db", password="s3cret")
    assert action.database.password == "s3cret"
    assert "s3cret" not in repr(action)
    assert "s3cret" not in action.where


def test_the_matcher_names_the_actions_that_want_an_event():
    wanted = matcher([parse(), ready_made(URL), parse(events=("tcp:*",), name="other")])
    assert wanted(Event("msg:delivery", 1.0)) == ("mine", DEFAULT_ACTION)
    assert wanted(Event("tcp:close", 1.0)) == (DEFAULT_ACTION, "other")
    assert wanted(Event("no:such", 1.0)) == ()
    assert ready_made(URL).events == frozenset(EVENTS)


def test_facts_name_the_message_also_for_events_without_the_field():
    known = facts(Pending(7, "i7", "m7", Event("tcp:close", 1.5, {"host": "mx"})))
    assert known == {
        "host": "mx",
        "message_id": "m7",
        "event_name": "tcp:close",
        "event_id": "i7",
        "event_at": 1.5,
        "event_time": "1970-01-01T00:00:01.500Z",
    }


@pytest.mark.parametrize(("alias", "field"), ALIASES.items())
def test_names_of_exims_actions_stand_for_fields(alias, field):
    action = parse(f"INSERT INTO t VALUES (:{alias}, :host)", events=("msg:*",))
    value: object = 25 if FIELDS[field].kind is Kind.INTEGER else "said"
    known = {field: value, "host": "mx.example.org"} | ({field: value} if field == "host" else {})
    assert action.statements[0].values(known)[alias] == value
    assert set(action.parameters) == {field, "host"}


def test_an_alias_is_checked_like_its_field():
    with pytest.raises(BadAction, match=":tpda_delivery_ip is a field, but none of the events") as caught:
        parse("SELECT :tpda_delivery_ip", events=("msg:complete",))
    assert caught.value.key == "sql"
    with pytest.raises(BadAction, match="did you mean 'tpda_delivery_ip'"):
        parse("SELECT :tpda_deliver_ip")


def test_conditions_understand_aliases():
    action = parse(when="tpda_delivery_domain == 'example.org'")
    assert applies(action, Event("msg:delivery", 1.0, {"domain": "example.org"}))
    assert not applies(action, Event("msg:delivery", 1.0, {"domain": "example.com"}))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"events": ("msg:delivry",)}, "events"),
        ({"when": "hots == 'x'"}, "when"),
        ({"url": "nonsense"}, "database"),
        ({"name": "a b"}, "name"),
        ({"sql": ()}, "sql"),
    ],
)
def test_a_mistake_names_its_key(change, key):
    with pytest.raises(BadAction) as caught:
        parse(**change)
    assert caught.value.key == key
