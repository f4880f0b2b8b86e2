"""Logging in at a scripted server: the server's half of PLAIN, LOGIN and SCRAM (RFC 4616, 5802, 7677, 5929).

Written from the RFCs on its own, so that it can find the client wrong.
"""

from __future__ import annotations

import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import pbkdf2_hmac, sha256

REFUSED = "535 5.7.8 Authentication credentials invalid"
ACCEPTED = "235 2.7.0 Authentication succeeded"


@dataclass(frozen=True, slots=True)
class Accounts:
    """Passwords by user name. `end_point` is the digest of the server's certificate; `plus`: it is offered."""

    passwords: Mapping[str, str]
    iterations: int = 4096
    end_point: bytes | None = None
    plus: bool = False
    proof: bytes = b""  # xored onto the server's signature: a server that does not know the password


class Exchange:
    """`step(response)` gives the next reply; None stands for a command without initial response."""

    def __init__(self, mechanism: str, accounts: Accounts) -> None:
        self._accounts = accounts
        self._said: list[str] = []
        self.user: str | None = None
        self.step = {
            "PLAIN": self._plain,
            "LOGIN": self._login,
            "SCRAM-SHA-256": self._scram,
            "SCRAM-SHA-256-PLUS": self._scram_plus,
        }.get(mechanism.upper(), self._unknown)

    def _unknown(self, response: bytes | None) -> str:
        return "504 5.5.4 Unrecognised authentication mechanism"

    def _plain(self, response: bytes | None) -> str:
        if response is None:
            return "334 "
        parts = response.decode().split("\0")
        if len(parts) != 3 or parts[0]:
            return "501 5.5.2 Malformed"
        return self._judge(parts[1], parts[2])

    def _login(self, response: bytes | None) -> str:
        if response is None:
            return challenge(b"Username:")
        self._said.append(response.decode())
        return challenge(b"Password:") if len(self._said) == 1 else self._judge(*self._said)

    def _judge(self, user: str, password: str) -> str:
        if self._accounts.passwords.get(user) != password:
            return REFUSED
        self.user = user
        return ACCEPTED

    def _scram_plus(self, response: bytes | None) -> str:
        return self._scram(response, plus=True)

    def _scram(self, response: bytes | None, *, plus: bool = False) -> str:
        if response is None:
            return "334 "
        if not self._said:
            return self._first(response.decode(), plus)
        if self.user is None:
            return self._final(response.decode())
        return ACCEPTED if response == b"" else "501 5.5.2 Expected an empty response"

    def _first(self, text: str, plus: bool) -> str:
        flag, authorisation, bare = text.split(",", 2)
        if authorisation or plus != flag.startswith("p="):
            return "501 5.5.2 Malformed"
        if flag == "y" and self._accounts.plus:
            return REFUSED  # somebody took our offer away (RFC 5802 6)
        if plus and flag != "p=tls-server-end-point":
            return challenge(b"e=unsupported-channel-binding-type")
        fields = dict(field.split("=", 1) for field in bare.split(","))
        self._name = fields["n"].replace("=2C", ",").replace("=3D", "=")
        self._salt, self._nonce = os.urandom(16), fields["r"] + b64encode(os.urandom(18)).decode()
        server_first = f"r={self._nonce},s={b64encode(self._salt).decode()},i={self._accounts.iterations}"
        bound = f"{flag},,".encode() + ((self._accounts.end_point or b"") if plus else b"")
        self._said = [bare, server_first, b64encode(bound).decode()]
        return challenge(server_first.encode())

    def _final(self, text: str) -> str:
        without_proof, _, proof = text.rpartition(",p=")
        fields = dict(field.split("=", 1) for field in without_proof.split(","))
        password = self._accounts.passwords.get(self._name)
        if password is None or fields["r"] != self._nonce:
            return REFUSED
        if fields["c"] != self._said[2]:
            return challenge(b"e=channel-bindings-dont-match")
        signed = f"{self._said[0]},{self._said[1]},{without_proof}".encode()
        salted = pbkdf2_hmac("sha256", password.encode(), self._salt, self._accounts.iterations)
        stored = sha256(_mac(salted, b"Client Key")).digest()
        client_key = _xor(b64decode(proof), _mac(stored, signed))
        if sha256(client_key).digest() != stored:
            return REFUSED
        self.user = self._name
        signature = _mac(_mac(salted, b"Server Key"), signed)
        return challenge(b"v=" + b64encode(_xor(signature, self._accounts.proof or bytes(32))))


def challenge(octets: bytes) -> str:
    """A 334 reply."""
    return f"334 {b64encode(octets).decode()}"


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, sha256).digest()


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
