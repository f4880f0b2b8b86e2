"""Postfix as a receiving MX: STARTTLS, any domain, every recipient's copy in a Maildir through virtual(8).

Only the services that receive and deliver are in master.cf, and none looks anything up in DNS.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.interop.peers.address import own_address
from tests.interop.peers.mailbox import Maildir
from tests.interop.peers.peer import Peer
from tests.interop.peers.postfixhome import PostfixHome
from tests.interop.peers.process import spawn
from tests.interop.peers.programs import Account, Programs


@dataclass(frozen=True, slots=True)
class PostfixConfig:
    """What a test may choose.

    `certificate` is a PEM chain, the server's own certificate first, and `key` its PEM key; without them no STARTTLS.
    `discard_ehlo` are EHLO keywords that are not announced, and `main` more lines of main.cf (`parameter = value`),
    `master` of master.cf.
    """

    certificate: bytes = b""
    key: bytes = b""
    hostname: str = "mx.postfix.test"
    port: int = 2525
    discard_ehlo: tuple[str, ...] = ()
    main: str = ""
    master: str = ""


@dataclass(frozen=True, slots=True)
class Postfix(Peer[PostfixConfig]):
    """A running Postfix: where it listens, what it got, what it logged."""

    mailbox: Maildir


def start(programs: Programs, directory: Path, config: PostfixConfig) -> Postfix:
    """Start a Postfix in the empty private `directory`. Raises PeerMissing or ServerFailed."""
    home = PostfixHome(programs, directory)
    home.lay_out()
    user = programs.account("postfix", "postfix")
    (directory / "mail").mkdir(mode=0o700)
    os.chown(directory / "mail", user.uid, user.gid)
    if config.certificate:
        chain = home.settings / "chain.pem"
        chain.touch(mode=0o600)
        chain.write_bytes(config.key + b"\n" + config.certificate)
    address = own_address(config.port)
    environment = programs.environment("postfix")
    home.configure(environment, _main(config, home, user), _services(config, address))
    process = spawn(
        "postfix",
        home.command,
        environment | home.environment,
        address=address,
        port=config.port,
        directory=directory,
        logs=("mail.log",),
    )
    return Postfix(config, process, Maildir(directory / "mail" / "all", process.log))


def _main(config: PostfixConfig, home: PostfixHome, user: Account) -> str:
    tls = f"may\nsmtpd_tls_chain_files = {home.settings}/chain.pem" if config.certificate else "none"
    return f"""\
myhostname = {config.hostname}
inet_interfaces = 127.0.0.1
smtpd_peername_lookup = no
disable_dns_lookups = yes
smtpd_discard_ehlo_keywords = {", ".join(config.discard_ehlo)}
smtpd_tls_security_level = {tls}
smtpd_tls_received_header = yes
smtpd_tls_loglevel = 1
mailbox_size_limit = 0
virtual_mailbox_limit = 0
virtual_transport = virtual
virtual_mailbox_domains = static:all
virtual_mailbox_base = {home.directory}/mail
virtual_mailbox_maps = static:all/
virtual_minimum_uid = 1
virtual_uid_maps = static:{user.uid}
virtual_gid_maps = static:{user.gid}
{config.main}
"""


def _services(config: PostfixConfig, address: str) -> str:
    # The listening address stands here: inet_interfaces accepts none but those that an interface lists.
    # qmgr looks at mail that was locked when it was due only when it is woken up.
    return f"""\
{address}:{config.port} inet n - n - 20 smtpd
qmgr unix n - n 1 1 qmgr
virtual unix - n n - - virtual
{config.master}
"""
