"""The pool with sessions that only remember what was done to them, under a simulated clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from deliver.pool import ENDED, UNHEARD, UNNEEDED, NoPool, SessionPool
from deliver.settings import Duration, Pool
from events.catalogue import Event


class Line:
    """A session; `speak` is the server saying something unasked."""

    def __init__(self, terms: str = "mx") -> None:
        self.terms = terms
        self.opened_at = trio.current_time()
        self.messages = 1
        self.usable = True
        self.ended: str | None = None
        self.ended_at = 0.0
        self.listeners = 0
        self._spoke = trio.Event()

    def speak(self) -> None:
        self._spoke.set()

    async def catch_up(self) -> None:
        self.usable = not self._spoke.is_set()

    async def overhear(self) -> None:
        self.listeners += 1
        try:
            await self._spoke.wait()
            self.usable = False
        finally:
            self.listeners -= 1

    async def part(self, why: str) -> Sequence[Event]:
        await trio.sleep(1)  # QUIT and its reply
        self.ended, self.ended_at = why, trio.current_time()
        return (Event("tcp:close", 0.0, {"event_data": why}),)

    async def cut_off(self) -> None:
        self.ended = "cut off"


def limits(**more: Any) -> Pool:
    return Pool(**{"idle": Duration(10), "max_age": Duration(60), "max_sessions": 3, **more})


async def test_what_was_put_is_taken_once_by_its_terms(autojump_clock: trio.testing.MockClock) -> None:
    async with SessionPool(limits()).open() as pool:
        line = Line("mx")
        assert pool.put(line)
        assert await pool.take("another") is None
        await trio.sleep(5)
        assert await pool.take("mx") is line
        assert line.listeners == 0, "nobody else may read from it now"
        assert await pool.take("mx") is None
        await trio.sleep(30)
        assert line.ended is None, "it is its taker's to close"


@pytest.mark.parametrize("open_pool", [True, False], ids=["open", "closing"])
async def test_one_whose_taker_is_cancelled_is_closed(
    autojump_clock: trio.testing.MockClock, open_pool: bool
) -> None:
    class Undecided(Line):
        async def catch_up(self) -> None:
            await trio.sleep(0.001)  # only listening tells what the server has said

    pool, line = SessionPool(limits()), Undecided()
    with trio.CancelScope() as scope:
        async with pool.open():
            assert pool.put(line)
            if not open_pool:
                pool._nursery = None  # as when the pool is being left
            with trio.CancelScope() as taking:
                taking.cancel()
                await pool.take("mx")
            assert taking.cancelled_caught
            await trio.sleep(2)
            assert line.ended == (UNNEEDED if open_pool else "cut off")
            assert pool.count == line.listeners == 0
            scope.cancel()


async def test_the_session_used_last_is_taken_first(autojump_clock: trio.testing.MockClock) -> None:
    async with SessionPool(limits()).open() as pool:
        first, second = Line(), Line()
        pool.put(first)
        pool.put(second)
        assert await pool.take("mx") is second
        assert await pool.take("mx") is first


async def test_idle_sessions_are_closed_in_good_order(autojump_clock: trio.testing.MockClock) -> None:
    told: list[Event] = []

    async def tell(events: Sequence[Event]) -> None:
        told.extend(events)

    async with SessionPool(limits(), tell).open() as pool:
        line = Line()
        pool.put(line)
        await trio.sleep(9.9)
        assert pool.count == 1
        await trio.sleep(1.2)
        assert (line.ended, pool.count) == ("idle for long enough", 0)
        assert [event.fields["event_data"] for event in told] == ["idle for long enough"]


async def test_a_session_that_the_server_ends_is_gone_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with SessionPool(limits()).open() as pool:
        line = Line()
        pool.put(line)
        await wait_all_tasks_blocked()
        line.speak()
        await wait_all_tasks_blocked()
        assert await pool.take("mx") is None
        await trio.sleep(1.1)
        assert line.ended == ENDED


async def test_a_goodbye_in_the_very_moment_of_taking_is_noticed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with SessionPool(limits()).open() as pool:
        line, other = Line(), Line()
        pool.put(other)
        pool.put(line)
        await wait_all_tasks_blocked()
        line.speak()
        assert await pool.take("mx") is other
        await trio.sleep(2)
        assert line.ended == ENDED


async def test_age_ends_a_session_however_busy_it_is(autojump_clock: trio.testing.MockClock) -> None:
    async with SessionPool(limits(max_age=Duration(25))).open() as pool:
        line = Line()
        for _ in range(3):
            assert pool.put(line)
            await trio.sleep(8)
            assert await pool.take("mx") is line
        assert pool.put(line)
        await trio.sleep(2.1)
        assert line.ended == "idle for long enough"
        assert line.ended_at - line.opened_at == pytest.approx(26)


async def test_the_oldest_session_makes_room(autojump_clock: trio.testing.MockClock) -> None:
    async with SessionPool(limits()).open() as pool:
        lines = []
        for number in range(5):
            lines.append(Line(f"mx{number}"))
            pool.put(lines[-1])
            await trio.sleep(0.1)
        assert pool.count == 3
        await trio.sleep(2)
        assert [line.ended is not None for line in lines] == [True, True, False, False, False]


@pytest.mark.parametrize(
    "changes", [{"idle": Duration(0)}, {"max_messages": 1}, {"max_age": Duration(0)}], ids=str
)
async def test_what_may_not_wait_is_not_kept(
    changes: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with SessionPool(limits(**changes)).open() as pool:
        assert not pool.put(Line())
        assert pool.count == 0


async def test_a_session_in_disorder_is_not_kept(autojump_clock: trio.testing.MockClock) -> None:
    async with SessionPool(limits()).open() as pool:
        line = Line()
        line.usable = False
        assert not pool.put(line)


async def test_at_the_end_everything_kept_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    pool = SessionPool(limits())
    async with pool.open():
        lines = [Line("a"), Line("b"), Line("b")]
        for line in lines:
            pool.put(line)
        before = trio.current_time()
    assert trio.current_time() - before == 1, "side by side"
    assert [line.ended for line in lines] == ["not needed any more"] * 3
    assert pool.count == 0
    assert not pool.put(Line()), "an ended pool keeps nothing"
    assert await pool.take("a") is None


async def test_a_server_without_a_reply_to_quit_does_not_hold_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Deaf(Line):
        async def part(self, why: str) -> Sequence[Event]:
            await trio.sleep_forever()
            raise AssertionError

    async with SessionPool(limits()).open() as pool:
        pool.put(Deaf())
        before = trio.current_time()
    assert trio.current_time() - before == 2


async def test_a_cancelled_pool_cuts_off(autojump_clock: trio.testing.MockClock) -> None:
    line = Line()
    with trio.move_on_after(3):
        async with SessionPool(limits()).open() as pool:
            pool.put(line)
            await trio.sleep_forever()
    assert line.ended == "cut off"


async def test_nobody_listens_to_a_session_that_is_taken_again_soon(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with SessionPool(limits()).open() as pool:
        line, idle = Line(), Line("other")
        pool.put(idle)
        for _ in range(5):
            assert pool.put(line)
            await trio.sleep(UNHEARD * 0.6)
            assert line.listeners == 0
            assert await pool.take("mx") is line
        assert (line.listeners, idle.listeners) == (0, 1), "who stays idle is listened to"
        pool.put(line)
        await trio.sleep(UNHEARD * 1.5)
        assert line.listeners == 1
        line.speak()
        await trio.sleep(1.1)
        assert (line.ended, pool.count) == (ENDED, 1)


async def test_a_pool_that_is_cancelled_at_once_cuts_off_what_nobody_listens_to(
    autojump_clock: trio.testing.MockClock,
) -> None:
    line = Line()
    with trio.move_on_after(UNHEARD / 2):
        async with SessionPool(limits()).open() as pool:
            pool.put(line)
            await trio.sleep_forever()
    assert line.ended == "cut off"


async def test_a_session_that_fails_to_close_takes_nothing_with_it(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Line):
        async def part(self, why: str) -> Sequence[Event]:
            raise RuntimeError("a bug")

    async with SessionPool(limits(idle=Duration(1))).open() as pool:
        good = Line()
        pool.put(Bad())
        await trio.sleep(0.5)
        pool.put(good)
        await trio.sleep(0.6)
        assert await pool.take("mx") is good
        assert pool.put(good)
        await trio.sleep(2.1)
        assert good.ended == "idle for long enough"
    assert "a bug" in caplog.text


async def test_no_pool_keeps_nothing() -> None:
    assert not NoPool().put(Line())
    assert await NoPool().take("mx") is None
