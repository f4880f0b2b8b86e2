"""The client's machine: the table, replies in step, STARTTLS, 421, the end."""

from __future__ import annotations

import pytest

from deliver.message import Mailbox
from deliver.outcome import Phase
from deliver.smtp.client import ClientMachine, Exchange, Lost, State, UnexpectedReply, Unsolicited
from deliver.smtp.command import (
    Auth,
    AuthResponse,
    Bdat,
    BdatLast,
    Command,
    Data,
    Ehlo,
    EndOfContent,
    Helo,
    LocalMisuse,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
)
from deliver.smtp.ehlo import Capabilities
from deliver.smtp.reply import MalformedReply

RCPT = Rcpt(Mailbox.parse("bob@example.net"))
END = EndOfContent(b".\r\n")
EVERY: tuple[Command, ...] = (
    Ehlo("us"), Helo("us"), StartTls(), Mail(None), RCPT, Data(), END, Rset(), Noop(), Quit(),
    Bdat(1), BdatLast(0), Auth("PLAIN"), AuthResponse(b"x"),
)  # fmt: skip


def answer(machine: ClientMachine, octets: bytes) -> Exchange:
    machine.receive(octets)
    exchange = machine.next_exchange()
    assert exchange is not None
    return exchange


def ready(*keywords: str) -> ClientMachine:
    machine = ClientMachine()
    answer(machine, b"220 mx ESMTP\r\n")
    machine.send(Ehlo("us"))
    lines = ("mx", *keywords)
    answer(
        machine, b"".join(f"250-{line}\r\n".encode() for line in lines[:-1]) + f"250 {lines[-1]}\r\n".encode()
    )
    return machine


def in_content() -> ClientMachine:
    machine = ready("PIPELINING")
    for command in (Mail(None), RCPT, Data()):
        machine.send(command)
    machine.receive(b"250 a\r\n250 b\r\n354 c\r\n")
    for _ in range(3):
        machine.next_exchange()
    return machine


def test_a_whole_session_one_by_one() -> None:
    machine = ClientMachine()
    assert machine.awaiting is Phase.BANNER
    assert answer(machine, b"220 mx\r\n").phase is Phase.BANNER
    steps: list[tuple[Command, bytes, Phase, State]] = [
        (Ehlo("us"), b"250-mx\r\n250 SIZE\r\n", Phase.EHLO, State.READY),
        (Mail(None), b"250 ok\r\n", Phase.MAIL, State.ENVELOPE),
        (RCPT, b"550 no\r\n", Phase.RCPT, State.ENVELOPE),
        (RCPT, b"250 ok\r\n", Phase.RCPT, State.ENVELOPE),
        (Data(), b"354 go\r\n", Phase.DATA, State.CONTENT),
        (END, b"250 done\r\n", Phase.DOT, State.READY),
        (Noop(), b"250 here\r\n", Phase.RSET, State.READY),
        (Mail(None), b"451 later\r\n", Phase.MAIL, State.ENVELOPE),
        (Rset(), b"250 ok\r\n", Phase.RSET, State.READY),
        (Quit(), b"221 bye\r\n", Phase.QUIT, State.CLOSING),
    ]
    for number, (command, reply, phase, state) in enumerate(steps, 1):
        assert machine.send(command) == command.octets
        exchange = answer(machine, reply)
        index = number + 1 if number > 5 else number  # the reply to the content was due from 354 on
        assert (exchange.phase, exchange.command, exchange.number) == (phase, command, index)
        assert machine.state is state
    machine.receive(b"")
    assert machine.next_exchange() is None


SENDABLE = {
    State.CONNECTED: (),
    State.GREETED: (Ehlo, Helo, Quit),
    State.REFUSED: (Quit,),
    State.HELLO: (),
    State.READY: (StartTls, Auth, Mail, Rset, Noop, Quit),
    State.UPGRADING: (),
    State.LOGIN: (),
    State.ASKED: (AuthResponse,),
    State.ENVELOPE: (Rcpt, Data, Bdat, BdatLast, Rset, Quit),
    State.DATA: (),
    State.CONTENT: (EndOfContent,),
    State.ENDED: (),
    State.CHUNKS: (Bdat, BdatLast, Rset, Quit),
    State.CLOSING: (),
    State.BROKEN: (),
}


@pytest.mark.parametrize("state", list(State))
def test_every_command_in_every_state(state: State) -> None:
    for command in EVERY:
        machine = in_content() if state in (State.CONTENT, State.ENDED) else ready()
        if state not in (State.CONTENT, State.ENDED):
            machine.state = state
        elif state is State.ENDED:
            machine.send(END)
        assert machine.may_send(command) is (type(command) in SENDABLE[state]), command
        if not machine.may_send(command):
            with pytest.raises(LocalMisuse):
                machine.send(command)


def test_a_login_is_a_conversation_of_its_own_and_happens_once() -> None:
    machine = ready("AUTH LOGIN", "PIPELINING")
    machine.send(Auth("LOGIN"))
    assert not any(machine.may_send(command) for command in EVERY)
    for response in (b"ann", b"secret"):
        answer(machine, b"334 VXNlcg==\r\n")
        assert machine.state is State.ASKED
        machine.send(AuthResponse(response))
    assert not machine.logged_in
    assert answer(machine, b"235 2.7.0 in\r\n").phase is Phase.AUTH
    assert machine.logged_in
    assert machine.state is State.READY
    assert not machine.may_send(Auth("PLAIN"))
    assert machine.may_send(Mail(None))


def test_a_login_may_be_given_up_and_begun_again() -> None:
    machine = ready("AUTH LOGIN")
    machine.send(Auth("LOGIN"))
    answer(machine, b"334 \r\n")
    assert machine.send(AuthResponse(None)) == b"*\r\n"
    answer(machine, b"501 5.7.0 given up\r\n")
    assert machine.may_send(Auth("PLAIN", b"\0a\0b"))
    machine.send(Auth("PLAIN", b"\0a\0b"))
    answer(machine, b"454 4.7.0 later\r\n")
    assert not machine.logged_in
    assert machine.state is State.READY


def test_without_pipelining_one_reply_is_due_at_a_time() -> None:
    machine = ready()
    machine.send(Mail(None))
    with pytest.raises(LocalMisuse):
        machine.send(RCPT)


def test_nothing_may_follow_the_end_of_a_group() -> None:
    machine = ready("PIPELINING")
    machine.send(Mail(None))
    machine.send(RCPT)
    machine.send(Data())
    for command in EVERY:
        assert not machine.may_send(command)


def test_pipelined_replies_are_paired_in_order_however_they_arrive() -> None:
    machine = ready("PIPELINING")
    sent: list[Command] = [Mail(None), RCPT, Rcpt(Mailbox.parse("c@example.net")), Data()]
    for command in sent:
        machine.send(command)
    got = []
    for octet in b"250-a\r\n250 b\r\n550 c\r\n250 d\r\n354 e\r\n":
        machine.receive(bytes([octet]))
        while exchange := machine.next_exchange():
            got.append((exchange.command, exchange.reply.code))
    assert got == list(zip(sent, (250, 550, 250, 354), strict=True))


def test_starttls_forgets_what_was_said_in_clear_text() -> None:
    machine = ready("STARTTLS", "PIPELINING")
    machine.send(StartTls())
    answer(machine, b"220 go\r\n")
    machine.start_tls_done()
    assert machine.secured
    assert machine.state is State.GREETED
    assert machine.capabilities == Capabilities()
    machine.send(Ehlo("us"))
    answer(machine, b"250-mx\r\n250-STARTTLS\r\n250 SIZE 7\r\n")
    assert machine.capabilities.size == 7
    assert not machine.may_send(StartTls())


@pytest.mark.parametrize("tail", [b"250-mx\r\n250 AUTH PLAIN\r\n", b"2", b"\r\n", b"\x16\x03"])
def test_octets_behind_the_reply_to_starttls_are_an_attack(tail: bytes) -> None:
    machine = ready("STARTTLS")
    machine.send(StartTls())
    machine.receive(b"220 go\r\n" + tail)
    with pytest.raises(UnexpectedReply, match="behind the reply to STARTTLS"):
        machine.next_exchange()
    assert machine.state is State.BROKEN


def test_octets_that_come_after_the_reply_to_starttls_keep_tls_from_starting() -> None:
    machine = ready("STARTTLS")
    machine.send(StartTls())
    answer(machine, b"220 go\r\n")
    machine.receive(b"250 injected\r\n")
    with pytest.raises(LocalMisuse):
        machine.start_tls_done()


def test_starttls_is_never_pipelined_and_a_refusal_leaves_the_session_alone() -> None:
    machine = ready("PIPELINING", "STARTTLS")
    machine.send(Rset())
    assert not machine.may_send(StartTls())
    answer(machine, b"250 ok\r\n")
    machine.send(StartTls())
    assert not machine.may_send(Mail(None))
    answer(machine, b"454 not now\r\n")
    assert machine.state is State.READY
    with pytest.raises(LocalMisuse):
        machine.start_tls_done()


def test_a_reply_that_nobody_asked_for_breaks_the_session() -> None:
    machine = ready()
    machine.receive(b"250 hello again\r\n")
    assert not machine.synchronised()
    assert not machine.may_send(Mail(None))
    with pytest.raises(Unsolicited) as caught:
        machine.next_exchange()
    assert caught.value.reply.code == 250
    assert machine.state is State.BROKEN


def test_an_idle_421_is_reported_as_unsolicited() -> None:
    machine = ready()
    machine.receive(b"421 4.4.2 idle\r\n")
    with pytest.raises(Unsolicited, match="idle"):
        machine.next_exchange()


@pytest.mark.parametrize("command", [Mail(None), Rset(), Noop()])
def test_421_answers_whatever_is_waiting_and_closes(command: Command) -> None:
    machine = ready()
    machine.send(command)
    assert answer(machine, b"421 bye\r\n").reply.code == 421
    assert machine.state is State.CLOSING
    assert not any(machine.may_send(command) for command in EVERY)


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        (Mail(None), b"354 go\r\n"),
        (Rset(), b"334 x\r\n"),
        (StartTls(), b"354 go\r\n"),
        (Quit(), b"354 go\r\n"),
    ],
)
def test_replies_that_make_no_sense_break_the_session(command: Command, reply: bytes) -> None:
    machine = ready()
    machine.send(command)
    machine.receive(reply)
    with pytest.raises(UnexpectedReply):
        machine.next_exchange()
    assert machine.state is State.BROKEN


def test_data_answered_2yz_breaks_the_session() -> None:
    machine = ready("PIPELINING")
    machine.send(Mail(None))
    machine.send(Data())
    machine.receive(b"250 ok\r\n250 ok\r\n")
    machine.next_exchange()
    with pytest.raises(UnexpectedReply):
        machine.next_exchange()


@pytest.mark.parametrize(
    ("reply", "early"), [(b"552 too big\r\n", True), (b"421 bye\r\n", True), (b"250 ok\r\n", False)]
)
def test_a_reply_during_content(reply: bytes, early: bool) -> None:
    machine = in_content()
    assert not machine.synchronised()
    machine.receive(reply)
    if early:
        exchange = machine.next_exchange()
        assert exchange is not None
        assert exchange.phase is Phase.BODY
    else:
        with pytest.raises(UnexpectedReply):
            machine.next_exchange()
    assert machine.state is State.BROKEN
    assert not machine.may_send(Quit())


def test_a_reply_begun_before_the_end_of_content_is_no_answer_to_it() -> None:
    machine = in_content()
    machine.receive(b"250-")
    assert not machine.may_send(END)


def test_the_end_of_the_stream() -> None:
    machine = ready()
    machine.send(Mail(None))
    machine.receive(b"250 half")
    machine.receive(b"")
    with pytest.raises(Lost) as caught:
        machine.next_exchange()
    assert caught.value.phase is Phase.MAIL
    assert machine.state is State.BROKEN


def test_an_idle_end_is_no_error_but_ends_use() -> None:
    machine = ready()
    machine.receive(b"")
    assert machine.next_exchange() is None
    assert machine.ended
    assert not machine.synchronised()
    assert not machine.may_send(Mail(None))


def test_a_reply_before_the_end_of_the_stream_counts() -> None:
    machine = ready()
    machine.send(Mail(None))
    machine.receive(b"550 no\r\n")
    machine.receive(b"")
    exchange = machine.next_exchange()
    assert exchange is not None
    assert exchange.reply.code == 550


def test_a_refusing_greeting_leaves_only_quit() -> None:
    machine = ClientMachine()
    answer(machine, b"554 no service\r\n")
    assert machine.state is State.REFUSED
    assert [type(command) for command in EVERY if machine.may_send(command)] == [Quit]


def test_helo_after_a_refused_ehlo() -> None:
    machine = ClientMachine()
    answer(machine, b"220 mx\r\n")
    machine.send(Ehlo("us"))
    answer(machine, b"502 what\r\n")
    machine.send(Helo("us"))
    answer(machine, b"250-mx\r\n250 PIPELINING\r\n")
    assert machine.state is State.READY
    assert not machine.capabilities.pipelining


def test_garbage_breaks_the_session_for_good() -> None:
    machine = ready()
    machine.send(Mail(None))
    machine.receive(b"HTTP/1.1 400 Bad Request\r\n250 ok\r\n")
    for _ in range(2):
        with pytest.raises(MalformedReply):
            machine.next_exchange()
    assert machine.state is State.BROKEN


def test_breaking_off_allows_nothing_more() -> None:
    machine = ready()
    machine.break_off()
    assert not any(machine.may_send(command) for command in EVERY)


def test_check_in_step_blames_the_server_for_what_it_said_unbidden() -> None:
    machine = ready("PIPELINING")
    machine.check_in_step(Phase.MAIL)
    machine.send(Mail(None))
    machine.receive(b"25")
    machine.check_in_step(Phase.MAIL)  # a reply is due: nothing to complain about
    for octets, error in ((b"250 x\r\n", Unsolicited), (b"25", MalformedReply), (b"", Lost)):
        machine = ready()
        machine.receive(octets)
        with pytest.raises(error):
            machine.check_in_step(Phase.MAIL)
        assert machine.state is State.BROKEN
    machine = in_content()
    machine.check_in_step(Phase.MAIL)
    machine.receive(b"550 x\r\n")
    with pytest.raises(MalformedReply):
        machine.check_in_step(Phase.MAIL)


def test_check_in_step_after_421_says_that_the_server_left() -> None:
    machine = ready("STARTTLS")
    machine.send(StartTls())
    answer(machine, b"421 bye\r\n")
    with pytest.raises(Lost, match="announced"):
        machine.check_in_step(Phase.MAIL)
