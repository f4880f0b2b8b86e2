"""Attempts through the miniature Internet: real DNS messages, real sockets, real TLS, one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from deliver.errors import Blame
from deliver.message import Recipient
from deliver.outcome import Deferred, Delivered, Failed
from deliver.report.result import as_dict
from deliver.settings import Rule
from events.catalogue import vocabulary_problems
from tests.internet import World
from tests.internet.behaviour import Behaviour
from tests.unit.attempts import BODY, agent, codes, deliver, dns, events

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


async def test_what_was_learned_goes_to_the_hints(world: World, tmp_path: Path) -> None:
    ours = agent(world, tmp_path)
    await deliver(ours, "a@two.test")
    (down,) = await ours.hints.look("mx1.two.test", world.addresses["mx1.two.test"], world.port)
    (up,) = await ours.hints.look("mx2.two.test", world.addresses["mx2.two.test"], world.port)
    assert down.failures == 1
    assert up.last_success is not None
    assert {answer.phase for answer in up.ehlo} == {"clear", "tls"}


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
