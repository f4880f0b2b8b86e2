"""What is made of the text that a program hands over."""

from __future__ import annotations

import email
from email.header import decode_header, make_header
from email.utils import getaddresses

import pytest

from deliver.submission.letter import BadMessage, Maker, compose, phrase, until_dot

MAKER = Maker("me@sender.test", "", "Sat, 21 Nov 2026 08:00:00 +0000", "<1@sender.test>")
ADDED = b"Date: Sat, 21 Nov 2026 08:00:00 +0000\r\nMessage-ID: <1@sender.test>\r\nFrom: me@sender.test\r\n"


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (b"Subject: x\n\nhello\n", b"Subject: x\r\n" + ADDED + b"\r\nhello\r\n"),
        (b"Subject: x\r\n\r\nhello", b"Subject: x\r\n" + ADDED + b"\r\nhello\r\n"),
        (b"hello\nworld\n", ADDED + b"\r\nhello\r\nworld\r\n"),
        (b"", ADDED + b"\r\n"),
        (b"\nhello\n", ADDED + b"\r\nhello\r\n"),
        (
            b"Subject: x\n folded: yes\nno field\n",
            b"Subject: x\r\n folded: yes\r\n" + ADDED + b"\r\nno field\r\n",
        ),
        (b"From me Sat Nov 21\nSubject: x\n\n.\n", b"Subject: x\r\n" + ADDED + b"\r\n.\r\n"),
        (b"Subject: x", b"Subject: x\r\n" + ADDED + b"\r\n"),
        (b"\xff\n", ADDED + b"\r\n\xff\r\n"),
    ],
)
def test_the_text_gets_what_it_lacks(text: bytes, content: bytes) -> None:
    assert compose(text, MAKER, from_header=False).content == content


def test_what_is_there_stays() -> None:
    text = b"date: D\nMESSAGE-ID: <x@y>\nFrom : Z <z@z.test>\nBcc: b@b.test\n\nhi\n"
    assert compose(text, MAKER, from_header=False).content == text.replace(b"\n", b"\r\n")


def test_a_resent_message_gets_resent_fields_on_top() -> None:
    found = compose(b"From: z@z.test\nResent-To: a@b.test\n\nhi\n", MAKER, from_header=False).content
    assert found.startswith(b"Resent-Date: Sat")
    assert b"Resent-From: me@sender.test\r\n" in found
    assert b"\r\nDate:" not in found


def test_recipients_from_the_header_and_bcc_is_removed() -> None:
    text = b"To: A <a@b.test>,\n  c@b.test\nCc: a@b.test\nBcc: secret@b.test,\n other@b.test\nSubject: x\n\nBcc: body\n"
    found = compose(text, MAKER, from_header=True)
    assert found.recipients == ("a@b.test", "c@b.test", "secret@b.test", "other@b.test")
    assert b"secret" not in found.content
    assert b"other" not in found.content
    assert b"\r\nBcc: body\r\n" in found.content


def test_of_a_resent_message_only_the_resent_recipients_count() -> None:
    text = b"To: old@b.test\nBcc: older@b.test\nResent-To: new@b.test\nResent-Bcc: hidden@b.test\n\nhi\n"
    found = compose(text, MAKER, from_header=True)
    assert found.recipients == ("new@b.test", "hidden@b.test")
    assert b"hidden" not in found.content
    assert b"older" not in found.content


@pytest.mark.parametrize(
    "text",
    [
        b"To: a b@c.test\n\n",
        b"Cc: \xff@b.test\n\n",
        b"a\0b\n",
        b"a\rb\n",
        b"x" * 999 + b"\n",
        b"To: <a@b.test\n\n",
    ],
)
def test_what_cannot_be_sent_is_refused(text: bytes) -> None:
    with pytest.raises(BadMessage):
        compose(text, MAKER, from_header=True)


@pytest.mark.parametrize(
    "name", ["Jo Doe", 'Jo "the" Doe', "O'Neill, Jo", "back\\slash", "Jürgen Straße", "日本語" * 20]
)
def test_a_name_is_read_as_it_was_written(name: str) -> None:
    found = compose(b"\n", MAKER._replace(full_name=name), from_header=False).content
    ((shown, address),) = getaddresses([str(email.message_from_bytes(found)["From"])])
    assert address == "me@sender.test"
    assert str(make_header(decode_header(shown))) == name
    assert all(len(word) <= 75 for word in phrase(name).split() if word.startswith("=?"))


def test_a_single_dot_ends_the_text() -> None:
    assert until_dot([b"a\n", b"..\n", b".\r\n", b"b\n"]) == [b"a\n", b"..\n"]
    assert until_dot([b"a\n", b". \n"]) == [b"a\n", b". \n"]
