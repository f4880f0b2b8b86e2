"""The world of MTA-STS: zones announce the policies, the policy host has them, exchangers are as declared."""

from __future__ import annotations

import http.client
import smtplib
import socket
import ssl
import tomllib
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rdatatype
import pytest

from tests.internet import STANDARD, STS, LiveInternet, Mode, Policy, PolicyAnswer, World
from tests.internet.policy import WEEK
from tests.internet.policyhost import TARGET
from tests.internet.relay import RelayProcess, tables_of

PKIX_VALID = ("sts.test", "sts-wildcard.test", "sts-unlisted.test", "sts-dane.test", "sts-missing.test")
NOT_VALID = ("sts-self-signed.test", "sts-name.test", "sts-testing.test", "sts-none.test")


@pytest.fixture(scope="module")
def live() -> Iterator[LiveInternet]:
    with LiveInternet(STS) as running:
        yield running


def lookup(world: World, name: str, rdtype: str) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, want_dnssec=True)
    return dns.query.udp(query, world.resolver.address, port=world.resolver.port, timeout=5)


def records(world: World, name: str, rdtype: str) -> list[str]:
    wanted = dns.rdatatype.from_text(rdtype)
    answer = lookup(world, name, rdtype).answer
    return [record.to_text() for rrset in answer for record in rrset if rrset.rdtype == wanted]


def trusting(world: World) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=world.authority.root_pem.decode())


def fetched(world: World, domain: str) -> tuple[int, str | None, str]:
    """Status, media type and body of its policy, as an ordinary client finds them, by the address in DNS."""
    [address] = records(world, f"mta-sts.{domain}", "A")
    with socket.create_connection((address, world.policy_host.port), timeout=5) as stream:
        with trusting(world).wrap_socket(stream, server_hostname=f"mta-sts.{domain}") as secured:
            secured.sendall(f"GET {TARGET} HTTP/1.1\r\nHost: mta-sts.{domain}\r\n\r\n".encode())
            response = http.client.HTTPResponse(secured)
            response.begin()
            return response.status, response.getheader("Content-Type"), response.read().decode()


def start_tls(world: World, host: str) -> None:
    """Through STARTTLS with the host verified by PKIX."""
    with smtplib.SMTP(world.addresses[host][0], world.port, timeout=5) as client:
        client._host = host  # type: ignore[attr-defined]  # the name to verify and to send as SNI
        client.starttls(context=trusting(world))


@pytest.mark.parametrize("domain", [site.domain for site in STS])
def test_every_zone_announces_its_policy_and_points_to_the_policy_host(
    live: LiveInternet, domain: str
) -> None:
    assert records(live.world, f"_mta-sts.{domain}", "TXT") == ['"v=STSv1; id=1;"']
    assert records(live.world, f"mta-sts.{domain}", "A") == [live.world.policy_host.address]
    signed = bool(lookup(live.world, domain, "MX").flags & dns.flags.AD)
    assert signed is (domain == "sts-dane.test")


def test_a_policy_document_lists_the_exchangers_unless_told_otherwise(live: LiveInternet) -> None:
    end = f"max_age: {WEEK}\r\n"
    for domain, mode, mx in (
        ("sts.test", "enforce", "mx.sts.test"),
        ("sts-wildcard.test", "enforce", "*.sts-wildcard.test"),
        ("sts-two.test", "enforce", "mx2.sts-two.test"),
        ("sts-unlisted.test", "enforce", "mx.elsewhere.invalid"),
        ("sts-testing.test", "testing", "mx.sts-testing.test"),
        ("sts-none.test", "none", "mx.sts-none.test"),
    ):
        document = f"version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\n{end}"
        assert fetched(live.world, domain) == (200, "text/plain", document)


def test_the_policies_that_cannot_be_had(live: LiveInternet) -> None:
    assert fetched(live.world, "sts-missing.test")[0] == 404
    assert fetched(live.world, "sts-media-type.test")[1] == "text/html"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        fetched(live.world, "sts-host-name.test")


def test_the_exchangers_are_as_declared(live: LiveInternet) -> None:
    for domain in PKIX_VALID:
        start_tls(live.world, f"mx.{domain}")
    for domain in NOT_VALID:
        with pytest.raises(ssl.SSLCertVerificationError):
            start_tls(live.world, f"mx.{domain}")
    with pytest.raises(smtplib.SMTPNotSupportedError):
        start_tls(live.world, "mx.sts-stripped.test")


def test_a_policy_can_be_changed_while_the_world_runs() -> None:
    with LiveInternet(STS[:1]) as live:
        before = fetched(live.world, "sts.test")
        live.publish_policy("sts.test", Policy(Mode.NONE, mx=(), max_age=86400, id="2"))
        assert records(live.world, "_mta-sts.sts.test", "TXT") == ['"v=STSv1; id=2;"']
        after = fetched(live.world, "sts.test")
        assert after == (200, "text/plain", "version: STSv1\r\nmode: none\r\nmax_age: 86400\r\n") != before
        live.publish_policy("sts.test", Policy(id="3"), PolicyAnswer(status=503))
        assert fetched(live.world, "sts.test")[0] == 503
        live.publish_policy("sts.test", Policy(id="4"))
        assert fetched(live.world, "sts.test")[0] == 503
        live.wait_until(lambda world: world.policy_host.requests("sts.test") == 4)
        with pytest.raises(KeyError):
            live.publish_policy("elsewhere.test", Policy())


def test_a_client_against_the_rules_is_told_by_the_world() -> None:
    with LiveInternet(STS[:1]) as live:
        host = live.world.policy_host
        with socket.create_connection((host.address, host.port), timeout=5) as stream:
            with pytest.raises(ssl.SSLError):
                trusting(live.world).wrap_socket(stream, server_hostname="mta-sts.sts-name.test")
        assert live.world.violations == (
            "policy host: the client asked for mta-sts.sts-name.test, which has no policy",
        )


def test_a_world_without_policies_has_no_policy_host() -> None:
    with LiveInternet(STANDARD[:1]) as live:
        assert live.world.policy_host.port == 0


def test_the_relay_is_told_where_policies_are_and_whom_to_trust(live: LiveInternet, tmp_path: Path) -> None:
    settings = '\n[hints]\nurl = "sqlite:///hints.db"\n'
    relay = RelayProcess(tmp_path, live.world, settings, policies=True)
    written = tomllib.loads(relay.config.read_text())
    assert written["mta_sts"] == {"port": live.world.policy_host.port}
    assert written["tls"] == {"mta_sts": True, "trust_store": str(tmp_path / "root.pem")}
    assert (tmp_path / "root.pem").read_bytes() == live.world.authority.root_pem
    assert "tls" not in tomllib.loads(RelayProcess(tmp_path, live.world).config.read_text())
    assert tomllib.loads(tables_of({"tls.level": '"pkix"'})) == {"tls": {"level": "pkix"}}
