"""Which of the routes counts, and how smarthosts are written."""

from __future__ import annotations

import pytest

from deliver.errors import ConfigurationError
from deliver.relay.route import Reject, ViaMx, ViaSmarthost, choose, endpoint, finding
from deliver.report.trace import Stage, Verdict
from deliver.settings import Route

ROUTES = (
    Route(domains=("direct.example.org", "other.test"), via="mx"),
    Route(
        domains=("*.example.org",), via="smarthost", hosts=("Relay.example.net:2525", "192.0.2.7"), port=587
    ),
    Route(domains=("example.org",), via="smarthost", mx="Hub.example.net", port=26),
    Route(domains=("blocked.test",), via="reject", reason="closed by order"),
)


@pytest.mark.parametrize(
    ("domain", "route"),
    [
        ("direct.example.org", ViaMx("direct.example.org")),
        ("other.test", ViaMx("other.test")),
        ("a.example.org", ViaSmarthost((("relay.example.net", 2525), ("192.0.2.7", None)), None, 587)),
        ("a.b.example.org", ViaSmarthost((("relay.example.net", 2525), ("192.0.2.7", None)), None, 587)),
        ("example.org", ViaSmarthost((), "hub.example.net", 26)),
        ("blocked.test", Reject("closed by order")),
        ("unlisted.test", ViaMx("unlisted.test")),
        ("notexample.org", ViaMx("notexample.org")),
        ("[192.0.2.1]", ViaMx("[192.0.2.1]")),
        ("[IPv6:2001:db8::1]", ViaMx("[IPv6:2001:db8::1]")),
    ],
)
def test_the_first_matching_route_counts(domain: str, route: object) -> None:
    assert choose(ROUTES, domain) == route


def test_without_routes_dns_decides() -> None:
    assert choose((), "example.org") == ViaMx("example.org")


def test_a_star_takes_everything_also_address_literals() -> None:
    routes = (Route(domains=("*",), via="smarthost", hosts=("hub.test",)),)
    assert choose(routes, "[192.0.2.1]") == ViaSmarthost((("hub.test", None),))


def test_the_pattern_that_decided_is_kept() -> None:
    assert choose(ROUTES, "a.example.org").matched == "*.example.org"
    assert choose(ROUTES, "unlisted.test").matched is None


def test_a_smarthost_without_hosts_never_falls_back_to_mx() -> None:
    with pytest.raises(ConfigurationError, match="neither hosts nor mx"):
        choose((Route(domains=("*",), via="smarthost"),), "example.org")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hub.Example.ORG.", ("hub.example.org", None)),
        ("hub.test:25", ("hub.test", 25)),
        ("bücher.test:2525", ("xn--bcher-kva.test", 2525)),
        ("192.0.2.1", ("192.0.2.1", None)),
        ("192.0.2.1:26", ("192.0.2.1", 26)),
        ("[192.0.2.1]:26", ("192.0.2.1", 26)),
        ("2001:db8::1", ("2001:db8::1", None)),
        ("[2001:DB8::1]", ("2001:db8::1", None)),
        ("[2001:db8::1]:65535", ("2001:db8::1", 65535)),
    ],
)
def test_endpoints(text: str, expected: tuple[str, int | None]) -> None:
    assert endpoint(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":25",
        "hub.test:",
        "hub.test:0",
        "hub.test:65536",
        "hub.test:x",
        "[hub.test]:25",
        "[]",
        "a b",
        "a:1:2",
        "-x",
    ],
)
def test_endpoints_that_are_none(text: str) -> None:
    with pytest.raises(ConfigurationError):
        endpoint(text)


def test_the_choice_is_evidence() -> None:
    said = finding(choose(ROUTES, "a.example.org"), "a.example.org")
    assert (said.stage, said.code, said.verdict) == (Stage.ROUTE, "route-smarthost", Verdict.NOTE)
    assert "relay.example.net port 2525, 192.0.2.7" in said.text
    assert said.evidence == (("pattern", "*.example.org"),)
    through = finding(choose(ROUTES, "example.org"), "example.org")
    assert "the MX hosts of hub.example.net" in through.text
    assert finding(ViaMx("x.test"), "x.test").code == "route-mx"
    refused = finding(choose(ROUTES, "blocked.test"), "blocked.test")
    assert (refused.code, refused.verdict) == ("route-reject", Verdict.REFUSED)
    assert "closed by order" in refused.text
