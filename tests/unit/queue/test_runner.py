"""The runner under a simulated clock: limits, failures, cancellation, shutdown."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import pytest
import trio

from deliver.errors import StorageError
from deliver.message import MessageId
from deliver.net.clock import WallClock
from deliver.outcome import AttemptResult, Contact, Delivered
from deliver.queue import schema, store
from deliver.queue.content import SpoolContent
from deliver.queue.journal import Journal, read
from deliver.queue.runner import Runner
from deliver.queue.shard import Shard
from deliver.report.trace import Finding, Stage, Trace
from deliver.settings import Duration, Queue
from deliver.smtp.reply import Reply
from deliver.sqlrun import InlineRunner
from tests.unit.queue.values import (
    CONTENT,
    DEFERRED,
    DELIVERED,
    FAILED,
    IN_DOUBT,
    NOW,
    Recorder,
    accept,
    envelope,
    rows,
    states,
)

OK = Delivered(Reply(250, ("Ok",)), Contact("mx.example.org", "192.0.2.1", 25), dsn_passed=True)
SETTINGS = Queue(
    workers=10,
    per_domain=2,
    retry=(Duration(60), Duration(600)),
    expire=Duration(7200),
    lease_margin=Duration(100),
    shutdown_grace=Duration(20),
    longest_site_pause=Duration(300),
)


class Story:
    """An attempt made of one async function; without a value of that there is no result."""

    def __init__(self, run: Callable[[], Awaitable[AttemptResult]]) -> None:
        self._run = run
        self._result: AttemptResult | None = None

    async def run(self, scope: trio.CancelScope) -> None:
        self._result = await self._run()

    def progress(self) -> int:
        return 0

    def result(self) -> AttemptResult:
        if self._result is None:
            raise LookupError("nothing is known")
        return self._result


class House:
    """A shard, a runner over it, and what its attempts did."""

    def __init__(self, directory: Path, settings: Queue = SETTINGS) -> None:
        self.sql = InlineRunner(None, schema.migrate)
        self.journal = Journal(directory / "shard-0.journal")
        self.journal_path = directory / "shard-0.journal"
        self.spool = directory / "spool-0"
        self.recorder = Recorder()
        self.calls: list[tuple[str, int, float]] = []
        self.complete: list[bool] = []
        self.clock = WallClock(NOW)
        self.attempt: Callable[..., Awaitable[AttemptResult]] = self.outcome(DELIVERED)
        self.serial = 0
        self.runner = Runner(
            Shard(self.sql, self.journal, self.spool),
            self._begin,
            settings=settings,
            attempt_deadline=1000,
            clock=self.clock,
            rng=Random(1),
            append=self.recorder,
            settled=self.complete.append,
        )

    def _new_id(self) -> MessageId:
        self.serial += 1
        return MessageId(f"bounce{self.serial}")

    def _begin(self, claim, content, journal) -> Story:
        self.calls.append((claim.envelope.id, claim.number, self.clock.now() - NOW))
        return Story(lambda: self.attempt(claim, content, journal))

    def outcome(self, *outcomes):
        async def attempt(claim, content, journal):
            await trio.lowlevel.checkpoint()
            pairs = zip(claim.recipients, outcomes * len(claim.recipients), strict=False)
            return AttemptResult(tuple(pairs), Trace())

        return attempt

    async def accept(self, *args, **more) -> None:
        await self.sql.write(lambda conn: accept(conn, *args, **more))
        self.runner.poke()

    def refuse(self, while_: Callable[[], bool], why: str = "the database is locked") -> None:
        """As long as that is so nothing durable can be written."""
        write = self.sql.write

        async def refusing(fn, *, durable=True, **how):
            if durable and while_():
                raise StorageError("writing", why, "wait")
            return await write(fn, durable=durable, **how)

        self.sql.write = refusing

    async def states(self) -> dict[str, str]:
        return await self.sql.read(states)

    async def run_for(self, seconds: float) -> None:
        """Run, stop after that time, and return when `run` has."""
        with trio.fail_after(seconds + 10_000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.runner.run)
                await trio.sleep(seconds)
                self.runner.stop()


@pytest.fixture
async def house(tmp_path):
    built = House(tmp_path)
    yield built
    built.journal.close()


async def test_accepted_mail_is_delivered_and_settled(autojump_clock, house):
    await house.accept("m1")
    await house.run_for(1)
    assert await house.states() == {"b@example.org": "delivered"}
    assert house.recorder.names() == ["msg:complete"]
    assert house.runner.running == 0


async def test_the_attempt_gets_the_content(autojump_clock, house):
    seen = []

    async def attempt(claim, content, journal):
        seen.append((content.size, await content.read(0, 10_000)))
        return AttemptResult(((claim.recipients[0], DELIVERED),), Trace())

    house.attempt = attempt
    await house.accept("m1")
    await house.run_for(1)
    assert seen == [(len(CONTENT), CONTENT)]


async def test_new_mail_wakes_the_runner_at_once(autojump_clock, house):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(30.5)
        await house.accept("m1")
        await trio.sleep(1)
        house.runner.stop()
    assert house.calls == [("m1", 1, 30.5)]


async def test_deferred_mail_is_tried_again_by_the_retry_list_until_it_expires(autojump_clock, house):
    house.attempt = house.outcome(DEFERRED)
    await house.accept("m1", sender=None)
    await house.run_for(8000)
    times = [at for _, _, at in house.calls]
    assert [number for _, number, _ in house.calls] == list(range(1, len(times) + 1))
    assert times[0] == 0
    assert 60 <= times[1] <= 66
    assert all(600 <= later - earlier <= 661 for earlier, later in itertools.pairwise(times[1:-1]))
    assert times[-1] == pytest.approx(7200, abs=1)
    assert await house.states() == {"b@example.org": "failed"}
    assert house.recorder.names() == ["msg:fail:internal", "msg:complete"]
    assert all(event.problems() == () for _, event in house.recorder.events)


async def test_workers_that_end_together_claim_together(autojump_clock, house):
    """A claim each would be a transaction each, one behind the other."""
    claims: list[float] = []
    write = house.sql.write

    async def counting(fn, *, durable=True, patience=0.0, brief=False):
        if not durable and house.runner.running:
            claims.append(trio.current_time())
        return await write(fn, durable=durable, patience=patience)

    async def attempt(claim, content, journal):
        await trio.sleep(1)
        return AttemptResult(((claim.recipients[0], DELIVERED),), Trace())

    house.sql.write = counting
    house.attempt = attempt
    for number in range(16):
        await house.accept(f"m{number}", f"b@d{number % 8}.example")
    began = trio.current_time()
    await house.run_for(25)
    assert set((await house.states()).values()) == {"delivered"}
    assert {at for _, _, at in house.calls} == {0, 1}
    assert len([at for at in claims if at - began == pytest.approx(1)]) <= 3


@pytest.mark.parametrize(("workers", "looked"), [(10, False), (1, True)])
async def test_workers_look_for_more_only_where_something_was_left(autojump_clock, tmp_path, workers, looked):
    house = House(tmp_path, Queue(workers=workers, per_domain=2))
    asked: list[str] = []
    domains = house.runner.lanes.domains
    house.runner.lanes.domains = lambda domain: asked.append(domain) or domains(domain)  # what a worker asks
    for number in range(3):
        await house.accept(f"m{number}", f"b@d{number}.example")
    await house.run_for(5)
    assert set((await house.states()).values()) == {"delivered"}
    assert bool(asked) is looked
    house.journal.close()


async def test_an_attempt_that_goes_on_for_too_long_is_ended_and_said(autojump_clock, house, caplog):
    async def attempt(claim, content, journal):
        while True:
            await content.read(0, 1)
            await trio.sleep(10)

    house.attempt = attempt
    await house.accept("m1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(1045)
        assert house.runner.running == 1
        await trio.sleep(10)
        assert house.runner.running == 0, "attempt_deadline and half of the lease's margin are over"
        nursery.cancel_scope.cancel()
    assert "m1: attempt 1 took longer than 1050 s" in caplog.text
    assert await house.states() == {"b@example.org": "queued"}


async def test_a_bounce_that_fails_is_not_bounced(autojump_clock, house):
    house.attempt = house.outcome(FAILED)
    await house.accept("m1", sender=None)
    await house.run_for(1)
    assert await house.states() == {"b@example.org": "failed"}
    assert [name for name, _, _ in house.calls] == ["m1"]


async def test_limits_by_domain_and_altogether_hold(autojump_clock, tmp_path):
    house = House(tmp_path, Queue(workers=3, per_domain=2, slow_after=Duration(60)))
    running: dict[str, int] = {}
    most: dict[str, int] = {}

    async def attempt(claim, content, journal):
        for key in (claim.domain, "all"):
            running[key] = running.get(key, 0) + 1
            most[key] = max(most.get(key, 0), running[key])
        await trio.sleep(10)
        for key in (claim.domain, "all"):
            running[key] -= 1
        return AttemptResult(((claim.recipients[0], DELIVERED),), Trace())

    house.attempt = attempt
    for index in range(6):
        await house.accept(f"a{index}", f"x{index}@a.example")
        await house.accept(f"b{index}", f"x{index}@b.example")
    await house.run_for(200)
    assert most == {"a.example": 2, "b.example": 2, "all": 3}
    assert set((await house.states()).values()) == {"delivered"}


async def test_a_stuck_destination_does_not_delay_another(autojump_clock, house):
    async def attempt(claim, content, journal):
        if claim.domain == "stuck.example":
            await trio.sleep(900)
        return AttemptResult(((claim.recipients[0], DELIVERED),), Trace())

    house.attempt = attempt
    for index in range(5):
        await house.accept(f"s{index}", f"x{index}@stuck.example")
    await house.accept("m1", "b@example.org")
    await house.run_for(1000)
    assert ("m1", 1, 0.0) in house.calls


async def test_an_attempt_that_raises_is_deferred_in_doubt_and_harms_no_sibling(
    autojump_clock, house, caplog
):
    async def attempt(claim, content, journal):
        if claim.domain == "bad.example":
            raise KeyError("a bug")
        await trio.sleep(5)
        return AttemptResult(((claim.recipients[0], DELIVERED),), Trace())

    house.attempt = attempt
    await house.accept("m1", "b@bad.example")
    await house.accept("m2", "c@example.org")
    await house.run_for(30)
    assert await house.states() == {"b@bad.example": "queued", "c@example.org": "delivered"}
    assert "KeyError: 'a bug'" in caplog.text
    assert (await house.sql.read(rows))[0].in_doubt == 1


async def test_a_group_of_errors_is_handled_like_one(autojump_clock, house):
    async def attempt(claim, content, journal):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 1)
            raise KeyError("a bug")

    house.attempt = attempt
    await house.accept("m1")
    await house.run_for(30)
    assert await house.states() == {"b@example.org": "queued"}


async def test_what_was_journalled_before_an_error_is_delivered(autojump_clock, house):
    async def attempt(claim, content, journal):
        journal(claim.recipients[:1], OK)
        raise KeyError("a bug")

    house.attempt = attempt
    await house.accept("m1", "b@example.org", "c@example.org")
    await house.run_for(30)
    assert await house.states() == {"b@example.org": "delivered", "c@example.org": "queued"}
    assert read(house.journal_path) == ()


async def test_a_reply_is_in_the_journal_before_anything_else_is_awaited(autojump_clock, house):
    during = []

    async def attempt(claim, content, journal):
        journal(claim.recipients, OK)
        during.extend(read(house.journal_path))
        await trio.sleep(1)
        return AttemptResult(((claim.recipients[0], DELIVERED),), Trace())

    house.attempt = attempt
    await house.accept("m1")
    await house.run_for(10)
    (proof,) = during
    assert (proof.message_id, proof.ordinals, proof.reply) == ("m1", (0,), OK.reply)
    assert (proof.host, proof.address, proof.dsn_passed) == ("mx.example.org", "192.0.2.1", True)
    assert read(house.journal_path) == ()


async def test_an_attempt_that_outlives_its_deadline_is_ended_before_its_lease(autojump_clock, house, caplog):
    async def attempt(claim, content, journal):
        await trio.sleep_forever()

    house.attempt = attempt
    await house.accept("m1")
    await house.run_for(1051)
    assert (await house.sql.read(rows))[0].in_doubt == 1
    assert "took back" not in caplog.text


async def test_stopping_waits_for_attempts_within_the_grace(autojump_clock, house):
    async def attempt(claim, content, journal):
        await trio.sleep(15)
        return AttemptResult(((claim.recipients[0], DELIVERED),), Trace())

    house.attempt = attempt
    await house.accept("m1")
    start = trio.current_time()
    await house.run_for(1)
    assert trio.current_time() - start == pytest.approx(15)
    assert await house.states() == {"b@example.org": "delivered"}


async def test_after_the_grace_attempts_are_cancelled_and_settled_in_doubt(autojump_clock, house):
    async def attempt(claim, content, journal):
        await trio.sleep_forever()

    house.attempt = attempt
    await house.accept("m1")
    start = trio.current_time()
    await house.run_for(1)
    assert trio.current_time() - start == pytest.approx(21)
    (row,) = await house.sql.read(rows)
    assert (row.state, row.in_doubt) == ("queued", 1)


async def test_a_cancelled_attempt_may_still_say_what_it_knows(autojump_clock, house):
    async def attempt(claim, content, journal):
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return AttemptResult(((claim.recipients[0], DEFERRED), (claim.recipients[1], DELIVERED)), Trace())

    house.attempt = attempt
    await house.accept("m1", "b@example.org", "c@example.org")
    await house.run_for(1)
    first, second = await house.sql.read(rows)
    assert (first.state, first.in_doubt, second.state) == ("queued", 0, "delivered")


@pytest.mark.parametrize("after", [0, 0.5, 5])
async def test_cancelling_the_runner_settles_every_claim(autojump_clock, house, after):
    async def attempt(claim, content, journal):
        await trio.sleep_forever()

    house.attempt = attempt
    await house.accept("m1", "b@example.org", "c@example.net")
    with trio.move_on_after(after):
        await house.runner.run()
    assert set((await house.states()).values()) == {"queued"}
    assert house.runner.running == 0


async def test_stopping_before_anything_runs_claims_nothing(autojump_clock, house):
    await house.accept("m1")
    house.runner.stop()
    await house.runner.run()
    assert house.calls == []


async def test_a_settlement_that_the_database_refuses_is_tried_again(autojump_clock, house):
    refusals = iter([True] * 3)
    await house.accept("m1")
    house.refuse(lambda: next(refusals, False), "the disk is full")
    await house.run_for(30)
    assert list(refusals) == []
    assert await house.states() == {"b@example.org": "delivered"}
    assert len(house.calls) == 1


async def test_a_settlement_that_stays_refused_keeps_its_proof_and_is_made_up_for_later(
    autojump_clock, house, caplog
):
    refusing = True

    async def attempt(claim, content, journal):
        journal(claim.recipients, OK)
        return AttemptResult(((claim.recipients[0], DELIVERED),), Trace())

    house.attempt = attempt
    await house.accept("m1")
    house.refuse(lambda: refusing, "the disk is full")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(1050)
        assert await house.states() == {"b@example.org": "leased"}
        assert len(read(house.journal_path)) == 1
        assert house.runner.running == 1, "the lease is not over"
        await trio.sleep(100)
        assert house.runner.running == 0
        refusing = False
        await trio.sleep(200)
        house.runner.stop()
    assert await house.states() == {"b@example.org": "delivered"}
    assert len(house.calls) == 1
    assert house.journal.proofs() == ()
    assert "open until its lease expires" in caplog.text


async def test_a_settlement_goes_through_when_the_database_is_back_after_minutes(
    autojump_clock, house, caplog
):
    """A tool held the database for long; what a server said meanwhile is not forgotten."""
    refusing = True
    house.attempt = house.outcome(FAILED)
    await house.accept("m1")
    house.refuse(lambda: refusing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(120)
        assert await house.states() == {"b@example.org": "leased"}
        refusing = False
        await trio.sleep(20)
        assert await house.states() == {"b@example.org": "failed"}
        house.runner.stop()
    assert len(house.calls) == 1
    assert sum("settling attempt 1" in each.message for each in caplog.records if each.levelno > 10) == 1


@pytest.mark.parametrize("cancelled", [False, True])
async def test_at_the_end_a_settlement_is_not_waited_for_until_its_lease_ends(
    autojump_clock, house, cancelled
):
    await house.accept("m1")
    house.refuse(lambda: True)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.runner.run)
        await trio.sleep(5)
        nursery.cancel_scope.cancel() if cancelled else house.runner.stop()
    assert trio.current_time() - began < 60


async def test_a_database_that_cannot_be_claimed_from_is_waited_for(
    autojump_clock, house, monkeypatch, caplog
):
    write, failures = house.sql.write, []

    async def refusing(fn, *, durable=True, patience=0.0, brief=False):
        if len(failures) < 5:
            failures.append(1)
            raise StorageError("writing", "locked", "wait")
        return await write(fn, durable=durable)

    await house.accept("m1")
    monkeypatch.setattr(house.sql, "write", refusing)
    await house.run_for(30)
    assert await house.states() == {"b@example.org": "delivered"}
    assert "writing: locked" in caplog.text


async def test_lost_content_holds_the_message_and_bothers_no_server(autojump_clock, house, caplog):
    lost = envelope("m1")
    await house.sql.write(
        lambda conn: store.accept(conn, lost, SpoolContent(house.spool, "m1.eml", 9), (), NOW)
    )
    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.runner.run)
            await trio.testing.wait_all_tasks_blocked(0.2)
            nursery.cancel_scope.cancel()
    assert house.calls == []
    assert await house.states() == {"b@example.org": "queued"}
    assert "m1.eml" in caplog.text


async def test_findings_and_events_of_the_attempt_are_recorded(autojump_clock, house):
    async def attempt(claim, content, journal):
        trace = Trace()
        trace.add(Finding(Stage.DNS, "mx", "one MX", rfc="RFC 5321 5.1"))
        trace.raise_event("msg:delivery", NOW, event_data="Ok")
        return AttemptResult(((claim.recipients[0], DELIVERED),), trace)

    house.attempt = attempt
    await house.accept("m1")
    await house.run_for(1)
    (row,) = await house.sql.read(lambda conn: conn.execute(schema.attempt.select()).all())
    assert '"code":"mx"' in row.trace
    assert house.recorder.names() == ["msg:delivery", "msg:complete"]


async def test_in_doubt_is_recorded_and_logged(autojump_clock, house, caplog):
    house.attempt = house.outcome(IN_DOUBT)
    await house.accept("m1")
    with caplog.at_level(logging.INFO):
        await house.run_for(1)
    assert (await house.sql.read(rows))[0].in_doubt == 1
    (line,) = (record for record in caplog.records if record.getMessage() == "deferred")
    assert (line.facts["id"], line.facts["in_doubt"]) == ("m1", "yes")
    assert 600 <= line.facts["retry_in"] <= 660


async def test_old_history_is_forgotten(autojump_clock, house):
    await house.accept("m1")
    await house.run_for(86_400 + 130)
    assert await house.states() == {}
