from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deliver.cli import outrider
from tests.internet import LiveInternet


@pytest.fixture(scope="module")
def live() -> Iterator[LiveInternet]:
    with LiveInternet() as live:
        yield live


def explain(live: LiveInternet, tmp_path: Path, *words: str, options: tuple[str, ...] = ()) -> Result:
    settings = [
        f'dns.resolvers=["{live.world.resolver.endpoint}"]',
        f"dns.trust_anchors={live.world.write_trust_anchor(tmp_path)}",
        f"state_dir={tmp_path}",
        f"delivery.port={live.world.port}",
        *options,
    ]
    flags = [word for setting in settings for word in ("-o", setting)]
    return CliRunner().invoke(outrider, [*flags, "explain", *words])


@pytest.mark.parametrize(
    ("domain", "status", "policy", "missing"),
    [
        ("dane-ee.test", 0, "TLS required, authenticated by DANE", None),
        ("dane-mismatch.test", 0, "TLS required, authenticated by DANE", None),
        ("tlsa-unusable.test", 0, "TLS required, not authenticated", "usage 2 or 3"),
        ("signed.test", 0, "TLS if offered", "publish a TLSA record at _{port}._tcp.mx.signed.test"),
        ("insecure.test", 0, "TLS if offered", "sign insecure.test with DNSSEC"),
        ("tlsa-servfail.test", 75, "refused", "repair the TLSA answer"),
        ("no-host.test", 69, "unusable", "has no address"),
    ],
)
def test_hosts_are_explained(
    live: LiveInternet, tmp_path: Path, domain: str, status: int, policy: str, missing: str | None
) -> None:
    ran = explain(live, tmp_path, domain, "--json")
    assert ran.exit_code == status
    read = json.loads(ran.stdout)
    (host,) = read["hosts"]
    assert host["policy"] == policy
    assert read["dane_ready"] is (missing is None)
    if missing is None:
        assert host["missing_for_dane"] is None
    else:
        assert missing.format(port=live.world.port) in host["missing_for_dane"]


@pytest.mark.parametrize(
    ("domain", "status", "code"),
    [
        ("null.test", 69, "mx-null"),
        ("absent.test", 69, "domain-nonexistent"),
        ("bogus.test", 75, "mx-lookup-failed"),
    ],
)
def test_domains_without_hosts(
    live: LiveInternet, tmp_path: Path, domain: str, status: int, code: str
) -> None:
    ran = explain(live, tmp_path, domain, "--json")
    assert ran.exit_code == status
    assert json.loads(ran.stdout)["findings"][-1]["code"] == code


def test_settings_count(live: LiveInternet, tmp_path: Path) -> None:
    assert explain(live, tmp_path, "signed.test", options=("tls.level=dane-only",)).exit_code == 75
    routed = explain(
        live, tmp_path, "x@closed.test", options=("route=[{domains=['closed.test'], via='reject'}]",)
    )
    assert routed.exit_code == 69


BY_SENDER = (
    "route=[{domains=['*.test'], senders=['*@shop.test'], via='reject', reason='not from the shop'},"
    " {domains=['dane-ee.test'], senders=[''], via='smarthost', hosts=['mx.plain.test:26']}]",
)


@pytest.mark.parametrize(
    ("sender", "status", "first"),
    [
        ("News@Shop.test", 69, "mail for dane-ee.test is refused: not from the shop"),
        ("", 0, "dane-ee.test goes to mx.plain.test port 26: the pattern dane-ee.test for senders <>"),
        ("<>", 0, "dane-ee.test goes to mx.plain.test port 26"),
        ("other@else.test", 0, "dane-ee.test is routed by MX"),
    ],
)
def test_routes_by_sender(live: LiveInternet, tmp_path: Path, sender: str, status: int, first: str) -> None:
    ran = explain(live, tmp_path, "dane-ee.test", "--sender", sender, "--json", options=BY_SENDER)
    assert ran.exit_code == status
    read = json.loads(ran.stdout)
    assert read["sender"] == {"<>": "", "News@Shop.test": "News@shop.test"}.get(sender, sender)
    assert read["findings"][0]["text"].startswith(first)
    assert "route-by-sender" not in [each["code"] for each in read["findings"]]


def test_without_a_sender_it_is_said_that_some_go_another_way(live: LiveInternet, tmp_path: Path) -> None:
    ran = explain(live, tmp_path, "dane-ee.test", "--json", options=BY_SENDER)
    read = json.loads(ran.stdout)
    assert (ran.exit_code, read["sender"]) == (0, None)
    (note,) = [each["text"] for each in read["findings"] if each["code"] == "route-by-sender"]
    assert note == "mail of *@shop.test, <> may go another way: ask for a sender"
    text = explain(live, tmp_path, "dane-ee.test", "--sender", "", options=BY_SENDER).stdout
    assert text.startswith("dane-ee.test from <>: a host can be used\n")


def test_a_sender_that_is_none(live: LiveInternet, tmp_path: Path) -> None:
    assert explain(live, tmp_path, "dane-ee.test", "--sender", "no address").exit_code == 64
    assert explain(live, tmp_path, "--resolver", "--sender", "a@b.test").exit_code == 64


def test_text_for_people(live: LiveInternet, tmp_path: Path) -> None:
    ran = explain(live, tmp_path, "someone@two.test")
    assert ran.stdout.startswith("two.test: a host can be used\n")
    assert "mx1.two.test port" in ran.stdout
    assert "missing for DANE: publish a TLSA record at" in ran.stdout
    assert "[RFC 7672 2.2.3]" in ran.stdout


def test_nothing_is_connected(live: LiveInternet, tmp_path: Path) -> None:
    before = sum(len(server.connections) for server in live.world.servers.values())
    explain(live, tmp_path, "dane-ee.test")
    assert sum(len(server.connections) for server in live.world.servers.values()) == before


def test_every_lookup_shows_its_chain(live: LiveInternet, tmp_path: Path) -> None:
    read = json.loads(explain(live, tmp_path, "dane-ee.test", "--json").stdout)
    mx = read["lookups"][0]
    assert (mx["name"], mx["type"], mx["result"]) == ("dane-ee.test", "MX", "secure, 1 record")
    steps = [step["text"] for step in mx["evidence"]]
    assert steps[0].startswith("anchor .")
    assert steps[-1].startswith("answer dane-ee.test. MX")
    text = explain(live, tmp_path, "bogus.test").stdout
    assert "bogus.test MX: bogus: " in text
    assert "RFC 4035 5.3.3" in text


def test_resolvers_are_examined(live: LiveInternet, tmp_path: Path) -> None:
    ran = explain(live, tmp_path, "--resolver", "--json", options=("dns.probe_bogus=['bogus.test']",))
    assert ran.exit_code == 0
    read = json.loads(ran.stdout)
    assert (read["dnssec"], read["fit"]) == ("validate", True)
    (found,) = read["resolvers"]
    assert (found["state"], found["fit"]) == ("validating", True)
    assert "validating, fit for dns.dnssec = validate" in explain(live, tmp_path, "--resolver").stdout


def test_a_dead_resolver_is_unfit(live: LiveInternet, tmp_path: Path) -> None:
    dead = ("dns.resolvers=['127.0.0.1:9']", "dns.timeout=200ms", "dns.attempts=1")
    ran = explain(live, tmp_path, "--resolver", options=dead)
    assert ran.exit_code == 75
    assert "dead, NOT FIT" in ran.stdout


def test_a_domain_or_the_resolvers(live: LiveInternet, tmp_path: Path) -> None:
    assert explain(live, tmp_path).exit_code == 64
    assert explain(live, tmp_path, "--resolver", "x.test").exit_code == 64


# --- --connect


@pytest.mark.parametrize(
    ("domain", "status", "accepted", "verified_by", "code"),
    [
        ("dane-ee.test", 0, True, "dane-ee", "dane-ee-match"),
        ("dane-ta.test", 0, True, "dane-ta", "dane-ta-match"),
        ("signed.test", 0, True, "none", "not-authenticated"),
        ("dane-mismatch.test", 75, False, None, "tlsa-mismatch"),
        ("plain.test", 0, True, None, "starttls-missing"),
    ],
)
def test_connect_judges_as_a_delivery_does_and_sends_nothing(
    live: LiveInternet,
    tmp_path: Path,
    domain: str,
    status: int,
    accepted: bool,
    verified_by: str | None,
    code: str,
) -> None:
    before = len(live.world.messages)
    ran = explain(live, tmp_path, domain, "--connect", "--json")
    assert ran.exit_code == status, ran.output
    (contact,) = json.loads(ran.stdout)["hosts"][0]["contacts"]
    assert contact["accepted"] is accepted
    assert (contact["tls"] or {}).get("verified_by") == verified_by
    assert code in [found["code"] for found in contact["findings"]]
    assert len(live.world.messages) == before
    assert live.world.violations == ()


def test_without_connect_nobody_is_contacted(live: LiveInternet, tmp_path: Path) -> None:
    assert json.loads(explain(live, tmp_path, "dane-ee.test", "--json").stdout)["hosts"][0]["contacts"] == []


def test_connect_in_words(live: LiveInternet, tmp_path: Path) -> None:
    text = explain(live, tmp_path, "dane-ee.test", "--connect").stdout
    assert ": accepted" in text
    assert "dane-ee ocsp=none" in text
