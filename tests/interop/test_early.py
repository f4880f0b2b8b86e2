"""Commands sent early to a real Exim, which says so in its log; the hints come from a delivery before."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from deliver.agent import Agent
from deliver.assembly import build_agent
from deliver.attempt import Attempt
from deliver.level import Level
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.outcome import AttemptResult, Delivered, Failed
from deliver.queue.content import InlineContent
from deliver.settings import Delivery, Dns, Route, Settings, Smtp, Tls
from hints.memory import MemoryHints
from tests.internet.pki import authority
from tests.interop.peers.exim import Exim, EximConfig
from tests.interop.peers.factory import Factory

SMALL = b"From: a@sender.test\r\nSubject: early\r\n\r\n.a dot\r\n"
LARGE = SMALL + b".0123456789abcdef\r\n" * 10_000


@pytest.fixture
def server(exim: Factory[EximConfig, Exim]) -> Exim:
    issued = authority().issue("mx.early.test")
    return exim(
        certificate=issued.chain_pem,
        key=issued.private_key_pem,
        hostname="mx.early.test",
        pipeconnect=True,
        prdr=True,
        rcpt="deny local_parts = gone\n  accept",
    )


def agent(server: Exim, tmp_path: Path, level: Level, smtp: Smtp) -> Agent:
    settings = Settings(
        state_dir=str(tmp_path),
        dns=Dns(dnssec="off", resolvers=("127.0.0.1:9",)),
        tls=Tls(level=level, resumption=False),
        smtp=smtp,
        delivery=Delivery(helo="relay.sender.test"),
        route=(Route(domains=("*",), via="smarthost", hosts=(f"[{server.address}]:{server.port}",)),),
    )
    clock = WallClock()
    hints = MemoryHints(clock=clock.now)
    return build_agent(settings, hints=hints, clock=clock, rng=Random(1), learner="test")


async def deliver(agent: Agent, text: bytes, *who: str) -> AttemptResult:
    recipients = tuple(Recipient(n, Mailbox.parse(name)) for n, name in enumerate(who))
    envelope = Envelope(
        MessageId("m"), Mailbox.parse("a@sender.test"), recipients, len(text), False, agent.clock.now()
    )
    story = Attempt(agent, envelope, recipients, InlineContent(text))
    await story.run()
    return story.result()


def trips(result: AttemptResult) -> int:
    (text,) = (finding.text for finding in result.trace.findings if finding.code == "round-trips")
    found = re.match(r"\d+", text)
    assert found
    return int(found[0])


@pytest.mark.parametrize("text", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("level", "smtp", "first", "then"),
    [
        (Level.ENCRYPT, Smtp(), 7, 4),
        (Level.ENCRYPT, Smtp(chunking=False), 8, 5),
        (Level.NONE, Smtp(), 4, 3),
        (Level.NONE, Smtp(early_bdat_clear=True), 4, 2),
    ],
)
async def test_the_second_message_leaves_early(
    server: Exim, tmp_path: Path, level: Level, smtp: Smtp, first: int, then: int, text: bytes
) -> None:
    who = f"{level}.{len(text)}.{smtp.chunking}.{smtp.early_bdat_clear}@early.test"
    ours = agent(server, tmp_path, level, smtp)
    more = 1 if text is LARGE and smtp.chunking else 0  # only the first chunk leaves unasked
    results = [await deliver(ours, text, who) for _ in range(3)]
    for result in results:
        assert isinstance(result.outcomes[0][1], Delivered)
    early_data = 1 if level is Level.NONE and not smtp.early_bdat_clear else 0  # DATA in the place of BDAT
    assert [trips(result) for result in results] == [first + more] + 2 * [then + (0 if early_data else more)]
    received = server.mailbox.to(who, 3)
    assert [message.content for message in received] == [text] * 3
    arrivals = [line for line in server.log().splitlines() if " <= " in line and f"for {who}" in line]
    marks = [next(word for word in line.split() if word[0] == "L" and len(word) <= 3) for line in arrivals]
    assert marks[0] == "L."  # offered, not used
    assert set(marks) <= {"L.", "L*"}  # L* only where our octets were faster than its greeting


async def test_refused_recipients_among_early_ones(server: Exim, tmp_path: Path) -> None:
    ours = agent(server, tmp_path, Level.ENCRYPT, Smtp())
    for _ in range(2):
        result = await deliver(ours, SMALL, "gone@refused.test", "here@refused.test")
        assert [type(outcome) for _, outcome in result.outcomes] == [Failed, Delivered]
    result = await deliver(ours, SMALL, "gone@refused.test")
    assert [type(outcome) for _, outcome in result.outcomes] == [Failed]
    assert len(server.mailbox.to("here@refused.test", 2)) == 2


async def test_an_exim_that_takes_nothing_early_any_more(
    server: Exim, exim: Factory[EximConfig, Exim], tmp_path: Path
) -> None:
    """The hints of one server, the other one behind the same name: it refuses what comes before its greeting."""
    issued = authority().issue("mx.early.test")
    strict = exim(
        certificate=issued.chain_pem, key=issued.private_key_pem, hostname="mx.early.test", pipeconnect=False
    )
    ours = agent(server, tmp_path, Level.ENCRYPT, Smtp())
    await deliver(ours, SMALL, "learning@strict.test")
    hints = ours.hints
    assert isinstance(hints, MemoryHints)
    for (_, _, phase), (expires, answer) in list(hints._ehlo.items()):
        moved = type(answer)(strict.address, strict.port, phase, answer.greeted_as, answer.keywords)
        hints._ehlo[strict.address, strict.port, phase] = (expires, moved)
    theirs = agent(strict, tmp_path, Level.ENCRYPT, Smtp())
    result = await deliver(replace(theirs, hints=hints), SMALL, "swapped@strict.test")
    assert isinstance(result.outcomes[0][1], Delivered)
    assert "pipeconnect-surprise" in [finding.code for finding in result.trace.findings]
    assert "synchronization error" in strict.log()
    assert len(strict.mailbox.to("swapped@strict.test")) == 1
