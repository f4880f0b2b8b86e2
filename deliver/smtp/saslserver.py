"""Logging in: the server's half of SASL mechanisms without I/O (RFC 4422, RFC 4954).

    mechanism            initial response        then
    -------------------  ----------------------  ------------------------------------------------------------
    PLAIN                everything              Check
    LOGIN                the user name, if any   Challenge for what is missing, Check
    SCRAM-SHA-256        client-first-message    Challenge, Challenge (our proof), Accepted
    SCRAM-SHA-256-PLUS   the same                the same, bound to this TLS connection (RFC 9266, RFC 5929)

`respond` takes what the client said and gives the next step; `Check` leaves the password to the caller. A
client acts for itself only: an authorization identity other than its own name is refused. Who is not known
goes through the same steps as who is, up to the proof, so that names cannot be tried out. No text and no
repr shows a secret.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deliver.smtp.saslprep import saslprep

MAX_NAME = 255  # octets of a user name
MAX_PASSWORD = 1024
MAX_NONCE = 512

_BARE_FIRST = re.compile(r"n=([^,]*),r=([\x21-\x2b\x2d-\x7e]+)(?:,.*)?\Z", re.DOTALL)
_FINAL = re.compile(r"c=([A-Za-z0-9+/=]+),r=([\x21-\x2b\x2d-\x7e]+)(?:,[^,]*)*?,p=([A-Za-z0-9+/=]+)\Z")
_GS2 = re.compile(r"(n|y|p=([A-Za-z0-9.-]+)),(?:a=([^,]*))?,", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """Say this, and go on with the answer."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Check:
    """Is this the password? The exchange is over either way."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The client is `username`."""

    username: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The client has not shown that it is who it says (`username`, "" where that is not known)."""

    why: str
    username: str = ""


@dataclass(frozen=True, slots=True)
class Broken:
    """The client does not keep to the mechanism."""

    why: str


Step = Challenge | Check | Accepted | Rejected | Broken


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """What a server keeps of a password (RFC 5802 3); `stored` None: nothing fits."""

    salt: bytes
    iterations: int
    stored: bytes | None = field(repr=False)
    server: bytes = field(repr=False)


class Exchange(ABC):
    """One exchange under way; every call of `respond` is the next step."""

    @abstractmethod
    def respond(self, said: bytes | None) -> Step:
        """`said`: the initial response (None: there was none), then the answer to each challenge."""


class PlainExchange(Exchange):
    """RFC 4616."""

    def __init__(self) -> None:
        self._asked = False

    def respond(self, said: bytes | None) -> Step:
        """An empty challenge where nothing came with the command, then Check."""
        if said is None and not self._asked:
            self._asked = True
            return Challenge(b"")
        parts = _text(said, MAX_NAME * 2 + MAX_PASSWORD + 2).split("\0")
        if len(parts) != 3:
            return Broken("it is not what PLAIN says")
        return _check(parts[1], parts[2], parts[0])


class LoginExchange(Exchange):
    """LOGIN (draft-murchison-sasl-login); the user name may come with the command, as many clients do it."""

    def __init__(self) -> None:
        self._asked = False
        self._username: str | None = None

    def respond(self, said: bytes | None) -> Step:
        """The two prompts, then Check."""
        if said is None and not self._asked:
            self._asked = True
            return Challenge(b"Username:")
        if self._username is None:
            self._username = _text(said, MAX_NAME)
            return Challenge(b"Password:") if self._username else Broken("it has no user name")
        return _check(self._username, _text(said, MAX_PASSWORD))


class ScramExchange(Exchange):
    """RFC 5802 with SHA-256 (RFC 7677).

    `keys` gives what is kept of a user, also for one who does not exist (`stored` None). `bindings` are those
    that this TLS connection has, by type; `plus`: this is the -PLUS mechanism; `offered_plus`: it is offered,
    so that a client which thinks otherwise has been deceived (RFC 5802 6). `nonce`: printable, new each time.
    """

    def __init__(
        self,
        keys: Callable[[str], ScramKeys],
        nonce: str,
        bindings: Mapping[str, bytes],
        *,
        plus: bool = False,
        offered_plus: bool = False,
    ) -> None:
        self._keys_of = keys
        self._nonce = nonce
        self._bindings = bindings
        self._plus = plus
        self._offered_plus = offered_plus
        self._asked = False
        self._username = ""
        self._keys: ScramKeys | None = None
        self._bound = b""
        self._firsts = ""
        self._proven = False

    def respond(self, said: bytes | None) -> Step:
        """client-first-message, client-final-message, nothing."""
        if said is None and not self._asked:
            self._asked = True
            return Challenge(b"")
        if self._proven:
            return Broken("SCRAM is over") if said else Accepted(self._username)
        try:
            text = (said or b"").decode("utf-8")
        except UnicodeDecodeError:
            return Broken("it is not text")
        return self._first(text) if self._keys is None else self._last(text, self._keys)

    def _first(self, text: str) -> Step:
        header = _GS2.match(text)
        bare = _BARE_FIRST.match(text[header.end() :]) if header else None
        if header is None or bare is None or len(bare[2]) > MAX_NONCE:
            return Broken("it is no first message of SCRAM")
        fault = self._misbound(header[1], header[2])
        if fault:
            return fault
        name = _name(bare[1])
        if name is None or (header[3] and _name(header[3]) != name):
            return Rejected("the name cannot be used, or another user is meant")
        self._username = name
        self._bound = header[0].encode() + self._bindings.get(header[2] or "", b"")
        keys = self._keys = self._keys_of(name)
        self._nonce = bare[2] + self._nonce
        answer = f"r={self._nonce},s={b64encode(keys.salt).decode()},i={keys.iterations}"
        self._firsts = f"{text[header.end() :]},{answer}"
        return Challenge(answer.encode())

    def _misbound(self, flag: str, kind: str | None) -> Step | None:
        if self._plus != flag.startswith("p="):
            return Broken("channel binding and mechanism contradict each other")
        if kind is not None and kind not in self._bindings:
            return Rejected("this channel binding is not supported")
        if flag == "y" and self._offered_plus:
            return Rejected("somebody has taken away our offer of channel binding")
        return None

    def _last(self, text: str, keys: ScramKeys) -> Step:
        found = _FINAL.match(text)
        bound, proof = (_decoded(found[1]), _decoded(found[3])) if found else (None, None)
        if found is None or bound is None or proof is None:
            return Broken("it is no final message of SCRAM")
        if not hmac.compare_digest(found[2], self._nonce):
            return Rejected("it has another nonce", self._username)
        if not hmac.compare_digest(bound, self._bound):
            return Rejected("it is bound to another connection", self._username)
        signed = f"{self._firsts},{text[: found.start(3) - 3]}".encode()
        if not _proves(proof, keys, signed):
            return Rejected("wrong user name or password", self._username)
        self._proven = True
        signature = hmac.digest(keys.server, signed, "sha256")
        return Challenge(b"v=" + b64encode(signature))


def derived_keys(password: str, salt: bytes, iterations: int) -> ScramKeys:
    """What to keep of a password; takes long (RFC 5802 3). Raises ValueError for an unusable password."""
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)
    client = hmac.digest(salted, b"Client Key", "sha256")
    server = hmac.digest(salted, b"Server Key", "sha256")
    return ScramKeys(salt, iterations, hashlib.sha256(client).digest(), server)


def _proves(proof: bytes, keys: ScramKeys, signed: bytes) -> bool:
    stored = keys.stored or bytes(32)
    signature = hmac.digest(stored, signed, "sha256")
    if len(proof) != len(signature):
        return False
    client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    fits = hmac.compare_digest(hashlib.sha256(client_key).digest(), stored)
    return fits and keys.stored is not None


def _check(username: str, password: str, authority: str = "") -> Step:
    if not username or not password:
        return Broken("it has no user name or no password")
    name = _prepared(username)
    if name is None or (authority and _prepared(authority) != name):
        return Rejected("the name cannot be used, or another user is meant")
    return Check(name, password)


def _prepared(name: str) -> str | None:
    try:
        return saslprep(name) if len(name.encode()) <= MAX_NAME else None
    except ValueError:
        return None


def _name(text: str) -> str | None:
    """A saslname (RFC 5802 5.1), or None."""
    if re.search(r"=(?!2C|3D)", text):
        return None
    return _prepared(text.replace("=2C", ",").replace("=3D", "=")) or None


def _text(said: bytes | None, longest: int) -> str:
    """As text; what is none, or too long, is empty."""
    if said is None or len(said) > longest:
        return ""
    try:
        return said.decode("utf-8")
    except UnicodeDecodeError:
        return ""


def _decoded(text: str) -> bytes | None:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
