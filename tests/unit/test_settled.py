"""The ledger of settled recipients: what a second call is answered, and who may take over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import sqlalchemy

from deliver import settled
from deliver.errors import Blame
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.outcome import Contact, Deferred, Delivered, Failed, Outcome
from deliver.queue.journal import Proof
from deliver.settled import Digest, Job, Opened
from deliver.smtp.reply import EnhancedCode, Reply

CONTACT = Contact("mx.example.org", "192.0.2.1", 25)
JOB = Job("4XyZ", b"d" * 32)
DELIVERED = Delivered(Reply(250, ("2.0.0 Ok",)), CONTACT)
FAILED = Failed(
    "no such user", Blame.RECIPIENT, reply=Reply(550, ("5.1.1 no",)), enhanced=EnhancedCode(5, 1, 1)
)
DEFERRED = Deferred("busy", Blame.HOST)
IN_DOUBT = Deferred("lost", Blame.HOST, in_doubt=True)


def recipients(*names: str) -> tuple[Recipient, ...]:
    return tuple(Recipient(number, Mailbox(name, "example.org")) for number, name in enumerate(names))


def envelope(*names: str, id: str = "m1") -> Envelope:
    return Envelope(MessageId(id), None, recipients(*names), 10, False, 0.0)


@pytest.fixture
def conn() -> Iterator[sqlalchemy.Connection]:
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.begin() as conn:
        settled.metadata.create_all(conn)
        yield conn
    engine.dispose()


def begin(
    conn: sqlalchemy.Connection,
    *names: str,
    job: Job = JOB,
    now: float = 1000.0,
    owner: str = "me",
    id: str = "m1",
    alive: bool | None = True,
    proofs: tuple[Proof, ...] = (),
) -> Opened:
    return settled.begin(
        conn, job=job, envelope=envelope(*names, id=id), owner=owner, now=now, lease=60,
        alive=lambda owner: alive, proofs=lambda owner: proofs,
    )  # fmt: skip


def settle(conn: sqlalchemy.Connection, outcome: Outcome, *names: str, now: float = 1001.0) -> None:
    outcomes = [(recipient, outcome) for recipient in recipients(*names)]
    settled.settle(conn, job=JOB, message_id=MessageId("m1"), outcomes=outcomes, owner="me", now=now)


def names_of(opened: Opened) -> list[str]:
    return [recipient.mailbox.local_part for recipient in opened.open]


def test_what_is_new_is_delivered(conn: sqlalchemy.Connection) -> None:
    opened = begin(conn, "a", "b")
    assert names_of(opened) == ["a", "b"]
    assert opened.known == {}


def test_delivered_and_failed_are_the_answer(conn: sqlalchemy.Connection) -> None:
    begin(conn, "a", "b")
    settled.settle(
        conn, job=JOB, message_id=MessageId("m1"), owner="me", now=1001,
        outcomes=list(zip(recipients("a", "b"), (DELIVERED, FAILED), strict=True)),
    )  # fmt: skip
    opened = begin(conn, "b", "a", "c")
    assert names_of(opened) == ["c"]
    failed, delivered = opened.known[0], opened.known[1]
    assert delivered == DELIVERED
    assert isinstance(failed, Failed)
    assert (failed.reply, failed.enhanced) == (FAILED.reply, FAILED.enhanced)


@pytest.mark.parametrize("outcome", [DEFERRED, IN_DOUBT])
def test_deferred_and_in_doubt_are_delivered_again(conn: sqlalchemy.Connection, outcome: Outcome) -> None:
    begin(conn, "a")
    settle(conn, outcome, "a")
    kept = conn.execute(sqlalchemy.select(settled.settled.c.state)).scalars().all()
    assert kept == (["in doubt"] if outcome is IN_DOUBT else [])
    assert names_of(begin(conn, "a")) == ["a"]


@pytest.mark.parametrize(
    "job", [Job("other", JOB.digest), Job(JOB.queue_id, b"e" * 32)], ids=["queue id", "content used again"]
)
def test_another_message_is_delivered(conn: sqlalchemy.Connection, job: Job) -> None:
    begin(conn, "a")
    settle(conn, DELIVERED, "a")
    assert names_of(begin(conn, "a", job=job)) == ["a"]
    assert names_of(begin(conn, "a")) == []


@pytest.mark.parametrize(
    ("alive", "later", "taken"),
    [(True, 59, False), (None, 59, False), (True, 61, True), (None, 61, True), (False, 0, True)],
)
def test_what_is_under_way_is_left_alone_until_its_owner_is_gone(
    conn: sqlalchemy.Connection, alive: bool | None, later: float, taken: bool
) -> None:
    begin(conn, "a")
    opened = begin(conn, "a", owner="another", now=1000 + later, alive=alive)
    assert names_of(opened) == (["a"] if taken else [])
    if not taken:
        outcome = opened.known[0]
        assert isinstance(outcome, Deferred)
        assert not outcome.in_doubt


def test_a_proof_of_the_dead_owner_is_the_answer_for_good(conn: sqlalchemy.Connection) -> None:
    begin(conn, "a", "b", id="m7")
    proof = Proof(1, MessageId("m7"), (0,), Reply(250, ("2.0.0 Taken",)), "mx.example.org", "192.0.2.1")
    other = Proof(2, MessageId("m8"), (1,), Reply(250, ("2.0.0 Not this one",)))
    opened = begin(conn, "a", "b", id="m9", owner="another", alive=False, proofs=(proof, other))
    assert names_of(opened) == ["b"]
    assert opened.known[0].reply == proof.reply
    assert names_of(begin(conn, "a", id="m10", alive=False)) == []


def test_old_answers_are_forgotten(conn: sqlalchemy.Connection) -> None:
    begin(conn, "a", "b")
    settle(conn, DELIVERED, "a", now=1000.0)
    settle(conn, DELIVERED, "b", now=2000.0)
    settled.prune(conn, before=1500.0)
    kept = conn.execute(sqlalchemy.select(settled.settled.c.at)).scalars().all()
    assert kept == [2000.0]


def test_a_reply_without_end_is_cut(conn: sqlalchemy.Connection) -> None:
    begin(conn, "a")
    settle(conn, Delivered(Reply(250, ("x" * 100_000,)), CONTACT), "a")
    (answer,) = begin(conn, "a").known.values()
    assert len(str(answer.reply)) < 1100


def digest(sender: str, *pieces: bytes, requires_tls: bool = False) -> bytes:
    made = Digest()
    for piece in pieces:
        made.feed(piece)
    path = Mailbox.parse(sender) if sender else None
    return made.value(Envelope(MessageId("m1"), path, (), 10, False, 0.0, requires_tls=requires_tls))


def test_the_digest_depends_on_sender_and_content_and_not_on_the_portions() -> None:
    assert digest("a@b.test", b"one", b"two") == digest("a@b.test", b"onetwo")
    made = {digest("a@b.test", b"x"), digest("", b"x"), digest("a@b.test", b"y"), digest("a@b.tes", b"tx")}
    assert len(made) == 4


def test_requiretls_makes_another_message_and_the_others_are_known_as_before() -> None:
    made = {
        digest(sender, b"x", requires_tls=asked) for sender in ("a@b.test", "") for asked in (True, False)
    }
    assert len(made) == 4
    kept = hashlib.sha256(hashlib.sha256(b"x").digest() + b"a@b.test").digest()  # in ledgers that exist
    assert digest("a@b.test", b"x") == kept
