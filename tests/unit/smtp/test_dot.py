"""Line ends, lengths and dots, in portions of any size."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from deliver.errors import MessageError
from deliver.smtp.dot import MAX_LINE, DotStuffer, MessageText


def portions(octets: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({min(cut, len(octets)) for cut in cuts} | {0, len(octets)})
    return [octets[begin:end] for begin, end in pairwise(ends)]


def stuff(content: bytes, cuts: list[int]) -> bytes:
    stuffer = DotStuffer()
    return b"".join(stuffer.feed(portion) for portion in portions(content, cuts)) + stuffer.finish()


def normalise(text: bytes, cuts: list[int]) -> tuple[bytes, MessageText]:
    message = MessageText()
    return b"".join(message.feed(portion) for portion in portions(text, cuts)) + message.finish(), message


@pytest.mark.parametrize(
    ("content", "mail_data"),
    [
        (b"", b".\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"..\r\n.a\r\na.b\r\n", b"...\r\n..a\r\na.b\r\n.\r\n"),
        (b"\r\n.\r\n\r\n..", b"\r\n..\r\n\r\n...\r\n.\r\n"),
    ],
)
def test_stuffing_wherever_the_content_is_cut(content: bytes, mail_data: bytes) -> None:
    for size in range(1, len(content) + 2):
        assert stuff(content, list(range(0, len(content), size))) == mail_data


@pytest.mark.parametrize("content", [b"a\n", b"a\rb", b"a\r", b"\n.\r\n", b"a\r\n\n", b"\r\r\n", b"a\r\n.\n"])
def test_content_with_other_line_ends_is_not_sent(content: bytes) -> None:
    for size in range(1, len(content) + 1):
        with pytest.raises(MessageError):
            stuff(content, list(range(0, len(content), size)))


lines = st.lists(st.sampled_from([b"", b".", b"..", b".x", b"x.", b"text"]), max_size=8)
cuts = st.lists(st.integers(0, 60), max_size=8)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(lines, cuts, st.booleans())
def test_a_strict_receiver_gets_the_content_back(text: list[bytes], at: list[int], unfinished: bool) -> None:
    content = b"\r\n".join(text) + (b"" if unfinished else b"\r\n")
    mail_data = stuff(content, at)
    received = []
    for line in mail_data.split(b"\r\n"):
        if line == b".":
            break
        received.append(line.removeprefix(b"."))
    got = b"".join(line + b"\r\n" for line in received)
    assert got == (content if content.endswith(b"\r\n") or not content else content + b"\r\n")
    assert mail_data.endswith(b".\r\n")
    assert len(re.findall(rb"(?:^|\r\n)\.\r\n", mail_data)) == 1


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (b"", b""),
        (b"a\nb\n", b"a\r\nb\r\n"),
        (b"a\r\nb", b"a\r\nb\r\n"),
        (b"a\nb\r\n\n", b"a\r\nb\r\n\r\n"),
        (b"x" * MAX_LINE + b"\n", b"x" * MAX_LINE + b"\r\n"),
    ],
)
def test_text_becomes_content(text: bytes, content: bytes) -> None:
    for size in {1, 2, 3, len(text) or 1}:
        got, message = normalise(text, list(range(0, len(text), size)))
        assert got == content
        assert message.size == len(content)
        assert not message.eight_bit


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"a\nb\0c\n", "a NUL in line 2"),
        (b"a\nb\rc\n", "a CR without LF in line 2"),
        (b"a\nb\r", "a CR without LF in line 2"),
        (b"a\r\r\n", "a CR without LF in line 1"),
        (b"a\n\n" + b"x" * (MAX_LINE + 1) + b"\n", "line 3 has more than 998 octets"),
        (b"x" * 100_000, "line 1 has more than 998 octets"),
    ],
)
def test_unusable_text_is_refused_with_its_line(text: bytes, complaint: str) -> None:
    for size in (1, 7, 4096, len(text)):
        with pytest.raises(MessageError, match=complaint):
            normalise(text, list(range(0, len(text), size)))


def test_eight_bit_is_noticed() -> None:
    assert normalise("grüß\n".encode(), [2])[1].eight_bit


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=60), cuts)
def test_what_text_yields_the_stuffer_takes(text: bytes, at: list[int]) -> None:
    try:
        content, message = normalise(text, at)
    except MessageError:
        return
    assert stuff(content, at) == stuff(content, [])
    assert message.size == len(content)
