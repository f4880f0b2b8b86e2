"""The settings tree: frozen, every key with its default. `deliver.configuration` reads it from TOML.

Durations are seconds, sizes octets; in the file they carry units (`"5m"`, `"50MB"`). Paths are absolute or
relative to `state_dir`. What a key means for an administrator stands in `conf/outrider.toml`.

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
from deliver.quantity import Duration as Duration
from deliver.quantity import Size as Size

MINUTE = 60
HOUR = 3600
DAY = 86400

# What a text must be; the word is a key of `deliver.configuration.values.KINDS`.
FilePath = Annotated[str, Meta(extra={"kind": "path"})]
SecretFile = Annotated[str, Meta(extra={"kind": "secret file"})]  # or `credential:NAME` of systemd
DatabaseUrl = Annotated[str, Meta(extra={"kind": "database url"})]
HintsUrl = Annotated[str, Meta(extra={"kind": "hints url"})]  # or "memory"
HostName = Annotated[str, Meta(extra={"kind": "host name"})]
Date = Annotated[str, Meta(extra={"kind": "date"})]  # "2026-12-31"
NamePattern = Annotated[str, Meta(extra={"kind": "pattern"})]
Endpoint = Annotated[str, Meta(extra={"kind": "endpoint"})]  # "host", "host:port", "[address]:port"
AddressEndpoint = Annotated[str, Meta(extra={"kind": "address endpoint"})]  # no names
LocalEndpoint = Annotated[str, Meta(extra={"kind": "local endpoint"})]  # the same, or "unix:path"
ListenEndpoint = Annotated[str, Meta(extra={"kind": "listen endpoint"})]  # port required, 0 picks a free one
Network = Annotated[str, Meta(extra={"kind": "network"})]
Ipv4Address = Annotated[str, Meta(extra={"kind": "ipv4 address"})]
Ipv6Address = Annotated[str, Meta(extra={"kind": "ipv6 address"})]
CipherList = Annotated[str, Meta(extra={"kind": "cipher list"})]
GroupList = Annotated[str, Meta(extra={"kind": "group list"})]
OctalMode = Annotated[str, Meta(extra={"kind": "file mode"})]
Port = Annotated[int, Meta(ge=1, le=65535)]
Count = Annotated[int, Meta(ge=1)]

FallbackOn = Literal["unreachable", "tls", "deferred"]

CACHED_DESTINATIONS = 4096


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; unknown keys are errors."""


class NegativeTrustAnchor(Section, frozen=True):
    """Validation is suspended at and below `name`, for a while and for a reason (RFC 7646)."""

    name: HostName
    until: Date  # the first day on which it counts no more, UTC
    reason: str


class Dns(Section, frozen=True):
    """How names are looked up."""

    dnssec: Literal["validate", "trust-ad", "off"] = "validate"
    resolvers: tuple[
        AddressEndpoint, ...
    ] = ()  # "address" or "address:port" or "[v6]:port"; none: /etc/resolv.conf
    trust_remote_ad: bool = False
    trust_anchors: FilePath | None = None
    negative_trust_anchor: tuple[NegativeTrustAnchor, ...] = ()
    sha1: bool = False  # believe signatures made with SHA-1 (RFC 9905)
    probe_secure: tuple[HostName, ...] = ()  # names that `explain --resolver` expects to be secure
    probe_bogus: tuple[HostName, ...] = ()  # and those it expects to be bogus
    timeout: Duration = Duration(3)
    attempts: Count = 3
    cache_entries: Count = 20_000
    cache_max_ttl: Duration = Duration(1 * HOUR)


class Tls(Section, frozen=True):
    """What TLS is demanded of a destination; may be overridden by a rule."""

    level: Level = Level.DANE
    trust_store: FilePath | None = None  # PEM file; none: the system's
    min_version: Literal["1.2", "1.3"] = "1.2"
    clear_text_fallback: bool = True  # only where the policy does not require TLS
    verify_names: tuple[HostName, ...] = ()  # reference identifiers beside the host's name, for PKIX
    request_ocsp: bool = True  # not where only DANE-EE counts
    require_ocsp: bool = False  # TLS required, authenticated, and refused without a good staple
    ocsp_skew: Duration = Duration(5 * MINUTE)
    crl: FilePath | None = None  # PEM file of revocation lists
    require_crl: bool = False  # TLS required, authenticated, with a list of every issuer of a path
    ciphers: CipherList = ""  # of TLS 1.2; none: OpenSSL's
    groups: GroupList = ""  # none: OpenSSL's, X25519MLKEM768 first
    client_certificate: FilePath | None = None  # PEM file
    client_key_file: SecretFile | None = None
    resumption: bool = True  # keep sessions, and offer those that are judged well again
    retry_small_hello: bool = True  # after a reset or silence; not where `groups` is set


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
    session: Duration = Duration(20 * MINUTE)  # from connecting to the end of a message, final reply excluded


class Smtp(Section, frozen=True):
    """How we speak to servers; may be overridden by a rule."""

    pipelining: bool = True
    pass_8bit: bool = False
    chunking: bool = True  # RFC 3030
    prdr: bool = True  # draft-hall-prdr-00
    pipeconnect: bool = True  # draft-harris-early-pipe: what may leave before greeting and EHLO answer
    early_bdat_clear: bool = False  # content too, in clear text
    tcp_fast_open: bool = False  # EHLO and STARTTLS with the SYN, where pipeconnect sends them early
    min_rate: Count = 512  # octets of content per second, on average
    timeouts: Timeouts = Timeouts()


class Delivery(Section, frozen=True):
    """How a destination is reached; may be overridden by a rule."""

    helo: HostName = ""  # none: this machine's fully qualified name
    port: Port = 25
    source_ipv4: Ipv4Address | None = None
    source_ipv6: Ipv6Address | None = None
    families: tuple[Literal["ipv4", "ipv6"], ...] = ("ipv6", "ipv4")
    max_hosts: Count = 5  # addresses tried in one attempt
    race_delay: Duration = Duration(0.25)  # before the next address of a host is tried too (RFC 8305 5)
    deadline: Duration = Duration(30 * MINUTE)  # of one attempt, all hosts together


class Pool(Section, frozen=True):
    """Open sessions kept for the next message."""

    idle: Duration = Duration(10)  # 0: every message has its own connection
    max_age: Duration = Duration(5 * MINUTE)
    max_sessions: Count = 500  # idle at a time
    max_messages: Count | None = None  # over one session


class RetryStep(Section, frozen=True):
    """How long to wait until the message is `until` old; see `deliver.queue.retry`."""

    until: Duration
    wait: Duration
    kind: Literal["fixed", "geometric", "random-geometric"] = "fixed"
    factor: Annotated[float, Meta(ge=1, le=100)] = 1.5


class RetryRule(Section, frozen=True):
    """Retries of some destinations, servers, senders or errors; the first rule that matches counts."""

    steps: tuple[RetryStep, ...]  # none: no second attempt
    domains: tuple[NamePattern, ...] = ()
    hosts: tuple[NamePattern, ...] = ()
    senders: tuple[str, ...] = ()  # globs of addresses, "" for the null reverse path
    errors: tuple[str, ...] = ()


class Limit(Section, frozen=True):
    """A limit for each domain, site, sender or source address by itself, or for all mail together."""

    of: Literal["domain", "site", "sender", "source", "all"]
    match: tuple[str, ...] = ()  # globs; none: each
    messages: Count | None = None
    per: Duration = Duration(1 * HOUR)
    burst: Count | None = None  # none: what falls into a minute
    at_a_time: Count | None = None


class Queue(Section, frozen=True):
    """The durable queue of `outrider relay`."""

    directory: FilePath = "queue"
    url: DatabaseUrl | None = None  # PostgreSQL, for several nodes; none: SQLite in the directory
    password_file: SecretFile | None = None  # of url
    node: HostName = ""  # our name among the nodes; none: this machine's
    connections: Count = 8  # to url, for writing; a few more read
    inline_limit: Size = Size(64 * 1024)
    workers: Count = 50  # attempts at a time
    slow_workers: Count = 200  # attempts beside them that take longer than slow_after
    slow_after: Duration = Duration(5)
    per_domain: Count = 5  # attempts at a time to one recipient domain
    per_site: Count = 20  # and to one set of servers
    site_start: Count = 2  # of these, for a site of which nothing is known
    site_pause: Duration = Duration(1 * MINUTE)  # after a site could not be reached; doubles
    longest_site_pause: Duration = Duration(15 * MINUTE)
    limit: tuple[Limit, ...] = ()
    retry: tuple[Duration, ...] = tuple(
        Duration(minutes * MINUTE) for minutes in (1, 5, 10, 15, 30, 60, 120, 240)
    )  # the last one repeats
    retry_rule: tuple[RetryRule, ...] = ()
    expire: Duration = Duration(5 * DAY)
    keep_history: Duration = Duration(1 * DAY)  # for which `outrider queue show` knows a completed message
    delay_warning: tuple[Duration, ...] = (Duration(1 * DAY),)  # ages at which the sender hears of a delay
    lease_margin: Duration = Duration(5 * MINUTE)
    min_free_disk: Size = Size(100 * 1024 * 1024)
    shutdown_grace: Duration = Duration(20)


class Bounce(Section, frozen=True):
    """What senders are told: failures, delays, and success where the next server cannot tell it."""

    to: tuple[NamePattern, ...] = ("*",)  # sender domains that are told; logged-in clients always are
    gather: Duration = Duration(1 * MINUTE)  # more failures of the same message go into one report
    per_sender: Annotated[int, Meta(ge=0)] = 1000  # reports an hour; 0: no limit; what is above waits
    return_content: Literal["headers", "full"] = "headers"  # where the sender did not ask by RET
    return_limit: Size = Size(100 * 1024)  # a larger message is returned without its body


class RelayCertificate(Section, frozen=True):
    """A certificate that the relay presents to clients that ask for one of its names."""

    chain_file: FilePath  # PEM, our own first
    key_file: SecretFile  # PEM
    ocsp_file: FilePath | None = None  # OCSP responses in DER or PEM
    ocsp_fetch: bool = False  # fetch them from the responder that the certificate names


class RelayTls(Section, frozen=True):
    """TLS with the clients of the relay; without a certificate there is none."""

    certificate: tuple[RelayCertificate, ...] = ()
    min_version: Literal["1.2", "1.3"] = "1.2"
    ciphers: CipherList = ""
    groups: GroupList = ""
    tickets: bool = True
    ticket_rotation: Duration = Duration(12 * HOUR)  # of the keys that seal tickets
    client_ca: FilePath | None = None  # PEM: clients are asked for certificates that these issued
    client_names: tuple[NamePattern, ...] = ()  # names in such certificates that may relay
    handshake: Duration = Duration(1 * MINUTE)


class RelayAuth(Section, frozen=True):
    """Logging in at the relay, always inside TLS: by a file of passwords or by Dovecot."""

    password_file: SecretFile | None = None
    dovecot: Annotated[str, Meta(extra={"kind": "service endpoint"})] = ""  # "unix:path" or "host:port"
    dovecot_tls: bool = False
    dovecot_ca: FilePath | None = None  # none: the system's
    dovecot_timeout: Duration = Duration(10)
    mechanisms: tuple[Literal["scram-sha-256-plus", "scram-sha-256", "plain", "login"], ...] = (
        "scram-sha-256-plus",
        "scram-sha-256",
        "plain",
        "login",
    )
    failure_delay: Duration = Duration(2)
    max_failures: Count = 3  # in one connection
    client_failures: Count = 20  # of one client, within
    client_memory: Duration = Duration(15 * MINUTE)


class RelayListener(Section, frozen=True):
    """Addresses with rules of their own; what is None is as in `relay`."""

    listen: tuple[ListenEndpoint, ...]
    mode: Literal["smtp", "submission"] = "smtp"  # submission: missing Date and Message-ID are added
    networks: tuple[Network, ...] | None = None  # none, submission: nobody without logging in
    require_auth: bool | None = None  # none: for submission without networks
    require_tls: bool = False
    tls_on_connect: bool = False
    proxy: tuple[Network, ...] | None = None
    max_message_size: Size | None = None
    helo: Literal["none", "syntax", "qualified"] | None = None


class RecipientLimit(Section, frozen=True):
    """What holds for some recipients only; the first that matches counts."""

    recipients: tuple[str, ...]  # globs of addresses
    max_message_size: Size


class Relay(Section, frozen=True):
    """The SMTP listener of `outrider relay`."""

    listen: tuple[ListenEndpoint, ...] = ("127.0.0.1:2525",)
    workers: Annotated[int, Meta(ge=0, le=64)] = 1  # processes; 0: one for each core
    user: str = ""  # once the ports are bound; none: as we were started
    networks: tuple[Network, ...] = ("127.0.0.0/8", "::1/128")  # who may relay through us
    hostname: HostName = ""  # in the banner and Received; none: delivery.helo
    max_message_size: Size = Size(50 * 1024 * 1024)
    max_recipients: Count = 1000
    max_connections: Count = 500
    max_hops: Count = 100  # RFC 5321 6.3
    idle_timeout: Duration = Duration(5 * MINUTE)
    local_names: tuple[HostName, ...] = ()  # names by which MX records mean this host
    helo: Literal["none", "syntax", "qualified"] = "none"  # what EHLO must give
    pipeconnect: bool = True  # clients may talk before our greeting (draft-harris-early-pipe)
    client_connections: Count | None = None  # at a time from one address; of IPv6 from one /64
    client_messages: Count | None = None  # a minute from one address
    client_recipients: Count | None = None
    proxy: tuple[Network, ...] = ()  # load balancers that begin with a PROXY header
    proxy_timeout: Duration = Duration(3)
    listener: tuple[RelayListener, ...] = ()
    recipient_limit: tuple[RecipientLimit, ...] = ()
    tls: RelayTls = RelayTls()
    auth: RelayAuth = RelayAuth()


class Lmtp(Section, frozen=True):
    """The LMTP listener: synchronous delivery for an MTA that keeps the queue."""

    listen: tuple[LocalEndpoint, ...] = ()
    socket_mode: OctalMode = "0660"
    socket_group: str = ""  # none: this process's
    max_connections: Count = 500
    deadline: Duration = Duration(8 * MINUTE)  # from the end of the message to our answer


class Send(Section, frozen=True):
    """`outrider send`, and what is remembered for callers that keep the queue."""

    handover: bool = True  # a running service takes messages over
    socket: FilePath = "send.sock"
    max_connections: Count = 500
    remember: Duration = Duration(7 * DAY)


class Spool(Section, frozen=True):
    """Directories of messages in the form of Exim's spool; see `deliver.spool`."""

    directories: tuple[FilePath, ...] = ()  # that `outrider relay` takes messages from
    interval: Duration = Duration(1)  # between looks
    skip_domains: tuple[NamePattern, ...] = ()  # recipients there are Exim's own


class Sendmail(Section, frozen=True):
    """`outrider sendmail`."""

    via: Literal["relay", "direct"] = "relay"
    relay: ListenEndpoint | None = None  # none: the first of relay.listen
    domain: HostName = ""  # of addresses without one; none: relay.hostname, delivery.helo


class Hints(Section, frozen=True):
    """What was learned."""

    url: HintsUrl = "sqlite:///hints.db"  # relative to state_dir; "memory" keeps nothing
    max_size: Size = Size(256 * 1024 * 1024)


class EventAction(Section, frozen=True):
    """SQL statements to run when an event happens, in one transaction; or, with `veto`, before it does."""

    name: str
    events: tuple[str, ...]  # names, `*` as wildcard: "msg:*"
    database: DatabaseUrl  # an SQLAlchemy URL
    sql: str | tuple[str, ...]
    password_file: SecretFile | None = None
    when: str | None = None  # a comparison on fields, see `events.condition`
    veto: bool = False
    deadline: Duration = Duration(2)  # of a veto
    on_error: Literal["allow", "defer"] = "defer"  # of a veto


class EventFile(Section, frozen=True):
    """A file that gets one line of JSON per event."""

    name: str
    events: tuple[str, ...]
    path: FilePath
    when: str | None = None


class Events(Section, frozen=True):
    """Testimony."""

    # "default" fills the ready-made table in `database`; "none" leaves it to the actions.
    schema_name: Literal["default", "none"] = msgspec.field(default="default", name="schema")
    database: DatabaseUrl = "sqlite:///events.db"  # relative to state_dir
    backlog: Count = 1_000_000  # events that may wait for databases
    action: tuple[EventAction, ...] = ()
    file: tuple[EventFile, ...] = ()


class Metrics(Section, frozen=True):
    """Counts for Prometheus."""

    listen: ListenEndpoint | None = None


class Log(Section, frozen=True):
    """Where decisions are told."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    protocol_detail: bool = False  # unusual ends of clients' connections


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
