"""What may leave early, by what is remembered; and the client's machine that presumes it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from msgspec import structs

from deliver.message import Mailbox
from deliver.outcome import Phase
from deliver.smtp.client import ClientMachine, State
from deliver.smtp.command import BdatLast, Command, Data, Ehlo, LocalMisuse, Mail, Rcpt, StartTls
from deliver.smtp.ehlo import Capabilities
from deliver.smtp.pipeconnect import ONE_BY_ONE, Circumstances, as_remembered, plan_opening, remembered
from deliver.smtp.reply import Reply
from hints.records import EhloAnswer, EhloPhase

WORDS = ("PIPELINING", "CHUNKING", "PIPECONNECT")
CLEAR = EhloAnswer("192.0.2.1", 25, EhloPhase.CLEAR, "mx", (*WORDS, "STARTTLS"))
TLS = EhloAnswer("192.0.2.1", 25, EhloPhase.TLS, "mx", WORDS)
FACTS = Circumstances(wanted=True, use_tls=True, level_none=False, own_answer=False)
NONE = replace(FACTS, use_tls=False, level_none=True)
OFFERS = Capabilities.parse(Reply(250, ("mx", *WORDS, "STARTTLS")))
RCPT = Rcpt(Mailbox.parse("a@example.net"))


def without(answer: EhloAnswer, word: str) -> EhloAnswer:
    return structs.replace(answer, keywords=tuple(one for one in answer.keywords if one != word))


def shape(*known: EhloAnswer, **facts: Any) -> tuple[bool, bool, bool, bool, bool]:
    """EHLO early, STARTTLS behind it, the envelope too, BDAT too, the envelope inside TLS."""
    base = NONE if facts.pop("level", None) == "none" else FACTS
    plan = plan_opening(known, replace(base, **facts))
    return plan.clear is not None, plan.starttls, plan.envelope, plan.bdat, plan.secured is not None


NOTHING = (False, False, False, False, False)


@pytest.mark.parametrize(
    ("known", "facts", "expected"),
    [
        ((CLEAR, TLS), {}, (True, True, False, True, True)),
        ((CLEAR,), {}, (True, True, False, True, False)),
        ((TLS,), {}, NOTHING),
        ((), {}, NOTHING),
        ((without(CLEAR, "PIPECONNECT"), TLS), {}, NOTHING),
        ((without(CLEAR, "PIPELINING"), TLS), {}, NOTHING),
        ((CLEAR, without(TLS, "PIPECONNECT")), {}, (True, True, False, True, False)),
        ((CLEAR, without(TLS, "PIPELINING")), {}, (True, True, False, True, False)),
        ((without(CLEAR, "STARTTLS"), TLS), {}, (True, False, False, True, False)),
        ((without(CLEAR, "CHUNKING"), TLS), {}, (True, True, False, False, True)),
        ((CLEAR, TLS), {"wanted": False}, NOTHING),
        ((CLEAR, TLS), {"pipelining": False}, NOTHING),
        ((CLEAR, TLS), {"own_answer": True}, (True, True, False, True, False)),
        ((CLEAR, TLS), {"level": "none"}, (True, False, True, False, False)),
        ((CLEAR, TLS), {"level": "none", "early_bdat_clear": True}, (True, False, True, True, False)),
        ((CLEAR, TLS), {"level": "none", "own_answer": True}, (True, False, False, False, False)),
        ((CLEAR, TLS), {"level": "none", "level_none": False}, (True, False, False, False, False)),
    ],
)
def test_what_may_leave_early(
    known: tuple[EhloAnswer, ...], facts: dict[str, Any], expected: tuple[bool, ...]
) -> None:
    assert shape(*known, **facts) == expected


def test_nothing_early_is_one_and_the_same_plan() -> None:
    assert plan_opening((), FACTS) is ONE_BY_ONE


def test_an_answer_is_the_remembered_one_with_its_name_and_every_line() -> None:
    known = remembered(CLEAR)
    assert as_remembered(known, OFFERS)
    assert not as_remembered(known, Capabilities.parse(Reply(250, ("mx2", *WORDS, "STARTTLS"))))
    assert not as_remembered(known, Capabilities.parse(Reply(250, ("mx", *WORDS, "STARTTLS", "HELP"))))
    assert not as_remembered(known, Capabilities.parse(Reply(250, ("mx", *WORDS))))
    long = "m" * 400
    cut = structs.replace(CLEAR, greeted_as=long[:255])
    assert as_remembered(remembered(cut), Capabilities.parse(Reply(250, (long, *CLEAR.keywords))))


def sent(machine: ClientMachine, *commands: Command) -> ClientMachine:
    for command in commands:
        machine.send(command)
    return machine


def read(machine: ClientMachine, octets: bytes) -> list[tuple[Phase, int]]:
    machine.receive(octets)
    replies = []
    while exchange := machine.next_exchange():
        replies.append((exchange.phase, exchange.reply.code))
    return replies


def early(*commands: Command) -> ClientMachine:
    machine = ClientMachine()
    machine.presume(OFFERS)
    return sent(machine, *commands)


def test_without_presumption_nothing_is_sent_before_the_greeting() -> None:
    machine = ClientMachine()
    with pytest.raises(LocalMisuse):
        machine.send(Ehlo("us"))
    machine = ClientMachine()
    machine.presume(Capabilities())
    assert not machine.may_send(Ehlo("us")), "nothing was promised"


def test_ehlo_and_starttls_before_the_greeting() -> None:
    machine = early(Ehlo("us"), StartTls())
    assert not machine.may_send(Mail(None))
    assert read(machine, b"220 mx\r\n250-mx\r\n250 STARTTLS\r\n220 go\r\n") == [
        (Phase.BANNER, 220),
        (Phase.EHLO, 250),
        (Phase.STARTTLS, 220),
    ]
    assert machine.state is State.UPGRADING
    assert machine.capabilities.starttls
    assert not machine.capabilities.pipelining, "this connection's own answer counts"
    machine.start_tls_done()
    machine.presume(OFFERS)
    sent(machine, Ehlo("us"), Mail(None), RCPT, BdatLast(0))
    assert machine.state is State.ENDED
    read(machine, b"250-mx\r\n250 PIPELINING\r\n250 a\r\n250 b\r\n250 c\r\n")
    assert machine.state is State.READY


def test_an_envelope_before_the_greeting() -> None:
    machine = early(Ehlo("us"), Mail(None), RCPT, Data())
    assert machine.due == 5
    read(machine, b"220 mx\r\n250-mx\r\n250 PIPELINING\r\n250 a\r\n250 b\r\n354 c\r\n")
    assert machine.state is State.CONTENT


@pytest.mark.parametrize("replies", [b"554 no\r\n", b"220 mx\r\n550 no\r\n", b"450 no\r\n"])
def test_a_refusal_with_commands_behind_it_breaks_the_session(replies: bytes) -> None:
    machine = early(Ehlo("us"), Mail(None), RCPT, Data())
    read(machine, replies)
    assert machine.state is State.BROKEN
    read(machine, b"250 late\r\n" * (machine.due - 1))
    assert machine.state is State.BROKEN, "no later reply mends it"


def test_a_refused_ehlo_with_nothing_behind_it_does_not() -> None:
    machine = early(Ehlo("us"))
    read(machine, b"220 mx\r\n550 no\r\n")
    assert machine.state is State.GREETED


def test_octets_behind_the_reply_to_early_starttls_are_an_attack() -> None:
    machine = early(Ehlo("us"), StartTls())
    machine.receive(b"220 mx\r\n250-mx\r\n250 STARTTLS\r\n220 go\r\n250 injected\r\n")
    assert machine.next_exchange()
    assert machine.next_exchange()
    with pytest.raises(Exception, match="behind the reply to STARTTLS"):
        machine.next_exchange()


def test_presuming_is_for_what_was_not_asked_yet() -> None:
    machine = early(Ehlo("us"))
    with pytest.raises(LocalMisuse):
        machine.presume(OFFERS)
    read(machine, b"220 mx\r\n250 mx\r\n")
    with pytest.raises(LocalMisuse):
        machine.presume(OFFERS)
    assert not machine.may_send(Data())
    sent(machine, Mail(None))
    assert not machine.may_send(RCPT), "without PIPELINING of its own"


answers = st.builds(
    EhloAnswer,
    st.just("192.0.2.1"),
    st.just(25),
    st.sampled_from(EhloPhase),
    st.text(max_size=20),
    st.lists(
        st.one_of(
            st.text(max_size=30), st.sampled_from([*WORDS, "STARTTLS", "pipeconnect", "SIZE 99999999999"])
        ),
        max_size=8,
    ).map(tuple),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(answers, max_size=4), st.builds(Circumstances, *[st.booleans()] * 6))
def test_whatever_is_remembered_nothing_more_than_allowed_leaves_early(
    known: list[EhloAnswer], facts: Circumstances
) -> None:
    plan = plan_opening(known, facts)
    if plan.clear is None:
        assert plan == ONE_BY_ONE
        return
    assert facts.wanted
    assert facts.pipelining
    assert plan.clear.pipelining
    if plan.envelope:
        assert facts.level_none
        assert not facts.use_tls
        assert facts.early_bdat_clear or not plan.bdat
    if plan.starttls or plan.secured:
        assert facts.use_tls
        assert plan.clear.starttls
        assert plan.clear.chunking or not plan.bdat
    if facts.own_answer:
        assert not plan.envelope
        assert plan.secured is None
