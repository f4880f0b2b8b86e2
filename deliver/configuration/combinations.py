"""Keys that are impossible or unsafe together; each is refused, or warned about where mail stays safe.

combination                                            answer   because
-----------------------------------------------------  -------  ------------------------------------------
trust-ad, a resolver that is not on loopback           refused  the AD bit can be forged on the way
                                                                (RFC 4035 4.9.3), unless trust_remote_ad
tls.level = dane-only, dnssec off                      refused  nothing could ever be delivered
tls.level = dane, dnssec off                           warned   DANE is never used
relay.listen, relay.listener, relay.proxy              refused  see `deliver.configuration.relaylisteners`
relay.tls and relay.auth                               refused  see `deliver.configuration.relaysecurity`
client_certificate without client_key_file, or the     refused  one without the other says nothing
  other way round
require_crl without crl, require_ocsp without          refused  nothing could ever be delivered
  request_ocsp
route: no domains; smarthost without or with two       refused  it says nothing, or two things
  destinations; mx or reject with hosts, mx or port
route: username without password_file or the           refused  one without the other says nothing
  other way round; no mechanism in auth
rule without domains and hosts, or without any key     refused  the section itself is meant
queue.limit with neither messages nor at_a_time        refused  it limits nothing
queue.url that is not PostgreSQL's; a password_file    refused  nothing else is made for several nodes
  without it
queue.retry_rule: an unknown error, steps not in       refused  it would never apply, or not as it reads
  the order of their ages
two event actions of one name, an action without       refused  acknowledgements are kept by name
  events; retry list empty; state_dir relative
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from deliver import endpoint
from deliver.configuration import actions, relaylisteners, relaysecurity
from deliver.configuration.problem import KeyPath, Problem
from deliver.level import Level
from deliver.queue import retry
from deliver.settings import EventAction, EventFile, Route, Settings, Tls, overridden


def problems(settings: Settings) -> Iterator[Problem]:
    """What is refused."""
    if not settings.state_dir.startswith("/"):
        yield Problem(("state_dir",), "it is not an absolute path", 'write "/var/lib/outrider"')
    yield from _dnssec(settings)
    yield from _tls(settings)
    yield from relaylisteners.problems(settings)
    yield from relaysecurity.problems(settings)
    yield from _routes(settings)
    yield from _rules(settings)
    yield from _events(settings)
    yield from _queue(settings)
    if not settings.queue.retry:
        yield Problem(("queue", "retry"), "it is empty", 'give at least one interval: ["15m"]')
    if not settings.delivery.families:
        yield Problem(("delivery", "families"), "it is empty", 'write ["ipv6", "ipv4"]')


def warnings(settings: Settings) -> Iterator[Problem]:
    """What is allowed and probably not meant."""
    if settings.dns.dnssec == "off":
        for path, level in _levels(settings):
            if level == Level.DANE:
                yield Problem(
                    path,
                    "DANE is never used while dns.dnssec is off: TLS stays opportunistic",
                    'set dns.dnssec = "validate", or set tls.level = "may"',
                )


def _levels(settings: Settings) -> Iterator[tuple[KeyPath, object]]:
    yield ("tls", "level"), settings.tls.level
    for index, rule in enumerate(settings.rule):
        if "level" in rule.tls:
            yield ("rule", index, "tls", "level"), rule.tls["level"]


def _dnssec(settings: Settings) -> Iterator[Problem]:
    dns = settings.dns
    if dns.dnssec == "trust-ad" and not dns.trust_remote_ad:
        for index, resolver in enumerate(dns.resolvers):
            host, _ = endpoint.split(resolver)
            if not endpoint.is_loopback(host):
                yield Problem(
                    ("dns", "resolvers", index),
                    f"the AD bit of {host} is not trusted: it is not on loopback, so an answer can be forged",
                    "use a validating resolver on 127.0.0.1, or set dns.trust_remote_ad = true"
                    " if the path to it is protected",
                )
    if dns.dnssec == "off":
        for path, level in _levels(settings):
            if level == Level.DANE_ONLY:
                yield Problem(
                    path,
                    "dane-only needs DNSSEC, and dns.dnssec is off: nothing could be delivered",
                    'set dns.dnssec = "validate", or another level',
                )


def _tls(settings: Settings) -> Iterator[Problem]:
    tables: list[tuple[KeyPath, Tls]] = [(("tls",), settings.tls)]
    for index, rule in enumerate(settings.rule):
        if rule.tls:
            tables.append((("rule", index, "tls"), overridden(settings.tls, rule.tls)))
    for path, tls in tables:
        if (tls.client_certificate is None) != (tls.client_key_file is None):
            there, missing = ("client_certificate", "client_key_file")
            if tls.client_certificate is None:
                there, missing = missing, there
            yield Problem((*path, there), f"{missing} is not set", f"set {missing} too, or remove {there}")
        if tls.require_crl and tls.crl is None:
            yield Problem(
                (*path, "require_crl"), "crl is not set: nothing could be delivered", "set crl to a PEM file"
            )
        if tls.require_ocsp and not tls.request_ocsp:
            yield Problem(
                (*path, "require_ocsp"), "request_ocsp is false: no staple would come", "remove request_ocsp"
            )


def _routes(settings: Settings) -> Iterator[Problem]:
    for index, route in enumerate(settings.route):
        path: KeyPath = ("route", index)
        if not route.domains:
            yield Problem((*path, "domains"), "it is empty", 'write ["*"] for every domain')
        if route.fallback and not route.fallback_on:
            yield Problem((*path, "fallback_on"), "it is empty: nothing would go there", "remove it")
        if route.via == "smarthost":
            yield from _smarthost(route, path)
            continue
        useless = ("fallback", "level") if route.via == "reject" else ()
        for key in ("hosts", "mx", "port", *_LOGIN, *useless):
            if getattr(route, key):
                remedy = f'remove it, or write via = "smarthost" instead of "{route.via}"'
                yield Problem((*path, key), f"a route via {route.via} has no {key}", remedy)


_LOGIN = ("username", "password_file", "auth_in_clear")


def _smarthost(route: Route, path: KeyPath) -> Iterator[Problem]:
    remedy = 'give either hosts = ["smtp.example.net:587"] or mx = "example.net"'
    if not route.hosts and not route.mx:
        yield Problem((*path, "hosts"), "the smarthost route names no host", remedy)
    if route.hosts and route.mx:
        yield Problem((*path, "mx"), "the smarthost route has both hosts and mx", remedy)
    if bool(route.username) != (route.password_file is not None):
        there, missing = ("username", "password_file")
        if not route.username:
            there, missing = missing, there
        yield Problem((*path, there), f"{missing} is not set", f"set {missing} too, or remove {there}")
    elif route.auth_in_clear and not route.username:
        yield Problem((*path, "auth_in_clear"), "nobody logs in", "set username and password_file")
    if route.username and not route.auth:
        yield Problem(
            (*path, "auth"), "it is empty: there is no way to log in", "remove it, or name mechanisms"
        )


def _rules(settings: Settings) -> Iterator[Problem]:
    for index, rule in enumerate(settings.rule):
        path: KeyPath = ("rule", index)
        if not rule.domains and not rule.hosts:
            yield Problem(
                path,
                "the rule names neither domains nor hosts",
                'add domains = ["example.org"], or set the keys in [tls], [smtp] and [delivery] themselves',
            )
        if not (rule.tls or rule.smtp or rule.delivery or rule.event_action):
            yield Problem(path, "the rule changes nothing", 'add for instance tls = { level = "verify" }')


def _queue(settings: Settings) -> Iterator[Problem]:
    url, secret = settings.queue.url, settings.queue.password_file
    if url is not None and not url.startswith("postgresql"):
        remedy = 'write "postgresql+psycopg://user@host/database"; without queue.url the queue is in SQLite'
        yield Problem(("queue", "url"), "only PostgreSQL can be shared by several nodes", remedy)
    if url is None and secret is not None:
        yield Problem(("queue", "password_file"), "there is no queue.url", "remove it, or set queue.url")
    for index, limit in enumerate(settings.queue.limit):
        if limit.messages is None and limit.at_a_time is None:
            remedy = 'add messages = 100 and per = "1h", or at_a_time = 5'
            yield Problem(("queue", "limit", index), "it limits nothing", remedy)
    for index, rule in enumerate(settings.queue.retry_rule):
        path: KeyPath = ("queue", "retry_rule", index)
        for place, word in enumerate(rule.errors):
            if not retry.known(word):
                remedy = f'known are {", ".join(retry.WORDS)}; a code as "rcpt-452" or "mail-4xx"'
                yield Problem((*path, "errors", place), f"{word[:40]!r} is no error", remedy)
        ages = [float(step.until) for step in rule.steps]
        if ages != sorted(set(ages)):
            yield Problem((*path, "steps"), "each step must hold longer than the one before", "sort them")


def _events(settings: Settings) -> Iterator[Problem]:
    events = settings.events
    seen: set[str] = set()
    placed: list[tuple[KeyPath, EventAction | EventFile]] = [
        *((path, action) for path, action, _ in actions.placed(settings)),
        *((("events", "file", index), file) for index, file in enumerate(events.file)),
    ]
    count = Counter(action.name for _, action in placed)
    for path, action in placed:
        if action.name in seen:
            yield Problem(
                (*path, "name"),
                f"{action.name!r} is the name of {count[action.name]} actions",
                "give each action a name of its own",
            )
        seen.add(action.name)
        if not action.name:
            yield Problem((*path, "name"), "it is empty", "give the action a name")
        if not action.events:
            yield Problem((*path, "events"), "it is empty", 'write for instance ["msg:delivery"]')
