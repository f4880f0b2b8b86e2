"""The settings tree: frozen, every key with its default. `deliver.configuration` reads it from TOML.

Durations are seconds, sizes octets; in the file they carry units (`"5m"`, `"50MB"`). Paths are absolute or
relative to `state_dir`. What a key means for an administrator stands in `conf/outrider.toml`.
"""

from __future__ import annotations

from typing import Any, Literal, NewType

import msgspec

from deliver.tls.policy import Level

# Told apart from plain numbers so that the reader demands a unit.
Duration = NewType("Duration", float)
Size = NewType("Size", int)

MINUTE = 60
HOUR = 3600
DAY = 86400


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; unknown keys are errors."""


class Dns(Section, frozen=True):
    """How names are looked up."""

    dnssec: Literal["validate", "trust-ad", "off"] = "trust-ad"
    resolvers: tuple[str, ...] = ()  # "address" or "address:port" or "[v6]:port"; none: /etc/resolv.conf
    trust_remote_ad: bool = False
    trust_anchors: str | None = None
    timeout: Duration = Duration(3)
    attempts: int = 3
    cache_entries: int = 20_000
    cache_max_ttl: Duration = Duration(1 * HOUR)


class Tls(Section, frozen=True):
    """What TLS is demanded of a destination; may be overridden by a rule."""

    level: Level = Level.DANE
    trust_store: str | None = None  # PEM file; none: the system's
    min_version: Literal["1.2", "1.3"] = "1.2"
    clear_text_fallback: bool = True  # only where the policy does not require TLS


class Timeouts(Section, frozen=True):
    """RFC 5321 4.5.3.2, one deadline per phase."""

    connect: Duration = Duration(30)
    banner: Duration = Duration(5 * MINUTE)
    ehlo: Duration = Duration(5 * MINUTE)
    tls: Duration = Duration(60)
    mail: Duration = Duration(5 * MINUTE)
    rcpt: Duration = Duration(5 * MINUTE)
    data: Duration = Duration(2 * MINUTE)
    block: Duration = Duration(3 * MINUTE)
    dot: Duration = Duration(10 * MINUTE)
    quit: Duration = Duration(5)


class Smtp(Section, frozen=True):
    """How we speak to servers; may be overridden by a rule."""

    pipelining: bool = True
    pass_8bit: bool = False
    timeouts: Timeouts = Timeouts()


class Delivery(Section, frozen=True):
    """How a destination is reached; may be overridden by a rule."""

    helo: str = ""  # none: this machine's fully qualified name
    port: int = 25
    source_ipv4: str | None = None
    source_ipv6: str | None = None
    families: tuple[Literal["ipv4", "ipv6"], ...] = ("ipv6", "ipv4")
    max_hosts: int = 5  # addresses tried in one attempt
    deadline: Duration = Duration(30 * MINUTE)  # of one attempt, all hosts together


class Queue(Section, frozen=True):
    """The durable queue of `outrider relay`."""

    directory: str = "queue"
    inline_limit: Size = Size(64 * 1024)
    workers: int = 50  # attempts at a time
    per_domain: int = 5  # attempts at a time to one recipient domain
    retry: tuple[Duration, ...] = tuple(
        Duration(minutes * MINUTE) for minutes in (1, 5, 10, 15, 30, 60, 120, 240)
    )  # the last one repeats
    expire: Duration = Duration(5 * DAY)
    lease_margin: Duration = Duration(5 * MINUTE)
    min_free_disk: Size = Size(100 * 1024 * 1024)
    shutdown_grace: Duration = Duration(20)


class Relay(Section, frozen=True):
    """The SMTP listener of `outrider relay`."""

    listen: tuple[str, ...] = ("127.0.0.1:2525",)
    networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")  # who may relay through us
    hostname: str = ""  # in the banner and Received; none: delivery.helo
    max_message_size: Size = Size(50 * 1024 * 1024)
    max_recipients: int = 1000
    max_connections: int = 500
    max_hops: int = 100  # RFC 5321 6.3
    idle_timeout: Duration = Duration(5 * MINUTE)
    local_names: tuple[str, ...] = ()  # names by which MX records mean this host


class Hints(Section, frozen=True):
    """What was learned."""

    url: str = "sqlite:///hints.db"  # relative to state_dir; "memory" keeps nothing
    max_size: Size = Size(256 * 1024 * 1024)


class EventAction(Section, frozen=True):
    """One SQL statement to run when an event happens."""

    name: str
    events: tuple[str, ...]  # names, `*` as wildcard: "msg:*"
    database: str  # an SQLAlchemy URL
    sql: str
    password_file: str | None = None


class Events(Section, frozen=True):
    """Testimony."""

    # "default" fills the ready-made table in `database`; "none" leaves it to the actions.
    schema_name: Literal["default", "none"] = msgspec.field(default="default", name="schema")
    database: str = "sqlite:///events.db"  # relative to state_dir
    action: tuple[EventAction, ...] = ()


class Log(Section, frozen=True):
    """Where decisions are told."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Route(Section, frozen=True):
    """Where a recipient domain's mail goes; the first match counts, none means MX."""

    domains: tuple[str, ...]  # "example.org", "*.example.org", "*"
    via: Literal["mx", "smarthost", "reject"]
    hosts: tuple[str, ...] = ()  # smarthost: "host", "host:port", "[address]:port"
    mx: str | None = None  # smarthost: a name whose MX records count
    port: int | None = None
    reason: str = "administratively prohibited"  # reject


class Rule(Section, frozen=True):
    """An exception by destination. The three tables hold only the keys to override."""

    domains: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    tls: dict[str, Any] = {}
    smtp: dict[str, Any] = {}
    delivery: dict[str, Any] = {}


class Settings(Section, frozen=True):
    """Everything that an administrator can set."""

    state_dir: str = "/var/lib/outrider"
    dns: Dns = Dns()
    tls: Tls = Tls()
    smtp: Smtp = Smtp()
    delivery: Delivery = Delivery()
    queue: Queue = Queue()
    relay: Relay = Relay()
    hints: Hints = Hints()
    events: Events = Events()
    log: Log = Log()
    route: tuple[Route, ...] = ()
    rule: tuple[Rule, ...] = ()
