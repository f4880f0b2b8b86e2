"""Exim as a receiving MX: STARTTLS, any domain, every recipient's copy in a Maildir.

The configuration is private and complete: no DNS, no ident, no spool but its own. Exim keeps to the exim user for deliveries
(`deliver_drop_privilege`), so it needs no set-user-ID program.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.interop.peers.address import own_address
from tests.interop.peers.mailbox import Maildir
from tests.interop.peers.peer import Peer
from tests.interop.peers.process import spawn
from tests.interop.peers.programs import Programs


@dataclass(frozen=True, slots=True)
class EximConfig:
    """What a test may choose. ACLs are the lines of Exim's ACL language for one stage, such as `deny local_parts = no`.

    `certificate` is a PEM chain, the server's own certificate first, and `key` its PEM key; without them no STARTTLS.
    `main` are more lines of the main section, `acls` whole named ACLs for it to refer to. `passwords` by user name: who may
    log in, by PLAIN and LOGIN, and only inside TLS.
    """

    certificate: bytes = b""
    key: bytes = b""
    hostname: str = "mx.exim.test"
    port: int = 2525
    chunking: bool = True
    pipelining: bool = True
    pipeconnect: bool = False
    prdr: bool = False
    connect: str = "accept"
    helo: str = "accept"
    mail: str = "accept"
    rcpt: str = "accept"
    data: str = "accept"
    data_prdr: str = "accept"
    main: str = ""
    acls: str = ""
    passwords: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Exim(Peer[EximConfig]):
    """A running Exim: where it listens, what it got, what it logged."""

    mailbox: Maildir


def start(programs: Programs, directory: Path, config: EximConfig) -> Exim:
    """Start an Exim in the empty private `directory`. Raises PeerMissing or ServerFailed."""
    program = programs.path("exim")
    user = programs.account("exim", "Debian-exim")
    environment = programs.environment("exim")
    for name in ("spool", "log"):
        (directory / name).mkdir()
    (directory / "chain.pem").write_bytes(config.certificate)
    (directory / "key.pem").touch(mode=0o600)
    (directory / "key.pem").write_bytes(config.key)
    for path in (directory, *directory.iterdir()):
        os.chown(path, user.uid, user.gid)
    address = own_address(config.port)
    configuration = directory / "exim.conf"
    configuration.write_text(_configuration(config, program, directory, address, tuple(environment)))
    process = spawn(
        "exim",
        [program, "-C", configuration, "-bdf"],
        environment,
        address=address,
        port=config.port,
        directory=directory,
        logs=("log/mainlog", "log/rejectlog", "log/paniclog"),
    )
    return Exim(config, process, Maildir(directory / "maildir", process.log))


def _configuration(
    config: EximConfig, program: Path, directory: Path, address: str, environment: tuple[str, ...]
) -> str:
    def everyone(wanted: bool) -> str:
        return "*" if wanted else ""

    tls = (
        f"tls_certificate = {directory}/chain.pem\ntls_privatekey = {directory}/key.pem\n"
        if config.certificate
        else ""
    )
    return f"""\
primary_hostname = {config.hostname}
exim_path = {program}
keep_environment = {" : ".join(environment)}
spool_directory = {directory}/spool
log_file_path = {directory}/log/%slog
pid_file_path = {directory}/exim.pid
log_selector = +all
local_interfaces = {address}
daemon_smtp_ports = {config.port}
disable_ipv6 = true
deliver_drop_privilege = true
host_lookup =
rfc1413_hosts =
message_size_limit = 100M
smtp_accept_max = 100
smtp_receive_timeout = 60s
timeout_frozen_after = 1h
tls_advertise_hosts = {everyone(bool(config.certificate))}
{tls}\
prdr_enable = {"true" if config.prdr else "false"}
pipelining_advertise_hosts = {everyone(config.pipelining)}
pipelining_connect_advertise_hosts = {everyone(config.pipeconnect)}
chunking_advertise_hosts = {everyone(config.chunking)}
dsn_advertise_hosts = *
acl_smtp_connect = at_connect
acl_smtp_helo = at_helo
acl_smtp_mail = at_mail
acl_smtp_rcpt = at_rcpt
acl_smtp_data = at_data
acl_smtp_data_prdr = at_data_prdr
{config.main}
begin acl
at_connect:
  {config.connect}
at_helo:
  {config.helo}
at_mail:
  {config.mail}
at_rcpt:
  {config.rcpt}
at_data:
  {config.data}
at_data_prdr:
  {config.data_prdr}
{config.acls}
begin routers
anyone:
  driver = accept
  transport = keep
begin transports
keep:
  driver = appendfile
  directory = {directory}/maildir
  create_directory
  maildir_format
  envelope_to_add
  return_path_add
  mode_fail_narrower = false
  user = Debian-exim
begin retry
* * F,1h,1m
begin authenticators
{_authenticators(config)}"""


def _authenticators(config: EximConfig) -> str:
    if not config.passwords:
        return ""

    def condition(name: str, password: str) -> str:
        pairs = "".join(
            f"{{and{{{{eq{{{name}}}{{{n}}}}}{{eq{{{password}}}{{{p}}}}}}}}}" for n, p in config.passwords
        )
        return f"${{if or{{{pairs}}}}}"

    return f"""\
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_advertise_condition = ${{if def:tls_in_cipher}}
  server_condition = {condition("$auth2", "$auth3")}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_advertise_condition = ${{if def:tls_in_cipher}}
  server_condition = {condition("$auth1", "$auth2")}
  server_set_id = $auth1
"""
