"""Dovecot's authentication service alone: the socket auth-client, on a UNIX socket and over TCP.

Dovecot looks for its own programs below /usr. The private copy is laid over /usr in a mount namespace of the server's own, so
that nothing of the machine changes; that takes a kernel that lets root do it.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.interop.peers.address import own_address
from tests.interop.peers.peer import Peer
from tests.interop.peers.process import spawn
from tests.interop.peers.programs import PeerMissing, Programs

_OVER_USR = 'mount -t overlay overlay -o "lowerdir=$1/usr:/usr" /usr && shift && exec "$@"'


@dataclass(frozen=True, slots=True)
class DovecotConfig:
    """What a test may choose. `entries` are lines of a passwd-file, `more` further settings."""

    entries: tuple[str, ...] = ()
    mechanisms: str = "plain login scram-sha-256"
    port: int = 12345
    more: str = ""


@dataclass(frozen=True, slots=True)
class Dovecot(Peer[DovecotConfig]):
    """A running Dovecot: where it listens, what it logged."""

    @property
    def socket(self) -> Path:
        """The UNIX socket."""
        return self.process.directory / "auth-client"


def start(programs: Programs, directory: Path, config: DovecotConfig) -> Dovecot:
    """Start a Dovecot in the empty private `directory`. Raises PeerMissing or ServerFailed."""
    program = programs.path("dovecot")
    command: list[str | Path] = [program, "-F", "-c", directory / "dovecot.conf"]
    root = programs.root("dovecot")
    if root != Path("/"):
        over = ["unshare", "-m", "sh", "-c", _OVER_USR, "dovecot", str(root)]
        if subprocess.run([*over, "true"], capture_output=True, check=False).returncode:
            raise PeerMissing("dovecot cannot be laid over /usr here; install dovecot-core")
        command = [*over, "/usr/sbin/dovecot", "-F", "-c", directory / "dovecot.conf"]
    address = own_address(config.port)
    (directory / "passwords").write_text("".join(f"{entry}\n" for entry in config.entries))
    (directory / "dovecot.conf").write_text(_configuration(config, directory, address))
    process = spawn(
        "dovecot",
        command,
        {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        address=address,
        port=config.port,
        directory=directory,
        logs=("dovecot.log",),
    )
    return Dovecot(config, process)


def _configuration(config: DovecotConfig, directory: Path, address: str) -> str:
    return f"""\
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/dovecot.log
protocols =
ssl = no
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
auth_mechanisms = {config.mechanisms}
auth_failure_delay = 0
auth_verbose = yes
passdb {{
  driver = passwd-file
  args = {directory}/passwords
}}
userdb {{
  driver = static
  args = uid=65534 gid=65534 home=/nonexistent
}}
service auth {{
  user = root
  unix_listener {directory}/auth-client {{
    mode = 0666
  }}
  inet_listener {{
    address = {address}
    port = {config.port}
  }}
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
{config.more}
"""
