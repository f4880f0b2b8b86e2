"""The vocabulary of events, and what an Event does to values that peers control."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from events import document
from events.catalogue import EVENTS, FIELDS, MAX_TIME, Event, match, parameters_of, vocabulary_problems
from events.fields import MAX_JSON, MAX_TEXT, OMITTED

ROOT = Path(__file__).parents[3]
EXIM = """
    auth:fail dane:fail dns:fail msg:complete msg:defer msg:delivery msg:fail:delivery msg:fail:internal
    msg:host:defer msg:rcpt:defer msg:rcpt:host:defer smtp:connect smtp:ehlo smtp:fail:protocol
    smtp:fail:syntax tcp:close tcp:connect tls:cert tls:fail:connect
"""


def test_every_event_of_exim_is_known():
    assert set(EXIM.split()) == {name for name, kind in EVENTS.items() if kind.exim}


def test_fields_of_events_are_in_the_field_table():
    assert {one for kind in EVENTS.values() for one in kind.fields} <= set(FIELDS)


def test_every_field_is_carried_by_some_event():
    assert set(parameters_of(EVENTS)) == set(FIELDS)


def test_checked_refuses_an_unknown_event_and_field_with_the_near_spelling():
    with pytest.raises(ValueError, match="did you mean 'msg:delivery'"):
        Event.checked("msg:delivry", 1.0)
    with pytest.raises(ValueError, match="did you mean 'host_address'"):
        Event.checked("msg:delivery", 1.0, host_adress="192.0.2.1")
    assert Event.checked("msg:delivery", 1.0, host="mx.example").fields == {"host": "mx.example"}


def test_making_an_event_never_fails_and_bounds_what_peers_say():
    event = Event(
        "msg:delivery",
        math.nan,
        {
            "event_data": "a\0b\ud800" + "x" * 5000,
            "trace": "x" * (MAX_JSON + 1),
            "seconds": math.inf,
            "smtp_code": 2**80,
            "in_doubt": True,
            "host": b"mx\xff.example",  # type: ignore[dict-item]
            "domain": None,
        },
    )
    assert event.at == 0.0
    data = event.fields["event_data"]
    assert isinstance(data, str)
    assert data.startswith("a\ufffdb\ufffdx")
    assert len(data) == MAX_TEXT
    assert event.fields["trace"] == OMITTED
    assert event.fields["seconds"] is None
    assert event.fields["smtp_code"] is None
    assert event.fields["in_doubt"] == 1
    assert event.fields["in_doubt"] is not True
    assert event.fields["host"] == "mx\ufffd.example"
    assert event.fields["domain"] is None


def test_an_event_does_not_change_with_the_mapping_that_it_was_made_from():
    fields = {"host": "mx.example"}
    event = Event("tcp:close", 1.0, fields)
    fields["host"] = "other.example"
    assert event.fields["host"] == "mx.example"


def test_the_time_is_text_in_utc():
    assert Event("tcp:close", 1767225599.5).time == "2025-12-31T23:59:59.500Z"


@given(
    st.one_of(
        st.floats(0, MAX_TIME - 1),
        st.floats(1.7e9, 1.8e9),
        st.builds(
            lambda seconds, part: seconds + part,
            st.integers(0, 2**32),
            st.sampled_from([0.0005, 0.9999995, 0.9999994]),
        ),
    )
)
def test_the_time_of_an_event_is_that_of_datetime(at):
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    assert Event("tcp:close", at).time == moment.replace("+00:00", "Z")


@settings(max_examples=100, derandomize=True)
@given(
    st.sampled_from(sorted(EVENTS)),
    st.floats(),
    st.dictionaries(st.sampled_from(sorted(FIELDS)), st.none() | st.text() | st.integers() | st.floats()),
)
def test_encoded_events_come_back(name, at, fields):
    event = Event(name, at, fields)
    assert Event.decode(event.encode()) == event


@settings(max_examples=100, derandomize=True)
@given(st.text() | st.sampled_from(['{"name":1}', "[]", '{"name":"a","at":1,"fields":{"x":[]}}', "[" * 2000]))
def test_decoding_anything_else_is_a_value_error(text):
    try:
        decoded = Event.decode(text)
    except ValueError:
        return
    assert isinstance(decoded, Event)


def test_patterns_match_by_star_only_and_never_nothing():
    assert match("msg:delivery") == ("msg:delivery",)
    assert set(match("msg:fail:*")) == {"msg:fail:delivery", "msg:fail:internal"}
    assert set(match("*")) == set(EVENTS)
    with pytest.raises(ValueError, match="did you mean 'tls:cert'"):
        match("tls:cerd")
    with pytest.raises(ValueError, match=r"only '\*' is a wildcard"):
        match("msg:[a-z]*")


def test_the_document_is_fresh():
    written = (ROOT / "docs" / "events.md").read_text()
    assert written == document.markdown(), "run: python -m events.document > docs/events.md"


def raised_by_the_program() -> Iterator[tuple[str, str, list[str]]]:
    """(place, event name, literal field names) of every call that raises an event by a literal name."""
    for path in sorted((ROOT / "deliver").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name not in ("raise_event", "tell", "_tell", "_tell_of", "Event"):
                continue
            words = [one.value for one in node.args if isinstance(one, ast.Constant)]
            named = [word for word in words if isinstance(word, str) and ":" in word]
            if named and name != "Event":
                keywords = [one.arg for one in node.keywords if one.arg not in (None, "at")]
                yield f"{path.relative_to(ROOT)}:{node.lineno}", named[0], keywords
            elif named:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", named[0], _mapping_keys(node)


def _mapping_keys(call: ast.Call) -> list[str]:
    mappings = [one for one in (*call.args, *(k.value for k in call.keywords)) if isinstance(one, ast.Dict)]
    return [key.value for one in mappings for key in one.keys if isinstance(key, ast.Constant)]


def test_the_program_speaks_the_vocabulary():
    calls = list(raised_by_the_program())
    assert calls
    wrong = [
        f"{place}: {said}" for place, name, fields in calls for said in vocabulary_problems(name, fields)
    ]
    assert wrong == []
