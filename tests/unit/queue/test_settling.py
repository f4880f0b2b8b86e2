"""What ends at the same time is settled in one transaction, and none fails another."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import trio

from deliver.errors import StorageError
from deliver.outcome import AttemptResult
from deliver.queue import joint, settling, store
from deliver.queue.content import SpoolContent
from deliver.queue.execution import Execution
from deliver.queue.settling import Company
from deliver.report.trace import Trace
from deliver.sqlrun import FEW
from tests.unit.queue.test_runner import House
from tests.unit.queue.values import (
    DEFERRED,
    DELIVERED,
    FAILED,
    NOW,
    Recorder,
    accept,
    claim,
    envelope,
    states,
)


class Busy(House):
    """Attempts that all end in the same moment; the sizes of the companies that were written are noted."""

    def __init__(self, directory) -> None:
        super().__init__(directory)
        self.sizes: list[int] = []
        self.companies: list[Company] = []
        self.alone = 0
        self.gate = trio.Event()
        self.two = trio.Event()
        self.attempt = self.gated
        self.fault: Exception | None = None
        self._write = self.sql.write
        self.sql.write = self.noted

    async def gated(self, claim, content, journal):
        if len(self.calls) == 2:
            self.two.set()
        await self.gate.wait()
        outcome = {"d": DEFERRED, "f": FAILED}.get(claim.envelope.id[0], DELIVERED)
        return AttemptResult(tuple((each, outcome) for each in claim.recipients), Trace())

    async def noted(self, fn, **how):
        if isinstance(fn, Company):
            self.companies.append(fn)
            if self.fault is not None:
                raise self.fault
            value = await self._write(fn, **how)
            self.sizes.append(len(value))
            return value
        self.alone += isinstance(fn, joint.Settle)
        return await self._write(fn, **how)

    async def deliver(self, *names) -> None:
        for number, name in enumerate(names):
            await self.accept(name, f"{name}@d{number}.example")
        await self.run()

    async def run(self) -> None:
        with trio.fail_after(10_000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.runner.run)
                await trio.sleep(1)
                self.gate.set()
                await trio.sleep(1)
                self.runner.stop()


@pytest.fixture
async def busy(tmp_path):
    built = Busy(tmp_path)
    yield built
    built.journal.close()


async def test_those_that_end_together_share_one_write(autojump_clock, busy):
    await busy.deliver("m1", "d2", "f3", "m4")
    assert (busy.sizes, busy.alone) == ([4], 0)
    found = await busy.states()
    assert [state for _, state in sorted(found.items())] == ["queued", "failed", "delivered", "delivered"]
    assert busy.runner.running == 0
    assert busy.journal.proofs() == ()


async def test_one_transaction_takes_a_bounded_number(autojump_clock, busy, monkeypatch):
    monkeypatch.setattr(settling, "MOST", 2)
    await busy.deliver("m1", "m2", "m3", "m4", "m5")
    assert sorted(busy.sizes) == [1, 2, 2]
    assert set((await busy.states()).values()) == {"delivered"}


async def test_where_that_fails_each_is_settled_alone(autojump_clock, busy):
    busy.fault = StorageError("writing", "busy", "wait")
    await busy.deliver("m1", "m2", "d3")
    assert (busy.sizes, busy.alone) == ([], 3)
    assert sorted((await busy.states()).values()) == ["delivered", "delivered", "queued"]
    assert busy.runner.running == 0


@pytest.mark.parametrize("fault", [None, StorageError("writing", "busy", "wait")])
@pytest.mark.parametrize(
    ("second", "complete"),
    [("m2", True), ("d2", False), ("f2", False)],
    ids=["delivered", "deferred", "failed"],
)
async def test_it_is_told_whether_somebody_may_be_owed_something(
    autojump_clock, busy, fault, second, complete
):
    busy.fault = fault
    await busy.deliver("m1", second)
    assert sorted(busy.complete) == ([complete] if fault is None else [complete, True])


async def test_many_recipients_are_settled_alone(autojump_clock, busy):
    for name, recipients in (("m1", FEW), ("m2", FEW + 1)):
        await busy.accept(name, *(f"b{number}@{name}.example" for number in range(recipients)))
    await busy.run()
    assert (busy.sizes, busy.alone) == ([1], 1)
    assert set((await busy.states()).values()) == {"delivered"}


@pytest.mark.parametrize("fault", [None, StorageError("writing", "busy", "wait")])
async def test_afterwards_a_company_keeps_no_claims_nor_what_they_read(autojump_clock, busy, fault):
    busy.fault = fault
    await busy.deliver("m1", "m2")
    assert [each.members for each in busy.companies] == [[]]


async def test_what_fails_after_the_settlement_ends_each_claim_all_the_same(
    autojump_clock, busy, monkeypatch, caplog
):
    def fail(*_):
        raise ValueError("broken")

    monkeypatch.setattr(Execution, "record", fail)
    await busy.deliver("m1", "m2")
    assert (busy.sizes, busy.alone) == ([2], 0)
    assert set((await busy.states()).values()) == {"delivered"}
    assert "what follows from 2 settled attempts failed" in caplog.text
    assert busy.runner.running == 0


async def test_one_that_cannot_be_settled_fails_no_other(autojump_clock, busy, monkeypatch, caplog):
    settle = store.settle

    def refusing(conn, claimed, *rest, **more):
        if claimed.envelope.id == "d1":
            raise ValueError("broken")
        return settle(conn, claimed, *rest, **more)

    monkeypatch.setattr(store, "settle", refusing)
    with caplog.at_level(logging.CRITICAL):
        await busy.deliver("d1", "m2", "m3")
    assert await busy.states() == {
        "d1@d0.example": "leased",
        "m2@d1.example": "delivered",
        "m3@d2.example": "delivered",
    }
    assert "open until its lease expires" in caplog.text
    assert busy.runner.running == 0


async def test_spool_files_of_all_are_removed(busy):
    """With the real clock, as files are removed in a thread."""
    busy.spool.mkdir()
    for name in ("m1", "m2"):
        (busy.spool / name).write_bytes(b"x")
        made = envelope(name, f"{name}@{name}.example")
        content = SpoolContent(busy.spool, name, 1)
        await busy.sql.write(partial(store.accept, envelope=made, content=content, events=(), now=NOW))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(busy.runner.run)
            await busy.two.wait()
            busy.gate.set()
            busy.runner.stop()
    assert busy.sizes == [2]
    assert list(busy.spool.iterdir()) == []


def test_a_company_that_is_under_way_takes_nobody_along(conn):
    company = Company()
    assert not company.closed
    assert company(conn) == []
    assert company.closed


def test_several_companies_of_one_transaction_each_get_their_own(conn):
    made, events = [], Recorder()
    for name, outcome in (("m1", DELIVERED), ("m2", FAILED), ("m3", DELIVERED)):
        accept(conn, name, f"{name}@{name}.example")
        (claimed,) = claim(conn)
        settlement = store.Settlement(claimed.recipients[0], outcome, None)
        write = joint.Settle(claimed, (settlement,), (), NOW, "[]", 0.0, events)
        made.append(settling.Member(None, claimed, None, write))
    companies = [Company(made[:2]), Company(), Company(made[2:])]
    settled = Company.together(conn, companies)
    assert [[each.completed for each in some] for some in settled] == [[True, False], [], [True]]
    assert set(states(conn).values()) == {"delivered", "failed"}


def test_a_company_has_room_for_few_recipients() -> None:
    company = Company()
    assert company.has_room(settling.MOST_RECIPIENTS)
    company.recipients = settling.MOST_RECIPIENTS
    assert not company.has_room(1)
    assert not Company(closed=True).has_room(1)
