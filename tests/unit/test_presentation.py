"""A message in the form that a server can take: SMTPUTF8 left out, 8-bit text converted, the next host first."""

from __future__ import annotations

from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from deliver.agent import Agent
from deliver.attempt import Attempt
from deliver.dsn import Notify, OriginalRecipient, Ret
from deliver.errors import Blame, StorageError
from deliver.message import Content, Envelope, Mailbox, MessageId, Recipient
from deliver.outcome import AttemptResult, Deferred, Delivered, Failed
from deliver.presentation import Octets
from deliver.relay.bounce import Original, abridged, boundary_from, report
from deliver.relay.statusfields import Entry
from deliver.settings import Rule
from tests.internet import World
from tests.internet.behaviour import KEYWORDS, Behaviour, Drop
from tests.unit.attempts import agent, codes

ASCII = b"Subject: hello\r\n\r\nplain\r\n"
EIGHT_BIT = "Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nViele Grüße aus Köln, und von den anderen\r\n".encode()
SIGNED = b"DKIM-Signature: v=1\r\n" + EIGHT_BIT
UTF8_HEADER = "Subject: Grüße\r\n\r\nplain\r\n".encode()
SEVEN = ("PIPELINING", "SIZE 10485760")
INTERNATIONAL = (*KEYWORDS, "SMTPUTF8")


class Unreadable(Octets):
    """Content on a disk that breaks."""

    async def read(self, offset: int, length: int) -> bytes:
        raise StorageError("reading content", "the disk is broken")


def attempt(ours: Agent, body: bytes | Content, *boxes: str, smtputf8: bool = False, **asked: Any) -> Attempt:
    content = Octets(body) if isinstance(body, bytes) else body
    eight_bit = not body.isascii() if isinstance(body, bytes) else True
    who = tuple(
        Recipient(place, Mailbox.parse(box, utf8=True), asked.get("notify"), asked.get("original"))
        for place, box in enumerate(boxes)
    )
    text = asked.get("sender", "ann@sender.test")
    sender = Mailbox.parse(text, utf8=True) if text else None
    envelope = Envelope(
        MessageId("m1"), sender, who, content.size, eight_bit, ours.clock.now(), smtputf8,
        asked.get("ret"), asked.get("envid"),
    )  # fmt: skip
    return Attempt(ours, envelope, who, content)


async def deliver(ours: Agent, body: bytes | Content, *boxes: str, **asked: Any) -> AttemptResult:
    story = attempt(ours, body, *boxes, **asked)
    await story.run()
    return story.result()


def behave(world: World, **keywords: tuple[str, ...]) -> None:
    """The two hosts of busy.test, in their order."""
    for name, offered in keywords.items():
        world.server(f"{name}.busy.test").behaviour = Behaviour(keywords=offered)


async def test_the_next_host_is_better_than_a_conversion(world: World, tmp_path: Path) -> None:
    behave(world, mx1=SEVEN, mx2=KEYWORDS)
    ((_, outcome),) = (await deliver(agent(world, tmp_path), EIGHT_BIT, "bob@busy.test")).outcomes
    assert isinstance(outcome, Delivered)
    assert outcome.contact.host == "mx2.busy.test"
    assert world.messages[0].content == EIGHT_BIT
    assert "BODY=8BITMIME" in world.messages[0].mail_parameters


async def test_without_such_a_host_the_first_one_gets_7_bit_text(world: World, tmp_path: Path) -> None:
    behave(world, mx1=SEVEN, mx2=SEVEN)
    result = await deliver(agent(world, tmp_path), EIGHT_BIT, "bob@busy.test", "bea@busy.test")
    assert [type(outcome) for _, outcome in result.outcomes] == [Delivered, Delivered]
    (received,) = world.server("mx1.busy.test").messages
    assert received.content.isascii()
    assert (
        message_from_bytes(received.content).get_payload(decode=True) == EIGHT_BIT.partition(b"\r\n\r\n")[2]
    )
    assert received.mail_parameters == (f"SIZE={len(received.content)}",)
    assert "converted" in codes(result)
    assert world.server("mx1.busy.test").violations == []


async def test_a_host_that_cannot_be_reached_does_not_keep_the_other_from_it(
    world: World, tmp_path: Path
) -> None:
    behave(world, mx1=SEVEN)
    world.server("mx2.busy.test").behaviour = Behaviour(replies={"CONNECT": Drop()})
    result = await deliver(agent(world, tmp_path), EIGHT_BIT, "bob@busy.test")
    assert [type(outcome) for _, outcome in result.outcomes] == [Delivered]


@pytest.mark.parametrize("other", ["after", "before"])
async def test_a_signed_message_waits_for_a_host_that_may_take_it(
    world: World, tmp_path: Path, other: str
) -> None:
    first, second = ("mx1", "mx2") if other == "after" else ("mx2", "mx1")
    behave(world, **{first: SEVEN})
    world.server(f"{second}.busy.test").behaviour = Behaviour(replies={"CONNECT": "421 4.3.2 later"})
    ((_, outcome),) = (await deliver(agent(world, tmp_path), SIGNED, "bob@busy.test")).outcomes
    assert isinstance(outcome, Deferred)
    assert world.messages == ()


async def test_a_signed_message_bounces_where_nobody_can_take_it(world: World, tmp_path: Path) -> None:
    behave(world, mx1=SEVEN, mx2=SEVEN)
    result = await deliver(agent(world, tmp_path), SIGNED, "bob@busy.test")
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Failed)
    assert str(outcome.enhanced) == "5.6.3"
    assert "not-converted" in codes(result)
    ours = agent(world, tmp_path, rule=(Rule(domains=("busy.test",), smtp={"pass_8bit": True}),))
    ((_, outcome),) = (await deliver(ours, SIGNED, "bob@busy.test")).outcomes
    assert isinstance(outcome, Delivered)
    assert world.messages[0].content == SIGNED


async def test_a_report_goes_without_the_signed_message_that_hinders_it(world: World, tmp_path: Path) -> None:
    behave(world, mx1=SEVEN, mx2=SEVEN)
    who = Recipient(0, Mailbox("b", "e.test"))
    original = Envelope(MessageId("m"), Mailbox("bob", "busy.test"), (who,), len(SIGNED), True, 0.0)
    composed = report(
        original, (Entry(who, "failed", Failed("no", Blame.RECIPIENT), 0.0),), reporting_mta="x.test",
        message_id=MessageId("n"), boundary=boundary_from(bytes(20)), now=0.0, original=Original(SIGNED, True),
    )  # fmt: skip
    assert composed is not None
    result = await deliver(agent(world, tmp_path), composed.text, "bob@busy.test", sender="")
    assert isinstance(result.outcomes[0][1], Delivered)
    assert world.messages[0].content == abridged(composed.text)


async def test_a_disk_that_fails_defers(world: World, tmp_path: Path) -> None:
    behave(world, mx1=SEVEN, mx2=SEVEN)
    ((_, outcome),) = (await deliver(agent(world, tmp_path), Unreadable(EIGHT_BIT), "bob@busy.test")).outcomes
    assert isinstance(outcome, Deferred)
    assert outcome.blame is Blame.LOCAL
    result = await deliver(agent(world, tmp_path), Unreadable(UTF8_HEADER), "bob@plain.test", smtputf8=True)
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Deferred)
    assert outcome.blame is Blame.LOCAL


async def test_addresses_outside_ascii_find_the_host_that_takes_them(world: World, tmp_path: Path) -> None:
    behave(world, mx1=KEYWORDS, mx2=INTERNATIONAL)
    result = await deliver(
        agent(world, tmp_path), UTF8_HEADER, "jürg@busy.test", smtputf8=True, sender="grüße@sender.test"
    )
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Delivered), outcome
    server = world.server("mx2.busy.test")
    (received,) = server.messages
    assert (received.sender, received.recipients) == ("grüße@sender.test", ("jürg@busy.test",))
    assert "SMTPUTF8" in received.mail_parameters
    assert received.content == UTF8_HEADER
    assert server.violations == []


async def test_without_any_such_host_the_message_bounces(world: World, tmp_path: Path) -> None:
    behave(world, mx1=KEYWORDS, mx2=KEYWORDS)
    for body, box in ((ASCII, "jürg@busy.test"), (UTF8_HEADER, "bob@busy.test")):
        ((_, outcome),) = (await deliver(agent(world, tmp_path), body, box, smtputf8=True)).outcomes
        assert isinstance(outcome, Failed)
        assert str(outcome.enhanced) == "5.6.7"


@pytest.mark.parametrize("body", [ASCII, EIGHT_BIT])
async def test_what_asks_for_smtputf8_without_need_may_go_without(
    world: World, tmp_path: Path, body: bytes
) -> None:
    behave(world, mx1=KEYWORDS)
    ((_, outcome),) = (await deliver(agent(world, tmp_path), body, "bob@busy.test", smtputf8=True)).outcomes
    assert isinstance(outcome, Delivered)
    assert "SMTPUTF8" not in world.messages[0].mail_parameters
    assert world.messages[0].content == body


async def test_only_the_recipient_who_needs_it_is_kept_back(world: World, tmp_path: Path) -> None:
    behave(world, mx1=KEYWORDS, mx2=KEYWORDS)
    result = await deliver(agent(world, tmp_path), ASCII, "jürg@busy.test", "bob@busy.test", smtputf8=True)
    assert [type(outcome) for _, outcome in result.outcomes] == [Failed, Delivered]


@pytest.mark.parametrize("offered", [True, False])
async def test_reports_are_asked_for_where_the_server_makes_them(
    world: World, tmp_path: Path, offered: bool
) -> None:
    behave(world, mx1=(*KEYWORDS, "DSN") if offered else KEYWORDS)
    result = await deliver(
        agent(world, tmp_path), ASCII, "bob@busy.test", ret=Ret.FULL, envid="a+b",
        notify=frozenset({Notify.SUCCESS}), original=OriginalRecipient("rfc822", "old@a.test"),
    )  # fmt: skip
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Delivered)
    assert outcome.dsn_passed is offered
    (received,) = world.messages
    assert ({"RET=FULL", "ENVID=a+2Bb"} <= set(received.mail_parameters)) is offered
    assert received.rcpt_parameters == (
        (("NOTIFY=SUCCESS", "ORCPT=rfc822;old@a.test"),) if offered else ((),)
    )
    assert world.server("mx1.busy.test").violations == []
