"""The settings tree: frozen, every key with its default. `deliver.configuration` reads it from TOML.

The tables are in `deliver.sections`. Durations are seconds, sizes octets; in the file they carry units
(`"5m"`, `"50MB"`). Paths are absolute or relative to `state_dir`. What a key means for an administrator
stands in `conf/outrider.toml`.

`Settings.towards` applies the exceptions by destination. A type such as `HostName` says what a text must be;
`deliver.configuration.values` checks it when the file is read, values built in Python are taken as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from deliver.level import Level
from deliver.pattern import any_matches
from deliver.quantity import Duration as Duration, Size as Size
from deliver.sections.inbound import (
    Lmtp as Lmtp,
    RecipientLimit as RecipientLimit,
    Relay as Relay,
    RelayAuth as RelayAuth,
    RelayCertificate as RelayCertificate,
    RelayListener as RelayListener,
    RelayTls as RelayTls,
    Send as Send,
    Sendmail as Sendmail,
    Spool as Spool,
)
from deliver.sections.kinds import (
    DAY as DAY,
    HOUR as HOUR,
    MINUTE as MINUTE,
    AddressEndpoint as AddressEndpoint,
    CipherList as CipherList,
    Count as Count,
    DatabaseUrl as DatabaseUrl,
    Date as Date,
    Endpoint as Endpoint,
    FilePath as FilePath,
    GroupList as GroupList,
    HintsUrl as HintsUrl,
    HostName as HostName,
    Ipv4Address as Ipv4Address,
    Ipv6Address as Ipv6Address,
    ListenEndpoint as ListenEndpoint,
    LocalEndpoint as LocalEndpoint,
    NamePattern as NamePattern,
    Network as Network,
    OctalMode as OctalMode,
    Port as Port,
    SecretFile as SecretFile,
    Section as Section,
)
from deliver.sections.outbound import (
    Delivery as Delivery,
    Dns as Dns,
    MtaSts as MtaSts,
    NegativeTrustAnchor as NegativeTrustAnchor,
    Pool as Pool,
    Smtp as Smtp,
    Timeouts as Timeouts,
    Tls as Tls,
)
from deliver.sections.record import (
    EventAction as EventAction,
    EventFile as EventFile,
    Events as Events,
    Hints as Hints,
    Log as Log,
    Metrics as Metrics,
)
from deliver.sections.waiting import (
    Bounce as Bounce,
    Limit as Limit,
    Queue as Queue,
    RetryRule as RetryRule,
    RetryStep as RetryStep,
)

FallbackOn = Literal["unreachable", "tls", "deferred"]

CACHED_DESTINATIONS = 4096


class Route(Section, frozen=True):
    """Where a recipient domain's mail goes; the first match counts, none means MX."""

    domains: tuple[NamePattern, ...]  # "example.org", "*.example.org", "*"
    via: Literal["mx", "smarthost", "reject"]
    senders: tuple[str, ...] = ()  # globs of addresses, "" for the null reverse path; none: everybody's mail
    hosts: tuple[Endpoint, ...] = ()  # smarthost: "host", "host:port", "[address]:port"
    mx: HostName | None = None  # smarthost: a name whose MX records count
    port: Port | None = None
    username: str = ""  # smarthost: log in, over TLS that proves who the server is
    password_file: SecretFile | None = None
    auth: tuple[Literal["scram-sha-256-plus", "scram-sha-256", "plain", "login"], ...] = (
        "scram-sha-256-plus",
        "scram-sha-256",
        "plain",
        "login",
    )
    auth_in_clear: bool = False  # log in without such TLS too
    level: Level | None = None  # in place of tls.level, and of what rules say of it
    fallback: tuple[Endpoint, ...] = ()  # hosts to try where the others were of no use
    fallback_on: tuple[FallbackOn, ...] = ("unreachable",)
    fallback_after: Annotated[int, Meta(ge=0)] = 0  # attempts without it
    reason: str = "administratively prohibited"  # reject


class Rule(Section, frozen=True):
    """An exception by destination. The three tables hold only the keys to override.

    `event_action`: actions for the events of these destinations alone.
    """

    domains: tuple[NamePattern, ...] = ()
    hosts: tuple[NamePattern, ...] = ()
    tls: Annotated[dict[str, Any], Meta(extra={"section": "tls"})] = {}
    smtp: Annotated[dict[str, Any], Meta(extra={"section": "smtp"})] = {}
    delivery: Annotated[dict[str, Any], Meta(extra={"section": "delivery"})] = {}
    event_action: tuple[EventAction, ...] = ()


class Destination(Section, frozen=True):
    """What holds towards one destination after its rules: see `Settings.towards`."""

    tls: Tls
    smtp: Smtp
    delivery: Delivery


class Settings(Section, frozen=True, dict=True):
    """Everything that an administrator can set."""

    state_dir: FilePath = "/var/lib/outrider"
    dns: Dns = Dns()
    tls: Tls = Tls()
    mta_sts: MtaSts = MtaSts()
    smtp: Smtp = Smtp()
    delivery: Delivery = Delivery()
    pool: Pool = Pool()
    queue: Queue = Queue()
    bounce: Bounce = Bounce()
    relay: Relay = Relay()
    lmtp: Lmtp = Lmtp()
    send: Send = Send()
    sendmail: Sendmail = Sendmail()
    spool: Spool = Spool()
    hints: Hints = Hints()
    events: Events = Events()
    metrics: Metrics = Metrics()
    log: Log = Log()
    route: tuple[Route, ...] = ()
    rule: tuple[Rule, ...] = ()

    def towards(self, domain: str, host: str | None) -> Destination:
        """What holds for mail to recipient `domain` by way of `host`, both in lower-case A-labels.

        A rule matches when each list it has contains the name; one with `hosts` does not match while the
        host is None (not chosen yet). All matching rules apply in order, so the later one wins.
        """
        return self._exceptions.towards(domain, host)

    def path(self, value: str) -> Path:
        """An absolute path; a relative one is taken from `state_dir`."""
        return Path(self.state_dir) / value

    def database_url(self, url: str) -> str:
        """The URL with a relative SQLite file taken from `state_dir`; any other URL unchanged."""
        scheme, separator, rest = url.partition(":///")
        file, query, parameters = rest.partition("?")
        if not separator or scheme.partition("+")[0] != "sqlite":
            return url
        if not file or file == ":memory:" or file.startswith(("/", "file:")):
            return url
        return f"{scheme}:///{self.path(file)}{query}{parameters}"

    @cached_property
    def _exceptions(self) -> _Exceptions:
        return _Exceptions(Destination(tls=self.tls, smtp=self.smtp, delivery=self.delivery), self.rule)


class _Exceptions:
    """The rules over their base, with bounded caches: equal exceptions share one Destination."""

    def __init__(self, base: Destination, rules: tuple[Rule, ...]) -> None:
        self._base = base
        self._rules = rules
        self._built = lru_cache(maxsize=CACHED_DESTINATIONS)(self._build)
        self._found = lru_cache(maxsize=CACHED_DESTINATIONS)(self._find)

    def towards(self, domain: str, host: str | None) -> Destination:
        return self._found(domain, host) if self._rules else self._base

    def _find(self, domain: str, host: str | None) -> Destination:
        applying = (index for index, rule in enumerate(self._rules) if applies(rule, domain, host))
        return self._built(tuple(applying))

    def _build(self, applying: tuple[int, ...]) -> Destination:
        found = self._base
        for rule in (self._rules[index] for index in applying):
            found = Destination(
                tls=overridden(found.tls, rule.tls),
                smtp=overridden(found.smtp, rule.smtp),
                delivery=overridden(found.delivery, rule.delivery),
            )
        return found


def applies(rule: Rule, domain: str, host: str | None) -> bool:
    """Whether the rule is meant for this destination."""
    if rule.hosts and (host is None or not any_matches(rule.hosts, host)):
        return False
    return not rule.domains or any_matches(rule.domains, domain)


AnySection = TypeVar("AnySection", bound=Section)


def overridden(section: AnySection, keys: Mapping[str, Any]) -> AnySection:
    """The section with some keys replaced, as they stand in a file; tables inside it are merged.

    Raises msgspec.ValidationError for what the section's type does not allow.
    """
    if not keys:
        return section
    merged = {
        key: overridden(current, value)
        if isinstance(current := getattr(section, key, None), Section) and isinstance(value, Mapping)
        else value
        for key, value in keys.items()
    }
    return msgspec.convert({**as_mapping(section), **merged}, type(section), dec_hook=quantity)


def as_mapping(section: Section) -> dict[str, Any]:
    """The keys as the file spells them, values untouched."""
    names = zip(section.__struct_fields__, section.__struct_encode_fields__, strict=True)
    return {name: getattr(section, field) for field, name in names}


def quantity(kind: type, value: object) -> object:
    """Read a Duration or Size for msgspec; ValueError otherwise."""
    if issubclass(kind, (Duration, Size)):
        return kind.parse(value)
    raise ValueError(f"no reader for {kind.__name__}")
