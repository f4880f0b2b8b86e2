"""Replies: what is taken, what is refused, what is made harmless."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from deliver.smtp.reply import (
    MAX_LINE,
    MAX_LINES,
    MAX_REPLY,
    MAX_UNREAD,
    EnhancedCode,
    MalformedReply,
    Reply,
    ReplyParser,
)


def parse(octets: bytes) -> list[Reply]:
    parser = ReplyParser()
    parser.feed(octets)
    replies = []
    while (reply := parser.next_reply()) is not None:
        replies.append(reply)
    return replies


@pytest.mark.parametrize(
    ("octets", "reply"),
    [
        (b"250 2.1.0 Ok\r\n", Reply(250, ("2.1.0 Ok",))),
        (b"250\r\n", Reply(250, ("",))),
        (b"250 \r\n", Reply(250, ("",))),
        (b"250-a\r\n250-b\r\n250 c\r\n", Reply(250, ("a", "b", "c"))),
        (b"250-a\r\n250\r\n", Reply(250, ("a", ""))),
        (b"220 bare line feed\n", Reply(220, ("bare line feed",))),
        (b"571 second digit above five\r\n", Reply(571, ("second digit above five",))),
        ("550 für später\r\n".encode(), Reply(550, ("für später",))),
        (b"550 \xff\x00\x1b[2J\r\r\n", Reply(550, ("\\xff\\x00\\x1b[2J\\r",))),
        ("550 a\u202eb\r\n".encode(), Reply(550, ("a\\u202eb",))),
    ],
)
def test_taken(octets: bytes, reply: Reply) -> None:
    assert parse(octets) == [reply]
    assert all(line.isprintable() for line in reply.lines)


@pytest.mark.parametrize(
    "octets",
    [
        b"hello\r\n",
        b"\r\n",
        b"25\r\n",
        b"2500 x\r\n",
        b"250x\r\n",
        b"250\tx\r\n",
        b" 250 x\r\n",
        b"150 x\r\n",
        b"600 x\r\n",
        b"2\xb25 x\r\n",
        b"250-a\r\n251 b\r\n",
        b"250-a\r\nb\r\n",
        b"250 " + b"x" * MAX_LINE + b"\r\n",
        b"x" * MAX_LINE,
        b"250-x\r\n" * MAX_LINES + b"250 x\r\n",
        (b"250-" + b"x" * 4000 + b"\r\n") * (MAX_REPLY // 4000 + 1),
        b"\x16\x03\x01\x02\x00\n",
    ],
)
def test_malformed(octets: bytes) -> None:
    parser = ReplyParser()
    parser.feed(octets)
    with pytest.raises(MalformedReply):
        parser.next_reply()
    assert not parser.empty


def test_replies_before_garbage_count_and_those_behind_do_not() -> None:
    parser = ReplyParser()
    parser.feed(b"250 a\r\n250 b\r\ngarbage\r\n250 c\r\n")
    parser.feed(b"250 d\r\n")
    assert [parser.next_reply(), parser.next_reply()] == [Reply(250, ("a",)), Reply(250, ("b",))]
    for _ in range(2):
        with pytest.raises(MalformedReply):
            parser.next_reply()


def test_the_longest_line_is_taken() -> None:
    text = "x" * (MAX_LINE - len("250 \r\n"))
    assert parse(f"250 {text}\r\n".encode()) == [Reply(250, (text,))]


def test_unread_replies_are_bounded() -> None:
    with pytest.raises(MalformedReply, match="at once"):
        parse(b"250 x\r\n" * (MAX_UNREAD + 1))


def test_empty_only_when_nothing_is_left() -> None:
    parser = ReplyParser()
    assert parser.empty
    for octets in (b"2", b"50-a\r\n", b"250 b\r\n"):
        parser.feed(octets)
        assert not parser.empty
    parser.next_reply()
    assert parser.empty


@pytest.mark.parametrize(
    ("text", "code", "enhanced"),
    [
        ("5.1.1 no such user", 550, EnhancedCode(5, 1, 1)),
        ("5.1.1", 550, EnhancedCode(5, 1, 1)),
        ("4.2.2 class and code disagree", 550, None),
        ("5.1.1000 x", 550, None),
        ("no code", 550, None),
    ],
)
def test_enhanced_code(text: str, code: int, enhanced: EnhancedCode | None) -> None:
    assert Reply(code, (text,)).enhanced == enhanced


@given(st.lists(st.sampled_from(["", " ", "2.0.0 ok", " taken ", "by us"]), max_size=3))
def test_a_reply_as_one_line(lines: list[str]) -> None:
    said = str(Reply(250, tuple(lines)))
    assert said == f"250 {' '.join(line for line in lines if line)}".rstrip()
    assert not said.endswith(" ")
