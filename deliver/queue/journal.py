"""The journal of replies: what a worker knows before the database does.

A positive final reply that has been read is appended by one write(2), before anything is awaited. So a
process that dies between the reply and the commit finds out at the next start that the message was delivered,
and does not deliver it again. It is not fsynced: after a power loss the attempt is in doubt.

A record is a line feed, CRC-32 in hexadecimal, a space, a JSON object, and a line feed again, so that a torn
or damaged one does not spoil its neighbours; it is skipped and counted. Records are dropped when their
attempt has been settled by a durable commit.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from deliver.errors import StorageError
from deliver.message import MessageId
from deliver.outcome import Contact, Delivered
from deliver.privatefile import create_private_file
from deliver.smtp.reply import Reply

COMPACT_AT: Final = 4 * 1024 * 1024  # octets of settled records that are kept at most
MAX_TEXT: Final = 512  # characters of a reply line

_ENCODER: Final = msgspec.json.Encoder()
log = logging.getLogger("outrider.queue")


class Proof(Struct, frozen=True):
    """A positive reply to the content of `message_id` for the recipients `ordinals`, read in `attempt_id`.

    `dsn_passed`: see `deliver.outcome.Delivered`; None, of an old record: not known, so nothing is reported.
    """

    attempt_id: int
    message_id: MessageId
    ordinals: tuple[int, ...]
    reply: Reply
    host: str = ""
    address: str = ""
    dsn_passed: bool | None = None

    @classmethod
    def of(
        cls, attempt_id: int, message_id: MessageId, ordinals: tuple[int, ...], outcome: Delivered
    ) -> Proof:
        """The proof of an outcome that a server has just given."""
        contact = outcome.contact
        return cls(
            attempt_id,
            message_id,
            ordinals,
            outcome.reply,
            contact.host[:MAX_TEXT],
            contact.address,
            outcome.dsn_passed,
        )

    @property
    def outcome(self) -> Delivered:
        """What it proves."""
        return Delivered(self.reply, Contact(self.host, self.address, 0), bool(self.dsn_passed))


class Journal:
    """One worker's file, open for appending. Synchronous on purpose: nothing can be cancelled in between."""

    def __init__(self, path: Path) -> None:
        """Open or create with mode 0600. Raises StorageError."""
        create_private_file(path)
        self._path = path
        self._descriptor = self._open(path)
        self._size = os.fstat(self._descriptor).st_size
        self._open_proofs: dict[int, list[Proof]] = {}
        for proof in read(path):
            self._open_proofs.setdefault(proof.attempt_id, []).append(proof)

    def proofs(self) -> tuple[Proof, ...]:
        """Every proof whose attempt has not been settled durably."""
        return tuple(proof for proofs in self._open_proofs.values() for proof in proofs)

    def note(self, proof: Proof) -> None:
        """Append one record. Never raises: the reply has been read, and its settlement follows."""
        self._open_proofs.setdefault(proof.attempt_id, []).append(proof)
        record = _record(proof)
        try:
            written = os.write(self._descriptor, record)
            if written < len(record):
                os.ftruncate(self._descriptor, self._size)
                raise OSError(28, "no space left for a whole record")
            self._size += written
        except OSError as error:
            log.error("cannot write the journal %s: %s; free disk space", self._path, error)

    def settled(self, attempt_id: int) -> None:
        """Forget the attempt: its outcomes are in the database, durably. Never raises."""
        self._open_proofs.pop(attempt_id, None)
        try:
            if not self._open_proofs and self._size:
                os.ftruncate(self._descriptor, 0)
                self._size = 0
            elif self._size > COMPACT_AT and self._size > COMPACT_AT + self._open_octets():
                self._compact()
        except OSError as error:
            log.error("cannot shorten the journal %s: %s", self._path, error)

    def _open_octets(self) -> int:
        return sum(len(_record(proof)) for proof in self.proofs())

    def clear(self) -> None:
        """Forget everything: it has been replayed and committed."""
        for attempt_id in tuple(self._open_proofs):
            self.settled(attempt_id)
        if self._size:
            os.ftruncate(self._descriptor, 0)
            self._size = 0

    def close(self) -> None:
        """Close the file; what is not settled stays in it."""
        os.close(self._descriptor)

    def _compact(self) -> None:
        """Write the open records to a new file and put it in the place of the old one."""
        temporary = self._path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        records = b"".join(_record(proof) for proof in self.proofs())
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600)
        try:
            if os.write(descriptor, records) < len(records):
                raise OSError(28, "no space left for the open records")
            os.rename(temporary, self._path)
        except OSError:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise
        os.close(self._descriptor)
        self._descriptor, self._size = descriptor, len(records)

    @staticmethod
    def _open(path: Path) -> int:
        try:
            return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(f"opening {path}", error.strerror or str(error), "make it writable") from error


def read(path: Path) -> tuple[Proof, ...]:
    """Every intact record of a journal, in order; none when there is no file. Raises StorageError."""
    try:
        lines = [line for line in path.read_bytes().split(b"\n") if line]
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StorageError(f"reading {path}", error.strerror or str(error), "make it readable") from error
    proofs = [proof for line in lines if (proof := _parse(line)) is not None]
    if len(proofs) < len(lines):
        log.warning("journal %s: skipped %d damaged records", path, len(lines) - len(proofs))
    return tuple(proofs)


def _record(proof: Proof) -> bytes:
    plain = {
        "attempt": proof.attempt_id,
        "message": proof.message_id,
        "ordinals": proof.ordinals,
        "code": proof.reply.code,
        "lines": [line[:MAX_TEXT] for line in proof.reply.lines[:10]],
        "host": proof.host,
        "address": proof.address,
    }
    if proof.dsn_passed is not None:
        plain["dsn_passed"] = proof.dsn_passed
    body = _encode(plain)
    return b"\n%08x %s\n" % (zlib.crc32(body), body)


def _encode(plain: object) -> bytes:
    try:
        return _ENCODER.encode(plain)
    except UnicodeEncodeError:  # half a surrogate pair, which UTF-8 cannot have
        return json.dumps(plain, separators=(",", ":")).encode("ascii")


def _parse(line: bytes) -> Proof | None:
    checksum, _, body = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    try:
        plain = json.loads(body)
        return Proof(
            attempt_id=int(plain["attempt"]),
            message_id=MessageId(str(plain["message"])),
            ordinals=tuple(int(ordinal) for ordinal in plain["ordinals"]),
            reply=Reply(int(plain["code"]), tuple(str(text) for text in plain["lines"])),
            host=str(plain["host"]),
            address=str(plain["address"]),
            dsn_passed=None if plain.get("dsn_passed") is None else bool(plain["dsn_passed"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
