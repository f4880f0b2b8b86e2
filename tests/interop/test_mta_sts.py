"""MTA-STS through whole processes: policies fetched from a real web server, obeyed, kept and given up (RFC 8461)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.internet import STS, Behaviour, Gate, LiveInternet
from tests.internet.pki import Certificate
from tests.internet.policy import Mode, Policy
from tests.internet.policyhost import PolicyAnswer
from tests.internet.world import World
from tests.interop.peers.exim import Exim, EximConfig
from tests.interop.peers.factory import Factory
from tests.interop.peers.postfix import Postfix, PostfixConfig
from tests.interop.relayprocess import Relay
from tests.interop.sending import Sent, credentials, outrider


@pytest.fixture(scope="module")
def internet() -> Iterator[LiveInternet]:
    """For tests that change nothing."""
    with LiveInternet(STS) as live:
        yield live


def options_for(world: World, directory: Path) -> list[str]:
    settings = {
        "dns.resolvers": json.dumps([world.resolver.endpoint]),
        "dns.trust_anchors": json.dumps(str(world.write_trust_anchor(directory))),
        "state_dir": json.dumps(str(directory / "state")),
        "delivery.port": str(world.port),
        **world.policy_settings(directory),
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def send(live: LiveInternet, directory: Path, recipient: str, *more: str) -> Sent:
    return outrider([*options_for(live.world, directory), *more], [recipient])


def tls_of(sent: Sent) -> dict[str, Any]:
    assert sent.status == 0, sent.stderr
    return dict(sent.results[0]["tls"])


@pytest.mark.parametrize("name", ["sts.test", "sts-wildcard.test", "sts-two.test"])
def test_an_enforced_policy_is_obeyed(internet: LiveInternet, tmp_path: Path, name: str) -> None:
    sent = send(internet, tmp_path, f"a@{name}")
    assert tls_of(sent)["verified_by"] == "pkix"
    assert "sts-found" in sent.codes
    assert "sts-enforce" in sent.codes
    assert internet.copies()[f"a@{name}"] == 1
    if name == "sts-two.test":
        assert sent.results[0]["host"] == "mx2.sts-two.test"


@pytest.mark.parametrize(
    ("name", "code", "level"),
    [
        ("sts-self-signed.test", "sts-enforce", "dane"),
        ("sts-self-signed.test", "sts-enforce", "may"),
        ("sts-name.test", "sts-enforce", "encrypt"),
        ("sts-unlisted.test", "sts-mx-mismatch", "dane"),
        ("sts-unlisted.test", "sts-mx-mismatch", "verify"),
        ("sts-stripped.test", "sts-enforce", "may"),
        ("sts-dane.test", "dane", "dane"),
    ],
)
def test_what_a_policy_forbids_waits(
    internet: LiveInternet, tmp_path: Path, name: str, code: str, level: str
) -> None:
    sent = send(internet, tmp_path, f"a@{name}", "-o", f"tls.level={level}")
    assert sent.status == 75, sent.stderr
    assert code in sent.codes
    assert internet.copies()[f"a@{name}"] == 0


@pytest.mark.parametrize("name", ["sts-testing.test", "sts-none.test"])
def test_a_policy_that_is_not_enforced_lets_mail_go(
    internet: LiveInternet, tmp_path: Path, name: str
) -> None:
    sent = send(internet, tmp_path, f"b@{name}")
    assert tls_of(sent)["verified_by"] == "none"
    assert "sts-found" in sent.codes


@pytest.mark.parametrize("name", ["sts-missing.test", "sts-host-name.test", "sts-media-type.test"])
def test_a_first_policy_that_cannot_be_fetched_is_none(
    internet: LiveInternet, tmp_path: Path, name: str
) -> None:
    sent = send(internet, tmp_path, f"b@{name}")
    assert sent.status == 0, sent.stderr
    assert "sts-not-fetched" in sent.codes
    assert "sts-found" not in sent.codes


def test_policies_can_be_turned_off_for_a_domain(internet: LiveInternet, tmp_path: Path) -> None:
    rule = 'rule=[{domains=["sts-unlisted.test"], tls={mta_sts=false}}]'
    sent = send(internet, tmp_path, "off@sts-unlisted.test", "-o", rule)
    assert sent.status == 0, sent.stderr
    assert not [code for code in sent.codes if code.startswith("sts-")]


def test_explain_fetches_the_policy_and_says_what_follows(internet: LiveInternet, tmp_path: Path) -> None:
    relay = Relay(internet, tmp_path / "state")
    relay.options += [f"{key}={value}" for key, value in internet.world.policy_settings(tmp_path).items()]
    (host,) = json.loads(relay.run("explain", "sts.test", "--json").stdout)["hosts"]
    assert host["policy"] == "TLS required, authenticated by PKIX"
    assert {"sts-found", "sts-enforce"} <= {each["code"] for each in host["findings"]}
    assert internet.world.violations == ()


def test_a_policy_outlives_its_process_its_record_and_its_web_server(
    sts: LiveInternet, tmp_path: Path
) -> None:
    """Whoever can block DNS and HTTPS later gains nothing (RFC 8461 10)."""
    assert tls_of(send(sts, tmp_path, "a@sts.test"))["verified_by"] == "pkix"
    assert sts.world.policy_host.requests("sts.test") == 1
    sts.call(lambda world: world.publish(replace(world.domains["sts.test"], texts={})))
    sts.call(lambda world: world.policy_host.answer("sts.test", PolicyAnswer(status=500)))
    sts.behave("mx.sts.test", Behaviour(starttls=False))
    sent = send(sts, tmp_path, "b@sts.test")
    assert sent.status == 75, sent.stderr
    assert "sts-enforce" in sent.codes
    assert sts.world.policy_host.requests("sts.test") == 1
    assert sts.copies()["b@sts.test"] == 0


@pytest.mark.parametrize("dnssec", ["validate", "off"])
def test_explain_goes_by_the_policy_that_mail_goes_by(sts: LiveInternet, tmp_path: Path, dnssec: str) -> None:
    send(sts, tmp_path, "a@sts.test")
    sts.call(lambda world: world.policy_host.answer("sts.test", PolicyAnswer(status=500)))
    sts.call(lambda world: world.publish(replace(world.domains["sts.test"], texts={})))
    relay = Relay(sts, tmp_path / "state")
    relay.options += [f"{key}={value}" for key, value in sts.world.policy_settings(tmp_path).items()]
    relay.options += [f"dns.dnssec={dnssec}"]
    (host,) = json.loads(relay.run("explain", "sts.test", "--json").stdout)["hosts"]
    assert host["policy"] == "TLS required, authenticated by PKIX"
    assert sts.world.policy_host.requests("sts.test") == 1


def test_a_new_id_ends_a_policy_and_a_fetch_that_fails_does_not(sts: LiveInternet, tmp_path: Path) -> None:
    assert tls_of(send(sts, tmp_path, "a@sts.test"))["verified_by"] == "pkix"
    sts.publish_policy("sts.test", Policy(Mode.NONE, mx=(), id="2"), PolicyAnswer(status=404))
    second = send(sts, tmp_path, "b@sts.test")
    assert tls_of(second)["verified_by"] == "pkix"
    assert {"sts-not-fetched", "sts-enforce"} <= set(second.codes)
    sts.publish_policy("sts.test", Policy(Mode.NONE, mx=(), id="2"), PolicyAnswer())
    third = send(sts, tmp_path, "c@sts.test")
    assert tls_of(third)["verified_by"] == "none"
    assert "sts-found" in third.codes
    assert sts.world.policy_host.requests("sts.test") == 3


def test_kept_policies_are_shown_and_forgotten(sts: LiveInternet, tmp_path: Path) -> None:
    send(sts, tmp_path, "a@sts.test")
    relay = Relay(sts, tmp_path / "state")
    (kept,) = relay.ask("hints", "list", "sts")
    assert (kept["key"], kept["values"]["mode"], kept["source"]) == ("sts.test/sts", "enforce", "send")
    relay.run("hints", "forget", "sts.test/sts")
    assert relay.ask("hints", "list", "sts") == []
    send(sts, tmp_path, "b@sts.test")
    assert sts.world.policy_host.requests("sts.test") == 2


def test_a_relay_asks_once_for_many_messages_and_holds_what_a_policy_forbids(
    sts: LiveInternet, tmp_path: Path
) -> None:
    relay = Relay(sts, tmp_path / "state")
    relay.options += [f"{key}={value}" for key, value in sts.world.policy_settings(tmp_path).items()]
    relay.start()
    try:
        relay.submit("a@sts.test")
        relay.wait_for("delivered")
        for name in ("b", "c", "d"):
            relay.submit(f"{name}@sts.test")
        for held in ("a@sts-name.test", "a@sts-unlisted.test"):
            relay.submit(held)
            assert relay.wait_for("deferred")["to"] == held
        sts.wait_until(lambda world: len(world.messages) == 4)
    finally:
        relay.terminate()
    told = {(event["name"], event["fields"].get("domain")) for event in relay.ask("events", "tail")}
    assert {("tls:fail:verify", "sts-name.test"), ("sts:fail", "sts-unlisted.test")} <= told
    assert sts.world.policy_host.requests("sts.test") == 1
    assert sts.copies()["a@sts-name.test"] == sts.copies()["a@sts-unlisted.test"] == 0
    assert sts.world.violations == ()


@pytest.mark.peers
@pytest.mark.parametrize("program", ["exim", "postfix"])
@pytest.mark.parametrize(
    ("kind", "status"), [(Certificate.TRUSTED, 0), (Certificate.SELF_SIGNED, 75), (Certificate.EXPIRED, 75)]
)
def test_a_real_server_under_a_policy(
    sts: LiveInternet,
    tmp_path: Path,
    exim: Factory[EximConfig, Exim],
    postfix: Factory[PostfixConfig, Postfix],
    program: str,
    kind: Certificate,
    status: int,
) -> None:
    own = credentials("sts.test", kind=kind)
    start = exim if program == "exim" else postfix
    server = start(certificate=own.chain_pem, key=own.private_key_pem)

    def move(world: World) -> None:
        zone = world.domains["sts.test"]
        world.publish(replace(zone, hosts={**zone.hosts, "mx.sts.test": (server.address,)}))

    sts.call(move)
    recipient = f"{kind.name.lower()}@sts.test"
    sent = send(sts, tmp_path, recipient, "-o", f"delivery.port={server.port}")
    assert sent.status == status, sent.stderr
    assert "sts-enforce" in sent.codes
    if status == 0:
        assert sent.results[0]["tls"]["verified_by"] == "pkix"
        (received,) = server.mailbox.to(recipient)
        assert received.sender == "a@sender.test"
    else:
        assert recipient not in server.log()


def test_a_relay_killed_while_it_fetches_delivers_after_its_next_start(
    sts: LiveInternet, tmp_path: Path
) -> None:
    gate = Gate()
    sts.call(lambda world: world.policy_host.answer("sts.test", PolicyAnswer(gate=gate)))
    sts.publish_policy("sts.test", Policy(id="9"))
    relay = Relay(sts, tmp_path / "state")
    relay.options += [f"{key}={value}" for key, value in sts.world.policy_settings(tmp_path).items()]
    relay.start()
    relay.submit("a@sts.test")
    sts.wait_until(lambda world: world.policy_host.requests("sts.test") == 1)
    relay.kill()
    assert sts.copies()["a@sts.test"] == 0
    gate.open()
    relay.start()
    try:
        assert relay.wait_for("delivered")["tls"] == "dane:pkix"
    finally:
        relay.terminate()
    assert sts.copies()["a@sts.test"] == 1
