"""What the doors put down: deliveries that end side by side share a COMMIT."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from threading import get_ident
from typing import Any

import pytest
import trio
import trio.testing
from sqlalchemy import select

from deliver import diskwatch, groupcommit, settled
from deliver.groupcommit import SqlRunner
from deliver.net.clock import WallClock
from deliver.outcome import Delivered, Failed
from deliver.records import FEW, Records
from deliver.settings import Settings
from deliver.settled import Job
from events import outbox
from events.catalogue import Event
from tests.unit.queue.values import DEFERRED, DELIVERED, FAILED, envelope


@pytest.fixture
async def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Records]:
    """Whose company is waited for, however slow the disk is."""
    monkeypatch.setattr(diskwatch, "WAITED", 60.0)
    monkeypatch.setattr(groupcommit, "LEAST", 60.0)
    monkeypatch.setattr("deliver.records.COMPANY", 60.0)
    opened = await Records.open(Settings(state_dir=str(tmp_path)), outbox.append, WallClock())
    yield opened
    await opened.aclose()


async def told(records: Records) -> list[str]:
    """The messages of which there are events."""
    found = select(outbox.event_outbox.c.message_id)
    return sorted(await records.sql.read(lambda conn: conn.execute(found).scalars().all()))


async def test_deliveries_that_end_side_by_side_share_a_commit(records: Records) -> None:
    assert isinstance(records.sql, SqlRunner)
    before, committed = records.sql.commits, []
    records.committed = lambda: committed.append(1)

    async def settle(number: int, *, in_company: bool) -> None:
        mail = envelope(f"m{number}", "a@one.test")
        event = Event("msg:delivery", 1.0, {"message_id": mail.id})
        await records.settle(None, number, mail, (), (event,), in_company=in_company)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(lambda number=number: settle(number, in_company=True))
        await trio.testing.wait_all_tasks_blocked()
        assert not committed, "nobody is answered before the commit"
        await settle(3, in_company=False)
    assert (records.sql.commits - before, len(committed)) == (1, 4)
    assert await told(records) == ["m0", "m1", "m2", "m3"]


async def test_deliveries_of_known_jobs_share_a_commit_too(records: Records) -> None:
    assert isinstance(records.sql, SqlRunner)
    mails = [envelope(f"m{number}", "a@one.test") for number in range(3)]
    outcomes = (DELIVERED, FAILED, DEFERRED)
    jobs = [Job("", bytes([number])) for number in range(3)]
    for mail, job in zip(mails, jobs, strict=True):
        assert (await records.begin(job, mail, 60.0)).open == mail.recipients
    before = records.sql.commits

    async def settle(number: int) -> None:
        result = ((mails[number].recipients[0], outcomes[number]),)
        event = Event("msg:delivery", 1.0, {"message_id": mails[number].id})
        await records.settle(jobs[number], number, mails[number], result, (event,), in_company=number < 2)

    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(settle, number)
        await trio.testing.wait_all_tasks_blocked()
        await settle(2)
    assert records.sql.commits - before == 1
    again = [await records.begin(job, mail, 60.0) for mail, job in zip(mails, jobs, strict=True)]
    assert [type(opened.known.get(0)) for opened in again] == [Delivered, Failed, type(None)]
    assert again[2].open == mails[2].recipients, "what was deferred is delivered when it comes again"
    assert await told(records) == ["m0", "m1", "m2"]


@pytest.mark.parametrize(("recipients", "here"), [(1, True), (FEW, True), (FEW + 1, False)])
async def test_few_rows_are_written_on_the_thread_of_the_loop_and_many_on_another(
    records: Records, monkeypatch: pytest.MonkeyPatch, recipients: int, here: bool
) -> None:
    threads: list[int] = []
    for name in ("begin", "settle"):
        original = getattr(settled, name)

        def watched(*args: Any, original: Any = original, **more: Any) -> Any:
            threads.append(get_ident())
            return original(*args, **more)

        monkeypatch.setattr(settled, name, watched)
    mail = envelope("m1", *(f"a{number}@one.test" for number in range(recipients)))
    opened = await records.begin(Job("", b"1"), mail, 60.0)
    await records.settle(Job("", b"1"), 1, mail, [(one, DELIVERED) for one in opened.open], ())
    assert [thread == get_ident() for thread in threads] == [here, here]
