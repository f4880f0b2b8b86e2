"""Listeners that would be open relays, or of no use, are refused when the settings are read."""

from __future__ import annotations

import pytest

from deliver.configuration.relaylisteners import problems
from deliver.settings import (
    RecipientLimit,
    Relay,
    RelayAuth,
    RelayCertificate,
    RelayListener,
    RelayTls,
    Settings,
    Size,
)

TLS = RelayTls(certificate=(RelayCertificate(chain_file="/c", key_file="/k"),))
AUTH = RelayAuth(password_file="/p")


def found(**keys: object) -> list[tuple[str, str]]:
    settings = Settings(relay=Relay(**keys))  # type: ignore[arg-type]
    return [(".".join(map(str, problem.path)), problem.what) for problem in problems(settings)]


def one(**keys: object) -> RelayListener:
    return RelayListener(**{"listen": ("192.0.2.25:587",), **keys})  # type: ignore[arg-type]


def test_the_defaults_are_fine() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("listener", "relay", "where", "what"),
    [
        (one(networks=("0.0.0.0/0",)), {}, "relay.listener.0.listen.0", "open relay"),
        (
            one(networks=("::/1", "8000::/1"), require_auth=False),
            {},
            "relay.listener.0.listen.0",
            "open relay",
        ),
        (one(mode="submission", networks=("0.0.0.0/0",)), {}, "relay.listener.0.listen.0", "open relay"),
        (one(), {"networks": ("0.0.0.0/0",), "listen": ()}, "relay.listener.0.listen.0", "open relay"),
        (one(listen=("127.0.0.1:2525",)), {}, "relay.listener.0.listen.0", "already"),
        (one(listen=("192.0.2.1:25", "192.0.2.1:25")), {}, "relay.listener.0.listen.1", "already"),
        (one(listen=()), {}, "relay.listener.0.listen", "empty"),
        (one(require_tls=True), {}, "relay.listener.0.require_tls", "certificate"),
        (one(tls_on_connect=True), {}, "relay.listener.0.tls_on_connect", "certificate"),
        (one(require_auth=True), {}, "relay.listener.0.require_auth", "log in"),
        (one(mode="submission"), {}, "relay.listener.0.mode", "log in"),
        (one(proxy=("0.0.0.0/0",)), {}, "relay.listener.0.proxy", "claim"),
        (one(), {"proxy": ("::/0",)}, "relay.proxy", "claim"),
    ],
)
def test_what_is_refused(listener: RelayListener, relay: dict[str, object], where: str, what: str) -> None:
    ((path, happened),) = found(listener=(listener,), **relay)
    assert path == where
    assert what in happened


@pytest.mark.parametrize(
    "listener",
    [
        one(mode="submission"),
        one(mode="submission", require_tls=True),
        one(tls_on_connect=True, require_auth=True),
        one(networks=("0.0.0.0/0",), require_auth=True),
        one(listen=("127.0.0.1:26",), networks=("0.0.0.0/0",)),
    ],
)
def test_what_is_possible_with_tls_and_logins(listener: RelayListener) -> None:
    assert found(listener=(listener,), tls=TLS, auth=AUTH) == []


def test_a_limit_for_nobody() -> None:
    limit = RecipientLimit(recipients=(), max_message_size=Size(1))
    assert found(recipient_limit=(limit,)) == [("relay.recipient_limit.0.recipients", "it is empty")]


def test_a_limit_of_nothing() -> None:
    limit = RecipientLimit(recipients=("*",))
    (problem,) = found(recipient_limit=(limit,))
    assert problem == ("relay.recipient_limit.0.recipients", "nothing is limited for them")


@pytest.mark.parametrize("text", ["", "Subject", "Sub ject: x", ": x", "Sübject: x"])
def test_headers_that_no_field_can_match(text: str) -> None:
    limit = RecipientLimit(recipients=("*",), refuse_headers=("Subject: *x*", "X-Spam:yes", text))
    ((path, happened),) = found(recipient_limit=(limit,))
    assert path == "relay.recipient_limit.0.refuse_headers.2"
    assert "no field with a pattern" in happened
