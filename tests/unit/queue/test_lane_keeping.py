"""The runner and its lanes: sessions are fed, sick destinations delay nobody, limits and retries hold."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import trio

from deliver.errors import Blame
from deliver.outcome import AttemptResult, Deferred, Phase
from deliver.queue import schema
from deliver.report.trace import Trace
from deliver.settings import Duration, Limit, Queue, RetryRule, RetryStep
from tests.unit.queue.test_runner import House
from tests.unit.queue.values import DEFERRED, DELIVERED

LONG = Deferred("no answer", Blame.HOST, Phase.CONNECT)


def result(claim, outcome, site=None) -> AttemptResult:
    return AttemptResult(tuple((each, outcome) for each in claim.recipients), Trace(), site)


@pytest.fixture
def build(tmp_path):
    built = []

    def make(**settings) -> House:
        built.append(House(tmp_path, Queue(**settings)))
        return built[-1]

    yield make
    for house in built:
        house.journal.close()


async def fill(house: House, domains: int, messages: int) -> None:
    for message in range(messages):
        for domain in range(domains):
            await house.accept(f"m{domain}-{message}", f"x@d{domain}.example")


async def time_to_deliver(house: House, domains: range) -> float:
    """Seconds until the mail for these domains is delivered."""
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        while True:
            await trio.sleep(0.5)
            found = await house.states()
            if all(found[f"x@d{each}.example"] == "delivered" for each in domains):
                left = await house.sql.read(
                    lambda conn: conn.execute(
                        schema.recipient.select().where(
                            schema.recipient.c.state.in_(["queued", "leased"]),
                            schema.recipient.c.domain.in_([f"d{each}.example" for each in domains]),
                        )
                    ).first()
                )
                if left is None:
                    break
        elapsed = trio.current_time() - start
        nursery.cancel_scope.cancel()
    return elapsed


@pytest.mark.parametrize("answers", [False, True], ids=["dead", "slow"])
async def test_a_tenth_of_sick_destinations_delays_the_others_by_less_than_a_fifth(
    autojump_clock, build, tmp_path, answers
):
    """Those sick are dead, or answer after 30 s."""

    async def attempt(claim, content, journal):
        if int(claim.domain[1:].partition(".")[0]) >= 27:
            await trio.sleep(30)
            return result(claim, DELIVERED if answers else LONG)
        await trio.sleep(0.5)
        return result(claim, DELIVERED)

    (tmp_path / "healthy").mkdir()
    times = []
    for count in (27, 30):
        house = build(workers=15)
        house.attempt = attempt
        await fill(house, count, 20)
        times.append(await time_to_deliver(house, range(27)))
    alone, together = times
    assert together < 1.2 * alone, times


async def test_a_worker_feeds_the_site_whose_session_is_open(autojump_clock, build):
    house = build(workers=1)
    served = []

    async def attempt(claim, content, journal):
        served.append(claim.domain)
        await trio.sleep(1)
        return result(claim, DELIVERED, "elsewhere" if claim.domain == "c.example" else "mx.example")

    house.attempt = attempt
    for index in range(3):
        for domain in ("a.example", "b.example", "c.example"):
            await house.accept(f"{domain[0]}{index}", f"x@{domain}")
    await house.run_for(60)
    changes = sum(
        1 for one, two in itertools.pairwise(served) if (one == "c.example") != (two == "c.example")
    )
    assert changes <= 2, served


async def test_a_busy_site_gives_its_worker_up_in_turn(autojump_clock, build):
    house = build(workers=1)
    served = []

    async def attempt(claim, content, journal):
        served.append(claim.domain)
        await trio.sleep(0.1)
        return result(claim, DELIVERED)

    house.attempt = attempt
    for index in range(50):
        await house.accept(f"a{index}", "x@a.example")
    await house.accept("b", "x@b.example")
    await house.run_for(60)
    assert served.index("b.example") <= 21


async def test_a_dead_site_is_left_alone_and_tried_once_when_its_pause_is_over(autojump_clock, build):
    house = build(retry=(Duration(3600),), site_pause=Duration(60), longest_site_pause=Duration(240))
    house.attempt = lambda claim, content, journal: _later(result(claim, DEFERRED, "mx.example"))
    for index in range(20):
        await house.accept(f"m{index}", f"x@d{index % 4}.example")
    await house.run_for(1000)
    times = [at for _, _, at in house.calls]
    assert len([at for at in times if at < 59]) <= 8, "each domain is a site of its own at first"
    later = [at for at in times if at >= 59]
    assert [round(b - a) for a, b in itertools.pairwise(later)][:3] == [120, 240, 240]


async def _later(value: AttemptResult) -> AttemptResult:
    await trio.lowlevel.checkpoint()
    return value


async def test_rates_hold(autojump_clock, build):
    house = build(limit=(Limit(of="domain", match=("a.example",), messages=60, per=Duration(3600), burst=2),))
    for index in range(5):
        await house.accept(f"a{index}", "x@a.example")
        await house.accept(f"b{index}", "x@b.example")
    await house.run_for(300)
    assert [round(at) for name, _, at in house.calls if name[0] == "a"] == [0, 0, 60, 120, 180]
    assert all(at < 1 for name, _, at in house.calls if name[0] == "b")


async def test_attempts_at_a_time_hold(autojump_clock, build):
    house = build(limit=(Limit(of="all", at_a_time=2),), workers=10)
    running, most = Counter(), Counter()

    async def attempt(claim, content, journal):
        running["all"] += 1
        most["all"] = max(most["all"], running["all"])
        await trio.sleep(1)
        running["all"] -= 1
        return result(claim, DELIVERED)

    house.attempt = attempt
    await fill(house, 6, 2)
    await house.run_for(60)
    assert most["all"] == 2
    assert set((await house.states()).values()) == {"delivered"}


async def test_retry_rules_decide(autojump_clock, build):
    steps = (RetryStep(until=Duration(3600), wait=Duration(60), kind="geometric", factor=2.0),)
    house = build(retry_rule=(RetryRule(steps=steps, domains=("a.example",)),), site_pause=Duration(1))
    house.attempt = lambda claim, content, journal: _later(result(claim, DEFERRED))
    await house.accept("m1", "x@a.example", sender=None)
    await house.run_for(4000)
    times = [at for _, _, at in house.calls]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert [60 * 2**n <= gap <= 66.1 * 2**n for n, gap in enumerate(gaps[:-1])] == [True] * (len(gaps) - 1)
    assert times[-1] == pytest.approx(3600, abs=1), "the last attempt is at the expiry"
    assert await house.states() == {"x@a.example": "failed"}


async def test_an_attempt_that_does_nothing_is_ended_and_said(autojump_clock, build, caplog):
    house = build()
    house.runner.reconfigure(Queue(), attempt_deadline=1000, silence=50)

    async def attempt(claim, content, journal):
        for _ in range(4):
            await trio.sleep(40)
            await content.read(0, 1)  # octets on their way
        await trio.sleep_forever()

    house.attempt = attempt
    await house.accept("m1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(190)
        assert house.runner.running == 1
        await trio.sleep(70)
        assert house.runner.running == 0
        nursery.cancel_scope.cancel()
    assert "did nothing for 50 s" in caplog.text


async def test_new_settings_hold_from_the_next_claim_on(autojump_clock, build):
    house = build(workers=1, retry=(Duration(60),))
    house.attempt = lambda claim, content, journal: _later(
        result(claim, replace(DEFERRED, blame=Blame.RECIPIENT))
    )
    await house.accept("m1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(100)
        house.runner.reconfigure(Queue(retry=(Duration(600),)), attempt_deadline=1000)
        await trio.sleep(1300)
        nursery.cancel_scope.cancel()
    times = [at for _, _, at in house.calls]
    assert 60 <= times[1] <= 66
    assert all(600 <= b - a <= 661 for a, b in itertools.pairwise(times[2:]))


async def test_reopening_by_hand_ends_pauses(autojump_clock, build):
    house = build(retry=(Duration(3600),), site_pause=Duration(600), site_start=2)
    house.attempt = lambda claim, content, journal: _later(result(claim, DEFERRED))
    for index in range(3):
        await house.accept(f"m{index}", "x@a.example")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(10)
        assert len(house.calls) == 2
        house.runner.retry_sites()
        await trio.sleep(1)
        assert len(house.calls) == 3
        nursery.cancel_scope.cancel()
