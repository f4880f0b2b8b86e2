"""What a server stored, read back as what was sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.peers.mailbox import Maildir, parse

STORED = (
    b"Return-Path: <a@client.test>\nX-Original-To: one@exact.test\nDelivered-To: one@exact.test\n"
    b"Received: from client.test\n\tby mx.test; now\nReceived: by the one before\nSubject: x\n\nbody\n"
)


def test_takes_off_what_the_server_added_and_no_more() -> None:
    received = parse(STORED)
    assert received.sender == "a@client.test"
    assert received.recipient == "one@exact.test"
    assert received.content == b"Received: by the one before\r\nSubject: x\r\n\r\nbody\r\n"
    assert received.trace == "Received: from client.test\n\tby mx.test; now\n"


def test_waits_no_longer_than_told_and_shows_the_log(tmp_path: Path) -> None:
    mailbox = Maildir(tmp_path, lambda: "the log")
    with pytest.raises(AssertionError, match=r"0 of 1 messages for one@exact\.test arrived\nthe log"):
        mailbox.to("one@exact.test", limit=0)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "1").write_bytes(STORED)
    assert len(mailbox.to("One@Exact.test", limit=0)) == 1
    with pytest.raises(AssertionError, match="1 of 2"):
        mailbox.to("one@exact.test", count=2, limit=0)
