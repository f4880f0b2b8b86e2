"""Listening on UNIX sockets. One belongs to the process that holds the lock beside it (`NAME.lock`).

What a process that is gone has left there is replaced; another file, or a socket in use, is not.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from deliver.errors import ConfigurationError

BACKLOG = 1024  # connections that wait to be accepted


@contextmanager
def listening(path: Path, *, mode: int, group: str, key: str) -> Iterator[trio.SocketListener]:
    """A socket with this mode and group ("": our own) for the length of the block; then it is removed.

    `key` is the setting that named it. Raises ConfigurationError.
    """
    attempted = f"listening on {path}"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _refused(attempted, error, key) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear(path)
            listener = _bind(path, mode, grp.getgrnam(group).gr_gid if group else -1)
        except BlockingIOError:
            remedy = f"stop it, or change {key}"
            raise ConfigurationError(attempted, "another process listens there", remedy) from None
        except KeyError:
            raise ConfigurationError(attempted, f"there is no group {group}", f"see {key}") from None
        except OSError as error:
            raise _refused(attempted, error, key) from error
        try:
            yield listener
        finally:
            listener.socket.close()
            path.unlink(missing_ok=True)
    finally:
        os.close(lock)


def place_of(listener: trio.SocketListener) -> str:
    """Where it listens, as settings spell it: `unix:/path`, `address:port` or `[address]:port`."""
    name = listener.socket.getsockname()
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


def _bind(path: Path, mode: int, group: int) -> trio.SocketListener:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
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
        return trio.SocketListener(trio.socket.from_stdlib_socket(made))
    except BaseException:
        made.close()
        raise


def _refused(attempted: str, error: OSError, key: str) -> ConfigurationError:
    why = os.strerror(error.errno) if error.errno else str(error)
    return ConfigurationError(attempted, why, f"correct {key}")
