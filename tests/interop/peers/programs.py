"""Where the peers' programs are, and the environment that they run in.

A program that the machine has is used from there; else the copy that `make peers` unpacked into `.peers/`. That copy finds its
libraries through LD_LIBRARY_PATH, and its accounts (Debian-exim, postfix, postdrop) through nss_wrapper, so that neither
the machine's libraries nor its user database are touched. Everything about a missing peer ends in `PeerMissing`, whose
text is the reason with which a test skips.
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROGRAMS: Mapping[str, str] = {
    "exim": "usr/sbin/exim4",
    "postfix": "usr/lib/postfix/sbin/master",
    "nsd": "usr/sbin/nsd",
    "unbound": "usr/sbin/unbound",
    "dovecot": "usr/sbin/dovecot",
    "haproxy": "usr/sbin/haproxy",
    "swaks": "usr/bin/swaks",
    "mariadb": "usr/sbin/mariadbd",
    "postgres": "usr/lib/postgresql/*/bin/postgres",
}
UNPACKED = Path(__file__).parents[3] / ".peers" / "root"


class PeerMissing(Exception):
    """A peer cannot be run on this machine; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user that a peer runs as, as the peer sees it."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Programs:
    """The peers of this machine.

    `unpacked` is the root of the private copy, readable by unprivileged users.
    """

    unpacked: Path

    def path(self, peer: str) -> Path:
        """The program of `peer`, absolute. Raises PeerMissing."""
        if os.geteuid() != 0:
            raise PeerMissing(f"{peer} runs as root in these tests; run them as root on Debian")
        for root in (Path("/"), self.unpacked):
            if found := sorted(root.glob(PROGRAMS[peer])):
                return found[-1]
        raise PeerMissing(f"{peer} is not on this machine; `make peers` (as root on Debian) fetches it")

    def root(self, peer: str) -> Path:
        """The directory below which `peer` has its usr/, either / or the private copy."""
        program = self.path(peer)
        return Path("/") if self.unpacked not in program.parents else self.unpacked

    def environment(self, peer: str) -> dict[str, str]:
        """What must be in the environment of `peer`, beyond PATH and the locale."""
        settings = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        if self.root(peer) == Path("/"):
            return settings
        libraries = [
            *sorted(self.unpacked.glob("usr/lib/*-linux-*")),
            *sorted(self.unpacked.glob("lib/*-linux-*")),
            self.unpacked / "usr/lib",
            self.unpacked / "usr/lib/postfix",
        ]
        settings["LD_LIBRARY_PATH"] = ":".join(str(path) for path in libraries if path.is_dir())
        wrapper = next((p for p in self._wrappers() if p.exists()), None)
        if wrapper is None:
            raise PeerMissing("libnss_wrapper.so is not on this machine; `make peers` fetches it")
        settings["LD_PRELOAD"] = str(wrapper)
        settings["NSS_WRAPPER_PASSWD"] = str(self.unpacked / "accounts/passwd")
        settings["NSS_WRAPPER_GROUP"] = str(self.unpacked / "accounts/group")
        return settings

    def account(self, peer: str, name: str) -> Account:
        """The account `name` as `peer` sees it. Raises PeerMissing."""
        if self.root(peer) == Path("/"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError as error:
                raise PeerMissing(f"{peer} is installed but its user {name} does not exist") from error
            return Account(name, entry.pw_uid, entry.pw_gid)
        for line in (self.unpacked / "accounts/passwd").read_text().splitlines():
            fields = line.split(":")
            if fields[0] == name:
                return Account(name, int(fields[2]), int(fields[3]))
        raise PeerMissing(f"the private copy of {peer} has no user {name}; run `make peers` again")

    def group(self, peer: str, name: str) -> int:
        """The number of the group `name` as `peer` sees it. Raises PeerMissing."""
        table = Path("/etc/group") if self.root(peer) == Path("/") else self.unpacked / "accounts/group"
        for line in table.read_text().splitlines():
            fields = line.split(":")
            if fields[0] == name:
                return int(fields[2])
        raise PeerMissing(f"{peer} has no group {name}")

    def _wrappers(self) -> list[Path]:
        roots = (Path("/"), self.unpacked)
        return [path for root in roots for path in sorted(root.glob("usr/lib/*-linux-*/libnss_wrapper.so"))]


def locate(scratch: Path) -> Programs:
    """The peers of this machine; `scratch` takes a copy if the checkout is closed to unprivileged users.

    A checkout below /root is such a place, and servers that give up root could not run their own programs there.
    """
    if not UNPACKED.is_dir() or _open_to_all(UNPACKED):
        return Programs(UNPACKED)
    copy = scratch / "programs"
    shutil.copytree(UNPACKED, copy, symlinks=True)
    return Programs(copy)


def _open_to_all(directory: Path) -> bool:
    return all(path.stat().st_mode & 0o005 == 0o005 for path in (directory, *directory.parents))
