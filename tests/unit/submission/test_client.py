"""The SMTP with the relay: everything that was asked for, or nothing."""

from __future__ import annotations

import socket

import pytest

from deliver.submission.client import Message, Refused, submit
from tests.unit.submission.relays import ScriptedRelay

MESSAGE = Message("me@b.test", ("a@b.test", "c@b.test"), b".a\r\n..b\r\nlast\r\n")
BARE = b"250-relay.test\r\n250 PIPELINING\r\n"


def test_a_message_is_handed_over() -> None:
    with ScriptedRelay({"DOT": b"250 2.0.0 Ok: queued as x\r\n"}) as relay:
        assert submit(relay.place, "me.test", MESSAGE) == "2.0.0 Ok: queued as x"
    assert relay.commands == [
        "EHLO me.test", "MAIL FROM:<me@b.test> SIZE=15", "RCPT TO:<a@b.test>", "RCPT TO:<c@b.test>", "DATA", "QUIT",
    ]  # fmt: skip
    assert relay.content == b"..a\r\n...b\r\nlast\r\n"


def test_what_the_message_needs_and_the_sender_wants_is_asked_for() -> None:
    message = Message("", ("ä@b.test",), b"\xc3\xa4\r\n", notify="FAILURE,DELAY", ret="HDRS", envid="a+b c")
    with ScriptedRelay() as relay:
        submit(relay.place, "me.test", message)
    assert relay.commands[1:3] == [
        "MAIL FROM:<> SIZE=4 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb+20c",
        "RCPT TO:<ä@b.test> NOTIFY=FAILURE,DELAY",
    ]


def test_a_relay_without_extensions_is_asked_for_none() -> None:
    with ScriptedRelay({"EHLO": BARE}) as relay:
        submit(relay.place, "me.test", MESSAGE._replace(notify="NEVER", ret="FULL", content=b"\xff\r\n"))
    assert relay.commands[1:3] == ["MAIL FROM:<me@b.test>", "RCPT TO:<a@b.test>"]


@pytest.mark.parametrize(
    ("replies", "status", "last"),
    [
        ({"BANNER": b"421 too many\r\n"}, 75, None),
        ({"BANNER": b"554 go away\r\n"}, 69, None),
        ({"BANNER": b"what\r\n"}, 75, None),
        ({"EHLO": b"502 no\r\n"}, 69, "EHLO me.test"),
        ({"MAIL": b"452 4.3.1 full\r\n"}, 75, "MAIL FROM:<me@b.test> SIZE=15"),
        ({"MAIL": b"552 5.3.4 too large\r\n"}, 69, "MAIL FROM:<me@b.test> SIZE=15"),
        ({"RCPT": b"550-5.7.1 not\r\n550 5.7.1 here\r\n"}, 69, "RCPT TO:<a@b.test>"),
        ({"RCPT": b"451 4.3.0 later\r\n"}, 75, "RCPT TO:<a@b.test>"),
        ({"DATA": b"451 4.3.0 later\r\n"}, 75, "DATA"),
        ({"DATA": b"250 what\r\n"}, 75, "DATA"),
        ({"DOT": b"554 5.6.0 unusable\r\n"}, 65, "DATA"),
        ({"DOT": b"451 4.3.0 disk\r\n"}, 75, "DATA"),
        ({"DOT": b""}, 75, "DATA"),
        ({"MAIL": b""}, 75, "MAIL FROM:<me@b.test> SIZE=15"),
        ({"EHLO": b"250-x\r\n" * 20_000}, 75, "EHLO me.test"),
    ],
)
def test_a_refusal_ends_it_before_anything_was_sent(
    replies: dict[str, bytes], status: int, last: str | None
) -> None:
    with ScriptedRelay(replies) as relay:
        with pytest.raises(Refused) as caught:
            submit(relay.place, "me.test", MESSAGE)
    assert caught.value.status == status
    assert (relay.commands or [None])[-1] == last


def test_addresses_outside_ascii_need_a_relay_that_takes_them() -> None:
    with ScriptedRelay({"EHLO": BARE}) as relay, pytest.raises(Refused, match="ASCII") as caught:
        submit(relay.place, "me.test", MESSAGE._replace(recipients=("ä@b.test",)))
    assert caught.value.status == 69
    assert relay.commands == ["EHLO me.test"]


def test_no_relay_is_a_reason_to_come_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = free.getsockname()[:2]
    with pytest.raises(Refused) as caught:
        submit(place, "me.test", MESSAGE)
    assert caught.value.status == 75
