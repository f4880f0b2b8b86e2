"""Messages with REQUIRETLS through the miniature Internet (RFC 8689 4.2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from deliver.errors import Blame
from deliver.explanation import DEFERRED, FAILED, READY, explain
from deliver.level import Level
from deliver.outcome import AttemptResult, Deferred, Delivered, Failed, Outcome
from deliver.pool import SessionPool
from deliver.settings import Pool, Route, Rule, Tls
from events.catalogue import Event
from tests.internet import Behaviour, MailDomain, Security, World
from tests.internet.behaviour import KEYWORDS
from tests.unit.attempts import agent, codes, deliver

ANNOUNCING = (*KEYWORDS, "REQUIRETLS")
HIS = "mx.signed.test"  # with a valid certificate for this name


def announces(world: World, *hosts: str, keywords: tuple[str, ...] = ANNOUNCING, **more: Any) -> None:
    for host in hosts:
        world.server(host).behaviour = Behaviour(keywords=KEYWORDS, keywords_tls=keywords, **more)


async def send(world: World, tmp_path: Path, domain: str, **sections: Any) -> tuple[Outcome, AttemptResult]:
    result = await deliver(agent(world, tmp_path, **sections), f"a@{domain}", requires_tls=True)
    ((_, outcome),) = result.outcomes
    return outcome, result


@pytest.mark.parametrize(
    ("domain", "verified_by"),
    [
        ("dane-ee.test", "dane-ee"),
        ("dane-ta.test", "dane-ta"),
        ("alias.test", "dane-ee"),
        ("signed.test", "pkix"),
        ("implicit.test", "pkix"),
        ("tlsa-unusable.test", "pkix"),
    ],
)
async def test_it_goes_to_a_server_that_is_certain_and_announces_it(
    world: World, tmp_path: Path, domain: str, verified_by: str
) -> None:
    announces(world, *world.servers)
    outcome, _ = await send(world, tmp_path, domain)
    assert isinstance(outcome, Delivered)
    assert outcome.contact.tls is not None
    assert outcome.contact.tls.verified_by == verified_by
    (message,) = world.messages
    assert "REQUIRETLS" in message.mail_parameters
    assert world.violations == ()


async def test_other_mail_to_the_same_server_goes_without_it(world: World, tmp_path: Path) -> None:
    announces(world, "mx.dane-ee.test")
    await deliver(agent(world, tmp_path), "a@dane-ee.test")
    (message,) = world.messages
    assert "REQUIRETLS" not in message.mail_parameters


@pytest.mark.parametrize("keywords", [KEYWORDS, (*KEYWORDS, "XREQUIRETLS")])
async def test_where_no_host_announces_it_the_message_bounces(
    world: World, tmp_path: Path, keywords: tuple[str, ...]
) -> None:
    announces(world, "mx.dane-ee.test", keywords=keywords)
    outcome, _ = await send(world, tmp_path, "dane-ee.test")
    assert isinstance(outcome, Failed)
    assert (outcome.blame, str(outcome.enhanced)) == (Blame.HOST, "5.7.30")
    assert "REQUIRETLS" in outcome.why
    assert world.messages == ()


async def test_an_announcement_in_clear_text_counts_for_nothing(world: World, tmp_path: Path) -> None:
    world.server("mx.dane-ee.test").behaviour = Behaviour(keywords=ANNOUNCING, keywords_tls=KEYWORDS)
    outcome, _ = await send(world, tmp_path, "dane-ee.test")
    assert isinstance(outcome, Failed)


async def test_the_next_host_may_announce_it(world: World, tmp_path: Path) -> None:
    world.publish(MailDomain("partner.test", mx=((10, "mx.dane-ee.test"), (20, "mx.dane-ta.test"))))
    announces(world, "mx.dane-ta.test")
    outcome, _ = await send(world, tmp_path, "partner.test")
    assert isinstance(outcome, Delivered)
    assert outcome.contact.host == "mx.dane-ta.test"
    assert [command.verb for command in world.server("mx.dane-ee.test").connections[0].commands][-1] == "QUIT"


async def test_it_waits_while_another_host_may_announce_it(world: World, tmp_path: Path) -> None:
    world.publish(MailDomain("partner.test", mx=((10, "mx1.two.test"), (20, "mx.dane-ee.test"))))
    outcome, _ = await send(world, tmp_path, "partner.test")  # nobody listens on the first
    assert isinstance(outcome, Deferred)


@pytest.mark.parametrize(
    ("domain", "level"),
    [
        *product(
            ["insecure.test", "plain.test", "dane-stripped.test"],
            [level for level in Level if level is not Level.DANE_ONLY],
        ),
        ("dane-mismatch.test", Level.DANE),
    ],
)
async def test_what_proves_too_little_gets_nothing(
    world: World, tmp_path: Path, domain: str, level: Level
) -> None:
    server = world.server(f"mx.{domain}")
    server.behaviour = replace(server.behaviour, keywords=ANNOUNCING)
    tls = Tls(trust_store=str(world.write_trust_store(tmp_path)), level=level)
    outcome, _ = await send(world, tmp_path, domain, tls=tls)
    assert isinstance(outcome, Deferred)
    assert "MAIL" not in [command.verb for seen in server.connections for command in seen.commands]


@pytest.mark.parametrize(("security", "arrives"), [(Security.SECURE, True), (Security.INSECURE, False)])
async def test_a_host_of_a_forged_answer_gets_nothing(
    world: World, tmp_path: Path, security: Security, arrives: bool
) -> None:
    """Its own certificate is valid; only DNSSEC says that it serves the domain."""
    world.publish(MailDomain("partner.test", mx=((10, HIS),), security=security))
    announces(world, HIS)
    outcome, result = await send(world, tmp_path, "partner.test")
    assert isinstance(outcome, Delivered) is arrives
    assert ("name-mismatch" in codes(result)) is not arrives


async def test_a_rule_for_hosts_is_no_word_for_a_host_of_a_forged_answer(
    world: World, tmp_path: Path
) -> None:
    world.publish(MailDomain("partner.test", mx=((10, HIS),), security=Security.INSECURE))
    announces(world, HIS)
    pinned = {"verify_names": (HIS,), "level": Level.VERIFY}
    for rule, arrives in (
        (Rule(hosts=(HIS,), tls=pinned), False),
        (Rule(domains=("partner.test",), tls=pinned), True),
    ):
        outcome, _ = await send(world, tmp_path, "partner.test", rule=(rule,))
        assert isinstance(outcome, Delivered) is arrives


async def untold(events: Sequence[Event]) -> None:
    pass


async def test_a_session_of_other_mail_proves_too_little(world: World, tmp_path: Path) -> None:
    """It was opened under opportunistic TLS."""
    announces(world, HIS)
    async with SessionPool(Pool(), untold).open() as pool:
        ours = replace(agent(world, tmp_path), pool=pool)
        await deliver(ours, "a@signed.test")
        result = await deliver(ours, "b@signed.test", requires_tls=True)
        ((_, outcome),) = result.outcomes
        again = await deliver(ours, "c@signed.test", requires_tls=True)
    assert isinstance(outcome, Delivered)
    assert not outcome.contact.reused
    assert outcome.contact.tls is not None
    assert outcome.contact.tls.verified_by == "pkix"
    ((_, second),) = again.outcomes
    assert isinstance(second, Delivered)
    assert second.contact.reused
    assert "REQUIRETLS" in world.messages[2].mail_parameters


async def test_a_smarthost_of_the_settings_has_to_announce_it_too(world: World, tmp_path: Path) -> None:
    route = Route(domains=("*",), via="smarthost", hosts=(f"{HIS}:{world.port}",))
    tls = Tls(trust_store=str(world.write_trust_store(tmp_path)), level=Level.MAY)
    outcome, _ = await send(world, tmp_path, "anywhere.test", route=(route,), tls=tls)
    assert isinstance(outcome, Failed)
    announces(world, HIS)
    outcome, _ = await send(world, tmp_path, "anywhere.test", route=(route,), tls=tls)
    assert isinstance(outcome, Delivered)
    assert outcome.contact.tls is not None
    assert outcome.contact.tls.verified_by == "pkix"


async def test_clear_text_is_no_way_out_when_tls_fails(world: World, tmp_path: Path) -> None:
    announces(world, "mx.insecure.test")
    tls = Tls(trust_store=str(world.write_trust_store(tmp_path)), level=Level.MAY, clear_text_fallback=True)
    outcome, result = await send(world, tmp_path, "insecure.test", tls=tls)  # self-signed
    assert isinstance(outcome, Deferred)
    assert "clear-text-fallback" not in codes(result)


async def test_text_in_8_bits_is_not_converted_for_a_server_without_it(world: World, tmp_path: Path) -> None:
    bare = tuple(word for word in KEYWORDS if word != "8BITMIME")
    announces(world, "mx.dane-ee.test", keywords=bare)
    ours = agent(world, tmp_path)
    body = "Subject: x\r\n\r\nä\r\n".encode()
    result = await deliver(ours, "a@dane-ee.test", requires_tls=True, body=body)
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Failed)
    assert str(outcome.enhanced) == "5.7.30"


@pytest.mark.parametrize(("announced", "verdict"), [(True, READY), (False, FAILED)])
async def test_explain_tells_what_would_become_of_it(
    world: World, tmp_path: Path, announced: bool, verdict: str
) -> None:
    if announced:
        announces(world, HIS)
    ours = agent(world, tmp_path)
    explained = await explain(ours, "signed.test", requires_tls=True, connect=True)
    assert explained.verdict == verdict
    (host,) = explained.hosts
    assert host.policy == "TLS required, authenticated by PKIX"
    assert "requiretls" in [found.code for found in host.findings]
    assert [contacted.accepted for contacted in host.contacts] == [announced]
    assert ["REQUIRETLS" in contacted.why for contacted in host.contacts] == [not announced]
    without = await explain(ours, "signed.test", connect=True)
    assert without.verdict == READY
    assert without.hosts[0].policy == "TLS if offered"
    of_a_bounce = await explain(ours, "signed.test", requires_tls=True, connect=True, sender="")
    assert of_a_bounce.verdict == READY, "it goes without the parameter"


async def test_explain_lets_it_wait_while_a_host_may_still_announce_it(world: World, tmp_path: Path) -> None:
    world.publish(MailDomain("partner.test", mx=((10, "mx1.two.test"), (20, "mx.dane-ee.test"))))
    explained = await explain(agent(world, tmp_path), "partner.test", requires_tls=True, connect=True)
    assert explained.verdict == DEFERRED
