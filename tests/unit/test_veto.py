"""Veto actions through the miniature Internet: what they refuse is not done, and the reason is on record."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from deliver.agent import Agent
from deliver.assembly import build_agent
from deliver.attempt import Attempt
from deliver.errors import Blame
from deliver.level import Level
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.outbox import event_gate
from deliver.outcome import AttemptResult, Deferred, Delivered
from deliver.queue.content import InlineContent
from deliver.settings import Delivery, Dns, EventAction, Events, Settings, Tls
from events.gate import PAUSE, SqlGate
from hints.memory import MemoryHints
from tests.internet import World

BODY = b"Subject: hello\r\n\r\nhello\r\n"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A database of what is blocked."""
    path = tmp_path / "policy.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE blocked (what TEXT, reason)")
        connection.execute("CREATE TABLE seen (what TEXT)")
        connection.commit()
    return path


def block(policy: Path, what: str, reason: object) -> None:
    with closing(sqlite3.connect(policy)) as connection:
        connection.execute("INSERT INTO blocked VALUES (?, ?)", (what, reason))
        connection.commit()


def veto(policy: Path, event: str, field: str, **more: Any) -> EventAction:
    values: dict[str, Any] = {"sql": f"SELECT reason FROM blocked WHERE what = :{field}", **more}
    return EventAction(name="policy", events=(event,), database=f"sqlite:///{policy}", veto=True, **values)


def agent(
    world: World, tmp_path: Path, action: EventAction, *, level: Level = Level.DANE
) -> tuple[Agent, SqlGate]:
    anchors = str(world.write_trust_anchor(tmp_path))
    settings = Settings(
        state_dir=str(tmp_path),
        dns=Dns(resolvers=(world.resolver.endpoint,), trust_anchors=anchors, timeout=2, attempts=1),
        tls=Tls(level=level),
        delivery=Delivery(port=world.port, helo="relay.example.org"),
        events=Events(action=(action,)),
    )
    clock = WallClock()
    gate = event_gate(settings)
    hints = MemoryHints(clock=clock.now)
    return build_agent(settings, hints=hints, clock=clock, rng=Random(1), learner="test", gate=gate), gate


async def deliver(agent: Agent, box: str) -> AttemptResult:
    recipients = (Recipient(0, Mailbox.parse(box)),)
    now = agent.clock.now()
    envelope = Envelope(MessageId("m1"), Mailbox("me", "sender.test"), recipients, len(BODY), False, now)
    story = Attempt(agent, envelope, recipients, InlineContent(BODY))
    await story.run()
    return story.result()


def verbs(world: World, host: str) -> list[str]:
    return [command.verb for connection in world.servers[host].connections for command in connection.commands]


def refused(result: AttemptResult) -> Deferred:
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Deferred)
    assert (outcome.blame, str(outcome.enhanced), outcome.in_doubt) == (Blame.POLICY, "4.7.0", False)
    assert "event-veto" in [finding.code for finding in result.trace.findings]
    return outcome


async def test_a_refused_connection_is_not_opened(world: World, tmp_path: Path, policy: Path) -> None:
    block(policy, "mx.dane-ee.test", "not\x00 on\n Sundays")
    ours, gate = agent(world, tmp_path, veto(policy, "tcp:connect", "host"))
    outcome = refused(await deliver(ours, "a@dane-ee.test"))
    assert outcome.why.endswith(": not? on Sundays")
    assert world.servers["mx.dane-ee.test"].connections == []
    ((_, other),) = (await deliver(ours, "a@dane-ta.test")).outcomes
    assert isinstance(other, Delivered), "another host is not refused"
    await gate.aclose()


async def test_a_refused_greeting_ends_with_quit(world: World, tmp_path: Path, policy: Path) -> None:
    block(policy, "mx.dane-ee.test", "old software")
    action = veto(policy, "smtp:connect", "host", when="event_data like '220*'")
    ours, gate = agent(world, tmp_path, action)
    assert "old software" in refused(await deliver(ours, "a@dane-ee.test")).why
    await world.servers["mx.dane-ee.test"].wait_for(lambda server: bool(verbs(world, "mx.dane-ee.test")))
    assert verbs(world, "mx.dane-ee.test") == ["QUIT"]
    await gate.aclose()


@pytest.mark.parametrize("level", [Level.DANE, Level.MAY])
async def test_a_refused_certificate_ends_before_another_command(
    world: World, tmp_path: Path, policy: Path, level: Level
) -> None:
    block(policy, "0", "an issuer that we distrust")
    ours, gate = agent(world, tmp_path, veto(policy, "tls:cert", "event_data"), level=level)
    result = await deliver(ours, "a@dane-ee.test")
    assert "an issuer that we distrust" in refused(result).why
    assert verbs(world, "mx.dane-ee.test") == ["EHLO", "STARTTLS"], "and no second try in clear text"
    assert world.messages == ()
    failed = "dane:fail" if level is Level.DANE else "tls:fail:verify"
    assert failed in [event.name for event in result.trace.events]
    await gate.aclose()


@pytest.mark.parametrize("nothing", [None, "", 0, b""])
async def test_an_empty_first_column_allows(
    world: World, tmp_path: Path, policy: Path, nothing: object
) -> None:
    block(policy, "mx.dane-ee.test", nothing)
    ours, gate = agent(world, tmp_path, veto(policy, "tcp:connect", "host"))
    ((_, outcome),) = (await deliver(ours, "a@dane-ee.test")).outcomes
    assert isinstance(outcome, Delivered)
    await gate.aclose()


@pytest.mark.parametrize(
    ("garbage", "said"),
    [(b"\xff\xfe\x00", "\ufffd\ufffd?"), ("x" * 5000, "x" * 200), (" ", "action policy"), (3.5, "3.5")],
)
async def test_garbage_refuses_in_one_printable_line(
    world: World, tmp_path: Path, policy: Path, garbage: object, said: str
) -> None:
    block(policy, "mx.dane-ee.test", garbage)
    ours, gate = agent(world, tmp_path, veto(policy, "tcp:connect", "host"))
    why = refused(await deliver(ours, "a@dane-ee.test")).why
    assert why.endswith(said)
    assert len(why) < 400
    assert why.isprintable()
    await gate.aclose()


@pytest.mark.parametrize("on_error", ["allow", "defer"])
async def test_without_an_answer_the_setting_decides(
    world: World, tmp_path: Path, policy: Path, on_error: str
) -> None:
    action = veto(policy, "tcp:connect", "host", sql="SELECT * FROM missing", on_error=on_error)
    ours, gate = agent(world, tmp_path, action)
    result = await deliver(ours, "a@dane-ee.test")
    if on_error == "defer":
        assert "no such table" in refused(result).why
    else:
        assert isinstance(result.outcomes[0][1], Delivered)
    await gate.aclose()


async def test_a_database_that_hangs_costs_the_deadline_once(
    world: World, tmp_path: Path, policy: Path
) -> None:
    action = veto(
        policy, "tcp:connect", "host", sql="INSERT INTO seen VALUES (:host)", deadline=0.2, on_error="defer"
    )
    ours, gate = agent(world, tmp_path, action)
    with closing(sqlite3.connect(policy, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = trio.current_time()
        why = refused(await deliver(ours, "a@dane-ee.test")).why
        assert "no answer within 0.2 s" in why or "locked" in why
        again = trio.current_time()
        refused(await deliver(ours, "a@dane-ee.test"))
        assert trio.current_time() - began < PAUSE, "neither waited for the database"
        assert trio.current_time() - again < 1.5
        other.execute("ROLLBACK")
    await gate.aclose()


async def test_several_statements_share_a_transaction(world: World, tmp_path: Path, policy: Path) -> None:
    statements = ("INSERT INTO seen VALUES (:host_address)", "SELECT reason FROM blocked WHERE what = :host")
    ours, gate = agent(world, tmp_path, veto(policy, "tcp:connect", "host", sql=statements))
    await deliver(ours, "a@dane-ee.test")
    with closing(sqlite3.connect(policy)) as connection:
        assert len(connection.execute("SELECT * FROM seen").fetchall()) == 1
    await gate.aclose()
