"""The private place of a Postfix: configuration, queue and data directories, and what every one of them is told.

master(8) is run directly; none of its services is chrooted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.interop.peers.programs import Programs

# names and modes of the queue directories (Postfix's own defaults); those in _DROP belong to the group postdrop
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

# lines of master.cf: service, type, private, unprivileged, chroot, wakeup, process limit, command
_SERVICES = """\
cleanup unix n - n - 0 cleanup
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True, slots=True)
class PostfixHome:
    """An empty private `directory`, and the programs of the one who lives there."""

    programs: Programs
    directory: Path

    @property
    def settings(self) -> Path:
        """The directory of main.cf and master.cf."""
        return self.directory / "etc"

    @property
    def command(self) -> list[str | Path]:
        """master(8) on this configuration, in the foreground."""
        master = self.programs.root("postfix") / "usr/lib/postfix/sbin/master"
        return [master, "-c", self.settings, "-d"]

    @property
    def environment(self) -> dict[str, str]:
        """What must be in its environment, beyond that of the program."""
        return {"MAIL_CONFIG": str(self.settings), "MAIL_LOGTAG": "postfix"}

    def lay_out(self) -> None:
        """Make the directories, with the owners and modes that Postfix demands. Raises PeerMissing."""
        user = self.programs.account("postfix", "postfix")
        drop = self.programs.group("postfix", "postdrop")
        queue, data = self.directory / "queue", self.directory / "data"
        for path in (self.settings, queue, queue / "pid", data):
            path.mkdir()
        for name, mode in _QUEUE:
            (queue / name).mkdir()
            os.chown(queue / name, user.uid, drop if name in _DROP else 0)
            (queue / name).chmod(mode)
        os.chown(data, user.uid, user.gid)
        data.chmod(0o700)

    def configure(self, environment: Iterable[str], main: str, services: str) -> None:
        """Write main.cf and master.cf: what all have, then `main` and `services`.

        `environment`: the names of the variables that reach the services.
        """
        (self.settings / "main.cf").write_text(self._common(" ".join(environment)) + main)
        (self.settings / "master.cf").write_text(_SERVICES + services)
        (self.settings / "dynamicmaps.cf").touch()  # table types that come as plug-ins: none
        for path in self.settings.iterdir():
            # Postfix waits until its configuration has been left alone for two seconds
            os.utime(path, (0, 0))

    def _common(self, environment: str) -> str:
        root = str(self.programs.root("postfix")).rstrip("/")
        return f"""\
compatibility_level = 3.6
mydestination =
mynetworks = 127.0.0.0/8
inet_protocols = ipv4
queue_directory = {self.directory}/queue
data_directory = {self.directory}/data
daemon_directory = {root}/usr/lib/postfix/sbin
command_directory = {root}/usr/sbin
shlib_directory = {root}/usr/lib/postfix
meta_directory = {self.settings}
import_environment = MAIL_CONFIG MAIL_LOGTAG LC_ALL {environment}
export_environment = MAIL_CONFIG MAIL_LOGTAG LC_ALL {environment}
mail_owner = postfix
setgid_group = postdrop
maillog_file = {self.directory}/mail.log
maillog_file_prefixes = {self.directory}
alias_maps =
alias_database =
local_recipient_maps =
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions =
message_size_limit = 104857600
default_database_type = texthash
local_header_rewrite_clients =
default_privs = nobody
"""
