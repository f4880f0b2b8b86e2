"""The LMTP server machine: LHLO, and one reply per accepted RCPT (RFC 2033)."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from deliver.message import Mailbox
from deliver.smtp.action import (
    BeginContent,
    Close,
    ConsiderRecipient,
    ConsiderSender,
    EndContent,
)
from deliver.smtp.lmtp import LmtpMachine
from deliver.smtp.reply import Reply
from deliver.smtp.server import Limits

OPENED = b"LHLO mta.test\r\nMAIL FROM:<a@b.test>\r\n"


def drive(machine: LmtpMachine, data: bytes, answers: dict[str, Reply] | None = None) -> list[str]:
    """Feed everything; all replies, one line each. Recipients named `no` are refused."""
    table = answers or {}
    machine.receive(data)
    while (action := machine.next_action()) is not None:
        match action:
            case ConsiderRecipient(mailbox=mailbox) if mailbox.local_part == "no":
                machine.refuse(Reply(550, ("5.1.1 no",)))
            case ConsiderSender() | ConsiderRecipient() | BeginContent():
                machine.accept()
            case EndContent():
                machine.accept_each(lambda who: table.get(who.local_part, Reply(250, (f"2.0.0 {who}",))))
            case Close():
                break
    return [line for line in machine.take_output().decode().split("\r\n") if line[3:4] != "-" and line]


def machine() -> LmtpMachine:
    return LmtpMachine(Limits(message_size=1000), "mx.test")


def rcpt(*names: str) -> bytes:
    return b"".join(f"RCPT TO:<{name}@c.test>\r\n".encode() for name in names)


def test_the_greeting_says_lmtp() -> None:
    assert drive(machine(), b"") == ["220 mx.test LMTP Outrider"]


@pytest.mark.parametrize("hello", [b"EHLO mta.test", b"HELO mta.test", b"ehlo mta.test"])
def test_ehlo_and_helo_are_refused(hello: bytes) -> None:
    assert drive(machine(), hello + b"\r\nMAIL FROM:<a@b.test>\r\n")[1:] == [
        "500 5.5.1 This is LMTP: say LHLO",
        "503 5.5.1 Send EHLO first, and one MAIL per message",
    ]


def test_lhlo_needs_a_name() -> None:
    assert drive(machine(), b"LHLO\r\n")[1] == "501 5.5.4 LHLO needs your host name"


@pytest.mark.parametrize("secured", [True, False])
def test_requiretls_is_not_known_here(secured: bool) -> None:
    ours = machine()
    if secured:
        ours.tls_started()
    said = drive(ours, b"LHLO mta.test\r\nMAIL FROM:<a@b.test> REQUIRETLS\r\n")
    assert said[-1] == "555 5.5.4 Parameter REQUIRETLS is not recognised"


def test_one_reply_per_accepted_rcpt_in_their_order() -> None:
    said = drive(
        machine(),
        OPENED + rcpt("x", "no", "y", "x") + b"DATA\r\nhi\r\n.\r\nQUIT\r\n",
        {"y": Reply(451, ("4.2.1 later",))},
    )
    assert said[-4:] == [
        "250 2.0.0 x@c.test",
        "451 4.2.1 later",
        "250 2.0.0 x@c.test",
        "221 2.0.0 mx.test closing connection",
    ]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"a\nb\r\n.\r\n", "550"),
        (b"a\0b\r\n.\r\n", "550"),
        (b"x\r\n" * 500 + b".\r\n", "552"),
        (b"y" * 999 + b"\r\n.\r\n", "550"),
    ],
)
def test_what_refuses_the_content_is_said_to_each(content: bytes, code: str) -> None:
    said = drive(machine(), OPENED + rcpt("x", "y") + b"DATA\r\n" + content + b"NOOP\r\n")
    assert [line[:3] for line in said[-4:]] == ["354", code, code, "250"]


def test_a_refusal_by_the_driver_is_said_to_each() -> None:
    subject = machine()
    subject.receive(OPENED + rcpt("x", "y", "x") + b"DATA\r\nhi\r\n.\r\n")
    while (action := subject.next_action()) is not None:
        if isinstance(action, EndContent):
            subject.refuse(Reply(451, ("4.3.0 no disk",)))
        elif isinstance(action, (ConsiderSender, ConsiderRecipient, BeginContent)):
            subject.accept()
    replies = [line[:3] for line in subject.take_output().splitlines()]
    assert replies[-3:] == [b"451"] * 3
    assert replies[-4] == b"354"


def test_a_transaction_leaves_nothing_to_the_next() -> None:
    subject = machine()
    one = b"MAIL FROM:<>\r\n" + rcpt("z") + b"DATA\r\nhi\r\n.\r\n"
    drive(subject, OPENED + rcpt("x", "y") + b"DATA\r\nhi\r\n.\r\n")
    assert drive(subject, one)[-2:] == ["354 End data with <CR><LF>.<CR><LF>", "250 2.0.0 z@c.test"]
    drive(subject, b"MAIL FROM:<>\r\n" + rcpt("q", "r") + b"RSET\r\n")
    assert drive(subject, one)[-1] == "250 2.0.0 z@c.test"
    assert drive(subject, one)[-2].startswith("354")


@given(st.lists(st.sampled_from(["x", "y", "z", "no"]), min_size=1, max_size=30), st.integers(1, 40))
def test_replies_after_the_content_are_as_many_as_positive_replies_to_rcpt(
    names: list[str], size: int
) -> None:
    subject = machine()
    data = OPENED + rcpt(*names) + b"DATA\r\nhi\r\n.\r\n"
    said: list[str] = []
    for start in range(0, len(data), size):
        said += drive(subject, data[start : start + size])
    taken = sum(name != "no" for name in names)
    if taken and len(names) - taken <= 20:
        at = said.index("354 End data with <CR><LF>.<CR><LF>")
        assert said[at + 1 :] == [f"250 2.0.0 {Mailbox(name, 'c.test')}" for name in names if name != "no"]
