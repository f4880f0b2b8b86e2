"""The whole agent on that sea: queue, attempts, sessions and pool as the relay has them, which may crash.

A crash is what kill -9 is: from one moment on nothing reaches the database or the journal any more, and the
next life begins with what is on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TypeVar

import sqlalchemy
import trio

from deliver.agent import Agent
from deliver.attempt import Attempt
from deliver.errors import StorageError
from deliver.message import Content, Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import Clock
from deliver.pool import SessionPool
from deliver.queue import recovery, schema, store
from deliver.queue.content import InlineContent
from deliver.queue.journal import Journal, Proof
from deliver.queue.notice import Notifier
from deliver.queue.runner import JournalReply, Runner
from deliver.queue.shard import Shard
from deliver.queue.store import Claim
from deliver.queue.upkeep import Upkeep
from deliver.settings import Settings
from deliver.shardwork import longest_attempt
from deliver.sqlrun import InlineRunner
from deliver.tls.pkix import TrustStore
from events import outbox
from events.catalogue import Event
from hints.memory import MemoryHints
from tests.simulate.sea import Sea

T = TypeVar("T")


class _Sinking(InlineRunner):
    """A database that nothing reaches any more once `sunk` is set."""

    sunk = False

    async def read(self, fn: Callable[[sqlalchemy.Connection], T]) -> T:
        self._check()
        return await super().read(fn)

    async def write(
        self,
        fn: Callable[[sqlalchemy.Connection], T],
        *,
        durable: bool = True,
        patience: float = 0.0,
        brief: bool = False,
    ) -> T:
        self._check()
        return await super().write(fn, durable=durable)

    def _check(self) -> None:
        if self.sunk:
            raise StorageError("writing", "the process is dead", "none")


class _SinkingJournal(Journal):
    sunk = False

    def note(self, proof: Proof) -> None:
        if not self.sunk:
            super().note(proof)


class Vessel:
    """One state directory through several lives. `serial` numbers the messages."""

    def __init__(self, directory: Path, sea: Sea, settings: Settings, clock: Clock, rng: Random) -> None:
        self._directory = directory
        self._sea = sea
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._hints = MemoryHints(clock=clock.now)  # advice: it may survive, or not
        self._serial = 0
        self._wake: Callable[[], None] = lambda: None
        self.crashes = 0
        self.sql = self._database()

    def _database(self) -> _Sinking:
        return _Sinking(self._directory / "shard-0.db", schema.migrate)

    def _new_id(self) -> MessageId:
        self._serial += 1
        return MessageId(f"bounce{self._serial}")

    async def accept(self, name: str, recipients: tuple[str, ...], content: bytes) -> bool:
        """Take responsibility for a message; False: not accepted, the client keeps it."""
        boxes = tuple(Recipient(place, Mailbox.parse(box)) for place, box in enumerate(recipients))
        now, sender = self._clock.now(), Mailbox("me", "sender.test")
        envelope = Envelope(MessageId(name), sender, boxes, len(content), False, now)
        accepted = [Event("msg:accept", now)]
        try:
            await self.sql.write(
                lambda conn: store.accept(conn, envelope, InlineContent(content), accepted, now)
            )
        except StorageError:
            return False
        self._wake()
        return True

    async def live(self, until: trio.Event, *, crash: bool) -> None:
        """One life, until the event: then a crash, or an orderly end."""
        journal = _SinkingJournal(self._directory / "shard-0.journal")
        self.sql = sql = self._database()
        shard = Shard(sql, journal, self._directory / "spool-0")
        try:
            proofs = journal.proofs()
            await sql.write(lambda conn: recovery.recover(conn, self._clock.now(), proofs))
            journal.clear()
            await self._work(shard, until, crash=crash)
        finally:
            journal.close()
            await sql.aclose()

    async def _work(self, shard: Shard, until: trio.Event, *, crash: bool) -> None:
        runner, upkeep, pool = self._parts(shard)
        self._wake = runner.poke
        async with pool.open(), trio.open_nursery() as beside:
            beside.start_soon(upkeep.run)
            async with trio.open_nursery() as work:
                work.start_soon(runner.run)
                await until.wait()
                if crash:
                    self._sink(shard)
                    work.cancel_scope.cancel()
                runner.stop()
            beside.cancel_scope.cancel()
        assert runner.running == 0
        assert pool.count == 0
        self._wake = lambda: None

    def _sink(self, shard: Shard) -> None:
        self.crashes += 1
        assert isinstance(shard.sql, _Sinking)
        assert isinstance(shard.journal, _SinkingJournal)
        shard.sql.sunk = shard.journal.sunk = True

    def _parts(self, shard: Shard) -> tuple[Runner, Upkeep, SessionPool]:
        settings, clock, rng = self._settings, self._clock, self._rng
        pool = SessionPool(settings.pool)
        agent = Agent(
            settings=settings,
            resolver=self._sea,
            dialer=self._sea,
            hints=self._hints,
            clock=clock,
            rng=rng,
            trust=lambda path: TrustStore.empty(),
            helo="relay.sender.test",
            learner="relay",
            pool=pool,
        )

        def begin(claim: Claim, content: Content, journal: JournalReply) -> Attempt:
            return Attempt(
                agent, claim.envelope, claim.recipients, content, number=claim.number, journal=journal
            )

        runner = Runner(
            shard,
            begin,
            settings=settings.queue,
            attempt_deadline=longest_attempt(settings),
            clock=clock,
            rng=rng,
            append=outbox.append,
        )
        upkeep = Upkeep(
            shard,
            notifier=Notifier("relay.sender.test", self._new_id, rng),
            clock=clock,
            changed=runner.poke,
        )
        return runner, upkeep, pool
