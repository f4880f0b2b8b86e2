"""A look at an open file needs no thread, unless somebody or the disk has to be waited for."""

from __future__ import annotations

import math
import threading
import time

import pytest
import trio

from hints import sql
from hints.file import HintsFile
from hints.port import AddressView
from tests.unit.hints.hintsfile import HOST, A, execute, fail, failures, set_aside


@pytest.fixture
def reads(monkeypatch):
    """Which ways the file was read."""
    seen = []
    for name in ("read", "read_now"):
        real = getattr(HintsFile, name)

        def spy(self, *asked, _name=name, _real=real):
            found = _real(self, *asked)
            seen.append((_name, found is not None))
            return found

        monkeypatch.setattr(HintsFile, name, spy)
    return seen


async def test_only_the_first_look_opens_the_file_in_a_thread(opened, clock, reads):
    other = opened()
    fail(other, clock)
    await other.flush()
    hints = opened()
    assert await failures(hints) == 1
    assert reads == [("read_now", False), ("read", True)]
    reads.clear()
    assert (await hints.look("other.example.org", (A,), 25))[0].failures == 0
    assert reads == [("read_now", True)]


async def test_what_is_busy_is_left_to_a_thread(opened, clock, reads):
    hints = opened()
    await hints.flush()
    taken, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with hints._file._lock:
            taken.set()
            go_on.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait(10)
    assert hints._file.read_now(HOST, (A,), 25, clock.now) is None
    go_on.set()
    holder.join()
    assert hints._file.read_now(HOST, (A,), 25, clock.now) is not None


async def test_a_file_that_was_replaced_is_opened_anew(opened, path, clock, reads):
    hints, other = opened(), opened()
    await hints.flush()
    for one in path.parent.glob("hints.db*"):
        one.unlink()
    fail(other, clock)
    await other.flush()
    assert await failures(hints) == 1
    assert reads == [("read_now", False), ("read", True)]


async def test_a_damaged_file_is_set_aside_by_a_thread(opened, path, clock, reads):
    hints = opened()
    await hints.flush()
    execute(path, "DROP TABLE reachability")
    assert await failures(hints) == 0
    assert reads == [("read_now", False), ("read", True)]
    assert set_aside(path)


async def test_a_slow_disk_is_not_waited_for_again(opened, monkeypatch):
    hints = opened()
    await hints.flush()
    looks, real = [], hints._file.read_now

    def slow(*asked):
        looks.append(asked)
        time.sleep(2 * sql.WAITED)
        return real(*asked)

    monkeypatch.setattr(hints._file, "read_now", slow)
    for number in range(3):
        await hints.look(f"mx{number}.example.org", (A,), 25)
    assert len(looks) == 1
    assert hints._slow_until > trio.current_time()
    hints._slow_until = -math.inf
    await hints.look(HOST, (A,), 25)
    assert len(looks) == 2


async def test_what_no_file_can_be_asked_is_not_known(opened):
    hints = opened()
    await hints.flush()
    assert await hints.look("mx.\udcff", (A,), 25) == (AddressView(A),)
