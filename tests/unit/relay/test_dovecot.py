"""Dovecot's protocol without Dovecot; with it: tests/interop/test_auth_server.py."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given, strategies as st

from deliver.relay.dovecot import (
    MAX_LINE,
    Answer,
    Caller,
    Continue,
    Denied,
    DovecotBroken,
    DovecotMachine,
    Granted,
    Greeted,
)

# As Dovecot 2.3.19 says it.
GREETING = (
    b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nMECH\tSCRAM-SHA-256\tmutual-auth\n"
    b"SPID\t1234\nCUID\t1\nCOOKIE\td1a5bb4d9ae8b0b5a02e3bb5a5eb0bb8\nDONE\n"
)
CALLER = Caller("192.0.2.7", 40000, "192.0.2.1", 587)


def greeted() -> DovecotMachine:
    machine = DovecotMachine(77)
    assert machine.receive(GREETING) == Greeted(("PLAIN", "LOGIN", "SCRAM-SHA-256"))
    return machine


def asked() -> DovecotMachine:
    machine = greeted()
    machine.begin("PLAIN", CALLER, b"x")
    return machine


def test_the_whole_exchange() -> None:
    machine = greeted()
    assert machine.hello == b"VERSION\t1\t0\nCPID\t77\n"
    sent = machine.begin("PLAIN", CALLER, b"\0alice\0secret")
    assert sent == (
        b"AUTH\t1\tPLAIN\tservice=smtp\tsecured\tlip=192.0.2.1\trip=192.0.2.7\tlport=587\trport=40000\tnologin\t"
        b"resp=" + b64encode(b"\0alice\0secret") + b"\n"
    )
    assert machine.receive(b"OK\t1\tuser=alice\toriginal_user=Alice\n") == Granted("alice")


def test_challenges_go_both_ways() -> None:
    machine = greeted()
    assert b"resp=" not in machine.begin("LOGIN", CALLER, None)
    assert machine.receive(b"CONT\t1\tVXNlcm5hbWU6\n") == Continue(b"Username:")
    assert machine.go_on(b"alice") == b"CONT\t1\tYWxpY2U=\n"
    assert machine.receive(b"CONT\t1\t\n") == Continue(b"")
    machine.go_on(b"secret")
    assert machine.receive(b"FAIL\t1\tuser=alice\n") == Denied("alice", False)


def test_an_empty_initial_response_is_one() -> None:
    assert greeted().begin("PLAIN", CALLER, b"").endswith(b"\tresp=\n")


def test_only_what_is_known_is_told() -> None:
    sent = greeted().begin("PLAIN", Caller("", 0, "", 0, certificate=True), None)
    assert sent == b"AUTH\t1\tPLAIN\tservice=smtp\tsecured\tvalid-client-cert\tnologin\n"


@pytest.mark.parametrize("address", ["local\t", "a\nAUTH", "\1t", "ü"])
def test_no_value_makes_another_field(address: str) -> None:
    sent = greeted().begin("PLAIN", Caller(address, 0, "", 0), None)
    assert sent == b"AUTH\t1\tPLAIN\tservice=smtp\tsecured\tnologin\n"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"FAIL\t1\n", Denied("", False)),
        (b"FAIL\t1\tuser=alice\ttemp\n", Denied("alice", True)),
        (b"FAIL\t1\tuser=alice\tcode=temp_fail\n", Denied("alice", True)),
        (b"FAIL\t1\tuser=\x01n\n", Denied("", False)),
        (b"OK\t1\tuser=a\x01\x31b\n", None),
        (b"OK\t1\tuser=al\tuser=ice\n", Granted("ice")),
        ("OK\t1\tuser=müller\n".encode(), Granted("müller")),
    ],
)
def test_verdicts(line: bytes, answer: Answer | None) -> None:
    machine = asked()
    if answer is None:
        with pytest.raises(DovecotBroken):
            machine.receive(line)
    else:
        assert machine.receive(line) == answer


@pytest.mark.parametrize(
    "line",
    [
        b"OK\t1\n",
        b"OK\t1\tuser=\n",
        b"OK\t1\tuser=" + b"x" * 300 + b"\n",
        b"OK\t2\tuser=alice\n",
        b"OK\n",
        b"CONT\t1\t!!!\n",
        b"",
        b"x" * (MAX_LINE + 1),
    ],
)
def test_an_answer_that_is_none_is_no_login(line: bytes) -> None:
    with pytest.raises(DovecotBroken):
        asked().receive(line)


def test_an_answer_before_the_question_is_no_login() -> None:
    with pytest.raises(DovecotBroken):
        greeted().receive(b"OK\t1\tuser=alice\n")


def test_an_answer_after_the_answer_is_no_login() -> None:
    machine = asked()
    assert machine.receive(b"FAIL\t1\n") == Denied("", False)
    with pytest.raises(DovecotBroken):
        machine.receive(b"OK\t1\tuser=alice\n")


def test_an_answer_in_the_greeting_is_no_login() -> None:
    machine = DovecotMachine(1)
    assert machine.receive(b"OK\t1\tuser=alice\n") is None
    assert isinstance(machine.receive(GREETING), Greeted)


@pytest.mark.parametrize(
    ("greeting", "why"),
    [
        (b"VERSION\t2\t0\n", "version"),
        (b"VERSION\t1\t0\nSPID\t1\n", "auth-client"),
        (b"MECH\tPLAIN\nDONE\n", "no version"),
        (b"X\n" * 300, "no end"),
        (b"x" * (MAX_LINE + 1), "without an end"),
        (b"", "closed"),
    ],
)
def test_greetings_that_are_none(greeting: bytes, why: str) -> None:
    with pytest.raises(DovecotBroken, match=why):
        DovecotMachine(1).receive(greeting)


def test_a_mechanism_that_dovecot_does_not_have() -> None:
    with pytest.raises(DovecotBroken, match="it does not offer SCRAM-SHA-1"):
        greeted().begin("SCRAM-SHA-1", CALLER, None)


@given(st.lists(st.integers(1, 60), max_size=8))
def test_the_greeting_may_come_in_any_pieces(cuts: list[int]) -> None:
    machine, rest, answer = DovecotMachine(1), GREETING, None
    for cut in cuts:
        if answer is None and rest:
            answer = machine.receive(rest[:cut])
            rest = rest[cut:]
    assert answer is not None or isinstance(machine.receive(rest), Greeted)


@given(
    st.lists(
        st.binary(min_size=1, max_size=60)
        | st.lists(
            st.sampled_from(["OK", "FAIL", "CONT", "1", "2", "user=a", "user=", "AAAA", "temp", "MECH"]),
            max_size=5,
        ).map(lambda words: "\t".join(words).encode() + b"\n"),
        max_size=8,
    )
)
def test_whatever_dovecot_says_is_an_answer_or_broken(said: list[bytes]) -> None:
    machine = asked()
    try:
        for each in said:
            answer = machine.receive(each)
            if isinstance(answer, Granted):
                assert answer.username
            if isinstance(answer, Continue):
                machine.go_on(b"")
    except DovecotBroken:
        pass
