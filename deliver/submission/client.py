"""The relay's SMTP for one message: every recipient is taken, or nothing is sent. The standard library only.

A program that gets an exit status other than 0 may try again without anybody having got a copy; except where
the relay went away between the end of the text and its answer, which no client can know.
"""

from __future__ import annotations

import contextlib
import re
import socket
from typing import NamedTuple

CONNECTING = 10.0  # seconds
WAITING = 300.0  # seconds for one reply (RFC 5321 4.5.3.2)
MAX_REPLY = 64 * 1024  # octets

EX_DATAERR, EX_UNAVAILABLE, EX_TEMPFAIL = 65, 69, 75

_LINE = re.compile(rb"([2-5][0-9][0-9])([ -]|\Z)")


class Refused(Exception):
    """Nothing was sent; `status` as in sysexits.h."""

    def __init__(self, why: str, status: int) -> None:
        super().__init__(why)
        self.status = status


class Unreachable(Refused):
    """There is no relay at this moment."""


class Message(NamedTuple):
    """What is submitted. `content` has CRLF line ends; addresses as they go between angle brackets.

    `utf8_header`: its header is in UTF-8, and only servers that know what that is may get it.
    """

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    notify: str = ""
    ret: str = ""
    envid: str = ""
    utf8_header: bool = False

    @property
    def internationalised(self) -> bool:
        """Whether an address or the header needs SMTPUTF8."""
        return self.utf8_header or not "".join((self.sender, *self.recipients)).isascii()


def connect(place: tuple[str, int]) -> socket.socket:
    """A connection to the relay. Raises Unreachable."""
    try:
        connection = socket.create_connection(place, CONNECTING)
    except OSError as error:
        why = f"the relay at {place[0]}:{place[1]} cannot be reached: {error}"
        raise Unreachable(why, EX_TEMPFAIL) from None
    connection.settimeout(WAITING)
    return connection


def submit(place: tuple[str, int], helo: str, message: Message) -> str:
    """Hand it to the relay; what it said at the end. Raises Refused."""
    with connect(place) as connection:
        try:
            return _Dialogue(connection).run(helo, message)
        except OSError as error:
            raise Refused(f"the relay went away: {error}", EX_TEMPFAIL) from None


class _Dialogue:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._input = b""

    def run(self, helo: str, message: Message) -> str:
        self._expect(2, "greeting")
        keywords = self._hello(helo)
        parameters, per_recipient = _parameters(message, keywords)
        self._command(f"MAIL FROM:<{message.sender}>{parameters}", 2)
        for recipient in message.recipients:
            self._command(f"RCPT TO:<{recipient}>{per_recipient}", 2, f"recipient {recipient}")
        self._command("DATA", 3)
        self._connection.sendall(_stuffed(message.content) + b".\r\n")
        said = self._expect(2, "text", EX_DATAERR)
        with contextlib.suppress(OSError):  # the message is the relay's
            self._connection.sendall(b"QUIT\r\n")
        return said

    def _hello(self, helo: str) -> dict[str, str]:
        lines = self._command(f"EHLO {helo}", 2).splitlines()
        words = [line.split(None, 1) for line in lines[1:]]
        return {word[0].upper(): (word[1] if len(word) > 1 else "") for word in words if word}

    def _command(self, line: str, expected: int, what: str = "") -> str:
        self._connection.sendall(f"{line}\r\n".encode())
        return self._expect(expected, what or line.split(":")[0])

    def _expect(self, expected: int, what: str, permanent: int = EX_UNAVAILABLE) -> str:
        code, text = self._reply()
        if code // 100 == expected:
            return text
        status = permanent if code // 100 == 5 else EX_TEMPFAIL
        raise Refused(f"{what}: the relay said {code} {' '.join(text.split())}", status)

    def _reply(self) -> tuple[int, str]:
        texts = []
        total = 0
        while True:
            line = self._line()
            total += len(line)
            found = _LINE.match(line)
            if found is None or total > MAX_REPLY:
                raise Refused("the relay speaks no SMTP", EX_TEMPFAIL)
            texts.append(line[4:].decode("utf-8", "replace"))
            if found[2] != b"-":
                return int(found[1]), "\n".join(texts)

    def _line(self) -> bytes:
        while b"\n" not in self._input:
            data = self._connection.recv(65536)
            if not data:
                raise ConnectionError("it closed the connection")
            self._input += data
            if len(self._input) > MAX_REPLY:
                raise Refused("the relay speaks no SMTP", EX_TEMPFAIL)
        line, _, self._input = self._input.partition(b"\n")
        return line.removesuffix(b"\r")


def _parameters(message: Message, keywords: dict[str, str]) -> tuple[str, str]:
    """Those of MAIL and RCPT. Raises Refused for what the relay cannot carry."""
    found = [f"SIZE={len(message.content)}"] if "SIZE" in keywords else []
    if not message.content.isascii() and "8BITMIME" in keywords:
        found.append("BODY=8BITMIME")
    if message.internationalised:
        if "SMTPUTF8" not in keywords:
            raise Refused("the relay takes no addresses and headers outside ASCII", EX_UNAVAILABLE)
        found.append("SMTPUTF8")
    if "DSN" not in keywords:
        return "".join(f" {one}" for one in found), ""
    found += [f"RET={message.ret}"] if message.ret else []
    found += [f"ENVID={_xtext(message.envid)}"] if message.envid else []
    return "".join(f" {one}" for one in found), f" NOTIFY={message.notify}" if message.notify else ""


def _xtext(text: str) -> str:
    """RFC 3461 4."""
    return "".join(
        chr(octet) if 0x21 <= octet <= 0x7E and octet not in b"+=" else f"+{octet:02X}"
        for octet in text.encode()
    )


def _stuffed(content: bytes) -> bytes:
    """RFC 5321 4.5.2; the content ends in CRLF."""
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if stuffed.startswith(b".") else stuffed
