"""The addresses on which the relay listens: keys that are impossible or unsafe together.

combination                                            because
-----------------------------------------------------  ---------------------------------------------------
an address not on loopback where everybody may relay   an open relay
  without logging in
proxy = everybody                                      anybody could claim to be anybody
one address twice, or a listener without any           nobody could tell which rules count
TLS demanded without a certificate                     nobody could send anything
login demanded (also by mode = "submission" without    nobody could send anything
  networks) without a way to log in
recipient_limit without recipients, or limits          it limits nothing
refuse_headers that are no "Name: pattern"             they would never match
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from deliver import endpoint
from deliver.configuration.problem import KeyPath, Problem
from deliver.relay.terms import allowed_networks, auth_required, header_pattern
from deliver.settings import RecipientLimit, Relay, RelayListener, Settings


def problems(settings: Settings) -> Iterator[Problem]:
    """What is refused."""
    relay = settings.relay
    base: KeyPath = ("relay",)
    yield from _open_relay(base, "relay.networks", relay.listen, relay.networks)
    yield from _proxies(base, relay.proxy)
    seen = set(relay.listen)
    for index, listener in enumerate(relay.listener):
        path: KeyPath = ("relay", "listener", index)
        if not listener.listen:
            yield Problem((*path, "listen"), "it is empty", 'write for instance ["192.0.2.25:587"]')
        for place, listen in enumerate(listener.listen):
            if listen in seen:
                yield Problem((*path, "listen", place), f"{listen} is listened on already", "name it once")
            seen.add(listen)
        if not auth_required(listener):
            allowed, key = allowed_networks(relay, listener), "relay.networks"
            if listener.networks is not None:
                key = "networks"
            yield from _open_relay(path, key, listener.listen, allowed)
        yield from _proxies(path, listener.proxy or ())
        yield from _impossible(path, relay, listener)
    for index, limit in enumerate(relay.recipient_limit):
        yield from _useless_limit(("relay", "recipient_limit", index), limit)


def _useless_limit(path: KeyPath, limit: RecipientLimit) -> Iterator[Problem]:
    if not limit.recipients:
        yield Problem((*path, "recipients"), "it is empty", 'write for instance ["*@example.org"]')
    if limit == RecipientLimit(recipients=limit.recipients):
        yield Problem((*path, "recipients"), "nothing is limited for them", 'add max_message_size = "1MiB"')
    for index, text in enumerate(limit.refuse_headers):
        if header_pattern(text) == ("", ""):
            remedy = 'write for instance "Subject: *lottery*"'
            yield Problem((*path, "refuse_headers", index), f"{text!r} is no field with a pattern", remedy)


def _open_relay(
    path: KeyPath, key: str, listen: tuple[str, ...], networks: tuple[str, ...]
) -> Iterator[Problem]:
    everybody = covers_everybody(networks)
    if not everybody:
        return
    for index, place in enumerate(listen):
        if not endpoint.is_loopback(endpoint.split(place)[0]):
            yield Problem(
                (*path, "listen", index),
                f"{place} with {everybody} in {key} would be an open relay",
                f"list only your own networks in {key}, or listen on loopback",
            )


def _proxies(path: KeyPath, proxies: tuple[str, ...]) -> Iterator[Problem]:
    everybody = covers_everybody(proxies)
    if everybody:
        yield Problem(
            (*path, "proxy"),
            f"with {everybody} anybody could claim to be any client",
            "list only your load balancers",
        )


def _impossible(path: KeyPath, relay: Relay, listener: RelayListener) -> Iterator[Problem]:
    for key in ("require_tls", "tls_on_connect"):
        if getattr(listener, key) and not relay.tls.certificate:
            remedy = "add a [[relay.tls.certificate]] with chain_file and key_file"
            yield Problem((*path, key), "the relay has no certificate, so no TLS", remedy)
    if auth_required(listener) and relay.auth.password_file is None and not relay.auth.dovecot:
        at = "mode" if listener.require_auth is None else "require_auth"
        yield Problem(
            (*path, at),
            "nobody can log in: neither relay.auth.password_file nor relay.auth.dovecot is set",
            "set one of them, or say with networks and require_auth = false who may send without",
        )


def covers_everybody(networks: tuple[str, ...]) -> str | None:
    """`0.0.0.0/0` or `::/0` when the networks add up to it (also in halves)."""
    parsed = [ipaddress.ip_network(network) for network in networks]
    v4 = [network for network in parsed if isinstance(network, ipaddress.IPv4Network)]
    v6 = [network for network in parsed if isinstance(network, ipaddress.IPv6Network)]
    whole = [str(network) for network in ipaddress.collapse_addresses(v4)]
    whole += [str(network) for network in ipaddress.collapse_addresses(v6)]
    return next((network for network in whole if network.endswith("/0")), None)
