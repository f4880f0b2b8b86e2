"""Records and policies of MTA-STS (RFC 8461 3)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from deliver.resolve.sts import (
    MAX_AGE,
    MAX_PATTERNS,
    BadPolicy,
    Mode,
    StsPolicy,
    parse_policy,
    policy_host,
    policy_id,
    record_name,
)

GOOD = b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n"


def test_a_policy_is_announced_and_served_under_names_of_the_domain() -> None:
    assert record_name("example.com") == "_mta-sts.example.com"
    assert policy_host("example.com") == "mta-sts.example.com"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (b"v=STSv1; id=20160831085700Z;", "20160831085700Z"),
        (b"v=STSv1;id=1", "1"),
        (b"v=STSv1 ;\tid=a1 ; ", "a1"),
        (b"v=STSv1; id=1; other=x:y; id=2;", "1"),
        (b"v=STSv1; other=x; id=7", "7"),
        (b"v=STSv1; id=" + b"a" * 32, "a" * 32),
        (b"v=STSv1; id=" + b"a" * 33, None),
        (b"v=STSv1; id=with-dash", None),
        (b"v=STSv1; id=", None),
        (b"v=STSv1;", None),
        (b"v=STSv1", None),
        (b"v=STSv1; nothing; id=1", None),
        (b"v=STSv1;; id=1", None),
        (b"v=STSv1; id=1; x=\xff", None),
        (b"v=STSv2; id=1", None),
        (b"V=STSv1; id=1", None),
        (b" v=STSv1; id=1", None),
        (b"v=STSv1; ID=1", None),
    ],
)
def test_the_id_of_a_record(record: bytes, expected: str | None) -> None:
    assert policy_id([record]) == expected


def test_other_text_records_do_not_count_and_two_of_ours_mean_none() -> None:
    assert policy_id([b"v=spf1 -all", b"v=STSv1; id=1"]) == "1"
    assert policy_id([b"v=STSv1; id=1", b"v=STSv1; id=1"]) is None
    assert policy_id([b"v=STSv1; id=1", b"v=STSv1; broken"]) is None
    assert policy_id([]) is None


def test_a_policy_is_read() -> None:
    assert parse_policy(GOOD) == StsPolicy(Mode.ENFORCE, ("mail.example.com", "*.example.net"), 604800)


def test_line_feeds_alone_spaces_behind_and_no_last_line_end_are_allowed() -> None:
    text = b"version:STSv1\nmode:\t testing  \n\nmax_age:  10\nmx: A.Example."
    assert parse_policy(text) == StsPolicy(Mode.TESTING, ("a.example",), 10)


def test_of_fields_that_come_twice_the_first_counts_and_unknown_ones_do_not() -> None:
    text = GOOD + b"mode: none\nmax_age: 1\nfuture: \xc3\xa9\xc2\xa0x\nempty:\nversion: STSv2\n"
    assert parse_policy(text) == parse_policy(GOOD)


def test_names_are_compared_as_a_labels() -> None:
    text = "version: STSv1\nmode: enforce\nmx: *.Müller.example\nmax_age: 1".encode()
    policy = parse_policy(text)
    assert policy.patterns == ("*.xn--mller-kva.example",)
    assert policy.covers("mx.xn--mller-kva.example")


def test_an_age_of_more_than_a_year_is_a_year() -> None:
    text = GOOD.replace(b"604800", b"9999999999")
    assert parse_policy(text).max_age == MAX_AGE


def test_mode_none_needs_no_hosts() -> None:
    assert parse_policy(b"version: STSv1\nmode: none\nmax_age: 1") == StsPolicy(Mode.NONE, (), 1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "version"),
        (b"\xff", "UTF-8"),
        (GOOD.replace(b"STSv1", b"STSv2"), "version"),
        (GOOD.replace(b"version: STSv1\r\n", b""), "version"),
        (GOOD.replace(b"enforce", b"Enforce"), "mode"),
        (GOOD.replace(b"mode: enforce\r\n", b""), "mode"),
        (GOOD.replace(b"604800", b"-1"), "max_age"),
        (GOOD.replace(b"604800", b"1 week"), "max_age"),
        (GOOD.replace(b"604800", b"12345678901"), "max_age"),
        (GOOD.replace(b"max_age: 604800", b""), "max_age"),
        (b"version: STSv1\nmode: testing\nmax_age: 1", "names no mx"),
        (GOOD + b"no field\n", "no field"),
        (GOOD + b"mx:\n", "no host name"),
        (GOOD + b"mx: 192.0.2.1\n", "no host name"),
        (GOOD + b"mx: *\n", "no host name"),
        (GOOD + b"mx: *.*.example\n", "no host name"),
        (GOOD + b"mx: mail.*.example\n", "no host name"),
        (GOOD + b"mx: [192.0.2.1]\n", "no host name"),
        (GOOD + b"mx: a b\n", "no host name"),
        (GOOD + b"mx: a\x00b\n", "no field"),
        (GOOD + b"<html>\n", "no field"),
        (GOOD + b"\n" * 2000, "lines"),
        (GOOD + b"".join(b"mx: m%d.example\n" % n for n in range(MAX_PATTERNS)), "more than"),
        (GOOD + b"".join(b"mx: m%d.%s.example\n" % (n, b"x" * 60) for n in range(80)), "more than"),
    ],
)
def test_what_breaks_the_grammar_is_no_policy(text: bytes, why: str) -> None:
    with pytest.raises(BadPolicy, match=why):
        parse_policy(text)


@pytest.mark.parametrize(
    ("host", "covered"),
    [
        ("mail.example.com", True),
        ("example.com", False),
        ("other.example.com", False),
        ("x.mail.example.com", False),
        ("a.example.net", True),
        ("example.net", False),
        ("a.b.example.net", False),
        ("net", False),
        ("", False),
    ],
)
def test_which_hosts_a_policy_covers(host: str, covered: bool) -> None:
    assert parse_policy(GOOD).covers(host) is covered


def test_a_wildcard_is_no_host() -> None:
    assert not StsPolicy(Mode.ENFORCE, ("*.",), 1).covers("mail")
    assert not StsPolicy(Mode.ENFORCE, ("a.example",), 1).covers("*.example")


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_any_record_gives_an_id_or_none(texts: list[bytes]) -> None:
    found = policy_id(texts)
    assert found is None or (0 < len(found) <= 32 and found.isascii() and found.isalnum())


_LINES = st.sampled_from(
    [b"version: STSv1", b"mode: enforce", b"mode: none", b"mx: a.example", b"mx: *.b.example", b"max_age: 5"]
)


@given(st.lists(st.one_of(_LINES, st.binary(max_size=50)), max_size=8).map(b"\n".join))
def test_any_text_is_a_policy_or_refused(text: bytes) -> None:
    with suppress(BadPolicy):
        policy = parse_policy(text)
        assert 0 <= policy.max_age <= MAX_AGE
        assert policy.patterns or policy.mode is Mode.NONE
