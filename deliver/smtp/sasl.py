"""Logging in: the client's half of SASL mechanisms without I/O (RFC 4422, RFC 4954).

    mechanism            what the server learns      how it proves itself
    -------------------  --------------------------  --------------------------------------------
    SCRAM-SHA-256-PLUS   nothing it could reuse      knows the password, and ends this very TLS
    SCRAM-SHA-256        nothing it could reuse      knows the password
    PLAIN LOGIN          the password                not at all: only TLS does

`candidates` says what to try, in the order of the settings. A mechanism has an `initial` response, which is
called `begun` once it has been sent, and answers each challenge by `answer`; a positive reply of the server
counts only where `proven`. What the server makes of the exchange is hostile: whatever is not exactly the
next step raises LoginBroken, and a wrong server signature ServerForged, after which not one more octet may be
said. No text shows a secret.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from deliver.errors import ConfigurationError, PeerError
from deliver.smtp.reply import Reply
from deliver.smtp.saslprep import saslprep

MIN_ITERATIONS = 4096  # RFC 7677 4; fewer make a stolen exchange cheap to guess from
MAX_ITERATIONS = 1_000_000  # about half a second; more is an attack on our processor
MAX_SALT = 1024  # octets

SCRAM = "SCRAM-SHA-256"
SCRAM_PLUS = "SCRAM-SHA-256-PLUS"

_SERVER_FIRST = re.compile(r"r=([\x21-\x2b\x2d-\x7e]+),s=([A-Za-z0-9+/=]+),i=([1-9][0-9]{0,9})(?:,.*)?\Z")
_SERVER_FINAL = re.compile(r"([ve])=([^,]+)(?:,.*)?\Z")


class LoginBroken(PeerError):
    """The server does not keep to the mechanism; the exchange is to be given up."""

    def __init__(self, happened: str) -> None:
        super().__init__("logging in", happened, "another mechanism or a later attempt")


class ServerForged(LoginBroken):
    """The server does not know the password or does not end this TLS connection: somebody is in between."""


class LoginRejected(LoginBroken):
    """The server says within SCRAM why it refuses (RFC 5802 7); `word` is its server-error-value."""

    def __init__(self, word: str) -> None:
        super().__init__(f"the server refuses the login: {word}")
        self.word = word


@dataclass(frozen=True, slots=True)
class Credentials:
    """As whom to log in; the password is never shown."""

    username: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        for what, text in (("the user name", self.username), ("the password", self.password)):
            if not text or "\0" in text:
                raise ConfigurationError(
                    f"reading {what} of a login", "it is empty or has a NUL", "correct it"
                )


@dataclass(frozen=True, slots=True)
class Binding:
    """What ties an exchange to one TLS connection: type of RFC 5929 or RFC 9266, and its data."""

    kind: str
    data: bytes = field(repr=False)


class Mechanism(ABC):
    """One exchange under way."""

    name: str
    slow = False  # whether `answer` computes for long

    @property
    def unanswered(self) -> bool:
        """Whether a refusal now is one of the way to log in: the server has not seen a proof yet."""
        return False

    @property
    @abstractmethod
    def proven(self) -> bool:
        """Whether a positive reply of the server may be believed now."""

    @property
    def initial(self) -> bytes | None:
        """The initial response; None where the server speaks first."""
        return None

    @abstractmethod
    def begun(self) -> None:
        """The initial response goes with the command."""

    @abstractmethod
    def answer(self, challenge: bytes) -> bytes:
        """What to say to a challenge. Raises LoginBroken."""


class Plain(Mechanism):
    """RFC 4616."""

    name = "PLAIN"

    def __init__(self, credentials: Credentials) -> None:
        self._message = f"\0{credentials.username}\0{credentials.password}".encode()
        self._said = False

    @property
    def proven(self) -> bool:
        """The server has nothing to prove; it must have got what it judges."""
        return self._said

    @property
    def initial(self) -> bytes | None:
        """Everything."""
        return self._message

    def begun(self) -> None:
        """Nothing is left to say."""
        self._said = True

    def answer(self, challenge: bytes) -> bytes:
        """Everything, where it could not go with the command."""
        if challenge or self._said:
            raise LoginBroken("a challenge that PLAIN does not have")
        self._said = True
        return self._message


class Login(Mechanism):
    """LOGIN (draft-murchison-sasl-login): the server asks for the name and for the password."""

    name = "LOGIN"

    def __init__(self, credentials: Credentials) -> None:
        self._answers = [credentials.username.encode(), credentials.password.encode()]

    @property
    def proven(self) -> bool:
        """The server has nothing to prove; it must have got what it judges."""
        return not self._answers

    def begun(self) -> None:
        """Nothing goes with the command."""

    def answer(self, challenge: bytes) -> bytes:
        """The name, then the password, whatever the prompts say."""
        if not self._answers:
            raise LoginBroken("a third challenge of LOGIN")
        return self._answers.pop(0)


class Scram(Mechanism):
    """RFC 5802 with SHA-256 (RFC 7677). `nonce`: printable ASCII without commas, never used before.

    `binding` makes it the -PLUS mechanism; `could_bind` says that we would have bound and the server does not
    offer it, so that a server which does can tell that somebody took its offer away (RFC 5802 6).
    """

    slow = True

    def __init__(
        self,
        credentials: Credentials,
        nonce: str,
        binding: Binding | None = None,
        *,
        could_bind: bool = False,
    ) -> None:
        self.name = SCRAM if binding is None else SCRAM_PLUS
        self.binding = binding
        self._password = _prepared(credentials.password, "the password").encode()
        name = _prepared(credentials.username, "the user name").replace("=", "=3D").replace(",", "=2C")
        self._header = (f"p={binding.kind},," if binding else "y,," if could_bind else "n,,").encode()
        self._nonce = nonce
        self._first = f"n={name},r={nonce}"
        self._begun = False
        self._signature: bytes | None = None
        self._proven = False

    @property
    def unanswered(self) -> bool:
        """For -PLUS, until the server has said its first word: it may not know the binding."""
        return self.binding is not None and self._signature is None

    @property
    def proven(self) -> bool:
        """Whether the server has shown that it knows the password."""
        return self._proven

    @property
    def initial(self) -> bytes | None:
        """client-first-message."""
        return self._header + self._first.encode()

    def begun(self) -> None:
        """The server has client-first-message."""
        self._begun = True

    def answer(self, challenge: bytes) -> bytes:
        """client-final-message to server-first-message, and nothing to server-final-message."""
        if not self._begun:
            if challenge:
                raise LoginBroken("a challenge before our first message of SCRAM")
            self._begun = True
            return self._header + self._first.encode()
        if self._proven:
            raise LoginBroken("a challenge after the end of SCRAM")
        try:
            text = challenge.decode("utf-8")
        except UnicodeDecodeError:
            raise LoginBroken("a challenge of SCRAM that is not text") from None
        if self._signature is None:
            return self._final(text)
        self._check(text)
        return b""

    def _final(self, server_first: str) -> bytes:
        found = _SERVER_FIRST.match(server_first)
        if not found:
            self._refused(server_first)
            raise LoginBroken("a first message of SCRAM that cannot be understood")
        nonce, iterations = found[1], int(found[3])
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise LoginBroken("a nonce of SCRAM that does not begin with ours")
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            allowed = f"{MIN_ITERATIONS} to {MAX_ITERATIONS}"
            raise LoginBroken(f"an iteration count of {iterations} (allowed: {allowed})")
        salt = _decoded(found[2])
        if not 0 < len(salt) <= MAX_SALT:
            raise LoginBroken("a salt of SCRAM without sense")
        bound = self._header + (self.binding.data if self.binding else b"")
        without_proof = f"c={b64encode(bound).decode()},r={nonce}"
        signed = f"{self._first},{server_first},{without_proof}".encode()
        salted = hashlib.pbkdf2_hmac("sha256", self._password, salt, iterations)
        client_key = _hmac(salted, b"Client Key")
        proof = bytes(
            a ^ b for a, b in zip(client_key, _hmac(hashlib.sha256(client_key).digest(), signed), strict=True)
        )
        self._signature = _hmac(_hmac(salted, b"Server Key"), signed)
        return f"{without_proof},p={b64encode(proof).decode()}".encode()

    def _check(self, server_final: str) -> None:
        self._refused(server_final)
        found = _SERVER_FINAL.match(server_final)
        if not found or self._signature is None:
            raise LoginBroken("a final message of SCRAM that cannot be understood")
        if not hmac.compare_digest(_decoded(found[2]), self._signature):
            raise ServerForged("the server's signature is wrong: it does not know the password")
        self._proven = True

    def _refused(self, text: str) -> None:
        found = _SERVER_FINAL.match(text)
        if found and found[1] == "e":
            raise LoginRejected(found[2][:80])


def candidates(
    wanted: Sequence[str],
    offered: Sequence[str],
    credentials: Credentials,
    bindings: Sequence[Binding],
    nonces: Iterator[str],
) -> Iterator[Mechanism]:
    """The mechanisms to try, in the order of `wanted` (lower case), each with a nonce of its own.

    `bindings` are what this TLS connection has, the best first; without any there is no -PLUS. Raises
    ConfigurationError for a name or password that SCRAM cannot use.
    """
    could_bind = bool(bindings) and SCRAM_PLUS.lower() in wanted and SCRAM_PLUS not in offered
    for word in wanted:
        name = word.upper()
        if name not in offered:
            continue
        if name == SCRAM_PLUS:
            yield from (Scram(credentials, next(nonces), binding) for binding in bindings)
        elif name == SCRAM:
            yield Scram(credentials, next(nonces), could_bind=could_bind)
        elif name == "PLAIN":
            yield Plain(credentials)
        elif name == "LOGIN":
            yield Login(credentials)


def challenge_of(reply: Reply) -> bytes:
    """The octets of a 334 reply (RFC 4954 4). Raises LoginBroken for what is not base64."""
    if reply.code != 334 or len(reply.lines) != 1:
        raise LoginBroken("an answer to AUTH that is no challenge")
    return _decoded(reply.lines[0].strip())


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise LoginBroken("a challenge that is not base64") from None


def _prepared(text: str, what: str) -> str:
    try:
        return saslprep(text)
    except ValueError as error:
        raise ConfigurationError(f"preparing {what} of a login", str(error), "choose another one") from None


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()
