"""Sealing TLS sessions: what a row holds is secret, and tied to its key columns and its expiry.

ChaCha20-Poly1305 (RFC 8439) with a random nonce per row; the associated data are the key, the ticket's name,
the version, when it was saved and when it expires, so that a row copied to another key, prolonged or written
by someone without the key file opens to nothing. The key file (32 octets, mode 0600) lies outside the
database; whoever deletes it forgets all sessions. A key file that others may read, that belongs to someone
else or is too short raises KeyUnusable, and sessions are not kept: deliveries make full handshakes.
"""

from __future__ import annotations

import os
import secrets
import stat
import struct
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from hints.check import accept_session
from hints.records import SessionKey, TlsSession

KEY_OCTETS: Final = 32
_NONCE: Final = 12
_PURPOSE: Final = "outrider tls session 1"


class KeyUnusable(Exception):
    """The key file cannot be used; the text says why."""


class _Sealed(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    session: bytes
    chain: tuple[bytes, ...]
    staple: bytes | None
    verified_by: str


class Sealer:
    """Seals and opens with one key of 32 octets. `random` gives that many random octets."""

    def __init__(self, key: bytes, *, random: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._aead = ChaCha20Poly1305(key)
        self._name_key = blake2b(key, person=b"ticket name", digest_size=32).digest()
        self._random = random

    def ticket(self, session: TlsSession) -> str:
        """The name of a row: of this very session in TLS 1.3, one per key in TLS 1.2."""
        if not session.single_use:
            return "reusable"
        return blake2b(session.session, key=self._name_key, digest_size=16).hexdigest()

    def seal(self, session: TlsSession) -> bytes:
        """Nonce and sealed octets."""
        plain = msgspec.msgpack.encode(
            _Sealed(session.session, session.chain, session.staple, session.verified_by)
        )
        nonce = self._random(_NONCE)
        bound = _bound(session.key, self.ticket(session), session.version, session.saved_at, session.expires)
        return nonce + self._aead.encrypt(nonce, plain, bound)

    def unseal(
        self, sealed: bytes, key: SessionKey, ticket: str, version: str, saved_at: float, expires: float
    ) -> TlsSession | None:
        """The session, if exactly this was sealed with this key."""
        bound = _bound(key, ticket, version, saved_at, expires)
        try:
            plain = self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], bound)
            read = msgspec.msgpack.decode(plain, type=_Sealed)
        except (InvalidTag, ValueError, msgspec.MsgspecError):
            return None
        session = TlsSession(
            key, read.session, read.chain, read.staple, read.verified_by, version, saved_at, expires
        )
        return session if accept_session(session) == session and self.ticket(session) == ticket else None


def load_key(path: Path) -> bytes:
    """The key in the file, made if there is none. Safe with several processes. Raises KeyUnusable."""
    try:
        try:
            return _read(path)
        except FileNotFoundError:
            _create(path)
            return _read(path)
    except OSError as error:
        raise KeyUnusable(f"the key file {path}: {error.strerror or error}") from error


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise KeyUnusable(f"the key file {path} is not a file that only its user may read; delete it")
        key = os.read(descriptor, KEY_OCTETS + 1)
    finally:
        os.close(descriptor)
    if len(key) != KEY_OCTETS:
        raise KeyUnusable(f"the key file {path} does not hold {KEY_OCTETS} octets; delete it")
    return key


def _create(path: Path) -> None:
    """Written whole under another name and linked, so that nobody ever reads a part; the first one wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_OCTETS))
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)


def _bound(key: SessionKey, ticket: str, version: str, saved_at: float, expires: float) -> bytes:
    """The associated data; msgpack gives each part its length, so that no two meanings look the same."""
    parts = (
        *(_PURPOSE, key.host, key.port, key.sni, key.level, key.client_certificate),
        *(key.minimum_version, key.greeted_as, ticket, version),
    )
    return msgspec.msgpack.encode(parts) + struct.pack(">dd", saved_at, expires)
