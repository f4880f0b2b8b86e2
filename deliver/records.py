"""What the doors without a queue put down: settled recipients and events, in one database and one commit.

The file is `outbox.db` in the state directory; several processes may use it at once. Where a settlement
cannot be written, the answer to the caller stays what it is: delivered is delivered, and this is said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sqlalchemy

from deliver import settled
from deliver.errors import OutriderError, StorageError
from deliver.groupcommit import SqlRunner
from deliver.message import Envelope, MessageId, Recipient
from deliver.net.clock import Clock
from deliver.outbox import OUTBOX
from deliver.outcome import Delivered, Outcome
from deliver.owner import is_alive, own_name
from deliver.queue.journal import Journal, Proof, read as read_journal
from deliver.settings import Settings
from deliver.settled import Job, Opened
from deliver.sqlrun import FEW, Joint, Sql
from events import outbox
from events.catalogue import Event
from events.outbox import Append

PRUNE_EVERY = 3600.0  # seconds
COMPANY = 0.05  # seconds that what others may share waits for them, at most

_log = logging.getLogger("outrider.delivery")


@dataclass(frozen=True, slots=True)
class _Settlement(Joint[None]):
    """What became of a message: outcomes, if its caller is known by a job, and events."""

    job: Job | None
    message_id: MessageId
    outcomes: Sequence[tuple[Recipient, Outcome]]
    events: Sequence[Event]
    owner: str
    now: float  # seconds since the epoch
    append: Append

    def __call__(self, conn: sqlalchemy.Connection) -> None:
        self.together(conn, (self,))

    @classmethod
    def together(cls, conn: sqlalchemy.Connection, writes: Sequence[_Settlement]) -> Sequence[None]:
        """See `Joint.together`."""
        for each in writes:
            if each.job is not None:
                settled.settle(
                    conn,
                    job=each.job,
                    message_id=each.message_id,
                    outcomes=each.outcomes,
                    owner=each.owner,
                    now=each.now,
                )
        outbox.appending(writes[0].append).each(conn, [(each.message_id, each.events) for each in writes])
        return [None] * len(writes)


class Records:
    """The doors' database, and the journal of this process."""

    def __init__(self, settings: Settings, sql: Sql, append: Append, clock: Clock) -> None:
        """`append` keeps events in the caller's transaction, see `events.outbox.append`."""
        self.sql = sql
        self.owner = own_name()
        self.committed: Callable[[], None] = lambda: None  # called when events were put down
        self._directory = Path(settings.state_dir)
        self.remember = float(settings.send.remember)  # seconds
        self._append = append
        self._clock = clock
        self._journal: Journal | None = None
        self._pruned = 0.0

    @classmethod
    async def open(cls, settings: Settings, append: Append, clock: Clock) -> Records:
        """Open or create the file. Raises StorageError."""
        return cls(settings, await SqlRunner.open(settings.path(OUTBOX), prepare), append, clock)

    async def begin(self, job: Job, envelope: Envelope, lease: float) -> Opened:
        """Who has to be delivered, for `lease` seconds. Raises StorageError."""
        now = self._clock.now()
        if self._pruned + PRUNE_EVERY < now:
            self._pruned = now
            await self.sql.write(partial(settled.prune, before=now - self.remember), durable=False)
        return await self.sql.write(
            partial(
                settled.begin,
                job=job,
                envelope=envelope,
                owner=self.owner,
                now=now,
                lease=lease,
                alive=is_alive,
                proofs=self._proofs,
            ),
            durable=False,
            brief=len(envelope.recipients) <= FEW,
        )

    def note(
        self, attempt: int, envelope: Envelope, recipients: Sequence[Recipient], outcome: Delivered
    ) -> None:
        """A final 2yz was read: put it down at once. Never raises."""
        try:
            if self._journal is None:
                self._journal = Journal(self._journal_of(self.owner))
            ordinals = tuple(recipient.ordinal for recipient in recipients)
            self._journal.note(Proof.of(attempt, envelope.id, ordinals, outcome))
        except OutriderError as error:
            _log.error("%s", error)

    async def settle(
        self,
        job: Job | None,
        attempt: int,
        envelope: Envelope,
        outcomes: Sequence[tuple[Recipient, Outcome]],
        events: Sequence[Event],
        *,
        in_company: bool = False,
    ) -> None:
        """Outcomes and events, in one durable commit. Never raises an error of the tree.

        `in_company`: others end too, and may share it.
        """
        settlement = _Settlement(
            job, envelope.id, outcomes, events, self.owner, self._clock.now(), self._append
        )
        patience = COMPANY if in_company else 0.0
        try:
            await self.sql.write(settlement, patience=patience, brief=len(outcomes) <= FEW)
        except StorageError as error:
            _log.critical("%s: what became of it is not on record: %s", envelope.id, error)
            return
        self.committed()
        if self._journal is not None:
            self._journal.settled(attempt)

    async def tell(self, events: Sequence[Event]) -> None:
        """Events that belong to no delivery. Never raises an error of the tree."""
        if not events:
            return
        about = str(events[0].fields.get("message_id"))
        try:
            await self.sql.write(lambda conn: self._append(conn, about, events), durable=False)
        except StorageError as error:
            _log.error("%s", error)
        self.committed()

    async def aclose(self) -> None:
        """Close the files; a journal that proves nothing any more is removed."""
        await self.sql.aclose()
        if self._journal is not None:
            proofs = self._journal.proofs()
            self._journal.close()
            if not proofs:
                self._journal_of(self.owner).unlink(missing_ok=True)

    def _journal_of(self, owner: str) -> Path:
        return self._directory / f"settled-{owner}.journal"

    def _proofs(self, owner: str) -> tuple[Proof, ...]:
        return read_journal(self._journal_of(owner))


def prepare(conn: sqlalchemy.Connection) -> None:
    """Make the tables exist."""
    outbox.metadata.create_all(conn)
    settled.metadata.create_all(conn)
