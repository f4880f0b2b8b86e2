"""What became of claims goes on record, those together that end at about the same time.

A settlement waits for company until the transaction begins that takes it along: no task waits for it alone.
Where the transaction fails, each is settled by itself, see `Execution.settle`, so that none fails another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

import trio
from msgspec import Struct
from sqlalchemy import Connection

from deliver.queue.claiming import Claim
from deliver.queue.content import remove
from deliver.queue.execution import COMPANY, SETTLE_PATIENCE, Ended, Execution
from deliver.queue.joint import Settle
from deliver.queue.shard import Shard
from deliver.queue.store import Settled
from deliver.sqlrun import FEW, Joint

MOST: Final = 50  # settlements of one transaction,
MOST_RECIPIENTS: Final = 100  # and recipients: they are written on the loop's thread

log = logging.getLogger("outrider.queue")


class Member(Struct, frozen=True):
    """One claim that has ended, and how that is recorded."""

    execution: Execution
    claim: Claim
    ended: Ended
    write: Settle


@dataclass(slots=True, eq=False)
class Company(Joint[Sequence[Settled]]):
    """Settlements that go along with one transaction; when it has begun they are `closed` to others."""

    doubtful: ClassVar[bool] = True
    members: list[Member] = field(default_factory=list)
    recipients: int = 0
    closed: bool = False

    def __call__(self, conn: Connection) -> Sequence[Settled]:
        """Settle each."""
        return [write(conn) for write in self._taken()]

    @classmethod
    def together(cls, conn: Connection, writes: Sequence[Company]) -> Sequence[Sequence[Settled]]:
        """See `Joint.together`."""
        taken = [each._taken() for each in writes]
        settled = iter(Settle.together(conn, [write for some in taken for write in some]))
        return [[next(settled) for _ in some] for some in taken]

    def has_room(self, recipients: int) -> bool:
        """For another settlement."""
        if self.closed or len(self.members) >= MOST:
            return False
        return self.recipients + recipients <= MOST_RECIPIENTS

    def _taken(self) -> list[Settle]:
        self.closed = True
        return [each.write for each in self.members]


class Settling:
    """Of one runner. `done` is called for each claim that is settled, or cannot be."""

    def __init__(self, shard: Shard, done: Callable[[Claim], None]) -> None:
        self._shard = shard
        self._done = done
        self._company = Company(closed=True)

    def add(self, execution: Execution, claim: Claim, ended: Ended, nursery: trio.Nursery) -> None:
        """The claim has ended: settle it in a task of the nursery. Raises no Exception."""
        try:
            write = execution.settlement(claim, ended)
        except Exception:
            log.exception("%s: attempt %d cannot be settled", claim.envelope.id, claim.number)
            write = None
        recipients = len(claim.recipients)
        # nodes lock messages in their order, one by one
        if write is None or self._shard.node is not None or recipients > FEW:
            nursery.start_soon(self._alone, execution, claim, ended)
            return
        if not self._company.has_room(recipients):
            self._company = Company()
            nursery.start_soon(self._settle, self._company, nursery)
        self._company.members.append(Member(execution, claim, ended, write))
        self._company.recipients += recipients

    async def _settle(self, company: Company, nursery: trio.Nursery) -> None:
        settled: Sequence[Settled] = ()
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + SETTLE_PATIENCE):
                settled = await self._shard.sql.write(company, patience=COMPANY, brief=True)
        except Exception as error:
            log.debug("%d attempts cannot be settled together: %s", len(company.members), error)
        company.closed = True  # also where it never began
        for each in company.members[len(settled) :]:
            nursery.start_soon(self._alone, each.execution, each.claim, each.ended)
        members, company.members = company.members[: len(settled)], []  # with their contents
        if settled:
            await self._conclude(members, settled)

    async def _conclude(self, members: Sequence[Member], settled: Sequence[Settled]) -> None:
        """They are on record: say so, and remove what no row refers to any more."""
        try:
            for each, what in zip(members, settled, strict=True):
                each.execution.record(each.write, what)
            members[-1].execution.settled(all(what.completed for what in settled))
            removable = [name for what in settled for name in what.removable]
            if removable:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(remove, self._shard.spool, removable)
        except Exception:
            log.exception("what follows from %d settled attempts failed", len(members))
        finally:
            for each in members:
                self._done(each.claim)

    async def _alone(self, execution: Execution, claim: Claim, ended: Ended) -> None:
        try:
            await execution.settle(claim, ended)
        finally:
            self._done(claim)
