"""Who may relay."""

from __future__ import annotations

import pytest

from deliver.errors import ConfigurationError
from deliver.relay.access import client_address, may_relay, networks, refusal
from deliver.settings import Relay

DEFAULT = networks(Relay().networks)


@pytest.mark.parametrize(
    ("client", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::2", False),
        ("128.0.0.1", False),
        ("192.0.2.1", False),
        ("10.0.0.1", False),
        ("::ffff:127.0.0.1", False),  # only `client_address` may say that this is an IPv4 client
        ("", False),
        ("localhost", False),
    ],
)
def test_by_default_only_this_machine_may_relay(client: str, allowed: bool) -> None:
    assert may_relay(client, DEFAULT) is allowed
    assert (refusal(client, DEFAULT) is None) is allowed


def test_without_networks_nobody_may_relay() -> None:
    assert not may_relay("127.0.0.1", networks(()))


def test_networks_of_both_families() -> None:
    allowed = networks(("192.0.2.0/24", "2001:db8::/32", "198.51.100.7"))
    assert [may_relay(client, allowed) for client in ("192.0.2.200", "2001:db8:1::1", "198.51.100.7")] == [
        True
    ] * 3
    assert not any(may_relay(client, allowed) for client in ("192.0.3.1", "2001:db9::1", "198.51.100.8"))


@pytest.mark.parametrize("text", ["192.0.2.1/24", "everyone", "", "192.0.2.0/33"])
def test_a_network_that_is_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"relay\.networks"):
        networks((text,))


def test_the_refusal_says_who_and_what() -> None:
    reply = refusal("192.0.2.9", DEFAULT)
    assert reply is not None
    assert str(reply) == "550 5.7.1 Relaying denied: 192.0.2.9 is not in relay.networks here"
    assert str(reply.enhanced) == "5.7.1"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("", ""),
    ],
)
def test_client_addresses(text: str, address: str) -> None:
    assert client_address(text) == address
