"""The queue's promises under every order of events, crashes after every statement included.

A state machine drives the synchronous store on a real file. A crash drops the connection after any statement or before
COMMIT, and opens the shard again, as a new process would. Promised:

- accepted mail is never lost: an open recipient has its content and is found by a later claim;
- a recipient reaches one terminal state and never leaves it;
- what the journal proves is delivered, and never sent again after a crash;
- each recipient that failed is in exactly one bounce.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import select

from deliver.message import Envelope, MessageId
from deliver.queue import recovery, reports, schema, store
from deliver.queue.content import InlineContent
from deliver.queue.journal import Journal, Proof
from deliver.queue.notice import NewMessage
from deliver.queue.schedule import Settlement
from deliver.queue.schema import attempt, destination, message, recipient
from deliver.relay.statusfields import Entry
from deliver.smtp.reply import Reply
from deliver.sqlrun import Database
from tests.unit.queue import values
from tests.unit.queue.values import DEFERRED, DELIVERED, FAILED, IN_DOUBT, NOW, Recorder, envelope

DOMAINS = ("a.example", "b.example", "c.example")
LEASE = 1000.0
REPLY = Reply(250, ("Ok",))
DOMAIN_LISTS = st.lists(st.sampled_from(DOMAINS), min_size=1, max_size=4)
# after how many statements of its transaction the process dies; behind the last one: at the commit
SELDOM = st.one_of(st.none(), st.none(), st.none(), st.integers(0, 25))
CRASHES = st.one_of(st.none(), st.none(), st.just("before settling"), st.integers(0, 25))
WORDS = st.lists(st.sampled_from(["delivered", "failed", "deferred", "in doubt"]), min_size=4, max_size=4)
SECONDS = st.sampled_from([601.0, 0.0, 61.0, LEASE + 1])
OUTCOMES = {"delivered": DELIVERED, "deferred": DEFERRED, "in doubt": IN_DOUBT, "failed": FAILED}


class Crash(Exception):
    """The process dies before COMMIT."""


class QueueMachine(RuleBasedStateMachine):
    """One shard, its journal, and what we know about it from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="queue-machine-"))
        self.now = NOW
        self.accepted: dict[str, int] = {}
        self.terminal: dict[tuple[str, int], str] = {}
        self.proven: set[tuple[str, int]] = set()
        self.running: list[store.Claim] = []
        self.serial = 0
        self.open()

    def open(self) -> None:
        """As a new process: open, migrate, replay the journal."""
        self.database = Database(self.directory / "shard-0.db")
        self.journal = Journal(self.directory / "shard-0.journal")
        self.running = []
        self.commit(schema.migrate)
        self.commit(lambda conn: recovery.recover(conn, self.now, self.journal.proofs(), Recorder()))
        self.journal.clear()

    def close(self) -> None:
        self.database.close()
        self.journal.close()

    def commit(self, work, crash: int | None = None):
        """Run `work` in a transaction; the process dies after `crash` statements, or instead of committing."""
        with self.database._writer.connect() as conn:
            conn.connection.driver_connection.execute("PRAGMA synchronous=OFF")  # no power is lost here
            transaction = conn.begin()
            if crash is None:
                value = work(conn)
                transaction.commit()
                return value
            statements = itertools.count()

            def die(*_: object) -> None:
                if next(statements) >= crash:
                    raise Crash

            sqlalchemy.event.listen(conn, "before_cursor_execute", die)
            with contextlib.suppress(Crash):
                work(conn)
            conn.invalidate()
        self.close()
        self.open()
        raise Crash

    def read(self, query):
        return self.database.run_read(lambda conn: conn.execute(query).all())

    @initialize(domains=DOMAIN_LISTS)
    def begin(self, domains: list[str]) -> None:
        self.accept(domains, crash=None)

    @rule(domains=DOMAIN_LISTS, crash=SELDOM)
    def accept(self, domains: list[str], crash: int | None) -> None:
        self.serial += 1
        made = envelope(f"m{self.serial}", *(f"r{i}@{d}" for i, d in enumerate(domains)), at=self.now)
        try:
            self.commit(
                lambda conn: store.accept(conn, made, InlineContent(b"x"), (), self.now, Recorder()), crash
            )
        except Crash:
            return
        self.accepted[made.id] = len(domains)

    @rule(seconds=SECONDS, limit=st.integers(1, 4), per_domain=st.integers(1, 3), crash=SELDOM)
    def claim(self, seconds: float, limit: int, per_domain: int, crash: int | None) -> None:
        self.now += seconds
        busy = Counter(claim.domain for claim in self.running)

        def work(conn: sqlalchemy.Connection) -> tuple[store.Claim, ...]:
            return values.claim(conn, self.now, limit, lease=LEASE, per_domain=per_domain, busy=busy)

        try:
            claims = self.commit(work, crash)
        except Crash:
            return
        for claim in claims:
            for each in claim.recipients:
                assert (claim.envelope.id, each.ordinal) not in self.proven, "sent again after a proof"
        self.running += claims

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 10), drawn=WORDS, crash=CRASHES)
    def settle(self, index: int, drawn: list[str], crash: int | str | None) -> None:
        claim = self.running[index % len(self.running)]
        words = dict(zip(claim.recipients, drawn, strict=False))
        delivered = tuple(each.ordinal for each, word in words.items() if word == "delivered")
        if delivered:
            self.journal.note(Proof(claim.attempt_id, claim.envelope.id, delivered, REPLY))
            self.proven |= {
                (claim.envelope.id, ordinal)
                for ordinal in delivered
                if (claim.envelope.id, ordinal) not in self.terminal
            }
        if crash == "before settling":
            self.close()
            self.open()
            return
        settlements = tuple(
            Settlement(each, OUTCOMES[word], self.now + 60 if word in ("deferred", "in doubt") else None)
            for each, word in words.items()
        )
        try:
            self.commit(
                lambda conn: store.settle(
                    conn,
                    claim,
                    settlements,
                    events=(),
                    now=self.now,
                    gather=60.0,
                    append=Recorder(),
                ),
                crash,
            )
        except Crash:
            return
        self.journal.settled(claim.attempt_id)
        self.running.remove(claim)

    @rule(seconds=SECONDS, crash=SELDOM)
    def report(self, seconds: float, crash: int | None) -> None:
        """Senders are told what they are owed."""
        self.now += seconds

        def write(conn: sqlalchemy.Connection) -> None:
            for due in reports.due_reports(conn, self.now, 10):
                reports.write(
                    conn,
                    due.envelope.id,
                    self.compose,
                    now=self.now,
                    expire=0.0,
                    per_sender=0,
                    append=Recorder(),
                )

        with contextlib.suppress(Crash):
            self.commit(write, crash)

    def compose(self, about: Envelope, entries: tuple[Entry, ...]) -> NewMessage:
        self.serial += 1
        made = envelope(f"bounce{self.serial}", "a@sender.example", sender=None, at=self.now)
        told = " ".join(f"{about.id}/{each.recipient.ordinal}" for each in entries)
        return NewMessage(made, InlineContent(told.encode()))

    @rule(expire=st.booleans(), seconds=SECONDS)
    def trouble(self, expire: bool, seconds: float) -> None:
        """Leases expire, and their attempts go on as zombies that may still settle; or the process dies."""
        self.now += seconds
        if expire:
            proofs = self.journal.proofs()
            self.commit(lambda conn: recovery.reclaim(conn, self.now, proofs, Recorder()))
        else:
            self.close()
            self.open()

    @invariant()
    def accepted_mail_is_there(self) -> None:
        found = Counter(row.message_id for row in self.read(select(recipient.c.message_id)))
        for message_id, count in self.accepted.items():
            assert found[message_id] == count

    @invariant()
    def a_terminal_state_is_final(self) -> None:
        for row in self.read(select(recipient)):
            key = (row.message_id, row.ordinal)
            before = self.terminal.get(key)
            assert before in (None, row.state), f"{key} went from {before} to {row.state}"
            if row.state in ("delivered", "failed"):
                self.terminal[key] = row.state

    @invariant()
    def open_recipients_can_be_found_and_have_content(self) -> None:
        due = {row.domain: row.due for row in self.read(select(destination))}
        open_attempts = {
            row.id for row in self.read(select(attempt.c.id).where(attempt.c.ended_at.is_(None)))
        }
        content = {row.id: row.content for row in self.read(select(message))}
        for row in self.read(select(recipient).where(recipient.c.state.in_(["queued", "leased"]))):
            assert content[row.message_id] is not None
            if row.state == "leased":
                assert row.attempt_id in open_attempts
            else:
                assert due[row.domain] is not None
                assert due[row.domain] <= row.next_attempt

    @invariant()
    def complete_messages_keep_no_content(self) -> None:
        for row in self.read(select(message).where(message.c.completed_at.is_not(None))):
            assert row.content is None

    @invariant()
    def each_failure_is_in_one_bounce(self) -> None:
        told: Counter[str] = Counter()
        rows = self.read(select(message.c.id, message.c.content).where(message.c.sender_domain.is_(None)))
        for row in rows:
            if row.content is not None:
                told.update(row.content.decode().split())
        assert all(count == 1 for count in told.values())
        gone = [row for row in rows if row.content is None]
        failed = {
            f"{message_id}/{ordinal}"
            for (message_id, ordinal), state in self.terminal.items()
            if state == "failed" and not message_id.startswith("bounce")
        }
        owed = {
            f"{row.message_id}/{row.ordinal}"
            for row in self.read(select(recipient).where(recipient.c.owed.is_not(None)))
        }
        assert set(told) <= failed
        assert not owed & set(told)
        assert gone or set(told) | owed == failed
        due = {row.id for row in self.read(select(message.c.id).where(message.c.report_due.is_not(None)))}
        assert {each.partition("/")[0] for each in owed} == due

    def teardown(self) -> None:
        """After a last crash everything is delivered in the end: nothing was stranded."""
        try:
            self.close()
            self.open()
            for _ in range(200):
                self.now += 10_000
                claims = self.commit(
                    lambda conn: values.claim(conn, self.now, 50, lease=LEASE, per_domain=50)
                )
                if not claims:
                    break
                for claim in claims:
                    settlements = tuple(Settlement(each, DELIVERED) for each in claim.recipients)
                    self.commit(
                        lambda conn, claim=claim, settlements=settlements: store.settle(
                            conn, claim, settlements, events=(), now=self.now, append=Recorder()
                        )
                    )
            assert {row.state for row in self.read(select(recipient))} <= {"delivered", "failed"}
            states = {(row.message_id, row.ordinal): row.state for row in self.read(select(recipient))}
            assert all(states[MessageId(m), o] == "delivered" for m, o in self.proven if (m, o) in states)
        finally:
            self.close()
            shutil.rmtree(self.directory)


TestQueue = QueueMachine.TestCase
TestQueue.pytestmark = [pytest.mark.timeout(max(240, settings().max_examples))]  # a second for each
TestQueue.settings = settings(
    max_examples=settings().max_examples,
    stateful_step_count=30,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking would take minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
