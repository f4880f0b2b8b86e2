"""What holds for the clients of one listening address, from the settings: pure.

key                 smtp                    submission
------------------  ----------------------  --------------------------------------------
networks            relay.networks          none: who logged in, or has a certificate
require_auth        no                      yes, unless networks are given
Date, Message-ID    as they come            added where they are missing (RFC 6409 8)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from deliver.message import Mailbox
from deliver.relay.access import Network, networks
from deliver.settings import RecipientLimit, Relay, RelayListener, Route
from deliver.smtp.offer import Hello, Limits, Offer

Value = TypeVar("Value")

_FIELD_NAME = re.compile(r"[!-9;-~]{1,76}")
_EVERYTHING = RecipientLimit(recipients=())
DEFAULT = ""  # the place whose terms hold where no other do


@dataclass(frozen=True, slots=True)
class Terms:
    """See `deliver.settings.Relay`. Times in seconds, `message_size` in octets (0: no limit).

    `certificate_names`: patterns of names in clients' certificates that may relay. `proxies`: who begins with
    a PROXY header. `header_names`: fields that `recipient_limits` look at, in lower case. `rejecting`: one of
    the routes may reject.
    """

    hostname: str
    networks: tuple[Network, ...]
    max_hops: int
    idle_timeout: float
    routes: tuple[Route, ...] = ()
    message_size: int = 0
    recipients: int = 1000
    submission: bool = False
    require_auth: bool = False
    require_tls: bool = False
    tls_on_connect: bool = False
    certificate_names: tuple[str, ...] = ()
    proxies: tuple[Network, ...] = ()
    proxy_timeout: float = 3.0
    hello: Hello = Hello.ANYTHING
    pipeconnect: bool = False
    requiretls: bool = True
    recipient_limits: tuple[RecipientLimit, ...] = ()
    header_names: frozenset[str] = frozenset()
    protocol_detail: bool = False
    rejecting: bool = True

    @property
    def limits(self) -> Limits:
        """What one client may ask of us."""
        return Limits(message_size=self.message_size, recipients=self.recipients)

    def offer(self, *, tls: bool, mechanisms: tuple[str, ...]) -> Offer:
        """What EHLO says where there is a certificate (`tls`), and these `mechanisms` are possible now."""
        return Offer(
            pipeconnect=self.pipeconnect,
            requiretls=self.requiretls,
            starttls=tls and not self.tls_on_connect,
            mechanisms=mechanisms,
            auth_in_clear=True,  # what is possible in clear text was decided by who gave the mechanisms
            require_tls=self.require_tls,
            require_auth=self.require_auth,
            hello=self.hello,
        )

    def limit_of(self, recipient: Mailbox) -> RecipientLimit:
        """What this recipient takes."""
        address = str(recipient).lower()
        for limit in self.recipient_limits:
            if any(fnmatchcase(address, pattern.lower()) for pattern in limit.recipients):
                return limit
        return _EVERYTHING


def places(settings: Relay) -> tuple[str, ...]:
    """Every address to listen on, as the settings spell it, each once."""
    listed = (*settings.listen, *(place for each in settings.listener for place in each.listen))
    return tuple(dict.fromkeys(listed))


def terms_of(
    settings: Relay, hostname: str, routes: tuple[Route, ...] = (), *, protocol_detail: bool = False
) -> Mapping[str, Terms]:
    """The terms by place; those of `DEFAULT` hold for `relay.listen`. Raises ConfigurationError."""
    return dict(_all_terms(settings, hostname, routes, protocol_detail))


def _all_terms(
    settings: Relay, hostname: str, routes: tuple[Route, ...], protocol_detail: bool
) -> Iterator[tuple[str, Terms]]:
    plain = RelayListener(listen=())
    for place, listener in ((DEFAULT, plain), *((at, one) for one in settings.listener for at in one.listen)):
        yield (
            place,
            Terms(
                hostname,
                networks(allowed_networks(settings, listener)),
                settings.max_hops,
                float(settings.idle_timeout),
                routes,
                message_size=int(_either(listener.max_message_size, settings.max_message_size)),
                recipients=settings.max_recipients,
                submission=listener.mode == "submission",
                require_auth=auth_required(listener),
                require_tls=listener.require_tls,
                tls_on_connect=listener.tls_on_connect,
                certificate_names=settings.tls.client_names,
                proxies=networks(_either(listener.proxy, settings.proxy)),
                proxy_timeout=float(settings.proxy_timeout),
                hello=Hello(_either(listener.helo, settings.helo)),
                pipeconnect=settings.pipeconnect,
                requiretls=settings.requiretls,
                recipient_limits=settings.recipient_limit,
                header_names=frozenset(
                    header_pattern(each)[0]
                    for limit in settings.recipient_limit
                    for each in limit.refuse_headers
                ),
                protocol_detail=protocol_detail,
                rejecting=any(route.via == "reject" for route in routes),
            ),
        )


def header_pattern(text: str) -> tuple[str, str]:
    """`Subject: *lottery*` as name and glob of the value, in lower case; ("", "") if it is none."""
    name, colon, pattern = text.partition(":")
    if not colon or not _FIELD_NAME.fullmatch(name):
        return "", ""
    return name.lower(), pattern.strip().lower()


def allowed_networks(settings: Relay, listener: RelayListener) -> tuple[str, ...]:
    """From where clients may relay without more."""
    if listener.networks is not None:
        return listener.networks
    return () if listener.mode == "submission" else settings.networks


def auth_required(listener: RelayListener) -> bool:
    """Whether MAIL is for those only who logged in."""
    if listener.require_auth is not None:
        return listener.require_auth
    return listener.mode == "submission" and not listener.networks


def _either(own: Value | None, common: Value) -> Value:
    return common if own is None else own
