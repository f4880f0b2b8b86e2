"""Attempts through the miniature Internet: real DNS messages, real sockets, real TLS, one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import trio

from deliver.agent import Agent
from deliver.assembly import build_agent
from deliver.attempt import Attempt
from deliver.errors import Blame
from deliver.level import Level
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.outcome import AttemptResult, Deferred, Delivered, Failed
from deliver.queue.content import InlineContent
from deliver.queue.retry import error_words
from deliver.report.result import as_dict
from deliver.session import Session
from deliver.settings import Delivery, Dns, Relay, Route, Rule, Settings, Tls
from deliver.smtp.command import LocalMisuse
from events.catalogue import vocabulary_problems
from hints.memory import MemoryHints
from tests.internet import World, open_internet
from tests.internet.behaviour import Behaviour, Drop, Silence
from tests.internet.resolver import Fault

BODY = b"Subject: hello\r\n\r\n.a line with a dot\r\nlast\r\n"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_internet() as world:
        yield world


def dns(world: World, tmp_path: Path, mode: Any = "validate") -> Dns:
    anchors = str(world.write_trust_anchor(tmp_path))
    return Dns(
        dnssec=mode, resolvers=(world.resolver.endpoint,), trust_anchors=anchors, timeout=2, attempts=1
    )


def agent(world: World, tmp_path: Path, **sections: Any) -> Agent:
    settings = Settings(
        state_dir=str(tmp_path),
        **{
            "dns": dns(world, tmp_path),
            "tls": Tls(trust_store=str(world.write_trust_store(tmp_path))),
            "delivery": Delivery(port=world.port, helo="relay.example.org"),
            **sections,
        },
    )
    clock = WallClock()
    return build_agent(
        settings, hints=MemoryHints(clock=clock.now), clock=clock, rng=Random(1), learner="test"
    )


def attempt(agent: Agent, *boxes: str, body: bytes = BODY, **changes: Any) -> Attempt:
    recipients = tuple(Recipient(place, Mailbox.parse(box)) for place, box in enumerate(boxes))
    sender = Mailbox("me", "sender.test")
    eight_bit = not body.isascii()
    envelope = Envelope(MessageId("m1"), sender, recipients, len(body), eight_bit, agent.clock.now())
    return Attempt(agent, envelope, recipients, InlineContent(body), **changes)


async def deliver(agent: Agent, *boxes: str, **changes: Any) -> AttemptResult:
    """Run one attempt; `body` and `journal` may be given."""
    story = attempt(agent, *boxes, **changes)
    await story.run()
    return story.result()


def codes(result: AttemptResult) -> list[str]:
    return [finding.code for finding in result.trace.findings]


def events(result: AttemptResult) -> list[str]:
    return [event.name for event in result.trace.events]


DELIVERED = [
    ("dane-ee.test", "dane-ee", "dane-ee-match"),
    ("dane-ta.test", "dane-ta", "dane-ta-match"),
    ("dane-ta-key.test", "dane-ta", "dane-ta-match"),
    ("dane-ee-expired.test", "dane-ee", "dane-ee-match"),
    ("dane-ee-name.test", "dane-ee", "dane-ee-match"),
    ("dane-rollover.test", "dane-ee", "dane-ee-match"),
    ("alias.test", "dane-ee", "dane-ee-match"),
    ("tlsa-unusable.test", "none", "tlsa-unusable"),
    ("signed.test", "none", "tls-opportunistic"),
    ("insecure.test", "none", "tls-opportunistic"),
    ("insecure-tlsa.test", "none", "tls-opportunistic"),
    ("implicit.test", "none", "mx-implicit"),
    ("plain.test", None, "starttls-missing"),
    ("two.test", "dane-ee", "connect-failed"),
    ("busy.test", "none", "refused"),
]


@pytest.mark.parametrize("mode", ["validate", "trust-ad"])
@pytest.mark.parametrize(("domain", "verified_by", "code"), DELIVERED)
async def test_what_must_arrive_arrives(
    world: World, tmp_path: Path, domain: str, verified_by: str | None, code: str, mode: str
) -> None:
    ours = agent(world, tmp_path, dns=dns(world, tmp_path, mode))
    result = await deliver(ours, f"a@{domain}")
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Delivered)
    assert (outcome.contact.tls.verified_by if outcome.contact.tls else None) == verified_by
    assert code in codes(result)
    (message,) = world.messages
    assert message.content == BODY
    assert message.recipients == (f"a@{domain}",)
    assert world.violations == ()
    assert [name for name in events(result) if name == "msg:delivery"] == ["msg:delivery"]


DEFERRED = [
    ("dane-mismatch.test", Blame.POLICY, "tlsa-mismatch", "4.7.5"),
    ("dane-ta-name.test", Blame.POLICY, "name-mismatch", "4.7.5"),
    ("dane-ta-expired.test", Blame.POLICY, "expired", "4.7.5"),
    ("dane-stripped.test", Blame.POLICY, "starttls-required", "4.7.0"),
    ("tlsa-servfail.test", Blame.POLICY, "tlsa-lookup-failed", "4.7.0"),
    ("tlsa-bogus.test", Blame.POLICY, "tlsa-lookup-failed", "4.7.0"),
    ("bogus.test", Blame.DESTINATION, "mx-lookup-failed", "4.4.3"),
    ("expired.test", Blame.DESTINATION, "mx-lookup-failed", "4.4.3"),
]


@pytest.mark.parametrize("mode", ["validate", "trust-ad"])
@pytest.mark.parametrize(("domain", "blame", "code", "enhanced"), DEFERRED)
async def test_what_must_not_arrive_waits_and_says_why(
    world: World, tmp_path: Path, domain: str, blame: Blame, code: str, enhanced: str, mode: str
) -> None:
    ours = agent(world, tmp_path, dns=dns(world, tmp_path, mode))
    result = await deliver(ours, f"a@{domain}")
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Deferred)
    assert (outcome.blame, str(outcome.enhanced), outcome.in_doubt) == (blame, enhanced, False)
    assert code in codes(result)
    assert world.messages == ()
    for server in world.servers.values():
        for connection in server.connections:
            assert "MAIL" not in [command.verb for command in connection.commands]
    assert "msg:defer" in events(result)
    assert "msg:delivery" not in events(result)


FAILED = [
    ("null.test", "5.1.10"),
    ("absent.test", "5.1.2"),
    ("no-host.test", "5.4.4"),
]


@pytest.mark.parametrize("mode", ["validate", "trust-ad"])
@pytest.mark.parametrize(("domain", "enhanced"), FAILED)
async def test_what_cannot_be_delivered_fails(
    world: World, tmp_path: Path, domain: str, enhanced: str, mode: str
) -> None:
    ours = agent(world, tmp_path, dns=dns(world, tmp_path, mode))
    result = await deliver(ours, f"a@{domain}")
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Failed)
    assert str(outcome.enhanced) == enhanced
    assert events(result) == ["dns:fail", "msg:fail:internal"]


async def test_every_event_belongs_to_the_catalogue(world: World, tmp_path: Path) -> None:
    ours = agent(world, tmp_path)
    for domain in ("dane-ee.test", "dane-mismatch.test", "null.test", "busy.test", "dane-stripped.test"):
        result = await deliver(ours, f"a@{domain}")
        for event in result.trace.events:
            assert vocabulary_problems(event.name, event.fields) == ()


async def test_the_events_of_a_delivery_come_in_order(world: World, tmp_path: Path) -> None:
    result = await deliver(agent(world, tmp_path), "a@dane-ee.test")
    assert events(result) == [
        "tcp:connect",
        "smtp:connect",
        "smtp:ehlo",
        "tls:cert",
        "tls:level",
        "smtp:ehlo",
        "tcp:close",
        "msg:delivery",
    ]
    delivery = result.trace.events[-1].fields
    assert delivery["host"] == "mx.dane-ee.test"
    assert delivery["tls_out_dane"] == "yes"


async def test_each_recipient_has_its_own_outcome(world: World, tmp_path: Path) -> None:
    def judge(argument: str) -> str:
        if "gone" in argument:
            return "550 5.1.1 No such user"
        return "450 4.2.1 Busy" if "busy" in argument else "250 2.1.5 Ok"

    world.server("mx.dane-ee.test").behaviour = Behaviour(replies={"RCPT": judge})
    result = await deliver(agent(world, tmp_path), *(f"{who}@dane-ee.test" for who in ("ok", "gone", "busy")))
    ok, gone, busy = (outcome for _, outcome in result.outcomes)
    assert isinstance(ok, Delivered)
    assert isinstance(gone, Failed)
    assert str(gone.enhanced) == "5.1.1"
    assert isinstance(busy, Deferred)
    assert busy.blame is Blame.RECIPIENT
    (message,) = world.messages
    assert message.recipients == ("ok@dane-ee.test",)
    assert events(result).count("msg:rcpt:host:defer") == 1
    assert events(result).count("msg:rcpt:defer") == 1


async def test_a_recipient_that_one_host_defers_is_offered_to_the_next(world: World, tmp_path: Path) -> None:
    world.server("mx1.busy.test").behaviour = Behaviour(
        replies={"RCPT": lambda argument: "450 4.2.1 Busy" if "b@" in argument else "250 2.1.5 Ok"}
    )
    result = await deliver(agent(world, tmp_path), "a@busy.test", "b@busy.test")
    first, second = (outcome for _, outcome in result.outcomes)
    assert isinstance(first, Delivered)
    assert isinstance(second, Delivered)
    assert (first.contact.host, second.contact.host) == ("mx1.busy.test", "mx2.busy.test")


async def test_a_connection_lost_after_the_dot_is_in_doubt_and_no_other_host_is_tried(
    world: World, tmp_path: Path
) -> None:
    world.server("mx1.busy.test").behaviour = Behaviour(replies={"DOT": Drop()})
    result = await deliver(agent(world, tmp_path), "a@busy.test")
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Deferred)
    assert outcome.in_doubt
    assert world.server("mx2.busy.test").connections == []


async def test_a_connection_lost_in_the_body_goes_on_to_the_next_host(world: World, tmp_path: Path) -> None:
    world.server("mx1.busy.test").behaviour = Behaviour(replies={"CONTENT": Drop(reset=True)})
    long = BODY + b"x" * 76 + b"\r\n"
    long += (b"x" * 76 + b"\r\n") * 120_000  # more than any socket buffer holds
    result = await deliver(agent(world, tmp_path), "a@busy.test", body=long)
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Delivered)
    assert outcome.contact.host == "mx2.busy.test"
    assert len(world.messages) == 1


async def test_a_cancelled_attempt_says_what_it_knows(world: World, tmp_path: Path) -> None:
    world.server("mx.plain.test").behaviour = Behaviour(replies={"DOT": Silence()})
    story = attempt(agent(world, tmp_path), "a@plain.test")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(story.run)
            await world.server("mx.plain.test").wait_for(lambda server: bool(server.received))
            scope.cancel()
    ((_, outcome),) = story.result().outcomes
    assert isinstance(outcome, Deferred)
    assert outcome.in_doubt

    world.server("mx.plain.test").behaviour = Behaviour(replies={"MAIL": Silence()})
    story = attempt(agent(world, tmp_path), "a@plain.test")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(story.run)
            await trio.sleep(0.3)  # the server stays silent, so there is no event to wait for
            scope.cancel()
    ((_, outcome),) = story.result().outcomes
    assert isinstance(outcome, Deferred)
    assert not outcome.in_doubt


async def test_the_deadline_of_an_attempt(world: World, tmp_path: Path) -> None:
    world.server("mx.plain.test").behaviour = Behaviour(replies={"CONNECT": Silence()})
    quick = Delivery(port=world.port, helo="relay.example.org", deadline=0.3)
    result = await deliver(agent(world, tmp_path, delivery=quick), "a@plain.test")
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Deferred)
    assert "delivery.deadline" in outcome.why


async def test_a_journal_entry_is_made_when_the_final_reply_is_read(world: World, tmp_path: Path) -> None:
    noted: list[tuple[tuple[Recipient, ...], Delivered]] = []
    result = await deliver(
        agent(world, tmp_path),
        "a@dane-ee.test",
        "b@dane-ee.test",
        journal=lambda recipients, outcome: noted.append((recipients, outcome)),
    )
    (_, outcome), _ = result.outcomes
    assert isinstance(outcome, Delivered)
    assert noted == [(tuple(recipient for recipient, _ in result.outcomes), outcome)]


async def test_a_failing_handshake_falls_back_to_clear_text_only_where_allowed(
    world: World, tmp_path: Path
) -> None:
    broken = Behaviour(replies={"HANDSHAKE": Drop()})
    world.server("mx.insecure.test").behaviour = broken
    world.server("mx.dane-ee.test").behaviour = broken
    result = await deliver(agent(world, tmp_path), "a@insecure.test")
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Delivered)
    assert outcome.contact.tls is None
    assert {"tls-failed", "clear-text-fallback"} <= set(codes(result))
    assert "tls:fallback" in events(result)

    store = str(tmp_path / "root.pem")
    strict = agent(world, tmp_path, tls=Tls(trust_store=store, clear_text_fallback=False))
    ((_, outcome),) = (await deliver(strict, "a@insecure.test")).outcomes
    assert isinstance(outcome, Deferred)

    ((_, outcome),) = (await deliver(agent(world, tmp_path), "a@dane-ee.test")).outcomes
    assert isinstance(outcome, Deferred)
    assert len(world.messages) == 1


async def test_bytes_behind_the_starttls_reply_are_an_attack(world: World, tmp_path: Path) -> None:
    for domain in ("dane-ee.test", "insecure.test"):
        world.server(f"mx.{domain}").behaviour = Behaviour(
            replies={"STARTTLS": b"220 2.0.0 Go ahead\r\n250 2.0.0 injected\r\n"}
        )
        result = await deliver(agent(world, tmp_path), f"a@{domain}")
        ((_, outcome),) = result.outcomes
        assert isinstance(outcome, Deferred)
    assert world.messages == ()


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ("CONNECT", b"hello there\r\n"),
        ("EHLO", b"250-mx\r\n251 PIPELINING\r\n"),
        ("EHLO", b"250-" + b"x" * 100_000 + b"\r\n"),
        ("MAIL", b"999 what\r\n"),
        ("RCPT", b"\x00\x01\x02\r\n"),
        ("DATA", b"250 not what was asked for\r\n"),
    ],
)
async def test_a_malformed_reply_defers_and_is_said(
    world: World, tmp_path: Path, point: Any, said: bytes
) -> None:
    world.server("mx.plain.test").behaviour = Behaviour(replies={point: said})
    ((_, outcome),) = (await deliver(agent(world, tmp_path), "a@plain.test")).outcomes
    assert isinstance(outcome, Deferred)
    assert outcome.blame is Blame.HOST
    assert not outcome.in_doubt
    assert outcome.phase is not None
    assert "reply" in outcome.why or outcome.phase.value in outcome.why
    assert world.messages == ()


@pytest.mark.parametrize(
    ("level", "domain", "kind", "verified_by"),
    [
        ("verify", "signed.test", Delivered, "pkix"),
        ("verify", "dane-ee.test", Deferred, None),
        ("verify", "plain.test", Deferred, None),
        ("encrypt", "insecure.test", Delivered, "none"),
        ("encrypt", "plain.test", Deferred, None),
        ("none", "dane-ee.test", Delivered, None),
        ("may", "dane-mismatch.test", Delivered, "none"),
        ("dane-only", "dane-ee.test", Delivered, "dane-ee"),
        ("dane-only", "signed.test", Deferred, None),
        ("dane-only", "tlsa-unusable.test", Deferred, None),
    ],
)
async def test_levels_by_rule(
    world: World, tmp_path: Path, level: str, domain: str, kind: type, verified_by: str | None
) -> None:
    rule = Rule(domains=(domain,), tls={"level": level})
    result = await deliver(agent(world, tmp_path, rule=(rule,)), f"a@{domain}")
    ((_, outcome),) = result.outcomes
    assert type(outcome) is kind
    if isinstance(outcome, Delivered):
        assert (outcome.contact.tls.verified_by if outcome.contact.tls else None) == verified_by
    else:
        assert world.messages == ()


async def test_routes(world: World, tmp_path: Path) -> None:
    routes = (
        Route(domains=("one.invalid",), via="smarthost", hosts=(f"mx.dane-ee.test:{world.port}",)),
        Route(domains=("two.invalid",), via="smarthost", mx="dane-ta.test"),
        Route(domains=("*.three.invalid",), via="reject", reason="not from here"),
    )
    ours = agent(world, tmp_path, route=routes)
    ((_, one),) = (await deliver(ours, "a@one.invalid")).outcomes
    ((_, two),) = (await deliver(ours, "a@two.invalid")).outcomes
    ((_, three),) = (await deliver(ours, "a@x.three.invalid")).outcomes
    assert isinstance(one, Delivered)
    assert isinstance(two, Delivered)
    assert one.contact.tls is not None
    assert two.contact.tls is not None
    assert (one.contact.tls.verified_by, two.contact.tls.verified_by) == ("dane-ee", "dane-ta")
    assert isinstance(three, Failed)
    assert (str(three.enhanced), three.why) == ("5.7.1", "not from here")


async def test_an_address_literal(world: World, tmp_path: Path) -> None:
    (address,) = world.addresses["mx.plain.test"]
    ((_, outcome),) = (await deliver(agent(world, tmp_path), f"a@[{address}]")).outcomes
    assert isinstance(outcome, Delivered)
    assert outcome.contact.host == address


async def test_mail_never_goes_back_to_ourselves(world: World, tmp_path: Path) -> None:
    ours = agent(world, tmp_path, relay=Relay(local_names=("mx2.busy.test",)))
    ((_, outcome),) = (await deliver(ours, "a@busy.test")).outcomes
    assert isinstance(outcome, Deferred)  # mx1 answers 421, mx2 and everything behind it is us
    ours = agent(world, tmp_path, relay=Relay(local_names=("mx1.busy.test",)))
    ((_, outcome),) = (await deliver(ours, "a@busy.test")).outcomes
    assert isinstance(outcome, Failed)
    assert str(outcome.enhanced) == "5.4.6"


async def test_eight_bit_text_needs_8bitmime(world: World, tmp_path: Path) -> None:
    world.server("mx.plain.test").behaviour = Behaviour(keywords=("PIPELINING",))
    body = "DKIM-Signature: v=1\r\nSubject: x\r\n\r\nGrüße\r\n".encode()
    ((_, outcome),) = (await deliver(agent(world, tmp_path), "a@plain.test", body=body)).outcomes
    assert isinstance(outcome, Failed)
    assert str(outcome.enhanced) == "5.6.3"
    rule = Rule(domains=("plain.test",), smtp={"pass_8bit": True})
    ours = agent(world, tmp_path, rule=(rule,))
    ((_, outcome),) = (await deliver(ours, "a@plain.test", body=body)).outcomes
    assert isinstance(outcome, Delivered)
    assert world.messages[0].content == body


async def test_a_dead_resolver_defers(world: World, tmp_path: Path) -> None:
    dead = Dns(resolvers=("127.0.0.1:9",), timeout=0.2, attempts=1)
    ((_, outcome),) = (await deliver(agent(world, tmp_path, dns=dead), "a@dane-ee.test")).outcomes
    assert isinstance(outcome, Deferred)
    assert "127.0.0.1:9" in outcome.why


async def test_hosts_are_looked_up_side_by_side(world: World, tmp_path: Path) -> None:
    world.server("mx1.busy.test").behaviour = Behaviour()
    world.resolver.trouble("mx2.busy.test", fault=Fault.SILENCE)
    with trio.fail_after(1.5):  # dns.timeout is 2 s
        ((_, outcome),) = (await deliver(agent(world, tmp_path), "a@busy.test")).outcomes
    assert isinstance(outcome, Delivered)
    assert outcome.contact.host == "mx1.busy.test"
    assert world.resolver.asked("mx2.busy.test", "A")


async def test_dns_off_means_no_dane(world: World, tmp_path: Path) -> None:
    off = Dns(resolvers=(world.resolver.endpoint,), dnssec="off")
    ((_, outcome),) = (await deliver(agent(world, tmp_path, dns=off), "a@dane-mismatch.test")).outcomes
    assert isinstance(outcome, Delivered)
    assert outcome.contact.tls is not None
    assert outcome.contact.tls.verified_by == "none"


async def test_what_was_learned_goes_to_the_hints(world: World, tmp_path: Path) -> None:
    ours = agent(world, tmp_path)
    await deliver(ours, "a@two.test")
    (down,) = await ours.hints.look("mx1.two.test", world.addresses["mx1.two.test"], world.port)
    (up,) = await ours.hints.look("mx2.two.test", world.addresses["mx2.two.test"], world.port)
    assert down.failures == 1
    assert up.last_success is not None
    assert {answer.phase for answer in up.ehlo} == {"clear", "tls"}


async def test_timeouts_per_phase_defer_and_go_on(world: World, tmp_path: Path) -> None:
    world.server("mx1.busy.test").behaviour = Behaviour(replies={"EHLO": Silence()})
    rule = Rule(domains=("busy.test",), smtp={"timeouts": {"ehlo": "0.2s"}})
    ours = agent(world, tmp_path, rule=(rule,))
    ((_, outcome),) = (await deliver(ours, "a@busy.test")).outcomes
    assert isinstance(outcome, Delivered)
    assert outcome.contact.host == "mx2.busy.test"


async def test_silence_is_told_apart_for_retry_rules(world: World, tmp_path: Path) -> None:
    world.server("mx.plain.test").behaviour = Behaviour(replies={"EHLO": Silence()})
    rule = Rule(domains=("plain.test",), smtp={"timeouts": {"ehlo": "0.2s"}})
    ((_, outcome),) = (await deliver(agent(world, tmp_path, rule=(rule,)), "a@plain.test")).outcomes
    assert isinstance(outcome, Deferred)
    assert error_words(outcome) == {"greeting", "timeout"}


async def test_the_result_as_plain_data(world: World, tmp_path: Path) -> None:
    result = await deliver(agent(world, tmp_path), "a@dane-ee.test")
    ((recipient, outcome),) = result.outcomes
    plain = as_dict(recipient, outcome, result.trace)
    assert plain["outcome"] == "delivered"
    assert plain["tls"]["level"] == "dane"
    assert plain["tls"]["verified_by"] == "dane-ee"
    assert plain["tls"]["ocsp"] == "none"
    assert {"code", "text", "rfc"} == set(plain["reasons"][0])
    assert plain["round_trips"] == 8  # TCP, banner, EHLO, STARTTLS, TLS, EHLO, envelope, content


async def test_a_server_that_limits_its_sessions_still_gets_every_recipient(
    world: World, tmp_path: Path
) -> None:
    server = world.server("mx.plain.test")
    server.behaviour = Behaviour(keywords=("PIPELINING", "SIZE", "8BITMIME", "LIMITS RCPTMAX=2 MAILMAX=1"))
    result = await deliver(agent(world, tmp_path), *(f"r{n}@plain.test" for n in range(5)))
    assert [type(outcome) for _, outcome in result.outcomes] == [Delivered] * 5
    assert len(server.connections) == 3
    assert [len(message.recipients) for message in server.messages] == [2, 2, 1]
    assert events(result).count("msg:delivery") == 5
    assert "msg:defer" not in events(result)


async def test_a_server_that_broke_on_bdat_gets_data_from_then_on(world: World, tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def close_on_bdat(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 brittle ESMTP\r\n")
        async for data in stream:
            seen.append(bytes(data))
            if b"BDAT" in data:
                return
            if data.startswith(b"EHLO"):
                await stream.send_all(b"250-brittle\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
            elif data.startswith(b"MAIL"):
                await stream.send_all(b"250 ok\r\n250 ok\r\n354 go on\r\n")
            elif data.startswith(b"QUIT"):
                return
            elif data.endswith(b"\r\n.\r\n"):
                await stream.send_all(b"250 taken\r\n")

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    place = f"[127.0.0.1]:{listener.socket.getsockname()[1]}"
    routes = (Route(domains=("*",), via="smarthost", hosts=(place,)),)
    ours = agent(world, tmp_path, route=routes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, close_on_bdat, [listener])
        ((_, first),) = (await deliver(ours, "a@x.test")).outcomes
        assert isinstance(first, Deferred)
        assert any(b"BDAT" in data for data in seen)
        seen.clear()
        ((_, second),) = (await deliver(ours, "a@x.test")).outcomes
        assert isinstance(second, Delivered)
        assert not any(b"BDAT" in data for data in seen)
        seen.clear()
        without_hints = agent(world, tmp_path, route=routes)
        ((_, third),) = (await deliver(without_hints, "a@x.test", number=3)).outcomes
        assert isinstance(third, Delivered)
        assert not any(b"BDAT" in data for data in seen)
        nursery.cancel_scope.cancel()


async def test_a_drop_of_security_is_told_and_mail_goes_on(world: World, tmp_path: Path) -> None:
    strict = agent(world, tmp_path)
    await deliver(strict, "a@dane-ee.test")
    lax = replace(strict, settings=msgspec.structs.replace(strict.settings, tls=Tls(level=Level.NONE)))
    result = await deliver(lax, "a@dane-ee.test")
    assert isinstance(result.outcomes[0][1], Delivered)
    assert "level-dropped" in codes(result)
    (level,) = (event for event in result.trace.events if event.name == "tls:level")
    assert (level.fields["event_data"], level.fields["reason"]) == ("none", "dropped from dane-ee")
    again = await deliver(strict, "a@dane-ee.test")
    assert "level-dropped" not in codes(again)


async def test_no_transaction_begins_in_clear_text_where_tls_is_required(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forgetful(session: Session) -> bool:
        return False  # as if a later change had lost the requirement on the way

    monkeypatch.setattr(Session, "_ask_for_tls", forgetful)
    with pytest.raises(ExceptionGroup) as raised:
        await deliver(agent(world, tmp_path), "a@dane-ee.test")
    assert raised.group_contains(LocalMisuse, match="where TLS is required")
    assert world.messages == ()
