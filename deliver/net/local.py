"""Listening on UNIX sockets. A path belongs to the process that holds the lock beside it (`NAME.lock`).

What a process that is gone has left there is replaced; another file, or a socket in use, is not.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Protocol

from deliver.errors import ConfigurationError

BACKLOG = 1024  # connections that wait to be accepted


class LocalSocket:
    """A UNIX socket that listens, and the lock that makes its path ours until `close`.

    A process that was forked from ours may accept on it too: it calls `share`, and has no part in the path.
    """

    def __init__(self, path: Path, listening: socket.socket, lock: int) -> None:
        """From `bind`."""
        self.socket = listening
        self._path = path
        self._lock: int | None = lock

    @classmethod
    def bind(cls, path: Path, *, mode: int, group: str, key: str) -> LocalSocket:
        """A socket with this mode and group ("": our own); `key` is the setting that named it.

        Raises ConfigurationError.
        """
        attempted = f"listening on {path}"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _refused(attempted, error, key) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear(path)
            return cls(path, _bind(path, mode, grp.getgrnam(group).gr_gid if group else -1), lock)
        except BaseException as error:
            os.close(lock)
            match error:
                case BlockingIOError():
                    remedy = f"stop it, or change {key}"
                    raise ConfigurationError(attempted, "another process listens there", remedy) from None
                case KeyError():
                    raise ConfigurationError(attempted, f"there is no group {group}", f"see {key}") from None
                case OSError():
                    raise _refused(attempted, error, key) from error
            raise

    def share(self) -> None:
        """In a process that was forked: the path stays the other one's."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def close(self) -> None:
        """Listen no more. The path goes too, if it is ours."""
        self.socket.close()
        if self._lock is not None:
            self._path.unlink(missing_ok=True)
            self.share()


def place_of(listening: socket.socket) -> str:
    """Where it listens, as settings spell it: `unix:/path`, `address:port` or `[address]:port`."""
    name = listening.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    address, port = name[:2]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _clear(path: Path) -> None:
    """Remove a socket that nobody serves. Raises OSError for anything else that is there."""
    if path.is_symlink() or path.exists():
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        path.unlink()


def _bind(path: Path, mode: int, group: int) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        before = os.umask(0o177)  # closed to others until it has its mode
        try:
            made.bind(str(path))
        finally:
            os.umask(before)
        if group >= 0:
            os.chown(path, -1, group)
        os.chmod(path, mode)
        made.listen(BACKLOG)
        return made
    except BaseException:
        made.close()
        raise


def _refused(attempted: str, error: OSError, key: str) -> ConfigurationError:
    why = os.strerror(error.errno) if error.errno else str(error)
    return ConfigurationError(attempted, why, f"correct {key}")


class Connected(Protocol):
    """A connected socket, of the standard library or of trio."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """See `socket.socket.getsockopt`."""
        ...


def user_of(connected: Connected) -> int:
    """The number of the user whose process connected, or listens at the other end. Raises OSError."""
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)
