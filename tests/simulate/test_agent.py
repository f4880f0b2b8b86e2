"""The whole agent under seeded faults of the network, of DNS, of servers, and of itself: what must hold.

accepted mail is never lost             every recipient is delivered, or failed and its sender told
one terminal state                      exactly one msg:delivery or msg:fail:* per recipient
no copy without need                    more copies than one only where attempts ended in doubt
no clear text where policy forbids it   and nothing at all for an impostor
nothing leaks                           tasks, connections, leases

dane.test dane-too.test   DANE, one host with two families: they share sessions
two.test                  two hosts, opportunistic TLS
strict.test               level encrypt; STARTTLS is stripped now and then
plain.test sender.test    a server without TLS; level none for the first
forged.test               DANE, and another key than the published one
nowhere.test              does not exist
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
import sqlalchemy
import trio
import trio.testing

from deliver.net.clock import WallClock
from deliver.queue import upkeep
from deliver.queue.schema import attempt, message, recipient, report
from deliver.settings import Duration, Pool, Queue, Rule, Settings
from deliver.sqlrun import Database
from events.catalogue import Event
from events.outbox import event_outbox
from tests.internet.pki import authority
from tests.simulate.sea import Sea, charted
from tests.simulate.vessel import Vessel

DOMAINS = ("dane.test", "dane-too.test", "two.test", "strict.test", "plain.test")
LOST = ("forged.test", "nowhere.test")
MESSAGES = 40
HOUR = 3600.0
SEEDS = range(1000, 1000 + int(os.environ.get("OUTRIDER_SIMULATIONS", "100")))

SETTINGS = Settings(
    queue=Queue(
        workers=20,
        retry=(Duration(60), Duration(600), Duration(1800)),
        expire=Duration(6 * HOUR),
        keep_history=Duration(1000 * HOUR),
        delay_warning=(),
    ),
    pool=Pool(idle=Duration(3), max_age=Duration(60)),
    rule=(
        Rule(domains=("strict.test",), tls={"level": "encrypt"}),
        Rule(domains=("plain.test",), tls={"level": "none"}),
    ),
)


class Log:
    """What is on disk in the end."""

    def __init__(self, path: Path) -> None:
        with closing(Database(path)) as database:
            self.recipients = database.run_read(lambda conn: list(conn.execute(sqlalchemy.select(recipient))))
            self.messages = database.run_read(lambda conn: list(conn.execute(sqlalchemy.select(message))))
            self.open_attempts = database.run_read(
                lambda conn: list(
                    conn.execute(sqlalchemy.select(attempt).where(attempt.c.ended_at.is_(None)))
                )
            )
            self.reported = database.run_read(
                lambda conn: {row.message_id for row in conn.execute(sqlalchemy.select(report))}
            )
            self.events = database.run_read(
                lambda conn: [Event.decode(row.body) for row in conn.execute(sqlalchemy.select(event_outbox))]
            )


async def sail(directory: Path, seed: int) -> tuple[Sea, Vessel, dict[str, bytes]]:
    """One simulation: mail comes in, things go wrong for four hours, then the sea is calm."""
    rng = Random(seed)
    sea = charted(rng, authority())
    clock = WallClock(datetime.now(UTC).timestamp())
    vessel = Vessel(directory, sea, SETTINGS, clock, rng)
    contents: dict[str, bytes] = {}

    async def bring_mail() -> None:
        for number in range(MESSAGES):
            await trio.sleep(rng.expovariate(1 / 60.0) if rng.random() < 0.3 else 0)
            domains = rng.sample(DOMAINS, rng.randint(1, 3))
            if rng.random() < 0.1:
                domains.append(rng.choice(LOST))
            who = tuple(f"{rng.choice('abc')}{number}@{domain}" for domain in domains)
            if rng.random() < 0.1:
                who = (f"gone{number}@{domains[0]}", *who)
            length = rng.choice((10, 2000, 90_000))
            content = f"Message-ID: <{number}@sender.test>\r\n\r\n.{'x' * 70}\r\n".encode() * (
                1 + length // 110
            )
            if await vessel.accept(f"m{number}", who, content):
                contents[f"m{number}"] = content

    async with trio.open_nursery() as world:
        sea.nursery = world
        world.start_soon(bring_mail)
        ends = sorted(rng.uniform(1, 3 * HOUR) for _ in range(rng.randint(0, 3)))
        for moment in ends:
            await one_life(vessel, moment, crash=True)
        await one_life(vessel, 4 * HOUR, crash=False)
        sea.rough = False
        await one_life(vessel, 9 * HOUR, crash=False)
        world.cancel_scope.cancel()
    return sea, vessel, contents


async def one_life(vessel: Vessel, until: float, *, crash: bool) -> None:
    over = trio.Event()
    async with trio.open_nursery() as nursery:

        async def end() -> None:
            await trio.sleep_until(until)
            over.set()

        nursery.start_soon(end)
        await vessel.live(over, crash=crash)


def simulate(directory: Path, seed: int) -> tuple[Sea, Vessel, dict[str, bytes]]:
    return trio.run(sail, directory, seed, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.fixture(autouse=True)
def in_the_same_order(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Tasks take turns by the seed, so that a failure can be seen again (as far as trio lets us)."""
    scheduler = sys.modules[trio.run.__module__]
    monkeypatch.setattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True, raising=False)
    monkeypatch.setattr(scheduler, "_r", Random(request.node.callspec.params["seed"]), raising=False)


def check(sea: Sea, log: Log, contents: dict[str, bytes]) -> None:
    """The five invariants."""
    copies: Counter[tuple[str, str]] = Counter()
    for taken in sea.taken:
        assert taken.tls or not taken.host.secret, f"{taken.host.name} got mail in clear text"
        assert not taken.host.impostor, f"an impostor got mail for {taken.recipients}"
        if taken.sender:
            number = taken.content.partition(b"<")[2].partition(b"@")[0].decode()
            assert taken.content == contents[f"m{number}"]
            copies.update((f"m{number}", who) for who in taken.recipients)
    ended = Counter(
        (str(event.fields["message_id"]), f"{event.fields['local_part']}@{event.fields['domain']}")
        for event in log.events
        if event.name in ("msg:delivery", "msg:fail:delivery", "msg:fail:internal")
    )
    assert {row.message_id for row in log.recipients} >= set(contents), "accepted, and not in the queue"
    for row in log.recipients:
        place = (row.message_id, f"{row.local_part}@{row.domain}")
        assert row.state in ("delivered", "failed"), (place, row.state, row.last_outcome)
        assert ended[place] == 1, (place, row.state, ended[place])
        if row.message_id not in contents:
            continue
        if row.state == "delivered":
            assert copies[place] >= 1, f"{place} is lost"
        else:
            assert row.message_id in log.reported, f"nobody heard of the failure of {place}"
        allowed = row.in_doubt + (row.state == "delivered")
        assert copies[place] <= allowed, (place, copies[place], row.in_doubt)
    assert all(row.completed_at is not None for row in log.messages)
    assert log.open_attempts == []
    assert sea.left_open == 0


def run_and_check(directory: Path, seed: int) -> tuple[Sea, Vessel]:
    sea, vessel, contents = simulate(directory, seed)
    log = Log(directory / "shard-0.db")
    check(sea, log, contents)
    assert len(contents) >= MESSAGES - 5
    return sea, vessel


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads the log, and no tool changes the queue, for which it is looked at every second."""
    logging.getLogger("outrider").setLevel(logging.CRITICAL + 1)
    monkeypatch.setattr(upkeep, "LOOK", 60.0)


@pytest.mark.parametrize("seed", range(3))
def test_what_must_hold_holds_whatever_goes_wrong(tmp_path: Path, seed: int) -> None:
    run_and_check(tmp_path, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
def test_what_must_hold_holds_for_long(tmp_path: Path, seed: int) -> None:
    run_and_check(tmp_path, seed)
