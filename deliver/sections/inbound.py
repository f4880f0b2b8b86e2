"""The doors through which mail comes in."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from deliver.quantity import Duration, Size
from deliver.sections.kinds import (
    DAY,
    HOUR,
    MINUTE,
    CipherList,
    Count,
    FilePath,
    GroupList,
    HostName,
    ListenEndpoint,
    LocalEndpoint,
    NamePattern,
    Network,
    OctalMode,
    SecretFile,
    Section,
)


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
    max_message_size: Size | None = None  # none: as everybody
    max_hops: Count | None = None  # Received lines
    eight_bit: bool = True  # content may have octets beyond ASCII
    refuse_headers: tuple[str, ...] = ()  # "Name: glob of the value"


class Relay(Section, frozen=True):
    """The SMTP listener of `outrider relay`."""

    listen: tuple[ListenEndpoint, ...] = ("127.0.0.1:2525",)
    workers: Annotated[int, Meta(ge=0, le=64)] = 0  # processes; 0: one for each core
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
    requiretls: bool = True  # clients may ask, inside TLS, that mail goes on so (RFC 8689)
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
    detect_utf8: bool = True  # a header in UTF-8 needs SMTPUTF8


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
    detect_utf8: bool = True  # a header in UTF-8 needs SMTPUTF8
