"""Postfix as a receiving MX: STARTTLS, any domain, every recipient's copy in a Maildir through virtual(8).

master(8) is run directly on a private configuration, queue and data directory; only the services that receive and deliver
are in master.cf, none is chrooted, and none looks anything up in DNS.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.interop.peers.address import own_address
from tests.interop.peers.mailbox import Maildir
from tests.interop.peers.process import Process, spawn
from tests.interop.peers.programs import Programs

# queue directories: name, mode (Postfix's own defaults); those in _DROP belong to the group postdrop
_QUEUE = (
    *(
        (name, 0o700)
        for name in ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming")
    ),
    *((name, 0o700) for name in ("private", "saved", "trace")),
    ("maildrop", 0o730),
    ("public", 0o710),
)
_DROP = ("maildrop", "public")


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
class Postfix:
    """A running Postfix: where it listens, what it got, what it logged."""

    config: PostfixConfig
    process: Process
    mailbox: Maildir

    @property
    def address(self) -> str:
        """The IPv4 address that it listens on."""
        return self.process.address

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return self.process.port

    def log(self) -> str:
        """Its output and mail log so far."""
        return self.process.log()


def start(programs: Programs, directory: Path, config: PostfixConfig) -> Postfix:
    """Start a Postfix in the empty private `directory`. Raises PeerMissing or ServerFailed."""
    root = programs.root("postfix")
    user = programs.account("postfix", "postfix")
    drop = programs.group("postfix", "postdrop")
    settings, queue, data = directory / "etc", directory / "queue", directory / "data"
    for path in (settings, queue, queue / "pid", data, directory / "mail"):
        path.mkdir()
    for name, mode in _QUEUE:
        (queue / name).mkdir()
        os.chown(queue / name, user.uid, drop if name in _DROP else 0)
        (queue / name).chmod(mode)
    for path in (data, directory / "mail"):
        os.chown(path, user.uid, user.gid)
        path.chmod(0o700)
    if config.certificate:
        (settings / "chain.pem").touch(mode=0o600)
        (settings / "chain.pem").write_bytes(config.key + b"\n" + config.certificate)
    address = own_address(config.port)
    (settings / "main.cf").write_text(_main(config, programs, directory))
    (settings / "master.cf").write_text(_master(config, address))
    (settings / "dynamicmaps.cf").touch()  # table types that come as plug-ins: none
    for path in settings.iterdir():
        os.utime(path, (0, 0))  # Postfix waits until its configuration has been left alone for two seconds
    process = spawn(
        "postfix",
        [root / "usr/lib/postfix/sbin/master", "-c", settings, "-d"],
        programs.environment("postfix") | {"MAIL_CONFIG": str(settings), "MAIL_LOGTAG": "postfix"},
        address=address,
        port=config.port,
        directory=directory,
        logs=("mail.log",),
    )
    return Postfix(config, process, Maildir(directory / "mail" / "all", process.log))


def _main(config: PostfixConfig, programs: Programs, directory: Path) -> str:
    root = str(programs.root("postfix")).rstrip("/")
    user = programs.account("postfix", "postfix")
    environment = " ".join(programs.environment("postfix"))
    tls = "none"
    if config.certificate:
        tls = f"may\nsmtpd_tls_chain_files = {directory}/etc/chain.pem"
    return f"""\
compatibility_level = 3.6
myhostname = {config.hostname}
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
queue_directory = {directory}/queue
data_directory = {directory}/data
daemon_directory = {root}/usr/lib/postfix/sbin
command_directory = {root}/usr/sbin
shlib_directory = {root}/usr/lib/postfix
meta_directory = {directory}/etc
import_environment = MAIL_CONFIG MAIL_LOGTAG LC_ALL {environment}
export_environment = MAIL_CONFIG MAIL_LOGTAG LC_ALL {environment}
mail_owner = postfix
setgid_group = postdrop
maillog_file = {directory}/mail.log
maillog_file_prefixes = {directory}
alias_maps =
alias_database =
local_recipient_maps =
smtpd_peername_lookup = no
disable_dns_lookups = yes
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions =
smtpd_discard_ehlo_keywords = {", ".join(config.discard_ehlo)}
smtpd_tls_security_level = {tls}
smtpd_tls_received_header = yes
smtpd_tls_loglevel = 1
message_size_limit = 104857600
mailbox_size_limit = 0
virtual_mailbox_limit = 0
virtual_transport = virtual
virtual_mailbox_domains = static:all
virtual_mailbox_base = {directory}/mail
virtual_mailbox_maps = static:all/
virtual_minimum_uid = 1
virtual_uid_maps = static:{user.uid}
virtual_gid_maps = static:{user.gid}
default_database_type = texthash
local_header_rewrite_clients =
default_privs = nobody
{config.main}
"""


def _master(config: PostfixConfig, address: str) -> str:
    # The listening address stands here: inet_interfaces accepts none but those that an interface lists.
    # service, type, private, unprivileged, chroot, wakeup, process limit, command; qmgr looks at mail that was
    # locked when it was due only when it is woken up
    return f"""\
{address}:{config.port} inet n - n - 20 smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 1 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
{config.master}
"""
