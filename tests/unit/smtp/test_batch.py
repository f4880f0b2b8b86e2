"""Whether a session that was used before, rather than the message, was refused."""

from __future__ import annotations

import pytest

from deliver.smtp.transaction import LONE_DOT, SendCommands
from tests.unit.smtp.test_chunking import Session, machine

ANSWERS = [
    # what the server answered to MAIL, RCPT, RCPT and BDAT LAST before it went silent; of the session
    ("", True),
    ("421", True),
    ("451", True),
    ("503", True),
    ("250 421", True),
    ("250 250", True),
    ("250 550 550", False),
    ("250 450 450", False),
    ("250 550", True),
    ("250 250 250 250", False),
    ("250 550 250 250", False),
    ("250 250 250 450", False),
    ("250 250 250 550", False),
]


@pytest.mark.parametrize(("codes", "expected"), ANSWERS)
def test_what_says_nothing_about_the_message(codes: str, expected: bool) -> None:
    session = Session(2)  # DATA
    transaction = session.batch.following()
    assert transaction is not None
    ours = machine()
    action = transaction.next_action()
    assert isinstance(action, SendCommands)
    for command in action.commands:
        ours.send(command)
    answers = codes.split()
    dot = answers.pop() if len(answers) == 4 else None
    while answers and not transaction.finished:
        code = answers.pop(0)
        ours.receive(f"{code} x\r\n".encode())
        exchange = ours.next_exchange()
        assert exchange is not None
        transaction.got(exchange)
    if dot is not None and not transaction.finished:
        ours.receive(b"354 go on\r\n")
        exchange = ours.next_exchange()
        assert exchange is not None
        transaction.got(exchange)
        transaction.next_action()
        transaction.dot_handed_over()
        ours.send(LONE_DOT)
        ours.receive(f"{dot} x\r\n".encode())
        exchange = ours.next_exchange()
        assert exchange is not None
        transaction.got(exchange)
    elif not transaction.finished and codes not in ("250 550 550", "250 450 450"):
        transaction.lost("the server closed the connection")
    assert session.batch.came_to_nothing is expected


def test_in_doubt_is_never_nothing() -> None:
    session = Session(1)
    transaction = session.batch.following()
    assert transaction is not None
    ours = machine()
    action = transaction.next_action()
    assert isinstance(action, SendCommands)
    for command in action.commands:
        ours.send(command)
    for code in (250, 250, 354):
        ours.receive(f"{code} x\r\n".encode())
        exchange = ours.next_exchange()
        assert exchange is not None
        transaction.got(exchange)
    transaction.next_action()
    assert session.batch.came_to_nothing, "the content may be on its way, its end is not"
    transaction.dot_handed_over()
    assert not session.batch.came_to_nothing
    transaction.lost("the server closed the connection")
    assert not session.batch.came_to_nothing
