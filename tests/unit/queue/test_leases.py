"""What several workers have of a limit is never more than the limit, and one alone may have all of it."""

from __future__ import annotations

import fcntl
import math
import os
import select
import socket

import pytest
import trio
from hypothesis import given, strategies as st

from deliver.queue.lanes import Feedback, Lanes, Terms
from deliver.queue.leases import FRESH, QUANTUM, Desk, Leases, Ledger
from deliver.queue.share import WHOLE
from deliver.queue.throttle import Limit, Rate, Subject, Throttle

DOMAIN = "a.example"


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def ledgers(leases: Leases) -> list[Ledger]:
    return [leases.desk(worker).ledger() for worker in range(leases.workers)]


def made(workers: int, time: Time | None = None) -> tuple[Leases, list[Ledger]]:
    leases = Leases(workers, places=64, now=time or Time())
    return leases, ledgers(leases)


def has_been_rung(leases: Leases, worker: int) -> bool:
    return bool(select.select([leases._bells[worker]], [], [], 0)[0])


@pytest.mark.parametrize("limit", [1, 5])
def test_one_alone_may_have_the_whole_limit(limit: int) -> None:
    _, (one, other) = made(2)
    assert all(one.reserve(limit, "k", wanted) for wanted in range(1, limit + 1))
    assert not one.reserve(limit, "k", limit + 1)
    assert not other.reserve(limit, "k", 1)
    assert other.reserve(limit, "another", 1)


def test_what_was_reserved_and_not_used_is_given_back() -> None:
    _, (one, other) = made(2)
    assert one.reserve(3, "k", 3)
    one.begin("k")
    one.settle()
    assert other.reserve(3, "k", 2)
    assert not other.reserve(3, "k", 3)
    one.end("k")
    assert not other.reserve(3, "k", 3), "not before it is settled"
    one.settle()
    assert other.reserve(3, "k", 3)


def test_a_refusal_is_remembered_until_there_is_news() -> None:
    _, (one, other) = made(2)
    assert one.reserve(1, "k", 1)
    assert other.places(1, "k") == 1
    assert not other.reserve(1, "k", 1)
    assert other.places(1, "k") == 0
    assert other.forget_refusals()
    assert other.places(1, "k") == 1
    assert not other.forget_refusals()


def test_who_has_waited_is_next_and_is_woken() -> None:
    time = Time()
    leases, (one, other) = made(2, time)
    assert one.reserve(1, "k", 1)
    one.begin("k")
    assert not other.reserve(1, "k", 1)
    one.end("k")
    one.settle()
    assert has_been_rung(leases, 1)
    assert not has_been_rung(leases, 0)
    assert one.reserve(1, "k", 1), "for a while it may go on"
    one.begin("k")
    time.now += QUANTUM + 0.1
    assert not other.reserve(1, "k", 1)
    one.end("k")
    one.settle()
    assert not one.reserve(1, "k", 1), "the place is for who has waited"
    assert other.reserve(1, "k", 1)
    other.begin("k")
    other.end("k")
    other.settle()
    assert one.reserve(1, "k", 1)


def test_nobody_keeps_a_place_free_for_one_that_waits_no_more() -> None:
    time = Time()
    _, (one, other) = made(2, time)
    assert one.reserve(1, "k", 1)
    assert not other.reserve(1, "k", 1)
    one.settle()
    time.now += QUANTUM + 0.1
    assert not one.reserve(1, "k", 1)
    time.now += FRESH
    assert one.reserve(1, "k", 1)


def test_what_a_dead_worker_had_is_free_and_others_are_woken() -> None:
    leases, (one, other) = made(2)
    assert one.reserve(2, "k", 2)
    assert not other.reserve(2, "k", 1)
    leases.clear(0)
    assert has_been_rung(leases, 1)
    assert other.reserve(2, "k", 2)


def test_two_queues_of_one_worker_have_no_more_than_one() -> None:
    leases = Leases(2, places=64)
    desk = leases.desk(0)
    own, adopted = desk.ledger(), desk.ledger()
    assert own.reserve(3, "k", 2)
    assert not adopted.reserve(3, "k", 2)
    assert adopted.reserve(3, "k", 1)


stories = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["take", "end", "look", "die"])), max_size=80)


@given(stories, st.integers(1, 4), st.floats(0.0, 1.0))
def test_over_any_story_no_more_run_than_the_limit_allows(
    story: list[tuple[int, str]], limit: int, pause: float
) -> None:
    time = Time()
    leases, books = made(3, time)
    lanes = [Lanes(Terms(start=5, widest=limit, per_domain=limit)) for _ in range(3)]
    for each, book in zip(lanes, books, strict=True):
        each.share = book
    running: list[list[str]] = [[], [], []]
    for worker, what in story:
        time.now += pause
        mine = lanes[worker]
        if what == "take" and mine.opens_at(DOMAIN) == -math.inf and mine.reserve(DOMAIN):
            running[worker].append(mine.begin(DOMAIN))
        elif what == "end" and running[worker]:
            site = running[worker].pop()
            mine.end(DOMAIN, site, Feedback.NEUTRAL, None, started=0.0, now=1.0)
        elif what == "look":
            books[worker].forget_refusals()
        elif what == "die":
            leases.clear(worker)
            running[worker] = []
            lanes[worker] = Lanes(mine.terms)
            lanes[worker].share = books[worker] = leases.desk(worker).ledger()
        books[worker].settle()
        assert sum(len(each) for each in running) <= limit
    time.now += FRESH + 1  # nobody waits any more
    for each, sites in zip(lanes, running, strict=True):
        for site in sites:
            each.end(DOMAIN, site, Feedback.NEUTRAL, None, started=0.0, now=1.0)
    for book in books:
        book.settle()
    assert leases.desk(0).ledger().reserve(limit, f"domain {DOMAIN}", limit), "nothing was lost"


def test_the_administrators_limit_holds_for_all() -> None:
    _, books = made(2)
    limit, subject = Limit("all", at_a_time=1), Subject(DOMAIN, DOMAIN)
    one, other = Throttle((limit,)), Throttle((limit,))
    one.share, other.share = books
    assert one.reserve(subject, 0.0)
    held = one.take(subject, 0.0)
    one.hold(held)
    books[0].settle()
    assert other.opens_at(subject) == -math.inf, "nobody has told it"
    assert not other.reserve(subject, 0.0)
    assert other.opens_at(subject) == math.inf
    one.release(held)
    books[0].settle()
    books[1].forget_refusals()
    assert other.reserve(subject, 0.0)


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.floats(0.0, 20.0)), max_size=60))
def test_a_rate_holds_for_all(story: list[tuple[int, bool, float]]) -> None:
    """In any span of a minute no more than the messages and the burst; what was only reserved costs nothing."""
    _, books = made(2)
    rate = Rate.of(6, 60.0, 3)
    subject, now = Subject(DOMAIN, DOMAIN), 1_700_000_000.0
    throttles = [Throttle((Limit("all", rate=rate),)) for _ in range(2)]
    begun: list[float] = []
    for worker, claims, pause in story:
        now += pause
        mine = throttles[worker]
        mine.share = books[worker]
        ready = mine.opens_at(subject) <= now
        assert mine.reserve(subject, now) == ready
        if ready and claims:
            mine.take(subject, now)
            begun.append(now)
        books[worker].settle()
    for first in begun:
        assert sum(first <= each <= first + 60.0 for each in begun) <= 6 + 3 + 1


def test_a_bucket_fills_evenly_for_all() -> None:
    _, (one, other) = made(2)
    rate = Rate.of(60, 60.0, 1)
    assert one.token_at("k", rate) == -math.inf
    assert one.reserve_token("k", rate, 1000.0)
    one.spend_token("k")
    one.settle()
    assert not other.reserve_token("k", rate, 1000.5)
    assert other.token_at("k", rate) == pytest.approx(1001.0)
    assert other.reserve_token("k", rate, 1001.0)
    other.settle()  # not needed
    assert one.reserve_token("k", rate, 1001.0)


def test_a_queue_that_is_closed_keeps_nothing() -> None:
    _, (one, other) = made(2)
    rate = Rate.of(1, 60.0, 1)
    assert one.reserve(2, "k", 2)
    one.begin("k")
    assert one.reserve_token("t", rate, 1000.0)
    one.close()
    assert other.reserve(2, "k", 2)
    assert other.reserve_token("t", rate, 1000.0)


def test_alone_there_is_nothing_to_lease() -> None:
    assert WHOLE.places(7, "k") == 7
    assert WHOLE.reserve(7, "k", 7)
    assert WHOLE.portion(7) == 7


def test_without_the_lock_nothing_is_leased() -> None:
    leases, (one, _) = made(2)
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        here.close()
        fcntl.lockf(leases._table._among_processes, fcntl.LOCK_EX)
        there.send(b"held")
        there.recv(1)  # the end of the test
        os._exit(0)
    there.close()
    with here:
        here.recv(10)
        assert not one.reserve(1, "k", 1)
        assert not one.reserve_token("k", Rate(1.0, 1.0), 0.0)
    os.waitpid(pid, 0)
    assert one.reserve(1, "k", 1)


async def test_who_waits_is_told_when_another_process_gives_back() -> None:
    leases = Leases(2, places=64)
    one, desk = leases.desk(0).ledger(), Desk(leases, 1)
    other = desk.ledger()
    assert one.reserve(1, "k", 1)
    one.begin("k")
    assert not other.reserve(1, "k", 1)
    free = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.watch, free.set)
        pid = os.fork()
        if pid == 0:
            one.end("k")
            one.settle()
            os._exit(0)
        with trio.fail_after(10):
            await free.wait()
        _, status = await trio.to_thread.run_sync(os.waitpid, pid, 0)
        assert status == 0
        with trio.fail_after(10):
            while not other.reserve(1, "k", 1):
                free = trio.Event()
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
