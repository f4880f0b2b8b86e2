"""Conditions of actions: what they are true of, what is refused when they are read."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings, strategies as st

from events.condition import parse_condition
from events.fields import FIELDS

FIELDS_HERE = ("domain", "attempt", "seconds", "host", "smtp_code")


def holds(text: str, **fields: object) -> bool:
    return parse_condition(text, FIELDS_HERE).holds(fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "true",
    [
        "domain == 'example.org'",
        "domain != 'example.com'",
        "attempt > 1 and attempt < 3 and attempt >= 2 and attempt <= 2",
        "seconds > 1.4",
        "attempt in (1, 2)",
        "domain in ('a', 'example.org')",
        "domain like '*.org'",
        "domain like 'ex*le.o*'",
        "host == 'it''s'",
        "smtp_code != 5",
        "domain == 'x' or attempt == 2",
        "domain == 'x' and attempt == 9 or attempt == 2",
        "(domain == 'x' or attempt == 2) and seconds == 1.5",
    ],
)
def test_true(true):
    assert holds(true, domain="example.org", attempt=2, seconds=1.5, host="it's", smtp_code=None)


@pytest.mark.parametrize(
    "false",
    [
        "domain == 'Example.org'",
        "smtp_code == 0",
        "smtp_code < 1",
        "smtp_code in (1)",
        "host like '*'",
        "attempt < 3",
        "domain like '*.com'",
        "domain like 'exam*mple.org'",
        "domain == 'x' or attempt == 2 and domain == 'y'",
    ],
)
def test_false_and_absent_or_mistyped_fields(false):
    assert not holds(false, domain="example.org", attempt="two", smtp_code=None)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("domian == 'x'", "did you mean 'domain'"),
        ("transport == 'x'", "none of the events of this action carries it"),
        ("domain = 'x'", "cannot be understood"),
        ("domain == x", "a text in single quotes"),
        ('domain == "x"', "cannot be understood"),
        ("attempt == '1'", "a number"),
        ("attempt like '1*'", "no comparison"),
        ("domain", "ends where a comparison"),
        ("domain ==", "ends where a value"),
        ("domain == 'x' domain == 'y'", "join comparisons"),
        ("domain in ('x'", "')' is missing"),
        ("(" * 100 + "domain == 'x'", "too many parentheses"),
        ("domain == 'x'" + " " * 3000, "at most"),
        ("", "ends where a field"),
        ("domain == 'x'; DROP TABLE t", "cannot be understood"),
    ],
)
def test_mistakes_are_named(wrong, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace(")", r"\)")):
        parse_condition(wrong, FIELDS_HERE)


def test_a_hostile_value_takes_no_time():
    condition = parse_condition("domain like '" + "a*" * 500 + "b'", FIELDS_HERE)
    began = time.perf_counter()
    assert not condition.holds({"domain": "a" * 1000})
    assert time.perf_counter() - began < 0.5


@settings(max_examples=100, derandomize=True)
@given(st.text(alphabet="domain attempt='*()<>!1a,\0", max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        condition = parse_condition(text, tuple(FIELDS))
    except ValueError:
        return
    assert condition.holds({"domain": "a", "attempt": 1}) in (True, False)
