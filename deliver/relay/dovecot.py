"""Dovecot's authentication protocol, version 1, without I/O: the side that asks (auth-client).

    Dovecot                                     we
    ------------------------------------------  ------------------------------------------------------------
    VERSION 1 n, MECH …, SPID, CUID, COOKIE,    VERSION 1 0, CPID
      DONE                                      AUTH 1 mechanism service=smtp secured … resp=base64
    CONT 1 base64                               CONT 1 base64
    OK 1 user=name … / FAIL 1 …                 the exchange is over

Lines end with LF, fields are separated by TAB; a value may have escapes that begin with the octet 1. One
connection serves one exchange. What Dovecot says is bounded; whatever is not the next step raises
DovecotBroken, and the exchange then is no login.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field

from deliver.errors import PeerError
from deliver.smtp.saslserver import MAX_NAME

MAX_LINE = 16 * 1024  # octets; a challenge may be as long as SMTP's lines for AUTH (RFC 4954 4)
MAX_GREETING = 200  # lines up to DONE
REQUEST = b"1"  # the number of our only request

_WORD = re.compile(r"[A-Z0-9][A-Z0-9_-]{0,19}\Z")  # RFC 4422 3.1
_ESCAPES = {"0": "\0", "1": "\1", "t": "\t", "r": "\r", "n": "\n"}
_ESCAPED = re.compile("\1(.?)", re.DOTALL)


class DovecotBroken(PeerError):
    """Dovecot does not keep to the protocol, or cannot serve us."""

    def __init__(self, happened: str) -> None:
        super().__init__("asking Dovecot", happened, "see Dovecot's log and relay.auth.dovecot")


@dataclass(frozen=True, slots=True)
class Greeted:
    """What Dovecot offers, in upper case."""

    mechanisms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Continue:
    """Say this to the client."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Granted:
    """The client is `username`."""

    username: str


@dataclass(frozen=True, slots=True)
class Denied:
    """It is not; `temporary`: nobody can tell now. `username` as Dovecot understood it, or empty."""

    username: str
    temporary: bool


Answer = Greeted | Continue | Granted | Denied


@dataclass(frozen=True, slots=True)
class Caller:
    """What Dovecot is told of the client: IP addresses (or "") and ports (or 0) of both ends."""

    remote: str
    remote_port: int
    local: str
    local_port: int
    certificate: bool = False  # the client has shown a valid one


class DovecotMachine:
    """One connection to the socket auth-client. `process` is our process number."""

    def __init__(self, process: int) -> None:
        self._buffer = b""
        self._lines = 0
        self._mechanisms: list[str] = []
        self._version = False
        self._greeted = False
        self._waiting = False
        self._over = False
        self.hello = b"VERSION\t1\t0\nCPID\t%d\n" % process

    def begin(self, mechanism: str, caller: Caller, response: bytes | None) -> bytes:
        """What to send for a new exchange; raises DovecotBroken if Dovecot does not have the mechanism."""
        assert self._greeted, "not before the greeting"
        if mechanism not in self._mechanisms:
            raise DovecotBroken(f"it does not offer {mechanism}")
        self._waiting = True
        fields = [b"AUTH", REQUEST, mechanism.encode("ascii"), b"service=smtp", b"secured"]
        if caller.certificate:
            fields.append(b"valid-client-cert")
        fields += [
            b"%s=%s" % (key, value.encode("ascii"))
            for key, value in (
                (b"lip", caller.local),
                (b"rip", caller.remote),
                (b"lport", str(caller.local_port or "")),
                (b"rport", str(caller.remote_port or "")),
            )
            if value and value.isascii() and not set(value) & {"\t", "\n", "\r", "\0", "\1"}
        ]
        fields.append(b"nologin")
        if response is not None:
            fields.append(b"resp=" + b64encode(response))  # the last one, always
        return b"\t".join(fields) + b"\n"

    def go_on(self, response: bytes) -> bytes:
        """What to send as the answer to a Continue."""
        assert not self._over, "the exchange is over"
        self._waiting = True
        return b"CONT\t%s\t%s\n" % (REQUEST, b64encode(response))

    def receive(self, data: bytes) -> Answer | None:
        """Take octets from Dovecot; None: more are needed. Raises DovecotBroken."""
        if not data:
            raise DovecotBroken("it closed the connection")
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            if end > MAX_LINE:
                break
            line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
            answer = self._read(line.decode("utf-8", "replace").split("\t"))
            if answer is not None:
                return answer
        if len(self._buffer) > MAX_LINE:
            raise DovecotBroken("it sent a line without an end")
        return None

    def _read(self, fields: list[str]) -> Answer | None:
        if not self._greeted:
            return self._read_greeting(fields)
        if fields[0] not in ("OK", "FAIL", "CONT"):
            return None
        if not self._waiting or self._over or fields[1:2] != [REQUEST.decode()]:
            raise DovecotBroken("it answered what was not asked")
        self._waiting = False
        if fields[0] == "CONT":
            return Continue(_decoded(fields[2] if len(fields) > 2 else ""))
        self._over = True
        return self._verdict(fields[0] == "OK", fields[2:])

    def _read_greeting(self, fields: list[str]) -> Greeted | None:
        self._lines += 1
        if self._lines > MAX_GREETING:
            raise DovecotBroken("its greeting has no end")
        word, arguments = fields[0], fields[1:]
        if word == "VERSION":
            if arguments[:1] != ["1"]:
                raise DovecotBroken("it speaks another version of the protocol")
            self._version = True
        elif word == "SPID" and not self._mechanisms:
            raise DovecotBroken("this is not the socket auth-client")
        elif word == "MECH" and arguments and _WORD.match(arguments[0].upper()):
            self._mechanisms.append(arguments[0].upper())
        elif word == "DONE":
            if not self._version:
                raise DovecotBroken("its greeting has no version")
            self._greeted = True
            return Greeted(tuple(self._mechanisms))
        return None

    def _verdict(self, ok: bool, fields: list[str]) -> Granted | Denied:
        values = {key: _unescaped(value) for key, _, value in (each.partition("=") for each in fields)}
        username = values.get("user", "")
        sound = 0 < len(username.encode()) <= MAX_NAME and username.isprintable()
        if not ok:
            temporary = "temp" in values or values.get("code") == "temp_fail"
            return Denied(username if sound else "", temporary)
        if not sound:
            raise DovecotBroken("it does not say who has logged in")
        return Granted(username)


def _unescaped(value: str) -> str:
    return _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], ""), value)


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise DovecotBroken("a challenge that is not base64") from None
