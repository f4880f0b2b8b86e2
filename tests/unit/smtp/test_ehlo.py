"""Capabilities: what an EHLO reply offers, and what a hostile one cannot do."""

from __future__ import annotations

import pytest

from deliver.smtp.ehlo import MAX_LINES, MAX_MECHANISMS, MAX_TEXT, Capabilities
from deliver.smtp.reply import Reply


def test_an_ordinary_reply() -> None:
    said = Capabilities.parse(
        Reply(
            250,
            (
                "mx.example Hello you",
                "PIPELINING",
                "size 35882577",
                "StartTLS",
                "8BITMIME",
                "AUTH A B",
                "CHUNKING",
            ),
        )
    )
    assert said.greeted_as == "mx.example"
    assert said.pipelining
    assert said.starttls
    assert said.eight_bit_mime
    assert said.chunking
    assert said.announces_size
    assert said.size == 35882577
    assert said.keywords["AUTH"] == "A B"
    assert said.lines[1] == "size 35882577"


def test_nothing_is_offered_before_ehlo_and_by_helo() -> None:
    for said in (Capabilities(), Capabilities.without_extensions(Reply(250, ("mx", "PIPELINING")))):
        assert not any((said.pipelining, said.starttls, said.eight_bit_mime, said.chunking))
        assert said.size is None
        assert not said.announces_size


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("SIZE", None),
        ("SIZE 0", None),
        ("SIZE x", None),
        ("SIZE -1", None),
        ("SIZE 1 2", None),
        ("SIZE 9", 9),
        ("SIZE " + "9" * 21, None),
        ("SIZE " + "9" * 20, 10**20 - 1),
        ("SIZE=9", None),
        ("SIZE ٣", None),
    ],
)
def test_size(line: str, size: int | None) -> None:
    assert Capabilities.parse(Reply(250, ("mx", line))).size == size


def offering(*lines: str) -> Capabilities:
    return Capabilities.parse(Reply(250, ("mx", *lines)))


@pytest.mark.parametrize(
    ("lines", "mechanisms"),
    [
        (("auth plain Login",), ("PLAIN", "LOGIN")),
        (("AUTH=LOGIN PLAIN",), ("LOGIN", "PLAIN")),
        (("AUTH PLAIN", "auth=PLAIN LOGIN"), ("PLAIN", "LOGIN")),
        (("AUTH",), ()),
        (("AUTH PLAIN,LOGIN \x7f ü SCRAM-SHA-256 " + "X" * 21,), ("SCRAM-SHA-256",)),
        (("SIZE",), ()),
    ],
)
def test_mechanisms_of_auth(lines: tuple[str, ...], mechanisms: tuple[str, ...]) -> None:
    assert offering(*lines).auth == mechanisms


def test_mechanisms_are_counted() -> None:
    assert len(offering("AUTH " + " ".join(f"M{n}" for n in range(100))).auth) == MAX_MECHANISMS


def test_smtputf8_needs_8bitmime_and_dsn_stands_alone() -> None:
    assert offering("smtputf8", "8bitMIME").smtputf8
    assert not offering("SMTPUTF8").smtputf8
    assert offering("dsn").dsn
    assert not offering("DSNX", "X-DSN").dsn


def test_lines_that_are_no_ehlo_lines_offer_nothing() -> None:
    said = Capabilities.parse(
        Reply(250, ("PIPELINING", "-STARTTLS", "AUTH=LOGIN", "", "STARTTLS\\r", "ok: CHUNKING"))
    )
    assert dict(said.keywords) == {}


def test_the_first_of_a_repeated_keyword_counts() -> None:
    assert Capabilities.parse(Reply(250, ("mx", "SIZE 10", "size 99"))).size == 10


def test_hostile_replies_are_cut() -> None:
    said = Capabilities.parse(Reply(250, ("g" * 4000, *(f"X{n} " + "y" * 4000 for n in range(127)))))
    assert len(said.greeted_as) == MAX_TEXT
    assert len(said.lines) == len(said.keywords) == MAX_LINES
    assert max(map(len, said.lines)) == MAX_TEXT


def test_an_empty_reply_is_no_accident() -> None:
    assert Capabilities.parse(Reply(250, ("",))) == Capabilities()
