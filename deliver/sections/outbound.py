"""How a destination is found, secured and spoken to."""

from __future__ import annotations

from typing import Literal

from deliver.level import Level
from deliver.quantity import Duration
from deliver.sections.kinds import (
    HOUR,
    MINUTE,
    AddressEndpoint,
    CipherList,
    Count,
    Date,
    FilePath,
    GroupList,
    HostName,
    Ipv4Address,
    Ipv6Address,
    Network,
    Port,
    SecretFile,
    Section,
)

# unspecified, multicast, broadcast
NOWHERE = ("0.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/128", "ff00::/8")


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
    mta_sts: bool = True  # obey the domain's policy where DANE does not decide
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


class MtaSts(Section, frozen=True):
    """How MTA-STS policies are fetched (RFC 8461 3.3)."""

    timeout: Duration = Duration(10)  # of a whole fetch; mail of a domain's first policy waits for it
    port: Port = 443  # of the web servers; another one is for laboratories


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
    ignore_addresses: tuple[Network, ...] = NOWHERE  # of mail exchangers; not of hosts in a route
    max_hosts: Count = 5  # addresses tried in one attempt
    race_delay: Duration = Duration(0.25)  # before the next address of a host is tried too (RFC 8305 5)
    deadline: Duration = Duration(30 * MINUTE)  # of one attempt, all hosts together


class Pool(Section, frozen=True):
    """Open sessions kept for the next message."""

    idle: Duration = Duration(10)  # 0: every message has its own connection
    max_age: Duration = Duration(5 * MINUTE)
    max_sessions: Count = 500  # idle at a time
    max_messages: Count | None = None  # over one session
