"""One SMTP conversation, server side: replies, overrides, and the rules that the client must keep.

Rules are those of RFC 5321 4.1, 4.5.3.1, RFC 2920 3.1 (what may be pipelined), RFC 3207 4.2 (what STARTTLS
forgets), RFC 1870 (SIZE) and RFC 6152 (8BITMIME). Broken ones are noted in the server's `violations`; the
dialogue goes on as a real server's would.
"""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from tests.internet.accounts import Accounts, Exchange
from tests.internet.behaviour import Action, Behaviour, Delay, Drop, Held, Point, Silence, settled_reply
from tests.internet.received import Command, Connection, ReceivedMessage
from tests.internet.wire import Closed, TooLong, Wire

if TYPE_CHECKING:
    from tests.internet.smtpd import SmtpServer

_LINE_LIMIT = {"MAIL": 1024, "RCPT": 1024}  # octets; the extensions raise the 512 of RFC 5321 4.5.3.1.4
_LAST_IN_GROUP = frozenset({"EHLO", "HELO", "STARTTLS", "AUTH", "DATA", "NOOP", "QUIT"})  # RFC 2920 3.1
_PATH = re.compile(r"(FROM|TO):<([^<>\s]*)>((?: [A-Za-z0-9-]+(?:=[^\s=]+)?)*)\Z", re.IGNORECASE)
_BARE = ((rb"(?<!\r)\n", "bare LF"), (rb"\r(?!\n)", "bare CR"), (rb"\x00", "NUL"))
_EXTENSION_OF = {
    "SIZE": "SIZE", "BODY": "8BITMIME", "SMTPUTF8": "SMTPUTF8", "RET": "DSN", "ENVID": "DSN", "AUTH": "AUTH",
    "NOTIFY": "DSN", "ORCPT": "DSN", "REQUIRETLS": "REQUIRETLS",
}  # fmt: skip


class _Over(Exception):
    """The server has ended the conversation."""


@dataclass(slots=True)
class _Mail:
    """The transaction under way."""

    sender: str
    parameters: tuple[str, ...]
    recipients: list[str] = field(default_factory=list)
    rcpt_parameters: list[tuple[str, ...]] = field(default_factory=list)
    pipelined: bool = False

    def parameter(self, keyword: str) -> str | None:
        for parameter in self.parameters:
            name, _, value = parameter.partition("=")
            if name.upper() == keyword:
                return value
        return None


class Dialogue:
    """Runs one connection to its end."""

    def __init__(self, server: SmtpServer, wire: Wire, connection: Connection, behaviour: Behaviour) -> None:
        self._server = server
        self._wire = wire
        self._connection = connection
        self._behaviour = behaviour
        self._helo: str | None = None
        self._offered: tuple[str, ...] = ()
        self._mail: _Mail | None = None
        self._logged_in = False
        self._last_verb = ""  # DOT after a content
        self._refused: str | None = None  # the verb that was refused, until the client's next flight

    async def run(self) -> None:
        """Converse until one side ends it; how it ended is in the connection."""
        try:
            await self._greet()
            while await self._command():
                pass
            self._connection.ended = "quit"
        except _Over:
            self._connection.ended = "dropped"
        except Closed:
            self._connection.ended = "closed"
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._connection.ended = "broken"
        except TooLong:
            self._violation("a command line without an end")
            await self._wire.drop(reset=False)
            self._connection.ended = "dropped"

    def _violation(self, text: str) -> None:
        self._server.violations.append(f"{self._server.name}: {text}")

    async def _greet(self) -> None:
        if self._wire.waiting():
            self._violation("octets before the greeting")
        code = await self._say(Point.CONNECT, f"220 {self._server.name} ESMTP")
        if code != 220:
            self._refused = "CONNECT"

    async def _command(self) -> bool:
        """One command; False after QUIT."""
        raw, pipelined = await self._wire.line()
        verb, argument = self._parse(raw)
        self._connection.commands.append(Command(verb, argument, pipelined, self._wire.tls))
        self._check_flight(verb, pipelined)
        match verb:
            case "EHLO" | "HELO":
                await self._hello(verb, argument)
            case "STARTTLS":
                await self._starttls(argument)
            case "AUTH":
                await self._auth(argument)
            case "MAIL":
                await self._mail_from(argument, pipelined)
            case "RCPT":
                await self._rcpt_to(argument, pipelined)
            case "DATA":
                await self._data(argument)
            case "RSET":
                self._mail = None
                await self._say(Point.RSET, "250 2.0.0 Reset")
            case "NOOP":
                await self._say(Point.NOOP, "250 2.0.0 OK")
            case "QUIT":
                await self._say(Point.QUIT, f"221 2.0.0 {self._server.name} closing")
                return False
            case _:
                self._violation(f"unknown command {verb[:40]!r}")
                await self._send("500 5.5.1 Command unknown")
        return True

    def _parse(self, raw: bytes) -> tuple[str, str]:
        if not raw.endswith(b"\r\n"):
            self._violation("a command line ended by a bare LF")
        line = raw.rstrip(b"\r\n")
        if b"\r" in line or b"\x00" in line:
            self._violation("CR or NUL inside a command line")
        if not line.isascii() and self._keyword("SMTPUTF8") is None:
            self._violation("a command line that is not ASCII")
        verb, _, argument = line.decode("utf-8", "replace").partition(" ")
        verb = verb.upper()
        if len(raw) > _LINE_LIMIT.get(verb, 512):
            self._violation(f"a {verb[:40]} line of {len(raw)} octets")
        return verb, argument

    def _check_flight(self, verb: str, pipelined: bool) -> None:
        """Rules on what may follow what before a reply (RFC 2920 3.1) and after a refusal."""
        before, self._last_verb = self._last_verb, verb
        if pipelined and before:
            if "PIPELINING" not in self._offered:
                self._violation(f"{verb} sent before the reply to {before}, PIPELINING not offered")
            elif before in _LAST_IN_GROUP:
                self._violation(f"{verb} pipelined after {before}")
        elif not pipelined:
            if self._refused == "CONNECT" and verb != "QUIT":
                self._violation(f"{verb} after a greeting that refused")
            elif self._refused == "MAIL" and verb in ("RCPT", "DATA"):
                self._violation(f"{verb} after MAIL was refused")
            elif verb == "DATA" and self._mail is not None and not self._mail.recipients:
                self._violation("DATA after every RCPT was refused")
            if self._refused != "CONNECT":
                self._refused = None

    async def _hello(self, verb: str, argument: str) -> None:
        if not argument or " " in argument:
            self._violation(f"{verb} without one domain")
        self._mail = None
        offered = self._behaviour.offered(tls=self._wire.tls, can_tls=self._server.context is not None)
        lines = (f"{self._server.name} greets {argument}", *(offered if verb == "EHLO" else ()))
        reply = "\n".join(f"250-{line}" for line in lines[:-1]) + f"\n250 {lines[-1]}"
        point = Point.EHLO_TLS if verb == "EHLO" and self._wire.tls else Point(verb)
        action, text = self._decide(point, reply.strip(), argument)
        keywords = tuple(line[4:].strip().upper() for line in (text or "").split("\n")[1:])
        code = await self._act(action, reply.strip(), last=True)
        self._helo, self._offered = (argument, keywords) if code == 250 else (None, ())

    async def _starttls(self, argument: str) -> None:
        if argument:
            self._violation("STARTTLS with a parameter")
        if self._wire.tls or self._server.context is None or "STARTTLS" not in self._offered:
            self._violation("STARTTLS where it was not offered")
            await self._send("502 5.5.1 STARTTLS is not offered")
            return
        context = self._server.context
        code = await self._say(Point.STARTTLS, "220 2.0.0 Ready to start TLS", last=True)
        if code != 220:
            return
        self._wire.discard()
        await self._act(self._server.override(self._behaviour, Point.HANDSHAKE, ""), "")
        try:
            self._connection.tls = await self._wire.start_tls(context)
        except trio.BrokenResourceError as error:
            self._connection.tls_error = str(error.__cause__ or error)
            raise
        self._helo, self._offered, self._mail = None, (), None  # RFC 3207 4.2

    async def _auth(self, argument: str) -> None:
        if self._keyword("AUTH") is None or self._logged_in or self._mail is not None:
            self._violation("AUTH where it is not expected")
        mechanism, _, initial = argument.partition(" ")
        exchange = Exchange(mechanism, self._behaviour.accounts or Accounts({}))
        response = (b"" if initial == "=" else b64decode(initial, validate=True)) if initial else None
        point, code = Point.AUTH, 334
        while code == 334:
            code = await self._say(point, exchange.step(response), argument, last=True)
            if code == 334:
                raw, _ = await self._wire.line()
                self._connection.commands.append(Command("(response)", raw.decode(), False, self._wire.tls))
                if raw == b"*\r\n":
                    await self._send("501 5.7.0 Cancelled")
                    return
                response, point = b64decode(raw.strip(), validate=True), Point.RESPONSE
        self._logged_in = code == 235

    async def _mail_from(self, argument: str, pipelined: bool) -> None:
        path = _PATH.match(argument)
        if path is None or path[1].upper() != "FROM":
            self._violation(f"MAIL is malformed: {argument[:80]!r}")
            await self._send("501 5.5.4 Syntax")
            return
        if self._helo is None or self._mail is not None:
            self._violation("MAIL inside a transaction" if self._helo else "MAIL before EHLO")
            await self._send("503 5.5.1 Bad sequence")
            return
        parameters = tuple(path[3].split())
        for parameter in parameters:
            extension = _EXTENSION_OF.get(parameter.partition("=")[0].upper())
            if extension is None or self._keyword(extension) is None:
                self._violation(f"MAIL parameter {parameter} where its extension was not offered")
        mail = _Mail(path[2], parameters, pipelined=pipelined)
        declared, limit = mail.parameter("SIZE"), self._keyword("SIZE")
        ordinary = "250 2.1.0 Sender OK"
        if declared and limit and 0 < int(limit) < int(declared):
            self._violation(f"MAIL with SIZE={declared} where {limit} is the limit")
            ordinary = "552 5.3.4 Too big"
        if await self._say(Point.MAIL, ordinary, argument) // 100 == 2:
            self._mail = mail
        else:
            self._refused = "MAIL"

    async def _rcpt_to(self, argument: str, pipelined: bool) -> None:
        path = _PATH.match(argument)
        if path is None or path[1].upper() != "TO" or not path[2]:
            self._violation(f"RCPT is malformed: {argument[:80]!r}")
            await self._send("501 5.5.4 Syntax")
            return
        if self._mail is None:
            if not pipelined and self._refused is None:
                self._violation("RCPT without MAIL")
            await self._send("503 5.5.1 No transaction")
            return
        for parameter in path[3].split():
            extension = _EXTENSION_OF.get(parameter.partition("=")[0].upper())
            if extension is None or self._keyword(extension) is None:
                self._violation(f"RCPT parameter {parameter} where its extension was not offered")
        if not path[2].isascii() and self._mail.parameter("SMTPUTF8") is None:
            self._violation("a recipient outside ASCII without SMTPUTF8")
        self._mail.pipelined |= pipelined
        if await self._say(Point.RCPT, "250 2.1.5 Recipient OK", argument) // 100 == 2:
            self._mail.recipients.append(path[2])
            self._mail.rcpt_parameters.append(tuple(path[3].split()))

    async def _data(self, argument: str) -> None:
        if argument:
            self._violation("DATA with a parameter")
        if self._mail is None or not self._mail.recipients:
            self._mail = None
            await self._send("554 5.5.1 No valid recipients")
            return
        if await self._say(Point.DATA, "354 Go ahead", last=True) != 354:
            self._mail = None
            return
        await self._act(self._server.override(self._behaviour, Point.CONTENT, ""), "")
        content = await self._content()
        self._check_content(content, self._mail)
        unstuffed = re.sub(rb"(\A|\r\n)\.", rb"\1", content)
        await self._finish(unstuffed, self._mail)
        self._mail = None

    async def _content(self) -> bytes:
        action = self._server.override(self._behaviour, Point.BODY, "")
        octets = action.octets if isinstance(action, Drop) else 1
        try:
            content = await self._wire.content(None if action is None else octets)
        except Closed as error:
            self._connection.incomplete = error.args[0]
            raise
        if isinstance(content, int):
            self._connection.incomplete = content
            await self._act(action, "")
            raise AssertionError("an override at BODY ends the connection")
        return content

    def _check_content(self, content: bytes, mail: _Mail) -> None:
        for pattern, what in _BARE:
            if re.search(pattern, content):
                self._violation(f"{what} in the content")
        if re.search(rb"(?:\A|\r\n)\.(?!\.)", content):
            self._violation("a content line that begins with a single dot")
        if not content.isascii() and (mail.parameter("BODY") or "").upper() != "8BITMIME":
            self._violation("8-bit content without BODY=8BITMIME")

    async def _finish(self, content: bytes, mail: _Mail) -> None:
        declared, limit = mail.parameter("SIZE"), self._keyword("SIZE")
        if declared and len(content) > int(declared):
            self._violation(f"{len(content)} octets of content, SIZE={declared} was declared")
        ordinary = f"250 2.0.0 Accepted as {len(self._server.received) + 1}"
        if limit and 0 < int(limit) < len(content):
            ordinary = "552 5.3.4 Too big"
        action, reply = self._decide(Point.DOT, ordinary)
        # Kept before the reply leaves: a client that reads it may look at once.
        self._server.received.append(
            ReceivedMessage(
                sender=mail.sender,
                mail_parameters=mail.parameters,
                recipients=tuple(mail.recipients),
                rcpt_parameters=tuple(mail.rcpt_parameters),
                content=content,
                reply=reply,
                helo=self._helo or "",
                tls=self._connection.tls,
                pipelined=mail.pipelined,
            )
        )
        self._server.changed()
        self._last_verb = "DOT"  # the next command may ride with the content (RFC 2920 4)
        await self._act(action, ordinary)

    def _keyword(self, keyword: str) -> str | None:
        """The parameter of a keyword that was offered, empty for none; None when it was not offered."""
        for line in self._offered:
            name, _, parameter = line.partition(" ")
            if name == keyword:
                return parameter
        return None

    async def _say(self, point: Point, ordinary: str, argument: str = "", *, last: bool = False) -> int:
        return await self._act(self._decide(point, ordinary, argument)[0], ordinary, last=last)

    def _decide(self, point: Point, ordinary: str, argument: str = "") -> tuple[Action | None, str | None]:
        action = self._server.override(self._behaviour, point, argument)
        return action, settled_reply(action, ordinary)

    async def _act(self, action: Action | None, ordinary: str, *, last: bool = False) -> int:
        """Do it and return the code of the reply, 0 if it has none. `last`: nothing may be waiting before it."""
        while isinstance(action, Delay | Held):
            if isinstance(action, Delay):
                await trio.sleep(action.seconds)
            else:
                await action.gate.passed()
            action = action.then
        if ordinary:
            self._check_waiting(last)
        match action:
            case Silence():
                await self._wire.until_closed()
            case Drop(reply=reply, reset=reset):
                if reply is not None:
                    await self._send(reply)
                await self._wire.drop(reset=reset)
                raise _Over
            case None if not ordinary:
                return 0
        assert action is None or isinstance(action, str | bytes)
        return await self._send(ordinary if action is None else action)

    def _check_waiting(self, last: bool) -> None:
        waiting = self._wire.waiting()
        pipelining = "PIPELINING" in self._offered
        # A client that lost patience may say QUIT at any time.
        if waiting and (last or not pipelining) and not waiting.upper().startswith(b"QUIT"):
            self._violation(f"octets before the reply to {self._last_verb or 'nothing yet'}")

    async def _send(self, reply: str | bytes) -> int:
        octets = reply if isinstance(reply, bytes) else (reply.replace("\n", "\r\n") + "\r\n").encode()
        if self._behaviour.octet_by_octet:
            for octet in octets:
                await self._wire.send(bytes([octet]))
        elif octets:
            await self._wire.send(octets)
        return int(octets[:3]) if octets[:3].isdigit() else 0
