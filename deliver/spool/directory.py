"""The directory in which Exim leaves pairs of files: finding, locking, removing and setting aside. Blocking.

A pair is taken only when nobody works at it any more:

    Exim delivers (a hard link of its own file)    its lock on the first line of -D; the lease
    Exim copies -D                                 the lease: somebody has it open for writing
    -H without -D                                  too early; after `OVERDUE` it is set aside
    a -H or -D that is not complete                too early; after `OVERDUE` it is set aside

Exim writes -H before it creates -D, and locks the first line of -D, with a record lock, while it works at a
message. Where a lease is not to be had (another user's file), -D must not have changed for `QUIET`.

What cannot be used is moved to `set-aside/` beside a file with the reason, and never deleted. Links, devices
and FIFOs are never followed or opened for waiting. One process must have a pair open only once: record locks
are the process's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import signal
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deliver.errors import StorageError
from deliver.spool.header import ID, MAX_FILE, Malformed, SpoolHeader, parse

SET_ASIDE: Final = "set-aside"
OVERDUE: Final = 60.0  # seconds without a change, after which a pair that is not complete never will be
QUIET: Final = 5.0  # seconds

_NAME: Final = re.compile(rf"({ID})-([HD])\Z")
_READING: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LOCKING: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotYet(Exception):
    """Somebody is still at work, or may be: look again later. The text says why."""


class Unusable(Exception):
    """This pair will never be a message; the text says why."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A complete pair that is locked. `body` is open at its first octet after the first line, `offset`."""

    id: str
    header: SpoolHeader
    body: int
    offset: int
    changed_at: float  # seconds since the epoch: the later one of the two files


@dataclass(frozen=True, slots=True)
class Found:
    """The ids in a directory, the oldest first, by what is there of them."""

    pairs: tuple[str, ...]
    bodies: tuple[str, ...]  # a -D without its -H


class SpoolDirectory:
    """One directory. All methods raise StorageError for what concerns the directory or our rights."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self) -> Found:
        """What is there. Ids sort by time."""
        kinds: dict[str, set[str]] = {}
        try:
            if os.stat(self.path).st_mode & stat.S_IWOTH:
                raise StorageError(
                    f"looking into {self.path}", "anybody may put messages there", "chmod o-w, as Exim's is"
                )
            for name in os.listdir(self.path):
                if found := _NAME.match(name):
                    kinds.setdefault(found[1], set()).add(found[2])
        except OSError as error:
            raise _failed("looking into", self.path, error) from error
        return Found(
            pairs=tuple(sorted(one for one, letters in kinds.items() if "H" in letters)),
            bodies=tuple(sorted(one for one, letters in kinds.items() if "H" not in letters)),
        )

    @contextmanager
    def opened(self, spool_id: str, now: float) -> Iterator[Pair]:
        """Lock a pair and read its header. Raises NotYet and Unusable. `now` in seconds since the epoch."""
        with ExitStack() as stack:
            head, _ = self._open(stack, spool_id, "H", _READING)
            found = self._open_body(stack, spool_id, head, now)
            if found is None:
                raise overdue("its -D is not there", head.st_mtime, now)
            body, status = found
            header = self._read_header(stack, spool_id, now)
            first = f"{spool_id}-D\n".encode()
            if os.pread(body, len(first), 0) != first:
                raise overdue("the first line of -D is not its name", status.st_mtime, now)
            changed = max(head.st_mtime, status.st_mtime)
            yield Pair(spool_id, header, body, len(first), changed)

    def remove(self, spool_id: str) -> None:
        """Delete a pair: -H first, so that what a crash leaves is no message."""
        for letter in "HD":
            path = self._path(spool_id, letter)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _failed("removing", path, error) from error

    def set_aside(self, spool_id: str, why: str) -> Path:
        """Move what there is of a pair to `set-aside/`, with the reason; the place of the reason."""
        place = self.path / SET_ASIDE
        try:
            place.mkdir(mode=0o700, exist_ok=True)
            name = next(
                name
                for name in (spool_id, *(f"{spool_id}.{n}" for n in range(1, 10_000)))
                if not any((place / f"{name}{end}").exists() for end in ("-H", "-D", ".reason"))
            )
            reason = place / f"{name}.reason"
            reason.write_text(f"{why}\n")
            for letter in "DH":
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self._path(spool_id, letter), place / f"{name}-{letter}")
        except OSError as error:
            raise _failed("setting aside", self._path(spool_id, "H"), error) from error
        return reason

    def age(self, spool_id: str, letter: str, now: float) -> float:
        """Seconds since the file changed; 0 if it is not there."""
        try:
            return now - os.stat(self._path(spool_id, letter), follow_symlinks=False).st_mtime
        except OSError:
            return 0.0

    def _path(self, spool_id: str, letter: str) -> Path:
        return self.path / f"{spool_id}-{letter}"

    def _open_body(
        self, stack: ExitStack, spool_id: str, head: os.stat_result, now: float
    ) -> tuple[int, os.stat_result] | None:
        """Open -D for us alone; None if it is not there."""
        try:
            with ExitStack() as looking:
                status, reading = self._open(looking, spool_id, "D", _READING)
                _check_unwritten(reading, status, now)
            status, body = self._open(stack, spool_id, "D", _LOCKING)
        except _Gone:
            return None
        try:
            fcntl.lockf(body, fcntl.LOCK_EX | fcntl.LOCK_NB, len(spool_id) + len("-D\n"), 0)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise _failed("locking", self._path(spool_id, "D"), error) from error
            raise NotYet("another process has locked it") from None
        if self._is_another(spool_id, "D", status) or self._is_another(spool_id, "H", head):
            raise NotYet("another process has just taken it")
        return body, status

    def _is_another(self, spool_id: str, letter: str, status: os.stat_result) -> bool:
        try:
            there = os.stat(self._path(spool_id, letter), follow_symlinks=False)
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) != (status.st_dev, status.st_ino)

    def _read_header(self, stack: ExitStack, spool_id: str, now: float) -> SpoolHeader:
        status, descriptor = self._open(stack, spool_id, "H", _READING)
        content = b""
        while len(content) <= MAX_FILE and (piece := os.read(descriptor, 1024 * 1024)):
            content += piece
        try:
            header = parse(content)
        except Malformed as error:
            raise overdue(f"-H: {error}", status.st_mtime, now) from None
        if header.id != spool_id:
            raise Unusable(f"-H is that of {header.id}")
        return header

    def _open(self, stack: ExitStack, spool_id: str, letter: str, how: int) -> tuple[os.stat_result, int]:
        """Open a regular file until the end of the stack."""
        path = self._path(spool_id, letter)
        try:
            descriptor = os.open(path, how)
        except FileNotFoundError:
            raise _Gone(f"-{letter} is gone") from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise Unusable(f"-{letter} is no regular file") from None
            raise _failed("opening", path, error) from error
        stack.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Unusable(f"-{letter} is no regular file")
        return status, descriptor


class _Gone(NotYet):
    """The file is not there."""


def overdue(why: str, changed_at: float, now: float) -> Exception:
    """A file that is not complete may become so, for a while. A clock that was set back gives it time."""
    return Unusable(why) if now - changed_at >= OVERDUE else NotYet(why)


def _check_unwritten(reading: int, status: os.stat_result, now: float) -> None:
    """Raise NotYet while somebody has the file open for writing: a read lease is then refused."""
    fcntl.fcntl(reading, fcntl.F_SETSIG, signal.SIGURG)  # SIGIO would end us if a writer came just now
    try:
        fcntl.fcntl(reading, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            raise NotYet("another process has -D open for writing") from None
        if now - status.st_mtime < QUIET:  # no lease for us here
            raise NotYet("it may still be written") from None
    else:
        fcntl.fcntl(reading, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def _failed(verb: str, path: Path, error: OSError) -> StorageError:
    remedy = "let Outrider run as the user that Exim runs as, or give it the same rights there"
    return StorageError(f"{verb} {path}", error.strerror or str(error), remedy)
