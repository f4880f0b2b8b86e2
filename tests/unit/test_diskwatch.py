"""When a disk is slow, and what is not the disk's fault."""

from __future__ import annotations

import pytest

from deliver import diskwatch
from deliver.diskwatch import LONG, SHARE, SLOW_FOR, WAITED, DiskWatch


class Machine:
    """Seconds that passed, on a processor, and for lack of one; and a watch on it, which is told of turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed = self.worked = self.queued = 0.0
        self.watch = DiskWatch()
        self.watch.close()
        monkeypatch.setattr(diskwatch, "time", self)
        monkeypatch.setattr(self.watch, "run_queue", self)

    def perf_counter(self) -> float:
        return self.passed

    def thread_time(self) -> float:
        return self.worked

    def waited(self) -> float:
        return self.queued

    def turn(self, *, works: float = 0.001, waits: float = 0.0, queues: float = 0.0) -> None:
        self.watch.begin()
        self.worked += works
        self.queued += queues
        self.passed += works + waits + queues
        self.watch.end(self.passed)

    @property
    def slow(self) -> bool:
        return self.watch.is_slow(self.passed)

    def turns_until_slow(self, waits: float, every: float, most: int = 1000) -> int | None:
        for number in range(1, most + 1):
            self.turn(works=0.0, waits=waits)
            if self.slow:
                return number
            self.passed += every - waits
        return None


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def test_one_long_wait_is_too_long(machine):
    machine.turn(waits=LONG)
    assert machine.slow


def test_work_that_takes_long_does_not_belong_on_the_loop_either(machine):
    machine.turn(works=LONG * 1.01)
    assert machine.slow


def test_a_wait_now_and_then_is_not_the_disk(machine):
    assert machine.turns_until_slow(waits=0.08, every=0.08 / SHARE) is None


@pytest.mark.parametrize(("waits", "every"), [(0.02, 0.05), (0.005, 0.02), (0.09, 0.3)])
def test_waits_that_take_their_share_of_the_time_are(machine, waits, every):
    expected = WAITED / (waits - SHARE * every)
    found = machine.turns_until_slow(waits, every)
    assert expected - 1 <= found <= expected + 2


def test_for_a_processor_it_may_wait_as_long_as_it_likes(machine):
    for _ in range(100):
        machine.turn(queues=3.0)
        assert not machine.slow


def test_more_for_a_processor_than_has_passed_makes_up_for_no_wait(machine):
    machine.turn(queues=0.0)
    machine.queued += 1000.0  # noted late by the kernel
    machine.turn(waits=0.0)
    assert machine.turns_until_slow(waits=0.05, every=0.1) is not None


def test_it_is_slow_for_a_while_and_proves_itself_in_half_the_time_then(machine):
    first = machine.turns_until_slow(waits=0.05, every=0.1)
    machine.passed += SLOW_FOR * 0.99
    assert machine.slow
    machine.passed += SLOW_FOR * 0.01
    assert not machine.slow
    assert machine.turns_until_slow(waits=0.05, every=0.1) <= first / 2 + 1


def test_a_disk_that_has_recovered_is_forgiven(machine):
    machine.turn(waits=LONG)
    machine.passed += SLOW_FOR
    assert machine.turns_until_slow(waits=0.005, every=0.1, most=2000) is None
