"""The standard world: every site resolves and answers as its name promises, and several worlds coexist."""

from __future__ import annotations

import smtplib
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.zone
import pytest
import trio

from tests.internet import ABSENT, STANDARD, LiveInternet, World, open_internet
from tests.internet.pki import association


def lookup(world: World, name: str, rdtype: str) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, want_dnssec=True)
    answer, _ = dns.query.udp_with_fallback(
        query, world.resolver.address, port=world.resolver.port, timeout=5
    )
    return answer


@pytest.fixture(scope="module")
def live() -> LiveInternet:  # type: ignore[misc]
    with LiveInternet() as running:
        yield running


def records(answer: dns.message.Message, rdtype: str) -> list[str]:
    return [record.to_text() for rrset in answer.answer for record in rrset if rrset.rdtype.name == rdtype]


def presented(world: World, host: str) -> ssl.SSLSocket:
    """A TLS connection to that host, through STARTTLS, nothing verified."""
    client = smtplib.SMTP(world.addresses[host][0], world.port, timeout=10)
    client.starttls(context=ssl._create_unverified_context())
    assert isinstance(client.sock, ssl.SSLSocket)
    return client.sock


SECURE_DANE = [
    site.domain
    for site in STANDARD
    if site.domain.startswith("dane-") and site.exchangers[0].behaviour.starttls
]


@pytest.mark.parametrize("domain", SECURE_DANE)
def test_a_dane_domain_has_secure_records_at_the_port_of_its_server(live: LiveInternet, domain: str) -> None:
    world = live.world
    for name, rdtype in (
        (domain, "MX"),
        (f"mx.{domain}", "A"),
        (f"_{world.port}._tcp.mx.{domain}", "TLSA"),
    ):
        answer = lookup(world, name, rdtype)
        assert answer.flags & dns.flags.AD
        assert records(answer, rdtype)


@pytest.mark.parametrize(
    ("domain", "matches"),
    [
        ("dane-ee.test", True),
        ("dane-rollover.test", True),
        ("dane-mismatch.test", False),
        ("alias.test", True),
    ],
)
def test_the_presented_key_matches_or_not(live: LiveInternet, domain: str, matches: bool) -> None:
    world = live.world
    published = records(lookup(world, f"_{world.port}._tcp.mx.{domain}", "TLSA"), "TLSA")
    with presented(world, f"mx.{domain}") as stream:
        leaf = stream.getpeercert(binary_form=True)
    assert leaf is not None
    assert (f"3 1 1 {association(leaf, 1, 1).hex()}" in published) is matches


def test_trust_anchor_digests_are_of_the_authority(live: LiveInternet) -> None:
    world = live.world
    root = association(world.authority.root, 0, 1).hex()
    key = association(world.authority.intermediate, 1, 1).hex()
    assert records(lookup(world, f"_{world.port}._tcp.mx.dane-ta.test", "TLSA"), "TLSA") == [f"2 0 1 {root}"]
    assert records(lookup(world, f"_{world.port}._tcp.mx.dane-ta-key.test", "TLSA"), "TLSA") == [
        f"2 1 1 {key}"
    ]


@pytest.mark.parametrize(
    ("name", "rdtype", "rcode", "authentic"),
    [
        ("insecure.test", "MX", dns.rcode.NOERROR, False),
        ("bogus.test", "MX", dns.rcode.SERVFAIL, False),
        ("expired.test", "MX", dns.rcode.SERVFAIL, False),
        ("_{port}._tcp.mx.tlsa-servfail.test", "TLSA", dns.rcode.SERVFAIL, False),
        ("_{port}._tcp.mx.tlsa-bogus.test", "TLSA", dns.rcode.SERVFAIL, False),
        ("mx.tlsa-bogus.test", "A", dns.rcode.NOERROR, True),
        ("_{port}._tcp.mx.signed.test", "TLSA", dns.rcode.NXDOMAIN, True),
        ("mx.no-host.test", "A", dns.rcode.NXDOMAIN, True),
        (ABSENT, "MX", dns.rcode.NXDOMAIN, True),
    ],
)
def test_the_troubled_names(
    live: LiveInternet, name: str, rdtype: str, rcode: dns.rcode.Rcode, authentic: bool
) -> None:
    answer = lookup(live.world, name.replace("{port}", str(live.world.port)), rdtype)
    assert answer.rcode() == rcode
    assert bool(answer.flags & dns.flags.AD) is authentic


def test_null_mx_implicit_mx_and_alias(live: LiveInternet) -> None:
    world = live.world
    assert records(lookup(world, "null.test", "MX"), "MX") == ["0 ."]
    assert records(lookup(world, "implicit.test", "MX"), "MX") == []
    assert records(lookup(world, "implicit.test", "A"), "A") == list(world.addresses["implicit.test"])
    alias = lookup(world, "mail.alias.test", "A")
    assert records(alias, "CNAME") == ["mx.alias.test."]
    assert records(alias, "A") == list(world.addresses["mx.alias.test"])


def test_every_listening_server_greets_and_offers_tls_as_declared(live: LiveInternet) -> None:
    greeted = 0
    for site in STANDARD:
        for host in site.exchangers:
            address = live.world.addresses[host.name][0]
            if not host.listening:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((address, live.world.port), timeout=5)
            elif not host.behaviour.replies:
                with smtplib.SMTP(address, live.world.port, timeout=5) as client:
                    client.ehlo()
                    assert client.has_extn("starttls") is (
                        host.certificate is not None and host.behaviour.starttls
                    )
                    greeted += 1
    assert greeted > 15


def test_the_busy_server_says_421(live: LiveInternet) -> None:
    with pytest.raises(smtplib.SMTPConnectError, match="421"):
        smtplib.SMTP(live.world.addresses["mx1.busy.test"][0], live.world.port, timeout=5)


def test_files_for_real_name_servers_and_clients(live: LiveInternet, tmp_path: Path) -> None:
    zones = live.world.write_zones(tmp_path)
    origin = dns.zone.from_file(str(zones["dane-ee.test"]), "dane-ee.test", relativize=False).origin
    assert origin is not None
    assert "DS" in zones["."].read_text()
    assert " IN DS " in live.world.write_trust_anchor(tmp_path).read_text()
    ssl.create_default_context(cafile=str(live.world.write_trust_store(tmp_path)))


async def test_a_domain_can_be_changed_while_the_world_runs() -> None:
    async with open_internet() as world:
        domain = world.domains["dane-ee.test"]
        world.publish(replace(domain, tlsa=()))
        owner = f"_{world.port}._tcp.mx.dane-ee.test"
        answer = await trio.to_thread.run_sync(lookup, world, owner, "TLSA")
    assert answer.rcode() == dns.rcode.NXDOMAIN
    assert answer.flags & dns.flags.AD


async def test_two_worlds_at_once_do_not_meet() -> None:
    async with open_internet() as first, open_internet() as second:
        assert first.port != second.port
        assert first.resolver.port != second.resolver.port


def test_a_message_through_the_live_world_wakes_the_waiter() -> None:
    with LiveInternet() as live:
        address = live.world.addresses["mx.plain.test"][0]
        with smtplib.SMTP(address, live.world.port, timeout=5) as client:
            client.sendmail("f@b.test", ["a@plain.test"], "Subject: x\r\n\r\nx\r\n")
        live.wait_for_messages(1)
        assert live.world.messages[0].recipients == ("a@plain.test",)
        assert live.world.violations == ()
        assert live.call(lambda world: world.server("mx.plain.test").name) == "mx.plain.test"
        port = live.world.port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, port), timeout=5)


def test_a_condition_that_never_holds_times_out() -> None:
    with LiveInternet() as live, pytest.raises(TimeoutError):
        live.wait_until(lambda world: False, timeout=0.01)


def test_a_world_that_cannot_start_says_why() -> None:
    with LiveInternet() as first:
        port = first.world.resolver.port
        with pytest.raises(ExceptionGroup) as caught, LiveInternet(resolver_port=port):
            pass
    assert caught.group_contains(OSError)
