"""Frames between the supervisor and a worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st

from deliver import channel

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def line() -> Iterator[Pair]:
    ours, theirs = channel.pair()
    with ours, theirs:
        yield ours, theirs


def test_frames_arrive_whole_and_in_order(line: Pair) -> None:
    channel.send(line[0], "open", {"shard": 3})
    channel.send(line[0], "close", {"shard": 4, "why": "a" * 100_000})
    assert channel.receive(line[1]) == channel.Frame("open", {"shard": 3})
    assert channel.receive(line[1]).about["why"] == "a" * 100_000
    with pytest.raises(BlockingIOError):
        channel.receive(line[1])


def test_files_go_along_and_are_not_inherited(line: Pair) -> None:
    content = os.urandom(300_000)
    file = channel.in_memory(content)
    channel.send(line[0], "reload", {}, (file,))
    os.close(file)
    (received,) = channel.receive(line[1]).files
    assert not os.get_inheritable(received)
    assert channel.content_of(received) == content
    with pytest.raises(OSError):
        os.fstat(received)


def test_who_reads_a_file_does_not_move_the_others_place_in_it() -> None:
    """Every worker has the settings as the same open file."""
    content = os.urandom(3_000_000)
    file = channel.in_memory(content)
    other = os.dup(file)
    os.lseek(other, 1_000_000, os.SEEK_SET)
    assert channel.content_of(file) == content
    assert os.lseek(other, 0, os.SEEK_CUR) == 1_000_000
    assert channel.content_of(other) == content


def test_the_end_of_the_other_side_is_noticed(line: Pair) -> None:
    line[0].close()
    with pytest.raises(channel.Closed):
        channel.receive(line[1])
    with pytest.raises(channel.Closed):
        channel.send(line[1], "alive", {})


def test_who_does_not_read_does_not_hold_us_up(line: Pair) -> None:
    def talk() -> None:
        while True:
            channel.send(line[0], "alive", {"x": "y" * 1000})

    with pytest.raises(BlockingIOError):
        talk()


def test_what_is_too_large_is_an_error_of_the_program(line: Pair) -> None:
    with pytest.raises(ValueError, match="octets"):
        channel.send(line[0], "alive", {"x": "y" * channel.MAX_FRAME})


@given(st.binary(max_size=2000))
def test_anything_else_ends_the_line(packet: bytes) -> None:
    ours, theirs = channel.pair()
    with ours, theirs:
        ours.send(packet)
        try:
            frame = channel.receive(theirs)
        except channel.Closed:
            return
        assert isinstance(frame.word, str)
        assert isinstance(frame.about, dict)
