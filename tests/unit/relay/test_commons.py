"""Clients of several workers are counted together, as one process would count them."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from deliver.relay.commons import Commons, SharedFailures, SharedLimits
from deliver.relay.failures import Failures
from deliver.relay.limits import Allowance, ClientLimits
from deliver.sharedtable import WAYS

CLIENTS = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def commons(clock: Clock) -> Commons:
    return Commons(2, places=1024, now=clock)


def both(commons: Commons, allowance: Allowance) -> tuple[SharedLimits, SharedLimits]:
    made = SharedLimits(commons.seat(0)), SharedLimits(commons.seat(1))
    for each in made:
        each.allowance = allowance
    return made


def test_connections_of_one_client_to_all_workers(commons: Commons) -> None:
    one, other = both(commons, Allowance(connections=2))
    assert [one.connect("192.0.2.1"), other.connect("192.0.2.1"), one.connect("192.0.2.1")] == [
        True,
        True,
        False,
    ]
    assert one.connect("192.0.2.2")
    other.disconnect("192.0.2.1")
    assert one.connect("192.0.2.1")
    assert not other.connect("192.0.2.1")


def test_those_of_a_worker_that_died_count_no_more(commons: Commons) -> None:
    one, other = both(commons, Allowance(connections=2))
    assert one.connect("192.0.2.1")
    assert other.connect("192.0.2.1")
    one.note_open(1)
    assert other.others_open() == 1
    commons.clear(0)
    assert other.others_open() == 0
    assert other.connect("192.0.2.1")
    assert not other.connect("192.0.2.1")


def test_who_has_more_connections_than_another_that_serves_is_ahead(commons: Commons) -> None:
    one, other = both(commons, Allowance())
    one.note_open(3)
    assert not one.ahead(), "the other one does not serve yet"
    assert one.others_open() == 0
    other.note_open(2)
    assert one.ahead()
    assert not other.ahead()
    other.note_open(3)
    assert not one.ahead()
    commons.clear(1)
    assert not one.ahead()


def test_a_limit_that_comes_with_a_reload_counts_who_is_there(commons: Commons) -> None:
    one, other = both(commons, Allowance())
    assert one.connect("192.0.2.1")
    other.allowance = Allowance(connections=1)
    assert not other.connect("192.0.2.1")


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[int, str, str, float]]:
    """What happens: at which worker, to which client, after so many seconds."""
    word = st.sampled_from(["connect", "disconnect", "message", "recipient", "fail", "too many"])
    pause = st.sampled_from([0.0, 0.5, 7.0, 61.0, 1000.0])
    step = st.tuples(st.integers(0, 1), word, st.sampled_from(CLIENTS), pause)
    return draw(st.lists(step, max_size=60))


@given(stories())
def test_it_is_as_with_one_process(story: list[tuple[int, str, str, float]]) -> None:
    clock = Clock()
    commons = Commons(2, places=1024, now=clock)
    allowance = Allowance(connections=2, messages=3, recipients=4)
    alone, lonely = ClientLimits(allowance, clock), Failures(2, 900.0)
    alone.allowance = allowance
    limits = both(commons, allowance)
    failures = SharedFailures(commons.seat(0)), SharedFailures(commons.seat(1))
    for each in failures:
        each.limit, each.memory = 2, 900.0
    connected: list[tuple[int, str]] = []
    for worker, word, client, pause in story:
        clock.now += pause
        match word:
            case "connect":
                granted = limits[worker].connect(client)
                assert granted == alone.connect(client)
                connected += [(worker, client)] * granted
            case "disconnect" if connected:
                holder, gone = connected.pop()
                limits[holder].disconnect(gone)
                alone.disconnect(gone)
            case "message":
                assert limits[worker].message(client) == alone.message(client)
            case "recipient":
                assert limits[worker].recipient(client) == alone.recipient(client)
            case "fail":
                failures[worker].add(client, clock.now)
                lonely.add(client, clock.now)
            case "too many":
                assert failures[worker].too_many(client, clock.now) == lonely.too_many(client, clock.now)


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first(clock: Clock) -> None:
    seat = Commons(1, places=WAYS, now=clock).seat(0)
    for number in range(WAYS + 1):
        clock.now += 1
        seat.count(f"client {number}", 900.0, 1)
    assert [seat.count(f"client {number}", 900.0) for number in range(WAYS + 1)] == [0] + [1] * WAYS


def test_open_connections_keep_their_places(clock: Clock) -> None:
    seat = Commons(1, places=WAYS, now=clock).seat(0)
    for number in range(WAYS):
        assert seat.connect(f"client {number}", 1)
    assert seat.connect("one more", 1), "nobody is turned away for want of a place"
    assert seat.connect("one more", 1), "it is not counted"
    assert not seat.connect("client 0", 1)
    seat.disconnect("one more")
    seat.disconnect("client 0")
    assert seat.connect("client 0", 1)


def in_a_fork(work: Callable[[], None]) -> None:
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_forked_process_sees_and_is_seen() -> None:
    commons = Commons(2)
    one, other = both(commons, Allowance(connections=2))
    assert one.connect("192.0.2.1")

    def work() -> None:
        other.note_open(7)
        assert other.connect("192.0.2.1")
        assert not other.connect("192.0.2.1")

    in_a_fork(work)
    assert one.others_open() == 7
    assert not one.connect("192.0.2.1")


def test_a_process_that_stands_still_with_the_lock_holds_up_nobody() -> None:
    commons = Commons(2)
    one, _ = both(commons, Allowance(connections=1))
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        here.close()
        fcntl.lockf(commons._table._among_processes, fcntl.LOCK_EX)
        there.send(b"held")
        there.recv(1)  # the end of the test
        os._exit(0)
    there.close()
    with here:
        here.recv(10)
        assert one.connect("192.0.2.1")
        assert not one.connect("192.0.2.1")
    os.waitpid(pid, 0)
